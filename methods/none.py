"""The baseline every method is compared with."""

from __future__ import annotations

from typing import ClassVar

from lpobench.plugin import MethodSettings


class NoTraining(MethodSettings):
    """No training: the base model as it is."""

    trains: ClassVar[bool] = False
