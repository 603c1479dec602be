"""Weights on disk: safetensors, or pickles of nothing but tensors and numbers. No code of a file is ever run."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lpobench.plugin import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

log = logging.getLogger(__name__)


def read_state(path: Path) -> dict[str, object]:
    """What a file holds, by name; tables within it stay as they are. Raises UserError."""
    import torch
    from safetensors.torch import load_file

    with told(path):
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(found, Mapping):
        raise UserError(f"{path} should hold tensors by name")
    return dict(found)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A file's tensors, also where they lie under `state_dict` or `model`. Raises UserError."""
    return tensors_of(read_state(path), path)


def tensors_of(state: Mapping[str, object], path: Path) -> dict[str, Tensor]:
    """The tensors of what was read from a file. Raises UserError where there are none."""
    found: object = state
    for key in ("state_dict", "model"):
        found = found.get(key, found) if isinstance(found, Mapping) else {}
    tensors = {
        name.removeprefix("module."): value for name, value in found.items() if hasattr(value, "dtype")
    }
    if not tensors:
        raise UserError(f"{path} holds no weights by name")
    return tensors


def write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """A safetensors file that transformers and diffusers read, too."""
    from safetensors.torch import save_file

    save_file({key: value.contiguous() for key, value in weights.items()}, path, metadata={"format": "pt"})


def fill(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    path: Path,
    dtype: torch.dtype,
    wanted: Iterable[str] | None = None,
) -> None:
    """Put weights, read from `path`, into a module, in one dtype: all of its own, or those `wanted`.

    What else there is, is not read. Raises UserError, and leaves the module as it was.
    """
    sizes = {name: value.shape for name, value in module.state_dict().items()}
    names = sizes.keys() if wanted is None else set(wanted)
    if lost := sorted(names - weights.keys()):
        raise UserError(f"{path} does not fit: {lost[0]} is missing ({len(lost)} in all)")
    for name in names:
        if weights[name].shape != sizes[name]:
            words = [" x ".join(map(str, shape)) or "1" for shape in (weights[name].shape, sizes[name])]
            raise UserError(f"{path} does not fit: {name} is {words[0]}, should be {words[1]}")
    kept = {name: aligned(weights[name].to(dtype)) for name in names}
    module.load_state_dict(kept, strict=False, assign=True)


def base_weights(denoiser: nn.Module) -> dict[str, Tensor]:
    """A denoiser's own weights, by the names they have without a policy's LoRA adapter."""
    state = denoiser.state_dict()
    return {key.replace(".base_layer.", "."): value for key, value in state.items() if ".lora_" not in key}


def aligned(value: Tensor) -> Tensor:
    """Where kernels take one path for all: at an odd place, as in a mapped file, they round otherwise."""
    return value.clone() if value.data_ptr() % 64 else value


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn a library's complaint about a file into one line."""
    from safetensors import SafetensorError

    broken = (OSError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError)
    try:
        yield
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        log.debug("%s", error)
        raise UserError(f"{path} cannot be read: it should hold tensors and numbers only") from error
    except (*broken, SafetensorError) as error:
        log.debug("%s", error)
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(f"{path} cannot be read: {reason}") from error
