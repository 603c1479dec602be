"""`lpobench score`: what rewards and evaluators say of plain images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lpobench.cli import options
from lpobench.cli.curate import Batch
from lpobench.cli.exits import Exit
from lpobench.cli.judges import Noise, Rewards, judges_of
from lpobench.cli.output import check_writable, columns, say, show, show_json
from lpobench.evaluation.scorers import scorers_of
from lpobench.plugin import UserError

if TYPE_CHECKING:
    from lpobench.scoring.plain_images import ImageScores


class NotFinite(UserError):
    """Some scores are not numbers; what was found has been written."""

    exit_code = Exit.FAILED


def score(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="PNG, JPEG and WebP files, at any depth.")],
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="file and prompt in .csv, .tsv, .json or .jsonl, or a .txt with a line per image in the order of "
            "their names; without it, a .txt beside each image.",
        ),
    ] = None,
    reward: Rewards = None,
    evaluators: options.Evaluators = None,
    engine: options.Engine = None,
    online: options.Online = False,
    backbone: options.Backbone = None,
    t: Annotated[
        str | None,
        typer.Option(
            "--t", metavar="T", help="Timestep the images are noised to for the rewards; default: none."
        ),
    ] = None,
    seed: Noise = 0,
    batch: Batch = 8,
    overrides: options.Set = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.csv", help="The table; default: stdout.")] = None,
    as_json: options.Json = False,
) -> None:
    """Score plain images with rewards, through a backbone's VAE, or with evaluators.

    A row per image: file, prompt, a column per score, and a problem where there is none. Rewards see images resized
    to the backbone's size; noise of --t follows from a file's content. Images that cannot be scored are counted on
    stderr; the exit code is 4 where a score is not finite, after everything is written.
    """
    if out is not None:
        if out.suffix != ".csv":
            raise UserError(f"--out should end in .csv, got {out}")
        check_writable(out.parent)
    if t is not None and evaluators and not reward:
        raise UserError(
            "--t is for rewards, evaluators look at finished images; name a --reward, or leave it away"
        )
    judges = judges_of(reward, backbone, overrides, evaluators)
    scorers = scorers_of(judges.evaluators, engine, online=online)
    from lpobench.data.image_prompts import with_prompts

    images = with_prompts(folder, prompts)
    from lpobench.appraise import score_images  # torch is imported here

    found = score_images(
        judges.spec, judges.rewards, scorers, folder, images, t=t, seed=seed, batch_size=batch
    )
    seen = f"t = {t}" if t is not None else "finished images"
    _write(found, {"noise level": seen} if judges.rewards else {}, out, as_json)
    for line in (*images.notes, *_told(found)):
        say(line)
    if bad := found.not_finite:
        kept = f"; all rows are in {out}" if out else ""
        raise NotFinite(
            f"{len(bad)} of {len(found.table)} images have a score that is not finite: {bad[0]}{kept}"
        )


def _write(found: ImageScores, how: dict[str, str], out: Path | None, as_json: bool) -> None:
    """The table to a file and its means to stdout, or the table to stdout."""
    text = found.table.to_csv(index=False, lineterminator="\n")
    if out is not None:
        from lpobench.records.record import write_atomic

        write_atomic(out, text)
    scored = found.table[found.table["problem"] == ""]
    means = {name: finite(float(scored[name].mean())) for name in found.scores}
    if as_json:
        rows = [{key: finite(value) for key, value in row.items()} for row in found.table.to_dict("records")]
        counts = {"images": len(rows), "scored": len(scored), "problems": found.problems}
        gaps = {name: gap.model_dump() for name, gap in found.differences.items()}
        more = {"conversions": found.conversions, "mean": means, "official_minus_ours": gaps}
        show_json({**how, **counts, **more, "rows": rows})
    elif out is None:
        show(text.removesuffix("\n"))
    else:
        told = [
            (f"mean {name}", "none" if value is None else f"{value:.6g}") for name, value in means.items()
        ]
        columns(
            [("images", f"{len(scored):,} of {len(found.table):,} scored, in {out}"), *how.items(), *told],
            indent=0,
        )


def finite(value: object) -> object:
    """As JSON has it: what is no number is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _told(found: ImageScores) -> list[str]:
    """What was done to images, and which were left out."""
    done = [f"{_images(count)} {what}" for what, count in found.conversions.items()]
    for name, gap in found.differences.items():
        done.append(f"{name}, official code minus ours: mean {gap.mean:+.3g}, largest {gap.largest:.3g}")
    lines = []
    for why, count in found.problems.items():
        names = found.table["file"][found.table["problem"] == why].tolist()
        lines.append(
            f"{_images(count)} left out, {why}: {', '.join(names[:5])}{', ...' if count > 5 else ''}"
        )
    return [*done, *lines]


def _images(count: int) -> str:
    return f"{count:,} image{'s' * (count != 1)}"
