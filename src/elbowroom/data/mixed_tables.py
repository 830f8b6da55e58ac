"""Tables whose columns are of several kinds: when a table is one, and what becomes of it.

A table of numbers alone is one array of numbers. It is read as columns of several kinds if the user says anything about
these, or if one of them holds no numbers: names, dates, or truths beside other numbers than 0 and 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from elbowroom.data.columns.asking import Asked
from elbowroom.data.columns.coding import encode
from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.data.columns.dates import looks_like_a_date
from elbowroom.data.columns.finding import find_columns
from elbowroom.data.columns.fitting import fitted, unseen_levels
from elbowroom.data.columns.names import folded
from elbowroom.data.columns.values import values_of
from elbowroom.data.csv.cells import TRUTHS
from elbowroom.data.csv.notation import Notation, looks_like_a_number
from elbowroom.errors import ElbowroomError

__all__ = ["Kinds", "Mixed", "fit_to_training", "is_mixed", "mixed_columns", "refuse_without_table"]

_SAMPLE = 100  # cells that say what a column of text holds
_LONG = 30  # letters of a level in a remark


@dataclass(frozen=True)
class Kinds:
    """How a table is to be read.

    Attributes:
        asked: what the user says about its columns.
        mixed: whether its columns are of several kinds; None: find out.
        known: the columns of x in the data of a trained model.
        aside: the columns that were set aside there.
    """

    asked: Asked
    mixed: bool | None = False
    known: tuple[Column, ...] | None = None
    aside: tuple[Column, ...] = ()


@dataclass(frozen=True)
class Mixed:
    """A table of several kinds as numbers.

    Attributes:
        x: float64, shape (n, columns of x), NaN where missing.
        columns: of x.
        aside: columns that are set aside.
    """

    x: npt.NDArray[np.float64]
    columns: tuple[Column, ...]
    aside: tuple[Column, ...] = ()


# --- whether -----------------------------------------------------------------------------------------------------


def refuse_without_table(kinds: Kinds) -> None:
    """Refuse what is said about columns where the data are no table.

    Raises:
        ElbowroomError: kinds were asked for, or columns to be left out.
    """
    if kinds.mixed or kinds.asked.dropped:
        raise ElbowroomError(
            "Something was said about the columns of a table (--data.columns, --data.drop), but the data are no table.",
            "Leave it out, or give a table or a data frame.",
        )


def is_mixed(series: Mapping[str, Any], missing: Collection[str] = ()) -> bool:
    """Whether any column holds no numbers; truths alone are numbers where all others hold 0 and 1 as well.

    Args:
        series: the columns that x would be made of.
        missing: further marks of missing values.
    Example:
        >>> names, sizes, truths = np.array(["a", "b"]), np.array([1.5, 2.5]), np.array([True, False])
        >>> is_mixed({"a": sizes}), is_mixed({"a": names}), is_mixed({"a": truths}), is_mixed({"a": truths, "b": sizes})
        (False, True, False, True)
    """
    held = {column: _held(each, column, missing) for column, each in series.items()}
    if "other" in held.values():
        return True
    if "truths" not in held.values():
        return False
    return not all(_are_bits(series[column]) for column, what in held.items() if what == "numbers")


def _held(series: Any, column: str, missing: Collection[str]) -> str:
    """What a column holds: "numbers", "truths" or "other"; what is neither numbers nor names counts as numbers."""
    dtype: Any = getattr(series, "dtype", None)
    kind = getattr(dtype, "kind", "")
    if kind in "iuf" and kind and not hasattr(dtype, "categories"):
        return "numbers"
    if dtype is not None and any(bool(getattr(dtype, test, bool)()) for test in ("is_numeric", "is_nested")):  # polars
        return "numbers"
    if kind == "O" and hasattr(series, "to_numpy") and not _has_names(series):
        return "numbers"
    values = values_of(series, column, "the table", missing)
    if values.is_truth:
        return "truths"
    if values.is_instant or values.levels is not None:
        return "other"
    if not values.is_text:
        return "numbers"
    some = values.series.drop_nulls().head(_SAMPLE).to_list()
    if not some:
        return "numbers"
    if any({folded(cell) for cell in some} <= words.keys() for words in TRUTHS):
        return "truths"
    if 2 * sum(map(looks_like_a_date, some)) >= len(some):
        return "other"
    return "numbers" if 2 * sum(map(looks_like_a_number, some)) >= len(some) else "other"


def _has_names(series: Any) -> bool:
    """Whether a column of Python objects holds text, truths or dates, and nothing that is refused later."""
    some = [value for value in series.to_numpy().tolist() if value is not None][:_SAMPLE]
    return any(isinstance(value, str | bytes | bool) or hasattr(value, "isoformat") for value in some)


def _are_bits(series: Any) -> bool:
    numbers = np.asarray(series.to_numpy() if hasattr(series, "to_numpy") else series)
    return numbers.dtype.kind in "iufb" and bool(np.isin(numbers[~np.isnan(numbers.astype(float))], (0, 1)).all())


# --- reading -----------------------------------------------------------------------------------------------------


def mixed_columns(series: Mapping[str, Any], name: str, kinds: Kinds, notation: Notation) -> Mixed:
    """The columns of a table of several kinds as numbers.

    Args:
        series: the columns that x may be made of; those of a trained model in its order.
        name: of the table, for messages.
        kinds: how they are to be read.
        notation: how numbers in text are written; what is noticed is added to it.
    Raises:
        ElbowroomError: no column is left, or a fault of `find_columns` or `encode`.
    """
    if kinds.known is not None:
        return Mixed(encode(series, kinds.known, name=name, notation=notation), kinds.known, kinds.aside)
    found = find_columns(series, name, asked=kinds.asked, notation=notation)
    kept = tuple(column for column in found if column.kind.is_modelled)
    aside = tuple(column for column in found if not column.kind.is_modelled)
    if not kept:
        held = ", ".join(f"{column.name} ({column.kind})" for column in aside[:5])
        raise ElbowroomError(
            f"{name} has no column left for x: {held}{', …' if len(aside) > 5 else ''}.",
            "Say what they are, as in --data.columns 'NAME:category'.",
        )
    x = encode(series, kept, name=name, notation=_mute(notation))
    _say_kinds(kept, aside, notation)
    _say_missing(x, kept, notation)
    return Mixed(x, kept, aside)


def _mute(notation: Notation) -> Notation:
    """The same notation for reading again what was read, with remarks that nobody hears."""
    return Notation(notation.decimal, notation.missing, notation.found, notation.separator, notation.where)


def _say_kinds(kept: tuple[Column, ...], aside: tuple[Column, ...], notation: Notation) -> None:
    counts = Counter(str(column.kind) for column in kept)
    listed = ", ".join(f"{number} {kind}" for kind, number in counts.items())
    notation.note(f"columns of several kinds: {listed}")
    for column in aside:
        if column.kind is not ColumnKind.CONSTANT or column.levels:
            notation.note(f"set aside as {column.kind}", column.name)


def _say_missing(x: npt.NDArray[np.float64], kept: tuple[Column, ...], notation: Notation) -> None:
    missing = np.isnan(x).sum(0)
    total = int(missing.sum())
    for column, number in zip(kept, missing.tolist(), strict=True):
        if number:
            noun = "cell is" if total == 1 else "cells are"
            notation.note(f"{total:,} {noun} missing, and marginalised out", column.name)


def fit_to_training(kinds: tuple[Column, ...], x: npt.NDArray[np.float64]) -> tuple[tuple[Column, ...], list[str]]:
    """The columns with what their densities have to know, and remarks on levels that no training row has.

    Args:
        kinds: of the columns of x.
        x: the training rows, shape (n, columns).
    Example:
        >>> city = Column("city", ColumnKind.CATEGORY, levels=("Bergen", "Oslo"))
        >>> fit_to_training((city,), np.array([[0.0]]))[1]
        ["no training row has 'Oslo' (column 'city')"]
    """
    remarks = []
    for column, levels in unseen_levels(kinds, x).items():
        named = [f"'{level if len(level) <= _LONG else level[:_LONG] + '…'}'" for level in levels[:5]]
        shown = ", ".join(named) + (", …" if len(levels) > 5 else "")
        remarks.append(f"no training row has {shown} (column '{column}')")
    return fitted(kinds, x), remarks
