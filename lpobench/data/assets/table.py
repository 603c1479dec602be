"""The table of assets: every repository, file and licence the project knows of. `table.toml` holds the rows."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from lpobench.plugin import UserError

Kind = Literal["model", "reward", "checkpoint", "scorer", "dataset"]
KINDS: tuple[Kind, ...] = get_args(Kind)
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")
READABLE = ("*.json", "*.safetensors", "*.txt", "*.model")
"""What is fetched of a repository that the table does not know: no pickles."""


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One row. What is not known is None, and printed as "unknown"."""

    name: str
    kind: Kind
    note: str
    """What it is, in a few words."""
    repo: str | None = None
    """Hugging Face id; None where it lies elsewhere."""
    revision: str | None = None
    """Commit, tag or branch; None is the repository's main branch."""
    mirrors: tuple[str, ...] = ()
    """Ids, each with @revision where one is meant, tried in turn when `repo` does not answer."""
    urls: tuple[str, ...] = ()
    """Where `file` is fetched from outside the Hub, tried in turn. One that ends in / is a folder of all `files`."""
    page: str | None = None
    """Where a person can get it, when a program cannot."""
    folder: str = ""
    """Subfolder of the repository that is the asset."""
    file: str = ""
    """The one file that is the asset, below `folder`; it is located as this file, else as the folder."""
    files: tuple[str, ...] = ()
    """Patterns below `folder`, `a|b` where either will do: each is downloaded, and each must match a file for
    the asset to be whole.
    """
    optional: tuple[str, ...] = ()
    """Patterns downloaded as well, that may match nothing."""
    licence: str | None = None
    gated: bool = False
    """The Hub wants the licence accepted by an account first."""
    size_bytes: int | None = None
    """Of the weights that are downloaded."""
    sha256: dict[str, str] = field(default_factory=dict)
    """File below `folder` -> hash, where it is known."""
    seen: str = ""
    """What is doubtful about it, or where a number comes from."""

    @property
    def listed(self) -> bool:
        """Is it a row of the table, not a bare repository?"""
        return self.name in table()

    @property
    def repo_type(self) -> Literal["dataset", "model"]:
        return "dataset" if self.kind == "dataset" else "model"

    @property
    def sources(self) -> list[tuple[str, str | None]]:
        """Repository and revision of the original and of each mirror."""
        if self.repo is None:
            return []
        mirrors = [mirror.partition("@") for mirror in self.mirrors]
        return [(self.repo, self.revision), *((repo, revision or None) for repo, _, revision in mirrors)]

    @property
    def origin(self) -> str:
        """The first place it comes from: a Hub id or an address."""
        return self.repo or next(iter(self.urls), self.page) or "unknown"

    @property
    def hub_page(self) -> str:
        """Where a gated repository's licence is accepted."""
        return f"https://huggingface.co/{'datasets/' if self.repo_type == 'dataset' else ''}{self.repo}"

    @property
    def needed(self) -> tuple[str, ...]:
        """Patterns that must match a file."""
        return (*self.files, *([self.file] if self.file else []))

    @property
    def size(self) -> str:
        """`4.27 GB`, or `unknown`."""
        return human_size(self.size_bytes)

    @property
    def terms(self) -> str:
        """`MIT`, `unknown`, `Stability AI Community License, gated`."""
        return (self.licence or "unknown") + (", gated" if self.gated else "")


def human_size(size: float | None) -> str:
    """Decimal units, three digits: `4.27 GB`."""
    if size is None:
        return "unknown"
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


@cache
def table() -> dict[str, Asset]:
    """Name -> asset, in the order of the file: by kind."""
    rows = tomllib.loads((Path(__file__).parent / "table.toml").read_text(encoding="utf-8"))
    frozen = {
        name: {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
        for name, row in rows.items()
    }
    return {name: Asset(name=name, **row) for name, row in frozen.items()}


def names(kind: Kind | None = None) -> list[str]:
    return [name for name, asset in table().items() if kind in (None, asset.kind)]


def find(name_or_id: str) -> Asset:
    """A row of the table, or a bare repository for an id `org/name[@revision]`.

    Raises UserError for anything else.
    """
    if name_or_id in table():
        return table()[name_or_id]
    if HUB_ID.fullmatch(name_or_id):
        repo, _, revision = name_or_id.partition("@")
        what = {"name": name_or_id, "kind": "model", "note": "a repository the table does not know"}
        return Asset(**what, repo=repo, revision=revision or None, optional=READABLE)
    near = get_close_matches(name_or_id.lower(), names(), n=3, cutoff=0.5)
    guess = f"did you mean {' or '.join(near)}? " if near else ""
    raise UserError(f'unknown asset "{name_or_id}"; {guess}`lpobench list assets` shows all {len(table())}')
