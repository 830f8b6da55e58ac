"""Numbers that people write for a missing value: those that lie far from the rest of their column, and repeat."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["SUSPECTS", "isolated_marks"]

SUSPECTS = (-1, -9, -99, -999, -9999, -99999, -999999, 999, 9999, 99999, 999999)  #: what people use for that
_FAR = 10  # of −1 and −9: how far they lie from the rest at least


def isolated_marks(
    values: npt.NDArray[np.generic], suspects: Sequence[float] = SUSPECTS, named: Collection[float] = ()
) -> list[tuple[float, int, float, float]]:
    """The suspected numbers of one column, how often each occurs, and the least and the greatest of the rest.

    Args:
        values: of the column, NaN where missing.
        suspects: the numbers that are suspected.
        named: those of them that the user has named; of others a single one is no mark.
    Example:
        >>> isolated_marks(np.array([31.0, 999.0, 64.0, 999.0, 18.0]))
        [(999, 2, 18.0, 64.0)]
    """
    rest = values[~np.isin(values, suspects) & ~np.isnan(values)]
    if not len(rest):
        return []
    low, high = float(rest.min()), float(rest.max())
    found = []
    for value in suspects:
        count = int(np.count_nonzero(values == value))
        gap = max(low - value, value - high)
        lone_negative = value <= -99 and low >= 0
        if (
            count > (value not in named)
            and gap > 0
            and (lone_negative or gap > max(high - low, _FAR if abs(value) < 10 else 0))
        ):
            found.append((value, count, low, high))
    return found
