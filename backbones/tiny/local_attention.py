"""Attention that begins as a convolution: each head looks at one neighbour of its token, as in arXiv:2404.01139.

A transformer has to learn first which tokens are close, and on few and small pictures that takes it longer than all the
rest. Queries and keys are fitted there; here they are written down: sine and cosine of a neighbour's place are a
rotation of a token's own. Nothing is fixed: training goes on from here as from any other start.
"""

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor

NEIGHBOURS = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1))
"""Rows down, columns to the right."""
FREE_HEADS = 2
"""Of each block, drawn as usual: for text, and for what is far away."""
SHARPNESS = 2.5
"""Weight of the norms of queries and keys; attention is sharper with its square."""
FALLOFF = 0.62
"""Each frequency that is looked at is about this part of the one before; the first is one radian per token."""


@torch.no_grad()
def look_at_neighbours(transformer: SD3Transformer2DModel) -> None:
    """Write queries and keys of all blocks; the position's chosen channels are left to the position alone."""
    config, width = transformer.config, transformer.inner_dim
    size, heads = config.attention_head_dim, config.num_attention_heads - FREE_HEADS
    rates = 10000.0 ** -(torch.arange(width // 4) / (width // 4))
    wanted = FALLOFF ** torch.arange(size // 4)
    chosen = (rates[:, None] - wanted).abs().argmin(0)
    sines = torch.cat([chosen, chosen + width // 2])  # of columns, then of rows; cosines a quarter later
    transformer.pos_embed.proj.weight[torch.cat([sines, sines + width // 4])] = 0
    transformer.pos_embed.proj.bias[torch.cat([sines, sines + width // 4])] = 0
    keys = _rotation(sines, torch.zeros(size // 2), width)
    for number, block in enumerate(transformer.transformer_blocks):
        attention = block.attn
        for head in range(heads):
            down, right = NEIGHBOURS[(number * heads + head) % len(NEIGHBOURS)]
            angles = torch.cat([right * rates[chosen], down * rates[chosen]])
            rows = slice(head * size, (head + 1) * size)
            attention.to_q.weight[rows], attention.to_k.weight[rows] = _rotation(sines, angles, width), keys
            attention.to_q.bias[rows], attention.to_k.bias[rows] = 0, 0
        attention.norm_q.weight.fill_(SHARPNESS)
        attention.norm_k.weight.fill_(SHARPNESS)


def _rotation(sines: Tensor, angles: Tensor, width: int) -> Tensor:
    """(2 n, width): takes the n sines and cosines out of an embedding, turned by the angles."""
    cosines, pairs = sines + width // 4, torch.arange(len(sines))
    matrix = torch.zeros(len(sines), 2, width)
    matrix[pairs, 0, sines], matrix[pairs, 0, cosines] = angles.cos(), angles.sin()
    matrix[pairs, 1, cosines], matrix[pairs, 1, sines] = angles.cos(), -angles.sin()
    return matrix.flatten(0, 1)
