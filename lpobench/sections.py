"""How to sample, adapt, train and evaluate: the sections of a run that every plug-in shares."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from lpobench.plugin import Names, Settings

Fraction = Annotated[float, Field(gt=0, lt=1)]


class SamplingSettings(Settings):
    """How images are sampled during training."""

    num_steps: PositiveInt = 20
    """denoising steps"""
    guidance_scale: NonNegativeFloat = 5.0
    """classifier-free guidance; 1 is one unguided pass per step; a backbone may have another default: flux has 1"""
    rule: Literal["ddim", "cps", "flow_sde", "dance_sde"] = "ddim"
    """the distribution of one step"""
    eta: NonNegativeFloat = 1.0
    """noise of a step; 0 is deterministic, and leaves nothing to train on"""


class LoraSettings(Settings):
    """The trained adapter; none where train.parameters is all."""

    rank: PositiveInt = 4
    """rank of every adapted layer"""
    alpha: PositiveInt | None = None
    """scale of the adapter is alpha / rank; none means alpha = rank"""
    init: Literal["gaussian"] = "gaussian"
    """A ~ N(0, 1/rank), B = 0: training starts at the untouched base"""


class TrainSettings(Settings):
    """The training loop."""

    num_updates: PositiveInt = 500
    """optimiser steps; where epochs are given, at most"""
    # not written where it is "lora": runs keep the id that they had before there was a choice
    parameters: Literal["lora", "all"] = Field("lora", exclude_if=lambda value: value == "lora")
    """what of the denoiser is trained: an adapter as lora.* says, or all weights, beside a frozen copy of them"""
    sharding: Literal["none", "fsdp2"] = Field("none", exclude_if=lambda value: value == "none")
    """where all weights are trained: every process has all of them and of the optimiser's state, or a part (FSDP2); no
    part of the id"""
    epochs: PositiveInt | None = None
    """stop after so many passes over the training prompts; none: num_updates alone decides"""
    prompts: str = "shapes"
    """training prompts: the name of a set, or a text file with one prompt per line"""
    pairs: Annotated[Names, Field(min_length=1)] = ("shapes-pairs",)
    """preference pairs, of a method that needs them: a shipped set, or a source as `lpobench data` reads it"""
    allow_overlap: bool = False
    """train on prompts that are evaluated on, too; the table then shows memory as well"""
    prompts_per_round: PositiveInt = 16
    """prompts sampled, or pairs taken, before each round of updates, by all processes together"""
    minibatch: PositiveInt = 64
    """rows per optimiser step and accumulation step, of all processes together"""
    gradient_accumulation: PositiveInt = 1
    """minibatches per optimiser step"""
    learning_rate: PositiveFloat = 6e-5
    """of AdamW, constant after the warm-up"""
    warmup_updates: NonNegativeInt = 0
    """updates over which the learning rate grows to its value, linearly"""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """of AdamW"""
    weight_decay: NonNegativeFloat = 1e-4
    """of AdamW"""
    max_grad_norm: PositiveFloat | None = 1.0
    """gradient norm is clipped to this; none never clips, as the released code in effect does"""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """of the frozen weights and of autocast; what is trained is always fp32, and where that is all weights, so are the
    frozen ones"""
    gradient_checkpointing: bool = False
    """recompute activations: less memory, about a third slower"""
    checkpoint_every: PositiveInt = 50
    """updates between checkpoints"""
    keep_checkpoints: PositiveInt = 2
    """older ones are removed"""


class EvalSettings(Settings):
    """The images that are scored: the untouched base and the method from the same noise, at eta 0."""

    prompts: str = "shapes"
    """held-out prompts: the name of a set, or a text file with one prompt per line"""
    num_prompts: PositiveInt = 600
    """how many of them"""
    images_per_prompt: PositiveInt = 1
    """images per prompt"""
    num_steps: PositiveInt = 20
    """denoising steps"""
    guidance_scale: NonNegativeFloat = 5.0
    """classifier-free guidance"""
    seed: NonNegativeInt = 0
    """of the noise; independent of the training seed, so that runs are compared on the same images"""
    batch_size: PositiveInt = 50
    """images per forward pass; changes no image"""
    confidence: Fraction = 0.95
    """level of the intervals"""
    bootstrap_samples: PositiveInt = 10_000
    """resamples behind each interval"""
    grid_prompts: NonNegativeInt = 8
    """prompts shown in the sample grid"""
