"""`lpobench download`: get models, checkpoints, scorers and data sets, or say where a copy is."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from lpobench.cli.options import Json
from lpobench.cli.output import columns, say, show_json
from lpobench.data import assets
from lpobench.data.assets import Asset
from lpobench.plugin import MissingAsset, UserError

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME...]",
        help="Assets (`lpobench list assets`), or Hub repositories org/name[@revision].",
        autocompletion=lambda incomplete: [name for name in assets.names() if name.startswith(incomplete)],
    ),
]
AllOf = Annotated[assets.Kind | None, typer.Option("--all-of", help="Every asset of a kind.")]
To = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Put each in a folder of its own here, not into the Hugging Face cache."
    ),
]
From = Annotated[
    Path | None,
    typer.Option("--from", metavar="PATH", help="Take this copy: nothing is downloaded, the place is noted."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show sizes, licences and places; change nothing.")]
Offline = Annotated[bool, typer.Option("--offline", help="Do not use the network: show what is missing.")]


def download(
    names: Names = None,
    all_of: AllOf = None,
    to: To = None,
    given: From = None,
    dry_run: DryRun = False,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Download models, checkpoints, scorers and data sets.

    What is here already is left alone. Mirrors are tried in turn; hashes are checked where they are known. Runs
    never download: they say what is missing, and this supplies it.
    """
    from lpobench.data.assets import fetch

    chosen = _chosen(names or [], all_of)
    if given is not None:
        if len(chosen) != 1 or to or dry_run:
            raise UserError("--from PATH takes one NAME, and neither --to nor --dry-run")
        path = fetch.take(chosen[0], given)
        return _print([_finding(chosen[0], to)], as_json, f"{chosen[0].name}: taken from {path}")
    findings = [_finding(asset, to) for asset in chosen]
    missing = [asset for asset, finding in zip(chosen, findings, strict=True) if not finding["path"]]
    if dry_run or offline or fetch.is_offline():
        _print(findings, as_json, *_outlook(missing, to))
        if missing and not dry_run:
            raise MissingAsset(_carry(missing, len(chosen)))
        return None
    failed = _fetch_all(missing, to)
    _print([_finding(asset, to) for asset in chosen], as_json)
    if failed:
        raise MissingAsset(f"{len(failed)} of {len(chosen)} not downloaded: {', '.join(failed)}")
    return None


def _chosen(names: Sequence[str], all_of: assets.Kind | None) -> list[Asset]:
    wanted = dict.fromkeys([*names, *(assets.names(all_of) if all_of else [])])
    if not wanted:
        raise UserError("name an asset, or --all-of a kind; `lpobench list assets` shows them")
    return [assets.find(name) for name in wanted]


def _fetch_all(missing: Sequence[Asset], to: Path | None) -> list[str]:
    """Download one after the other; returns the names of those that no source supplied."""
    from lpobench.data.assets import fetch

    failed = []
    for asset in missing:
        if asset.seen:
            say(f"{asset.name}: {asset.seen}")
        try:
            fetch.fetch(asset, to, say)
        except MissingAsset as error:
            if len(missing) == 1:
                raise
            say(error)
            failed.append(asset.name)
    return failed


def _finding(asset: Asset, to: Path | None) -> dict[str, Any]:
    """What --json prints of an asset."""
    from lpobench.data.assets import fetch

    path, problem = assets.look(asset)
    sources = [*(repo for repo, _ in asset.sources), *asset.urls, *([asset.page] if asset.page else [])]
    return {
        "name": asset.name,
        "kind": asset.kind,
        "what": asset.note,
        "path": path and str(path),
        "problem": None if path else problem,
        "sources": sources,
        "revision": asset.revision,
        "size_bytes": asset.size_bytes,
        "licence": asset.licence,
        "gated": asset.gated,
        "sha256": asset.sha256,
        "remark": asset.seen or None,
        "destination": None if path or asset.page else str(fetch.destination(asset, to)),
    }


def _print(findings: Sequence[dict[str, Any]], as_json: bool, *talk: str) -> None:
    if as_json:
        show_json(findings)
    else:
        rows = [_row(finding) for finding in findings]
        columns([("asset", "", "size", "licence", "source", "place"), *rows], indent=0)
    for line in talk:
        say(line)


def _row(finding: dict[str, Any]) -> tuple[str, ...]:
    licence = (finding["licence"] or "unknown") + (", gated" if finding["gated"] else "")
    return (
        finding["name"],
        "present" if finding["path"] else "missing",
        assets.human_size(finding["size_bytes"]),
        licence,
        urlsplit(finding["sources"][0]).hostname or finding["sources"][0],
        finding["path"] or finding["destination"] or "-",
    )


def _outlook(missing: Sequence[Asset], to: Path | None) -> list[str]:
    """Remarks about what would be downloaded, its size, and the room there is."""
    from lpobench.data.assets import fetch

    if not missing:
        return []
    remarks = [f"{asset.name}: {asset.seen}" for asset in missing if asset.seen]
    known = [asset.size_bytes for asset in missing if asset.size_bytes is not None]
    unknown = len(missing) - len(known)
    total = assets.human_size(sum(known)) + (f" and {unknown} of unknown size" if unknown else "")
    place = fetch.destination(missing[0], to).absolute()
    while not place.exists():
        place = place.parent
    free = assets.human_size(shutil.disk_usage(place).free)
    return [*remarks, f"{len(missing)} missing: {total}; the disk of {place} has {free} free"]


def _carry(missing: Sequence[Asset], count: int) -> str:
    """How to supply assets to a machine with no network."""
    names = " ".join(asset.name for asset in missing)
    return (
        f"offline, and {len(missing)} of {count} missing: {names.replace(' ', ', ')}; "
        f"where there is a network: `lpobench download {names} --to FOLDER`; here: LPOBENCH_ASSETS=FOLDER"
    )
