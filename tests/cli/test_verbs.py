"""What each verb prints: data on stdout, talk on stderr, one JSON document under --json."""

import json
import sys
import tomllib
from types import SimpleNamespace

import pytest

from lpobench.cli.show import type_name
from lpobench.report import tables
from lpobench.sections import TrainSettings
from lpobench.spec import load_spec

pytestmark = pytest.mark.usefixtures("fakes")


@pytest.fixture
def executed(monkeypatch):
    """Calls of `lpobench.run`, which does nothing."""
    calls = []

    def execute(spec, out, **options):
        calls.append((spec, out, options))
        return SimpleNamespace(folder=out / spec.id, model_dump=lambda mode: {"id": spec.id})

    def train_reward_only(spec, out):
        calls.append((spec, out))
        measured = {"held_out": [{"t": 951.0, "accuracy": 0.5125}, {"t": 1.0, "accuracy": 0.75}]}
        return {"reward": "latent", "folder": str(out), "measured": measured}

    module = SimpleNamespace(execute=execute, train_reward_only=train_reward_only)
    monkeypatch.setitem(sys.modules, "lpobench.run", module)
    monkeypatch.setattr(tables, "comparison", lambda record: f"table of {record.folder.name}")
    return calls


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_help_lists_the_verbs(cli, words):
    done = cli(*words)
    assert done.code == 0
    assert done.err == ""
    for verb in ("run", "list", "show", "validate", "report", "doctor", "reward"):
        assert f"\n  {verb} " in done.out


def test_version(cli):
    assert cli("--version").out.startswith("lpobench 0.")


@pytest.mark.parametrize("words", [("reward",), ("reward", "--help")])
def test_reward_lists_its_verbs(cli, words):
    done = cli(*words)
    assert (done.code, done.err) == (0, "")
    assert "train" in done.out


# run


def test_run_hands_over_the_spec_and_prints_the_table(cli, executed, fakes):
    flags = "--method listwise --reward pixel --evaluators clock,ruler --seed 3 --set method.group=2"
    done = cli("run", *flags.split(), "--limit", "5", "--no-resume", "--out", "there")
    [(spec, out, options)] = executed
    assert (spec.method.group, type(spec.reward).__name__) == (2, "Pixel")
    assert (len(spec.evaluators), spec.seed) == (2, 3)
    assert options == {"resume": False, "limit": 5, "train_reward": False}
    assert str(out) == "there"
    assert done.out == f"table of {spec.id}\n"
    assert done.err.endswith(f"everything is in there/{spec.id}\n")
    assert done.code == 0


def test_run_json_is_the_record_alone(cli, executed):
    done = cli("run", "--json")
    assert json.loads(done.out) == {"id": load_spec().id}
    assert done.err == ""
    assert executed[0][2] == {"resume": True, "limit": None, "train_reward": False}


def test_what_is_dropped_is_told_on_stderr(cli, executed):
    done = cli("run", "-c", "toy-pairwise", "--method", "listwise", "--json")
    assert done.err == "--method: method pairwise is replaced; its settings are dropped: beta\n"
    json.loads(done.out)


def test_dry_run_prints_a_plan_that_is_a_recipe_and_writes_nothing(cli, executed, fakes):
    done = cli("run", "--dry-run", "--limit", "5", "--set", "method.beta=2")
    spec = load_spec(overrides=["method.beta=2"])
    assert f"# id: {spec.id}\n# folder: results/runs/{spec.id}-limit5\n# state: new\n" in done.out
    assert "# updates: 5\n# images: 10\n" in done.out
    assert executed == []
    assert list(fakes.iterdir()) == []
    (fakes / "again.toml").write_text(done.out)
    assert load_spec("again.toml") == spec


def test_dry_run_json(cli):
    plan = json.loads(cli("run", "--dry-run", "--json", "--method", "idle").out)
    spec = load_spec(flags={"method": "idle"})
    assert plan["spec"] == spec.model_dump(mode="json")
    assert (plan["id"], plan["updates"], plan["images"], plan["reward"]) == (spec.id, 0, 600, "none")


def test_dry_run_says_how_far_a_run_has_come_and_what_is_missing(cli, fakes):
    folder = fakes / "results" / "runs" / load_spec().id
    folder.mkdir(parents=True)
    assert "# state: begun\n# missing: nothing\n" in cli("run", "--dry-run").out
    for step in (20, 100):
        (folder / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    assert "# state: checkpoint of update 100\n" in cli("run", "--dry-run").out
    absent = cli("run", "--dry-run", "--set", "reward.weights=absent")
    assert "# missing: no reward in absent\n" in absent.out
    assert absent.code == 0
    assert "# missing: nothing\n# reward: trained first\n" in cli(
        "run", "--dry-run", "--train-reward", "--set", "reward.weights=absent"
    ).out  # fmt: skip


def test_reward_train(cli, executed):
    done = cli("reward", "train", "--set", "reward.fit.steps=3", "--seed", "4", "--out", "there", "--json")
    [(spec, out)] = executed
    assert (spec.reward.fit.steps, spec.seed, str(out)) == (3, 4, "there")
    summary = json.loads(done.out)
    assert (summary["reward"], summary["folder"], list(summary["measured"])) == (
        "latent",
        "there",
        ["held_out"],
    )
    assert cli("reward", "train", "--out", "there").out == (
        "reward  latent\nfolder  there\n\nheld_out\n  t    accuracy\n  951  0.5125\n  1    0.75\n"
    )


# list, show, validate


def test_list(cli):
    done = cli("list")
    assert done.out.startswith(
        "backbones\n  other  A backbone with another latent space.\n  toy    A small backbone.\n\nrewards\n"
    )
    assert "recipes\n  toy-pairwise  Pairs on the toy.\n" in done.out
    methods = "methods\n  idle      Nothing.\n  listwise  Lists.\n  pairwise  Pairs.\n"
    assert cli("list", "methods").out == methods


def test_list_json(cli):
    document = json.loads(cli("list", "--json").out)
    assert list(document) == [
        "backbones",
        "rewards",
        "methods",
        "evaluators",
        "recipes",
        "sections",
        "protocols",
        "ablations",
        "assets",
    ]
    assert document["rewards"] == {"latent": "Reads latents.", "pixel": "Reads images."}
    assert document["sections"]["train"] == "The training loop."


def test_show_a_plugin(cli):
    assert cli("show", "pairwise").out == (
        "method pairwise\nPairs.\n\n"
        "  beta = 5.0  (number > 0)\n      temperature\n"
        "  min_gap = [0.3, 0.5]  (list of number)\n      margins\n"
        "  ratio_clip = 0.1  (number > 0, < 1 or none)\n      clip\n"
        '  threshold = "std"  ("std" or "constant")\n      strategy\n'
    )
    assert cli("show", "idle").out == "method idle\nNothing.\n\n  no settings\n"


def test_show_a_plugin_json(cli):
    document = json.loads(cli("show", "latent", "--json").out)
    assert (document["kind"], document["name"], document["summary"]) == (
        "rewards",
        "latent",
        "Reads latents.",
    )
    assert [row["name"] for row in document["settings"]] == ["weights", "scale", "fit.steps"]
    assert document["settings"][0] == {
        "name": "weights", "default": '"shipped"', "type": '"shipped" or path', "help": "folder",
    }  # fmt: skip


def test_show_a_section_and_a_name_with_its_kind(cli):
    assert cli("show", "train").out.startswith("section train\nThe training loop.\n")
    assert cli("show", "methods/idle").out.startswith("method idle\n")


def test_a_name_of_several_kinds_must_say_which(cli, monkeypatch):
    from lpobench import registry

    both = dict.fromkeys(registry.table("methods"), None) | registry.table("methods")
    both["toy"] = both["idle"]
    original = registry.table
    monkeypatch.setattr(registry, "table", lambda kind: both if kind == "methods" else original(kind))
    done = cli("show", "toy")
    assert done.err == 'error: "toy" is the name of several things; say which: backbones/toy, methods/toy\n'
    assert cli("show", "backbones/toy").out.startswith("backbone toy\n")


def test_show_a_recipe_fully_resolved(cli, fakes):
    spec = load_spec()
    out = cli("show", "toy-pairwise").out
    assert out.startswith(f"# id: {spec.id}\n")
    assert tomllib.loads(out)["train"]["minibatch"] == TrainSettings().minibatch
    (fakes / "again.toml").write_text(out)
    assert cli("show", "again.toml").out == out
    assert json.loads(cli("show", "toy-pairwise", "--json").out) == spec.model_dump(mode="json")


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (bool, "true or false"),
        (int | None, "whole number or none"),
        (tuple[float, ...], "list of number"),
        (str, "text"),
    ],
)
def test_types_in_words(annotation, text):
    assert type_name(annotation) == text


def test_validate(cli, fakes):
    (fakes / "good.toml").write_text('method = "listwise"\n')
    (fakes / "bad.toml").write_text('[method]\nname = "pairwise"\nbta = 1\nbeta = "x"\n[trian]\n')
    good = cli("validate", "good.toml", "toy-pairwise")
    assert good.code == 0
    assert good.out.startswith("good.toml: ok (toy-listwise-s0-")
    assert good.out.count("\n") == 2
    done = cli("validate", "good.toml", "bad.toml", "none.toml")
    assert done.code == 2
    assert done.out.count("\n") == 1
    lines = done.err.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["bad.toml:", "bad.toml:", "bad.toml:", "no"]
    assert [line.split(" ")[1] for line in lines[:3]] == ["method.beta:", "method.bta", "trian"]


def test_validate_json(cli, fakes):
    (fakes / "bad.toml").write_text("seed = 'x'")
    done = cli("validate", "bad.toml", "toy-pairwise", "--json")
    bad, good = json.loads(done.out)
    assert bad == {
        "file": "bad.toml", "id": None, "problems": ['bad.toml: seed: should be a whole number, got "x"'],
    }  # fmt: skip
    assert (good["id"], good["problems"], done.code, done.err) == (load_spec().id, [], 2, "")


# doctor, report


def test_doctor(cli, fakes):
    findings = json.loads(cli("doctor", "--json").out)
    parts = {"versions", "devices", "disk", "backbones", "rewards", "evaluators", "workers", "assets"}
    assert set(findings) == parts
    assert findings["versions"]["torch"][0].isdigit()
    assert "cpu" in findings["devices"]
    assert findings["disk"]["writable"] == "yes"
    assert "backbones" in cli("doctor").out
    assert list(fakes.iterdir()) == []
