"""LPO's step the way its released code does it, to be timed against ours. Nothing but `bench compare` uses it.

    reference      a second copy of the whole denoiser (ours: adapters off)
    training       policy and reference run once for the winner and once for the loser, on the same input
    text           the reward encodes k prompts and k times "" for every prompt, at every step (ours: once)
    sure pairs     picked by boolean masks at every step, each of which waits for the device (ours: once a round)
    guidance       both branches in full (ours: what no prompt reaches yet is computed once for both)
    logging        nine numbers read back one by one in every pass (ours: all at once, per update)
    memory         the cache of free memory is emptied after every round

The maths is ours, so that gradients are equal: the likelihood ratio is formed without subtracting two log densities.
Not imitated: half-precision guidance of the reference, the clipping that never clips, gathering over processes. What
is ours below the denoiser's interface (adapter layers, memory format) serves both ways.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from lpobench import learning, sampling
from lpobench.learning import StepPairs
from lpobench.learning.batches import parts
from lpobench.plugin import MethodSettings, UserError
from lpobench.sampling import Policy
from lpobench.sampling.once import Once
from lpobench.slots import name_of
from lpobench.spec import RunSpec
from lpobench.timing.phases import flops_of, replaced
from lpobench.timing.workload import Workload
from lpobench.types import RewardModel

NUMBERS_READ = 9


@runtime_checkable
class StepPreference(Protocol):
    """What is read of LPO's settings."""

    beta: float
    ratio_clip: float | None
    min_gap: tuple[float, float]
    threshold: str
    num_candidates: int
    score_at: str
    timestep_range: tuple[float, float]
    inner_steps: int


class LatentNetwork(Protocol):
    """A latent reward's network: texts are encoded apart."""

    def encode_prompts(self, prompts: list[str]) -> tuple[Tensor, ...]: ...

    def __call__(
        self, latents: Tensor, t: Tensor, text: tuple[Tensor, ...], null: tuple[Tensor, ...]
    ) -> Tensor: ...


@runtime_checkable
class LatentReward(Protocol):
    """A live LRM."""

    model: LatentNetwork
    noise: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def check(spec: RunSpec) -> None:
    """Raises UserError where there is no released way to compare with."""
    method = spec.method
    if not isinstance(method, StepPreference) or method.inner_steps or method.score_at not in ("s", "t"):
        raise UserError(
            f"bench compare times LPO's released procedure, step-level DPO on forks; "
            f"method {name_of(method)} is another: use --method lpo"
        )
    if spec.parameters == "all":
        raise UserError(
            "bench compare times the released procedure, which trains a LoRA: leave train.parameters out"
        )


def reference_of(policy: Policy, spec: RunSpec) -> Policy:
    """A frozen policy on a full copy of the denoiser, without adapters."""
    backbone = copy.copy(policy.backbone)
    name = next(key for key, value in vars(backbone).items() if value is policy.backbone.denoiser)
    denoiser = copy.deepcopy(policy.backbone.denoiser)
    denoiser.unload_lora()
    setattr(backbone, name, denoiser)
    return Policy(backbone, spec.sampling, None, spec.seed)


@contextmanager
def in_full() -> Iterator[None]:
    """Inside, both halves of a guided batch are computed in full."""
    with replaced(Once, {"of_halves": lambda once, equal=True: nullcontext()}):
        yield


def loss(
    method: MethodSettings, policy: Policy, reference: Policy, rows: StepPairs
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """LPO's loss, with four forward passes."""
    ratios = []
    for x in (rows.winner, rows.loser):
        with torch.no_grad():
            old = reference.step(rows.latents, rows.t, rows.s, rows.prompts)
        new = policy.step(rows.latents, rows.t, rows.s, rows.prompts)
        ratios.append(learning.log_ratio(new, old, x))
    return learning.clipped_dpo(*ratios, method.beta, method.ratio_clip)


@dataclass(frozen=True)
class ReleasedWay:
    """The released update and round, on the parts of a workload."""

    load: Workload

    def update(self, reference: Policy, rows: StepPairs) -> Callable[[], object]:
        """One optimiser step on these rows."""
        loop, method = self.load.loop, self.load.spec.method

        def update() -> None:
            with in_full():
                accumulate()
            loop.optimizer.step()
            loop.optimizer.zero_grad()

        def accumulate() -> None:
            for part, share in parts(rows, loop.settings.minibatch):
                with loop.accelerator.autocast():
                    value, logs = loss(method, self.load.policy, reference, part)
                loop.accelerator.backward(share * value)
                numbers = [value.detach(), *logs.values()]
                for number in range(NUMBERS_READ):
                    numbers[number % len(numbers)].item()

        return update

    @torch.no_grad()
    def collect(self) -> StepPairs:
        """One round of sure pairs."""
        load, method = self.load, self.load.spec.method
        policy, device = load.policy, load.device
        load.restart()
        texts = load.loop.ctx.next_prompts()
        steps = sampling.stochastic_steps(policy, method.timestep_range)
        gaps = learning.min_gaps(method.threshold, method.min_gap, policy.timesteps, policy.stds)
        generator = torch.Generator(device).manual_seed(0)
        shape = (len(texts), *policy.backbone.latent_shape)
        latents = torch.randn(shape, generator=generator, device=device).to(policy.latent_dtype)
        found = []
        with load.loop.accelerator.autocast(), in_full():
            for index in range(steps[-1] + 1):
                t, s = (policy.grid[i].expand(len(texts)) for i in (index, index + 1))
                num = method.num_candidates if index >= steps[0] and policy.stds[index] > 0 else 1
                drawn = policy.step(latents, t, s, texts).sample(num, generator).to(policy.latent_dtype)
                if num > 1:
                    scores = self._scores(drawn, t if method.score_at == "t" else s, texts)
                    found.append(_sure(latents, t, s, drawn, scores, gaps[index], texts))
                chosen = torch.randint(num, (len(texts),), generator=generator, device=device)
                latents = drawn[chosen, torch.arange(len(texts), device=device)]
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return StepPairs.cat(found)

    @torch.no_grad()
    def encoding_flops(self) -> int:
        """Of a round's text encodings for the reward: at a low resolution they are most of it."""
        method, reward = self.load.spec.method, self.load.reward.reward
        texts = self.load.loop.ctx.next_prompts() * method.num_candidates
        scored = len(sampling.stochastic_steps(self.load.policy, method.timestep_range))
        return scored * flops_of(lambda: reward.model.encode_prompts(texts + [""] * len(texts)))

    def _scores(
        self, candidates: Float[Tensor, "k b c h w"], t: Float[Tensor, " b"], texts: list[str]
    ) -> Float[Tensor, "k b"]:
        """Made, and then replaced by random ones that are far apart, as in Decisive."""
        scores = latent_scores(self.load.reward.reward, candidates, t, texts)
        return self.load.reward.replaced(scores.flatten()).view_as(scores)


def latent_scores(
    reward: RewardModel, candidates: Float[Tensor, "k b c h w"], t: Float[Tensor, " b"], texts: list[str]
) -> Float[Tensor, "k b"]:
    """Of an LRM that encodes every prompt, and "", anew for every candidate. Raises UserError for another reward."""
    if not isinstance(reward, LatentReward):
        raise UserError(
            "bench compare needs a latent reward, such as lrm: the released way encodes its texts"
        )
    num = len(candidates)
    asked = texts * num
    encoded = reward.model.encode_prompts(asked + [""] * len(asked))
    text = type(encoded)(*(part[: len(asked)] for part in encoded))
    null = type(encoded)(*(part[-1] for part in encoded))
    latents, at = reward.noise(candidates.flatten(0, 1), t.repeat(num).clamp(min=0))
    return reward.model(latents, at, text, null).unflatten(0, (num, -1))


def _sure(
    latents: Float[Tensor, "b c h w"],
    t: Float[Tensor, " b"],
    s: Float[Tensor, " b"],
    candidates: Float[Tensor, "k b c h w"],
    scores: Float[Tensor, "k b"],
    min_gap: float,
    texts: list[str],
) -> StepPairs:
    """Best and worst where their margin is large enough; every mask is read back."""
    rows = torch.arange(len(texts), device=latents.device)
    winner, loser = candidates[scores.argmax(0), rows], candidates[scores.argmin(0), rows]
    sure = torch.tanh((scores.amax(0) - scores.amin(0)) / 2) > min_gap
    kept = [text for text, keep in zip(texts, sure.tolist(), strict=True) if keep]
    return StepPairs(latents[sure], t[sure], s[sure], winner[sure], loser[sure], kept)
