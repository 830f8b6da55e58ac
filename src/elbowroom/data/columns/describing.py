"""Columns in words: kind, values, and whether log p of a value is that of a probability or of a density."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from elbowroom.data.columns.coding import decode
from elbowroom.data.columns.column import Column, ColumnKind

__all__ = ["column_facts", "sum_in_words"]

_WIDTH = 44  # letters of levels that are listed
_ASIDE = {
    ColumnKind.CONSTANT: "set aside: one value",
    ColumnKind.IDENTIFIER: "set aside: identifies rows",
    ColumnKind.TEXT: "set aside: free text",
}


def column_facts(
    kinds: Sequence[Column], aside: Sequence[Column], x: npt.NDArray[np.float64], *, id_name: str | None = None
) -> list[dict[str, Any]]:
    """A line about every column.

    Args:
        kinds: of the columns of x.
        aside: columns that are set aside.
        x: all rows, shape (n, columns), NaN where missing.
        id_name: the column that identifies the rows in files of results.
    Returns:
        For each column its name, kind, number of different values and of missing ones (None for what was not kept),
        range or levels, and density in words.
    Example:
        >>> city = Column("city", ColumnKind.CATEGORY, levels=("Bergen", "Oslo", "Tromsø"))
        >>> column_facts([city], [], np.array([[0.0], [1.0], [np.nan]]))[0]["range"]
        'Bergen, Oslo, Tromsø'
    """
    facts = [_facts(column, x[:, place]) for place, column in enumerate(kinds)]
    for column in aside:
        why = _ASIDE[column.kind]
        if column.kind is ColumnKind.CONSTANT and not column.levels:
            why = "set aside: no value"
        if column.name == id_name:
            why += ", carried into results"
        held = ", ".join(column.levels)
        facts.append(_line(column, None, None, held, why))
    return facts


def _line(column: Column, distinct: int | None, missing: int | None, held: str, density: str) -> dict[str, Any]:
    return {
        "column": column.name,
        "kind": str(column.kind),
        "distinct": distinct,
        "missing": missing,
        "range": held,
        "density": density,
    }


def _facts(column: Column, values: npt.NDArray[np.float64]) -> dict[str, Any]:
    known = values[~np.isnan(values)]
    missing = len(values) - len(known)
    distinct = len(np.unique(known))
    if column.kind.has_levels:
        return _line(column, distinct, missing, _listed(column), f"probability of {len(column.levels):,} levels")
    held = ""
    if len(known):
        ends = decode(np.array([[known.min()], [known.max()]]), [column])[column.name].to_list()
        held = " to ".join(f"{end:g}" if isinstance(end, float) else f"{end}" for end in ends)
    return _line(column, distinct, missing, held, _density(column, known))


def _listed(column: Column) -> str:
    joint = " < " if column.kind is ColumnKind.ORDINAL else ", "
    shown = list(column.levels)
    while len(shown) > 1 and len(joint.join(shown)) > _WIDTH:
        shown.pop()
    text = joint.join(shown)
    text = text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"
    return text if len(shown) == len(column.levels) else f"{text}{joint}…"


def _density(column: Column, known: npt.NDArray[np.float64]) -> str:
    beside = ""
    if column.atom is not None and len(known):
        beside = f", {column.atom:g} apart ({(known == column.atom).mean():.0%})"
    if column.kind is ColumnKind.COUNT:
        return f"probability of a count{beside}"
    if column.cells:
        return f"probability of {len(column.cells):,} cells{beside}"
    if column.kind is ColumnKind.DATE:
        return "density per day"
    if column.kind is ColumnKind.PROPORTION:
        return "density between 0 and 1"
    grid = f", in steps of {column.step:g}" if column.step else ""
    where = "density above 0" if column.kind is ColumnKind.POSITIVE else "density"
    return f"{where}{grid}{beside}"


def sum_in_words(kinds: Sequence[Column]) -> str:
    """What log p of a row adds up.

    Example:
        >>> age, size = Column("age", ColumnKind.COUNT), Column("size", ColumnKind.REAL)
        >>> sum_in_words([age, size])
        "log p(x) of a row adds 1 log probability and 1 log density (size), which is in that column's unit"
        >>> sum_in_words([age])
        'log p(x) of a row is a log probability'
    """
    densities = [column.name for column in kinds if not column.is_probability]
    number = len(kinds) - len(densities)
    if not densities:
        return "log p(x) of a row is a log probability"
    named = ", ".join(densities[:5]) + (", …" if len(densities) > 5 else "")
    unit = "is in that column's unit" if len(densities) == 1 else "are in the units of these columns"
    these = f"{len(densities):,} log densit{'y' if len(densities) == 1 else 'ies'} ({named}), which {unit}"
    if not number:
        return f"log p(x) of a row adds {these}"
    return f"log p(x) of a row adds {number:,} log probabilit{'y' if number == 1 else 'ies'} and {these}"
