"""One value of a column as the user gives it: text, a number, a truth or a date, as x holds it and as a table does."""

from __future__ import annotations

import datetime
import math
from typing import Any, NamedTuple

import numpy as np

from elbowroom.data.columns.coding import decode, level_number
from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.data.columns.dates import days_since_1970, printed
from elbowroom.data.columns.finding import out_of_range
from elbowroom.data.columns.names import folded
from elbowroom.data.csv.cells import TRUTHS
from elbowroom.errors import ElbowroomError, did_you_mean

__all__ = ["GivenCell", "given_cell"]

_NAMED = 10  # levels that a message lists
_LARGEST = float(np.finfo(np.float32).max)
_SENSES = {"1": 1.0, "0": 0.0} | {word: number for words in TRUTHS for word, number in words.items()}


class GivenCell(NamedTuple):
    """A value of a column."""

    number: float  #: as x holds it: of its level, days since 1970-01-01, or itself
    cell: Any  #: as a table in the kinds of training holds it


def given_cell(value: Any, column: Column, *, comma: bool = False) -> GivenCell:
    """A value that was given for a column.

    A name of a level may be in any spelling of capitals; yes, true and 1 mean the same where there are two such levels,
    and so do no, false and 0. A date is in the format of the column or in that of ISO 8601;
    in a column without times of day, one with a time is the day that it is of.

    Args:
        value: text, a number, a truth or a date.
        column: what is known about the column.
        comma: whether numbers in text may have a decimal comma.
    Raises:
        ElbowroomError: no value or several, one of another kind, a name that is none of the levels, or a number that
            the kind or float32 cannot hold.
    Example:
        >>> given_cell("oslo", Column("city", ColumnKind.CATEGORY, levels=("Bergen", "Oslo")))
        GivenCell(number=1.0, cell='Oslo')
        >>> given_cell("1970-01-03", Column("day", ColumnKind.DATE, date_format="%d.%m.%Y", step=1.0))
        GivenCell(number=2.0, cell='03.01.1970')
        >>> given_cell(-3, Column("visits", ColumnKind.COUNT))
        Traceback (most recent call last):
            ...
        elbowroom.errors.ElbowroomError: -3 was given for column 'visits', but counts are whole numbers from 0 to \
16,777,216.
          Give such a number.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if np.ndim(value) > 0:
        raise ElbowroomError(
            f"Several values were given for column '{column.name}', but the rows are given one of each.",
            "Give one, and draw for one after the other.",
        )
    if isinstance(value, str):
        value = value.strip()
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        raise ElbowroomError(f"Column '{column.name}' was given no value.", "Give one, or leave the column out.")
    if column.kind.has_levels:
        number = _of_level(value, column)
    elif column.kind is ColumnKind.DATE:
        number = _of_date(value, column)
    else:
        number = _of_number(value, column, comma=comma)
        whole = column.kind is ColumnKind.COUNT or (column.step > 0 and column.step == round(column.step))
        return GivenCell(number, int(number) if whole and number.is_integer() else number)
    return GivenCell(number, decode(np.array([[number]]), [column])[column.name][0])


def _of_level(value: Any, column: Column) -> float:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    places = {folded(level): place for place, level in enumerate(column.levels)}
    number = level_number(text, places)
    senses = {_SENSES.get(level): place for level, place in places.items()}
    if number is None and len(places) == 2 and senses.keys() == {1.0, 0.0}:
        number = senses.get(_SENSES.get(folded(text)))
    if number is None:
        known = ", ".join(column.levels[:_NAMED]) + (", …" if len(column.levels) > _NAMED else "")
        near = did_you_mean(text, column.levels)
        raise ElbowroomError(
            f"'{text}' was given for column '{column.name}', which has no such value in training: it has {known}.",
            near if near.startswith("Did") else "Give one of its values.",
        )
    return float(number)


def _of_date(value: Any, column: Column) -> float:
    text = value.isoformat() if isinstance(value, datetime.date | datetime.time) else str(value)
    tried = (days_since_1970(text, column.date_format), days_since_1970(text, None))
    found = next((days for days in tried if not math.isnan(days)), None)
    if found is None:
        example = printed(column.shift, column.date_format, column.step)
        raise ElbowroomError(
            f"'{text}' was given for column '{column.name}', but is no date as the column has them, such as {example}.",
            "Write it so, or as YYYY-MM-DD.",
        )
    return float(math.floor(found)) if column.step >= 1 else found  # without times of day: 15:00 is of the same day


def _of_number(value: Any, column: Column, *, comma: bool) -> float:
    try:
        number = float(value.replace(",", ".") if comma and isinstance(value, str) else value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        usual = math.exp(column.shift) if column.kind is ColumnKind.POSITIVE else column.shift
        raise ElbowroomError(
            f"'{value}' was given for column '{column.name}', which holds numbers.",
            f"Give a number, such as {usual:.3g}.",
        )
    bad, what = out_of_range(np.array([number]), column)
    if not bad.any() and abs(number) > _LARGEST:
        bad, what = np.array([True]), f"float32 holds numbers up to {_LARGEST:.2g}"
    if bad.any():
        raise ElbowroomError(f"{value} was given for column '{column.name}', but {what}.", "Give such a number.")
    return number
