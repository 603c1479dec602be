"""Checkpoints as diffusers, PEFT and kohya's trainers write them, of the small random pipelines."""

import json
import re
from pathlib import Path

import pytest
import torch
from made_pipelines import PROMPTS, load
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from backbones._diffusers.base import LatentDiffusion
from lpobench.plugin import UserError
from lpobench.sampling import Policy
from lpobench.spec import LoraSettings, SamplingSettings

RANK, ALPHA = 4, 6
TO_SGM = [
    (r"^conv_in", "input_blocks.0.0"),
    (r"^conv_norm_out", "out.0"),
    (r"^conv_out", "out.2"),
    (r"^time_embedding.linear_1", "time_embed.0"),
    (r"^time_embedding.linear_2", "time_embed.2"),
    (r"^add_embedding.linear_1", "label_emb.0.0"),
    (r"^add_embedding.linear_2", "label_emb.0.2"),
    (r"^down_blocks.0.(resnets|attentions).0", r"input_blocks.1.\1"),
    (r"^down_blocks.0.downsamplers.0.conv", "input_blocks.2.0.op"),
    (r"^down_blocks.1.(resnets|attentions).0", r"input_blocks.3.\1"),
    (r"^mid_block.resnets.0", "middle_block.0"),
    (r"^mid_block.attentions.0", "middle_block.1"),
    (r"^mid_block.resnets.1", "middle_block.2"),
    (r"^up_blocks.0.(resnets|attentions).(\d)", r"output_blocks.\2.\1"),
    (r"^up_blocks.0.upsamplers.0.conv", "output_blocks.1.1.conv"),
    (r"^up_blocks.1.(resnets|attentions).0", r"output_blocks.2.\1"),
    (r"^up_blocks.1.(resnets|attentions).1", r"output_blocks.3.\1"),
    (r"\.resnets\b", ".0"),
    (r"\.attentions\b", ".1"),
    (r"\.norm1\.(weight|bias)$", r".in_layers.0.\1"),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.norm2\.(weight|bias)$", r".out_layers.0.\1"),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.conv_shortcut\.", ".skip_connection."),
]
"""Names of the small random UNets in Stability AI's own code; resnets and attentions are told apart first."""


def sgm_name(name: str) -> str:
    """A layer's or a weight's name there."""
    inside_attention = ".attentions." in name
    for pattern, new in TO_SGM:
        if not (inside_attention and pattern.startswith((r"\.norm", r"\.conv"))):
            name = re.sub(pattern, new, name)
    return name


def changed_policy(family: str, pipelines: dict[str, Path], seed: int = 0) -> LatentDiffusion:
    """A backbone with adapters that do something."""
    backbone = load(family, pipelines[family])
    policy = Policy(backbone, SamplingSettings(), LoraSettings(rank=RANK, alpha=ALPHA))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.trained:
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return backbone


@torch.no_grad()
def output(backbone: LatentDiffusion) -> Tensor:
    """What the denoiser makes of four latents."""
    latents = torch.randn((4, *backbone.latent_shape), generator=torch.Generator().manual_seed(0))
    return backbone.predict(
        latents, torch.tensor([1.0, 301.0, 601.0, 951.0]), backbone.encode_prompt(PROMPTS)
    )


def peft_folder(trained: LatentDiffusion, folder: Path, **config) -> Path:
    """As PEFT's save_pretrained."""
    state = {
        f"base_model.model.{key}": value for key, value in get_peft_model_state_dict(trained.denoiser).items()
    }
    folder.mkdir(exist_ok=True)
    save_file(state, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": ALPHA} | config))
    return folder


def kohya_state(
    trained: LatentDiffusion, rename=lambda name: name, prefix: str | None = None
) -> dict[str, Tensor]:
    """Underscores for dots, and an alpha for each layer."""
    prefix = prefix or f"lora_{trained.component}_"
    state = {}
    for key, value in get_peft_model_state_dict(trained.denoiser).items():
        layer, _, half = key.removesuffix(".weight").rpartition(".")
        flat = prefix + rename(layer).replace(".", "_")
        state[f"{flat}.lora_{'down' if half == 'lora_A' else 'up'}.weight"] = value
        state[f"{flat}.alpha"] = torch.tensor(float(ALPHA))
    return state


def refused(backbone: LatentDiffusion, path: Path, message: str, error: type[UserError] = UserError) -> None:
    """Told in one line, and the weights are what they were."""
    before = {name: value.clone() for name, value in backbone.denoiser.state_dict().items()}
    with pytest.raises(error, match=message) as caught:
        backbone.load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in backbone.denoiser.state_dict().items())
