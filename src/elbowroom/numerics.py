"""Numerical functions used everywhere: averages of exponentials, standard errors, chunks, slots for rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "RowSlots",
    "bounded",
    "chunks",
    "draws_last",
    "effective_sample_size",
    "in_place_version",
    "is_unchanged",
    "log_mean_exp",
    "log_sum_exp",
    "mean_and_stderr",
]


def in_place_version(values: Tensor) -> int:
    """A number that changes where a tensor is changed in place; a compiled function has no such thing, and needs none.

    Example:
        >>> values = torch.zeros(2)
        >>> before = in_place_version(values)
        >>> in_place_version(values.add_(1)) == before
        False
    """
    return 0 if torch.compiler.is_compiling() or values.is_inference() else values._version


def is_unchanged(values: Tensor, version: int, *, with_gradient: bool) -> bool:
    """Whether what was computed for a tensor still holds: it was not changed in place, and no gradient is missing.

    Args:
        values: the tensor.
        version: its :func:`in_place_version` at the time.
        with_gradient: whether gradients were recorded then.
    Example:
        >>> values = torch.zeros(2)
        >>> is_unchanged(values, in_place_version(values), with_gradient=False)  # where one may be wanted now
        False
    """
    return (with_gradient or not torch.is_grad_enabled()) and version == in_place_version(values)


def log_mean_exp(log_weights: Tensor, dim: int = 0) -> Tensor:
    r"""Logarithm of an average, given logarithms.

    .. math:: \log \frac{1}{K} \sum_{k=1}^K \exp(\ell_k)

    Args:
        log_weights: :math:`\ell`, any shape; nats.
        dim: the axis to average over, K = its length.
    Returns:
        Nats, the shape without ``dim``.
    Example:
        >>> log_mean_exp(torch.log(torch.tensor([1.0, 3.0]))).exp().round(decimals=4)
        tensor(2.)
    """
    return torch.logsumexp(log_weights, dim) - math.log(log_weights.shape[dim])


def log_sum_exp(values: Tensor, dim: int = -1) -> Tensor:
    r"""``torch.logsumexp`` for terms that lie hundreds of nats apart, where it is many times as fast.

    .. math:: m + \log \sum_k \exp(\max(v_k - m, c)), \qquad m = \max_k v_k

    c lies just above the point where exp becomes a subnormal number (−80 in float32), which processors compute slowly;
    the terms that it replaces are below the sum's last digit. Twice differentiable.

    Args:
        values: v, any shape.
        dim: the axis to sum over.
    Returns:
        The shape without ``dim``.
    Example:
        >>> float(log_sum_exp(torch.tensor([0.0, -1000.0, -2000.0])))
        0.0
    """
    largest = values.detach().amax(dim, keepdim=True)
    least = math.log(torch.finfo(values.dtype).tiny) + 7
    total = (values - largest).clamp_min(least).exp().sum(dim).log()
    largest = largest.squeeze(dim)
    return torch.where(largest.isneginf(), largest, total + largest)


def bounded(values: Tensor, least: float, largest: float) -> Tensor:
    """Values within bounds, with the gradient as if they were not bounded.

    Within the bounds nothing is changed, to the bit. Beyond them the gradient passes, so that training can lead back;
    that of a clamp would be zero.

    Example:
        >>> bounded(torch.tensor([-3.0, 0.5]), -1, 1)
        tensor([-1.0000,  0.5000])
    """
    inside = values.detach().clamp(least, largest)
    return inside + (values - values.detach())  # a sum with 0 that has the gradient


def draws_last(values: Tensor) -> Tensor:
    """Values with their first axis moved to the end, in memory too, so as to sum over it.

    A sum over the first axis takes several columns at once, in an order that depends on how many there are. Along
    memory every sum is made by itself, so that what is found for an example does not depend on the others, to the bit.

    Args:
        values: shape (draws, \\*).
    Returns:
        Shape (\\*, draws).
    Example:
        >>> draws_last(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum(-1)
        tensor([4., 6.])
    """
    return values.movedim(0, -1).contiguous()


def effective_sample_size(log_weights: Tensor, dim: int = 0) -> Tensor:
    r"""Kish's effective number of draws of a weighted sample, between 1 and K.

    .. math:: \mathrm{ESS} = \frac{(\sum_k w_k)^2}{\sum_k w_k^2}

    Example:
        >>> effective_sample_size(torch.zeros(10))
        tensor(10.)
    """
    return torch.exp(2 * torch.logsumexp(log_weights, dim) - torch.logsumexp(2 * log_weights, dim))


def mean_and_stderr(values: Tensor) -> tuple[float, float]:
    r"""Mean of independent values and its standard error, :math:`s / \sqrt{n}`, both accumulated in float64.

    The standard error of a single value is unknown: NaN.

    Example:
        >>> mean_and_stderr(torch.tensor([0.0, 0.0, 2.0, 2.0, 2.0, 0.0, 1.0, 1.0, 1.0]))
        (1.0, 0.28867513459481287)
    """
    values = values.detach().double().flatten()
    stderr = values.std(unbiased=True) / math.sqrt(len(values)) if len(values) > 1 else torch.tensor(math.nan)
    return values.mean().item(), float(stderr)


def difference_and_stderr(a: Tensor, b: Tensor) -> tuple[float, float]:
    r"""Difference of the means of two independent sets of values, and its standard error.

    Example:
        >>> difference_and_stderr(torch.tensor([-1.0, 7.0]), torch.tensor([-2.0, 4.0]))
        (2.0, 5.0)
    """
    (first, of_first), (second, of_second) = mean_and_stderr(a), mean_and_stderr(b)
    return first - second, math.hypot(of_first, of_second)


def chunks(total: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most ``size`` that cover ``range(total)``, the remainder included.

    Example:
        >>> list(chunks(5, 2))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


class RowSlots(NamedTuple):
    """Slots for rows of a matrix, such that what is computed of a row does not depend on the other rows, to the bit.

    Products of matrices of one to three rows round otherwise than larger ones. Narrow ones, of fewer than 16 columns,
    round rows in one of several ways that follow each other with a period of four. Elementwise functions round
    otherwise in a tensor's last elements, where these do not fill a vector of the processor. So a row always takes a
    slot of the same class, its number modulo the period, and the number of slots is a multiple of a fixed one.

    Attributes:
        period: 4, or 1 where all products are wide.
        multiple: of the number of slots; itself a multiple of the period.
    Example:
        >>> places, rows = RowSlots(period=4, multiple=8).fill(torch.tensor([2, 6, 3]))
        >>> places.tolist(), rows.tolist()  # empty slots are filled with the first row
        ([2, 6, 3], [0, 0, 0, 2, 0, 0, 1, 0])
    """

    period: int
    multiple: int

    def fill(self, classes: Tensor) -> tuple[Tensor, Tensor]:
        """The slot of every row, and the row that is put in every slot.

        Args:
            classes: of the rows, modulo the period; int64, shape (n,), n at least 1.
        """
        places = torch.empty_like(classes)
        most = 0
        for kind in range(self.period):
            mine = (classes % self.period == kind).nonzero().squeeze(1)
            places[mine] = kind + self.period * torch.arange(len(mine), device=classes.device)
            most = max(most, len(mine))
        size = -(-most * self.period // self.multiple) * self.multiple
        rows = torch.zeros(size, dtype=torch.int64, device=classes.device)
        rows[places] = torch.arange(len(classes), device=classes.device)
        return places, rows
