"""What a run needs before its first step: device, weights, prompts. A failure here leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lpobench.checkpoints import locate_checkpoint
from lpobench.data.cache import content, folder_of
from lpobench.data.pairs.preferred import Preferred
from lpobench.data.prompts import check_held_out, load_prompts
from lpobench.evaluation.scorers import Scorer
from lpobench.launch import memory, ranks
from lpobench.lock import InUse, run_lock
from lpobench.plugin import RewardSettings, UserError
from lpobench.records.costs import Costs
from lpobench.records.record import Cost, write_atomic
from lpobench.sampling import Policy
from lpobench.scoring.evaluate import score_images
from lpobench.scoring.generate import fingerprint
from lpobench.scoring.reward_score import RewardScore
from lpobench.scoring.staged import Judge
from lpobench.slots import name_of
from lpobench.spec import RunSpec
from lpobench.types import Backbone, Prompt, RewardModel

LESS = "a lower train.precision needs less, and the settings of the backbone may offer to offload parts"
LESS_WHOLE = 'train.parameters "lora" needs a small part of what "all" needs'
LESS_TRAINING = "a smaller batch needs less: see `lpobench show` of the reward for its training settings"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MOST_REMEMBERED = 20_000
"""Encoded prompts kept in place of the text encoders; at SDXL's size 6 GB."""
TRAINED = "settings.json"
TRAINING_COST = "cost.json"
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
    reward_seconds: float | None
    """What that took, when it was trained."""
    judges: tuple[Judge, ...]
    """Who scores the finished images: loaded when it is their turn, one at a time."""
    train_prompts: Sequence[Prompt]
    """None where nothing is trained, or pairs are."""
    pairs: Preferred | None
    """What a method that needs pairs is trained on."""
    eval_prompts: Sequence[Prompt]
    costs: Costs
    checkpoint: Path | None = None
    """Weights to be scored in the method's place; they fit the backbone."""


def prepare(spec: RunSpec, cache: Path, *, train_reward: bool) -> Parts:
    """Load everything, and train the reward if asked to. Raises UserError."""
    if spec.train.sharding == "fsdp2":
        from lpobench.sampling.sharded import check_processes

        check_processes()
    costs, device, dtype = Costs(), device_of(spec), dtype_of(spec)
    with costs.phase("load"), memory.explained("loading the model", LESS):
        train_prompts, eval_prompts = prompts_of(spec)
        judges: list[Judge] = [Scorer(settings) for settings in spec.evaluators]
        backbone = spec.backbone.load(device, dtype)
        base = fingerprint_of(spec, backbone, eval_prompts)
        pairs = pairs_of(spec, backbone, eval_prompts)
        checkpoint = checkpoint_of(spec, backbone)
        try_judges(judges, backbone, eval_prompts[0])
    settings, name, seconds = spec.reward, None, None
    if train_reward:
        with costs.phase("reward"):
            settings, folder, _ = trained_reward(spec, backbone, base, cache)
            name, seconds = folder.name, training_seconds(folder)
    with costs.phase("load"), memory.explained("loading the reward", LESS):
        reward = settings.load(backbone, device, dtype) if settings else None
        # after the reward, which may copy or share the weights as they are now
        with memory.explained(f"making room to train {spec.trains}", LESS_WHOLE):
            parameters = spec.parameters if spec.method.trains else None
            policy = Policy(backbone, spec.sampling, parameters, spec.seed, spec.train.sharding)
        spec.method.check(policy, reward)
        if settings and settings.judges:
            version = reward_identity(settings)
            judges.append(RewardScore(name_of(settings), version, reward, policy))
        if spec.backbone.releases_text_encoders:
            texts = {"", *(prompt.text for prompt in (*train_prompts, *eval_prompts))}
            release_text_encoders(policy, texts | set(pairs.captions if pairs else ()))
    costs.meter = lambda: policy.work
    return Parts(
        spec,
        base,
        policy,
        reward,
        name,
        seconds,
        tuple(judges),
        train_prompts,
        pairs,
        eval_prompts,
        costs,
        checkpoint,
    )


def pairs_of(spec: RunSpec, backbone: Backbone, evaluation: Sequence[Prompt]) -> Preferred | None:
    """The pairs of a method that needs them; UserError when their captions are evaluated on."""
    if "pairs" not in spec.method.needs:
        return None
    pairs = Preferred.open(spec.train.pairs, backbone)
    captions = [Prompt(caption, "") for caption in dict.fromkeys(pairs.captions)]
    check_held_out(captions, evaluation, allow_overlap=spec.train.allow_overlap)
    return pairs


def reward_identity(settings: RewardSettings) -> str:
    """A short hash of a reward's settings and version, and of the files it is read from."""
    files = {what: content(path) for what, path in settings.assets().items()}
    text = json.dumps([settings.model_dump(mode="json"), settings.version, files], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def release_text_encoders(policy: Policy, texts: set[str]) -> None:
    """Encode what the run will need and free the encoders, unless that would take more memory than they do."""
    if len(texts) > MOST_REMEMBERED:
        ranks.say(f"{len(texts)} prompts: the text encoders stay loaded and encode them as they come")
        return
    policy.remember(sorted(texts), torch.device("cpu"))
    policy.backbone.release_text_encoders()


def fingerprint_of(spec: RunSpec, backbone: Backbone, prompts: Sequence[Prompt]) -> str:
    """What the untouched backbone makes of a prompt: as the main process sees it, for all."""
    return ranks.from_main(lambda: fingerprint(backbone, prompts[0].text, spec.eval.guidance_scale))


def try_judges(judges: Sequence[Judge], backbone: Backbone, prompt: Prompt) -> None:
    """Raises UserError now where one cannot be loaded, or does not fit the images' size or the prompts."""
    image = backbone.decode(torch.zeros((1, *backbone.latent_shape), device=backbone.device))
    for judge in judges:
        with judge.live(backbone.device) as evaluator:
            score_images(judge.label, evaluator, image, [prompt])


def checkpoint_of(spec: RunSpec, backbone: Backbone) -> Path | None:
    """Where the run's checkpoint lies, if it has one; UserError when it does not fit the backbone."""
    if spec.checkpoint is None:
        return None
    path = locate_checkpoint(spec.checkpoint)
    backbone.load_checkpoint(path, check_only=True)
    return path


def device_of(spec: RunSpec) -> torch.device:
    """The device a run asks for; auto is a GPU when there is one. Raises UserError when it is not there.

    Of several processes each has a GPU of its own.
    """
    if spec.device == "auto":
        return ranks.own(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    device = torch.device(spec.device)
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available, "cpu": lambda: True}
    if not there[device.type]():
        raise UserError(f'device "{spec.device}" is not available here; use cpu or auto')
    return ranks.own(device)


def dtype_of(spec: RunSpec) -> torch.dtype:
    """Of the weights as they are loaded."""
    return DTYPES[spec.weights_precision]


def prompts_of(spec: RunSpec) -> tuple[list[Prompt], list[Prompt]]:
    """Training prompts (none when nothing is trained) and evaluation prompts; UserError when they overlap."""
    settings = spec.eval
    evaluation = load_prompts(settings.prompts, "eval", settings.num_prompts, settings.seed)
    fed = spec.method.trains and "prompts" in spec.method.needs
    train = load_prompts(spec.train.prompts, "train", None, spec.seed) if fed else []
    check_held_out(train, evaluation, allow_overlap=spec.train.allow_overlap)
    return train, evaluation


def trained_reward(
    spec: RunSpec, backbone: Backbone, base: str, cache: Path
) -> tuple[RewardSettings, Path, bool]:
    """The run's reward trained by its own settings, its folder in the cache, and whether that was reused.

    All processes train together, the main one writes; another run that trains the same is waited for. `base` is the
    backbone's fingerprint. The folder may hold an unfinished training; it counts as trained when settings.json is in
    it, which is written last.
    """
    reward = spec.reward
    if reward is None:
        raise UserError(f"method {name_of(spec.method)} needs no reward, so there is none to train")
    data = {
        name: content(place) if isinstance(place, Path) else place
        for name, place in reward.training_data().items()
    }
    key = {"reward": name_of(reward), "settings": reward.model_dump(mode="json"), "data": data}
    folder = folder_of(cache.absolute(), "reward", {**key, "base": base, "seed": spec.seed})
    marker, place = folder / TRAINED, json.dumps(str(folder))[1:-1]
    with ranks.main_holds(lambda: run_lock(folder, patient())):
        if ranks.from_main(marker.exists):
            ranks.say(f"reward {name_of(reward)}: trained already, in {folder}")
            return type(reward).model_validate_json(marker.read_text().replace(HERE, place)), folder, True
        ranks.say(f"reward {name_of(reward)}: training it, in {folder}")
        began = time.monotonic()
        with memory.explained("training the reward", LESS_TRAINING):
            trained = reward.train(
                backbone, folder, seed=spec.seed, device=backbone.device, dtype=dtype_of(spec)
            )
        cost = Cost(seconds=time.monotonic() - began)
        ranks.from_main(lambda: write_atomic(folder / TRAINING_COST, cost.model_dump_json(indent=1)))
        document = trained.model_dump_json(indent=1).replace(place, HERE)
        ranks.from_main(lambda: write_atomic(marker, document))
    return trained, folder, False


def training_seconds(folder: Path) -> float | None:
    """Wall time of training a reward; of one that was interrupted, since it last went on. None where it is unknown."""
    path = folder / TRAINING_COST
    return Cost.model_validate_json(path.read_text()).seconds if path.exists() else None


def patient() -> Callable[[InUse], None]:
    """Wait for whoever has a lock, and say once for whom."""
    said: list[InUse] = []

    def wait(busy: InUse) -> None:
        if not said:
            ranks.tell(f"waiting: {busy}")
            said.append(busy)
        time.sleep(0.5)

    return wait
