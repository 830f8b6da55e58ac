"""Columns of tables as numbers: text in many notations, yes and no, marks of missing values.

A column is read as a whole; a cell that is no number, or may be one of two, is refused by row and column.
"""

from __future__ import annotations

import re
import shlex
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from elbowroom.data.csv.notation import (
    MARK_NAMES,
    MISSING,
    Evidence,
    Notation,
    decimal_mark,
    find_evidence,
    looks_like_a_number,
    parsed,
    without_percent,
)
from elbowroom.errors import ElbowroomError

__all__ = ["TRUTHS", "as_numbers", "large_whole_numbers", "read_plain", "read_truths", "tidy"]

_EXACT = 2**53  # up to which float64 holds every whole number

# beside those of any column; in a column of classes they may be names
_MORE_MISSING = (
    "None",
    "none",
    "Null",
    "n/a",
    "na",
    "NAN",
    "#N/A",
    "#NA",
    "<NA>",
    "n.a.",
    "N.A.",
    "-",
    "--",
    ".",
    "..",
)
TRUTHS = ({"yes": 1.0, "no": 0.0}, {"true": 1.0, "false": 0.0}, {"y": 1.0, "n": 0.0}, {"t": 1.0, "f": 0.0})
"""Pairs of words in small letters that are truths, and their numbers."""
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}|\d{1,2}[./-]\d{1,2}[./-]\d{2,4}|\d{1,2}:\d{2}")


# --- a column of any kind ----------------------------------------------------------------------------------------


def as_numbers(series: Any, column: str, name: str, notation: Notation | None = None) -> npt.NDArray[Any]:
    """A column of a data frame as numbers, NaN where a value is missing.

    Args:
        series: anything with ``to_numpy`` (polars, pandas): numbers, truths, or text that stands for them.
        column: its name, for messages.
        name: of the table, for messages.
        notation: of the table; what is noticed is added to it.
    Returns:
        Shape (n,), of a numeric type.
    Raises:
        ElbowroomError: dates, or text that is no number; names the first such cell.
    Example:
        >>> class Series:
        ...     def to_numpy(self):
        ...         return np.array([1, None, True], dtype=object)
        >>> as_numbers(Series(), "a", "x").tolist()
        [1.0, nan, 1.0]
    """
    notation = notation or Notation()
    pl = sys.modules.get("polars")
    if pl is not None and isinstance(series, pl.Series) and series.dtype in (pl.String, pl.Categorical, pl.Enum):
        return _from_text(tidy(series.cast(pl.String)), column, name, notation)
    if pl is not None and isinstance(series, pl.Series) and str(series.dtype) in ("Int128", "UInt128"):
        series = series.cast(pl.Float64)  # numpy has no such type
    values = np.asarray(series.to_numpy())
    if values.dtype.kind in "biuf":
        return values
    if values.dtype.kind in "Mm":
        raise _dates(column, name, str(values[0]))
    if values.dtype.kind == "S":
        values = np.char.decode(values)
    present = [value for value in values.tolist() if not _is_missing(value)]
    if any(hasattr(value, "isoformat") or hasattr(value, "total_seconds") for value in present[:1]):
        raise _dates(column, name, str(present[0]))
    if not any(isinstance(value, str) for value in present):
        try:
            return np.array([np.nan if _is_missing(value) else float(value) for value in values.tolist()])
        except (TypeError, ValueError) as fault:
            raise ElbowroomError(
                f"Column '{column}' of {name} holds {present[0]!r}, but a column of x holds numbers.",
                "Drop the column, or give each of its parts a column of its own.",
            ) from fault
    try:
        import polars
    except ModuleNotFoundError as fault:
        raise ElbowroomError(
            f"Column '{column}' of {name} holds text such as '{next(v for v in present if isinstance(v, str))}', and "
            "polars, which reads numbers out of text, is not installed.",
            f"If they are class labels, pass {_labels_flag(column)}; otherwise convert the column to numbers, or "
            "install polars: pip install 'elbowroom[tables]'.",
        ) from fault
    cells = polars.Series(
        column, [None if _is_missing(value) else str(value) for value in values.tolist()], polars.String
    )
    return _from_text(tidy(cells), column, name, notation)


def large_whole_numbers(series: Any) -> list[int]:
    """The whole numbers of a column from 2⁵³ on, up to which float64 holds every one; of text those that are plain.

    Example:
        >>> class Series:
        ...     def to_numpy(self):
        ...         return np.array([2**53 + 1, None, 7], dtype=object)
        >>> large_whole_numbers(Series())
        [9007199254740993]
    """
    pl = sys.modules.get("polars")
    if pl is not None and isinstance(series, pl.Series):
        if series.dtype == pl.String:
            series = tidy(series).cast(pl.Int64, strict=False)
        if not series.dtype.is_integer():
            return []
        return [int(value) for value in series.filter((series >= _EXACT) | (series <= -_EXACT)).to_list()]
    values = np.asarray(series.to_numpy())
    if values.dtype.kind == "f" and hasattr(series, "dropna"):  # pandas hands out whole numbers with gaps as fractions
        values = np.asarray(series.dropna().to_numpy())
    if values.dtype.kind in "iu":
        values = values[(values >= _EXACT) | (values <= -_EXACT)]
    elif values.dtype.kind != "O":
        return []
    whole = (int(value) for value in values.tolist() if isinstance(value, int | np.integer))
    return [value for value in whole if abs(value) >= _EXACT]


def _is_missing(value: Any) -> bool:
    """None, NaN, and pandas' NA and NaT."""
    return value is None or str(value) in ("<NA>", "NaT") or (isinstance(value, float) and value != value)


def _dates(column: str, name: str, example: str) -> ElbowroomError:
    return ElbowroomError(
        f"Column '{column}' of {name} holds dates or times, such as {example}, but a column of x holds numbers.",
        "Write the number of days (or seconds) since a fixed date in their place, or drop the column.",
    )


# --- a column of text --------------------------------------------------------------------------------------------


def _from_text(cells: Any, column: str, name: str, notation: Notation) -> npt.NDArray[Any]:
    """Numbers from a tidy column of text."""
    marked = cells.is_in([*_MORE_MISSING, *notation.missing]).fill_null(False)
    marks = sorted(cells.filter(marked).unique().to_list())
    cells = cells.set(marked, None)
    truths = _truths(cells)
    if truths is not None:
        names = {value: text for text, value in reversed(truths.items())}
        notation.note(f"{names[1.0]} is 1 and {names[0.0]} is 0", column)
        numbers = cells.str.to_lowercase().replace_strict(list(truths), list(truths.values()), default=None)
    else:
        numbers = _numbers(cells, column, name, notation)
    if marks:
        notation.note(f"{_and(marks)} mark{'s' if len(marks) == 1 else ''} missing values", column)
    values: npt.NDArray[Any] = numbers.to_numpy()
    return values


def _and(words: list[str]) -> str:
    *first, last = (f"'{word}'" for word in words)
    return f"{', '.join(first)} and {last}" if first else last


def _truths(cells: Any) -> dict[str, float] | None:
    """What each word means, where all cells are yes and no, or true and false."""
    some = {cell.lower() for cell in cells.head(100).to_list() if cell is not None}
    for words in TRUTHS:
        if some <= set(words):
            found = set(cells.drop_nulls().str.to_lowercase().unique().to_list())
            if found and found <= set(words) and (len(found) == 2 or len(min(words)) > 1):
                return words
    return None


def read_truths(cells: Any) -> Any:
    """A tidy column of text that holds nothing but true and false as a polars column of truths; else None.

    Polars does the same where it infers the types of columns; yes and no stay text, which may name classes.
    """
    words = _truths(cells)
    return cells.str.to_lowercase() == "true" if words is not None and "true" in words else None


def _numbers(cells: Any, column: str, name: str, notation: Notation) -> Any:
    """Numbers from cells none of which marks a missing value."""
    bare, percent = without_percent(cells)
    evidence = find_evidence(bare)
    decimal = decimal_mark(evidence, notation)
    if evidence.comma and evidence.point and notation.decimal is None:
        decimal = max(".,", key=lambda mark: parsed(bare, mark)[0].count())
    if decimal is None:
        row = int((bare == evidence.unclear[0]).arg_max() or 0)
        raise _unclear(_place(row, column, name, notation), evidence.unclear[0])
    numbers, groups = parsed(bare, decimal)
    if percent:
        numbers = _hundredths(numbers)
    bad = numbers.is_null() & cells.is_not_null()
    if bad.any():
        row = int(bad.arg_max())
        share = numbers.count() / cells.count()
        raise _no_number(cells[row], row, column, name, notation, share, evidence, decimal, percent)
    _note(notation, column, decimal, groups, percent)
    return numbers


def _note(notation: Notation, column: str, decimal: str, groups: str, percent: bool) -> None:
    if percent:
        notation.note("percent signs are taken off, 12% is 0.12", column)
    for mark in groups:
        notation.note(f"{MARK_NAMES[mark]} group thousands", column)
    if decimal != (notation.decimal or notation.found or "."):
        notation.note(f"{MARK_NAMES[decimal]} are decimal", column)


def tidy(table: Any) -> Any:
    """A polars series or frame whose text has no spaces around it, and null where a cell marks a missing value."""
    import polars as pl

    if isinstance(table, pl.Series):
        return tidy(table.to_frame()).to_series()
    cells = pl.col(pl.String).str.strip_chars()
    return table.with_columns(pl.when(~cells.is_in(MISSING)).then(cells))


# --- reading -----------------------------------------------------------------------------------------------------


def read_plain(cells: Any, column: str, notation: Notation, evidence: Evidence) -> Any:
    """A tidy column of text as a polars column of numbers, if every cell is a number and none is unclear; else None."""
    decimal = decimal_mark(evidence, notation)
    if decimal is None or not cells.count():
        return None
    bare, percent = without_percent(cells)
    numbers, groups = parsed(bare, decimal)
    if numbers.null_count() > cells.null_count():
        return None
    _note(notation, column, decimal, groups, percent)
    return _hundredths(numbers) if percent else numbers


def _hundredths(numbers: Any) -> Any:
    """A hundredth of each number, rounded once: polars multiplies by 0.01 instead, which turns 58.6 into 0.58600…01."""
    import polars as pl

    return pl.Series(
        numbers.name, [None if number is None else number / 100 for number in numbers.to_list()], pl.Float64
    )


# --- what is said ------------------------------------------------------------------------------------------------


def _labels_flag(column: str) -> str:
    return f"--data.labels {shlex.quote(column)}"


def _place(row: int, column: str, name: str, notation: Notation) -> str:
    return f"Row {row:,}{notation.where(row)} of {name}, column '{column}'"


def _unclear(place: str, cell: str) -> ElbowroomError:
    return ElbowroomError(
        f"{place}: '{cell}' may be {cell.replace(',', '').replace('.', '')} or {cell.replace(',', '.')}, and no other "
        "cell decides whether the mark is decimal or groups thousands.",
        "Pass --data.decimal point or --data.decimal comma.",
    )


def _no_number(
    cell: str,
    row: int,
    column: str,
    name: str,
    notation: Notation,
    share: float,
    evidence: Evidence,
    decimal: str,
    percent: bool,
) -> ElbowroomError:
    """The message about a cell that is no number, or about a column of text."""
    flag = _labels_flag(column)
    if share < 0.5 and not looks_like_a_number(cell):
        if _DATE.match(cell):
            return _dates(column, name, f"'{cell}'")
        return ElbowroomError(
            f"Column '{column}' of {name} holds values such as '{cell}', but a column of x holds numbers.",
            f"If they are class labels, pass {flag}; otherwise drop the column, or encode it as numbers.",
        )
    why = ""
    if percent and not cell.endswith("%"):
        why = ", unlike the others, has no percent sign"
    elif evidence.comma and evidence.point and looks_like_a_number(cell):
        why = f" has another decimal mark than '{evidence.comma if decimal == ',' else evidence.point}'"
    shown = " ".join(cell.split())  # a cell may hold several lines
    shown = shown if len(shown) <= 40 else f"{shown[:40]}…"
    mark = f"; if it marks a missing value, pass --data.missing-values={shlex.quote(cell)} --data.missing mask"
    brief = len(cell) <= 20 and cell == shown and "," not in cell  # which separates the marks of that flag
    otherwise = f"{mark if brief else ''}; if the column holds class labels, pass {flag}"
    return ElbowroomError(
        f"{_place(row, column, name, notation)}: '{shown}'{why or ' is not a number'}.",
        f"Correct that cell, or take its row out{'' if why else otherwise}.",
    )
