"""Peak arithmetic of known GPUs, from their data sheets: dense, without sparsity, in FLOP/s."""

from __future__ import annotations

import torch

TERA = 1e12
PEAKS: dict[str, dict[str, float]] = {
    "H200": {"fp16": 989.4, "bf16": 989.4, "tf32": 494.7, "fp32": 66.9},
    "H100 PCIe": {"fp16": 756.0, "bf16": 756.0, "tf32": 378.0, "fp32": 51.2},
    "H100": {"fp16": 989.4, "bf16": 989.4, "tf32": 494.7, "fp32": 66.9},
    "A100": {"fp16": 312.0, "bf16": 312.0, "tf32": 156.0, "fp32": 19.5},
    "A10G": {"fp16": 70.0, "bf16": 70.0, "tf32": 35.0, "fp32": 31.5},
    "L40S": {"fp16": 362.1, "bf16": 362.1, "tf32": 183.2, "fp32": 91.6},
    "L4": {"fp16": 121.0, "bf16": 121.0, "tf32": 60.0, "fp32": 30.3},
    "RTX 4090": {"fp16": 165.2, "bf16": 165.2, "tf32": 82.6, "fp32": 82.6},
    "RTX 3090": {"fp16": 71.0, "bf16": 71.0, "tf32": 35.6, "fp32": 35.6},
    "V100": {"fp16": 125.0, "fp32": 15.7},
    "T4": {"fp16": 65.0, "fp32": 8.1},
}
"""Part of the device's name -> TFLOP/s by precision; the first part that is in the name counts."""


def rounds_to_tf32() -> tuple[str, ...]:
    """What of float32 arithmetic may be done in TF32 on a GPU: torch's defaults allow it in convolutions."""
    allowed = {
        "convolutions": torch.backends.cudnn.allow_tf32,
        "matrix products": torch.get_float32_matmul_precision() != "highest",
    }
    return tuple(name for name, allows in allowed.items() if allows)


def peak_flops(device: torch.device, precision: str) -> float | None:
    """FLOP/s the device can do at most in this precision; None where that is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    found = next((peaks for part, peaks in PEAKS.items() if part in name), {})
    if precision == "fp32" and rounds_to_tf32():
        precision = "tf32"
    return found[precision] * TERA if precision in found else None
