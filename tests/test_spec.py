"""What a run is: layers, slots, identity. What can be wrong with one is in test_problems.py."""

import json

import pytest
from fake_plugins import Latent, Pairwise, Ruler, Toy, fakes  # noqa: F401
from pydantic import ValidationError

from lpobench.cli.output import to_toml
from lpobench.draft import built_in_recipes, override, parse_override
from lpobench.plugin import MissingAsset, UserError
from lpobench.spec import RunSpec, load_spec

pytestmark = pytest.mark.usefixtures("fakes")


def write(text, name="my.toml"):
    with open(name, "w") as file:
        file.write(text)
    return name


# Layers


def test_class_defaults_without_any_layer():
    spec = RunSpec()
    assert (spec.backbone, spec.method, spec.reward, spec.evaluators) == (
        Toy(),
        Pairwise(),
        Latent(),
        (Ruler(),),
    )


def test_the_built_in_recipe_of_the_defaults_is_taken():
    spec = load_spec()
    assert (spec.backbone.width, spec.method.beta, spec.train.num_updates, spec.seed) == (16, 50, 30, 7)
    assert spec.train.minibatch == 64  # the recipe is silent, the class speaks


def test_a_recipe_by_name_and_by_file_are_the_same():
    assert load_spec("toy-pairwise") == load_spec(built_in_recipes()["toy-pairwise"]) == load_spec()


def test_flags_beat_the_recipe_and_set_beats_flags():
    assert load_spec(flags={"seed": 3}).seed == 3
    assert load_spec(flags={"seed": 3}, overrides=["seed=4"]).seed == 4
    assert load_spec(overrides=["method.beta=1", "method.beta=2"]).method.beta == 2


def test_a_flag_that_names_the_recipes_plugin_keeps_its_settings():
    said = []
    assert load_spec(flags={"method": "pairwise"}, say=said.append).method.beta == 50
    assert said == []


def test_a_flag_that_changes_a_plugin_drops_the_recipes_settings_and_says_so():
    said = []
    spec = load_spec("toy-pairwise", {"method": "listwise", "reward": "pixel"}, say=said.append)
    assert (spec.method.group, spec.train.num_updates) == (4, 30)
    assert said == [
        "--method: method pairwise is replaced; its settings are dropped: beta",
        "--reward: reward latent is replaced; its settings are dropped: scale",
    ]


@pytest.mark.parametrize("key", ["method", "method.name"])
def test_set_can_change_a_plugin_too(key):
    spec = load_spec(overrides=[f"{key}=listwise", "method.group=8"])
    assert spec.method.group == 8


def test_without_a_recipe_of_that_combination_class_defaults_are_used_and_said():
    said = []
    spec = load_spec(flags={"backbone": "other", "reward": "pixel"}, say=said.append)
    assert spec.train.num_updates == 500
    assert said == ["no built-in recipe other-pairwise: settings not given are the defaults of their classes"]


def test_without_a_recipe_of_that_method_the_backbones_usual_one_is_used_and_said():
    said = []
    spec = load_spec(flags={"method": "listwise"}, say=said.append)
    assert (spec.backbone.width, spec.train.num_updates, spec.seed) == (16, 30, 7)
    assert said == ["no built-in recipe toy-listwise: toy-pairwise is used, its method replaced"]


def test_a_recipe_may_name_a_plugin_in_short_and_leave_names_out():
    spec = load_spec(write('reward = "pixel"\nevaluators = "ruler"\n[method]\nbeta = 9\n'))
    assert (type(spec.reward).__name__, spec.method.beta) == ("Pixel", 9)


@pytest.mark.parametrize(
    "text",
    [
        'evaluators = ["clock", {name = "ruler", unit = "m"}]',
        "[evaluators.clock]\n[evaluators.ruler]\nunit = 'm'",
        "[[evaluators]]\nname = 'clock'\n[[evaluators]]\nname = 'ruler'\nunit = 'm'",
    ],
)
def test_evaluators_are_listed_or_tables_by_name(text):
    spec = load_spec(write(text))
    assert [type(evaluator).__name__ for evaluator in spec.evaluators] == ["Clock", "Ruler"]
    assert spec.evaluators[1].unit == "m"


def test_evaluators_flag_and_set():
    flags = {"evaluators": ["ruler", "clock"]}
    assert load_spec(flags=flags, overrides=["evaluators.ruler.unit=m"]).evaluators[0].unit == "m"
    assert len(load_spec(overrides=["evaluators=clock,ruler"]).evaluators) == 2
    assert load_spec(overrides=["evaluators.ruler.unit=m"]).evaluators[0].unit == "m"


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("a.b=1e-4", ("a", "b"), 1e-4),
        ("a.b = [1, 2.5]", ("a", "b"), [1, 2.5]),
        ("a=true", ("a",), True),
        ("a=off", ("a",), "off"),
        ("a='1'", ("a",), "1"),
        ("a=std", ("a",), "std"),
        ("a=x=y", ("a",), "x=y"),
        ("a=1\nb=2", ("a",), "1\nb=2"),
        ("a=", ("a",), ""),
    ],
)
def test_override_values_are_toml_or_bare_strings(text, path, value):
    assert parse_override(text) == (path, value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (500, "a.b=500"),
        (0.5, "a.b=0.5"),
        ("std", "a.b=std"),
        ("2", 'a.b="2"'),
        ("true", 'a.b="true"'),
        (True, "a.b=true"),
        ("two words", 'a.b="two words"'),
        ([0, 200], "a.b=[0, 200]"),
        ({"name": "lrm", "x.y": 1}, 'a.b={name = "lrm", "x.y" = 1}'),
    ],
)
def test_an_override_is_written_as_it_is_read(value, text):
    assert override("a.b", value) == text
    assert parse_override(text) == (("a", "b"), value)


def test_none_is_spelt_none_where_a_setting_may_be_none():
    spec = load_spec(overrides=["method.ratio_clip=none", "train.max_grad_norm=none"])
    assert (spec.method.ratio_clip, spec.train.max_grad_norm) == (None, None)
    with pytest.raises(UserError, match=r'method\.beta: should be a number, got "none"'):
        load_spec(overrides=["method.beta=none"])


# The reward slot


def test_a_method_that_needs_no_reward_has_none():
    said = []
    spec = load_spec(flags={"method": "idle", "reward": "latent"}, say=said.append)
    assert spec.reward is None
    assert said[-1] == "--reward latent: not used, method idle needs no reward"
    assert load_spec("toy-pairwise", {"method": "idle"}).reward is None


def test_a_method_that_needs_a_reward_gets_the_default_or_complains():
    assert load_spec(write('method = "listwise"')).reward == Latent()
    with pytest.raises(ValidationError, match="method pairwise needs a reward; known: latent, pixel"):
        RunSpec(reward=None)


def test_a_reward_that_reads_images_fits_any_backbone():
    assert load_spec(flags={"backbone": "other", "reward": "pixel"}).reward.latent_space is None


def test_absent_weights_are_no_error_until_a_run_asks_for_them(tmp_path):
    spec = load_spec(overrides=["reward.weights=absent"])
    with pytest.raises(MissingAsset, match="no reward in absent"):
        spec.check_assets()
    spec.check_assets(trains_reward=True)
    missing = tmp_path / "w"
    spec = load_spec(overrides=[f"backbone.weights={missing}"])
    with pytest.raises(MissingAsset, match=f"toy: no weights at {missing}"):
        spec.check_assets()
    missing.mkdir()
    spec.check_assets()


# Identity


def test_round_trip_through_json_and_toml(tmp_path):
    spec = load_spec(
        overrides=["method.ratio_clip=none", 'train.prompts="a \\"b\\".txt"', "reward.fit.steps=3"]
    )
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec
    assert RunSpec.model_validate(spec.model_dump()) == spec
    assert RunSpec.model_validate(json.loads(spec.canonical())) == spec
    recipe = tmp_path / "again.toml"
    recipe.write_text(to_toml(spec.model_dump(mode="json")))
    assert load_spec(recipe) == spec


def test_a_plugin_is_a_table_with_its_name():
    document = load_spec().model_dump(mode="json")
    assert document["method"]["name"] == "pairwise"
    assert document["evaluators"] == [{"name": "ruler", "unit": "cm"}]


def test_id_names_the_run_and_hashes_every_number():
    spec = load_spec()
    name, _, digest = spec.id.rpartition("-")
    assert name == "toy-pairwise-s7"
    assert len(digest) == 8
    assert load_spec().id == spec.id
    assert load_spec(overrides=["method.beta=51"]).id != spec.id
    assert load_spec(overrides=["method.beta=50"]).id == spec.id
    assert load_spec(overrides=["device=cpu"]).id == spec.id


def test_a_run_that_trains_an_adapter_has_the_id_it_had_before_there_was_a_choice():
    spec, asked = load_spec(), load_spec(overrides=["train.parameters=lora"])
    assert "parameters" not in json.loads(spec.canonical())["train"]
    assert asked.id == spec.id
    assert asked.model_dump(mode="json") == spec.model_dump(mode="json")
    assert RunSpec.model_validate_json(spec.model_dump_json()).train.parameters == "lora"


def test_a_run_that_trains_all_weights_has_no_adapter_and_float32_weights():
    said = []
    spec = load_spec(overrides=["train.parameters=all", "train.precision=bf16"], say=said.append)
    assert (spec.parameters, spec.weights_precision) == ("all", "fp32")
    assert spec.trains == "all weights of the denoiser"
    assert "lora" not in json.loads(spec.canonical())
    assert spec.id != load_spec(overrides=["train.precision=bf16"]).id
    assert RunSpec.model_validate(spec.model_dump(mode="json")) == spec
    assert said == []
    with pytest.raises(
        UserError, match=r"train\.parameters is all, which leaves no adapter: leave lora\.\* out"
    ):
        load_spec(overrides=["train.parameters=all", "lora.rank=8"])


def test_a_recipes_adapter_goes_where_all_weights_are_trained_and_that_is_said():
    said, recipe = [], write('method = "pairwise"\n[lora]\nrank = 8\nalpha = 4\n')
    spec = load_spec(recipe, overrides=["train.parameters=all"], say=said.append)
    assert spec.lora.rank == 4
    assert said == ["my.toml: lora.rank, lora.alpha not used, train.parameters is all"]
    assert load_spec(recipe).parameters.rank == 8


def test_id_names_a_reward_that_is_not_the_default():
    assert load_spec(flags={"reward": "pixel"}).id.startswith("toy-pairwise-pixel-s7-")
    assert load_spec(flags={"method": "idle"}).id.startswith("toy-idle-s7-")


def test_a_spec_is_frozen():
    with pytest.raises(ValidationError):
        load_spec().seed = 1
