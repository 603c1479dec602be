"""The loop: optimiser steps, rounds, prompts, counts. See toy_training.py."""

import pytest
import torch
from safetensors.torch import load_file
from toy_training import Points, Toy, make_context, run, untimed

from lpobench.launch.memory import OutOfMemory
from lpobench.learning.batches import Cursor, parts, rows_for_update
from lpobench.learning.train import EmptyRounds


def test_first_step_by_hand(tmp_path):
    """AdamW first scales w by 1 - lr * weight_decay, then steps by lr * sign(g): its moments are g and g^2.

    Here g = (3, 4), so w = (0.5, -0.25) * (1 - 0.01 * 0.5) - 0.01 = (0.4875, -0.25875).
    """
    outcome = run(tmp_path, Toy(slope=True), num_updates=1, weight_decay=0.5)
    torch.testing.assert_close(outcome.weight, torch.tensor([[0.4875, -0.25875]]))
    assert outcome.lines[0]["loss"] == pytest.approx(0.5)  # 3 * 0.5 - 4 * 0.25
    assert outcome.lines[0]["grad_norm"] == pytest.approx(5.0)


@pytest.mark.parametrize(("limit", "gradient"), [(1.0, (0.6, 0.8)), (10.0, (3.0, 4.0)), (None, (3.0, 4.0))])
def test_clipping_really_clips(tmp_path, limit, gradient):
    """g = (3, 4) has norm 5. After one step AdamW's first moment is (1 - 0.9) * the gradient it was given."""
    outcome = run(tmp_path, Toy(slope=True), num_updates=1, max_grad_norm=limit)
    moments = load_file(tmp_path / "checkpoints" / "step-00000001" / "optimizer.safetensors")
    torch.testing.assert_close(moments["weight/exp_avg"], 0.1 * torch.tensor([gradient]))
    assert outcome.lines[0]["grad_norm"] == pytest.approx(5.0)  # as it was


@pytest.mark.parametrize("minibatch", [3, 4, 5])
def test_one_batch_equals_accumulated_parts(tmp_path, minibatch):
    """6 rows at once, and the same in two parts: 3 + 3 rows. 5 rows: 5, or 3 + 2 with weights 3/5 and 2/5."""
    for num_rows in (6, 5):
        method = Toy(num_rows=num_rows)
        whole = run(tmp_path / f"whole{num_rows}", method, minibatch=6)
        split = run(tmp_path / f"split{num_rows}", method, minibatch=minibatch, gradient_accumulation=2)
        assert whole.policy.sizes == [num_rows] * 6
        assert len(split.policy.sizes) == (6 if num_rows <= minibatch else 12)
        torch.testing.assert_close(split.weight, whole.weight, rtol=1e-6, atol=1e-7)
        for one, two in zip(whole.lines, split.lines, strict=True):
            assert two["loss"] == pytest.approx(one["loss"])
            assert two["size"] == pytest.approx(one["size"])
            assert two["grad_norm"] == pytest.approx(one["grad_norm"])
            assert two["rows"] == one["rows"] == num_rows


def test_only_adapters_move(tmp_path):
    ctx = make_context()
    run(tmp_path, ctx=ctx)
    assert ctx.policy.backbone.denoiser.bias.item() == 0
    assert not torch.equal(ctx.policy.trained[0], make_context().policy.trained[0])


@pytest.mark.parametrize(
    ("left", "size", "taken"),
    [(10, 4, 4), (6, 4, 4), (5, 4, 5), (4, 4, 4), (1, 4, 1), (7, 4, 4), (3, 2, 2), (2, 1, 1)],
)
def test_a_remainder_under_half_joins_the_update_before(left, size, taken):
    assert rows_for_update(left, size) == taken


def test_parts_are_even_and_share_by_rows():
    rows = Points(torch.arange(10.0).view(5, 2), list("abcde"))
    split = list(parts(rows, 2))
    assert [len(part) for part, _ in split] == [2, 2, 1]
    assert [share for _, share in split] == [0.4, 0.4, 0.2]
    assert Points.cat([part for part, _ in split]).prompts == rows.prompts


def test_every_row_is_used_once_in_shuffled_order(tmp_path):
    """5 rows a round are made from 4 prompts: the first prompt has two."""
    outcome = run(tmp_path, Toy(num_rows=5), num_updates=3)
    assert [line["rows"] for line in outcome.lines] == [2, 2, 1]  # 1 is not under half of 2
    order = Cursor(6, 4, seed=0)()
    collected = [f"prompt {order[i % 4]}" for i in range(5)]
    assert sorted(outcome.policy.seen) == sorted(collected)
    assert outcome.policy.seen != collected


def test_prompts_come_once_per_epoch_and_from_any_position():
    cursor = Cursor(5, 3, seed=1)
    drawn = [number for _ in range(10) for number in cursor()]  # 30 = six epochs of five
    epochs = [drawn[i : i + 5] for i in range(0, 30, 5)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert Cursor(5, 3, seed=1, taken=12)() == drawn[12:15]
    assert Cursor(5, 30, seed=2)() != drawn


def test_counts_and_metrics(tmp_path):
    """3 updates of 2 rows a round: 6 updates are 2 rounds, 12 rows, 2 + 6 calls of 2 * 4 + 6 * 2 latents."""
    outcome = run(tmp_path)
    result = outcome.result
    assert (result.updates, result.rounds, result.collected, result.trained) == (6, 2, 12, 12)
    assert result.work == {
        "collect": {"calls": 2, "rows": 8},
        "update": {"calls": 6, "rows": 12},
        "checkpoint": {"calls": 0, "rows": 0},
    }
    assert set(result.seconds) == {"collect", "update", "checkpoint"}
    assert result.completed
    assert result.resumed_from is None
    assert [line["update"] for line in outcome.lines] == [1, 2, 3, 4, 5, 6]
    assert [line["round"] for line in outcome.lines] == [1, 1, 1, 2, 2, 2]
    names = {"update", "round", "round_rows", "rows", "loss", "size", "noise", "grad_norm", "seconds"}
    assert all(set(line) == names for line in outcome.lines)


def test_rounds_without_rows_end_with_a_clear_error(tmp_path, capsys):
    message = r"20 rounds in a row gave no rows .*\(update 0, round 20\)"
    with pytest.raises(EmptyRounds, match=message) as error:
        run(tmp_path, Toy(num_rows=0))
    assert error.value.exit_code == 4
    assert "round 1 gave no rows" in capsys.readouterr().err


def test_seeds(tmp_path):
    first, again = run(tmp_path / "a"), run(tmp_path / "b")
    other = run(tmp_path / "c", seed=1)
    assert torch.equal(first.weight, again.weight)
    assert untimed(first.lines) == untimed(again.lines)
    assert not torch.equal(first.weight, other.weight)


def test_no_room_for_the_optimisers_moments_is_one_line(tmp_path, monkeypatch):
    """They are made in the first step, when activations are gone: no smaller part would help."""

    def full(self, closure=None):
        raise torch.OutOfMemoryError("out of memory. Tried to allocate 1 GiB")

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(
        OutOfMemory, match=r"in the optimiser step of update 1; AdamW keeps two .*parameters lora$"
    ):
        run(tmp_path)


def test_torchs_own_generator_is_left_as_it_was(tmp_path):
    ctx, before = make_context(), torch.get_rng_state()
    run(tmp_path, ctx=ctx)
    assert torch.equal(torch.get_rng_state(), before)
