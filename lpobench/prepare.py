"""What a run needs before its first step: device, weights, prompts. A failure here leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lpobench.data.cache import content, folder_of
from lpobench.data.prompts import check_held_out, load_prompts
from lpobench.lock import run_lock
from lpobench.plugin import RewardSettings, UserError
from lpobench.records.costs import Costs
from lpobench.records.record import write_atomic
from lpobench.sampling import Policy
from lpobench.scoring.generate import fingerprint
from lpobench.slots import name_of
from lpobench.spec import RunSpec
from lpobench.types import Backbone, Evaluator, Prompt, RewardModel

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TRAINED = "settings.json"
HERE = "{folder}"


@dataclass(frozen=True)
class Parts:
    """The live parts of one run."""

    spec: RunSpec
    base: str
    """Fingerprint of the untouched backbone."""
    policy: Policy
    reward: RewardModel | None
    trained_reward: str | None
    """Name in the cache of the reward that was trained for this run."""
    evaluators: dict[str, Evaluator]
    train_prompts: Sequence[Prompt]
    eval_prompts: Sequence[Prompt]
    costs: Costs


def prepare(spec: RunSpec, cache: Path, *, train_reward: bool) -> Parts:
    """Load everything, and train the reward if asked to. Raises UserError."""
    costs, device, dtype = Costs(), device_of(spec), dtype_of(spec)
    with costs.phase("load"):
        train_prompts, eval_prompts = prompts_of(spec)
        evaluators = {name_of(settings): settings.load(device, torch.float32) for settings in spec.evaluators}
        backbone = spec.backbone.load(device, dtype)
        base = fingerprint(backbone, eval_prompts[0].text, spec.eval.guidance_scale)
    settings, name = spec.reward, None
    if train_reward:
        with costs.phase("reward"):
            settings, folder, _ = trained_reward(spec, backbone, base, cache)
            name = folder.name
    with costs.phase("load"):
        reward = settings.load(backbone, device, dtype) if settings else None
        policy = Policy(backbone, spec.sampling, spec.lora if spec.method.trains else None, spec.seed)
    costs.meter = lambda: (policy.calls, policy.rows)
    return Parts(spec, base, policy, reward, name, evaluators, train_prompts, eval_prompts, costs)


def device_of(spec: RunSpec) -> torch.device:
    """The device a run asks for; auto is a GPU when there is one. Raises UserError when it is not there."""
    if spec.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(spec.device)
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available, "cpu": lambda: True}
    if not there[device.type]():
        raise UserError(f'device "{spec.device}" is not available here; use cpu or auto')
    return device


def dtype_of(spec: RunSpec) -> torch.dtype:
    """Precision of the frozen weights."""
    return DTYPES[spec.train.precision]


def prompts_of(spec: RunSpec) -> tuple[list[Prompt], list[Prompt]]:
    """Training prompts (none when nothing is trained) and evaluation prompts; UserError when they overlap."""
    settings = spec.eval
    evaluation = load_prompts(settings.prompts, "eval", settings.num_prompts, settings.seed)
    train = load_prompts(spec.train.prompts, "train", None, spec.seed) if spec.method.trains else []
    check_held_out(train, evaluation)
    return train, evaluation


def trained_reward(
    spec: RunSpec, backbone: Backbone, base: str, cache: Path
) -> tuple[RewardSettings, Path, bool]:
    """The run's reward trained by its own settings, its folder in the cache, and whether that was reused.

    `base` is the backbone's fingerprint. The folder may hold an unfinished training; it counts as trained
    when settings.json is in it, which is written last.
    """
    reward = spec.reward
    if reward is None:
        raise UserError(f"method {name_of(spec.method)} needs no reward, so there is none to train")
    data = {name: content(path) for name, path in reward.training_data().items()}
    key = {"reward": name_of(reward), "settings": reward.model_dump(mode="json"), "data": data}
    folder = folder_of(cache.absolute(), "reward", {**key, "base": base, "seed": spec.seed})
    marker, place = folder / TRAINED, json.dumps(str(folder))[1:-1]
    with run_lock(folder):
        if marker.exists():
            return type(reward).model_validate_json(marker.read_text().replace(HERE, place)), folder, True
        trained = reward.train(backbone, folder, seed=spec.seed, device=backbone.device, dtype=dtype_of(spec))
        write_atomic(marker, trained.model_dump_json(indent=1).replace(place, HERE))
    return trained, folder, False
