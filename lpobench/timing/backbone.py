"""What a backbone costs: parameters, memory, one decoded image, one call of the denoiser, one training step.

The training step is the one that step-level DPO takes on one pair (methods/step_dpo.py): a pass of the reference, a
pass of the policy and its gradient, guided, and one AdamW step. It is made from noise, with no reward: what a reward
costs is another question. Sampling, training settings and what is trained are the run's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator

from lpobench import learning
from lpobench.launch import memory
from lpobench.learning import setup
from lpobench.prepare import device_of, dtype_of
from lpobench.records.bench import Measurement, Timing
from lpobench.sampling import Policy
from lpobench.slots import name_of
from lpobench.spec import RunSpec
from lpobench.timing.environment import Watch
from lpobench.timing.phases import flops_of
from lpobench.timing.stopwatch import Effort, forget_peak, measure, peak_memory, synchronize
from lpobench.timing.workload import LESS, count, noise, parts_of, what_trains
from lpobench.types import Backbone

BETA = 500.0
PROMPT = ""
"""One that every backbone can encode; encoding is not timed."""


def backbone_costs(spec: RunSpec, effort: Effort, *, batch: int = 1, allow_busy: bool = False) -> Measurement:
    """Measure the backbone of a run. Raises UserError; the reward and the evaluators are not loaded."""
    device = device_of(spec)
    watch = Watch(device, allow_busy=allow_busy)
    accelerator = setup.accelerator(spec.train, device)
    with memory.explained(f"measuring backbone {name_of(spec.backbone)}", LESS):
        backbone, loading = _load(spec, device)
        decode, call = lambda: backbone.decode(noise(1, backbone)), denoiser_call(backbone, batch)
        timings = {"load": loading, "decode": measure(decode, device, effort)}
        timings["denoiser call"] = measure(call, device, effort)
        flops = {"decode": flops_of(decode), "denoiser call": flops_of(call)}
        parameters = {name: count(module) for name, module in parts_of(backbone).items()}
        policy = Policy(backbone, spec.sampling, spec.parameters, spec.seed, spec.train.sharding)
        if spec.backbone.releases_text_encoders:
            policy.remember([PROMPT])
            backbone.release_text_encoders()
        step = training_step(policy, spec, accelerator)
        timings["training step"] = measure(step, device, effort)
        flops["training step"] = flops_of(step)
    trained = "all weights" if policy.whole else f"LoRA, rank {spec.lora.rank}"
    parameters[f"{trained}, trained"] = sum(parameter.numel() for parameter in policy.trained)
    return Measurement(
        verb="backbone",
        setup=_setup(spec, backbone, batch),
        environment=watch.environment(),
        timings=timings,
        flops=flops,
        unit_flops=flops["denoiser call"] // batch,
        parameters=parameters,
    )


def _setup(spec: RunSpec, backbone: Backbone, batch: int) -> dict[str, Any]:
    return {
        "backbone": {"name": name_of(spec.backbone), **spec.backbone.model_dump(mode="json")},
        "precision": spec.train.precision,
        "latent_shape": list(backbone.latent_shape),
        "batch": batch,
        "guidance_scale": spec.sampling.guidance_scale,
        "gradient_checkpointing": spec.train.gradient_checkpointing,
        **what_trains(spec),
    }


def _load(spec: RunSpec, device: torch.device) -> tuple[Backbone, Timing]:
    forget_peak(device)
    began = time.perf_counter()
    backbone = spec.backbone.load(device, dtype_of(spec))
    synchronize(device)
    seconds = time.perf_counter() - began
    once = {"median": seconds, "low": seconds, "high": seconds, "n": 1}
    return backbone, Timing(**once, peak_memory_bytes=peak_memory(device))


def denoiser_call(backbone: Backbone, batch: int) -> Callable[[], object]:
    """One unguided forward pass on `batch` latents, the prompts encoded before."""
    latents = noise(batch, backbone)
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
    optimizer = accelerator.prepare(setup.adamw(policy.trained, spec.train, spec.train.learning_rate))
    latents, generator = noise(1, backbone), torch.Generator(backbone.device).manual_seed(1)
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
