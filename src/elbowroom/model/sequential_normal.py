r"""Distributions of a latent vector that consists of groups.

- :class:`SequentialNormal`: normals one after the other, each given the draws of those before. The guide of a
  hierarchy.
- :class:`BlockDistribution`: independent blocks, each with a distribution of its own. The prior of a hierarchy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, Independent, Normal, constraints
from torch.distributions.constraints import Constraint

from elbowroom.errors import ElbowroomError
from elbowroom.model import noise
from elbowroom.model.noise import NoiseSource
from elbowroom.numerics import in_place_version, is_unchanged

__all__ = [
    "BlockDistribution",
    "Choose",
    "Coordinates",
    "ResidualNormal",
    "Rows",
    "SequentialNormal",
    "Walk",
    "blocks_of",
]

Choose = Callable[[Tensor, Tensor], Tensor]
"""(μ, σ) of the next group to its value."""


Resume = Callable[[Tensor], AbstractContextManager[None]]
"""A state of the decoder to a context in which the decoder goes on from there."""


Rows = Tensor | slice
"""Positions of examples."""


class Walk(Protocol):
    """Passes through the groups, first to last: asks ``choose`` for the value of each, given its mean and deviation.

    What it returns is the state of the decoder after the last group, where the two share their work; else None.
    """

    def __call__(self, choose: Choose, /) -> Tensor | None: ...


class _Passed(NamedTuple):
    """A value of z, with what a walk met on its way."""

    z: Tensor  #: (*, latent)
    normals: list[Independent[Normal]]  #: of each group, given those before
    state: Tensor | None
    with_gradient: bool
    version: int

    def serves(self, z: Tensor) -> bool:
        """Whether a walk to z would meet the same: it is this very tensor, and no gradient is wanted that is missing.

        What was drawn without a gradient may be asked for its density with one.
        """
        return self.z is z and _is_current(self)


class SequentialNormal(Distribution):
    r"""Groups of normals with diagonal covariances, each given the draws of the groups before.

    .. math:: \log q(z) = \sum_l \log N\big(z_l \,|\, \mu_l(z_{<l}), \operatorname{diag} \sigma_l^2(z_{<l})\big)

    A draw and its density need one walk through the groups: what was met in drawing is kept for the very tensor that
    was drawn.

    Args:
        walk: gives μ and σ of the groups one by one.
        sizes: latents of each group.
        like: a tensor of the batch, (batch, \*), whose dtype and device draws are to have.
        rows: the positions of some examples to their distributions.
        frozen: the same walk with weights that take no gradient, for :meth:`detached`.
        decoder: where a state of the decoder that a walk has returned can be given to it.
    Example:
        >>> def walk(choose):
        ...     first = choose(torch.zeros(5, 2), torch.ones(5, 2))
        ...     choose(first, torch.ones(5, 2))
        >>> q = SequentialNormal(walk, (2, 2), torch.zeros(5, 1))
        >>> q.log_prob(torch.zeros(5, 4))[0]
        tensor(-3.6758)
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        walk: Walk,
        sizes: Sequence[int],
        like: Tensor,
        *,
        rows: Callable[[Rows], SequentialNormal] | None = None,
        frozen: Walk | None = None,
        decoder: Resume | None = None,
    ) -> None:
        self.sizes = tuple(sizes)
        self._walk, self._like, self._rows, self._frozen, self._decoder = walk, like, rows, frozen, decoder
        self._last: _Passed | None = None
        super().__init__(Size([len(like)]), Size([sum(sizes)]), validate_args=False)

    def rsample(self, sample_shape: Sequence[int] = (), generator: NoiseSource | None = None) -> Tensor:
        """Draws z = μ + σ ε, group after group, shape (\\*sample_shape, batch, latent)."""
        lead = (*sample_shape, *self.batch_shape)

        def choose(loc: Tensor, scale: Tensor) -> Tensor:
            return loc + scale * noise.normal((*lead, loc.shape[-1]), self._like, generator)

        self._last = self._passed(choose)
        return self._last.z

    def sample(self, sample_shape: Sequence[int] = (), generator: NoiseSource | None = None) -> Tensor:
        """Draws without a gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape, generator)

    def groups(self, z: Tensor) -> list[Independent[Normal]]:
        """q(z_l | z_<l) of every group at z: normals of batch shape (\\*, batch), event shape (size of the group,)."""
        return self._at(z).normals

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z), nats, shape (\\*, batch)."""
        parts = value.split_with_sizes(self.sizes, -1)
        return _sum_of_log_probs(self.groups(value), parts)

    def detached(self) -> SequentialNormal:
        """The same distribution, whose weights take no gradient; a gradient by z still passes.

        Raises:
            ElbowroomError: no walk with frozen weights was given.
        """
        if self._frozen is None:
            raise ElbowroomError(
                "A sequence of normals was to be taken without the gradient of its weights, but no such walk was "
                "given.",
                "Use the estimator 'pathwise'.",
            )
        rows = None if self._rows is None else lambda index: self.rows(index).detached()
        return SequentialNormal(self._frozen, self.sizes, self._like, rows=rows, frozen=self._frozen)

    def rows(self, index: Rows) -> SequentialNormal:
        """The distributions of some of the examples.

        Raises:
            ElbowroomError: it was not said how they are made.
        """
        if self._rows is None:
            raise ElbowroomError(
                "The distributions of some examples were asked for, but this sequence of normals has one walk for all.",
                "Call the guide with these examples.",
            )
        return self._rows(index)

    def shared(self, z: Tensor) -> AbstractContextManager[None]:
        """A context in which the decoder goes on from where the draw of this very z has ended.

        A guide that goes from the top down computes what the decoder computes, too. For other values of z nothing is
        shared, and the decoder starts from z.
        """
        last = self._last
        if last is None or not last.serves(z) or last.state is None or self._decoder is None:
            return nullcontext()
        return self._decoder(last.state)

    @property
    def mean(self) -> Tensor:
        """μ of every group where the groups before are at theirs, shape (batch, latent).

        It is the mean of the first group; of the others it is near the mean, which has no closed form.
        """
        return self._along_means().z

    @property
    def stddev(self) -> Tensor:
        """σ of every group where the groups before are at their μ, shape (batch, latent)."""
        return torch.cat([normal.stddev for normal in self._along_means().normals], -1)

    @property
    def variance(self) -> Tensor:
        """σ² of every group where the groups before are at their μ, shape (batch, latent)."""
        return self.stddev.square()

    def _along_means(self) -> _Passed:
        return self._passed(lambda loc, scale: loc)

    def _at(self, z: Tensor) -> _Passed:
        """What a walk meets at this z; known where z is what was drawn last."""
        if self._last is not None and self._last.serves(z):
            return self._last
        parts = iter(z.split_with_sizes(self.sizes, -1))
        return self._passed(lambda loc, scale: next(parts))._replace(z=z)

    def _passed(self, choose: Choose) -> _Passed:
        values: list[Tensor] = []
        normals: list[Independent[Normal]] = []

        def keep(loc: Tensor, scale: Tensor) -> Tensor:
            values.append(choose(loc, scale))
            normals.append(Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False))
            return values[-1]

        state = self._walk(keep)
        z = torch.cat(values, -1)
        return _Passed(z, normals, state, torch.is_grad_enabled(), in_place_version(z))


class Coordinates(NamedTuple):
    """The maps between the values of all groups, the one next to x first, and residuals, the top group first."""

    residuals: Callable[[Tensor], tuple[Tensor, Tensor]]  #: z to u and the sum of log s, (*,)
    values: Callable[[Tensor], Tensor]  #: u to z


class _Residuals(NamedTuple):
    """A draw of z as residuals."""

    u: Tensor
    z: Tensor
    log_scale: Tensor  #: the sum of log s
    with_gradient: bool
    version: int

    def serves(self, u: Tensor) -> bool:
        """As :meth:`_Passed.serves`."""
        return self.u is u and _is_current(self)


class ResidualNormal(Distribution):
    r"""A sequence of normals over the values of groups, as a distribution of their residuals.

    .. math:: u_l = \frac{z_l - m_l(z_{<l})}{s_l(z_{<l})}, \qquad
        \log q(u) = \log q(z) + \sum_{l > 1} \sum_j \log s_{lj}(z_{<l})

    Args:
        base: q(z), the group next to x first, the top group last.
        maps: between z and u.
        rows: the positions of some examples to their distributions.
        frozen: the maps with weights that take no gradient, for :meth:`detached`.
        decoder: as for :class:`SequentialNormal`; it goes on from the value of the group next to x.
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        base: SequentialNormal,
        maps: Coordinates,
        *,
        rows: Callable[[Rows], ResidualNormal],
        frozen: Coordinates,
        decoder: Resume,
    ) -> None:
        self.base, self._maps, self._rows, self._frozen, self._decoder = base, maps, rows, frozen, decoder
        self._last: _Residuals | None = None
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def rsample(self, sample_shape: Sequence[int] = (), generator: NoiseSource | None = None) -> Tensor:
        """Draws of z, as residuals, shape (\\*sample_shape, batch, latent)."""
        z = self.base.rsample(sample_shape, generator)
        u, log_scale = self._maps.residuals(z)
        self._last = _Residuals(u, z, log_scale, torch.is_grad_enabled(), in_place_version(u))
        return u

    def sample(self, sample_shape: Sequence[int] = (), generator: NoiseSource | None = None) -> Tensor:
        """Draws without a gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape, generator)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(u), nats, shape (\\*, batch)."""
        if self._last is not None and self._last.serves(value):
            return self.base.log_prob(self._last.z) + self._last.log_scale
        z = self._maps.values(value)
        return self.base.log_prob(z) + self._maps.residuals(z)[1]

    def detached(self) -> ResidualNormal:
        """The same distribution, whose weights take no gradient; a gradient by u still passes."""
        return ResidualNormal(
            self.base.detached(),
            self._frozen,
            rows=lambda index: self.rows(index).detached(),
            frozen=self._frozen,
            decoder=self._decoder,
        )

    def rows(self, index: Rows) -> ResidualNormal:
        """The distributions of some of the examples."""
        return self._rows(index)

    def shared(self, u: Tensor) -> AbstractContextManager[None]:
        """As :meth:`SequentialNormal.shared`."""
        last = self._last
        if last is None or not last.serves(u):
            return nullcontext()
        return self._decoder(last.z[..., : self.base.sizes[0]].flatten(0, -2))

    @property
    def mean(self) -> Tensor:
        """The residuals of z at its means along the groups, shape (batch, latent); near the mean of u."""
        return self._maps.residuals(self.base.mean)[0]

    @property
    def stddev(self) -> Tensor:
        """How far the u of each group moves where its z moves by σ and the others stay at μ, shape (batch, latent)."""
        z, sigma = self.base.mean, self.base.stddev
        before = self._maps.residuals(z)[0]
        moved, end = torch.empty_like(before), z.shape[-1]
        for size in reversed(self.base.sizes):  # the group that is drawn last is the top one
            own, below = slice(end - size, end), z.shape[-1] - end
            shifted = z.clone()
            shifted[..., own] += sigma[..., own]
            moved[..., below : below + size] = self._maps.residuals(shifted)[0][..., below : below + size]
            end -= size
        return (moved - before).abs()

    @property
    def variance(self) -> Tensor:
        """The square of :attr:`stddev`."""
        return self.stddev.square()


class BlockDistribution(Distribution):
    r"""Independent blocks of a vector, each with a distribution of its own.

    .. math:: p(z) = \prod_l p_l(z_l)

    Args:
        blocks: p_l, of event shape (size of the block,) and one batch shape.
    Example:
        >>> normal = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
        >>> BlockDistribution([normal, normal]).log_prob(torch.zeros(4))
        tensor(-3.6758)
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    support = constraints.real_vector

    def __init__(self, blocks: Sequence[Distribution]) -> None:
        shape = torch.broadcast_shapes(*(block.batch_shape for block in blocks))  # type: ignore[no-untyped-call]
        self.blocks = [block if block.batch_shape == shape else block.expand(shape) for block in blocks]
        self.sizes = tuple(block.event_shape[0] for block in blocks)
        super().__init__(shape, Size([sum(self.sizes)]), validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws of all blocks are reparameterised."""
        return all(block.has_rsample for block in self.blocks)

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> BlockDistribution:
        """The same distribution of a larger batch shape."""
        return BlockDistribution([block.expand(tuple(batch_shape)) for block in self.blocks])

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z), nats, shape (\\*,)."""
        parts = value.split_with_sizes(self.sizes, -1)
        return _sum_of_log_probs(self.blocks, parts)

    @property
    def mean(self) -> Tensor:
        """The blocks' means, one after the other."""
        return torch.cat([block.mean for block in self.blocks], -1)

    @property
    def variance(self) -> Tensor:
        """The blocks' variances, one after the other."""
        return torch.cat([block.variance for block in self.blocks], -1)


def blocks_of(distribution: Distribution, sizes: Sequence[int]) -> list[Distribution] | None:
    """A distribution as independent blocks of these sizes; None where it is none.

    Example:
        >>> normal = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
        >>> [block.event_shape[0] for block in blocks_of(normal, (1, 2))]
        [1, 2]
    """
    if isinstance(distribution, BlockDistribution):
        if distribution.sizes == tuple(sizes):
            return distribution.blocks
        if len(distribution.sizes) == 2 and distribution.sizes[0] == sizes[0]:
            below = blocks_of(distribution.blocks[1], sizes[1:])
            return None if below is None else [distribution.blocks[0], *below]
        return None
    if not (isinstance(distribution, Independent) and isinstance(distribution.base_dist, Normal)):
        return None
    base = distribution.base_dist
    pairs = zip(base.loc.split_with_sizes(tuple(sizes), -1), base.scale.split_with_sizes(tuple(sizes), -1), strict=True)
    return [Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False) for loc, scale in pairs]


def _is_current(drawn: _Passed | _Residuals) -> bool:
    """Whether a draw is still what it was, and has a gradient where one is wanted."""
    return is_unchanged(drawn[0], drawn.version, with_gradient=drawn.with_gradient)


def _sum_of_log_probs(distributions: Sequence[Distribution], parts: Sequence[Tensor]) -> Tensor:
    first, *others = (p.log_prob(part) for p, part in zip(distributions, parts, strict=True))
    total: Tensor = first
    for other in others:
        total = total + other
    return total
