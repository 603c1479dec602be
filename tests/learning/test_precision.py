"""Numbers that are not finite, and precisions below fp32."""

import pytest
import torch
from torch import Tensor
from toy_training import Points, Toy, make_context, read_metrics, run, untimed

from lpobench.learning import setup
from lpobench.learning.train import NonFiniteLoss
from lpobench.plugin import UserError


@pytest.mark.parametrize(
    ("spoil", "terms"),
    [
        ("loss", "loss is nan, term is inf, grad_norm is nan"),
        ("gradient", "term is inf, grad_norm is nan"),
    ],
)
def test_non_finite_loss_or_gradient_stops_before_the_step(tmp_path, spoil, terms):
    ctx = make_context()
    with pytest.raises(NonFiniteLoss, match=f"update 3: {terms}; stopped before") as error:
        run(tmp_path / "nan", Toy(spoil=spoil), ctx)
    assert error.value.exit_code == 4
    assert torch.equal(ctx.policy.trained[0], run(tmp_path / "two", num_updates=2).weight)
    assert [line["update"] for line in read_metrics(tmp_path / "nan")] == [1, 2]


def test_fp16_without_a_gpu_is_refused(tmp_path):
    with pytest.raises(UserError, match='"fp16" needs a GPU'):
        run(tmp_path, precision="fp16")


def test_bf16_keeps_adapters_in_float32_and_close(tmp_path):
    low, full = run(tmp_path / "low", precision="bf16"), run(tmp_path / "full")
    assert low.weight.dtype == torch.float32
    assert not torch.equal(low.weight, full.weight)
    torch.testing.assert_close(low.weight, full.weight, rtol=0, atol=0.02)


@pytest.fixture
def fp16(monkeypatch):
    """The fp16 of a GPU, imitated: autocast, and a scale that is too large at first."""

    def accelerator(settings, device):
        made = real(settings, device)
        made.native_amp, made.state._mixed_precision = True, "fp16"
        made.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=100)
        return made

    real = setup.accelerator
    monkeypatch.setattr(setup, "accelerator", accelerator)


def test_fp16_skips_overflows_halves_the_scale_and_resumes(tmp_path, fp16):
    """fp16 ends at 2^16: gradients of about 1 overflow at a scale of 2^20, and no longer at 2^14."""
    straight = run(tmp_path / "straight", num_updates=9)
    norms = [line["grad_norm"] for line in straight.lines]
    assert norms[0] is None
    assert None not in norms[6:]
    assert not torch.equal(straight.weight, make_context().policy.trained[0])
    for until in (1, 5, 9):
        resumed = run(tmp_path / "parts", num_updates=until)
    assert torch.equal(resumed.weight, straight.weight)
    assert untimed(resumed.lines) == untimed(straight.lines)


def test_fp16_gives_up_on_a_gradient_that_no_scale_mends(tmp_path, fp16):
    """The scale is 2^20 in update 1 and halves with each: in update 22 it is below 1."""
    with pytest.raises(NonFiniteLoss, match="update 22: grad_norm is nan"):
        run(tmp_path, Toy(spoil="always"), num_updates=40)


class SeenTwice(Toy):
    """Runs the model under no_grad first, as every method with a reference does."""

    def loss(self, ctx, rows: Points) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            ctx.policy.backbone.denoiser(rows.x)
        return super().loss(ctx, rows)


def test_bf16_gradient_survives_an_earlier_pass_without_gradient(tmp_path):
    """Autocast caches weights: before pytorch#165068 it reused the detached cast of that pass."""
    once, twice = run(tmp_path / "a", precision="bf16"), run(tmp_path / "b", SeenTwice(), precision="bf16")
    assert torch.equal(once.weight, twice.weight)
