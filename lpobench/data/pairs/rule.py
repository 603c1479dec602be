"""A rule over the columns of a table, such as "aesthetic_gap > -0.5 and clipscore_gap > 0".

Read by Python's parser and checked against a short list of what may stand in it; never run as code.
"""

from __future__ import annotations

import ast
from math import isfinite
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool

from lpobench.plugin import UserError
from lpobench.problems import hint

if TYPE_CHECKING:
    import pandas as pd

TIE = "tie"
"""True where neither image was preferred; the one name that is a truth and not a number."""
LONGEST = 500
COMPARISONS = {
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}
ARITHMETIC = {ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply}
SIGNS = {ast.USub: np.negative, ast.UAdd: np.positive}
ALLOWED = "column names, tie, numbers, abs(), + - *, < <= > >= == !=, and, or, not"

Kind = Literal["number", "truth"]


class Rule:
    """A yes or no for every row of a table. Raises UserError for text that is no such rule."""

    def __init__(self, text: str):
        self.text = text
        if len(text) > LONGEST:
            raise UserError(f"the rule has {len(text)} characters, at most {LONGEST} are read")
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
            kind = self._check(self._tree)
        except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
            if isinstance(error, UserError):
                raise
            raise self._wrong("it is not an expression") from None
        if kind != "truth":
            raise self._wrong("it gives a number, not a yes or no; compare it with something")
        names = [node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name)]
        self.columns = tuple(dict.fromkeys(name for name in names if name not in (TIE, "abs")))
        """Columns it reads."""

    def __call__(self, table: pd.DataFrame) -> Bool[np.ndarray, " rows"]:
        """The rows that pass. A row with NaN in a column the rule reads does not, whatever the rule says."""
        numbers = table.select_dtypes("number").columns
        for name in self.columns:
            if name not in numbers:
                raise self._wrong(f'unknown column "{name}"; {hint(name, [*numbers, TIE])}')
        values = {name: table[name].to_numpy(dtype=float) for name in self.columns}
        values[TIE] = (table["label_0"] == table["label_1"]).to_numpy()
        known = np.ones(len(table), dtype=bool)
        for name in self.columns:
            known &= ~np.isnan(values[name])
        try:
            return known & np.broadcast_to(self._value(self._tree, values), len(table))
        except RecursionError:
            raise self._wrong("it is nested too deeply") from None

    def _wrong(self, problem: str) -> UserError:
        return UserError(f'rule "{self.text}": {problem}')

    def _check(self, node: ast.expr) -> Kind:
        """What a part gives; UserError where anything but ALLOWED is in it."""
        match node:
            case ast.Name(name):
                return "truth" if name == TIE else "number"
            case ast.Constant(value) if type(value) in (int, float) and isfinite(float(value)):
                return "number"
            case ast.BinOp(left, operator, right) if type(operator) in ARITHMETIC:
                return self._all("number", left, right)
            case ast.UnaryOp(operator, operand) if type(operator) in SIGNS:
                return self._all("number", operand)
            case ast.UnaryOp(ast.Not(), operand):
                return self._all("truth", operand)
            case ast.BoolOp(_, parts):
                return self._all("truth", *parts)
            case ast.Compare(first, operators, rest) if {type(op) for op in operators} <= COMPARISONS.keys():
                self._all("number", first, *rest)
                return "truth"
            case ast.Call(ast.Name("abs"), [value], []):
                return self._all("number", value)
        raise self._wrong(f'"{ast.unparse(node)}" may not stand in it, only {ALLOWED}')

    def _all(self, wanted: Kind, *parts: ast.expr) -> Kind:
        for part in parts:
            if self._check(part) != wanted:
                article = {"number": "a number", "truth": "a yes or no"}
                raise self._wrong(f'"{ast.unparse(part)}" is not {article[wanted]}')
        return wanted

    def _value(self, node: ast.expr, values: dict[str, np.ndarray]) -> np.ndarray:
        value = lambda part: self._value(part, values)
        match node:
            case ast.Name(name):
                return values[name]
            case ast.Constant(number):
                return np.asarray(float(number))
            case ast.BinOp(left, operator, right):
                return ARITHMETIC[type(operator)](value(left), value(right))
            case ast.UnaryOp(ast.Not(), operand):
                return ~value(operand)
            case ast.UnaryOp(operator, operand):
                return SIGNS[type(operator)](value(operand))
            case ast.BoolOp(operator, parts):
                join = np.logical_and if isinstance(operator, ast.And) else np.logical_or
                return join.reduce(np.broadcast_arrays(*map(value, parts)))
            case ast.Compare(first, operators, rest):
                sides = [value(part) for part in (first, *rest)]
                pairs = zip(operators, sides[:-1], sides[1:], strict=True)
                return np.logical_and.reduce(
                    np.broadcast_arrays(*(COMPARISONS[type(op)](left, right) for op, left, right in pairs))
                )
            case ast.Call(_, [operand], _):
                return np.abs(value(operand))
        raise AssertionError(f"unchecked {ast.dump(node)}")
