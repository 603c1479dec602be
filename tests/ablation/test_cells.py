"""From an ablation to its cells: what each is, that its command makes it, and what cannot be."""

import json
import shlex
from dataclasses import replace

import pytest

from lpobench.ablation.cells import is_complete, plan
from lpobench.ablation.definition import built_in
from lpobench.ablation.drive import Drive
from lpobench.ablation.options import Options
from lpobench.cli import main
from lpobench.plugin import MissingAsset, UserError


def planned(name, **options):
    return plan(str(name), Options(**options), lambda line: None)


def labels(found):
    return list(found.sweep.labels)


@pytest.mark.parametrize("name", sorted(built_in()))
def test_on_the_embedded_default_every_command_makes_the_run_that_is_planned(name, capsys, tmp_path):
    found = planned(name, out=tmp_path, limit=3)
    assert found.missing is None
    assert [label for label, _ in found.left_out] == (["dina"] if name == "reward" else [])
    runs = [cell.run for cell in found.sweep.cells]
    assert len(set(runs)) == len(runs) >= 3
    assert not any(tmp_path.iterdir())
    for cell in found.sweep.cells:
        program, *words = shlex.split(cell.command)
        assert program == "lpobench"
        assert main([*words, "--dry-run", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["folder"] == str(tmp_path / cell.run)
        assert told["missing"] == "nothing"


BASELINES = {
    "beta": "500",
    "candidates": "4",
    "data": None,  # LPO's LRM is trained there, the recipe's is the shipped one
    "eta": "1.0",
    "lora-rank": "8",
    "method": "lpo",
    "mpcf": "none",
    "reward": "lrm",
    "reward-timestep": "real",
    "threshold": "[0.05, 0.15]",
    "threshold-strategy": "std",
    "timesteps": "[0, 620]",
    "vfe": "7.5",
}


@pytest.mark.parametrize("name", sorted(built_in()))
def test_the_recipes_own_value_is_known(name):
    assert planned(name).sweep.baseline == BASELINES[name]


def test_ablations_share_their_baseline_and_their_reward_model():
    run = {
        name: {c.cell.label: c for c in planned(name).cells}
        for name in ("beta", "threshold", "vfe", "mpcf", "data")
    }
    assert run["beta"]["500"].cell.run == run["threshold"]["[0.05, 0.15]"].cell.run
    assert (
        run["vfe"]["7.5"].cell.run == run["mpcf"]["none"].cell.run == run["data"]["lpo, all pairs"].cell.run
    )
    assert run["vfe"]["7.5"].training == run["mpcf"]["none"].training
    assert run["vfe"]["1.0"].training != run["vfe"]["7.5"].training
    assert run["data"]["spo, all pairs"].training is None


def test_values_seeds_and_what_is_shared():
    found = planned("threshold", values="0.1,[0.05,0.15]", seeds=(0, 1), train_reward=True)
    assert [(c.label, c.seed) for c in found.sweep.cells] == [
        ("0.1", 0),
        ("0.1", 1),
        ("[0.05, 0.15]", 0),
        ("[0.05, 0.15]", 1),
    ]
    assert found.sweep.baseline == "[0.05, 0.15]"
    assert [len(cells) for cells in found.trainings.values()] == [2, 2]  # one model for each seed
    first = next(iter(found.trainings.values()))[0]
    assert shlex.join(first.training_words) == "reward train --set method.min_gap=0.1 --seed 0"


def test_the_one_reward_model_that_every_cell_waits_for_comes_first(tmp_path):
    options = {"train_reward": True, "limit": 1, "values": "0.1,0.2"}
    one, two = (
        Drive(planned("threshold", seeds=seeds, **options), tmp_path, None, print).tasks
        for seeds in ((0,), (0, 1))
    )
    assert [(task.job.name[:6], task.job.first) for task in one] == [("reward", True)] + [
        ("tiny-s", False)
    ] * 2
    assert not any(task.job.first for task in two)


def test_the_sweeps_name_follows_its_cells():
    first, same = planned("beta"), planned("beta", command="another")
    assert first.sweep.id == same.sweep.id
    assert first.sweep.id.startswith("beta-")
    assert planned("beta", seeds=(0, 1)).sweep.id != first.sweep.id
    assert planned("beta", overrides=("train.num_updates=3",)).sweep.id != first.sweep.id


def test_what_trains_nothing_has_one_seed():
    cells = planned("method", values="none,best_of_n,lpo", seeds=(3, 4)).sweep.cells
    assert [(c.label, c.seed) for c in cells] == [("none", 3), ("best_of_n", 3), ("lpo", 3), ("lpo", 4)]


def test_a_method_without_a_recipe_takes_the_usual_ones():
    found = planned("method", values="itercomp,spo")
    assert [c.words for c in found.cells] == [
        ("run", "--method", "itercomp", "--seed", "0"),
        ("run", "--method", "spo", "--seed", "0"),
    ]
    assert found.cells[0].spec.eval.num_prompts == 600


def test_without_its_weights_a_backbone_is_planned_for_all_the_same(monkeypatch, tmp_path):
    monkeypatch.setenv("LPOBENCH_ASSETS", str(tmp_path))
    found = planned("threshold", backbone="sd15")
    assert isinstance(found.missing, MissingAsset)
    assert "no sd15 on this machine" in str(found.missing)
    assert found.sweep.baseline == "[0.35, 0.5]"
    assert len(found.cells) == 7


@pytest.mark.parametrize(
    ("name", "options", "message", "code"),
    [
        (
            "beta",
            {"method": "step_grpo"},
            "ablation beta, 20: --set method.beta is not a setting of step_grpo",
            2,
        ),
        ("vfe", {"method": "mapo"}, "ablation vfe: 1.0 and 3.0 are the same run, .*has no effect", 2),
        (
            "beta",
            {"overrides": ("method.beta=3",)},
            "--set method.beta=3: ablation beta varies method.beta",
            2,
        ),
        ("method", {"method": "spo"}, "--method: ablation method varies it itself; choose with --values", 2),
        ("eta", {"backbone": "sd1"}, 'unknown backbone "sd1"', 2),
        ("beta", {"overrides": ("train.updates=3",)}, "--set train.updates is not a setting of train", 2),
    ],
)
def test_what_cannot_be_is_said(name, options, message, code):
    with pytest.raises(UserError, match=message) as error:
        planned(name, **options)
    assert error.value.exit_code == code


def test_nothing_of_an_ablation_fits(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[[sweep.reward]]\nlabel = 'dina'\nset = { reward = 'dina' }\noptional = true\n")
    with pytest.raises(UserError, match="ablation mine: nothing can run here; dina: no DiNa-LRM in"):
        planned(path)


def test_a_users_file_names_recipe_settings_and_seeds(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        "[ablation]\nrecipe = 'tiny-sd15-spo'\nset = { 'train.num_updates' = 3 }\nseeds = [1, 2]\n"
        "[sweep]\nmethod.beta = [100.0, 500.0]\nlora.rank = [8]\n"
    )
    found = planned(path)
    assert labels(found) == ["beta 100.0, rank 8", "beta 500.0, rank 8"]
    assert found.sweep.baseline == "beta 500.0, rank 8"
    assert found.sweep.seeds == (1, 2)
    assert found.sweep.cells[0].values == {"method.beta": 100.0, "lora.rank": 8}
    assert found.cells[0].spec.train.num_updates == 3
    assert (
        shlex.join(found.cells[0].words)
        == "run -c tiny-sd15-spo --set train.num_updates=3 --set method.beta=100.0 --set lora.rank=8 --seed 1"
    )
    more = planned(path, seeds=(5,), overrides=("train.num_updates=4",))
    assert (more.sweep.seeds, more.cells[0].spec.train.num_updates) == ((5,), 4)


def test_gpus_of_a_cell_are_passed_on():
    options = Options(gpus=2, values="500")
    assert plan("beta", options, print).cells[0].words[-2:] == ("--gpus", "2")
    assert "--gpus" not in plan("beta", replace(options, gpus=1), print).cells[0].words


def test_whether_a_checkpoint_is_the_same_the_run_has_to_say(tmp_path, monkeypatch):
    monkeypatch.setattr("lpobench.ablation.cells.find_complete", lambda folder: folder)
    spec = planned("beta", values="500").cells[0].spec
    assert is_complete(tmp_path, spec)
    scored = spec.model_copy(update={"checkpoint": "mine"})
    assert not is_complete(tmp_path, scored)
    assert is_complete(tmp_path, scored, looked=True)
