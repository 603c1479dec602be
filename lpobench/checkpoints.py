"""Checkpoints that a run scores without training: what they are called, and where they lie. No torch here."""

from __future__ import annotations

from pathlib import Path

from lpobench.data import assets
from lpobench.plugin import MissingAsset, UserError
from lpobench.problems import hint
from lpobench.slots import BASELINE

SAYS_NOTHING = {
    "lora",
    "denoiser",
    "unet",
    "transformer",
    "pytorch_lora_weights",
    "diffusion_pytorch_model",
    "adapter_model",
}
"""File and folder names that every checkpoint has."""
WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt"}


def locate_checkpoint(checkpoint: str) -> Path:
    """A path that exists, or where a published checkpoint lies on this machine.

    Raises MissingAsset when it is not here, UserError for a name that nothing has.
    """
    path = Path(checkpoint)
    if path.exists():
        return path
    known = assets.names("checkpoint")
    if checkpoint in known or assets.HUB_ID.fullmatch(checkpoint):
        return assets.locate(checkpoint)
    if len(path.parts) > 1 or path.suffix:
        raise MissingAsset(f"no checkpoint at {path}; give a safetensors file or a folder that holds one")
    raise UserError(
        f'unknown checkpoint "{checkpoint}": no path, and no published one; {hint(checkpoint, known)}'
    )


def label_of(checkpoint: str) -> str:
    """Its column in a table: the name, or the last part of the path that says which it is.

    `runs/tiny-sd15-lpo-s0-0123abcd/lora` is `tiny-sd15-lpo-s0-0123abcd`.
    """
    path = Path(checkpoint)
    last = path.stem if path.suffix in WEIGHTS else path.name
    names = [last, *reversed(path.parts[:-1])]
    label = next((name for name in names if name not in SAYS_NOTHING and name != path.anchor), names[0])
    return checkpoint if label == BASELINE else label
