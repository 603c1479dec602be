"""Fixtures of the whole suite: the Gaussian backbone, whose right answers are known, and rewards that rank by
mean.
"""

import os
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of started processes: tests run side by side
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from backbones.gaussian import Gaussian
from lpobench.launch.ranks import part
from lpobench.learning import ImagePairs
from lpobench.sampling import Policy, RectifiedFlow, VariancePreserving
from lpobench.types import Context

torch.set_num_threads(1)

SCHEDULES = {
    "epsilon": VariancePreserving.scaled_linear(),
    "v_prediction": VariancePreserving.scaled_linear(prediction="v_prediction"),
    "flow": RectifiedFlow(),
}


@pytest.fixture(autouse=True, scope="session")
def no_forks():
    """Of a process that has run torch: the copy lacks its threads, and may crash or wait for them for ever."""

    def refuse():
        raise AssertionError("a test forks its own process; see processes.py")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fork", refuse)
        yield


@pytest.fixture(params=SCHEDULES)
def schedule(request):
    """Each kind of path and prediction."""
    return SCHEDULES[request.param]


@pytest.fixture
def make_policy():
    """A policy on a Gaussian backbone: 20 unguided ddim steps at eta 1 with an adapter, unless told
    otherwise; `whole` trains its one weight instead.
    """

    def make(schedule="epsilon", *, adapter=True, whole=False, dtype=torch.float32, **sampling) -> Policy:
        schedule = SCHEDULES[schedule] if isinstance(schedule, str) else schedule
        settings = {"num_steps": 20, "guidance_scale": 1.0, "rule": "ddim", "eta": 1.0} | sampling
        lora = SimpleNamespace(rank=1, alpha=None, init="gaussian") if adapter else None
        return Policy(Gaussian(schedule, dtype=dtype), SimpleNamespace(**settings), "all" if whole else lora)

    return make


class MeanReward:
    """Prefers larger latents, measured in units of the clean image: 8 times their mean over alpha."""

    latent_space = "gaussian"
    differentiable = True

    def __init__(self):
        self.times = []

    def score(self, noisy):
        self.times.append(noisy.t)
        alpha, _ = noisy.policy.backbone.schedule.levels(noisy.t)
        return 8 * noisy.latents.float().mean((1, 2, 3)) / alpha.clamp(min=0.1)


class PixelReward:
    """Prefers brighter x0 estimates: asks for one denoiser call and one decode."""

    latent_space = None
    differentiable = True

    def score(self, noisy):
        return 40 * noisy.images.mean((1, 2, 3))


@pytest.fixture
def latent_reward():
    return MeanReward()


@pytest.fixture
def pixel_reward():
    return PixelReward()


@pytest.fixture
def make_context(latent_reward):
    """What a method is given: a seeded generator, and always the same prompts, or pairs of which the larger
    latents win.
    """

    def make(policy, *, reward=None, seed=0, num_prompts=4):
        prompts = ["1", "-1"] * (num_prompts // 2)
        shape, backbone = (num_prompts, *policy.backbone.latent_shape), policy.backbone
        drawn = torch.Generator().manual_seed(99)
        x0 = torch.tensor([float(p) for p in prompts]).view(
            -1, 1, 1, 1
        ) + backbone.denoiser.scale.item() * torch.randn(shape, generator=drawn)
        pairs = ImagePairs(x0 + 0.5, x0 - 0.5, prompts)
        return Context(
            policy,
            torch.Generator().manual_seed(seed),
            reward or latent_reward,
            next_prompts=lambda: list(prompts),
            next_pairs=lambda: pairs.take(torch.arange(num_prompts)[part(num_prompts, *policy.shard)]),
            num_pairs=num_prompts,
        )

    return make


@pytest.fixture
def count_forwards():
    """Counts the denoiser's forward passes independently of the policy's own counter."""

    def count(policy):
        forwards = []
        policy.backbone.denoiser.register_forward_hook(
            lambda module, args, output: forwards.append(len(output))
        )
        return forwards

    return count


class DeviceReads(TorchDispatchMode):
    """Lists operations that would make the CPU wait for a GPU: scalars read, masks turned into indices."""

    def __init__(self):
        super().__init__()
        self.reads = []

    def __enter__(self):
        super().__enter__()
        return self.reads

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.name()
        masks = name.startswith("aten::index") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in args[1]
        )
        if masks or name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"):
            self.reads.append(name)
        return operation(*args, **(kwargs or {}))


@pytest.fixture
def device_reads():
    """A context that lists reads of the device."""
    return DeviceReads
