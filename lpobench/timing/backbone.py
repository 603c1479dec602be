"""What a backbone costs: parameters, memory, one decoded image, one call of the denoiser, one training step.

The training step is the one that step-level DPO takes on one pair (methods/step_dpo.py): a pass of the reference, a
pass of the policy and its gradient, guided, and one AdamW step. It is made from noise, with no reward: what a reward
costs is another question. Sampling, LoRA and training settings are the run's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from lpobench import learning
from lpobench.conclude import device_name
from lpobench.launch import memory
from lpobench.learning import setup
from lpobench.prepare import device_of, dtype_of
from lpobench.records import provenance
from lpobench.sampling import Policy
from lpobench.slots import name_of
from lpobench.spec import RunSpec
from lpobench.timing.stopwatch import Timing, forget_peak, measure, peak_memory, synchronize
from lpobench.types import Backbone

BETA = 500.0
PROMPT = ""
"""One that every backbone can encode; encoding is not timed."""
LESS = "a smaller --batch or --resolution, a lower --dtype or train.gradient_checkpointing=true needs less"
ON_GPU, ON_CPU = (3, 20), (1, 3)
"""Warm-up calls and timed calls, where nothing else is asked for."""


@dataclass(frozen=True)
class BackboneCosts:
    """One backbone on one device."""

    backbone: str
    settings: dict[str, Any]
    """Of the backbone; `weights` among them."""
    device: str
    indicative: bool
    """Timed on a CPU, which people do not train these models on."""
    precision: str
    latent_shape: tuple[int, int, int]
    batch: int
    """Latents per denoiser call."""
    guidance_scale: float
    """Of the training step; all but 1 double its latents."""
    gradient_checkpointing: bool
    parameters: dict[str, int]
    """By part: the denoiser, text encoders, VAE."""
    lora_rank: int
    lora_parameters: int
    stages: dict[str, Timing]
    """load, decode, denoiser call, training step"""
    versions: dict[str, str]


def backbone_costs(
    spec: RunSpec, *, batch: int = 1, warmup: int | None = None, repeats: int | None = None
) -> BackboneCosts:
    """Measure the backbone of a run. Raises UserError; the reward and the evaluators are not loaded."""
    device = device_of(spec)
    usual = ON_GPU if device.type == "cuda" else ON_CPU
    counts = {"warmup": usual[0] if warmup is None else warmup, "repeats": repeats or usual[1]}
    accelerator = setup.accelerator(spec.train, device)
    with memory.explained(f"measuring backbone {name_of(spec.backbone)}", LESS):
        backbone, stages = _load(spec, device)
        stages["decode"] = measure(lambda: backbone.decode(_noise(1, backbone)), device, **counts)
        parameters = {name: count(module) for name, module in parts_of(backbone).items()}
        stages["denoiser call"] = measure(denoiser_call(backbone, batch), device, **counts)
        policy = Policy(backbone, spec.sampling, spec.lora, spec.seed)
        if spec.backbone.releases_text_encoders:
            policy.remember([PROMPT])
            backbone.release_text_encoders()
        stages["training step"] = measure(training_step(policy, spec, accelerator), device, **counts)
    return BackboneCosts(
        backbone=name_of(spec.backbone),
        settings=spec.backbone.model_dump(mode="json"),
        device=device_name(device),
        indicative=device.type == "cpu",
        precision=spec.train.precision,
        latent_shape=backbone.latent_shape,
        batch=batch,
        guidance_scale=spec.sampling.guidance_scale,
        gradient_checkpointing=spec.train.gradient_checkpointing,
        parameters=parameters,
        lora_rank=spec.lora.rank,
        lora_parameters=sum(parameter.numel() for parameter in policy.adapters),
        stages=stages,
        versions=provenance.versions(),
    )


def _load(spec: RunSpec, device: torch.device) -> tuple[Backbone, dict[str, Timing]]:
    forget_peak(device)
    began = time.perf_counter()
    backbone = spec.backbone.load(device, dtype_of(spec))
    synchronize(device)
    seconds = time.perf_counter() - began
    return backbone, {"load": Timing(seconds, seconds, seconds, 1, peak_memory(device))}


def parts_of(backbone: Backbone) -> dict[str, nn.Module]:
    """The networks a live backbone holds by now, by the names of its attributes."""
    return {name: part for name, part in vars(backbone).items() if isinstance(part, nn.Module)}


def count(module: nn.Module) -> int:
    """Parameters, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def denoiser_call(backbone: Backbone, batch: int) -> Callable[[], object]:
    """One unguided forward pass on `batch` latents, the prompts encoded before."""
    latents = _noise(batch, backbone)
    t = torch.full((batch,), 501.0, device=backbone.device)
    with torch.no_grad():
        conditioning = backbone.encode_prompt([PROMPT] * batch)

    @torch.no_grad()
    def call() -> None:
        backbone.predict(latents, t, conditioning)

    return call


def training_step(policy: Policy, spec: RunSpec, accelerator: Accelerator) -> Callable[[], object]:
    """One update on one pair drawn from the middle of the sampling grid."""
    backbone = policy.backbone
    if spec.train.gradient_checkpointing:
        backbone.denoiser.enable_gradient_checkpointing()
    policy.std_range()  # raises UserError where no step could be trained on
    middle = [index for index, std in enumerate(policy.stds) if std > 0]
    index = middle[len(middle) // 2]
    t, s = (torch.full((1,), policy.timesteps[i], device=backbone.device) for i in (index, index + 1))
    optimizer = accelerator.prepare(setup.adamw(policy.adapters, spec.train, spec.train.learning_rate))
    latents, generator = _noise(1, backbone), torch.Generator(backbone.device).manual_seed(1)
    with torch.no_grad(), accelerator.autocast():
        winner, loser = policy.step(latents, t, s, [PROMPT]).sample(2, generator)

    def step() -> None:
        with accelerator.autocast():
            with policy.reference() as reference:
                old = reference.step(latents, t, s, [PROMPT])
            new = policy.step(latents, t, s, [PROMPT])
            ratios = (learning.log_ratio(new, old, x) for x in (winner, loser))
            loss = learning.dpo_loss(*ratios, BETA)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _noise(num: int, backbone: Backbone) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn((num, *backbone.latent_shape), generator=generator).to(backbone.device)
