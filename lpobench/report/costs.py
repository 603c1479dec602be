"""The table of what a backbone costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lpobench.report.tables import Section

if TYPE_CHECKING:
    from lpobench.timing.backbone import BackboneCosts
    from lpobench.timing.stopwatch import Timing


def backbone_header(costs: BackboneCosts) -> list[str]:
    """What was measured, and how."""
    shape = " x ".join(map(str, costs.latent_shape))
    weights = costs.settings.get("weights")
    checkpointing = ", gradient checkpointing" if costs.gradient_checkpointing else ""
    lines = [
        f"{costs.backbone}{f' with {weights} weights' if weights else ''}, {costs.precision}, on {costs.device}",
        f"latents {shape}; training step at guidance {costs.guidance_scale:g}{checkpointing}",
    ]
    return [*lines, "timed on a CPU: indicative only"] if costs.indicative else lines


def backbone_sections(costs: BackboneCosts) -> list[Section]:
    """Parameters, then time and memory."""
    parameters = [[name, _millions(number)] for name, number in costs.parameters.items()]
    parameters.append([f"LoRA, rank {costs.lora_rank}, trained", _millions(costs.lora_parameters)])
    latents = f"{costs.batch} latent{'s' if costs.batch > 1 else ''}"
    units = {"decode": ", 1 image", "denoiser call": f", {latents}, no guidance", "training step": ", 1 pair"}
    rows = [[name + units.get(name, ""), *_times(timing)] for name, timing in costs.stages.items()]
    note = "" if not costs.indicative else "memory is the largest resident size of the process so far"
    return [
        Section(["part", "parameters"], parameters),
        Section(["stage", "median", "quartiles", "n", "peak memory"], rows, note),
    ]


def _millions(number: int) -> str:
    return f"{number / 1e6:,.3f} M"


def _times(timing: Timing) -> list[str]:
    median, low, high = (f"{value:.4g}" for value in (timing.median, timing.low, timing.high))
    spread = f"{low} - {high}" if timing.n > 1 else ""
    return [f"{median} s", spread, str(timing.n), f"{timing.peak_memory_bytes / 2**30:.2f} GiB"]
