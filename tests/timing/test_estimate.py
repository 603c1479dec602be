"""Rehearsed calls are those of a real round; the cost of a run adds up."""

from collections import Counter

import pytest
import torch

from lpobench.records.bench import Environment, Estimate, EstimatedPhase
from lpobench.report.bench import estimate_lines
from lpobench.timing import estimate as module
from lpobench.timing.calibration import Calibration
from lpobench.timing.phases import flops_of


def test_a_rehearsal_makes_the_calls_of_a_real_round(load):
    """Two prompts, guided: 6 calls of 4 rows; 4 candidates of each prompt are scored at every scored step."""
    scored = sum(t <= 700 for t in load.policy.timesteps[:-1])
    with Calibration(load).rehearsing() as calls:
        load.collect()
    assert calls == Counter({("predict", 4): 6, ("score", 8): scored})
    before = load.policy.work
    load.collect()
    spent = {kind: number - before[kind] for kind, number in load.policy.work.items()}
    assert spent == {"calls": 6, "rows": 24, "decodes": 0}


def test_a_rewards_estimates_and_images_are_rehearsed(load, monkeypatch):
    """As SPM looks at candidates: each score has a decode, and a guided call that the next step reuses."""
    calibration = Calibration(load)
    monkeypatch.setitem(vars(calibration), "needs", (True, True))
    with calibration.rehearsing() as calls:
        load.collect()
    scored = sum(t <= 700 for t in load.policy.timesteps[:-1])
    assert calls["decode", 8] == calls["score", 8] == scored
    assert calls["predict", 16] == scored
    assert calls["predict", 4] < 6


def test_large_calls_are_timed_at_a_smaller_size(load, monkeypatch):
    """1 s a row, and at most 6 s a call: of 40 rows 5 are timed, and 40 take 8 times as long."""
    calibration, sizes = Calibration(load), []
    monkeypatch.setattr(calibration, "action", lambda kind, rows: rows)
    monkeypatch.setattr(calibration, "timed", lambda rows: sizes.append(rows) or float(rows))
    assert calibration.of("predict", 40) == 40
    assert sizes == [1, 5]
    assert calibration.seconds(Counter({("predict", 40): 3, ("predict", 1): 2})) == 122


@pytest.mark.parametrize(("rows", "size", "updates"), [(78, 128, 1), (256, 128, 2), (149, 128, 1), (0, 8, 1)])
def test_updates_of_a_round_are_the_loops(rows, size, updates):
    """149 of 128: the 21 that are left join the update before them."""
    assert module._updates(rows, size) == updates


def test_a_run_adds_up(spec, monkeypatch):
    """Ten updates; a round of 8 rows makes two updates of 4, so there are five rounds."""
    short = spec.train.model_copy(update={"num_updates": 10})
    few = spec.eval.model_copy(update={"num_prompts": 2, "num_steps": 2})
    monkeypatch.setattr(module, "_round", lambda calibration, calls: (3.0, 8, ["8 kept"]))
    found = module.estimate(spec.model_copy(update={"train": short, "eval": few}), train_reward=True)
    assert found.phases["collect"].seconds == 15
    assert (found.phases["collect"].times, found.phases["update"].times) == (5, 10)
    assert (found.phases["generate"].times, found.phases["evaluate"].times) == (4, 4)
    assert found.phases["generate"].forwards > 2 * 2 * 4  # guided, two steps, four images; and decodes
    assert found.phases["update"].forwards > 10 * 4 * 2 * 2
    assert found.hours == pytest.approx(sum(phase.seconds for phase in found.phases.values()) / 3600)
    assert found.notes == ("training the reward is not in it", "8 kept")
    assert torch.is_grad_enabled()


def test_lines_of_an_estimate():
    where = Environment(
        device="cpu",
        processor="x",
        cores=2,
        threads=1,
        system="",
        versions={},
        git=None,
        others=0.5,
        busy=True,
    )
    phases = {
        "load": EstimatedPhase(seconds=6),
        "collect": EstimatedPhase(seconds=1794, forwards=1e5, times=20),
    }
    found = Estimate(
        phases=phases, forward_seconds=0.01, unit_flops=10**9, environment=where, notes=("noted",)
    )
    assert estimate_lines(found) == [
        "work: 100,000 denoiser forwards (1 GFLOP and 0.01 s each, alone)",
        "time: 0.5 hours by one process on cpu; BUSY: others used 50% of all cores",
        "  load: 6.0 s",
        "  collect: 1,794.0 s, 20 rounds, 100,000 forwards",
        "noted",
    ]


def test_rehearsed_work_is_the_real_rounds(load):
    """Counted call by call against counted as it happens; what a rollout keeps between steps is not in the calls."""
    calibration = Calibration(load)
    with calibration.rehearsing() as calls:
        load.collect()
    assert calibration.flops(calls) == pytest.approx(flops_of(load.collect), rel=0.05)
