"""Different values of an element that become equal in float32: found in crowds, refused or said.

Data are delivered to a model in float32 as a rule, which keeps seven digits. :func:`merged_elements` finds where that
loses more than single values; :mod:`elbowroom.data.precision` decides which elements are looked at, and in which units.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.data.value_checks import percent
from elbowroom.errors import ElbowroomError

__all__ = ["Merged", "merged_elements", "merging_error", "merging_remarks", "or_double", "whole_numbers"]

_NARROW = 1e-11  # a range below this share of its numbers has a spread that counts as rounding, or nearly
_SAME = 1e-13  # numbers that differ relatively by less may differ by rounding in float64 alone
_CROWD = 8  # different values that become one: of 10,000 normal values a thousand spreads away, at most 5 do
_NOTED = 0.01  # the share beyond which it is said
_NOTHING = 1e-30  # smaller numbers are as good as 0 where an element has larger ones
_DOUBLE = 1e-150, 1e150  # deviations between these have squares in float64
_EXACT = 2**53  # up to which float64 holds every whole number


@dataclass(frozen=True)
class Merged:
    """An element whose values become equal: two of them, what both become, and the share of such values.

    ``narrow`` where all its values lie so close together that float64 does not tell their spread from rounding;
    ``refused`` where the share is too large.
    """

    element: int
    values: tuple[float, float]
    becomes: float
    share: float
    narrow: bool
    refused: bool


def merged_elements(ordered: Tensor, delivered: Tensor, limit: float) -> list[Merged]:
    """The elements of which more than a hundredth of the different values becomes equal in crowds.

    The search ends at the first one that is to be refused.

    A crowd is eight different values or more that become one, or half of all that there are. Rounding at its coarsest,
    a thousand spreads from 0, lets about five of 10,000 normal values meet, so that healthy elements have no crowds.
    Numbers within 10⁻¹³ of their size count as one, unless all are whole; those below 10⁻³⁰ as 0 beside larger ones.

    Args:
        ordered: stored values, float64 or int64, sorted along the first axis with NaN last, shape (n, elements).
        delivered: what becomes of them, in the same order.
        limit: the share from which on an element is refused.
    """
    found: list[Merged] = []
    apart = ordered[1:] > ordered[:-1]
    equal = delivered[1:] == delivered[:-1]
    met, different = (apart & equal).sum(0), 1 + apart.sum(0)
    for element in torch.nonzero(4 * met > _NOTED * different).flatten().tolist():
        raw, column = ordered[:, element], delivered[:, element].double()
        begins = torch.cat([torch.ones(1, dtype=torch.bool), ~equal[:, element]])
        cell, first = begins.cumsum(0) - 1, begins.nonzero().flatten()
        last = torch.cat([first[1:], torch.tensor([len(raw)])]) - 1
        size = 1 + torch.bincount(cell[1:][(apart & equal)[:, element]], minlength=len(first)).double()
        if raw.is_floating_point() and not bool(whole_numbers(raw)):
            tolerance = _SAME * torch.maximum(raw[first].abs(), raw[last].abs())
            size = torch.where(size > 1, size.minimum(1 + (raw[last] - raw[first]) / tolerance), size)
        crowd = ((size >= _CROWD) | ((size >= 2) & (2 * size >= size.sum()))) & column[first].isfinite()
        if float(column.nan_to_num(nan=0.0).abs().max()) >= _NOTHING:
            crowd &= ~(column[first].abs() < _NOTHING)
        share = float(size[crowd].sum() / size.sum())
        if share > _NOTED:
            at = int(torch.where(crowd, size, 0.0).argmax())
            one, other = raw[first[at]].item(), raw[last[at]].item()
            least_value, most_value = float(raw[0]), float(raw[~raw.isnan()][-1])
            narrow = most_value - least_value < _NARROW * max(abs(least_value), abs(most_value))
            becomes, refused = float(column[first[at]]), share >= limit
            found.append(Merged(element, (one, other), becomes, share, narrow, refused))
            if refused:
                break
    return found


def merging_error(found: Merged, where: str) -> ElbowroomError:
    """The error for an element that loses too many of its values; ``where`` names it."""
    remedy = "Compute in double precision (--runtime.dtype float64), or leave that column out."
    if found.narrow:
        remedy = "Subtract a number near them, such as the first of them, from that column, or leave it out."
    if abs(found.becomes) < _NOTHING:
        size = max(map(abs, found.values))
        remedy = f"Give the data in another unit, in which they are nearer to 1{or_double(size)}."
    return ElbowroomError(f"In {_merge_in_words(found, where)}.", remedy)


def merging_remarks(merged: list[tuple[str, Merged]]) -> tuple[str, ...]:
    """One sentence about the element of which most is lost, and how many others there are."""
    if not merged:
        return ()
    where, worst = max(merged, key=lambda pair: pair[1].share)
    others = f" ({len(merged) - 1:,} more like it)" if len(merged) > 1 else ""
    return (f"in {_merge_in_words(worst, where)}{others}; to keep them apart, pass --runtime.dtype float64",)


def _merge_in_words(found: Merged, where: str) -> str:
    one, other = (f"{value:,}" if isinstance(value, int) else f"{value:.17g}" for value in found.values)
    return (
        f"{where}, {percent(found.share)} of the different values become equal to others in float32, which keeps "
        f"seven digits: {one} and {other} both become {found.becomes:.9g}"
    )


def or_double(size: float) -> str:
    """The remedy of double precision, for numbers whose squares it has."""
    wide = _DOUBLE[0] < size < _DOUBLE[1]
    return ", or compute in double precision (--runtime.dtype float64)" if wide else ""


def whole_numbers(ordered: Tensor) -> Tensor:
    """Whether the known values are whole numbers, which float64 holds without rounding, along the first axis."""
    if not ordered.is_floating_point():
        return (ordered.abs() <= _EXACT).all(0)
    return (ordered.isnan() | ((ordered == ordered.round()) & (ordered.abs() <= _EXACT))).all(0)
