"""The trained backbone, its frozen reference, and the Gaussian step they both define.

Policy and reference are one set of weights: LoRA adapters on for the one, off for the other (LPO's released
code keeps a second copy of the model). Only where all weights are trained, a frozen copy is kept (whole.py), and
both may be split over the processes (sharded.py). Conditional and unconditional branches run as one batch.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lpobench.plugin import UserError
from lpobench.sampling.once import Once, SharesHalves
from lpobench.sampling.prompts import EncodedPrompts
from lpobench.sampling.step import Rule, StepDistribution, transition
from lpobench.sampling.switched import Switched, switched
from lpobench.sampling.whole import Whole
from lpobench.types import Backbone, Conditioning

if TYPE_CHECKING:
    from lpobench.sampling.lora import LoraLinear
    from lpobench.sampling.sharded import Sharded


@runtime_checkable
class Sampling(Protocol):
    """What a policy reads of SamplingSettings."""

    num_steps: int
    guidance_scale: float
    rule: Rule
    eta: float


@runtime_checkable
class Lora(Protocol):
    """What a policy reads of LoraSettings."""

    rank: int
    alpha: int | None
    init: Literal["gaussian"]


class Policy:
    """A backbone that can be trained, sampled with classifier-free guidance.

    `trained` are the parameters that are: of LoRA adapters, or with "all" those of the whole denoiser (`whole`), of
    which each process has a part with `sharding` "fsdp2" (`split`).
    `calls` counts denoiser forward passes, `rows` the latents that went through them (guidance doubles rows, not
    calls), `decodes` the images that were decoded. `timesteps` and `stds` describe the sampling grid as Python
    floats, so that control flow reads no device. A rollout makes `shard` = (index, count) of the prompts it is
    given; the training loop sets it.
    """

    def __init__(
        self,
        backbone: Backbone,
        sampling: Sampling,
        parameters: Lora | Literal["all"] | None = None,
        seed: int = 0,
        sharding: Literal["none", "fsdp2"] = "none",
    ):
        self.backbone = backbone
        self.num_steps, self.guidance_scale = sampling.num_steps, sampling.guidance_scale
        self.rule, self.eta = sampling.rule, sampling.eta
        _check_step(self.rule, self.eta, backbone)
        self.timesteps: tuple[float, ...] = tuple(backbone.schedule.timesteps(self.num_steps).tolist())
        self.stds: tuple[float, ...] = self._stds(self.num_steps)
        self.dtype = next(backbone.denoiser.parameters()).dtype
        # bfloat16 would round x_s by a tenth of the last steps' std: those models keep float32 latents
        self.latent_dtype = torch.float32 if self.dtype == torch.bfloat16 else self.dtype
        self.calls = self.rows = self.decodes = 0
        self.shard: tuple[int, int] = (0, 1)
        self._reference_depth, self._rolling_out = 0, False
        self._prompts = EncodedPrompts(backbone)
        backbone.denoiser.requires_grad_(False)
        self.whole = parameters == "all"
        self._adapters: list[LoraLinear] = []
        self._switches: list[Switched] = []
        self._sharded: Sharded | None = None
        if self.whole and sharding == "fsdp2":
            from lpobench.sampling import sharded

            self._sharded = sharded.Sharded(backbone, self._idle)
            self._switches = [self._sharded]
        elif self.whole:
            self._switches = [Whole(backbone.denoiser)]
        elif parameters is not None:
            from lpobench.sampling.lora import add_lora

            self._adapters = add_lora(backbone, parameters, seed)
            self._switches = switched(backbone.denoiser)
        self.trained: list[nn.Parameter] = [p for p in backbone.denoiser.parameters() if p.requires_grad]
        self._once = backbone.once if isinstance(backbone, SharesHalves) else Once([])

    @property
    def work(self) -> dict[str, int]:
        """What has been done so far, in the fields of a record's cost."""
        return {"calls": self.calls, "rows": self.rows, "decodes": self.decodes}

    @property
    def split(self) -> bool:
        """Whether the denoiser's weights are split over the processes, which then wait for each other to use it."""
        return self._sharded is not None

    @property
    def grid(self) -> Float[Tensor, " i"]:
        """The timesteps, on the device."""
        return self.backbone.schedule.timesteps(self.num_steps).to(self.backbone.device)

    def denoise(
        self, latents: Float[Tensor, "n c h w"], t: Float[Tensor, " n"], prompts: list[str]
    ) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]]:
        """(x0, eps) at x_t, guided unless guidance_scale is 1. One forward pass either way."""
        if self.guidance_scale == 1.0:
            output = self.predict(latents, t, prompts)
        else:
            with self._once.of_halves(self._rolling_out):
                both = self.predict(latents.repeat(2, 1, 1, 1), t.repeat(2), [""] * len(prompts) + prompts)
            negative, positive = both.chunk(2)
            output = negative + self.guidance_scale * (positive - negative)
        return self.backbone.schedule.split_prediction(output, latents, t)

    def predict(
        self, latents: Float[Tensor, "n c h w"], t: Float[Tensor, " n"], prompts: list[str]
    ) -> Float[Tensor, "n c h w"]:
        """The denoiser's raw output without guidance, float32 or wider: one forward pass."""
        self.calls += 1
        self.rows += len(latents)
        if self._sharded:
            self._sharded.forward_turn()
        # t = -1, the end of some grids, is no timestep the denoiser knows
        output = self.backbone.predict(latents.to(self.dtype), t.clamp(min=0), self.conditioning(prompts))
        return output.to(torch.promote_types(output.dtype, torch.float32))

    def ready_for_backward(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The loss to call backward on, now: where weights are split, all processes do so at once."""
        return self._sharded.backward_turn(loss) if self._sharded else loss

    def assembled(self) -> AbstractContextManager[None]:
        """Inside, the main process's denoiser is in one piece, whose weights can be read and written to a file."""
        return self._sharded.assembled() if self._sharded else nullcontext()

    def decode(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Images in [0, 1]."""
        self.decodes += len(latents)
        return self.backbone.decode(latents)

    def step(
        self,
        latents: Float[Tensor, "n c h w"],
        t: Float[Tensor, " n"],
        s: Float[Tensor, " n"],
        prompts: list[str],
        eta: float | None = None,
    ) -> StepDistribution:
        """pi(x_s | x_t, prompt); `eta` replaces the policy's own (0 is deterministic)."""
        return self.step_from(*self.denoise(latents, t, prompts), t, s, eta)

    def step_from(
        self,
        x0: Float[Tensor, "n c h w"],
        eps: Float[Tensor, "n c h w"],
        t: Float[Tensor, " n"],
        s: Float[Tensor, " n"],
        eta: float | None = None,
    ) -> StepDistribution:
        """The step that estimates made at x_t define."""
        eta = self.eta if eta is None else eta
        alpha_s, c, std = transition(self.backbone.schedule, t, s, self.rule, eta)
        return StepDistribution(alpha_s * x0 + c * eps, std)

    def conditioning(self, prompts: list[str]) -> Conditioning:
        """Encoded prompts, one row each; each distinct prompt is encoded once, new ones in one batch."""
        return self._prompts(prompts)

    def remember(self, prompts: Iterable[str], device: torch.device | None = None) -> None:
        """Encode prompts now and keep them for good, on `device` or else where the backbone puts them."""
        self._prompts.remember(prompts, device)

    @contextmanager
    def reference(self) -> Iterator["Policy"]:
        """Inside, this is the frozen reference: adapters off, or the base's weights; no gradients. May be nested."""
        self._reference_depth += 1
        self._switch()
        try:
            with torch.no_grad():
                yield self
        finally:
            self._reference_depth -= 1
            self._switch()

    @contextmanager
    def rollout(self) -> Iterator[None]:
        """Inside, no weight changes and no gradient is wanted, and so nothing is made twice: what attention reads of
        the prompts is made in the first step only, what no prompt has a part in for one half of a guided batch, and
        float32 adapters are added to their weights.

        A loss is no place for it: policy and reference have to do the same, to the last bit.
        """
        self._roll(True)
        try:
            yield
        finally:
            self._roll(False)

    def std_range(self, num_steps: int | None = None) -> tuple[float, float]:
        """Smallest and largest std of a sampling run's stochastic steps."""
        stochastic = [std for std in (self.stds if num_steps is None else self._stds(num_steps)) if std > 0]
        if not stochastic:
            raise UserError(
                f"every {self.rule} step at eta {self.eta} is deterministic; training needs eta > 0"
            )
        return min(stochastic), max(stochastic)

    def _roll(self, on: bool) -> None:
        self._rolling_out = on
        for layer in self._adapters:
            layer.roll_out(on)

    def _idle(self) -> Tensor:
        """A forward pass of a row that nobody asked for."""
        device = self.backbone.device
        latents = torch.zeros((1, *self.backbone.latent_shape), device=device, dtype=self.dtype)
        return self.backbone.predict(latents, self.grid[:1], self.conditioning([""]))

    def _switch(self) -> None:
        """To what is trained, unless this is the reference now."""
        for part in self._switches:
            part.as_policy = self._reference_depth == 0

    def _stds(self, num_steps: int) -> tuple[float, ...]:
        grid = self.backbone.schedule.timesteps(num_steps)
        return tuple(
            transition(self.backbone.schedule, grid[:-1], grid[1:], self.rule, self.eta)[2].flatten().tolist()
        )


def _check_step(rule: Rule, eta: float, backbone: Backbone) -> None:
    if rule in ("flow_sde", "dance_sde") and backbone.schedule.prediction != "flow":
        raise UserError(
            f"rule {rule} is defined on flow backbones, {backbone.name} is not one; use ddim or cps"
        )
    if eta < 0 or (eta > 1 and rule in ("ddim", "cps")):
        raise UserError(
            f"eta {eta}: {rule} needs {'0 <= eta <= 1' if rule in ('ddim', 'cps') else 'eta >= 0'}"
        )
