"""`lpobench run`: train, generate, score, record, print the table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lpobench.cli import options
from lpobench.cli.output import check_writable, say, show, show_json, show_rich, to_toml
from lpobench.launch import torchrun
from lpobench.plugin import MissingAsset, UserError
from lpobench.records.record import find_complete, run_name
from lpobench.spec import RunSpec

if TYPE_CHECKING:
    from lpobench.records.bench import Estimate


def run(
    context: typer.Context,
    recipe: options.Recipe = None,
    backbone: options.Backbone = None,
    method: options.Method = None,
    reward: options.Reward = None,
    evaluators: options.Evaluators = None,
    checkpoint: options.Checkpoint = None,
    overrides: options.Set = None,
    seed: options.Seed = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="At most N updates and N prompts: for trying things, not for tables."
        ),
    ] = None,
    gpus: options.Gpus = None,
    nodes: options.Nodes = None,
    resume: Annotated[bool, typer.Option(help="Go on from what is there, or start over.")] = True,
    train_reward: Annotated[
        bool, typer.Option("--train-reward", help="Train the reward model first, instead of loading it.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved plan and write nothing.")
    ] = False,
    estimate: Annotated[
        bool,
        typer.Option(
            "--estimate", help="With --dry-run: load the models, time them briefly, tell work and hours."
        ),
    ] = False,
    out: options.Out = options.RUNS,
    as_json: options.Json = False,
) -> None:
    """Train and score one combination.

    With no options: LPO on the embedded model, minutes on a laptop. Images are compared with those that the
    untouched base makes of the same noise. Settings come from the defaults of the classes, then the recipe,
    then the flags, then --set.
    """
    spec = options.spec_of(
        recipe,
        overrides,
        backbone=backbone,
        method=method,
        reward=reward,
        evaluators=evaluators,
        checkpoint=checkpoint,
        seed=seed,
    )
    check_writable(out)
    if train_reward:
        options.require_reward(spec)
    if estimate and not dry_run:
        raise UserError("--estimate goes with --dry-run")
    if dry_run:
        processes = {"processes": f"{gpus or 'one per GPU'} on each machine, of which there are {nodes or 1}"}
        folder = out / run_name(spec.id, limit, train_reward)
        cost = _estimated(spec, limit, train_reward) if estimate else None
        return _plan(spec, folder, limit, train_reward, as_json, processes if gpus or nodes else {}, cost)
    spec.check_assets(trains_reward=train_reward)
    if torchrun.ran(context.obj, spec.device, gpus, nodes):
        return None
    from lpobench.run import execute  # torch is imported here

    record = execute(spec, out, resume=resume, limit=limit, train_reward=train_reward)
    if as_json:
        return show_json(record.model_dump(mode="json"))
    from lpobench.report.tables import comparison

    show_rich(comparison(record))
    return say(f"everything is in {record.folder}")


def _plan(
    spec: RunSpec,
    folder: Path,
    limit: int | None,
    train_reward: bool,
    as_json: bool,
    processes: dict[str, str],
    cost: Estimate | None,
) -> None:
    """What a run would do. As TOML it is a recipe, with the plan in its comments."""
    updates = min(spec.train.num_updates, limit or spec.train.num_updates) if spec.method.trains else 0
    prompts = min(spec.eval.num_prompts, limit or spec.eval.num_prompts)
    compared = spec.method.trains or spec.method.samples or spec.checkpoint
    plan = {
        "id": spec.id,
        "folder": str(folder),
        "state": _state(folder),
        "missing": _missing(spec, train_reward),
        "reward": "trained first" if train_reward else "loaded" if spec.reward else "none",
        "trains": spec.trains,
        "updates": updates,
        "images": prompts * spec.eval.images_per_prompt * (2 if compared else 1),
        **processes,
    }
    if as_json:
        measured = {} if cost is None else {"estimate": cost.model_dump(mode="json")}
        return show_json(plan | measured | {"limit": limit, "spec": spec.model_dump(mode="json")})
    for key, value in plan.items():
        show(f"# {key}: {value}")
    for line in _cost_lines(cost):
        show(f"# {line}")
    return show("\n" + to_toml(spec.model_dump(mode="json")))


def _estimated(spec: RunSpec, limit: int | None, train_reward: bool) -> Estimate:
    """Measured here, by one process."""
    spec.check_assets(trains_reward=train_reward)
    from lpobench.run import cut
    from lpobench.timing.estimate import estimate

    return estimate(cut(spec, limit), train_reward=train_reward)


def _cost_lines(cost: Estimate | None) -> list[str]:
    """Work and time, in all and by phase."""
    if cost is None:
        return ["cost: not estimated; --estimate loads the models and times them for about half a minute"]
    from lpobench.report.bench import estimate_lines

    return estimate_lines(cost)


def _missing(spec: RunSpec, train_reward: bool) -> str:
    """The first file the run would ask for in vain."""
    try:
        spec.check_assets(trains_reward=train_reward)
    except MissingAsset as error:
        return str(error)
    return "nothing"


def _state(folder: Path) -> str:
    """How far the run has come."""
    if find_complete(folder):
        return "complete"
    steps = [path.name.removeprefix("step-") for path in folder.glob("checkpoints/step-*")]
    if steps:
        return f"checkpoint of update {int(max(steps))}"
    return "begun" if folder.exists() else "new"
