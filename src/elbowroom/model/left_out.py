r"""log p of all elements of x but one, given z, for every element that may be left out.

.. math:: \log p(x_{-d} | z) = \sum_{e \ne d} \log p(x_e | z)

where elements are independent given z. The sums are made without the element: a difference of the whole sum and its
term has no digits left where the term is huge, and is not a number where it is infinite.
"""

from __future__ import annotations

from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from elbowroom.model.draws import draw

__all__ = ["LeftOut", "draw_left_out", "left_out", "sums_without_each"]


class LeftOut(NamedTuple):
    """log p of the observed elements of x, and of them without each; float64.

    Attributes:
        whole: log p(x | z), nats, shape (\\*).
        rest: ``log p(x_-d | z)``, nats, shape (\\*, D).
    """

    whole: Tensor
    rest: Tensor


@singledispatch
def left_out(distribution: Distribution, x: Tensor, mask: Tensor | None = None) -> LeftOut:
    """log p of x given z with each of its elements left out in turn.

    Args:
        distribution: of x, elementwise, as a likelihood returns it, batch shape (\\*, D).
        x: vectors, shape (\\*, D).
        mask: True where x was observed, shape (\\*, D); None where all were. What was not is summed out.
    Example:
        >>> from torch.distributions import Bernoulli
        >>> left_out(Bernoulli(torch.tensor([[0.5, 0.25]])), torch.ones(1, 2)).rest.exp()
        tensor([[0.2500, 0.5000]], dtype=torch.float64)
    """
    each: Tensor = distribution.log_prob(x).double()
    if mask is not None:
        each = torch.where(mask, each, 0.0)
    return LeftOut(each.sum(-1), sums_without_each(each))


@singledispatch
def draw_left_out(
    distribution: Distribution, x: Tensor, mask: Tensor | None = None, *, generator: torch.Generator | None = None
) -> Tensor:
    """A draw of each element of x given all others and z: of the element itself, where they are independent given z.

    Args:
        distribution: of x, elementwise, as a likelihood returns it, batch shape (\\*, D).
        x: vectors, shape (\\*, D).
        mask: True where x was observed, shape (\\*, D); None where all were. What was not says nothing.
        generator: the source of randomness.
    Returns:
        Shape (\\*, D): no draw of x, since each element is given the x of the others.
    """
    return draw(distribution, generator=generator)


def sums_without_each(values: Tensor) -> Tensor:
    """Sums over the last axis without each of its elements, of the same shape.

    Example:
        >>> sums_without_each(torch.tensor([1.0, -torch.inf, 3.0]))
        tensor([-inf, 4., -inf])
    """
    nothing = torch.zeros_like(values[..., :1])
    before = torch.cat([nothing, values[..., :-1]], -1).cumsum(-1)
    after = torch.cat([values[..., 1:], nothing], -1).flip(-1).cumsum(-1).flip(-1)
    return before + after
