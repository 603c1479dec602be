"""DiNa-LRM's head: learned queries read the tapped tokens (sec. 3; released code, which says what the paper omits).

    adapted = W_out (x (1 + gamma(temb)) + beta(temb) + layer)       of every tap, width / 4
    tokens  = W_agg [adapted of all taps, side by side]              visual and text apart
    queries + attention over visual + attention over text            two softmaxes, values gated, summed
    queries + attention over visual
    queries + FFN                                                    score = mean over queries of w . query

gamma and beta start at 0, gates at 0.5. Parameters are named as in the released `rm_head.pt`, which fits as it is.
Differs from the released code: float32 throughout. Scores of 16 bits near 10 would be 0.06 apart.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lpobench.plugin import UserError
from rewards.dina.trunk import Tapped

EMBEDDING_STD = 0.02


class Film(nn.Module):
    """One tap's tokens under the timestep: `token_dim` in, a quarter of `width` out."""

    def __init__(self, token_dim: int, width: int, *, proj_in: bool):
        super().__init__()
        needed = proj_in or token_dim != width
        self.proj_in = nn.Linear(token_dim, width) if needed else nn.Identity()
        self.cond_mlp = nn.Sequential(
            nn.Linear(token_dim, 2 * width), nn.SiLU(), _zeros(nn.Linear(2 * width, 2 * width))
        )
        self.layer_embed = nn.Parameter(EMBEDDING_STD * torch.randn(1, 1, width))
        self.proj = nn.Linear(width, width // 4)

    def forward(
        self, tokens: Float[Tensor, "n tokens dim"], temb: Float[Tensor, "n dim"]
    ) -> Float[Tensor, "n tokens quarter"]:
        gamma, beta = self.cond_mlp(temb)[:, None].chunk(2, -1)
        return self.proj(self.proj_in(tokens) * (1 + gamma) + beta + self.layer_embed)


class CrossAttention(nn.Module):
    """Pre-norm attention of queries over visual tokens and, where `reads_text`, text: residual on the queries."""

    def __init__(self, width: int, num_heads: int, *, reads_text: bool):
        super().__init__()
        self.num_heads, self.reads_text = num_heads, reads_text
        self.norm_q, self.norm_v = nn.RMSNorm(width), nn.RMSNorm(width)
        self.to_q, self.to_k_vis, self.to_v_vis = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.Sequential(nn.Linear(width, width))
        if reads_text:
            self.norm_t = nn.RMSNorm(width)
            self.to_k_text, self.to_v_text = nn.Linear(width, width), nn.Linear(width, width)
            self.gate_vis, self.gate_text = _gate(width), _gate(width)

    def forward(
        self,
        queries: Float[Tensor, "n q width"],
        visual: Float[Tensor, "n tokens width"],
        text: Float[Tensor, "n words width"],
    ) -> Float[Tensor, "n q width"]:
        asked, visual = self.to_q(self.norm_q(queries)), self.norm_v(visual)
        values = self.to_v_vis(visual)
        if not self.reads_text:
            return queries + self.to_out(self._attend(asked, self.to_k_vis(visual), values))
        seen = self._attend(asked, self.to_k_vis(visual), values * self.gate_vis(visual).sigmoid())
        text = self.norm_t(text)
        values = self.to_v_text(text) * self.gate_text(text).sigmoid()
        return queries + self.to_out(seen + self._attend(asked, self.to_k_text(text), values))

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Float[Tensor, "n q width"]:
        heads = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (queries, keys, values))
        return F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)


class Head(nn.Module):
    """See the module. One pass: `decode(*tokens(tapped))`; several: their tokens end to end, decoded once."""

    def __init__(
        self,
        token_dim: int,
        num_visual: int,
        num_text: int,
        *,
        width: int | None = None,
        num_queries: int = 4,
        num_heads: int = 8,
        proj_in: bool = False,
    ):
        """`width` is the tokens' where it is None. Raises UserError where it does not split into heads."""
        super().__init__()
        width = token_dim if width is None else width
        if width % 4 or width % num_heads:
            raise UserError(
                f"a head of width {width} should be a multiple of 4 and of its heads, {num_heads}"
            )
        films = lambda num: nn.ModuleList([Film(token_dim, width, proj_in=proj_in) for _ in range(num)])
        self.layer_adapters_visual, self.layer_adapters_text = films(num_visual), films(num_text)
        self.agg_visual = nn.Linear(num_visual * (width // 4), width)
        self.agg_text = nn.Linear(num_text * (width // 4), width)
        self.query_tokens = nn.Parameter(EMBEDDING_STD * torch.randn(1, num_queries, width))
        self.attn1 = CrossAttention(width, num_heads, reads_text=True)
        self.attn2 = CrossAttention(width, num_heads, reads_text=False)
        self.norm_ff = nn.RMSNorm(width)
        self.ff = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.head = nn.Linear(width, 1)

    def tokens(
        self, tapped: Tapped
    ) -> tuple[Float[Tensor, "n tokens width"], Float[Tensor, "n words width"]]:
        """What the queries read: visual and text."""
        with torch.autocast(tapped.temb.device.type, enabled=False):
            temb = tapped.temb.float()
            visual = _adapted(self.layer_adapters_visual, tapped.visual, temb)
            text = _adapted(self.layer_adapters_text, tapped.text, temb)
            return self.agg_visual(visual), self.agg_text(text)

    def decode(
        self, visual: Float[Tensor, "n tokens width"], text: Float[Tensor, "n words width"]
    ) -> Float[Tensor, " n"]:
        """Raw scores."""
        with torch.autocast(visual.device.type, enabled=False):
            queries = self.query_tokens.expand(len(visual), -1, -1)
            queries = self.attn2(self.attn1(queries, visual, text), visual, text)
            queries = queries + self.ff(self.norm_ff(queries))
            return self.head(queries)[..., 0].mean(1)


class Logistic(nn.Module):
    """Scores squeezed into (-2, 2), 0 staying 0 until `eta3` moves; slope and centre can be trained.

        y = (eta1 - eta2) / (1 + exp(-(x - eta3) / (|eta4| + 1e-6))) + eta2        eta1 = 2, eta2 = -2

    In the released code, off and part of its unreleased second stage.
    """

    high, low = 2.0, -2.0

    def __init__(self):
        super().__init__()
        self.eta3, self.eta4 = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.tensor(0.15))

    def forward(self, scores: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return (self.high - self.low) * ((scores - self.eta3) / (self.eta4.abs() + 1e-6)).sigmoid() + self.low


def _adapted(films: Iterable[Film], taps: list[Tensor], temb: Tensor) -> Float[Tensor, "n tokens quarters"]:
    return torch.cat([film(tap.float(), temb) for film, tap in zip(films, taps, strict=True)], -1)


def _gate(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.SiLU(), _zeros(nn.Linear(width, 1)))


def _zeros(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
