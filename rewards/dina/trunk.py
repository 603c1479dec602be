"""The first blocks of the policy's own transformer, and what comes out of some of them (DiNa-LRM sec. 3).

The released code puts its adapter `rm_lora` on the policy's transformer and switches adapters around every score.
Here the reward has modules of its own whose weights are the policy's, the same memory, and `rm_lora` is a peft
adapter on those. Nothing is switched, so nothing can be left switched: the policy's adapter, its reference, the
list of what it trains and what it exports never meet the reward's. What is shared is seen changing, though: a
checkpoint put onto the policy would change every score, and is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from diffusers import SD3Transformer2DModel
from jaxtyping import Float
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lpobench.plugin import UserError
from lpobench.weights import base_weights

ADAPTER = "rm_lora"
ADDED = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", *ADDED)
"""Layers of a block that are adapted; `ADDED` are the text tokens' (released code)."""


@dataclass(frozen=True)
class Depth:
    """How many blocks are kept, and which outputs are read: counted from 1, 0 is the block's first input."""

    layers: int
    visual: tuple[int, ...]
    text: tuple[int, ...]

    @classmethod
    def of(
        cls, num_blocks: int, layers: int | None, visual: tuple[int, ...] | None, text: tuple[int, ...] | None
    ) -> Self:
        """As asked, or as published by fractions: half of the blocks, read after each third of those.

        24 blocks: 12, read after 4, 8 and 12. Raises UserError for what the transformer does not have.
        """
        layers = max(1, num_blocks // 2) if layers is None else layers
        thirds = tuple(sorted({-(-layers * part // 3) for part in (1, 2, 3)}))
        depth = cls(layers, thirds if visual is None else visual, thirds if text is None else text)
        depth.check(num_blocks)
        return depth

    def check(self, num_blocks: int) -> None:
        """Raises UserError for what a transformer of so many blocks does not have."""
        if not 1 <= self.layers <= num_blocks:
            raise UserError(f"training.layers {self.layers}: the transformer has {num_blocks} blocks")
        for name, taps in (("visual", self.visual), ("text", self.text)):
            if not taps or list(taps) != sorted(set(taps)) or not 0 <= taps[0] <= taps[-1] <= self.layers:
                raise UserError(
                    f"training.{name}_taps {list(taps)}: should be one or more of 0 to {self.layers}, ascending"
                )
        if num_blocks in self.text:
            raise UserError(f"training.text_taps: no text comes out of the last block, {num_blocks}")


class Tapped(NamedTuple):
    """What a head reads of one pass."""

    visual: list[Float[Tensor, "n tokens width"]]
    text: list[Float[Tensor, "n words width"]]
    temb: Float[Tensor, "n width"]
    """Embedding of the timestep and the pooled text."""


class Trunk(nn.Module):
    """Frozen blocks and the adapter. `checkpointing` saves a training's memory, and costs a second forward."""

    def __init__(self, source: SD3Transformer2DModel, depth: Depth, *, shared: bool):
        """With `shared` the source's weights themselves, else a copy in float32."""
        super().__init__()
        depth.check(len(source.transformer_blocks))
        self.depth, self.checkpointing = depth, False
        weights = base_weights(source)
        self._watched = list(weights.values()) if shared else []
        self._versions = self._count_versions()
        self.transformer = _empty(source, depth.layers)
        chosen = {
            key: weights[key] if shared else weights[key].to(torch.float32, copy=True)
            for key in self.transformer.state_dict()
        }
        self.transformer.load_state_dict(chosen, assign=True)
        self.requires_grad_(False)

    @property
    def width(self) -> int:
        return self.transformer.inner_dim

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen blocks."""
        return self.transformer.context_embedder.weight.dtype

    def adapt(self, rank: int, alpha: int, names: list[str] | None = None) -> None:
        """Add the adapter: its matrices in float32, of the global generator, a no-op until they are trained.

        `names`: the layers it is on; by default the published ones, see `targets`.
        """
        config = LoraConfig(
            r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=names or self.targets()
        )
        self.transformer.add_adapter(config, ADAPTER)
        self.cast_adapter(torch.float32)

    def targets(self) -> list[str]:
        """Linear layers to adapt. Where no text is read after the last block, its text layers are left out."""
        last = f"transformer_blocks.{self.depth.layers - 1}."
        unread = self.depth.text[-1] < self.depth.layers
        return [
            name
            for name, module in self.transformer.named_modules()
            if isinstance(module, nn.Linear)
            and name.endswith(tuple(f".{target}" for target in TARGETS))
            and not (unread and name.startswith(last) and name.endswith(ADDED))
        ]

    def adapter(self) -> dict[str, nn.Parameter]:
        """The adapter's matrices by their name, which does not hold the adapter's."""
        named = self.transformer.named_parameters()
        return {name.replace(f".{ADAPTER}.", "."): value for name, value in named if f".{ADAPTER}." in name}

    def cast_adapter(self, dtype: torch.dtype) -> None:
        """Its matrices, rounded: what is trained is float32, what only scores computes as the blocks do."""
        for parameter in self.adapter().values():
            parameter.data = parameter.data.to(dtype)

    def merge(self) -> None:
        """Fold the adapter into the weights, which must be a copy; there is none from then on."""
        assert not self._watched
        for name, layer in list(self.transformer.named_modules()):
            if isinstance(layer, LoraLayer):
                layer.merge()
                self.transformer.set_submodule(name, layer.get_base_layer())

    def check_unchanged(self) -> None:
        """Raises UserError when shared weights were written to since they were shared."""
        if self._count_versions() != self._versions:
            raise UserError(
                "the backbone's weights, which reward dina shares, were replaced by others; set reward.shared to false"
            )

    def forward(
        self,
        latents: Float[Tensor, "n c h w"],
        t: Float[Tensor, " n"],
        context: Float[Tensor, "n words joint"],
        pooled: Float[Tensor, "n pooled"],
    ) -> Tapped:
        """As the whole transformer begins; `t` is 1000 sigma."""
        transformer, depth = self.transformer, self.depth
        hidden = transformer.pos_embed(latents.to(self.dtype)).contiguous()
        temb = transformer.time_text_embed(t, pooled.to(self.dtype))
        words = transformer.context_embedder(context.to(self.dtype))
        visual, text = {0: hidden}, {0: words}
        for number, block in enumerate(transformer.transformer_blocks, 1):
            words, hidden = self._run(block, hidden, words, temb)
            visual[number], text[number] = hidden, words
        return Tapped([visual[tap] for tap in depth.visual], [text[tap] for tap in depth.text], temb)

    def _run(self, block: nn.Module, hidden: Tensor, words: Tensor, temb: Tensor) -> tuple[Tensor, Tensor]:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, hidden, words, temb, use_reentrant=False)
        return block(hidden_states=hidden, encoder_hidden_states=words, temb=temb)

    def _count_versions(self) -> int:
        """Grows with every write in place, through whichever tensor of the same memory."""
        return sum(weight._version for weight in self._watched)


def _empty(source: SD3Transformer2DModel, layers: int) -> SD3Transformer2DModel:
    """A transformer of the source's first blocks, its parameters on the meta device. One more is made and dropped:
    a transformer's last block is without text output, and the last one kept is whole.
    """
    config = {key: value for key, value in source.config.items() if not key.startswith("_")}
    config["num_layers"] = min(layers + 1, len(source.transformer_blocks))
    with torch.device("meta"):
        transformer = SD3Transformer2DModel.from_config(config)
    transformer.transformer_blocks = transformer.transformer_blocks[:layers]
    transformer.norm_out = transformer.proj_out = None
    return transformer
