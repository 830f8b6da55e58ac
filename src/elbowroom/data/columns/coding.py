"""A table of mixed kinds as an array of numbers, and an array of numbers as such a table again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.data.columns.dates import days_since_1970, printed
from elbowroom.data.columns.finding import check_range_of
from elbowroom.data.columns.names import folded
from elbowroom.data.columns.quantities import level_names, numbers_in_text
from elbowroom.data.columns.values import Values, values_of
from elbowroom.data.csv.notation import Notation
from elbowroom.errors import ElbowroomError, did_you_mean

__all__ = ["decode", "encode", "level_number"]

_NAMED = 10  # levels that a message lists
_LARGEST = 2.0**62


def encode(
    frame: Any, columns: Sequence[Column], *, name: str = "the data frame", notation: Notation | None = None
) -> npt.NDArray[np.float64]:
    """The columns of a table as numbers.

    Args:
        frame: of polars, pandas, or a mapping from names to columns; it may have other columns besides.
        columns: those of x, in their order.
        name: of the table, for messages.
        notation: how numbers in text are written; knows the lines, for messages.
    Returns:
        float64, shape (n, columns): the number of its level, days since 1970-01-01, or the number itself; NaN where a
        value is missing.
    Raises:
        ElbowroomError: a name that is none of the levels, a cell that is no number or no date of the column's format, a
            number that the kind cannot hold; names column, value and line.
    Example:
        >>> city = Column("city", ColumnKind.CATEGORY, levels=("Bergen", "Oslo"))
        >>> encode({"city": np.array(["Oslo", "BERGEN", ""])}, [city]).ravel().tolist()
        [1.0, 0.0, nan]
    """
    notation = notation or Notation()
    encoded = [_encoded(values_of(frame[column.name], column.name, name, notation.missing), column, name, notation)
               for column in columns]  # fmt: skip
    return np.column_stack(encoded) if encoded else np.empty((0, 0))


def _encoded(values: Values, column: Column, name: str, notation: Notation) -> npt.NDArray[np.float64]:
    if column.kind.has_levels:
        return _numbered(values, column, name, notation)
    if column.kind is ColumnKind.DATE:
        return _days(values, column, name, notation)
    if values.is_text and values.series.count():
        numbers = numbers_in_text(values.series, column.name, name, notation)
        if numbers is None:
            cell = str(values.series.drop_nulls()[0])
            raise _fault(values, cell, column, name, notation, "is not a number", "Correct it, or empty the cell.")
    elif values.is_instant:
        raise ElbowroomError(
            f"Column '{column.name}' of {name} holds dates, but it holds numbers in training.", "Give numbers there."
        )
    else:
        numbers = np.asarray(values.series.cast(float).to_numpy(), dtype=np.float64)
    check_range_of(numbers, column, name, notation)
    return numbers


def _numbered(values: Values, column: Column, name: str, notation: Notation) -> npt.NDArray[np.float64]:
    """Numbers of levels."""
    places = {folded(level): place for place, level in enumerate(column.levels)}
    cells = values.series
    if values.is_truth:
        spelled = ["true" if cell else "false" for cell in (True, False)]
        by_value = dict(zip((True, False), (places.get(folded(level)) for level in spelled), strict=True))
    elif values.is_text:
        by_value = {cell: level_number(cell, places) for cell in cells.drop_nulls().unique().to_list()}
    elif values.is_instant:
        by_value = dict.fromkeys(cells.drop_nulls().head(1).to_list())
    else:
        different = cells.drop_nulls().unique().sort().to_list()
        names = level_names(np.array(different, dtype=np.float64)) if different else ()
        by_value = {cell: places.get(folded(level)) for cell, level in zip(different, names, strict=True)}
    unknown = {cell for cell, place in by_value.items() if place is None}
    found = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells.to_list()):
        if cell is None:
            continue
        if cell in unknown:
            known = ", ".join(column.levels[:_NAMED]) + (", …" if len(column.levels) > _NAMED else "")
            near = did_you_mean(str(cell), column.levels)
            hint = f" {near}" if near.startswith("Did") else ""
            raise ElbowroomError(
                f"Row {row:,}{notation.where(row)} of {name} holds '{cell}' in column '{column.name}', which the "
                f"training data did not have; they had {known}.",
                f"Correct that cell, empty it so that it counts as missing, or train again with such rows.{hint}",
            )
        place = by_value[cell]
        assert place is not None, "it is not unknown"
        found[row] = place
    return found


def level_number(cell: str, places: Mapping[str, int]) -> int | None:
    """The number of a level by its name in any spelling; 1.0 is 1 where levels are numbers; None if there is none.

    Args:
        cell: the name.
        places: numbers of levels, by their names as :func:`~elbowroom.data.columns.names.folded` has them.
    Example:
        >>> level_number("OSLO", {"bergen": 0, "oslo": 1}), level_number("2.0", {"1": 0, "2": 1})
        (1, 1)
    """
    place = places.get(folded(cell))
    if place is None and re.fullmatch(r"[+-]?\d+\.0+", cell):
        place = places.get(str(int(float(cell))))
    return place


def _days(values: Values, column: Column, name: str, notation: Notation) -> npt.NDArray[np.float64]:
    """Days since 1970-01-01."""
    if values.is_instant:
        micros = values.series.dt.timestamp("us").cast(float).to_numpy()
        return np.asarray(micros, dtype=np.float64) / 8.64e10
    cells = values.series
    if not values.is_text:
        cells = cells.cast(int, strict=False).cast(str)
    known = {cell: days_since_1970(cell, column.date_format) for cell in cells.drop_nulls().unique().to_list()}
    wrong = next((cell for cell, days in known.items() if np.isnan(days)), None)
    if wrong is not None:
        form = column.date_format or "2021-03-04"
        text = Values(cells)
        raise _fault(text, wrong, column, name, notation, f"is no date written as in training, {form}", "Correct it, "
                     "or empty the cell.")  # fmt: skip
    return np.array([np.nan if cell is None else known[cell] for cell in cells.to_list()], dtype=np.float64)


def _fault(
    values: Values, cell: str, column: Column, name: str, notation: Notation, what: str, remedy: str
) -> ElbowroomError:
    row = int((values.series == cell).fill_null(False).arg_max() or 0)
    place = f"Row {row:,}{notation.where(row)} of {name}, column '{column.name}'"
    return ElbowroomError(f"{place}: '{cell}' {what}.", remedy)


def decode(x: npt.NDArray[np.floating[Any]], columns: Sequence[Column]) -> Any:
    """Numbers as a table in the original kinds.

    Args:
        x: shape (n, columns), as `encode` gives them or as a model draws them; NaN where missing.
        columns: in the same order.
    Returns:
        A polars data frame: names of levels (numbers and truths where all names are such), dates as text in their
        format, numbers on the grid of their column: whole ones as integers, others rounded to its decimals. Positive
        numbers and counts stay above 0, and on it.
    Example:
        >>> city = Column("city", ColumnKind.CATEGORY, levels=("Bergen", "Oslo"))
        >>> age = Column("age", ColumnKind.COUNT, step=1.0)
        >>> decode(np.array([[1.0, 33.2], [np.nan, 7.0]]), [city, age]).rows()
        [('Oslo', 33), (None, 7)]
    """
    import polars as pl

    values = np.asarray(x).astype(np.float64)
    series = [pl.Series(column.name, _decoded(values[:, place], column)) for place, column in enumerate(columns)]
    return pl.DataFrame(series)


def _decoded(values: npt.NDArray[np.float64], column: Column) -> list[Any]:
    missing = np.isnan(values)
    if column.kind.has_levels:
        levels = _typed(column.levels)
        last = len(levels) - 1
        return [None if gone else levels[min(max(round(value), 0), last)]
                for value, gone in zip(values.tolist(), missing.tolist(), strict=True)]  # fmt: skip
    if column.kind is ColumnKind.DATE:
        cells = [None if gone else printed(value, column.date_format, column.step)
                 for value, gone in zip(values.tolist(), missing.tolist(), strict=True)]  # fmt: skip
        return [None if cell is None else int(cell) for cell in cells] if column.date_format == "%Y%m%d" else cells
    if column.kind is ColumnKind.COUNT:
        values = np.maximum(np.rint(values), 0.0)
    step = 1.0 if column.kind is ColumnKind.COUNT else column.step
    if not step:
        return [None if gone else value for value, gone in zip(values.tolist(), missing.tolist(), strict=True)]
    on_grid = np.rint(values / step) * step
    if column.kind in (ColumnKind.POSITIVE, ColumnKind.PROPORTION) and column.atom is None:
        on_grid = np.where((on_grid <= 0) & ~missing, step, on_grid)  # a small one is no 0
    if column.kind is ColumnKind.PROPORTION:
        on_grid = np.where((on_grid >= 1) & ~missing, 1 - step, on_grid)
    if step == round(step):
        small = np.clip(on_grid, -_LARGEST, _LARGEST)
        return [None if gone else int(value) for value, gone in zip(small.tolist(), missing.tolist(), strict=True)]
    decimals = _decimals(step)
    return [None if gone else round(value, decimals)
            for value, gone in zip(on_grid.tolist(), missing.tolist(), strict=True)]  # fmt: skip


def _decimals(step: float) -> int:
    """Decimals of a grid.

    Example:
        >>> [_decimals(step) for step in (0.1, 0.25, 5e-07, 1.5)]
        [1, 2, 7, 1]
    """
    return next(digits for digits in range(20) if abs(step * 10**digits - round(step * 10**digits)) < 1e-6 * step)


def _typed(levels: tuple[str, ...]) -> list[Any]:
    """Levels as truths or numbers, where all of them are written as such."""
    if set(levels) <= {"true", "false"}:
        return [level == "true" for level in levels]
    for kind in (int, float):
        try:
            numbers: list[Any] = [kind(level) for level in levels]
        except ValueError:
            continue
        if tuple(level_names(np.array([float(number)]))[0] for number in numbers) == levels:
            return numbers
    return list(levels)
