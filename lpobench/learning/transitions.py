"""DPO on pairs of steps that start from different latents: D3PO, and SPO where chains run several steps."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lpobench.learning.objectives import clipped_dpo, log_ratio
from lpobench.learning.preference import decided
from lpobench.learning.rows import TransitionPairs
from lpobench.sampling.policy import Policy
from lpobench.sampling.rollout import Path


def path_pairs(
    path: Path, scores: Float[Tensor, "k b"], steps: Sequence[int], min_gap: float = 0.0
) -> TransitionPairs:
    """The given steps of each prompt's best and worst path, step by step, where these are `decided`, so never where
    the scores all agree. The device is read here, once.
    """
    best, worst = scores.argmax(0), scores.argmin(0)
    prompts = decided(scores, min_gap).nonzero().flatten()
    rows = torch.tensor(steps, device=scores.device)[:, None]
    grid = torch.tensor(path.timesteps, device=scores.device)
    of = lambda index, k: path.latents[index, k[prompts], prompts].flatten(0, 1)
    return TransitionPairs(
        of(rows, best),
        of(rows + 1, best),
        of(rows, worst),
        of(rows + 1, worst),
        grid[rows[:, 0]].repeat_interleave(len(prompts)),
        grid[rows[:, 0] + 1].repeat_interleave(len(prompts)),
        [path.prompts[number] for number in prompts.tolist()] * len(steps),
    )


def transition_dpo(
    policy: Policy, rows: TransitionPairs, beta: float, eps: float | None
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """learning.clipped_dpo of the two steps of each row: one policy and one reference pass, winners and losers
    together.
    """
    latents = torch.cat([rows.winner_latents, rows.loser_latents])
    t, s, prompts = rows.t.repeat(2), rows.s.repeat(2), rows.prompts * 2
    with policy.reference() as reference:
        ref = reference.step(latents, t, s, prompts)
    new = policy.step(latents, t, s, prompts)
    ratios = log_ratio(new, ref, torch.cat([rows.winner, rows.loser]))
    return clipped_dpo(*ratios.chunk(2), beta, eps)
