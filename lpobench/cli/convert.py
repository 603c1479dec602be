"""`lpobench convert`: weights in a layout of others, made into a folder that evaluators read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lpobench import registry
from lpobench.cli.output import check_writable, say, show
from lpobench.data import assets
from lpobench.data.assets.hashes import wrong_hash
from lpobench.plugin import MissingAsset, UserError
from lpobench.problems import hint

CONVERTERS = {"geneval-detector": "geneval"}
"""Asset -> the evaluator that reads it."""


def convert(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is: geneval-detector.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the result goes.")],
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="The file as published; default: the asset's, if it is here."),
    ] = None,
) -> None:
    """Make a Hugging Face folder of safetensors of a checkpoint that came in another layout.

    geneval-detector: OpenMMLab's Mask2Former Swin-S (mmdet 2.x), the detector of GenEval. The evaluator geneval also
    reads the file as it is; the folder loads faster and runs no pickle.
    """
    if name not in CONVERTERS:
        raise UserError(f'cannot convert "{name}"; {hint(name, CONVERTERS)}')
    source = assets.locate(name) if file is None else file.expanduser()
    if not source.is_file():
        what = f"no file {source}" if not source.exists() else f"{source} is no file"
        raise MissingAsset(f"{what}; {assets.how_to_supply(assets.find(name))}")
    evaluator = registry.get("evaluators", CONVERTERS[name])
    check_writable(out)
    problem = wrong_hash(assets.find(name), source)
    evaluator.convert(source, out)
    if problem:
        say(f"not the published weights: {problem}; scores are not comparable with published ones")
    show(f"converted into {out}; score with it: --set evaluators.{CONVERTERS[name]}.detector={out}")
