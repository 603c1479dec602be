"""Weights on disk, for reward models: safetensors, or a pickle that may hold nothing but tensors and numbers."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lpobench.plugin import UserError


def write_weights(weights: dict[str, Tensor], path: Path) -> None:
    save_file({key: value.contiguous() for key, value in weights.items()}, path, metadata={"format": "pt"})


def read_weights(path: Path) -> dict[str, Tensor]:
    """What the file holds. Pickles are read with `weights_only`, which runs no code."""
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def fill(
    module: nn.Module,
    path: Path,
    wanted: Iterable[str],
    read: Callable[[Path], dict[str, Tensor]] = read_weights,
) -> None:
    """Load a file into a module in float32: all that is wanted; what else it holds is not read.

    Raises UserError, one line, where the file cannot be read or does not fit.
    """
    with translated(path):
        found = read(path)
    if lost := sorted(set(wanted) - found.keys()):
        raise UserError(f"{path} does not fit its config.json: {lost[0]} is missing ({len(lost)} in all)")
    weights = {key: found[key].to(torch.float32, copy=True) for key in wanted}  # copied: aligned
    try:
        module.load_state_dict(weights, strict=False, assign=True)
    except RuntimeError as error:
        problem = str(error).splitlines()[-1].strip()
        raise UserError(f"{path} does not fit its config.json: {problem}") from error


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn a library's complaint about a file into one line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, AttributeError) as error:
        logging.getLogger(__name__).debug("%s", error)
        raise UserError(
            f"{path} cannot be read: it should hold tensors and numbers only, in the released layout"
        ) from error
