"""How well rewards foretell what becomes of a step's candidates: measured where methods choose by them.

Each candidate of a fork is sampled to its end at eta 0; evaluators score the finished images, and so do the rewards
themselves, as one more metric each: what a reward cannot foretell of its own last word, it cannot train. For every t:

    accuracy   share of a fork's pairs of candidates, those that end up different in the metric, that the reward
               ranks as they end up; equal rewards count one half
    gain       the metric of the image of the candidate with the highest reward, less that of the one with the lowest
    most       the same by the metric itself: what no choice at this step can exceed

Standard errors are clustered by prompt. Metrics of which less is better are negated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64

from lpobench.plugin import UserError
from lpobench.sampling import Fork, Noisy, Policy, at_eta_0, forks
from lpobench.scoring.evaluate import metric_columns, score_images
from lpobench.scoring.pair_statistics import mean_and_error
from lpobench.types import Evaluator, Prompt, RewardModel

Scores = Float64[np.ndarray, "k prompts"]
FINISHED = ", finished"
"""After a reward's name: its own score of the finished images, as a metric."""


@dataclass
class Candidates:
    """Scores of the candidates of all forks that were looked at, by step and by name."""

    prompts: list[str] = field(default_factory=list)
    rewards: dict[tuple[int, str], list[Scores]] = field(default_factory=dict)
    metrics: dict[tuple[int, str], list[Scores]] = field(default_factory=dict)


def chosen_steps(policy: Policy, every: int) -> list[int]:
    """Every so many of the policy's stochastic steps, the noisiest first. Raises UserError where there is none."""
    stochastic = [step for step, std in enumerate(policy.stds) if std > 0]
    if not stochastic:
        raise UserError(
            f"sampling.eta {policy.eta}: no step is stochastic, and candidates do not differ; use 1"
        )
    return stochastic[::every]


@torch.no_grad()
def look_ahead(
    rewards: Mapping[str, RewardModel],
    evaluators: Mapping[str, Evaluator],
    policy: Policy,
    prompts: Sequence[str],
    steps: Sequence[int],
    *,
    num_candidates: int = 4,
    seed: int = 0,
    batch_size: int = 16,
    advance: Callable[[int], None] = lambda count: None,
) -> Candidates:
    """Fork at every stochastic step up to the last of `steps`, and look at the forks of `steps`.

    `advance` is told of every fork. With a batch of b prompts, b * k latents are in memory.
    """
    found, generator = Candidates(list(prompts)), torch.Generator().manual_seed(seed)
    for start in range(0, len(prompts), batch_size):
        batch = list(prompts[start : start + batch_size])
        with policy.rollout():
            for fork in forks(policy, batch, num_candidates, generator, last=max(steps)):
                if fork.index in steps:
                    _look(found, fork, rewards, evaluators, policy)
                    advance(len(batch))
    return found


def foresight(found: Candidates, policy: Policy) -> pd.DataFrame:
    """Columns t (the step's), reward, metric, accuracy, accuracy_se, pairs, gain, gain_se, most. A fork with a score
    that is not finite is left out.
    """
    rows = []
    for (step, reward), scores in found.rewards.items():
        for metric in dict.fromkeys(name for place, name in found.metrics if place == step):
            ends = np.concatenate(found.metrics[step, metric], 1)
            about = {"t": f"{policy.timesteps[step]:g}", "reward": reward, "metric": metric}
            rows.append(about | _compared(np.concatenate(scores, 1), ends, np.array(found.prompts)))
    return pd.DataFrame(rows).sort_values("metric", kind="stable").reset_index(drop=True)


def _look(
    found: Candidates,
    fork: Fork,
    rewards: Mapping[str, RewardModel],
    evaluators: Mapping[str, Evaluator],
    policy: Policy,
) -> None:
    shape = fork.candidates.shape[:2]
    latents = at_eta_0(
        policy, fork.candidates.flatten(0, 1), fork.noisy.prompts, policy.grid[fork.index + 1 :]
    )
    ended = Noisy.finished(latents, fork.noisy.prompts, policy)
    for name, reward in rewards.items():
        now, then = (reward.score(rows).double().cpu().numpy().reshape(shape) for rows in (fork.noisy, ended))
        found.rewards.setdefault((fork.index, name), []).append(now)
        found.metrics.setdefault((fork.index, f"{name}{FINISHED}"), []).append(then)
    images = (ended.images.float() * 255).round() / 255
    prompts = [Prompt(text, "") for text in fork.noisy.prompts]
    columns = metric_columns(evaluators)
    for owner, evaluator in evaluators.items():
        table = score_images(owner, evaluator, images, prompts)
        for metric, meaning in evaluator.metrics.items():
            ends = table[metric].to_numpy(float).reshape(shape)
            place = fork.index, columns[owner, metric]
            found.metrics.setdefault(place, []).append(ends if meaning.higher_is_better else -ends)


def _compared(scores: Scores, ends: Scores, prompts: np.ndarray) -> dict[str, float]:
    """One reward against one metric at one step."""
    whole = np.isfinite(scores).all(0) & np.isfinite(ends).all(0)
    scores, ends, prompts = scores[:, whole], ends[:, whole], prompts[whole]
    first, second = np.array(list(combinations(range(len(scores)), 2))).T
    wanted, given = np.sign(ends[first] - ends[second]), np.sign(scores[first] - scores[second])
    right = np.where(wanted == 0, np.nan, 0.5 + 0.5 * wanted * given)
    accuracy, accuracy_se, pairs = mean_and_error(right.ravel(), np.tile(prompts, len(first)))
    rows = np.arange(len(prompts))
    gains = ends[scores.argmax(0), rows] - ends[scores.argmin(0), rows]
    gain, gain_se, _ = mean_and_error(gains, prompts)
    most = float((ends.max(0) - ends.min(0)).mean()) if len(prompts) else np.nan
    return {
        "accuracy": accuracy,
        "accuracy_se": accuracy_se,
        "pairs": pairs,
        "gain": gain,
        "gain_se": gain_se,
        "most": most,
    }
