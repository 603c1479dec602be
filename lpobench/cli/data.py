"""`lpobench data ...`: preference data, from a look at it to what a reward model trains on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lpobench.cli import curate, filtering, options
from lpobench.cli.output import check_writable, columns, say, show, show_json
from lpobench.plugin import UserError

app = typer.Typer(rich_markup_mode=None)
app.command("score")(curate.score)
app.command("filter")(filtering.filter_)
app.command("encode")(curate.encode)
BAR, SIZES_SHOWN = 40, 8


@app.callback(invoke_without_command=True)
def data(context: typer.Context) -> None:
    """Look at preference data, score and filter it, and encode it once for all trainings."""
    if context.invoked_subcommand is None:
        show(context.get_help())


@app.command()
def inspect(
    source: curate.Source,
    split: curate.Split = None,
    scores: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Scores whose gaps are shown, of `data score`.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.png", help="A picture of some pairs.")] = None,
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="Pairs in the picture.")] = 12,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="The first N rows only.")] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the pairs in the picture.")] = 0,
    stream: curate.Stream = False,
    as_json: options.Json = False,
) -> None:
    """Count what is in preference data: labels, ties, sizes, repeats, gaps, and everything that is wrong.

    Every image is read and decoded; nothing is written but --out.
    """
    if out is not None:
        if out.suffix != ".png":
            raise UserError(f"--out should end in .png, got {out}")
        check_writable(out.parent)
    from lpobench.data.pairs.inspect import inspect as look_through
    from lpobench.data.pairs.samples import write_grid
    from lpobench.data.pairs.source import open_pairs

    pairs = open_pairs(source, split, stream=stream)
    if out is not None and not pairs.has_images:
        raise UserError(f"{source} keeps latents only: there is no picture to draw, leave --out away")
    found, shown = look_through(pairs, scores=scores, limit=limit, show=samples if out else 0, seed=seed)
    if out is not None:
        write_grid(out, shown)
        say(f"{len(shown)} pairs are in {out}")
    document = found.document()
    if as_json:
        return show_json(document)
    _print(document)
    for line in found.bad_row_lines:
        say(f"left out: {line}")
    return None


@app.command()
def prompts(
    source: Annotated[str, typer.Argument(metavar="NAME|FILE", help="shapes, a known set, or a file.")],
    split: Annotated[
        Literal["train", "eval"], typer.Option(metavar="train|eval", help="Which of shapes.")
    ] = "train",
    num: Annotated[int | None, typer.Option(min=1, metavar="N", help="A sample of so many.")] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the sample.")] = 0,
    against: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Count the prompts these share with it.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.jsonl", help="Write them there.")] = None,
    as_json: options.Json = False,
) -> None:
    """Count the prompts of a set or a file, and write them to a file that trainings can read."""
    if out is not None:
        if out.suffix != ".jsonl":
            raise UserError(f"--out should end in .jsonl, got {out}")
        check_writable(out.parent)
    from lpobench.data.prompt_files import plain
    from lpobench.data.prompt_sets import PUBLISHED_MD5, is_published
    from lpobench.data.prompts import load_prompts

    wanted = load_prompts(source, split, num, seed)
    found = {
        "source": source,
        "prompts": len(wanted),
        "distinct": len({plain(prompt.text) for prompt in wanted}),
        "tasks": dict(Counter(prompt.tags["task"] for prompt in wanted if "task" in prompt.tags)),
        "published_training_list": is_published(source),
    }
    if against is not None:
        other = {plain(prompt.text) for prompt in load_prompts(against, "eval", None, seed)}
        found["shared"] = sum(plain(prompt.text) in other for prompt in wanted)
    if out is not None:
        lines = [json.dumps({"prompt": p.text, **p.tags}, ensure_ascii=False) for p in wanted]
        out.write_text("\n".join(lines) + "\n", encoding="utf-8")
        say(f"{len(wanted):,} prompts are in {out}")
    if as_json:
        return show_json(found)
    told = {True: "yes", False: "no", None: "no file to compare"}[found.pop("published_training_list")]
    tasks = ", ".join(f"{name} {count:,}" for name, count in found.pop("tasks").items())
    rows = [(key, str(value)) for key, value in found.items()] + ([("tasks", tasks)] if tasks else [])
    rows.append(("published training list", f"{told} (known of it: its md5 begins with {PUBLISHED_MD5})"))
    return columns(rows, indent=0)


def _print(found: dict[str, Any]) -> None:
    labels, balance = found["labels"], found["label_balance"]
    usable = found["usable"] or 1
    share = lambda count: f"{count:,} ({count / usable:.1%})"
    sizes = list(found["sizes"].items())
    rows = [
        ("source", f"{found['source']} ({found['identity']})"),
        ("rows", f"{found['rows']:,}, of which {found['usable']:,} can be used"),
        ("splits", ", ".join(f"{name or '(none)'} {count:,}" for name, count in found["splits"].items())),
        ("win-lose", share(labels["image_0"] + labels["image_1"])),
        ("ties", share(labels["tie"])),
        ("without a label", share(labels["unlabelled"])),
        ("image 0 wins", "unknown" if balance is None else f"{balance:.1%} of win-lose pairs"),
        ("prompts", f"{found['prompts']:,} distinct"),
    ]
    if sizes:
        more = f", and {len(sizes) - SIZES_SHOWN} more" if len(sizes) > SIZES_SHOWN else ""
        rows += [
            ("images", f"{found['images']:,} distinct, {found['images_repeated']:,} uses repeat one"),
            ("repeated pairs", f"{found['pairs_repeated']:,}"),
            ("an image against itself", f"{found['twins']:,}"),
            ("sizes", ", ".join(f"{size} {count:,}" for size, count in sizes[:SIZES_SHOWN]) + more),
        ]
    columns(rows, indent=0)
    for name, gap in found["gaps"].items():
        _print_gap(name, gap)


def _print_gap(name: str, gap: dict[str, Any]) -> None:
    agree = gap["agree_with_label"]
    told = "no win-lose pair" if agree is None else f"above 0 in {agree:.1%} of win-lose pairs"
    show(f"\n{name}: {told}, {gap['unknown']:,} unknown")
    most = max(a + b for a, b in zip(gap["win_lose"], gap["ties"], strict=True))
    lines = [("from", "to", "win-lose", "ties", "")]
    for low, high, wins, ties in zip(
        gap["edges"], gap["edges"][1:], gap["win_lose"], gap["ties"], strict=False
    ):
        bar = "#" * round(BAR * (wins + ties) / most)
        lines.append((f"{low:.3g}", f"{high:.3g}", f"{wins:,}", f"{ties:,}", bar))
    columns(lines)
