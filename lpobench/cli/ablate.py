"""`lpobench ablate`: one thing varied, each value a run of its own."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lpobench.cli import options
from lpobench.cli.exits import Exit
from lpobench.cli.output import check_writable, columns, heading, say, show, show_json
from lpobench.draft import parse_override
from lpobench.plugin import UserError

if TYPE_CHECKING:
    from lpobench.ablation.cells import Plan
    from lpobench.launch.jobs import Launcher
    from lpobench.records.sweep import Sweep


def _names(incomplete: str) -> list[str]:
    from lpobench.ablation.definition import built_in

    return [name for name in built_in() if name.startswith(incomplete)]


def ablate(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|FILE]", help="Built-in ablation, or TOML with a [sweep].", autocompletion=_names
        ),
    ] = None,
    values: Annotated[
        str | None, typer.Option(metavar="A,B", help='Only these values, or others: "0.1,[0.05,0.15]".')
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="0,1,2", help="Training seeds; default: the recipe's.")
    ] = None,
    recipe: options.Recipe = None,
    backbone: options.Backbone = None,
    method: options.Method = None,
    reward: options.Reward = None,
    evaluators: options.Evaluators = None,
    overrides: options.Set = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="At most N updates and N prompts a cell: for trying things."),
    ] = None,
    train_reward: Annotated[
        bool,
        typer.Option("--train-reward", help="Train the reward models first, each once for all its cells."),
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Cells at a time; default: local, one per GPU, or one; else no limit."
        ),
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="GPUs of a cell; default: one where there are any.")
    ] = None,
    cpus: Annotated[int | None, typer.Option(min=1, metavar="N", help="CPU cores of a cell.")] = None,
    launcher: Annotated[Literal["local", "ray", "slurm"], typer.Option(help="Where cells run.")] = "local",
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="ray: of a cluster, or auto; else one is started here."),
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="slurm: for submitit, such as slurm_partition=gpu; repeatable."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cells, what is complete, and their commands.")
    ] = False,
    out: options.Out = options.RUNS,
    as_json: options.Json = False,
) -> None:
    """Run an ablation: one thing varied, all else shared.

    Without a name: lists them. Every cell is an ordinary run, done once: what is complete is not done again, what
    was interrupted goes on, and cells share the base's images and, with --train-reward, reward models. A failed cell
    stops no other; the exit code is then 5.
    """
    if name is None:
        return _list(as_json)
    from lpobench.ablation import drive
    from lpobench.ablation.cells import plan
    from lpobench.ablation.options import Options

    chosen = Options(
        recipe=recipe,
        backbone=backbone,
        method=method,
        reward=reward,
        evaluators=evaluators and tuple(word.strip() for word in evaluators.split(",")),
        overrides=tuple(overrides or ()),
        limit=limit,
        values=values,
        seeds=seeds and _seeds(seeds),
        train_reward=train_reward,
        gpus=gpus,
        out=out,
        usual_out=options.RUNS,
        command=shlex.join(["lpobench", *context.obj]),
    )
    planned = plan(name, chosen, say)
    for label, reason in planned.left_out:
        say(f"{label} is left out: {reason}")
    if dry_run:
        return _plan(planned, as_json)
    if planned.missing:
        raise planned.missing
    check_writable(out)
    where = _launcher(launcher, planned, out, jobs, gpus, cpus, address, slurm)
    _announce(planned, launcher)
    sweep = drive.Drive(planned, out, where, say, drive.PROGRAM).run()
    return _conclude(sweep, out, as_json)


def _seeds(text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() for word in words):
        raise UserError(f'--seeds should be whole numbers such as 0,1,2, got "{text}"')
    return tuple(dict.fromkeys(map(int, words)))


def _launcher(
    name: str,
    planned: Plan,
    out: Path,
    jobs: int | None,
    gpus: int | None,
    cpus: int | None,
    address: str | None,
    slurm: list[str] | None,
) -> Launcher:
    """The launcher of that name. Raises UserError for options of another, MissingAsset without its package."""
    for flag, given, owner in (("--address", address, "ray"), ("--slurm", slurm, "slurm")):
        if given and name != owner:
            raise UserError(f"{flag} is for --launcher {owner}, not {name}")
    on_cpu = gpus == 0 or planned.cells[0].spec.device in ("cpu", "mps")
    if name == "ray":
        from lpobench.launch.on_ray import OnRay

        return OnRay(address, cpus=cpus, gpus=0 if on_cpu else gpus, limit=jobs)
    if name == "slurm":
        from lpobench.launch.on_slurm import OnSlurm

        folder = out / planned.folder / "slurm"
        return OnSlurm(folder, _pairs(slurm or []), cpus=cpus, gpus=gpus, limit=jobs)
    from lpobench.launch.local import Local, gpus_here, slots_for

    present = [] if on_cpu else gpus_here()
    return Local(slots_for(jobs, gpus, present, os.cpu_count() or 1, cpus))


def _pairs(texts: list[str]) -> dict[str, Any]:
    found = {}
    for text in texts:
        path, value = parse_override(text)
        found[".".join(path)] = value
    return found


def _list(as_json: bool) -> None:
    from lpobench.ablation.definition import titles

    known = titles()
    if as_json:
        return show_json({"ablations": known})
    heading("ablations")
    columns(known.items())
    return say(
        "\nlpobench ablate NAME --dry-run shows its cells; a TOML file with a [sweep] is an ablation of yours"
    )


def _plan(planned: Plan, as_json: bool) -> None:
    """The cells, what is complete, and the commands."""
    from lpobench.ablation.drive import name_of_cell

    sweep = planned.sweep
    missing = str(planned.missing) if planned.missing else None
    if as_json:
        left_out = [{"label": label, "reason": reason} for label, reason in planned.left_out]
        return show_json({**sweep.model_dump(mode="json"), "left_out": left_out, "missing": missing})
    _about(sweep)
    show(f"# missing: {missing or 'nothing'}")
    for line in _shared(planned):
        show(f"# {line}")
    rows = [
        (name_of_cell(cell, sweep), "recipe" if cell.label == sweep.baseline else "", cell.state, cell.run)
        for cell in sweep.cells
    ]
    columns(rows)
    show()
    for cell in sweep.cells:
        show(cell.command)
    return None


def _shared(planned: Plan) -> list[str]:
    """What is done once for several cells."""
    trainings = [len(cells) for cells in planned.trainings.values() if len(cells) > 1]
    return [f"a reward model is trained once for {count} cells" for count in trainings]


def _about(sweep: Sweep) -> None:
    show(f"# {sweep.heading}")
    if sweep.source:
        show(f"# {sweep.source}")
    show(f"# sweep {sweep.id}")


def _announce(planned: Plan, launcher: str) -> None:
    cells = planned.sweep.cells
    done = sum(cell.state == "complete" for cell in cells)
    there = f", {done} complete already" if done else ""
    say(f"ablation {planned.sweep.name}: {len(cells)} cells{there}; launcher {launcher}")
    for line in _shared(planned):
        say(line)


def _show_tables(sweep: Sweep, out: Path) -> None:
    """One for each protocol; as `lpobench report` shows them."""
    from lpobench.evaluation.plan import protocol_notes
    from lpobench.records.record import RunRecord
    from lpobench.report.ablation import sweep_comparisons, sweep_document
    from lpobench.report.tables import document_markdown

    records = {cell.run: RunRecord.read(out / cell.run) for cell in sweep.cells if cell.state == "complete"}
    for comparison in sweep_comparisons(sweep, records):
        show(document_markdown(sweep_document(sweep, comparison, protocol_notes())))


def _conclude(sweep: Sweep, out: Path, as_json: bool) -> None:
    """The table, and what failed."""
    from lpobench.ablation.drive import name_of_cell

    failed = [cell for cell in sweep.cells if cell.state == "failed"]
    if as_json:
        show_json(sweep.model_dump(mode="json"))
    else:
        _show_tables(sweep, out)
    for cell in failed:
        log = f"; log {sweep.folder / cell.log}" if cell.log and sweep.folder else ""
        say(f"failed: {name_of_cell(cell, sweep)}: {cell.error}{log}")
    if failed:
        say(f"{len(failed)} of {len(sweep.cells)} cells failed; the same command tries them again")
        raise typer.Exit(Exit.INCOMPLETE)
