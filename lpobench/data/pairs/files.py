"""Parquet files: what their footers say, checked before anything is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet as pq
from pyarrow import types as kinds

from lpobench.data.pairs.splits import check_split, split_of
from lpobench.plugin import UserError

IMAGES = ("jpg_0", "jpg_1")
CELLS = ("caption", "label_0", "label_1", "num_example_per_prompt", "has_label", "image_0_uid", "image_1_uid")


@dataclass(frozen=True)
class DataFile:
    """One parquet file and how to open it."""

    name: str
    """Below the source: what messages and the identity say."""
    size: int
    split: str | None
    """What its name says."""
    open: Callable[[], Any]
    """A path or a seekable binary file, for pyarrow."""
    failures: tuple[type[Exception], ...] = ()
    """For a file of a remote system, which is read a row group per request: what its reader raises."""


@dataclass(frozen=True)
class Part:
    """The chosen rows of one file."""

    file: DataFile
    split: str | None
    """None: a column says."""
    groups: tuple[int, ...]
    """First row of each row group, and the number of rows."""
    columns: dict[str, str]
    chosen: np.ndarray | None = None
    """The file's rows that are of the split; None for all."""

    def __len__(self) -> int:
        return self.groups[-1] if self.chosen is None else len(self.chosen)

    def in_file(self, first: int, last: int) -> Sequence[int]:
        """Row numbers in the file of the part's rows first .. last - 1."""
        return range(first, last) if self.chosen is None else self.chosen[first:last].tolist()


def local_files(paths: Sequence[Path], root: Path) -> list[DataFile]:
    """Files of this machine, named by their path below `root`."""
    return [
        DataFile(
            name=path.relative_to(root).as_posix(),
            size=path.stat().st_size,
            split=split_of(path.absolute()),
            open=lambda path=path: str(path),
        )
        for path in paths
    ]


def read_footer(file: DataFile) -> Part:
    """A file's rows and columns. Raises UserError for one that is cut off, or lacks a column."""
    with opened(file) as whole:
        meta, schema = whole.metadata, whole.schema_arrow
        groups = (0, *accumulate(meta.row_group(i).num_rows for i in range(meta.num_row_groups)))
    columns = {field.name: str(field.type) for field in schema}
    if missing := [name for name in (*CELLS, *IMAGES) if name not in columns]:
        raise UserError(f"{file.name} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}")
    for name in (*CELLS, *IMAGES):
        wanted, fits = _wanted(name)
        if not fits(schema.field(name).type):
            raise UserError(f"column {name} of {file.name} should be {wanted}, is {columns[name]}")
    split = file.split
    if split is None and "split" not in columns:
        split = "train"  # as `datasets` reads files that do not say
    used = (*CELLS, *IMAGES, *(["split"] if split is None else []))
    return Part(file, split, groups, {name: columns[name] for name in used})


def _wanted(name: str) -> tuple[str, Callable[[pa.DataType], bool]]:
    """What a column should be, in words and as a test."""
    if name in IMAGES:
        return "bytes of an image file", lambda kind: _is_bytes(kind) or _is_image(kind)
    if name == "has_label":
        return "true or false", kinds.is_boolean
    if name in ("label_0", "label_1", "num_example_per_prompt"):
        return "a number", lambda kind: kinds.is_floating(kind) or kinds.is_integer(kind)
    return "text", is_text


def is_text(kind: pa.DataType) -> bool:
    if kinds.is_dictionary(kind):
        return is_text(kind.value_type)
    return kinds.is_string(kind) or kinds.is_large_string(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return kinds.is_binary(kind) or kinds.is_large_binary(kind)


def _is_image(kind: pa.DataType) -> bool:
    return (
        kinds.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type)
    )


def of_split(source: str, parts: list[Part], split: str | None) -> list[Part]:
    """The parts, or the parts of them, that are of a split."""
    if split is None:
        return parts
    known, found = set(), []
    for part in parts:
        if part.split is not None:
            known.add(part.split)
            found += [part] if part.split == split else []
            continue
        with opened(part.file) as whole, explained(part.file):
            column = whole.read(["split"])["split"]
        known.update(name for name in column.unique().to_pylist() if name)
        rows = np.flatnonzero(pc.fill_null(pc.equal(column, split), False).to_numpy())
        found.append(replace(part, split=split, chosen=rows))
    check_split(source, split, known)
    return found


@contextmanager
def opened(file: DataFile) -> Iterator[pq.ParquetFile]:
    remote = bool(file.failures)
    with explained(file):
        whole = pq.ParquetFile(file.open(), pre_buffer=remote, buffer_size=0 if remote else 1 << 20)
    with whole:
        yield whole


@contextmanager
def explained(file: DataFile) -> Iterator[None]:
    """What Arrow and the file system find, in one line."""
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        raise UserError(f"cannot read {file.name}: {error}") from error
    except (pa.ArrowException, OSError, *file.failures) as error:
        reason = str(error).splitlines()[0].rstrip(". ") if str(error) else type(error).__name__
        damaged = isinstance(error, pa.ArrowException) or not file.failures
        advice = "the file is damaged, get it again" if damaged else "try again later"
        raise UserError(f"cannot read {file.name}: {reason}; {advice}") from error
