"""Parts of an action: each has its own time and work, and nothing stays wrapped."""

import pytest
import torch

from lpobench.timing import phases as module
from lpobench.timing.phases import BOOKKEEPING, Phases, flops_of, replaced, split

CPU = torch.device("cpu")


def test_a_part_inside_another_is_charged_to_itself(monkeypatch):
    """Outside 10 s in all, 4 of them in one call inside and 1 in another; 100 FLOPs, 60 and 10 of them inside."""
    times = iter([0, 1, 5, 6, 7, 10])
    work = iter([0, 10, 70, 80, 90, 100])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(times))
    phases = Phases(CPU, lambda: next(work))
    inner = phases.around("inner", lambda: "made")
    with phases.span("outer"):
        assert inner() == "made"
        inner()
    totals = phases.totals()
    assert {name: (part.seconds, part.flops) for name, part in totals.items()} == {
        "outer": (5, 30),
        "inner": (5, 70),
    }


def test_a_part_that_fails_is_closed():
    phases = Phases(CPU)
    with pytest.raises(ZeroDivisionError), phases.span("part"):
        _ = 1 / 0
    assert phases.inside is None
    assert phases.totals()["part"].seconds >= 0


def test_methods_are_put_back():
    class Holder:
        def call(self):
            return "class"

    holder, other = Holder(), Holder()
    other.call = lambda: "own"
    for target, expected in ((holder, "class"), (other, "own")):
        with replaced(target, {"call": lambda: "replaced"}):
            assert target.call() == "replaced"
        assert target.call() == expected
    assert "call" not in vars(holder)


def test_flops_by_hand():
    """(2 x 3) @ (3 x 5): 2 * 2 * 3 * 5 = 60; both gradients cost as much again each."""
    x, w = torch.ones(2, 3, requires_grad=True), torch.ones(3, 5, requires_grad=True)
    assert flops_of(lambda: x @ w) == 60
    assert flops_of(lambda: (x @ w).sum().backward()) == 180


def test_a_rollout_is_split(load):
    """Six steps, those from t = 700 down scored; all latents are guided: two rows for each of two prompts."""
    before, scored = load.policy.work, sum(t <= 700 for t in load.policy.timesteps[:-1])
    parts = split(load.collect, load.watched, CPU, rounds=1)
    rounds = 3  # one that does not count, one that does, one for the work
    assert load.policy.work["calls"] - before["calls"] == rounds * 6
    assert {"denoiser", "reward", BOOKKEEPING} <= parts.keys()
    assert "VAE" not in parts
    whole = 6 * 4 * load.unit_flops()
    assert (
        0.85 * whole < parts["denoiser"].flops <= whole
    )  # what no prompt reaches yet is done once for two rows
    assert parts["reward"].flops > 0
    assert parts[BOOKKEEPING].flops < 1e-3 * parts["denoiser"].flops
    assert load.loop.state.round_rows == 2 * scored
    assert "predict" not in vars(load.backbone)


def test_an_update_is_split(load):
    """Four pairs, guided: 8 rows for the policy, and 8 for the reference, which lacks the adapter's own work."""
    parts = split(load.update(load.rows(4)), load.watched, CPU, rounds=1)
    assert {"reference", "forward", "backward", "optimizer", BOOKKEEPING} <= parts.keys()
    assert "denoiser" not in parts
    assert parts["forward"].flops == pytest.approx(8 * load.unit_flops(), rel=1e-6)
    assert 0.85 * parts["forward"].flops < parts["reference"].flops <= parts["forward"].flops
    assert parts["backward"].flops > 0.8 * parts["forward"].flops


def test_rounds_are_always_the_same(load):
    load.collect()
    first = load.loop.state.pending
    load.collect()
    again = load.loop.state.pending
    assert first.prompts == again.prompts
    for name in ("latents", "winner", "loser", "t"):
        assert torch.equal(getattr(first, name), getattr(again, name))
