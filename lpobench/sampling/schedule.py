"""Noise schedules: the affine path x_t = alpha_t * x0 + sigma_t * eps and its discretisation.

Every supported backbone (epsilon, v-prediction, rectified flow) lives on such a path; they differ only in the
pair (alpha_t, sigma_t) and in which combination p * x0 + q * eps the denoiser outputs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from lpobench.plugin import UserError

Prediction = Literal["epsilon", "v_prediction", "flow"]
NOT_A_SHIFT = (
    "shift_terminal",
    "invert_sigmas",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "stochastic_sampling",
)
"""Options of diffusers' flow scheduler that make its grid or its steps something else than a shifted one of Euler's."""


@runtime_checkable
class Schedule(Protocol):
    """A path of noise levels, indexed by the timestep the denoiser was trained with."""

    prediction: Prediction

    def timesteps(self, num_steps: int) -> Float[Tensor, " {num_steps}+1"]:
        """Descending timesteps of a sampling run, on the CPU; the last one is the end of the path."""
        ...

    def random_timesteps(self, num: int, generator: torch.Generator | None = None) -> Float[Tensor, " {num}"]:
        """Timesteps drawn as in the backbone's own training, on the generator's device."""
        ...

    def levels(self, t: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """(alpha_t, sigma_t) at timesteps t, float32."""
        ...

    def target(
        self, x0: Float[Tensor, "n c h w"], eps: Float[Tensor, "n c h w"], t: Float[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        """What the denoiser is trained to output: p * x0 + q * eps."""
        p, q = _mixture(self.prediction, *_columns(self.levels(t)))
        return p * x0 + q * eps

    def split_prediction(
        self, output: Float[Tensor, "n c h w"], latents: Float[Tensor, "n c h w"], t: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]]:
        """Solve for (x0, eps) given the output p * x0 + q * eps and the path alpha * x0 + sigma * eps = x_t.

        Half-precision inputs are raised to float32 here, and everything after this stays there.
        """
        alpha, sigma = _columns(self.levels(t))
        p, q = _mixture(self.prediction, alpha, sigma)
        output, latents = _at_least_float32(output), _at_least_float32(latents)
        det = alpha * q - sigma * p
        return (q * latents - sigma * output) / det, (alpha * output - p * latents) / det


@dataclass(frozen=True, eq=False)
class VariancePreserving(Schedule):
    """Discrete DDPM schedule of SD 1.5 / 2.1 / XL: alpha_t^2 + sigma_t^2 = 1, t in 0..999.

    The sampling grid is diffusers' "leading" spacing. With `set_alpha_to_one` the path ends at sigma 0, which
    is timestep -1; without it, as Stable Diffusion and the released LPO code have it, at t = 0, where sigma
    is 0.029.
    """

    alphas_cumprod: Float[Tensor, " num_train"]
    prediction: Prediction = "epsilon"
    steps_offset: int = 1
    set_alpha_to_one: bool = False
    _tables: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def scaled_linear(
        cls, beta_start: float = 0.00085, beta_end: float = 0.012, prediction: Prediction = "epsilon"
    ) -> "VariancePreserving":
        """The schedule every Stable Diffusion UNet was trained with (LDM, appendix)."""
        return cls(_alphas_cumprod("scaled_linear", beta_start, beta_end, 1000), prediction)

    @classmethod
    def from_scheduler_config(cls, config: Mapping[str, object]) -> "VariancePreserving":
        """Noise levels, prediction kind and grid of a diffusers scheduler config; absent keys mean
        DDIMScheduler's defaults. Keys that only steer diffusers' own step functions (clip_sample,
        thresholding) are not read.
        """
        kind, prediction = config.get("beta_schedule", "linear"), config.get("prediction_type", "epsilon")
        if kind not in ("linear", "scaled_linear"):
            raise UserError(f"scheduler config: beta_schedule is {kind!r}, not linear or scaled_linear")
        if prediction not in ("epsilon", "v_prediction"):
            raise UserError(
                f"scheduler config: prediction_type is {prediction!r}, not epsilon or v_prediction"
            )
        for key in ("trained_betas", "rescale_betas_zero_snr"):
            if config.get(key):
                raise UserError(f"scheduler config: {key} is set; only plain beta schedules are supported")
        start, end = float(config.get("beta_start", 0.0001)), float(config.get("beta_end", 0.02))
        alphas_cumprod = _alphas_cumprod(kind, start, end, int(config.get("num_train_timesteps", 1000)))
        offset, to_one = int(config.get("steps_offset", 0)), bool(config.get("set_alpha_to_one", True))
        return cls(alphas_cumprod, prediction, offset, to_one)

    def timesteps(self, num_steps: int) -> Float[Tensor, " {num_steps}+1"]:
        num_train = len(self.alphas_cumprod)
        stride = num_train // num_steps
        top = (num_steps - 1) * stride + self.steps_offset
        if stride == 0 or top >= num_train:
            raise UserError(
                f"num_steps {num_steps}: the grid would start at t = {top}, beyond {num_train - 1}"
            )
        end = torch.tensor([-1.0 if self.set_alpha_to_one else 0.0])
        return torch.cat([top - stride * torch.arange(num_steps), end])

    def random_timesteps(self, num: int, generator: torch.Generator | None = None) -> Float[Tensor, " {num}"]:
        return torch.randint(
            len(self.alphas_cumprod), (num,), generator=generator, device=_device(generator)
        ).float()

    def levels(self, t: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        if t.device not in self._tables:  # the extra last entry is t = -1, the end at sigma 0
            alpha_bar = torch.cat([self.alphas_cumprod.double().cpu(), torch.ones(1, dtype=torch.float64)])
            alpha, sigma = alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()
            self._tables[t.device] = alpha.to(t.device), sigma.to(t.device)
        alpha, sigma = self._tables[t.device]
        return alpha[t.long()], sigma[t.long()]


@dataclass(frozen=True, eq=False)
class RectifiedFlow(Schedule):
    """SD3's and FLUX.1's schedule: alpha = 1 - sigma, t = 1000 * sigma, sampling grid shifted towards noise."""

    shift: float = 3.0
    prediction: Prediction = "flow"
    grid: Literal["sd3", "flux"] = "sd3"
    """Whose pipeline in diffusers lays the sampling grid, see `timesteps`."""

    @classmethod
    def from_scheduler_config(
        cls, config: Mapping[str, object], image_tokens: int | None = None
    ) -> "RectifiedFlow":
        """Shift of a diffusers FlowMatchEulerDiscreteScheduler config; an absent one is its default, 1.

        `image_tokens`, of one image: FLUX.1's grid, whose shift may depend on them ("dynamic"). Raises UserError.
        """
        dynamic = bool(config.get("use_dynamic_shifting"))
        refused = [key for key in NOT_A_SHIFT if config.get(key)]
        if refused or (dynamic and image_tokens is None):
            key = refused[0] if refused else "use_dynamic_shifting"
            raise UserError(f"scheduler config: {key} is set; only a constant shift is supported")
        if (num_train := config.get("num_train_timesteps", 1000)) != 1000:
            raise UserError(f"scheduler config: num_train_timesteps is {num_train}, not 1000")
        shift = dynamic_shift(config, image_tokens) if dynamic else float(config.get("shift", 1.0))
        return cls(shift, grid="sd3" if image_tokens is None else "flux")

    def timesteps(self, num_steps: int) -> Float[Tensor, " {num_steps}+1"]:
        """diffusers' grids: sigmas evenly from 1 down to a smallest one, then shifted.

        FLUX.1's smallest is 1 / num_steps. SD3's is the shifted 0.001, which is so shifted once more: the last noisy
        step is very small (sigma 0.0089 at shift 3).
        """
        smallest = 1 / num_steps if self.grid == "flux" else self._shifted(0.001)
        sigma = self._shifted(torch.linspace(1, smallest, num_steps, dtype=torch.float64))
        return torch.cat([1000 * sigma, torch.zeros(1)]).float()

    def random_timesteps(self, num: int, generator: torch.Generator | None = None) -> Float[Tensor, " {num}"]:
        """Logit-normal and shifted, as SD3 was trained (arXiv:2403.03206, sections 3.1 and 5.3.2)."""
        sigma = torch.randn(num, generator=generator, device=_device(generator)).sigmoid()
        return 1000 * self._shifted(sigma)

    def levels(self, t: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        sigma = t.float() / 1000
        return 1 - sigma, sigma

    def _shifted(self, sigma):
        return self.shift * sigma / (1 + (self.shift - 1) * sigma)


def dynamic_shift(config: Mapping[str, object], image_tokens: int) -> float:
    """The constant shift that diffusers' dynamic one is at a number of image tokens.

    It maps sigma to e^mu / (e^mu + 1 / sigma - 1) = e^mu sigma / (1 + (e^mu - 1) sigma), with mu linear in the tokens.
    Raises UserError for another map.
    """
    if (kind := config.get("time_shift_type", "exponential")) != "exponential":
        raise UserError(f"scheduler config: time_shift_type is {kind!r}, not exponential")
    low, high = (float(config.get(f"{end}_shift", value)) for end, value in (("base", 0.5), ("max", 1.15)))
    first, last = (int(config.get(f"{end}_image_seq_len", n)) for end, n in (("base", 256), ("max", 4096)))
    return math.exp(low + (high - low) * (image_tokens - first) / (last - first))


def _mixture(prediction: Prediction, alpha: Tensor, sigma: Tensor):
    """(p, q) of the denoiser's output p * x0 + q * eps."""
    match prediction:
        case "epsilon":
            return 0.0, 1.0
        case "flow":
            return -1.0, 1.0
        case "v_prediction":
            return -sigma, alpha
    raise UserError(f"unknown prediction {prediction!r}; known: {', '.join(get_args(Prediction))}")


def _alphas_cumprod(
    kind: str, beta_start: float, beta_end: float, num_train: int
) -> Float[Tensor, " {num_train}"]:
    power = 2 if kind == "scaled_linear" else 1
    roots = torch.linspace(beta_start ** (1 / power), beta_end ** (1 / power), num_train, dtype=torch.float64)
    return torch.cumprod(1 - roots**power, 0)


def _columns(levels: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Levels shaped to multiply n c h w latents."""
    return levels[0].view(-1, 1, 1, 1), levels[1].view(-1, 1, 1, 1)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _device(generator: torch.Generator | None) -> torch.device:
    return generator.device if generator is not None else torch.device("cpu")
