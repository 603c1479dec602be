"""Settings that all neural scorers share. Nothing here imports torch at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from lpobench.plugin import EvaluatorSettings

if TYPE_CHECKING:
    import torch


class Network(EvaluatorSettings):
    """A scorer with weights."""

    licence: ClassVar[str] = "unknown"
    on_gpu: ClassVar[Literal["float32", "float16", "bfloat16"]] = "float32"
    """What the released code computes in on a GPU; on a CPU it is float32."""

    dtype: Literal["released", "float32", "float16", "bfloat16"] = "released"
    """What it computes in; "released": what the released code does on this device. Scores are float32 or wider."""
    batch_size: int = Field(8, ge=1)
    """Images per forward pass. The last one is filled up, so that a score does not depend on what else is scored."""

    def torch_dtype(self, device: torch.device) -> torch.dtype:
        """What `dtype` means on a device."""
        import torch

        released = "float32" if device.type == "cpu" else self.on_gpu
        return getattr(torch, released if self.dtype == "released" else self.dtype)
