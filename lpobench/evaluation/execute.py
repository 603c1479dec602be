"""Generating and scoring what a plan says, each image and score only where it is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lpobench.checkpoints import locate_checkpoint
from lpobench.data.pairs.image import decode
from lpobench.data.pairs.shards import write_atomic
from lpobench.evaluation.job import Job, Options
from lpobench.evaluation.plan import Part, Plan
from lpobench.evaluation.scorers import Scorer
from lpobench.launch import memory
from lpobench.plugin import UserError
from lpobench.prepare import LESS, device_of, dtype_of, release_text_encoders
from lpobench.sampling import Policy, VariancePreserving
from lpobench.scoring.evaluate import score_images, to_bytes
from lpobench.scoring.generate import Painter, digest, probe
from lpobench.scoring.pictures import png
from lpobench.types import Backbone, Evaluator

BASE, PROBE = "base.json", "base.png"
SAME = 4.0
"""Levels of 255 that two probes of the same weights differ by on average, at most."""
LOWER, SMALLER = "a lower train.precision needs less", "a smaller --batch needs less"


def fill(plan: Plan, all_jobs: Sequence[Job], options: Options) -> dict[str, str]:
    """Generate, then score. What of "all" does not fit the images is left out, and returned with the reason."""
    left_out: dict[str, str] = {}
    if sum(job.share.look() for job in all_jobs):
        generate(plan, all_jobs, options, left_out)
    for job in all_jobs:
        score(plan, job, options, left_out)
    return left_out


def generate(plan: Plan, all_jobs: Sequence[Job], options: Options, left_out: dict[str, str]) -> None:
    """Every missing image. The backbone is loaded once, and freed before anything is scored."""
    spec, first = plan.parts[0].spec, all_jobs[0]
    with first.costs.phase("load"), memory.explained("loading the model", LESS):
        backbone = spec.backbone.load(device_of(spec), dtype_of(spec))
        for job in all_jobs:
            check_schedule(job.part, backbone)
            try_scorers(plan, job, backbone, left_out)
            check_base(job, backbone)
        if not any(job.scorers for job in all_jobs):
            raise UserError(f"no evaluator fits these images: {'; '.join(left_out.values())}")
        loaded = None
        if spec.checkpoint is not None:
            loaded = backbone.load_checkpoint(locate_checkpoint(spec.checkpoint))
            options.say(f"checkpoint {spec.checkpoint}: {loaded}")
        for job in all_jobs:
            note_base(job, loaded)
        policy = Policy(backbone, spec.sampling, None)
        if spec.backbone.releases_text_encoders:
            remember(policy, all_jobs)
    for job in all_jobs:
        if job.scorers and (missing := job.share.look()):
            paint(job, policy, missing, options)
    del policy, backbone
    if spec.backbone.assets():
        memory.free()


def paint(job: Job, policy: Policy, missing: int, options: Options) -> None:
    def halved(size: int) -> None:
        options.say(f"out of memory making images: {size} at a time from here on")

    painter = Painter(policy, job.part.settings, True, noise=job.part.protocol.noise, halved=halved)
    job.costs.meter = lambda: policy.work
    with job.costs.phase("generate"), memory.explained("making one image at a time", LOWER):
        job.share.paint(painter, f"generating, {job.part.protocol.id}")
    job.costs.meter = dict
    job.made["generate"] = missing


def score(plan: Plan, job: Job, options: Options, left_out: dict[str, str]) -> None:
    """Every missing score. As many scorers are loaded together as the memory allows, which may then share a network."""
    todo = {scorer.label: missing for scorer in job.scorers if (missing := job.share.unscored(scorer))}
    device = device_of(job.part.spec)
    for group in grouped([scorer for scorer in job.scorers if scorer.label in todo], options.memory):
        names = ", ".join(scorer.label for scorer in group)
        with ExitStack() as stack, memory.explained(f"scoring with {names}", SMALLER):
            live = []
            for scorer in group:
                with job.costs.phase("load scorers"), fitting(plan, job, scorer, left_out):
                    evaluator = stack.enter_context(scorer.live(device))
                    if not plan.named:
                        try_on(scorer, evaluator, job.share.first_image(), job)
                    live.append((scorer, evaluator))
            for scorer, evaluator in live:
                phase = f"score {scorer.label}"
                title = f"scoring with {scorer.label}, {job.part.protocol.id}"
                with job.costs.phase(phase):
                    job.share.score(scorer, evaluator, title, options.batch_size)
                job.made[phase] = todo[scorer.label]


def grouped(scorers: Sequence[Scorer], gibibytes: float) -> list[list[Scorer]]:
    """Scorers in groups whose files together fit the memory; each alone if need be."""
    groups: list[list[Scorer]] = []
    room = 0.0
    for scorer in scorers:
        size = scorer.size() / 2**30
        if groups and size <= room:
            groups[-1].append(scorer)
            room -= size
        else:
            groups.append([scorer])
            room = gibibytes - size
    return groups


def try_scorers(plan: Plan, job: Job, backbone: Backbone, left_out: dict[str, str]) -> None:
    """Each scorer on a blank image, before hours of work. One that does not fit is an error if it was named."""
    image = backbone.decode(torch.zeros((1, *backbone.latent_shape), device=backbone.device)).float()
    for scorer in [scorer for scorer in job.scorers if scorer.engine == "native"]:
        with fitting(plan, job, scorer, left_out), scorer.live(backbone.device) as evaluator:
            try_on(scorer, evaluator, image, job)


def try_on(scorer: Scorer, evaluator: Evaluator, image: Float[Tensor, "1 3 H W"], job: Job) -> None:
    """Raises UserError where an evaluator does not fit the images' size or the prompts."""
    score_images(scorer.label, evaluator, image, list(job.share.prompts[:1]))


@contextmanager
def fitting(plan: Plan, job: Job, scorer: Scorer, left_out: dict[str, str]) -> Iterator[None]:
    """One of "all" that cannot be loaded, or does not fit the images, is left out."""
    try:
        yield
    except UserError as error:
        if plan.named:
            raise
        job.scorers.remove(scorer)
        left_out[scorer.label] = str(error)


def check_schedule(part: Part, backbone: Backbone) -> None:
    """Raises UserError where a protocol wants SDXL's schedule and the backbone was not trained on it."""
    if part.protocol.schedule != "sdxl":
        return
    own, wanted = backbone.schedule, VariancePreserving.scaled_linear()
    same = isinstance(own, VariancePreserving) and (
        torch.equal(own.alphas_cumprod, wanted.alphas_cumprod)
        and (own.prediction, own.steps_offset, own.set_alpha_to_one)
        == (wanted.prediction, wanted.steps_offset, wanted.set_alpha_to_one)
    )
    if not same:
        raise UserError(
            f"protocol {part.protocol.id} samples with SDXL's schedule, backbone {part.backbone} has another; "
            "use --protocol standard@1"
        )


def check_base(job: Job, backbone: Backbone) -> None:
    """The untouched backbone makes about what it made when this evaluation began. Raises UserError.

    About: another device, or another number of threads, rounds differently.
    """
    path = job.folder / PROBE
    found = probe(backbone, job.share.prompts[0].text, job.part.settings.guidance_scale)
    job.base, image = digest(found), to_bytes(found)[0]
    if not path.exists():
        write_atomic(path, png(image), job.share.scratch)
    before = decode(path.read_bytes())
    if before.shape != image.shape or np.abs(before.astype(int) - image).mean() > SAME:
        raise UserError(
            f"{job.folder} was begun with other weights of {job.part.backbone}; choose another --out"
        )


def note_base(job: Job, loaded: str | None) -> None:
    """What the record says of the base, and of what was put onto it: as this evaluation began."""
    if not (job.folder / BASE).exists():
        about = json.dumps({"base": job.base, "loaded": loaded}, indent=2) + "\n"
        write_atomic(job.folder / BASE, about.encode(), job.share.scratch)


def remember(policy: Policy, all_jobs: Sequence[Job]) -> None:
    """Encode the prompts, and free the text encoders."""
    release_text_encoders(policy, {"", *(prompt.text for job in all_jobs for prompt in job.share.prompts)})
