"""The text columns of a comparison's tables: what each row is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lpobench.records.comparison import Comparison, Row
from lpobench.report.tables import Section


class Labels:
    """The text columns of a comparison, and what a row has in them."""

    def __init__(self, columns: Mapping[str, Callable[[Row], str]]):
        self.columns = columns

    @classmethod
    def of(cls, comparison: Comparison) -> Labels:
        """Backbone, method, reward; settings and seeds where there are any."""
        columns: dict[str, Callable[[Row], str]] = {
            "backbone": lambda row: row.backbone,
            "method": lambda row: row.method,
            "reward": lambda row: row.reward,
        }
        if any(row.setting for row in comparison.rows):
            columns["setting"] = lambda row: row.setting
        if any(row.seeds for row in comparison.rows):
            columns["seeds"] = lambda row: str(len(row.seeds)) if row.seeds else ""
        return cls(columns)

    def cells(self, row: Row) -> list[str]:
        return [text(row) for text in self.columns.values()]

    def section(
        self,
        headers: Sequence[str],
        rows: Mapping[int, Sequence[str]],
        comparison: Comparison,
        title: str,
        note: str = "",
    ) -> Section:
        """A table of some of the rows, by their places."""
        body = [[*self.cells(comparison.rows[place]), *cells] for place, cells in rows.items()]
        return Section([*self.columns, *headers], body, note, title, len(self.columns))
