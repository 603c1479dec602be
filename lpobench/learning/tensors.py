"""What a checkpoint holds, as named tensors and plain JSON: no pickle."""

import importlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from lpobench.launch import pieces
from lpobench.plugin import MethodSettings
from lpobench.types import Rows

Strings = dict[str, list[str]]


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    return safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    )


def from_file(path: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(path)


def names_of(parameters: list[nn.Parameter], module: nn.Module) -> list[str]:
    """The parameters' names in a module, in their order."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [names[id(parameter)] for parameter in parameters]


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """AdamW's moments and step counts, `<parameter>/<kind>`; a parameter without gradient so far has none."""
    state = optimizer.state_dict()["state"]
    return {
        f"{names[index]}/{kind}": value for index, kinds in state.items() for kind, value in kinds.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, trained: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> None:
    """Moments from the file, hyper-parameters from the run's settings."""
    state: dict[int, dict[str, Tensor]] = {}
    numbers = {name: number for number, name in enumerate(trained)}
    for key, value in tensors.items():
        name, _, kind = key.rpartition("/")
        state.setdefault(numbers[name], {})[kind] = pieces.like(value, trained[name])
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def random_states(generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
    """The method's generator, and torch's own on the CPU and on the device."""
    states = {"method": generator.get_state(), "cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def load_random_states(
    states: Mapping[str, Tensor], generator: torch.Generator, device: torch.device
) -> None:
    generator.set_state(states["method"])
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def split_rows(rows: Rows) -> tuple[dict[str, Tensor], Strings]:
    """A dataclass of rows as its tensor columns and its string columns."""
    columns = {field.name: getattr(rows, field.name) for field in fields(rows)}
    tensors = {name: column for name, column in columns.items() if isinstance(column, Tensor)}
    return tensors, {name: column for name, column in columns.items() if name not in tensors}


def kind_of(rows: Rows) -> str:
    return f"{type(rows).__module__}:{type(rows).__qualname__}"


def rows_class(kind: str, method: MethodSettings) -> type[Rows]:
    """The class `kind` names, from packages that the run uses anyway: a file must not choose code."""
    module, _, name = kind.partition(":")
    known = {"lpobench", *(base.__module__.partition(".")[0] for base in type(method).__mro__)}
    if module.partition(".")[0] not in known:
        raise ValueError(f"rows of {kind} do not belong to method {type(method).__name__}")
    found = getattr(importlib.import_module(module), name)
    if not (isinstance(found, type) and issubclass(found, Rows)):
        raise ValueError(f"{kind} is not a class of rows")
    return found
