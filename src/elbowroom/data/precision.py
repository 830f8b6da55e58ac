r"""Precision: what the floating-point type of a run leaves of the data, and the units that make it leave enough.

float32 keeps 24 binary digits, about seven decimal ones: of a time of 1,700,000,000 seconds it keeps multiples of 128.
But a density does not change if the origin of x is moved, and differences from an origin near the data keep their
digits. So real-valued data are delivered as

.. math:: x_j = r_j - o_j, \qquad o_j = \begin{cases} m_j & |m_j| > 1000 \, s_j \\ 0 & \text{otherwise} \end{cases}

with the stored value r, its median m over the training rows, and its spread s, the width of the central 90% in units
of a normal's standard deviation; neither is moved by a single outlier. The difference is taken in float64 and then
rounded. Rounding to float32 changes a number by at most :math:`2^{-24} |m| = 6 \cdot 10^{-8} |m|`, so that at a
thousand spreads it reaches :math:`6 \cdot 10^{-5} s`: nearer to 0 it does no harm, and the data stay as they are.

Covariates only feed networks, which need numbers of about one. They are standardised where their magnitude calls for
it, with moments in float64.

What an origin cannot save is refused: an element of which many values differ and become equal all the same. Where they
are few, a remark says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
import torch
from torch import Tensor

from elbowroom.data.binarization import Binarization
from elbowroom.data.dataset import DataSet
from elbowroom.data.merged_values import (
    merged_elements,
    merging_error,
    merging_remarks,
    or_double,
    whole_numbers,
)
from elbowroom.data.storage import SCAN_ROWS, scan
from elbowroom.data.stream import StreamSet
from elbowroom.data.support import Support
from elbowroom.data.views import Moments, observed
from elbowroom.errors import ElbowroomError

__all__ = [
    "Units",
    "check_kept_apart",
    "check_range",
    "check_spread",
    "check_whole_numbers",
    "find_context_units",
    "find_origin",
    "find_units",
    "in_units",
    "varying",
]

_REAL = (Support.REALS, Support.TABLE)
_FAR = 1000.0  # spreads between 0 and the median, from which on there is an origin
_TAIL = 0.05  # share of the values on either side of the central ones
_NORMAL = 3.29  # width of the central 90% of a normal, in its standard deviations
_NOISE = 1e-12  # a spread below this share of the median is rounding of float64: the element is constant
_MOST_ELEMENTS = 1_000_000  # numbers that are sorted, so that rows of many elements do not take seconds
_LEAST_ROWS = 100
_CROWDED = 0.3  # share of the different values in crowds, from which on an element is refused; sigmoids reach 0.22
_CROWDED_UNIT = 0.5  # the same in the unit interval, where values near 1 are as good as 1
_WHOLE = 2**24  # up to which float32 holds every whole number
_LARGE, _SMALL = 1e3, 1e-3  # covariates between these go into networks as they are
_SQUARES = 100.0  # times beyond the deviation that a square must not leave the numbers of the type


@dataclass(frozen=True, eq=False)
class Units:
    """The units in which a run computes.

    Attributes:
        origin: what real-valued elements are counted from, float64, shape (\\*event); None: from 0.
        context: shift and scale of covariates, two float64 tensors of shape (context_dim,); None: they stay as given.
        remarks: what is lost all the same, in sentences.
    """

    origin: Tensor | None = None
    context: tuple[Tensor, Tensor] | None = None
    remarks: tuple[str, ...] = ()

    def scaled(self, context: Tensor) -> Tensor:
        """Covariates as given, shape (\\*, context_dim), as the model gets them: standardised in float64.

        Example:
            >>> shift, scale, time = torch.tensor([1.7e9, 10.0, 1.7e9 + 5], dtype=torch.float64)
            >>> Units(context=(shift[None], scale[None])).scaled(time[None, None])
            tensor([[0.5000]], dtype=torch.float64)
        """
        if self.context is None:
            return context
        shift, scale = (part.to(context.device) for part in self.context)
        return (context.double() - shift) / scale


def find_units(data: DataSet | StreamSet, dtype: torch.dtype) -> Units:
    """The units for training on these data in this precision, from up to 10,000 evenly spaced training rows.

    Args:
        data: with the support that the likelihood needs, and no units yet.
        dtype: in which they will be delivered. In float64 there is no origin: its sixteen digits leave enough.
    Raises:
        ElbowroomError: values that differ and would become equal, or counts above 2²⁴, in float32.
    """
    check_whole_numbers(data, dtype)
    if torch.finfo(dtype).bits > 32:
        return Units(None, find_context_units(_given_context(data)))
    origin, merged = None, []
    if _may_lose(data):
        ordered = _ordered(data)
        if data.native_support is Support.REALS:
            origin = find_origin(ordered)
        found = merged_elements(
            ordered, (ordered if origin is None else ordered - origin).to(dtype), _least_share(data)
        )
        merged += [(f"{_element(data, one.element)} of {data.name}", one) for one in found]
    given = _given_context(data)
    units = Units(None if origin is None else origin.reshape(data.event_shape), find_context_units(given))
    if len(given):
        given = given.sort(0).values
        found = merged_elements(given, units.scaled(given).to(dtype), _CROWDED)
        merged += [(f"{_covariate(data, one.element)} of {data.name}", one) for one in found]
    for where, one in merged:
        if one.refused:
            raise merging_error(one, where)
    return replace(units, remarks=merging_remarks(merged))


def check_kept_apart(data: DataSet, dtype: torch.dtype) -> None:
    """Refuse values that differ and become equal in this type, for a model that takes them as they are stored.

    Args:
        data: without an origin.
        dtype: in which they will be delivered.
    Raises:
        ElbowroomError: names the element, two of its values, and what both become; or counts above 2²⁴.
    """
    if torch.finfo(dtype).bits > 32:
        return
    check_whole_numbers(data, dtype)
    if _may_lose(data):
        ordered = _ordered(data)
        for one in merged_elements(ordered, ordered.to(dtype), _least_share(data)):
            if one.refused:
                raise merging_error(one, f"{_element(data, one.element)} of {data.name}")


@overload
def in_units(data: DataSet, units: Units, *, fill: Tensor | None = None) -> DataSet: ...
@overload
def in_units(data: StreamSet, units: Units, *, fill: Tensor | None = None) -> StreamSet: ...
def in_units(data: DataSet | StreamSet, units: Units, *, fill: Tensor | None = None) -> DataSet | StreamSet:
    """The same data, delivered in these units instead of those that they have.

    Args:
        data: in any units.
        units: those of a run.
        fill: in place of missing elements, as delivered; by default the means of these data.
    """
    if not _equal(data.view.origin, units.origin):
        device = data.storage.device if isinstance(data, DataSet) else data.device
        origin = None if units.origin is None else units.origin.to(device)
        data = replace(data, view=replace(data.view, origin=origin))
        if data.fill is not None:
            data = replace(data, fill=(data.moments()[0] if fill is None else fill).to(device))
    if isinstance(data, DataSet) and data.context is not None:
        pairs = zip(data.context_units or (None, None), units.context or (None, None), strict=True)
        if not all(_equal(one, other) for one, other in pairs):
            given = data.context.cpu().double() if data.raw_context is None else data.raw_context
            scaled = units.scaled(given).to(data.context.device, data.dtype)
            data = replace(data, context=scaled, raw_context=given, context_units=units.context)
    return data


def find_origin(ordered: Tensor) -> Tensor | None:
    """The origin of every element: its median where that is more than a thousand spreads from 0, otherwise 0.

    The spread is the width of the central 90% over 3.29, or the standard deviation where these are all equal. An
    element whose spread is below 10⁻¹² of its median varies by rounding alone, unless it holds whole numbers, and keeps
    the origin 0.

    Args:
        ordered: stored values, float64 or int64, sorted along the first axis with NaN last, shape (n, elements).
    Returns:
        float64, shape (elements,); None where all are 0.
    Example:
        >>> times = torch.tensor([[0.0, 1.7e9], [1.0, 1.7e9 + 2], [2.0, 1.7e9 + 5]], dtype=torch.float64)
        >>> find_origin(times).tolist()
        [0.0, 1700000002.0]
    """
    known = (~ordered.isnan()).sum(0)
    low, median, high = (_quantile(ordered, known, share) for share in (_TAIL, 0.5, 1 - _TAIL))
    spread = (high - low) / _NORMAL
    if bool((spread == 0).any()):
        moments = Moments()
        moments.add(*observed(ordered.double(), masked=True))
        spread = torch.where(spread == 0, moments.std, spread)
    size = median.abs()
    noise = torch.where(whole_numbers(ordered), 0.0, _NOISE * size)
    far = (size > _FAR * spread) & (spread > noise)
    return torch.where(far, median, 0.0) if bool(far.any()) else None


def find_context_units(given: Tensor) -> tuple[Tensor, Tensor] | None:
    """Shift and scale of covariates: mean and standard deviation where their magnitude calls for them, else 0 and 1.

    It does where the mean or the deviation is above 1,000, the deviation is below 0.001, or the mean is more than a
    thousand deviations from 0. Columns of 0 and 1 always stay as they are.

    Args:
        given: the training rows, float64, shape (n, context_dim).
    Returns:
        Two float64 tensors of shape (context_dim,); None where all columns stay as they are.
    Example:
        >>> shift, scale = find_context_units(torch.tensor([[0.0, 1e6], [1.0, 3e6]], dtype=torch.float64))
        >>> shift.tolist(), scale.tolist()
        ([0.0, 2000000.0], [1.0, 1000000.0])
    """
    if not len(given):
        return None
    moments = Moments()
    moments.add(given, None)
    size, deviation = moments.mean.abs(), moments.std
    varies = deviation > _NOISE * size
    odd = (deviation > _LARGE) | (deviation < _SMALL) | (size > _FAR * deviation)
    far = ((size > _LARGE) | (varies & odd)) & ((given != 0) & (given != 1)).any(0)
    if not bool(far.any()):
        return None
    return torch.where(far, moments.mean, 0.0), torch.where(far & varies, deviation, 1.0)


def check_range(data: DataSet | StreamSet) -> None:
    """Refuse values beyond the largest number of the type that they are delivered in.

    Raises:
        ElbowroomError: names the first row, and the element and its value.
    """
    largest, name = torch.finfo(data.dtype).max, str(data.dtype).removeprefix("torch.")
    if isinstance(data, DataSet) and data.context is not None:
        finite = data.context.isfinite().all(1)
        if not bool(finite.all()):
            raise ElbowroomError(
                f"The context of row {int((~finite).nonzero()[0])} of {data.name} is beyond {largest:.2g}, the largest "
                f"number of {name}.",
                "Correct it, or take that row out.",
            )
    if data.extremes is None or max(map(abs, data.extremes)) <= largest:
        return
    first = _first_row(data, lambda raw: data.view.from_origin(raw).double().abs() > largest)
    if first is not None:
        row, element, value = first
        raise ElbowroomError(
            f"Row {row} of {data.name} holds {value:g} in "
            f"{_element(data, element)}, but the largest number of {name} is {largest:.2g}.",
            f"Correct that value, or give the data in another unit{or_double(abs(value))}.",
        )


def check_spread(data: DataSet | StreamSet, deviation: Tensor) -> None:
    """Refuse deviations whose squares, which a normal density needs, are beyond the numbers of the delivered type.

    Args:
        data: real-valued, with their type of delivery.
        deviation: of every element, float64, shape (\\*event).
    """
    limits, name = torch.finfo(data.dtype), str(data.dtype).removeprefix("torch.")
    least, most = _SQUARES * limits.tiny**0.5, limits.max**0.5 / _SQUARES
    beyond = ~((deviation.flatten() >= least) & (deviation.flatten() <= most))  # an overflow can end in NaN
    if bool(beyond.any()):
        place = int(beyond.nonzero()[0])
        size = float(deviation.flatten()[place])
        wider = "" if limits.bits > 32 else or_double(size)
        shown = f"{size:.2g}" if math.isfinite(size) else "too large to be squared"
        raise ElbowroomError(
            f"The standard deviation of {_element(data, place)} of {data.name} is {shown}, but the squares of "
            f"{name} need one between {least:.2g} and {most:.2g}.",
            f"Give the data in another unit, in which they are nearer to 1{wider}.",
        )


def check_whole_numbers(data: DataSet | StreamSet, dtype: torch.dtype, *, trained: bool = False) -> None:
    """Refuse counts and category numbers that float32 does not tell apart.

    Args:
        data: with the support that the likelihood needs.
        dtype: in which they will be delivered.
        trained: whether it is a trained model that reads them, for the remedy.
    Raises:
        ElbowroomError: whole numbers above 2²⁴; of data for a trained model, names the first row.
    """
    highest = 0.0 if data.extremes is None else data.extremes[1]
    if torch.finfo(dtype).bits > 32 or data.support not in (Support.COUNTS, Support.CATEGORIES) or highest <= _WHOLE:
        return
    limit = f"but float32 tells whole numbers apart only up to {_WHOLE:,}."
    first = _first_row(data, lambda raw: raw > _WHOLE) if trained else None
    if first is not None:
        row, element, value = first
        raise ElbowroomError(
            f"Row {row} of {data.name} holds {value:,.0f} in {_element(data, element)}, {limit}",
            "Correct that value or take the row out; or train a model in double precision (--runtime.dtype float64).",
        )
    measured = "if they are measurements, such as times, pass --data.support reals"
    remedy = f"Compute in double precision (--runtime.dtype float64); or {measured}."
    if data.support is Support.CATEGORIES:
        remedy = f"Number the categories 0, 1, 2, … in turn; or {measured}."
    raise ElbowroomError(
        f"The values of {data.name} are {data.support.description}, up to {highest:,.0f}, {limit}", remedy
    )


def varying(data: DataSet | StreamSet) -> Tensor:
    """Which elements have different values, be it by rounding alone, bool, shape (\\*event).

    A deviation of rounding size does not tell: that of equal numbers may be rounding, too.
    """
    ordered = _ordered(data)
    last = _quantile(ordered, (~ordered.isnan()).sum(0), 1.0)
    return (last > ordered[0]).reshape(data.event_shape)


# --- rows --------------------------------------------------------------------------------------------------------


def _least_share(data: DataSet | StreamSet) -> float:
    """The share of different values that become equal, from which on an element is refused."""
    return _CROWDED if data.native_support in _REAL else _CROWDED_UNIT


def _may_lose(data: DataSet | StreamSet) -> bool:
    """Whether stored values may have more digits than float32 keeps, or an offset that leaves it too few."""
    if data.binarization is not Binarization.NONE:
        return False
    stored = data.storage.dtype if isinstance(data, DataSet) else data.head()[0].dtype
    wide = stored in (torch.float64, torch.int64, torch.int32)
    return data.native_support in _REAL or (wide and data.native_support is Support.UNIT_INTERVAL)


def _ordered(data: DataSet | StreamSet) -> Tensor:
    """Some training rows, evenly spaced, sorted for each element: float64 or int64, NaN last, shape (n, elements)."""
    if isinstance(data, DataSet):
        most = min(SCAN_ROWS, max(_LEAST_ROWS, _MOST_ELEMENTS // max(1, int(np.prod(data.event_shape)))))
        chunks = [part for _, part in scan(data.storage, data.splits["train"], most=most)]
    else:
        chunks = data.head()
    raw = torch.cat([chunk.cpu() for chunk in chunks]).flatten(1)
    return (raw.double() if raw.is_floating_point() else raw.long()).sort(0).values


def _all_rows(data: DataSet | StreamSet) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of positions and stored rows, all that were surveyed; of a stream its first ones."""
    if isinstance(data, DataSet):
        return scan(data.storage, most=len(data.storage) if data.storage.surveyed_whole else None)
    raw = torch.cat(data.head())
    return iter([(torch.arange(len(raw)), raw)])


def _first_row(data: DataSet | StreamSet, bad: Callable[[Tensor], Tensor]) -> tuple[int, int, float] | None:
    """The first row with a bad value, by its position, the element and the value; None where there is none."""
    for rows, raw in _all_rows(data):
        found = bad(raw).flatten(1)
        if bool(found.any()):
            row, element = found.nonzero()[0].tolist()
            return int(rows[row]), element, float(raw.flatten(1)[row, element])
    return None


def _given_context(data: DataSet | StreamSet) -> Tensor:
    """The covariates of the training rows as given, float64, shape (n, context_dim); empty where there are none."""
    if not isinstance(data, DataSet) or data.context is None:
        return torch.empty(0, 0, dtype=torch.float64)
    given = data.context.cpu().double() if data.raw_context is None else data.raw_context
    return given[data.splits["train"]]


def _quantile(ordered: Tensor, known: Tensor, share: float) -> Tensor:
    """The value of rank ⌊share (n − 1)⌋ among the n known ones, float64."""
    rank = (share * (known - 1).double()).floor().long().clamp(min=0)
    return ordered.gather(0, rank.unsqueeze(0)).squeeze(0).double()


def _element(data: DataSet | StreamSet, place: int) -> str:
    """An element in words: its column where that has a name, otherwise its position."""
    if isinstance(data, DataSet) and data.columns is not None:
        return f"column '{data.columns[place]}'"
    at = [int(i) for i in np.unravel_index(place, data.event_shape)]
    return f"element {at[0] if len(at) == 1 else tuple(at)}"


def _covariate(data: DataSet | StreamSet, place: int) -> str:
    """A number of the context in words: its column where that has a name, otherwise its position."""
    names: list[str] = []
    if isinstance(data, DataSet):
        for column in data.context_columns or ():
            names += [column] * len(data.levels.get(column, ("",)))
    return f"covariate '{names[place]}'" if place < len(names) else f"covariate {place}"


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other if one is None or other is None else bool(torch.equal(one.cpu(), other.cpu()))
