"""The built-in recipes: found by backbone and method, whole, and holding the published numbers with their sources."""

import re
import tomllib

import pytest

from lpobench import registry
from lpobench.cli import main
from lpobench.data import assets
from lpobench.data.prompt_sets import SETS
from lpobench.draft import RECIPES, built_in_recipes
from lpobench.spec import load_spec

PUBLISHED = (
    *("sd15-lpo", "sd21-lpo", "sdxl-lpo", "sd15-spo", "sdxl-spo"),
    *("sd15-diffusion_dpo", "sdxl-diffusion_dpo", "sdxl-mapo"),
    *("sd15-ddpo", "sd15-d3po", "sd35-flow_grpo", "flux-flow_grpo"),
)
OURS = ("sd3-lpo", "sd35-lpo")
REAL = (*PUBLISHED, *OURS)


@pytest.mark.parametrize("name", built_in_recipes())
def test_a_recipe_is_valid_and_found_by_its_backbone_and_method(name):
    said = []
    spec = load_spec(name)
    backbone, _, method = name.rpartition("-")
    assert load_spec(flags={"backbone": backbone, "method": method}, say=said.append) == spec
    assert said == []
    assert (spec.backbone, spec.method) == (
        registry.get("backbones", backbone)().model_copy(update=dict(spec.backbone)),
        registry.get("methods", method)().model_copy(update=dict(spec.method)),
    )


@pytest.mark.parametrize("name", REAL)
def test_every_value_has_its_source_beside_it(name):
    text = (RECIPES / f"{name}.toml").read_text()
    values = [line for line in text.splitlines() if re.match(r"\w+ = ", line)]
    sources = r"# (config|code|paper|ours|SDXL|Flow-GRPO|as |statistics|out of reach)"
    bare = [line for line in values if not re.search(sources, line)]
    slots = ["name"] * (1 + ("[reward]" in text))  # method and reward
    assert [line.split(" = ")[0] for line in bare if "pickapic" not in line] == slots


@pytest.mark.parametrize("name", REAL)
def test_named_assets_exist(name):
    recipe = tomllib.loads((RECIPES / f"{name}.toml").read_text())
    kinds = {
        recipe["backbone"]["name"]: "model",
        recipe["backbone"].get("vae", "sdxl-vae-fp16-fix"): "model",
        recipe.get("reward", {}).get("weights", "lrm-15"): "reward",
    }
    prompts = {recipe["train"].get("prompts", "prompts-4k"), recipe["eval"]["prompts"]}
    kinds |= dict.fromkeys(prompts, "dataset")
    assert {asset: assets.find(asset).kind for asset in kinds} == kinds
    assert prompts <= SETS.keys()


@pytest.mark.parametrize(
    ("name", "gap", "rank", "rate", "prompts", "rounds", "pairs", "reward"),
    [
        ("sd15-lpo", (0.35, 0.5), 4, 6e-5, 20, 1000, 40, "lrm-15"),
        ("sd21-lpo", (0.35, 0.5), 4, 6e-5, 20, 1000, 40, "lrm-15"),
        ("sdxl-lpo", (0.45, 0.6), 64, 1e-5, 16, 1250, 16, "lrm-xl"),
    ],
)
def test_the_released_configurations(name, gap, rank, rate, prompts, rounds, pairs, reward):
    """Config files of Kwai-Kolors/LPO at 9c2e8b8, on their 4 GPUs: batches per epoch 200, 200 and 250, 5 epochs."""
    spec = load_spec(name)
    method, sampling, lora, train = spec.method, spec.sampling, spec.lora, spec.train
    assert (method.beta, method.min_gap, method.threshold, method.num_candidates) == (500, gap, "std", 4)
    assert (method.ratio_clip, method.timestep_range, method.score_at) == (0.1, (0, 1000), "t")
    assert (sampling.num_steps, sampling.guidance_scale, sampling.rule, sampling.eta) == (20, 5, "ddim", 1)
    assert (lora.rank, lora.alpha, train.learning_rate) == (rank, rank, rate)
    assert (train.weight_decay, train.betas, train.max_grad_norm) == (1e-4, (0.9, 0.999), None)
    assert train.prompts_per_round == prompts
    assert train.epochs * 4000 / train.prompts_per_round == rounds
    assert train.minibatch * train.gradient_accumulation == pairs
    assert train.num_updates >= rounds * prompts * sampling.num_steps / pairs
    assert (train.precision, train.gradient_checkpointing) == ("fp16", name == "sdxl-lpo")
    assert (str(spec.reward.weights), spec.reward.vfe_scale, spec.seed) == (reward, 7.5, 42)
    assert (spec.eval.num_steps, spec.eval.guidance_scale, spec.eval.num_prompts) == (20, 5, 500)


@pytest.mark.parametrize(
    ("name", "candidates", "inner", "gap", "rank", "rate", "prompts", "pairs", "reward"),
    [
        ("sd15-spo", 4, 0, 0.3, 4, 6e-5, 40, 40, "spm-15"),
        ("sdxl-spo", 2, 3, 0.4, 64, 1e-5, 8, 16, "spm-xl"),
    ],
)
def test_the_released_configurations_of_spo(name, candidates, inner, gap, rank, rate, prompts, pairs, reward):
    """SPO's config files, on 4 GPUs, 10 epochs of 4,000 prompts; from step 4 of 20 on."""
    spec = load_spec(name)
    method, lora, train = spec.method, spec.lora, spec.train
    assert (method.beta, method.min_gap, method.threshold) == (10, (gap, gap), "constant")
    assert (method.num_candidates, method.inner_steps, method.ratio_clip) == (candidates, inner, 0.1)
    assert (method.timestep_range, method.score_at) == ((0, 751), "s")
    assert (lora.rank, lora.alpha, train.learning_rate, train.epochs) == (rank, rank, rate, 10)
    assert (train.prompts_per_round, train.minibatch * train.gradient_accumulation) == (prompts, pairs)
    assert train.num_updates >= 10 * 4000 * 16 / pairs  # 16 trained steps at most
    assert (str(spec.reward.weights), spec.reward.clip) == (reward, "pickscore")
    assert spec.reward.training.batch_size == 64


@pytest.mark.parametrize(
    ("name", "steps", "batch", "warmup"), [("sd15-lpo", 4000, 128, 500), ("sdxl-lpo", 8000, 32, 1000)]
)
def test_the_released_training_of_the_reward(name, steps, batch, warmup):
    training = load_spec(name).reward.training
    assert (training.steps, training.batch_size, training.warmup) == (steps, batch, warmup)
    assert (training.learning_rate, training.weight_decay, training.max_grad_norm) == (1e-5, 0.3, 1)
    assert (training.ema_decay, training.mpcf, training.validate_every) == (0, "2", 100)


@pytest.mark.parametrize(
    ("name", "pairs", "rate", "warmup", "updates"),
    [
        ("sd15-diffusion_dpo", 2048, 2.048e-5, 500, 2000),
        ("sdxl-diffusion_dpo", 2048, 2.048e-5, 200, 2000),
        ("sdxl-mapo", 128, 1e-5, 0, 2000),
    ],
)
def test_the_released_configurations_on_data(name, pairs, rate, warmup, updates):
    """Launchers of DiffusionDPO on 16 GPUs and of mapo on 8: all weights, one update a round."""
    spec = load_spec(name)
    train = spec.train
    assert (spec.parameters, spec.reward, train.prompts_per_round) == ("all", None, pairs)
    assert train.minibatch * train.gradient_accumulation == pairs
    assert spec.method.learning_rate(train) == pytest.approx(rate)
    assert (train.warmup_updates, train.num_updates, train.weight_decay) == (warmup, updates, 1e-2)
    assert spec.method.beta == (0.1 if name == "sdxl-mapo" else 5000)


@pytest.mark.parametrize(
    ("name", "paths", "steps", "trained", "updates_a_round"),
    [
        ("sd15-ddpo", 256, 50, 50, 2),
        ("sd35-flow_grpo", 24 * 48, 10, 9, 2),
        ("flux-flow_grpo", 24 * 48, 6, 2, 2),
    ],
)
def test_the_released_configurations_on_paths(name, paths, steps, trained, updates_a_round):
    """Config files of ddpo-pytorch and flow_grpo: paths of a round, steps of a path, those trained on, updates."""
    from lpobench.sampling import RectifiedFlow

    spec = load_spec(name)
    method, train = spec.method, spec.train
    assert method.num_paths * train.prompts_per_round == paths
    assert spec.sampling.num_steps == steps
    assert train.minibatch * train.gradient_accumulation * updates_a_round == paths * trained
    low, high = method.timestep_range
    if name != "sd15-ddpo":
        flux = spec.backbone.name == "flux"
        grid = RectifiedFlow(1.8776, grid="flux") if flux else RectifiedFlow(3.0)
        inside = [low <= t <= high for t in grid.timesteps(steps)[:-1].tolist()]
        assert inside == ([True] * 3 + [False] * 3 if flux else [True] * 9 + [False])


@pytest.mark.parametrize("name", OURS)
def test_flow_recipes_say_that_they_are_ours_and_leave_out_the_last_two_steps(name):
    """SD3's grid ends ..., 266, 150, 9, 0. A step's log ratio grows with 1 / std, which is 0.009 and 0 there."""
    from lpobench.sampling import RectifiedFlow

    assert ", ours: it is not published." in (RECIPES / f"{name}.toml").read_text().splitlines()[0]
    low, high = load_spec(name).method.timestep_range
    starts = RectifiedFlow(3.0).timesteps(20)[:-1].tolist()
    assert [low <= t <= high for t in starts] == [True] * 18 + [False] * 2


@pytest.mark.parametrize("name", REAL)
def test_without_weights_a_run_says_what_supplies_them(name, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("LPOBENCH_ASSETS", raising=False)
    backbone, method = name.split("-")
    command = ["run", "--backbone", backbone, "--method", method, "--out", str(tmp_path / "runs")]
    assert main(command) == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"`lpobench download {backbone}`" in err
    assert main([*command, "--dry-run"]) == 0
    assert f"`lpobench download {backbone}`" in capsys.readouterr().out
