"""Checks of values: one pass over the data finds which values occur, and compares them with the declared support."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.storage import Storage, scan
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError

__all__ = [
    "NotFiniteDataError",
    "Survey",
    "check_finite",
    "check_rows",
    "check_support",
    "describe_non_finite",
    "infer_support",
    "percent",
    "survey",
]


@dataclass
class Survey:
    """Statistics of the values of a data set, as counts of elements; values that are not finite are counted apart."""

    finite: int = 0
    nan: int = 0
    infinite: int = 0
    first_nan_row: int = -1
    first_infinite_row: int = -1
    lowest: float = float("inf")
    highest: float = float("-inf")
    negative: int = 0
    fractional: int = 0  #: not a whole number
    inside: int = 0  #: strictly between 0 and 1
    between_bytes: int = 0  #: strictly between 0 and 255

    def add(self, rows: Tensor, raw: Tensor) -> None:
        """Take another chunk into account."""
        if not raw.numel():
            return
        values = raw
        # one pass, through which NaN comes too: most chunks hold nothing but numbers
        if raw.is_floating_point() and not all(bound.isfinite() for bound in raw.aminmax()):
            nan, infinite = raw.isnan(), raw.isinf()
            self.nan += int(nan.sum())
            self.infinite += int(infinite.sum())
            self.first_nan_row = _first(self.first_nan_row, rows, nan)
            self.first_infinite_row = _first(self.first_infinite_row, rows, infinite)
            values = raw[raw.isfinite()]
        self.finite += values.numel()
        if not values.numel():
            return
        lowest, highest = (float(bound) for bound in values.aminmax())
        self.lowest, self.highest = min(self.lowest, lowest), max(self.highest, highest)
        values = values.float() if values.dtype is torch.bfloat16 else values  # which numpy does not know
        array = values.cpu().numpy()  # torch adds truths as 64-bit numbers, which takes ten times as long as counting
        if raw.is_floating_point():
            self.fractional += int(np.count_nonzero(array != np.rint(array)))
            self.inside += int(np.count_nonzero((array > 0) & (array < 1)))
        if array.dtype == np.uint8:  # nothing lies beyond the two ends
            self.between_bytes += int(np.count_nonzero(array) - np.count_nonzero(array == 255))
        else:
            self.between_bytes += int(np.count_nonzero((array > 0) & (array < 255)))
        if lowest < 0:
            self.negative += int(np.count_nonzero(array < 0))


def _first(known: int, rows: Tensor, bad: Tensor) -> int:
    if known >= 0 or not bad.any():
        return known
    return int(rows[bad.flatten(1).any(1).cpu()][0])


def survey(storage: Storage) -> Survey:
    """Collect the statistics of all rows of an array, in chunks; of a ``Dataset``, of 10,000 evenly spaced rows."""
    found = Survey()
    for rows, raw in scan(storage, most=len(storage) if storage.surveyed_whole else None):
        found.add(rows, raw)
    return found


class NotFiniteDataError(ElbowroomError):
    """Data that hold NaN or infinite values."""


def check_finite(found: Survey, name: str, *, missing_allowed: bool) -> None:
    """Refuse infinities, and NaN unless it stands for a missing value."""
    if not found.finite and not found.infinite:
        raise ElbowroomError(f"Every value of {name} is missing.", "Give data in which something was observed.")
    if found.infinite:
        raise NotFiniteDataError(
            f"{name} holds {found.infinite:,} infinite values, the first in row {found.first_infinite_row}, but data "
            "are finite numbers.",
            "Clip them, take those rows out, or write NaN there and pass --data.missing mask.",
        )
    if found.nan and not missing_allowed:
        raise NotFiniteDataError(
            f"{name} holds {found.nan:,} NaN, the first in row {found.first_nan_row}, but data are finite numbers.",
            "If NaN means 'not observed', pass --data.missing mask; otherwise take those rows out.",
        )


def infer_support(found: Survey, storage: Storage) -> Support:
    """The narrowest support that the values fit; whole numbers are bytes only in images or if stored as bytes."""
    if not found.fractional and found.lowest >= 0:
        if found.highest <= 1:
            return Support.BINARY
        picture = len(storage.event_shape) >= 2
        if found.highest <= 255 and (storage.dtype == torch.uint8 or picture):
            return Support.BYTES
        return Support.COUNTS
    return Support.UNIT_INTERVAL if found.lowest >= 0 and found.highest <= 1 else Support.REALS


def _limits(support: Support, num_categories: int | None) -> tuple[int | None, int | None, bool]:
    """The least and the greatest value, and whether only whole numbers occur."""
    return {
        Support.BINARY: (0, 1, True),
        Support.UNIT_INTERVAL: (0, 1, False),
        Support.BYTES: (0, 255, True),
        Support.COUNTS: (0, None, True),
        Support.CATEGORIES: (0, None if num_categories is None else num_categories - 1, True),
        Support.REALS: (None, None, False),
        Support.TABLE: (None, None, False),
    }[support]


def check_rows(
    rows: Tensor,
    raw: Tensor,
    support: Support,
    name: str,
    *,
    num_categories: int | None,
    missing_allowed: bool,
    highest: int | None = None,
) -> None:
    """Refuse fetched rows that lie outside the support; for sources that cannot be surveyed whole beforehand.

    Args:
        rows: their positions, int64, shape (n,).
        raw: stored values, shape (n, \\*event).
        support: what the stored values are said, or were found, to be.
        name: of the data, for the message.
        num_categories: C, for categories.
        missing_allowed: NaN marks a missing element.
        highest: the largest count that the likelihood takes.
    Raises:
        ElbowroomError: names the first offending row and its value.
    Example:
        >>> bits = torch.tensor([[0, 1], [7, 1]])
        >>> check_rows(torch.tensor([40, 41]), bits, Support.BINARY, "x", num_categories=None, missing_allowed=False)
        Traceback (most recent call last):
            ...
        elbowroom.errors.ElbowroomError: Row 41 of x holds 7, but the rows that were checked before are 0 or 1.
          Correct that row, or say what the values are: data.support.
    """
    low, high, whole = _limits(support, num_categories)
    if highest is not None:
        high = highest if high is None else min(high, highest)
    if raw.is_floating_point():
        values = raw
        bad = raw.isinf() if missing_allowed else ~raw.isfinite()
        if whole:
            bad |= (raw != raw.round()) & ~raw.isnan()
    else:
        values = raw.long()  # a comparison of bytes with a bound wraps around
        bad = torch.zeros_like(values, dtype=torch.bool)
    if low is not None:
        bad |= values < low
    if high is not None:
        bad |= values > high
    if not bad.any():
        return
    first = int(bad.flatten(1).any(1).nonzero()[0])
    value = float(values[first][bad[first]][0])
    given = f"Row {int(rows[first])} of {name} holds {value:g}"
    if value != value:
        raise ElbowroomError(
            f"{given} (NaN), but data are finite numbers.",
            "If NaN means 'not observed', pass --data.missing mask; otherwise take that row out.",
        )
    if num_categories is not None and support is Support.CATEGORIES:
        raise ElbowroomError(
            f"{given}, but the {num_categories} categories are numbered 0..{num_categories - 1}.",
            "Correct that row, or pass a greater --data.num-categories.",
        )
    if highest is not None and value > highest:
        raise ElbowroomError(
            f"{given}, but the likelihood takes 0..{highest}.",
            "Correct that row, or raise --model.trials or --model.levels, whichever the likelihood has.",
        )
    raise ElbowroomError(
        f"{given}, but the rows that were checked before are {support.description}.",
        "Correct that row, or say what the values are: --data.support.",
    )


def check_support(found: Survey, support: Support, name: str, num_categories: int | None) -> None:
    """Compare the declared support with the values.

    Raises:
        ElbowroomError: values outside the support; it states their share or their extremes.
    """
    low, high, whole = _limits(support, num_categories)
    wanted = f"--data.support {support} needs {support.description}"
    if support is Support.CATEGORIES and num_categories is not None:
        wanted = f"{num_categories} categories are numbered 0..{num_categories - 1}"
    if support is Support.BINARY and found.lowest >= 0 and found.highest <= 1 and found.inside:
        raise ElbowroomError(
            f"The values of {name} lie between 0 and 1 ({_share(found.inside, found)} strictly between), but {wanted}.",
            "Say how to make them so: --data.binarization dynamic (or static, threshold), or use "
            "--data.support unit-interval.",
        )
    if (low is not None and found.lowest < low) or (high is not None and found.highest > high):
        negative = f" ({_share(found.negative, found)} negative)" if found.negative else ""
        raise ElbowroomError(
            f"The values of {name} range from {found.lowest:g} to {found.highest:g}{negative}, but {wanted}.",
            _wider(found, support),
        )
    if whole and found.fractional:
        raise ElbowroomError(
            f"{_share(found.fractional, found)} of the values of {name} are not whole numbers, but {wanted}.",
            "Round them, or use --data.support reals.",
        )


def _wider(found: Survey, support: Support) -> str:
    if support is Support.CATEGORIES and found.lowest >= 0 and not found.fractional:
        return f"Pass --data.num-categories {int(found.highest) + 1}, or renumber the categories from 0."
    if support is Support.UNIT_INTERVAL:
        return "Rescale them, or use --data.support reals."
    if support is Support.BINARY and not found.negative and not found.fractional and found.highest <= 255:
        return (
            "Correct them, or use --data.support counts; if they are bytes, make bits of them with "
            "--data.binarization dynamic (or static, threshold)."
        )
    fitting = "reals" if found.negative or found.fractional else "counts"
    return f"Correct them, or use --data.support {fitting}."


def _share(count: int, found: Survey) -> str:
    return percent(count / max(found.finite, 1))


def percent(share: float) -> str:
    """A share in percent, where a small share is not rounded to 0%.

    Example:
        >>> percent(0.12), percent(0.001), percent(0.9999)
        ('12%', 'under 1%', 'over 99%')
    """
    if 0 < share < 0.01:
        return "under 1%"
    return "over 99%" if 0.99 < share < 1 else f"{share:.0%}"


def describe_non_finite(batch: Batch) -> str | None:
    """Name the rows of a batch that hold NaN or infinity where something was observed; None if there are none.

    Example:
        >>> describe_non_finite(Batch(torch.tensor([[1.0], [float("nan")]]), index=torch.tensor([3, 8])))
        'row 8 of the data (1 element) is not finite'
    """
    bad = ~batch.x.isfinite()
    if batch.mask is not None:
        bad &= batch.mask
    bad = bad.flatten(1)
    if batch.context is not None:
        bad = torch.cat([bad, ~batch.context.isfinite().flatten(1)], dim=1)
    at = bad.any(1).nonzero().flatten().cpu()
    if not len(at):
        return None
    elements = int(bad.sum())
    rows = at if batch.index is None else batch.index.cpu()[at]
    listed = ", ".join(str(row) for row in rows[:5].tolist()) + (", …" if len(rows) > 5 else "")
    where = "of the data" if batch.index is not None else "of the batch"
    noun, verb = ("row", "is") if len(rows) == 1 else (f"{len(rows)} rows", "are")
    return f"{noun} {listed} {where} ({elements} element{'s' if elements > 1 else ''}) {verb} not finite"
