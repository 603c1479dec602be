"""Candidates that go several steps on their own before they are compared (SPO's SDXL variant)."""

from collections.abc import Iterator
from typing import Literal

import torch

from lpobench.sampling.noise import Noise
from lpobench.sampling.policy import Policy
from lpobench.sampling.rollout import Noisy, Path, walk


def chains(
    policy: Policy,
    prompts: list[str],
    num_chains: int,
    generator: torch.Generator,
    *,
    length: int,
    first: int = 0,
    last: int | None = None,
    score_at: Literal["t", "s", "0"] = "s",
) -> Iterator[Path]:
    """Denoise from pure noise, splitting every `length` steps into k chains and following a random one's end.

    A path holds the steps from one split to the next, so only its first x_t is common to the k of a prompt. The
    last may be shorter: the rollout ends with step `last` (default: the last stochastic one). All else is as in
    `forks`, which this is at length 1.
    """
    noise = Noise.of(policy, len(prompts), generator)
    prompts, k = prompts[noise.mine], num_chains
    b, grid, latents, estimate = len(prompts), policy.grid, noise.start(policy, 1)[0], None
    rows = torch.arange(b, device=latents.device)
    stochastic = [i for i, std in enumerate(policy.stds) if std > 0 and (last is None or i <= last)]
    end = stochastic[-1] + 1 if stochastic else 0
    if 0 < first < end:
        latents = walk(policy, noise, latents[None], prompts, range(first), policy.stds)[0][-1, 0]
    for begin in range(first, end, length):
        stop = min(begin + length, end)
        if estimate is None:
            estimate = policy.denoise(latents, grid[begin].expand(b), prompts)
        x0, eps = (part.repeat(k, 1, 1, 1) for part in estimate)
        start, steps = latents.repeat(k, 1, 1, 1, 1), range(begin, stop)
        visited, logprobs = walk(policy, noise, start, prompts, steps, policy.stds, (x0, eps))
        told = {"t": grid[stop - 1], "s": grid[stop], "0": torch.zeros_like(grid[stop])}[score_at]
        noisy = Noisy(visited[-1].flatten(0, 1), told.expand(k * b), prompts * k, policy)
        timesteps, stds = policy.timesteps[begin : stop + 1], policy.stds[begin:stop]
        yield Path(timesteps, stds, visited, logprobs, noisy, prompts)

        chosen = noise.choose(k)
        latents = visited[-1, chosen, rows]
        estimate = noisy.estimate_of(chosen) if score_at == "s" else None
