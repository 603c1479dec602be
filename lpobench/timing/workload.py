"""What is timed: a run's own parts, set up as for training, with prompts and rows that are always the same.

Rounds and updates are those of the training loop (`Loop.collect`, `Loop.update`). Scores are made by the reward and
then replaced by random ones that are far apart: a reward with random weights prefers nothing, and every comparison
is decided. All of a round's rows are kept so; what share a real reward keeps is another figure.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lpobench.data.prompts import load_prompts
from lpobench.launch import memory
from lpobench.learning import ImagePairs
from lpobench.learning.loop import Loop
from lpobench.prepare import device_of, dtype_of
from lpobench.records.bench import Environment
from lpobench.sampling import Noisy, Policy
from lpobench.slots import name_of
from lpobench.spec import RunSpec
from lpobench.timing.environment import Watch
from lpobench.timing.phases import Phases, flops_of, replaced
from lpobench.types import Backbone, Context, RewardModel, Rows

LESS = "a smaller --batch or --resolution, a lower --dtype or train.gradient_checkpointing=true needs less"
PROMPTS = 64
SPREAD, NUMBERS = 100.0, 2**16
LEARNING_RATE = 1e-9
"""The same work as any other, and weights that stay where they are."""


class Decisive:
    """A reward whose scores are replaced by random ones that are far apart, unless `replaces` is off."""

    def __init__(self, reward: RewardModel) -> None:
        self.reward = reward
        self.latent_space, self.differentiable = reward.latent_space, reward.differentiable
        self.numbers = SPREAD * torch.randn(NUMBERS, generator=torch.Generator().manual_seed(0))
        self.taken = 0
        self.replaces = True

    def score(self, noisy: Noisy) -> Float[Tensor, " n"]:
        scores = self.look(noisy)
        return self.replaced(scores) if self.replaces else scores

    def look(self, noisy: Noisy) -> Float[Tensor, " n"]:
        """The reward's own scores."""
        return self.reward.score(noisy)

    def replaced(self, scores: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Others in their place, always in the same order, with nothing read from or sent to the device."""
        self.numbers = self.numbers.to(scores.device)
        start = self.taken % (NUMBERS - len(scores))
        self.taken += len(scores)
        return scores.nan_to_num() * 0 + self.numbers[start : start + len(scores)]


@dataclass(frozen=True)
class SamePairs:
    """Preference pairs of noise, for methods that are fed with pairs."""

    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return PROMPTS

    def rows(self, numbers: list[int]) -> ImagePairs:
        size = (2, len(numbers), *self.shape)
        winner, loser = torch.randn(size, generator=torch.Generator().manual_seed(0))
        return ImagePairs(winner, loser, prompts(len(numbers)))


def prompts(num: int) -> list[str]:
    """Training prompts of shapes world, which every backbone can encode."""
    return [prompt.text for prompt in load_prompts("shapes", "train", num, 0)]


@dataclass
class Workload:
    """The live parts of a run that is timed."""

    spec: RunSpec
    policy: Policy
    reward: Decisive | None
    watch: Watch
    folder: Path
    """Empty, and gone with the workload."""

    @cached_property
    def loop(self) -> Loop:
        """The training loop, about to begin."""
        return _loop(self.spec, self.policy, self.reward, self.folder)

    @property
    def backbone(self) -> Backbone:
        return self.policy.backbone

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    def collect(self) -> None:
        """One round of rows, with the prompts and random numbers of every other such round."""
        self.restart()
        self.loop.collect()

    def restart(self) -> None:
        """The next round is the first again."""
        self.loop.state.pending, self.loop.cursor.taken, self.loop.state.round = None, 0, 0
        self.loop.ctx.generator.manual_seed(0)
        if self.reward is not None:
            self.reward.taken = 0

    def rows(self, num: int) -> Rows:
        """So many rows of rounds like these, on the device."""
        found: list[Rows] = []
        while sum(map(len, found)) < num:
            self.loop.state.pending = None
            self.loop.collect()
            if self.loop.state.pending is not None:
                found.append(self.loop.state.pending)
        return type(found[0]).merge(found).take(torch.arange(num))

    def update(self, rows: Rows) -> Callable[[], object]:
        """One optimiser step on these rows."""

        def update() -> None:
            self.loop.state.pending = rows
            self.loop.update()

        return update

    def watched(self, phases: Phases) -> ExitStack:
        """The parts wrapped, until the stack is closed."""
        stack, backbone, loop = ExitStack(), self.backbone, self.loop
        denoiser = lambda: "forward" if torch.is_grad_enabled() else self._denoising(phases)
        networks = {
            "encode_prompt": phases.around("text encode", backbone.encode_prompt),
            "predict": phases.around(denoiser, backbone.predict),
            "decode": phases.around("VAE", backbone.decode),
        }
        stack.enter_context(replaced(backbone, networks))
        accelerator, optimizer = loop.accelerator, loop.optimizer
        backward = {
            "backward": phases.around("backward", accelerator.backward),
            "clip_grad_norm_": phases.around("optimizer", accelerator.clip_grad_norm_),
        }
        stack.enter_context(replaced(accelerator, backward))
        steps = {name: phases.around("optimizer", getattr(optimizer, name)) for name in ("step", "zero_grad")}
        stack.enter_context(replaced(optimizer, steps))
        feeds = {name: getattr(loop.ctx, name) for name in ("next_prompts", "next_pairs")}
        fed = {name: phases.around("data wait", call) for name, call in feeds.items() if call is not None}
        stack.enter_context(replaced(loop.ctx, fed))
        if self.reward is not None:
            stack.enter_context(replaced(self.reward, {"look": phases.around("reward", self.reward.look)}))
        return stack

    def _denoising(self, phases: Phases) -> str:
        """A forward pass without gradients: the reference's in an update, the rollout's elsewhere."""
        return "reference" if self.loop.state.pending is not None else "denoiser"

    def unit_flops(self) -> int:
        """Of one denoiser forward pass on one latent, unguided."""
        policy = self.policy
        latents, t = noise(1, self.backbone), torch.full((1,), policy.timesteps[0], device=self.device)
        policy.conditioning([""])
        with torch.no_grad():
            return flops_of(lambda: policy.predict(latents, t, [""]))

    def setup(self) -> dict[str, Any]:
        """What is timed, in the settings that decide its cost."""
        spec = self.spec
        return {
            "backbone": {"name": name_of(spec.backbone), **spec.backbone.model_dump(mode="json")},
            "method": {"name": name_of(spec.method), **spec.method.model_dump(mode="json")},
            "reward": None if spec.reward is None else name_of(spec.reward),
            "precision": spec.train.precision,
            "latent_shape": list(self.backbone.latent_shape),
            "sampling": spec.sampling.model_dump(mode="json"),
            **what_trains(spec),
            "prompts_per_round": spec.train.prompts_per_round,
            "rows_per_update": spec.train.minibatch * spec.train.gradient_accumulation,
            "minibatch": spec.train.minibatch,
            "gradient_checkpointing": spec.train.gradient_checkpointing,
        }

    def environment(self) -> Environment:
        return self.watch.environment()


@contextmanager
def workload(
    spec: RunSpec,
    *,
    allow_busy: bool = False,
    release: bool = True,
    parts: tuple[Backbone, RewardModel | None] | None = None,
) -> Iterator[Workload]:
    """A run's parts, loaded, or those given, from which the adapter is taken again. Raises UserError.

    With `release`, text encoders are freed where the run would free them. Nothing is written but to a folder that is
    gone afterwards.
    """
    device = device_of(spec)
    watch = Watch(device, allow_busy=allow_busy or parts is not None)
    with memory.explained(f"timing {name_of(spec.backbone)}", LESS), tempfile.TemporaryDirectory() as folder:
        backbone, live = parts or load_parts(spec)
        reward = None if live is None else Decisive(live)
        parameters = spec.parameters if spec.method.trains else None
        policy = Policy(backbone, spec.sampling, parameters, spec.seed, spec.train.sharding)
        spec.method.check(policy, reward)
        if release and spec.backbone.releases_text_encoders:
            policy.remember(["", *prompts(max(PROMPTS, spec.train.prompts_per_round))])
            backbone.release_text_encoders()
        yield Workload(spec, policy, reward, watch, Path(folder))
        if parts is not None and policy.trained:
            backbone.denoiser.unload_lora()


def load_parts(spec: RunSpec) -> tuple[Backbone, RewardModel | None]:
    """The run's backbone and its reward, if it has one."""
    device, dtype = device_of(spec), dtype_of(spec)
    backbone = spec.backbone.load(device, dtype)
    return backbone, spec.reward.load(backbone, device, dtype) if spec.reward else None


def _loop(spec: RunSpec, policy: Policy, reward: RewardModel | None, folder: Path) -> Loop:
    backbone = policy.backbone
    pairs = SamePairs(backbone.latent_shape) if "pairs" in spec.method.needs else None
    generator = torch.Generator().manual_seed(0)
    quiet = {"num_updates": 1, "learning_rate": LEARNING_RATE, "warmup_updates": 0}
    settings = spec.train.model_copy(update=quiet)
    return Loop.start(
        spec.method,
        Context(policy=policy, generator=generator, reward=reward),
        settings,
        folder,
        seed=0,
        prompts=prompts(max(PROMPTS, settings.prompts_per_round)),
        pairs=pairs,
        fingerprint="bench",
    )


def what_trains(spec: RunSpec) -> dict[str, Any]:
    """Of a measurement's setup: the rank of the adapter, or that there is none."""
    return {"trained": "all weights"} if spec.parameters == "all" else {"lora_rank": spec.lora.rank}


def noise(num: int, backbone: Backbone) -> torch.Tensor:
    """Latents of pure noise, always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn((num, *backbone.latent_shape), generator=generator).to(backbone.device)


def parts_of(holder: object) -> dict[str, nn.Module]:
    """The networks a live object holds by now, by the names of its attributes."""
    return {name: part for name, part in vars(holder).items() if isinstance(part, nn.Module)}


def count(module: nn.Module) -> int:
    """Parameters, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())
