r"""Grey values in equal steps, which are counts: numbers between 0 and 1 that are k / N with whole k.

Pictures are often stored that way, k / 255 of bytes, k / 16 of scikit-learn's digits. A likelihood of counts takes k.
"""

from __future__ import annotations

import torch
from torch import Tensor

from elbowroom.data.storage import Storage, scan

__all__ = ["find_steps"]

_MOST = 255
_ROUNDING = 1e-4  # of a step; float32 rounds k / 255 by a fiftieth of that


def find_steps(storage: Storage, known: int | None = None) -> int | None:
    """The least N up to 255 such that all values are k / N; None where there is none.

    Args:
        storage: numbers between 0 and 1; NaN is left out.
        known: N, if it is known; it is returned if the values are so.
    Example:
        >>> from elbowroom.data.storage import InMemory
        >>> find_steps(InMemory(torch.tensor([[0.0, 0.25], [0.5, 1.0]])))
        4
    """
    if not storage.surveyed_whole:  # rows that are fetched later could lie in between
        return None
    left = torch.arange(1, _MOST + 1) if known is None else torch.tensor([known])
    for _, raw in scan(storage, most=len(storage)):
        left = left[_fit(raw.double().flatten(), left)]
        if not len(left):
            return None
    return int(left[0])


def _fit(values: Tensor, numbers: Tensor) -> Tensor:
    """For each of the numbers of steps, whether all values are multiples of one: bool."""
    distinct = torch.unique(values[values.isfinite()])
    if len(distinct) > _MOST + 1:
        return torch.zeros_like(numbers, dtype=torch.bool)
    steps = distinct.cpu() * numbers.unsqueeze(1)
    fits: Tensor = ((steps - steps.round()).abs() < _ROUNDING).all(1)
    return fits
