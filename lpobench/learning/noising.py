"""Preference pairs as diffusion losses look at them: both images of a pair with the same noise, at the same time.

Random numbers are drawn for the pairs of the whole round and kept for those of the shard.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lpobench.learning.objectives import denoising_errors
from lpobench.learning.rows import ImagePairs, NoisedPairs
from lpobench.sampling.noise import Noise
from lpobench.sampling.policy import Policy
from lpobench.types import Context


def noised(
    ctx: Context,
    pairs: ImagePairs,
    *,
    timestep_range: tuple[int, int] | None,
    caption_dropout: float,
    mirror: float,
) -> NoisedPairs:
    """The shard's pairs of this round, each with a timestep and noise.

    Timesteps are uniform over the whole numbers of `timestep_range`, ends included; where it is None, they are
    drawn as in the backbone's own training. A pair loses its caption with probability `caption_dropout`, and
    both its latents are mirrored left to right with probability `mirror`.
    """
    num, generator = ctx.num_pairs, ctx.generator
    dropped = torch.rand(num, generator=generator, device=generator.device) < caption_dropout
    noise = Noise.of(ctx.policy, num, generator)
    where = {"generator": noise.generator, "device": noise.device}
    if timestep_range is None:
        t = ctx.policy.backbone.schedule.random_timesteps(num, noise.generator)
    else:
        low, high = timestep_range
        t = torch.randint(low, high + 1, (num,), **where).float()
    mirrored = (torch.rand(num, **where) < mirror)[noise.mine].view(-1, 1, 1, 1)
    winner, loser = (torch.where(mirrored, x.flip(-1), x) for x in (pairs.winner, pairs.loser))
    captions = zip(pairs.prompts, dropped[noise.mine].tolist(), strict=True)
    return NoisedPairs(
        winner,
        loser,
        noise.normal(1, pairs.winner.shape[1:], torch.float32)[0],
        t[noise.mine],
        ["" if gone else caption for caption, gone in captions],
    )


def start_noise(ctx: Context) -> Float[Tensor, "n c h w"]:
    """Pure noise to sample from, for each of the shard's pairs of this round."""
    return Noise.of(ctx.policy, ctx.num_pairs, ctx.generator).start(ctx.policy, 1)[0]


def pair_errors(policy: Policy, rows: NoisedPairs) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Denoising errors of the winners and of the losers; one forward pass for both."""
    x0 = torch.cat([rows.winner, rows.loser])
    noise, t = rows.noise.repeat(2, 1, 1, 1), rows.t.repeat(2)
    winner, loser = denoising_errors(policy, x0, noise, t, rows.prompts * 2).chunk(2)
    return winner, loser


def denoising_gain(errors: Float[Tensor, " n"], reference: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Half of how much less a policy errs than its reference.

    That is Diffusion-DPO's log ratio (eq. 14) without the factors T, omega(t) and the number of elements, which
    the released code leaves to beta.
    """
    return (reference - errors) / 2
