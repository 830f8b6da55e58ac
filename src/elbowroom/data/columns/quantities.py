"""Numbers: those that text stands for, the grid they lie on, and whether they count, measure, name or identify."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from elbowroom.data.columns.column import ColumnKind
from elbowroom.data.columns.names import MOST_LEVELS
from elbowroom.data.csv.cells import as_numbers
from elbowroom.data.csv.notation import Notation, looks_like_a_number

__all__ = ["LARGEST_COUNT", "are_codes", "grid_step", "kind_of_numbers", "level_names", "numbers_in_text"]

LARGEST_COUNT = 2**24  #: up to which float32 holds every whole number
_EXACT = 2**53
_FEW = 15  # different whole numbers that are levels rather than a scale
_REPEATED = 5  # rows for each of them
_SMALL = 50  # median of counts
_SCALE = 7  # points of the scales that people are asked to answer on
_GAIN, _LOSS = 0.05, 0.5  # nats a row by which a log-normal density is better, or worse, than a normal one
_DIGITS = 7  # decimals of a grid at most

_ID_NAME = re.compile(r"(?i:(?:.*[_\s.-])?(?:id|ids|uuid|guid|key|idx|index|rownum|row))|.*[a-z](?:Id|ID)")
_CODE_NAME = re.compile(r"(?:^|.*[_\s.-])(?:zip|zipcode|postal|postcode|plz|code|codes|fips|areacode)(?:$|[_\s.-].*)",
                        re.IGNORECASE)  # fmt: skip
_CURRENCY = re.compile(r"^(?P<sign>[+-]?)\s*(?:[$€£¥₹]|USD|EUR|GBP|CHF|JPY)\s*|\s*(?:[$€£¥₹]|USD|EUR|GBP|CHF|JPY)$")


def numbers_in_text(cells: Any, column: str, name: str, notation: Notation) -> npt.NDArray[np.float64] | None:
    """The numbers that a tidy column of text stands for, NaN where one is missing; None where it stands for none.

    Percent signs and grouped thousands are read as in any table; signs of currencies are taken off.

    Args:
        cells: a polars series of text.
        column: its name, for messages.
        name: of the table, for messages.
        notation: of the table; what is noticed is added to it.
    Raises:
        ElbowroomError: most cells are numbers, but not all; names the first that is none.
    """
    import polars as pl

    some = cells.drop_nulls().head(100).to_list()
    bare = [_CURRENCY.sub(r"\g<sign>", cell) if _CURRENCY.search(cell) else cell for cell in some]
    if 2 * sum(map(looks_like_a_number, some)) < len(some):
        if 2 * sum(map(looks_like_a_number, bare)) < len(bare):
            return None
        notation.note("signs of currencies are taken off", column)
        stripped = [None if cell is None else _CURRENCY.sub(lambda found: found["sign"] or "", cell)
                    for cell in cells.to_list()]  # fmt: skip
        cells = pl.Series(cells.name, stripped, dtype=pl.String)
    return np.asarray(as_numbers(cells, column, name, notation), dtype=np.float64)


def grid_step(values: npt.NDArray[np.float64]) -> float:
    """The widest grid of decimal numbers, counted from 0, that all values lie on; 0 if they need more than 7 decimals.

    Example:
        >>> [grid_step(np.array(values)) for values in ([3750.0, 3800.0], [1.5, 2.25, 2.5], [np.pi])]
        [50.0, 0.25, 0.0]
    """
    different = np.unique(values)
    if not len(different) or not np.isfinite(different).all():
        return 0.0
    for digits in range(_DIGITS + 1):
        scaled = different * 10.0**digits
        whole = np.rint(scaled)
        if np.abs(scaled).max() >= _EXACT:
            return 0.0
        slack = np.minimum(1e-6 * np.maximum(1.0, np.abs(scaled)), 0.01)
        if (np.abs(scaled - whole) <= slack).all() and len(np.unique(whole)) == len(different):
            return float(int(np.gcd.reduce(np.abs(whole).astype(np.int64))) / 10**digits)
    return 0.0


def level_names(values: npt.NDArray[np.float64]) -> tuple[str, ...]:
    """Different numbers, ascending, as names: whole ones without a decimal point.

    Example:
        >>> level_names(np.array([2.0, 1.0, 2.0])), level_names(np.array([0.5, 1.0]))
        (('1', '2'), ('0.5', '1'))
    """
    return tuple(str(int(value)) if value == round(value) else repr(float(value)) for value in np.unique(values))


def kind_of_numbers(values: npt.NDArray[np.float64], column: str) -> ColumnKind:
    """What a column of numbers is.

    Whole numbers are dates if all are written as 20210304; identifiers if they number the rows, or are called so and
    hardly repeat; names if they are called codes or identifiers and repeat, or if they are at most 15 small ones, each
    in five rows or more, that do not thin out upwards; counts if they are small (the median of those that are not 0 is
    50 at most), begin at or near 0 and thin out upwards; otherwise real numbers, as ages are: a count has a variance of
    its mean at least, and far from 0 a real number on a grid says more. Numbers above 0 are positive, unless a normal
    density fits them clearly better than a log-normal one; whole ones only if the log-normal density fits better.

    Args:
        values: those that are not missing, two different ones at least.
        column: its name, which may say that its numbers identify or name something.
    """
    different, counts = np.unique(values, return_counts=True)
    total, d = len(values), len(different)
    whole = bool((different == np.rint(different)).all()) and bool(np.isfinite(different).all())
    if not whole:
        return ColumnKind.BINARY if d == 2 and total >= 2 * _REPEATED else _measured(values)
    if np.abs(different).max() >= _EXACT:
        return ColumnKind.IDENTIFIER
    if are_dates(different):
        return ColumnKind.DATE
    named_id = _ID_NAME.fullmatch(column) is not None
    if _numbers_the_rows(different, total) or (named_id and d > 2 and 2 * d > total):
        return ColumnKind.IDENTIFIER
    if d == 2:
        return ColumnKind.BINARY
    if named_id or are_codes(column):
        return ColumnKind.CATEGORY if d <= MOST_LEVELS and 2 * d <= total else ColumnKind.IDENTIFIER
    above = values[values != 0]
    small = float(np.median(above)) <= _SMALL
    from_zero = different[0] >= 0 and (different[0] <= 1 or 4 * different[0] <= float(np.median(values)))
    thins_out = bool(counts[-1] == 1 or counts[-1] * d < total / 2)
    if small and d <= _FEW and total >= _REPEATED * d:
        if thins_out and from_zero and (different[0] == 0 or d > _SCALE):
            return ColumnKind.COUNT
        return ColumnKind.REAL if d > _SCALE and not from_zero and different[0] > 0 else ColumnKind.CATEGORY
    if small and from_zero and thins_out and different[-1] < LARGEST_COUNT:
        return ColumnKind.COUNT
    return ColumnKind.POSITIVE if _is_log_normal(values) else ColumnKind.REAL


def are_codes(column: str) -> bool:
    """Whether the name of a column says that its numbers are names: postal codes and others.

    Example:
        >>> [are_codes(name) for name in ("zip", "zip_code", "Postcode", "zipper", "decode")]
        [True, True, True, False, False]
    """
    return _CODE_NAME.fullmatch(column) is not None


def are_dates(different: npt.NDArray[np.float64]) -> bool:
    """Whether all of several whole numbers are dates written as 20210304."""
    if len(different) < 3 or different[0] < 19000101 or different[-1] > 21001231:
        return False
    try:
        for value in different.tolist():
            datetime.strptime(str(int(value)), "%Y%m%d")
    except ValueError:
        return False
    return True


def _numbers_the_rows(different: npt.NDArray[np.float64], total: int) -> bool:
    """Whether they count the rows: all different, without a gap, and no years."""
    run = len(different) == total >= 20 and different[-1] - different[0] == total - 1
    return run and not (different[0] >= 1500 and different[-1] <= 2200)


def _measured(values: npt.NDArray[np.float64]) -> ColumnKind:
    """Positive or real, of numbers with decimals."""
    if not np.isfinite(values).all():
        return ColumnKind.REAL  # refused later, by row
    if values.min() > 0:
        return ColumnKind.POSITIVE if _log_normal_gain(values) > -_LOSS else ColumnKind.REAL
    zeros = int((values == 0).sum())
    if values.min() == 0 and zeros >= 2 and _log_normal_gain(values[values > 0]) > 0:
        return ColumnKind.POSITIVE
    return ColumnKind.REAL


def _is_log_normal(values: npt.NDArray[np.float64]) -> bool:
    above = values[values > 0]
    zeros = len(values) - len(above)
    if values.min() < 0 or not np.isfinite(values).all() or zeros == 1 or len(np.unique(above)) < 2:
        return False
    return _log_normal_gain(above) > _GAIN


def _log_normal_gain(values: npt.NDArray[np.float64]) -> float:
    """Nats a row by which the best log-normal density of positive values is above the best normal one."""
    logs = np.log(values)
    narrow, wide = float(logs.std()), float(values.std())
    if narrow == 0 or wide == 0:
        return 0.0
    return float(np.log(wide) - np.log(narrow) - logs.mean())
