"""Denoising Diffusion Policy Optimization (DDPO), arXiv:2305.13301, with its importance-sampled estimator.

Numbers from the released code, made for 50 steps at eta 1 and guidance 5 in sampling and in training, learning
rate 3e-4, and two to four updates on the 256 paths of a round: `train.minibatch` counts the steps of these paths.

Differs from the released code: it keeps mean and std of a prompt's last 16 scores (32 for two of its rewards), over
rounds, and takes the batch's until there are 16. Here a prompt has k paths in one round and its statistics are theirs;
`normalisation = "batch"` is the fallback, in every round.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from methods.path_gradient import PathGradient


class DDPO(PathGradient):
    """Denoising Diffusion Policy Optimization, arXiv:2305.13301: policy gradient on all steps of whole paths."""

    num_paths: Annotated[int, Field(ge=2)] = 16
    """k, trajectories per prompt"""
    normalisation: Literal["group", "batch", "mixed"] = "group"
    """mean and std that make scores advantages: the prompt's, the round's, or its mean and the round's std"""
