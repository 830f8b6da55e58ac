r"""The logit-Laplace distribution of grey values: a Laplace variable through a sigmoid, on an interval around [0, 1].

.. math:: y = \sigma(\mu + b \, \varepsilon), \quad \varepsilon \sim \mathrm{Laplace}(0, 1), \qquad
    x = \frac{y - \epsilon}{1 - 2 \epsilon}, \quad \epsilon = 0.1

A grey value x in [0, 1] is :math:`y = \varphi(x) = (1 - 2 \epsilon) x + \epsilon` in [ε, 1 − ε], where the logit is
finite. The density of x is that of y times 1 − 2ε.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint

from elbowroom.model import noise
from elbowroom.model.noise import NoiseSource

__all__ = ["LogitLaplace"]

_EPSILON = 0.1
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
_REACH = 40.0  # in units of b, and of logits beyond the sigmoid's slope: what lies further out is below e^−40


class LogitLaplace(Distribution):
    r"""Density on (−1/8, 9/8), the values that :math:`\varphi` maps to (0, 1).

    .. math:: \log p(x) = \log (1 - 2 \epsilon) - \log 2 b - \log y (1 - y) - \frac{|\mathrm{logit}\, y - \mu|}{b},
        \qquad y = (1 - 2 \epsilon) x + \epsilon

    The median is at :math:`\varphi^{-1}(\sigma(\mu))`. The mean has no closed form; integrated by parts,

    .. math:: \mathbb{E}[g(y)] = g(\sigma(\mu)) + \tfrac12 \int_0^\infty \big(h(\mu + s) - h(\mu - s)\big)
        e^{-s / b} ds, \qquad h(r) = \tfrac{d}{dr} g(\sigma(r)),

    which a Gauss-Legendre rule of 64 points computes.

    Args:
        loc: μ, in logits; the shapes broadcast.
        scale: b > 0, in logits.
    Reference:
        Ramesh et al. (2021), Zero-Shot Text-to-Image Generation, appendix A.3, arXiv:2102.12092.
    Example:
        >>> LogitLaplace(torch.zeros(()), torch.ones(())).mean
        tensor(0.5000)
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {"loc": constraints.real, "scale": constraints.positive}
    #: the values of x that can be drawn; grey values are [0, 1]
    bounds: ClassVar[tuple[float, float]] = (-_EPSILON / (1 - 2 * _EPSILON), 1 + _EPSILON / (1 - 2 * _EPSILON))
    support = constraints.interval(*bounds)  # type: ignore[no-untyped-call]

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        shape = torch.broadcast_shapes(loc.shape, scale.shape)  # type: ignore[no-untyped-call]
        self.loc, self.scale = loc.expand(shape), scale.expand(shape)
        super().__init__(shape, validate_args=False)

    @classmethod
    def with_mean(cls, mean: Tensor, scale: Tensor) -> LogitLaplace:
        """The distribution of this scale and with this mean, which lies between 0 and 1.

        Example:
            >>> LogitLaplace.with_mean(torch.tensor(0.1), torch.tensor(2.0)).mean
            tensor(0.1000)
        """
        wide, b = mean.double(), scale.double()
        low, high = torch.full_like(wide + b, -60.0), torch.full_like(wide + b, 60.0)
        for _ in range(60):  # the mean increases with μ
            middle = (low + high) / 2
            below = cls(middle, b).mean < wide
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return cls(middle.to(mean.dtype), scale)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x), nats; −∞ outside the bounds. The shapes of ``value`` and the parameters broadcast."""
        low, high = self.bounds
        inside = (value > low) & (value < high)
        y = self._mapped(torch.where(inside, value, 0.5))
        constant = math.log((1 - 2 * _EPSILON) / 2) - self.scale.log() - y.log() - torch.log1p(-y)
        return torch.where(inside, constant - (y.logit() - self.loc).abs() / self.scale, -torch.inf)

    @property
    def mean(self) -> Tensor:
        """E[x]."""
        return (self._expectation(lambda y: y, lambda y: y * (1 - y)) - _EPSILON) / (1 - 2 * _EPSILON)

    @property
    def variance(self) -> Tensor:
        """Var(x)."""
        first = self._expectation(lambda y: y, lambda y: y * (1 - y))
        second = self._expectation(lambda y: y.square(), lambda y: 2 * y.square() * (1 - y))
        return (second - first.square()).clamp(min=0) / (1 - 2 * _EPSILON) ** 2

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = (), generator: NoiseSource | None = None) -> Tensor:
        """Draws of a Laplace variable, mapped to x."""
        # the difference of two exponential numbers; u < 1, so that both are finite
        u = noise.uniform((2, *sample_shape, *self.batch_shape), self.loc, generator)
        first, second = torch.log1p(-u).unbind()
        y = (self.loc + self.scale * (second - first)).sigmoid()
        edge = 4 * torch.finfo(y.dtype).eps  # where y would round to an end, at which there is no density
        return (y.clamp(edge, 1 - edge) - _EPSILON) / (1 - 2 * _EPSILON)

    @staticmethod
    def _mapped(x: Tensor) -> Tensor:
        """y = φ(x)."""
        return (1 - 2 * _EPSILON) * x + _EPSILON

    def _expectation(self, g: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]) -> Tensor:
        """E[g(y)], where ``slope`` is the derivative of g(σ(r)) in r, as a function of y = σ(r)."""
        end = torch.minimum(_REACH * self.scale, self.loc.abs() + _REACH)
        total = torch.zeros_like(self.loc)
        for node, weight in zip(_NODES.tolist(), _WEIGHTS.tolist(), strict=True):  # one at a time: the memory is flat
            s = end * ((node + 1) / 2)
            rise = slope((self.loc + s).sigmoid()) - slope((self.loc - s).sigmoid())
            total = total + (weight / 2) * rise * torch.exp(-s / self.scale)
        return g(self.loc.sigmoid()) + 0.5 * end * total
