"""`lpobench ablate` before anything runs: what it lists, plans and refuses, and that it is quick to."""

import json

from processes import worked

HEAVY = "{'torch', 'diffusers', 'transformers', 'pandas', 'numpy'}"


def test_the_list(cli):
    found = cli("ablate")
    assert found.code == 0
    assert "threshold-strategy  what the margin grows with from step to step" in found.out
    assert len(json.loads(cli("ablate", "--json").out)["ablations"]) == 13


def test_the_plan(cli, tmp_path):
    found = cli("ablate", "threshold", "--dry-run", "--seeds", "0,1", "--out", str(tmp_path / "runs"))
    assert found.code == 0
    lines = found.out.splitlines()
    assert lines[0] == "# threshold: preference margin that a pair must exceed to be trained on"
    assert "# missing: nothing" in lines
    assert sum("  planned  " in line for line in lines) == 14
    assert sum("  recipe  " in line for line in lines) == 2
    commands = [line for line in lines if line.startswith("lpobench run ")]
    assert commands[1] == f"lpobench run --set method.min_gap=0.05 --seed 1 --out {tmp_path / 'runs'}"
    assert not (tmp_path / "runs").exists()


def test_the_plan_as_a_document(cli):
    found = json.loads(cli("ablate", "reward", "--dry-run", "--json").out)
    assert found["name"] == "reward"
    assert [one["label"] for one in found["left_out"]] == ["dina"]
    assert found["missing"] is None
    assert found["cells"][0]["label"] == "lrm"


def test_shared_trainings_are_told(cli):
    out = cli("ablate", "beta", "--train-reward", "--dry-run", "--seeds", "0,1").out
    assert out.count("# a reward model is trained once for 5 cells") == 2
    assert "a reward model" not in cli("ablate", "mpcf", "--dry-run").out


def test_refusals(cli, tmp_path):
    out = str(tmp_path / "runs")
    for words, message in (
        (("beta", "--seeds", "0,x"), 'error: --seeds should be whole numbers such as 0,1,2, got "0,x"'),
        (("bta",), 'error: no ablation "bta": neither a file nor built in; did you mean "beta"?'),
        (("beta", "--jobs", "2", "--gpus", "1"), "error: 2 job(s) of 1 GPU(s) at a time: no GPUs here"),
    ):
        found = cli("ablate", *words, "--out", out)
        assert (found.code, found.err.startswith(message)) == (2, True), found.err
    assert not (tmp_path / "runs").exists()


def test_missing_weights(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("LPOBENCH_ASSETS", str(tmp_path / "nothing"))
    found = cli("ablate", "threshold", "--backbone", "sd15", "--out", str(tmp_path / "runs"))
    assert found.code == 3
    assert "no sd15 on this machine" in found.err
    assert "# missing: no sd15" in cli("ablate", "threshold", "--backbone", "sd15", "--dry-run").out


def test_a_plan_needs_nothing_heavy():
    script = (
        "import sys; from lpobench.cli import main; main(['ablate', 'method', '--dry-run']);"
        f"heavy = {HEAVY} & set(sys.modules); print('HEAVY', sorted(heavy))"
    )
    assert worked(["-c", script]).splitlines()[-1] == "HEAVY []"
