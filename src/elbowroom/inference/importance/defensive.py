r"""Proposals that are safer than the guide: wider, and with some draws of the prior.

.. math:: q'(z | x) = (1 - \epsilon) \, q_\tau(z | x) + \epsilon \, p(z)

where :math:`q_\tau` has the guide's mean and τ times its deviations. Weights p(x, z) / q(z | x) have no bound where the
guide's tails are lighter than the posterior's, as those of a normal trained on a lower bound often are. With the
prior's share ε no weight exceeds p(x | z) / ε. Draws and density are those of the same q', so that the average weight
has the mean p(x) for every τ > 0 and ε < 1.

Reference:
    Hesterberg (1995), Weighted average importance sampling and defensive mixture distributions, Technometrics 37.
    Owen & Zhou (2000), Safe and effective importance sampling, JASA 95.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import singledispatch
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal
from torch.distributions.constraints import Constraint

from elbowroom.errors import ElbowroomError
from elbowroom.model import noise
from elbowroom.model.draws import draw
from elbowroom.model.noise import NoiseSource

__all__ = ["DefensiveProposal", "defensive"]


class DefensiveProposal(Distribution):
    """A mixture of a proposal for each example and the prior.

    Args:
        q: batch shape (batch,), event shape (latent,).
        prior: of the same event shape, batch shape (batch,) or ().
        share: ε, that of the prior.
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    def __init__(self, q: Distribution, prior: Distribution, share: float) -> None:
        self.q, self.share = q, share
        self.prior = prior if prior.batch_shape else prior.expand(q.batch_shape)
        super().__init__(q.batch_shape, q.event_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q'(z | x), nats."""
        of_q: Tensor = math.log1p(-self.share) + self.q.log_prob(value)
        return torch.logaddexp(of_q, math.log(self.share) + self.prior.log_prob(value))

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = (), generator: NoiseSource | None = None) -> Tensor:
        """Draws, shape (\\*samples, batch, latent)."""
        z = draw(self.q, sample_shape, generator=generator)
        of_prior = draw(self.prior, sample_shape, generator=generator)
        u = noise.uniform((*sample_shape, *self.batch_shape, 1), z, generator)
        return torch.where(u < self.share, of_prior, z)


@draw.register
def _(
    distribution: DefensiveProposal, sample_shape: Sequence[int] = (), *, generator: NoiseSource | None = None
) -> Tensor:
    return distribution.sample(sample_shape, generator)


def defensive(q: Distribution, prior: Distribution, *, width: float = 1.0, prior_share: float = 0.0) -> Distribution:
    """A proposal that is wider than q, and draws from the prior now and then.

    Args:
        q: the guide's, batch shape (batch,), event shape (latent,).
        prior: p(z), batch shape (batch,) or ().
        width: τ, how many times as large the deviations are.
        prior_share: ε, in [0, 1).
    Raises:
        ElbowroomError: numbers out of their range; a width for a q that is not normal.
    Example:
        >>> q = Independent(Normal(torch.full((3, 2), 1.5), torch.ones(3, 2)), 1)
        >>> prior = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
        >>> found = defensive(q, prior, width=1.2, prior_share=0.1)
        >>> found.log_prob(torch.zeros(3, 2)).exp()
        tensor([0.0368, 0.0368, 0.0368])
    """
    if not (0 < width < math.inf and 0 <= prior_share < 1):
        raise ElbowroomError(
            f"A proposal of width {width:g} with a share of {prior_share:g} from the prior was asked for, but a width "
            "is positive and a share at least 0 and below 1.",
            "Give for instance a width of 1.2 and a share of 0.1.",
        )
    wide = q if width == 1 else _widened(q, width)
    return DefensiveProposal(wide, prior, prior_share) if prior_share else wide


@singledispatch
def _widened(q: Distribution, width: float) -> Distribution:
    raise ElbowroomError(
        f"A proposal {width:g} times as wide as the guide was asked for, but the guide returns a {type(q).__name__}, "
        "which is not normal.",
        "Leave the width out; the share of the prior serves every guide.",
    )


@_widened.register(Independent)
def _(q: Distribution, width: float) -> Distribution:
    assert isinstance(q, Independent)
    if not isinstance(q.base_dist, Normal):
        return _widened(q.base_dist, width)  # which refuses it
    base = Normal(q.base_dist.loc, width * q.base_dist.scale, validate_args=False)
    return Independent(base, q.reinterpreted_batch_ndims, validate_args=False)


@_widened.register
def _(q: MultivariateNormal, width: float) -> Distribution:
    return MultivariateNormal(q.loc, scale_tril=width * q.scale_tril, validate_args=False)
