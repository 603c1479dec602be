"""One line for everything that can be wrong with a run: where, what, the value, what would be right."""

from pathlib import Path

import pytest
from fake_plugins import fakes  # noqa: F401

from lpobench.plugin import UserError
from lpobench.spec import load_spec

pytestmark = pytest.mark.usefixtures("fakes")


def problem(*args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        load_spec(*args, **kwargs)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(text) -> str:
    Path("my.toml").write_text(text)
    return "my.toml"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.beta=abc", 'method.beta: should be a number, got "abc"'),
        ("method.beta=0", "method.beta: should be > 0.0, got 0"),
        ("method.beta=inf", "method.beta: should be finite, got Infinity"),
        ("method.min_gap=[1]", "method.min_gap.1: is required"),
        ("method.min_gap=[1,2,3]", "method.min_gap: should be a list of at most 2, got [1, 2, 3]"),
        ("method.min_gap=[1,'x']", 'method.min_gap.1: should be a number, got "x"'),
        ("method.min_gap=0.3", "method.min_gap: should be a list, got 0.3"),
        ("method.ratio_clip=1", "method.ratio_clip: should be < 1.0, got 1"),
        ("method.threshold=sdt", 'method.threshold: should be one of "std", "constant", got "sdt"'),
        ("method.name=3", "method.name: should be a string"),
        ("method=3", "method: should be a table, got 3"),
        ("reward.weights=3", 'reward.weights: should be "shipped" or a path, got 3'),
        ("reward.weights=a.bin", "reward.weights: a.bin is a pickle; give a folder of safetensors"),
        ("reward.fit.steps=1.5", "reward.fit.steps: should be a whole number, got 1.5"),
        ("lora.init=zero", 'lora.init: should be "gaussian", got "zero"'),
        ("train.prompts=3", "train.prompts: should be a string, got 3"),
        ("train.num_updates.x=1", "train.num_updates: should be a whole number, got a table"),
        ("train.gradient_checkpointing=x", 'train.gradient_checkpointing: should be true or false, got "x"'),
        ("train=3", "train: should be a table, got 3"),
        ("device=gpu", 'device: should be auto, cpu, mps, cuda or cuda:N, got "gpu"'),
        ("seed=-1", "seed: should be >= 0, got -1"),
        ("evaluators=[]", "evaluators=[]: evaluators: should be a list of at least 1, got []"),
        ("evaluators=3", "evaluators=3: evaluators: should be a list of names, got 3"),
        ("evaluators=ruler,ruler", 'evaluators=ruler,ruler: evaluators: "ruler" is named twice'),
        ("method.beta", "method.beta: should be KEY=VALUE with a dotted key, such as train.num_updates=10"),
        (".beta=3", ".beta=3: should be KEY=VALUE with a dotted key, such as train.num_updates=10"),
    ],
)
def test_a_wrong_value(override, message):
    assert problem(overrides=[override]) == f"--set {message}"


@pytest.mark.parametrize(
    ("override", "key", "owner", "near", "known"),
    [
        ("method.bta=3", "method.bta", "pairwise", "beta", "beta, min_gap, ratio_clip, threshold"),
        ("reward.fit.stps=3", "reward.fit.stps", "fit", "steps", "steps"),
        ("evaluators.ruler.unt=m", "evaluators.ruler.unt", "ruler", "unit", "unit"),
        ("lora.rnk=1", "lora.rnk", "lora", "rank", "rank, alpha, init"),
        (
            "trian.prompts=x",
            "trian",
            "a run",
            "train",
            "backbone, method, reward, evaluators, sampling, lora, train, eval, checkpoint, seed, device",
        ),
    ],
)
def test_a_misspelt_key_is_answered_with_the_known_ones(override, key, owner, near, known):
    expected = f'--set {key} is not a setting of {owner}; did you mean "{near}"? known: {known}'
    assert problem(overrides=[override]) == expected


def test_an_evaluator_that_is_not_in_the_run():
    assert problem(overrides=["evaluators.rule.unit=m"]) == (
        '--set evaluators.rule.unit=m: no evaluator "rule" in this run; did you mean "ruler"? known: ruler'
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"reward": "latnt"}, 'unknown reward "latnt"; did you mean "latent"? known: latent, pixel'),
        ({"reward": "none"}, 'unknown reward "none"; known: latent, pixel'),
        ({"evaluators": ["ruler", ""]}, 'unknown evaluator ""; known: clock, ruler'),
        (
            {"backbone": "other"},
            "reward latent reads latents of toy-space, backbone other makes other-space",
        ),
    ],
)
def test_a_wrong_flag(flags, message):
    assert problem(flags=flags) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[method]\nname = 'pairwise'\nbeta = 'x'", 'method.beta: should be a number, got "x"'),
        ("[trian]", 'trian is not a setting of a run; did you mean "train"?'),
        ("method = 'pairwize'", 'method.name: unknown method "pairwize"; did you mean "pairwise"?'),
        ("[reward]\nname = 'latnt'", 'reward.name: unknown reward "latnt"; did you mean "latent"?'),
        ("method = 3", "method: should be a table, got 3"),
        ("evaluators = ['ruler', {unit = 'm'}]", "evaluators: should be a list of names, got"),
        ("evaluators = ['clock', {name = 'ruler', unit = 3}]", "evaluators.ruler.unit: should be a string"),
        ("evaluators = ['clock', 'rulr']", 'evaluators.rulr.name: unknown evaluator "rulr"; did you mean'),
        ("seed = ", "not valid TOML: Invalid value (at"),
        ("seed = 1\nseed = 2\n", "not valid TOML: Cannot overwrite a value (at line 2"),
    ],
)
def test_a_wrong_recipe_names_the_file_and_the_key(text, message):
    assert problem(write(text)).startswith(f"my.toml: {message}")


def test_a_problem_is_blamed_on_who_set_the_value():
    file = write("[train]\nnum_updates = 'x'\nminibatch = 8")
    assert problem(file).startswith("my.toml: train.num_updates")
    mended = ["train.num_updates=1", "train.minibatch=0"]
    assert problem(file, overrides=mended).startswith("--set train.minibatch")
    assert problem(flags={"seed": -1}).startswith("--seed: seed")


def test_a_recipe_that_cannot_be_read():
    assert problem("toy-pairwis") == (
        'no recipe "toy-pairwis": neither a file nor built in; '
        'did you mean "toy-pairwise"? known: toy-pairwise'
    )
    assert problem(".") == ".: cannot be read: Is a directory"
    Path("latin.toml").write_bytes(b"seed = '\xe9'")
    assert problem("latin.toml").startswith("latin.toml: not valid TOML: ")
