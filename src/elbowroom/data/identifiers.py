"""Identifiers of rows: a column that is not part of x and is carried into the files of results."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from elbowroom.data.covariates import values_of
from elbowroom.errors import ElbowroomError

__all__ = ["identifiers", "repeated"]


def identifiers(given: Any, total: int, what: str) -> tuple[str, ...]:
    """Identifiers of rows as text: whole numbers to the last digit, text as it is, empty where one is missing.

    Args:
        given: one for each row.
        total: the number of rows.
        what: for the message.
    Raises:
        ElbowroomError: another number of them.
    Example:
        >>> identifiers([9007199254740993, 7], 2, "id"), identifiers(["007", None], 2, "id")
        (('9007199254740993', '7'), ('007', ''))
    """
    if isinstance(given, np.ma.MaskedArray):
        given = np.where(np.ma.getmaskarray(given), None, given.data.astype(object))  # type: ignore[call-overload]
    values = values_of(given)
    if values.dtype.kind in "Mm":  # dates, which numpy hands out as numbers
        values = values.astype(str)
    if values.shape not in ((total,), (total, 1)):
        raise ElbowroomError(
            f"{what} has shape {values.shape}, but the data have {total:,} rows.", "Give it one entry for each row."
        )
    return tuple(_as_text(value) for value in values.reshape(-1).tolist())


def _as_text(value: Any) -> str:
    if value is None or str(value) in ("<NA>", "NaT") or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))  # whole numbers beside a missing one come as floating point
    return str(value)


def repeated(ids: tuple[str, ...], what: str) -> str | None:
    """A remark on identifiers that do not tell all rows apart; None where they do.

    Example:
        >>> repeated(("a", "b", "a"), "Column 'who' of x.csv")
        "Column 'who' of x.csv does not tell all rows apart: 'a' stands in 2 of them. Join results by row instead."
        >>> repeated(("a", "b"), "id") is None
        True
    """
    (most, times), *_ = Counter(ids).most_common(1) or [("", 0)]
    if times < 2:
        return None
    return f"{what} does not tell all rows apart: '{most}' stands in {times:,} of them. Join results by row instead."
