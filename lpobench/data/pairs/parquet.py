"""Pick-a-Pic's parquet files, of this machine or of a remote file system, read a row group at a time.

All footers are read when the source is opened: a file that is cut off or lacks a column is found then. Only the
columns that are needed are read, and of a share of the rows only its own row groups.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from threading import Lock
from typing import Any

import pyarrow as pa
from pyarrow import parquet as pq

from lpobench.data.pairs.files import (
    CELLS,
    IMAGES,
    DataFile,
    Part,
    explained,
    is_text,
    of_split,
    opened,
    read_footer,
)
from lpobench.data.pairs.record import BadRow, PreferencePair, Problems, checked, share
from lpobench.data.pairs.splits import order
from lpobench.plugin import UserError

BATCH = 16
"""Rows decoded at a time: what the memory holds of a group that is read in order."""
KEPT_BYTES = 32 << 20
"""Row groups kept for `get`: the latest, and older ones while they fit in this together."""


class ParquetPairs:
    """Rows of parquet files in name order, split by split. Safe to use from several threads."""

    has_images = True

    def __init__(self, name: str, files: Sequence[DataFile], split: str | None) -> None:
        self.name, self.split, self.problems = name, split, Problems()
        with ThreadPoolExecutor(8) as pool:
            parts = list(
                pool.map(read_footer, sorted(files, key=lambda file: (order(file.split), file.name)))
            )
        parts = of_split(name, parts, split)
        self.parts = [part for part in parts if len(part)]
        self._ends = list(accumulate(map(len, self.parts)))
        self._groups: OrderedDict[tuple[int, int, bool], pa.Table] = OrderedDict()
        self._lock = Lock()

    def identity(self) -> dict[str, Any]:
        files = [[part.file.name, part.file.size, len(part)] for part in self.parts]
        columns = self.parts[0].columns if self.parts else {}
        return {"kind": "parquet", "split": self.split, "files": files, "columns": columns}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def pairs(
        self, start: int = 0, shard: tuple[int, int] = (0, 1), *, images: bool = True
    ) -> Iterator[PreferencePair]:
        rows = share(len(self), shard, start)
        for part, end in zip(self.parts, self._ends, strict=True):
            begin = end - len(part)
            first, last = max(rows.start, begin), min(rows.stop, end)
            if first < last:
                wanted = part.in_file(first - begin, last - begin)
                for row, cells in zip(range(first, last), _read_rows(part, wanted, images), strict=True):
                    try:
                        yield _pair(row, part, cells, images)
                    except BadRow as bad:
                        self.problems.add(bad.reason, bad.row)

    def get(self, row: int, *, images: bool = True) -> PreferencePair:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        number = bisect_right(self._ends, row)
        part = self.parts[number]
        local = part.in_file(at := row - self._ends[number] + len(part), at + 1)[0]
        group = bisect_right(part.groups, local) - 1
        table = self._group(number, group, images)
        with self.problems.counted():
            return _pair(row, part, _to_rows(table.slice(local - part.groups[group], 1))[0], images)

    def _group(self, number: int, group: int, images: bool) -> pa.Table:
        """A row group, from the few that are kept."""
        key, part = (number, group, images), self.parts[number]
        with self._lock:
            if key not in self._groups:
                with opened(part.file) as whole, explained(part.file):
                    self._groups[key] = whole.read_row_group(group, columns=_columns(part, images))
            self._groups.move_to_end(key)
            while len(self._groups) > 1 and sum(t.nbytes for t in self._groups.values()) > KEPT_BYTES:
                self._groups.popitem(last=False)
            return self._groups[key]


def _columns(part: Part, images: bool) -> list[str]:
    return [*CELLS, *(IMAGES if images else ()), *(["split"] if part.split is None else [])]


def _pair(row: int, part: Part, cells: dict[str, Any], images: bool) -> PreferencePair:
    split = part.split if part.split is not None else cells["split"]
    files = tuple(_bytes(cells[name]) for name in IMAGES) if images else None
    return checked(row, split or "", cells, files)


def _bytes(cell: Any) -> Any:
    """The file of an image cell: bytes, or the struct {bytes, path} that `datasets` writes."""
    return cell.get("bytes") if isinstance(cell, dict) else cell


def _read_rows(part: Part, wanted: Sequence[int], images: bool) -> Iterator[dict[str, Any]]:
    """The cells of these rows of a file, ascending; a batch at a time."""
    with opened(part.file) as whole:
        begin = 0
        for group, (first, last) in enumerate(pairwise(part.groups)):
            end = bisect_left(wanted, last, begin)
            if begin < end:
                yield from _read_group(part, whole, group, first, wanted[begin:end], images)
            begin = end


def _read_group(
    part: Part, whole: pq.ParquetFile, group: int, first: int, wanted: Sequence[int], images: bool
) -> Iterator[dict[str, Any]]:
    batches = whole.iter_batches(BATCH, row_groups=[group], columns=_columns(part, images))
    begin = 0
    while begin < len(wanted):
        with explained(part.file):
            batch = next(batches, None)
        if batch is None:
            raise UserError(f"cannot read {part.file.name}: row group {group} ends early; get the file again")
        end = bisect_left(wanted, first + batch.num_rows, begin)
        if begin < end:
            picked = [row - first for row in wanted[begin:end]]
            yield from _to_rows(batch if len(picked) == batch.num_rows else batch.take(picked))
        begin, first = end, first + batch.num_rows


def _to_rows(table: pa.Table | pa.RecordBatch) -> list[dict[str, Any]]:
    """Cells as Python values; text that is not UTF-8 stays bytes, which `checked` refuses."""
    try:
        return table.to_pylist()
    except UnicodeDecodeError:
        fields = [pa.field(f.name, pa.binary() if is_text(f.type) else f.type) for f in table.schema]
        rows = table.cast(pa.schema(fields)).to_pylist()
        return [{name: _text(cell, name) for name, cell in row.items()} for row in rows]


def _text(cell: Any, name: str) -> Any:
    if not isinstance(cell, bytes) or name in IMAGES:
        return cell
    try:
        return cell.decode()
    except UnicodeDecodeError:
        return cell
