"""LRM on a UNet (LPO sec. 4.1, eq. 7-9; released LRM-1.5): the network, its folder, and the live reward.

    v     = [pool(d_1), ..., pool(d_N), null + g (text - null)]
    score = exp(logit_scale) cos(W_v v, W_t pooled_text)

d_i: last feature of a down block, before its downsampler. text, null: pooled mid feature under the prompt and
under "".

Differs from the released code: blocks that no score depends on (up, conv_out) are dropped, not carried along;
"" is encoded once per batch, not once per pair; g = 1 skips the null rows; projections and scores are in
float32, not float16, in which scores near 20 are 0.016 apart.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lpobench.plugin import UserError
from lpobench.types import Backbone
from rewards.lrm import HEAD_FILE, TEXT_FILE, UNET_FILE, LRMConfig, read_config

if TYPE_CHECKING:
    from lpobench.sampling.rollout import Noisy

INITIAL_LOGIT_SCALE = 2.6592  # ln(1 / 0.07), CLIP
HEAD = ("visual_projection", "text_projection", "logit_scale")


class UNetBackbone(Backbone, Protocol):
    """A backbone an LRM can start from: a UNet with one CLIP text encoder."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer


class TextFeatures(NamedTuple):
    """Encoded prompts, one row each."""

    context: Float[Tensor, "p tokens width"]
    """What the blocks attend to."""
    pooled: Float[Tensor, "p projection"]
    """Projected, unit length, float32."""


class LatentRewardModel(nn.Module):
    """The scoring network. Everything in it is trainable."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        vfe_scale: float,
    ):
        super().__init__()
        width = text_encoder.config.hidden_size
        channels = unet.config.block_out_channels
        self.unet, self.text_encoder, self.tokenizer = unet, text_encoder, tokenizer
        self.vfe_scale = vfe_scale
        self.visual_projection = nn.Linear(sum(channels) + channels[-1], width, bias=False)
        self.text_projection = nn.Linear(width, width, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
        nn.init.normal_(self.visual_projection.weight, std=0.02)
        nn.init.normal_(
            self.text_projection.weight, std=width**-0.5
        )  # as in CLIP; pipelines lack its trained one

    @classmethod
    def from_backbone(cls, backbone: UNetBackbone, vfe_scale: float) -> Self:
        """Start from the backbone's weights, copied in float32. The new layers use the global generator."""
        if not isinstance(getattr(backbone, "unet", None), UNet2DConditionModel):
            raise UserError(f"reward lrm is built from a UNet, backbone {backbone.name} has none")
        unet = empty_trunk(backbone.unet.config)
        weights = backbone.unet.state_dict()
        unet.load_state_dict({key: weights[key].float().clone() for key in unet.state_dict()}, assign=True)
        text_encoder = copy.deepcopy(backbone.text_encoder).float().requires_grad_(True)
        return cls(unet, text_encoder, backbone.tokenizer, vfe_scale)

    def tokenise(self, prompts: list[str]) -> Int[Tensor, "p tokens"]:
        length = self.tokenizer.model_max_length
        fixed = {"padding": "max_length", "max_length": length, "truncation": True}
        return self.tokenizer(prompts, return_tensors="pt", **fixed).input_ids.to(self.logit_scale.device)

    def encode_prompts(self, prompts: list[str]) -> TextFeatures:
        """All prompts in one batch; pass "" along for the null context."""
        output = self.text_encoder(self.tokenise(prompts))
        with torch.autocast(self.logit_scale.device.type, enabled=False):
            pooled = F.normalize(self.text_projection(output.pooler_output.float()), dim=-1)
        return TextFeatures(output.last_hidden_state, pooled)

    def visual_features(
        self,
        latents: Float[Tensor, "n c h w"],
        t: Float[Tensor, " n"],
        context: Float[Tensor, "n tokens width"],
        null: Float[Tensor, "tokens width"],
    ) -> Float[Tensor, "n features"]:
        """Pooled features; text rows and null rows go through the blocks in one batch, in this order."""
        n = len(latents)
        if self.vfe_scale != 1:
            latents, t = latents.repeat(2, 1, 1, 1), t.repeat(2)
            context = torch.cat([context, null.expand(n, -1, -1)])
        temb = self.unet.time_embedding(self.unet.get_time_embed(latents, t))
        hidden, pooled = self.unet.conv_in(latents), []
        for block in self.unet.down_blocks:
            hidden, states = block(hidden_states=hidden, temb=temb, encoder_hidden_states=context)
            pooled.append(states[len(block.resnets) - 1][:n].mean((2, 3)))
        mid = self.unet.mid_block(hidden, temb, encoder_hidden_states=context).mean((2, 3)).float()
        if self.vfe_scale != 1:
            text_mid, null_mid = mid.chunk(2)
            mid = null_mid + self.vfe_scale * (text_mid - null_mid)
        return torch.cat([*(feature.float() for feature in pooled), mid], 1)

    def forward(
        self,
        latents: Float[Tensor, "n c h w"],
        t: Float[Tensor, " n"],
        text: TextFeatures,
        null: Float[Tensor, "tokens width"],
    ) -> Float[Tensor, " n"]:
        """Scores in float32, in [-exp(logit_scale), exp(logit_scale)]."""
        features = self.visual_features(latents.to(self.unet.dtype), t, text.context, null)
        with torch.autocast(latents.device.type, enabled=False):
            visual = F.normalize(self.visual_projection(features), dim=-1)
            return self.logit_scale.exp() * (visual * text.pooled).sum(-1)

    def cast_blocks(self, dtype: torch.dtype) -> Self:
        """The blocks and the text encoder in `dtype`; the head keeps float32."""
        for parameter in [*self.unet.parameters(), *self.text_encoder.parameters()]:
            parameter.data = parameter.data.to(dtype)  # unet.to(dtype) would warn about nothing
        return self

    def save(self, folder: Path, config: LRMConfig, dtype: torch.dtype = torch.float32) -> None:
        """Write the folder: safetensors only, blocks in `dtype`, the head in float32, config.json last."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").unlink(missing_ok=True)
        empty_trunk(self.unet.config).save_config(folder / "unet")
        self.text_encoder.config.save_pretrained(folder / "text_encoder")
        self.tokenizer.save_pretrained(folder / "tokenizer")
        head = {key: value for key, value in self.state_dict().items() if key.startswith(HEAD)}
        _write(self.unet.state_dict(), folder / UNET_FILE, dtype)
        _write(self.text_encoder.state_dict(), folder / TEXT_FILE, dtype)
        _write(head, folder / HEAD_FILE, torch.float32)
        (folder / "config.json").write_text(config.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path, vfe_scale: float | None = None) -> Self:
        """Read a folder written by `save`: CPU, float32. UserError names the file that is wrong."""
        config = read_config(folder)
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        unet = empty_trunk(UNet2DConditionModel.load_config(folder / "unet"))
        with torch.random.fork_rng(devices=[]):
            text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")).eval()
            model = cls(unet, text_encoder, tokenizer, config.vfe_scale if vfe_scale is None else vfe_scale)
        _fill(unet, folder / UNET_FILE)
        _fill(text_encoder, folder / TEXT_FILE)
        _fill(model, folder / HEAD_FILE, HEAD)
        return model


class LatentReward:
    """The live reward: scores noisy latents under their prompts, remembering the prompts' encodings."""

    cache_size = 1024
    """Prompts remembered; on SD 1.5 in float16 each takes 118 kB."""

    def __init__(self, model: LatentRewardModel, latent_space: str):
        self.model = model.eval().requires_grad_(False)
        self.latent_space = latent_space
        self.cache: dict[str, TextFeatures] = {}

    @torch.no_grad()
    def score(self, noisy: Noisy) -> Float[Tensor, " n"]:
        device = self.model.logit_scale.device
        known = self.encoded(["", *noisy.prompts])
        columns = zip(*(known[prompt] for prompt in noisy.prompts), strict=True)
        text = TextFeatures(*(torch.stack(column) for column in columns))
        scores = self.model(noisy.latents.to(device), noisy.t.to(device), text, known[""].context)
        return scores.to(noisy.latents.device)

    def encoded(self, prompts: list[str]) -> dict[str, TextFeatures]:
        """Prompt -> encoding. One at a time: neighbours in a batch would change a score's last bits."""
        unseen = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.cache]
        if len(self.cache) + len(unseen) > self.cache_size:
            self.cache = {prompt: self.cache[prompt] for prompt in prompts if prompt in self.cache}
        for prompt in unseen:
            self.cache[prompt] = TextFeatures(*(row[0] for row in self.model.encode_prompts([prompt])))
        return self.cache


def empty_trunk(config: dict) -> UNet2DConditionModel:
    """A UNet without the blocks no score depends on, its parameters on the meta device."""
    config = {key: value for key, value in config.items() if key != "_name_or_path"}  # not where it once lay
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    unet.up_blocks = nn.ModuleList()
    unet.conv_norm_out = unet.conv_act = unet.conv_out = None
    return unet


def _write(weights: dict[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    save_file(
        {key: value.to(dtype).contiguous() for key, value in weights.items()}, path, metadata={"format": "pt"}
    )


def _fill(module: nn.Module, path: Path, only: tuple[str, ...] = ()) -> None:
    """Load a safetensors file into a module, in float32; it must hold every weight (or all of `only`)."""
    try:
        weights = {
            key: value.to(torch.float32, copy=True) for key, value in load_file(path).items()
        }  # aligned
        outcome = module.load_state_dict(weights, strict=not only, assign=True)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}") from error
    except RuntimeError as error:
        problem = str(error).splitlines()[-1].strip()
        raise UserError(f"{path} does not fit its config.json: {problem}") from error
    if lost := [key for key in outcome.missing_keys if only and key.startswith(only)]:
        raise UserError(f"{path} does not fit its config.json: {', '.join(lost)} missing")
