r"""Distributions of normalising flows: a standard normal vector, sent through an invertible map.

.. math:: z = m + s \odot g(u), \quad u \sim N(0, I), \qquad
    \log p(z) = \log N(u \,|\, 0, I) - \log \Big| \det \frac{\partial g}{\partial u} \Big| - \sum_j \log s_j

The maps of this package are autoregressive, :math:`y_i = \tau(x_i; h_i(x_{<i}))`, with a triangular Jacobian, so that
the determinant is a product. All of y takes one pass of a network from x, but x from y takes as many passes as it has
dimensions, one after the other. So a flow is quick in one direction: either its density is, or its draws are. A flow
with quick draws has the density of its own draws as well, since it knows their u; the density anywhere else takes the
passes.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint

from elbowroom.model import noise
from elbowroom.model.noise import NoiseSource
from elbowroom.numerics import chunks, in_place_version, is_unchanged

__all__ = ["Bijection", "Direction", "FlowDistribution"]

Direction = Literal["normalizing", "generative"]
"""Which way a flow takes in one pass: from z to the noise u (quick densities), or from u to z (quick draws)."""

_PAIRS = 128  # of points ±u for the moments, or twice the dimensions
_ROWS = 2**14  # vectors that the moments send through a map together


class Bijection(nn.Module, ABC):
    """An invertible map of vectors, x to y, that may depend on a context.

    Attributes:
        widest: elements of the largest tensor inside, for one vector.
    """

    widest: int

    @abstractmethod
    def forward(self, given: Tensor, context: Tensor | None = None, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
        r"""The image of a vector, and the logarithm of the determinant of the Jacobian, :math:`\log |\det J|`.

        Args:
            given: x, shape (\*, D); with ``inverse`` y.
            context: shape (\*, H), of a shape that broadcasts.
            inverse: the way back, from y to x; the determinant is that of the inverse map.
        Returns:
            Shape (\*, D) and shape (\*).
        """


class FlowDistribution(Distribution):
    r"""The distribution of z = m + s ⊙ g(u) with u ~ N(0, I).

    The density of the draws made last is remembered for that very tensor. For any other z the noise u is found first,
    which for a flow in the generative direction takes D passes of its network (two for a coupling flow); z in float32
    is then known to about 1e-5 of its scale.

    Mean and variance of a flow have no closed form. Those given here are averages over 256 points u (more above 64
    dimensions), the same for all flows: quasi-random normal points and their reflections, with covariance I. They are
    exact where g is affine; otherwise their error is that of an average over a few hundred draws, or less. They have no
    gradient.

    Args:
        bijection: g in the generative direction, g⁻¹ in the normalizing one.
        direction: which way the bijection goes.
        loc: m, shape (\*batch, D).
        log_scale: log s, shape (\*batch, D).
        context: of the bijection, shape (\*batch, H).
        frozen: whether the bijection's weights count as constants; see :func:`~elbowroom.model.draws.detach`.
    Reference:
        Rezende & Mohamed (2015), Variational Inference with Normalizing Flows, eq. 5, arXiv:1505.05770. Papamakarios et
        al. (2021), Normalizing Flows for Probabilistic Modeling and Inference, section 3.1, arXiv:1912.02762.
    Example:
        >>> class Identity(Bijection):
        ...     def forward(self, given, context=None, *, inverse=False):
        ...         return given, given.new_zeros(given.shape[:-1])
        >>> FlowDistribution(Identity(), "generative", torch.zeros(2), torch.zeros(2)).log_prob(torch.zeros(2))
        tensor(-1.8379)
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        bijection: Bijection,
        direction: Direction,
        loc: Tensor,
        log_scale: Tensor,
        context: Tensor | None = None,
        *,
        frozen: bool = False,
    ) -> None:
        self.bijection, self.direction, self.frozen = bijection, direction, frozen
        self.loc, self.log_scale, self.context = loc, log_scale, context
        self._last: tuple[Tensor, Tensor, bool, int] | None = None
        shape = loc.shape[:-1]
        if context is not None:
            shape = torch.broadcast_shapes(shape, context.shape[:-1])  # type: ignore[no-untyped-call]
        super().__init__(shape, loc.shape[-1:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z) in nats: (\\*, D) gives (\\*), where the axes before D broadcast with the batch."""
        if self._last is not None and self._last[0] is value and self._holds(value):
            return self._last[1]
        y = (value - self.loc) * torch.exp(-self.log_scale)
        u, log_det = self._map(y, inverse=self.direction == "generative")
        return _log_standard_normal(u) + log_det - self.log_scale.sum(-1)

    def rsample(self, sample_shape: Sequence[int] = (), generator: NoiseSource | None = None) -> Tensor:
        """Draws that are differentiable in all parameters, shape (\\*sample_shape, \\*batch, D).

        In the normalizing direction they take D passes of the network, or two for a coupling flow.
        """
        u = noise.normal((*sample_shape, *self.batch_shape, *self.event_shape), self.loc, generator)
        y, log_det = self._map(u, inverse=self.direction == "normalizing")
        z = self.loc + torch.exp(self.log_scale) * y
        log_density = _log_standard_normal(u) - log_det - self.log_scale.sum(-1)
        self._last = z, log_density, torch.is_grad_enabled(), in_place_version(z)
        return z

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = (), generator: NoiseSource | None = None) -> Tensor:
        """As :meth:`rsample`, without a gradient."""
        return self.rsample(sample_shape, generator)

    @property
    def mean(self) -> Tensor:
        r""":math:`m + s \odot \frac1n \sum_i g(u_i)` over the fixed points u."""
        return self.loc + torch.exp(self.log_scale) * self._moments[0]

    @property
    def variance(self) -> Tensor:
        """Over the same points."""
        return torch.exp(2 * self.log_scale) * self._moments[1]

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> FlowDistribution:
        """The same distribution of a larger batch shape."""
        return self.with_parameters(lambda part: part.expand(*batch_shape, part.shape[-1]))

    def rows(self, index: Tensor | slice) -> FlowDistribution:
        """The distributions of some of the examples, of a batch shape (batch,)."""
        full = self.expand(self.batch_shape)
        return full.with_parameters(lambda part: part[index])

    def with_parameters(self, change: Callable[[Tensor], Tensor], *, frozen: bool | None = None) -> FlowDistribution:
        """A flow of the same bijection, with m, log s and context each changed by a function of a tensor."""
        return FlowDistribution(
            self.bijection,
            self.direction,
            change(self.loc),
            change(self.log_scale),
            None if self.context is None else change(self.context),
            frozen=self.frozen if frozen is None else frozen,
        )

    def detached(self) -> FlowDistribution:
        """The same distribution, with all parameters off the graph."""
        return self.with_parameters(Tensor.detach, frozen=True)

    def _map(self, given: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
        if not self.frozen:
            out: tuple[Tensor, Tensor] = self.bijection(given, self.context, inverse=inverse)
            return out
        weights = {name: weight.detach() for name, weight in self.bijection.named_parameters()}
        options = {"inverse": inverse}
        fixed: tuple[Tensor, Tensor] = torch.func.functional_call(
            self.bijection, weights, (given, self.context), options
        )
        return fixed

    def _holds(self, value: Tensor) -> bool:
        """Whether the density of the last draws is still theirs, and has a gradient where one is wanted."""
        assert self._last is not None  # looked at before
        _, _, has_gradient, version = self._last
        return is_unchanged(value, version, with_gradient=has_gradient)

    @functools.cached_property
    @torch.no_grad()
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of y = g(u), each of shape (*batch, D)."""
        (dim,) = self.event_shape
        points = _points(dim).to(self.loc)
        total = squares = self.loc.new_zeros((*self.batch_shape, dim), dtype=torch.float64)
        for some in chunks(len(points), max(1, _ROWS // max(1, math.prod(self.batch_shape)))):
            u = points[some].reshape(-1, *[1] * len(self.batch_shape), dim).expand(-1, *self.batch_shape, dim)
            y = self._map(u, inverse=self.direction == "normalizing")[0].double()
            total, squares = total + y.sum(0), squares + y.square().sum(0)
        mean = total / len(points)
        variance = (squares / len(points) - mean.square()).clamp(min=0)
        return mean.to(self.loc), variance.to(self.loc)


def _log_standard_normal(u: Tensor) -> Tensor:
    return -0.5 * (u.square().sum(-1) + u.shape[-1] * math.log(2 * math.pi))


@functools.lru_cache(maxsize=8)
def _points(dim: int) -> Tensor:
    """Quasi-random normal points and their reflections, with mean 0 and covariance I, float64, shape (n, D)."""
    pairs = max(_PAIRS, 2 * dim)
    engine = torch.quasirandom.SobolEngine(dim, scramble=True, seed=0)  # type: ignore[no-untyped-call]
    uniform = engine.draw(pairs, dtype=torch.float64)
    normal = torch.special.ndtri(uniform.clamp(1e-9, 1 - 1e-9))
    factor = torch.linalg.cholesky(normal.T @ normal / pairs)
    white = torch.linalg.solve_triangular(factor, normal.T, upper=False).T
    return torch.cat([white, -white])
