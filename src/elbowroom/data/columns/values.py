"""The values of a column, whatever the data frame it comes from: truths, numbers, instants or text, null if missing."""

from __future__ import annotations

import datetime
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from elbowroom.data.csv.cells import tidy
from elbowroom.errors import ElbowroomError

__all__ = ["Values", "is_number_column", "values_of"]

_MARKS = ("n/a", "na", "NAN", "Null", "#N/A", "#NA", "<NA>", "n.a.", "N.A.", "-", "--", ".", "..")


@dataclass(frozen=True)
class Values:
    """A column as polars holds it.

    Attributes:
        series: Boolean, Int64, Float64, String without spaces at both ends, or Datetime (UTC); null where missing.
        levels: the levels that the dtype of the column declares and that occur, in its order; None: it declares none.
        ordered: whether that order is one of size.
        has_time: whether instants have a time of day by their dtype.
    """

    series: Any
    levels: tuple[str, ...] | None = None
    ordered: bool = False
    has_time: bool = False

    @property
    def is_text(self) -> bool:
        """Whether the values are text."""
        return str(self.series.dtype) == "String"

    @property
    def is_truth(self) -> bool:
        """Whether the values are true and false."""
        return str(self.series.dtype) == "Boolean"

    @property
    def is_instant(self) -> bool:
        """Whether the values are days or instants."""
        return str(self.series.dtype).startswith("Datetime")


def values_of(series: Any, column: str, name: str, missing: Collection[str] = ()) -> Values:
    """The values of a column of polars, pandas, or anything else with ``to_numpy``.

    Args:
        series: the column.
        column: its name, for messages.
        name: of the table, for messages.
        missing: further marks of missing values, numbers or text.
    Raises:
        ElbowroomError: lists, structs or other values that are neither numbers, text nor dates; polars is missing.
    Example:
        >>> values_of(np.array(["a ", "n/a", "b"]), "kind", "x").series.to_list()
        ['a', None, 'b']
    """
    pl = _polars(name)
    levels, ordered, has_time = None, False, False
    if isinstance(series, pl.Series):
        dtype = series.dtype
        if isinstance(dtype, pl.Enum):
            present = set(series.drop_nulls().unique().cast(pl.String).to_list())
            levels = tuple(level for level in dtype.categories.to_list() if level in present)
        has_time = isinstance(dtype, pl.Datetime)
        plain = _of_polars(series, column, name)
    else:
        categories = getattr(getattr(series, "dtype", None), "categories", None)  # of pandas
        if categories is not None:
            codes = np.asarray(series.cat.codes)
            names = [_spelled(value) for value in categories.tolist()]
            levels = tuple(level for at, level in enumerate(names) if (codes == at).any())
            ordered = bool(series.dtype.ordered)
            plain = pl.Series(column, [None if code < 0 else names[code] for code in codes.tolist()], dtype=pl.String)
        else:
            plain, has_time = _of_numpy(series, column, name)
    return Values(_without_marks(plain, missing), levels, ordered, has_time)


def is_number_column(values: Values) -> bool:
    """Whether a column holds numbers and nothing else by its type."""
    return bool(values.series.dtype.is_numeric())


def _polars(name: str) -> Any:
    try:
        import polars
    except ModuleNotFoundError as fault:
        raise ElbowroomError(
            f"{name} has columns that are no numbers, and polars, which reads them, is not installed.",
            "Install it: pip install 'elbowroom[tables]'.",
        ) from fault
    return polars


def _of_polars(series: Any, column: str, name: str) -> Any:
    import polars as pl

    dtype = series.dtype
    if dtype == pl.Boolean:
        return series
    if dtype in (pl.String, pl.Categorical, pl.Enum) or dtype == pl.Null:
        return series.cast(pl.String)
    if dtype.is_integer():
        return (
            series.cast(pl.Int64, strict=False) if str(dtype) not in ("UInt64", "Int128", "UInt128") else _whole(series)
        )
    if dtype.is_numeric():
        return series.cast(pl.Float64).fill_nan(None)
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        series = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    if dtype == pl.Date or isinstance(dtype, pl.Datetime):
        return series.cast(pl.Datetime("us"))
    if isinstance(dtype, pl.Duration):
        return series.dt.total_microseconds().cast(pl.Float64) / 8.64e10  # days
    if dtype == pl.Time:
        return series.cast(pl.Int64).cast(pl.Float64) / 8.64e13
    raise _odd(column, name, str(dtype))


def _whole(series: Any) -> Any:
    """Whole numbers of a wide type; as floating point where 64 bits do not hold them."""
    import polars as pl

    narrow = series.cast(pl.Int64, strict=False)
    return narrow if narrow.null_count() == series.null_count() else series.cast(pl.Float64)


def _of_numpy(series: Any, column: str, name: str) -> tuple[Any, bool]:
    """A column of pandas or of a structured array, and whether it has times of day by its type."""
    import polars as pl

    zone = getattr(getattr(series, "dtype", None), "tz", None)
    if zone is not None:
        series = series.dt.tz_convert("UTC").dt.tz_localize(None)
    array = np.asarray(series.to_numpy() if hasattr(series, "to_numpy") else series)
    if array.dtype.kind == "S":
        array = np.char.decode(array)
    if array.dtype.kind == "b":
        return pl.Series(column, array.astype(bool), dtype=pl.Boolean), False
    if array.dtype.kind in "iu":
        return _of_polars(pl.Series(column, array), column, name), False
    if array.dtype.kind == "f":
        return pl.Series(column, array.astype(np.float64)).fill_nan(None), False
    if array.dtype.kind == "M":
        unit = np.datetime_data(array.dtype)[0]
        return pl.Series(column, array.astype("M8[us]")), unit not in ("D", "M", "Y", "W") and _has_times(array)
    if array.dtype.kind == "m":
        days = array.astype("m8[us]").astype(np.float64) / 8.64e10
        return pl.Series(column, np.where(np.isnat(array), np.nan, days)).fill_nan(None), False
    present = [None if _is_missing(value) else value for value in array.tolist()]
    return _of_objects(present, column, name)


def _has_times(array: Any) -> bool:
    """Whether any instant is no midnight; pandas has no type for days."""
    seen = array[~np.isnat(array)]
    return bool((seen != seen.astype("M8[D]")).any())


def _of_objects(cells: list[Any], column: str, name: str) -> tuple[Any, bool]:
    import polars as pl

    some = [value for value in cells if value is not None]
    if all(isinstance(value, bool | np.bool_) for value in some) and some:
        return pl.Series(column, [None if value is None else bool(value) for value in cells], dtype=pl.Boolean), False
    if all(isinstance(value, int | np.integer) for value in some) and some:
        if all(-(2**63) <= value < 2**63 for value in some):
            return pl.Series(column, cells, dtype=pl.Int64, strict=False), False
        return pl.Series(column, [None if value is None else float(value) for value in cells]), False
    if all(isinstance(value, datetime.date) for value in some) and some:  # a datetime is a date, too
        timed = any(isinstance(value, datetime.datetime) for value in some)
        whole = [value if value is None or isinstance(value, datetime.datetime)
                 else datetime.datetime(value.year, value.month, value.day) for value in cells]  # fmt: skip
        return _of_polars(pl.Series(column, whole), column, name), timed
    if any(isinstance(value, str | bytes) for value in some) or not some:
        texts = [None if value is None else value.decode() if isinstance(value, bytes) else _spelled(value)
                 for value in cells]  # fmt: skip
        return pl.Series(column, texts, dtype=pl.String), False
    try:
        return pl.Series(column, [None if value is None else float(value) for value in cells], dtype=pl.Float64), False
    except (TypeError, ValueError) as fault:
        raise _odd(column, name, type(some[0]).__name__) from fault


def _is_missing(value: Any) -> bool:
    return value is None or str(value) in ("<NA>", "NaT") or (isinstance(value, float) and value != value)


def _spelled(value: Any) -> str:
    """A value as a name: whole numbers without a decimal point."""
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _odd(column: str, name: str, held: str) -> ElbowroomError:
    return ElbowroomError(
        f"Column '{column}' of {name} holds values of type {held}, but a column holds numbers, names or dates.",
        f"Give its parts a column each, or leave it out: --data.drop {column}.",
    )


def _without_marks(series: Any, missing: Collection[str]) -> Any:
    """The column without the marks of missing values."""
    import polars as pl

    if series.dtype == pl.String:
        series = tidy(series)
        return series.set(series.is_in([*_MARKS, *missing]).fill_null(False), None)
    if not series.dtype.is_numeric():
        return series
    numbers = []
    for mark in missing:
        try:
            numbers.append(float(mark))
        except ValueError:
            continue
    if not numbers:
        return series
    return series.set(series.cast(pl.Float64).is_in(numbers).fill_null(False), None)
