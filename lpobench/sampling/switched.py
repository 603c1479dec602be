"""Parts of a denoiser that act as trained or as they were before: a policy is its own reference."""

from torch import nn


class Switched:
    """What is trained is, too: with `as_policy` False it is the frozen base."""

    as_policy: bool


def switched(module: nn.Module) -> list[Switched]:
    """All of a model's. Every parameter that is trained belongs to one."""
    found = [part for part in module.modules() if isinstance(part, Switched)]
    owned = {id(parameter) for part in found for parameter in part.parameters()}
    assert all(id(p) in owned for p in module.parameters() if p.requires_grad), "an adapter has no switch"
    return found
