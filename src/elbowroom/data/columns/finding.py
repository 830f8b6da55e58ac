"""Finds the kind of every column of a table from its values, and what it takes to read others like it.

Kinds depend on the values, on a dtype that says more (truths, dates, categories with an order), and in a few cases on
the name: numbers called zip or customer_id are names. Proportions and ordinals are never guessed from values: the one
look like any measurement below 1, the other like codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from elbowroom.data.columns.asking import Asked
from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.data.columns.dates import days_since_1970, find_dates, looks_like_a_date, printed
from elbowroom.data.columns.isolated import isolated_marks
from elbowroom.data.columns.names import MOST_LEVELS, folded, kind_of_names, ordered_levels, spellings
from elbowroom.data.columns.quantities import (
    LARGEST_COUNT,
    are_codes,
    are_dates,
    grid_step,
    kind_of_numbers,
    level_names,
    numbers_in_text,
)
from elbowroom.data.columns.values import Values, values_of
from elbowroom.data.csv.notation import Notation
from elbowroom.errors import ElbowroomError

__all__ = ["find_column", "find_columns", "out_of_range"]

_NUMBERS = (ColumnKind.REAL, ColumnKind.POSITIVE, ColumnKind.PROPORTION, ColumnKind.COUNT)


def find_columns(
    series: Mapping[str, Any], name: str, *, asked: Asked | None = None, notation: Notation | None = None
) -> tuple[Column, ...]:
    """The columns of a table, in its order, with kind, levels and format; the rest is found by `fitted`.

    Args:
        series: columns by name.
        name: of the table, for messages.
        asked: kinds that the user asks for.
        notation: how numbers in text are written; what is noticed is added to it.
    Raises:
        ElbowroomError: dates in two formats; a kind that the values do not fit; cells that are no numbers among many
            that are.
    Example:
        >>> table = {"city": np.array(["Oslo", "Bergen", "Oslo"]), "size": np.array([1.5, 2.5, 3.1])}
        >>> columns = find_columns(table, "x")
        >>> [(column.name, str(column.kind)) for column in columns]
        [('city', 'binary'), ('size', 'positive')]
    """
    notation = notation or Notation()
    found = []
    for column, each in series.items():
        values = values_of(each, column, name, notation.missing)
        found.append(find_column(values, column, name, notation, asked))
    return tuple(found)


def find_column(values: Values, column: str, name: str, notation: Notation, asked: Asked | None = None) -> Column:
    """Kind, levels and format of one column; arguments and errors as in `find_columns`."""
    kind = None if asked is None else asked.kinds.get(column)
    place = f"Column '{column}' of {name}"
    if kind in (ColumnKind.IDENTIFIER, ColumnKind.TEXT):
        return Column(column, kind)
    if not values.series.count():
        if kind is not None:
            raise ElbowroomError(f"{place} is asked to be {kind}, but all of its values are missing.", _leave(column))
        notation.note("no value at all, set aside", column)
        return Column(column, ColumnKind.CONSTANT)
    if kind is None or kind is ColumnKind.DATE:
        dates = _as_dates(values, column, name, notation, asked)
        if dates is not None:
            return dates
        if kind is ColumnKind.DATE:
            raise ElbowroomError(
                f"{place} is asked to be a date, but holds '{_first(values)}'.",
                f"Say how its dates are written, as in --data.columns '{column}:date(%d.%m.%Y)'.",
            )
    numbers = None
    if not (values.is_truth or values.is_instant or values.levels is not None):
        numbers = _as_numbers(values, column, name, notation, kind)
    if kind in _NUMBERS:
        if numbers is None and values.is_truth:
            numbers = np.asarray(values.series.cast(float).to_numpy(), dtype=np.float64)
        if numbers is None:
            raise ElbowroomError(f"{place} is asked to be {kind}, but holds '{_first(values)}'.", _other(column))
        return _of_numbers(numbers, kind, column, name, notation)
    if kind is not None:
        return _of_levels(values, numbers, kind, column, place, asked, notation)
    if numbers is not None:
        known = numbers[~np.isnan(numbers)]
        _suspect(known, column, notation)
        if len(np.unique(known)) == 1:
            return Column(column, ColumnKind.CONSTANT, level_names(known))
        kind = kind_of_numbers(known, column)
        if kind is ColumnKind.DATE:
            return Column(column, kind, date_format="%Y%m%d", step=1.0)
        if kind in _NUMBERS:
            return _of_numbers(numbers, kind, column, name, notation)
        if kind is ColumnKind.IDENTIFIER:
            return Column(column, kind)
        return Column(column, kind, level_names(known))
    return _of_names(values, column, notation)


# --- dates -------------------------------------------------------------------------------------------------------


def _as_dates(values: Values, column: str, name: str, notation: Notation, asked: Asked | None) -> Column | None:
    """The column as dates; None where it holds none."""
    given = None if asked is None else asked.formats.get(column)
    if values.is_instant:
        whole = not values.has_time or bool((values.series.dt.truncate("1d") == values.series).all())
        if values.series.drop_nulls().n_unique() == 1:
            return Column(column, ColumnKind.CONSTANT, (values.series.drop_nulls()[0].isoformat(),))
        return Column(column, ColumnKind.DATE, step=1.0 if whole else 0.0)
    if not values.is_text and not (given is not None or _asks_for_date(asked, column)):
        return None
    if not values.is_text:
        different = np.unique(values.series.drop_nulls().to_numpy().astype(np.float64))
        if given in (None, "%Y%m%d") and are_dates(different):
            return Column(column, ColumnKind.DATE, date_format="%Y%m%d", step=1.0)
        return None
    cells = list(dict.fromkeys(values.series.drop_nulls().to_list()))
    if given is None:
        sample = cells[:100]
        if 2 * sum(map(looks_like_a_date, sample)) < len(sample):
            return None
        dates = find_dates(cells)
        if dates.odd is not None:
            raise _two_formats(values, dates.odd, column, name, notation)
        given = dates.format
        if dates.other is not None:
            when = printed(days_since_1970(cells[0], given), "%-d %B %Y", 1.0)
            notation.note(
                f"'{cells[0]}' is read as {when}; if day and month are the other way round, pass --data.columns "
                f"'{column}:date({dates.other})'",
                column,
            )
    days = np.array([days_since_1970(cell, given) for cell in cells])
    if np.isnan(days).any():
        wrong = cells[int(np.isnan(days).argmax())]
        raise ElbowroomError(
            f"{_where(values, wrong, column, name, notation)}: '{wrong}' is no date in the format {given}.",
            "Correct that cell, or give another format.",
        )
    if len(cells) == 1:
        return Column(column, ColumnKind.CONSTANT, (cells[0],))
    step = 1.0 if "%H" not in str(given) else 0.0
    return Column(column, ColumnKind.DATE, date_format=None if given == "%Y-%m-%d" else given, step=step)


def _asks_for_date(asked: Asked | None, column: str) -> bool:
    return asked is not None and asked.kinds.get(column) is ColumnKind.DATE


def _two_formats(values: Values, odd: tuple[str, str], column: str, name: str, notation: Notation) -> ElbowroomError:
    return ElbowroomError(
        f"{_where(values, odd[1], column, name, notation)}: '{odd[1]}' is a date in another format than '{odd[0]}', "
        "or is none.",
        f"Write all dates of that column in one format, such as 2021-03-04, or leave it out: --data.drop {column}.",
    )


# --- numbers -----------------------------------------------------------------------------------------------------


def _as_numbers(
    values: Values, column: str, name: str, notation: Notation, kind: ColumnKind | None
) -> npt.NDArray[np.float64] | None:
    """The values as numbers, NaN where missing; None where they are none."""
    if not values.is_text:
        return np.asarray(values.series.cast(float).to_numpy(), dtype=np.float64)
    if values.series.str.contains("^0[0-9]+$").any() and kind not in _NUMBERS:
        return None  # 007 is a name
    if kind is not None and kind not in _NUMBERS:
        return None
    truths = {folded(cell) for cell in values.series.drop_nulls().unique().to_list()}
    if truths <= {"yes", "no"} or truths <= {"true", "false"} or truths <= {"y", "n"} or truths <= {"t", "f"}:
        return None
    return numbers_in_text(values.series, column, name, notation)


def _of_numbers(
    numbers: npt.NDArray[np.float64], kind: ColumnKind, column: str, name: str, notation: Notation
) -> Column:
    """A column of numbers of a kind, which its values are held to."""
    known = numbers[~np.isnan(numbers)]
    if len(np.unique(known)) == 1:
        return Column(column, ColumnKind.CONSTANT, level_names(known))
    check_range_of(numbers, Column(column, kind, atom=0.0), name, notation)
    zeros = kind is ColumnKind.POSITIVE and bool((known == 0).any())
    return Column(column, kind, step=grid_step(known), atom=0.0 if zeros else None)


def out_of_range(numbers: npt.NDArray[np.float64], column: Column) -> tuple[npt.NDArray[np.bool_], str]:
    """Which numbers a column of a kind cannot hold, and what it can hold instead, in words.

    Args:
        numbers: NaN where missing, which is not out of range.
        column: with its kind, and its atom where zeros are allowed among positive numbers.
    Example:
        >>> out_of_range(np.array([0.0, -1.0, np.nan]), Column("spend", ColumnKind.POSITIVE))
        (array([ True,  True, False]), 'positive numbers are above 0')
    """
    known = ~np.isnan(numbers)
    if column.kind is ColumnKind.COUNT:
        bad = (numbers < 0) | (numbers != np.rint(numbers)) | (numbers > LARGEST_COUNT)
        return bad & known, f"counts are whole numbers from 0 to {LARGEST_COUNT:,}"
    if column.kind is ColumnKind.POSITIVE:
        if column.atom is not None:
            return (numbers < 0) & known, "positive numbers are not below 0"
        return (numbers <= 0) & known, "positive numbers are above 0"
    if column.kind is ColumnKind.PROPORTION:
        return ((numbers <= 0) | (numbers >= 1)) & known, "proportions lie strictly between 0 and 1"
    return np.zeros(numbers.shape, dtype=bool), "any number is possible"


def check_range_of(numbers: npt.NDArray[np.float64], column: Column, name: str, notation: Notation) -> None:
    """Refuse numbers that a column of a kind cannot hold.

    Args:
        numbers: NaN where missing.
        column: with its kind, and its atom where zeros are allowed among positive numbers.
        name: of the table, for the message.
        notation: knows the lines.
    Raises:
        ElbowroomError: names the first such value.
    """
    bad, what = out_of_range(numbers, column)
    if not bad.any():
        return
    row = int(bad.argmax())
    raise ElbowroomError(
        f"Row {row:,}{notation.where(row)} of {name} holds {numbers[row]:g} in column '{column.name}', but {what}.",
        f"Correct that cell, empty it if it is unknown, or call the column real: --data.columns '{column.name}:real'.",
    )


def _suspect(known: npt.NDArray[np.float64], column: str, notation: Notation) -> None:
    """Say which numbers probably stand for missing ones, and which columns of numbers may hold names."""
    for value, count, least, most in isolated_marks(known):
        notation.note(
            f"{value:g} in {count:,} of {len(known):,} rows, far from the other values ({least:g} to {most:g}): if it "
            f"marks a missing value, pass --data.missing-values={value:g}",
            column,
        )
    digits = {len(str(int(value))) for value in known[:1_000].tolist() if value > 0 and value == round(value)}
    different = len(np.unique(known))
    if (
        digits == {5} and known.min() > 0 and grid_step(known) == 1 and 2 * different < len(known)
        and not are_codes(column) and different > 15
    ):  # fmt: skip
        notation.note(f"if these numbers are codes, pass --data.columns '{column}:category'", column)


# --- names -------------------------------------------------------------------------------------------------------


def _of_names(values: Values, column: str, notation: Notation) -> Column:
    """A column of text, of truths, or of a dtype that declares levels."""
    if values.is_truth:
        both = values.series.drop_nulls().n_unique() == 2
        only = "true" if values.series.any() else "false"
        kind = ColumnKind.BINARY if both else ColumnKind.CONSTANT
        return Column(column, kind, ("false", "true") if both else (only,))
    if values.levels is not None:
        kind = ColumnKind.ORDINAL if values.ordered else ColumnKind.CATEGORY
        kind = {1: ColumnKind.CONSTANT, 2: ColumnKind.BINARY}.get(len(values.levels), kind)
        return Column(column, kind, values.levels)
    known = spellings(values.series)
    if len(known) == 1:
        return Column(column, ColumnKind.CONSTANT, tuple(known.values()))
    kind = kind_of_names(values.series, known)
    if not kind.is_modelled:
        if len(known) > MOST_LEVELS and len(known) * 2 <= values.series.count():
            notation.note(
                f"{len(known):,} different names, more than the {MOST_LEVELS:,} of a category, so set aside; to keep "
                f"it, pass --data.columns '{column}:category'",
                column,
            )
        return Column(column, kind)
    _say_spellings(values, known, column, notation)
    return Column(column, kind, ordered_levels(known.values())[0])


def _say_spellings(values: Values, known: Mapping[str, str], column: str, notation: Notation) -> None:
    others = sorted(set(values.series.drop_nulls().unique().to_list()) - set(known.values()))
    if others:
        shown = ", ".join(f"'{other}'" for other in others[:3]) + (", …" if len(others) > 3 else "")
        notation.note(f"{shown} count{'s' if len(others) == 1 else ''} as another spelling of the same name", column)
    if "none" in known:
        notation.note(
            f"'{known['none']}' is a name; if it marks a missing value, pass --data.missing-values {known['none']}",
            column,
        )


def _of_levels(
    values: Values,
    numbers: npt.NDArray[np.float64] | None,
    kind: ColumnKind,
    column: str,
    place: str,
    asked: Asked | None,
    notation: Notation,
) -> Column:
    """A column that is asked to be one of names."""
    meant = True
    if values.is_truth:
        levels: tuple[str, ...] = ("false", "true")
    elif values.levels is not None:
        levels, meant = values.levels, values.ordered
    elif numbers is not None:
        levels = level_names(numbers[~np.isnan(numbers)])
    elif values.is_instant:
        raise ElbowroomError(f"{place} is asked to be {kind}, but holds dates.", "Write their names as text.")
    else:
        known = spellings(values.series)
        _say_spellings(values, known, column, notation)
        levels, meant = ordered_levels(known.values())
    order = () if asked is None else asked.orders.get(column, ())
    if order:
        lacking = [level for level in levels if folded(level) not in map(folded, order)]
        if lacking:
            raise ElbowroomError(
                f"{place} holds '{lacking[0]}', which the order {'<'.join(order)} does not name.",
                "Put it in its place.",
            )
        by_key = {folded(level): level for level in levels}
        levels, meant = tuple(by_key.get(folded(level), level) for level in order), True
    if kind is ColumnKind.BINARY and len(levels) != 2:
        raise ElbowroomError(
            f"{place} is asked to be binary, but has {len(levels):,} different values.",
            f"Call it a category: --data.columns '{column}:category'.",
        )
    if kind is ColumnKind.ORDINAL and not meant:
        notation.note(
            f"its order is taken from the alphabet, {' < '.join(levels[:4])}{' < …' if len(levels) > 4 else ''}; give "
            f"another by --data.columns '{column}:ordinal({'<'.join(reversed(levels[:3]))})'",
            column,
        )
    if len(levels) == 1:
        return Column(column, ColumnKind.CONSTANT, levels)
    return Column(column, kind, levels)


# --- words -------------------------------------------------------------------------------------------------------


def _first(values: Values) -> str:
    return str(values.series.drop_nulls()[0])


def _leave(column: str) -> str:
    return f"Leave it out: --data.drop {column}."


def _other(column: str) -> str:
    return f"Call it a category, --data.columns '{column}:category', or leave it out: --data.drop {column}."


def _where(values: Values, cell: str, column: str, name: str, notation: Notation) -> str:
    row = int((values.series == cell).fill_null(False).arg_max() or 0)
    return f"Row {row:,}{notation.where(row)} of {name}, column '{column}'"
