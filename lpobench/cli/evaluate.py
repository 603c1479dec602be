"""`lpobench eval`: generate, score, aggregate; each stage does only what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lpobench import registry
from lpobench.cli import options
from lpobench.cli.curate import Worker
from lpobench.cli.output import check_writable, say, show, show_json, show_rich
from lpobench.data.pairs.shards import parse_worker
from lpobench.evaluation.plan import Part, Plan, plan, protocol_notes
from lpobench.evaluation.scorers import ALL
from lpobench.launch import torchrun
from lpobench.plugin import MissingAsset, UserError
from lpobench.records.evaluation import FILE

if TYPE_CHECKING:
    from lpobench.evaluation.run import Outcome

EVALS = Path("results/evals")

Evaluators = Annotated[
    str,
    typer.Option(
        metavar="all|A,B",
        help="Who scores; all: whoever can run here.",
        autocompletion=lambda incomplete: [
            n for n in registry.names("evaluators") if n.startswith(incomplete)
        ],
    ),
]
ProtocolName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME@V",
        help="How images are made; default: standard@1, or that of an evaluator's suite.",
        autocompletion=lambda incomplete: [n for n in protocol_notes() if n.startswith(incomplete)],
    ),
]


def evaluate(
    context: typer.Context,
    backbone: options.Backbone = None,
    lora: Annotated[
        Path | None, typer.Option(metavar="PATH", help="A LoRA, or a denoiser, put onto the backbone.")
    ] = None,
    checkpoint: options.Checkpoint = None,
    evaluators: Evaluators = ALL,
    protocol: ProtocolName = None,
    engine: options.Engine = None,
    prompts: Annotated[
        str | None, typer.Option(metavar="SET|FILE", help="Prompts, where the protocol leaves them free.")
    ] = None,
    num_prompts: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="So many of the prompts.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="Seed of the noise.")] = None,
    overrides: options.Set = None,
    shard: Worker = "0/1",
    gpus: options.Gpus = None,
    nodes: options.Nodes = None,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Images given to a scorer at once.")] = 16,
    memory: Annotated[
        float,
        typer.Option(min=0, metavar="GIB", help="Memory that scorers may take together; 0: one at a time."),
    ] = 0.0,
    online: options.Online = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")] = False,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where evaluations are kept, one folder each.")
    ] = EVALS,
    as_json: options.Json = False,
) -> None:
    """Score a model: generate images, score them, write means, a table and a record.

    The files of each stage stay, and the same command makes only what is missing; more evaluators can be added later.
    Several jobs share the work with --shard, several GPUs of a machine with --gpus. `lpobench run --checkpoint`
    compares with the base on the same noise instead.
    """
    if lora is not None and checkpoint is not None:
        raise UserError("--lora and --checkpoint both say what is put onto the backbone; give one")
    weights = str(lora) if lora is not None else checkpoint
    names = _names(evaluators)
    flags = {"prompts": prompts, "num_prompts": num_prompts, "seed": seed}
    made = plan(backbone, weights, names, engine, protocol, overrides or [], flags, online=online)
    worker = parse_worker(shard)
    if dry_run:
        return _show_plan(made, out, as_json)
    made.parts[0].spec.check_assets()
    check_writable(out)
    if torchrun.ran(context.obj, made.parts[0].spec.device, gpus, nodes):
        return None
    for name, why in made.left_out.items():
        say(f"not run: {name}: {why}")
    from lpobench.evaluation.run import evaluate as execute  # torch is imported here

    found = execute(made, out, worker=worker, batch_size=batch, memory=memory, say=say)
    return _report(found, as_json)


def _names(evaluators: str) -> list[str]:
    """Raises UserError."""
    names = [name.strip() for name in evaluators.split(",") if name.strip()]
    if not names:
        raise UserError("--evaluators names nobody; `lpobench list evaluators` shows who there is")
    if len(set(names)) < len(names):
        raise UserError(f"--evaluators {evaluators} names somebody twice")
    return names


def _show_plan(made: Plan, out: Path, as_json: bool) -> None:
    rows = [_row(part, out) for part in made.parts]
    if as_json:
        return show_json({"parts": rows, "left_out": dict(made.left_out)})
    for row in rows:
        for key, value in row.items():
            show(f"{key}: {', '.join(value) if isinstance(value, list) else value}")
        show()
    for name, why in made.left_out.items():
        show(f"not run: {name}: {why}")
    return None


def _row(part: Part, out: Path) -> dict[str, Any]:
    settings, rules = part.settings, part.protocol
    return {
        "protocol": rules.id,
        "means": rules.means,
        "limits": rules.limits or "none",
        "backbone": part.backbone,
        "weights": part.weights,
        "prompts": settings.prompts,
        "num_prompts": part.num_prompts or "all",
        "images_per_prompt": settings.images_per_prompt,
        "scored": rules.scored,
        "num_steps": settings.num_steps,
        "guidance_scale": settings.guidance_scale,
        "noise": rules.noise,
        "seed": settings.seed,
        "evaluators": [f"{scorer.label} {scorer.version}" for scorer in part.scorers],
        "missing": _missing(part),
        "folder": str(out / part.id),
        "state": _state(out / part.id),
    }


def _missing(part: Part) -> str:
    """The first file it would ask for in vain, the prompts aside."""
    try:
        part.spec.check_assets()
    except MissingAsset as error:
        return str(error)
    return "nothing"


def _state(folder: Path) -> str:
    """How far it has come."""
    if (folder / FILE).exists():
        return "has a record"
    images = sum(1 for _ in (folder / "images").glob("*.png"))
    return f"begun, {images} images" if folder.exists() else "new"


def _report(found: list[Outcome], as_json: bool) -> None:
    """Records as they are; of a part that is not finished, what it lacks."""
    from lpobench.report.evaluations import evaluations

    if as_json:
        show_json(
            [one.record.model_dump(mode="json") if one.record else {"missing": one.missing} for one in found]
        )
    for one in found:
        if one.record is None:
            lacking = ", ".join(f"{count} by {name}" for name, count in one.missing.items())
            say(f"{one.folder}: scores are missing ({lacking}); the job that finishes last writes the record")
            continue
        if not as_json:
            show_rich(evaluations([one.record]))
        rates = ", ".join(f"{name} {rate:.3g} images/s" for name, rate in one.speed.items())
        say(f"everything is in {one.folder}: {rates or 'it was all there'}")
    if sum(one.record is not None for one in found) > 1:
        say("these are different protocols: their numbers are not comparable")
