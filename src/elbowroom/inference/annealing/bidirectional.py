r"""Bidirectional Monte Carlo (BDMC): lower and upper bounds on log p(x), on data simulated from the model.

An annealed estimate is a lower bound in expectation, and its weights do not show how loose it is: chains that all miss
the same part of the posterior agree with each other. But for *simulated* data, z ~ p(z) and then x ~ p(x | z), one
exact draw of the posterior p(z | x) is known. A chain that goes from it back to the start gives an upper bound. With
that chain in the place of one of the forward ones,

.. math:: \hat{p}(x) = \frac1C \sum_{c=1}^C w_c, \qquad
    \hat{p}_+(x) = \frac1C \Big(\overleftarrow{w}_1 + \sum_{c=2}^C w_c \Big), \qquad
    \mathbb{E} \log \hat{p}(x) \le \log p(x) \le \mathbb{E} \log \hat{p}_+(x)

The second inequality holds because the paths behind the second average, one of them reverse and at a random place,
have the density of C forward paths times :math:`\hat{p} / p(x)`. So :math:`\mathbb{E}[p(x) / \hat{p}_+(x)] = 1`, too,
and by Markov's inequality either bound is on the wrong side by b nats with a probability of at most e^{-b}. With C = 1
these are the bounds of Grosse et al. (2015); with more chains the upper one tightens as the lower one does, and costs
one chain.

The mean gap, :math:`\mathbb{E}[\log \hat{p}_+(x) - \log \hat{p}(x)]`, is the sum of both errors on simulated data. Real
data have no upper bound. For them, the lower bound is reported with the gap beside it; the gap says how loose that
bound is, as far as simulated data resemble the real ones.

Reference:
    Grosse, Ghahramani & Adams (2015), Sandwiching the marginal likelihood using bidirectional Monte Carlo,
    arXiv:1511.02543.
    Brekelmans et al. (2022), Improving mutual information estimation with annealed and energy-based bounds, ICLR,
    arXiv:2303.06992, on the average with one reverse chain.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.annealing.ais import AIS, ais
from elbowroom.model.latent import LatentModel

__all__ = ["Sandwich", "Simulated", "bidirectional", "simulate"]


class Simulated(NamedTuple):
    """Data simulated from a model, with an exact draw from each posterior.

    Attributes:
        batch: x ~ p(x | z), with the context and the mask of the real data.
        z: that they were drawn from, shape (batch, latent).
    """

    batch: Batch
    z: Tensor


class Sandwich(NamedTuple):
    """Both bounds on log p(x) of simulated data; nats, float64, shape (data,).

    Attributes:
        lower: log p̂(x), in expectation a lower bound.
        upper: log p̂₊(x), in expectation an upper bound.
        gap: upper − lower, whose mean bounds that of either's error.
        forward: the forward chains.
    """

    lower: Tensor
    upper: Tensor
    gap: Tensor
    forward: AIS


@torch.no_grad()
def simulate(model: LatentModel, like: int | Batch, *, generator: Generator | None = None) -> Simulated:
    """Simulate data from the model, together with their z.

    Args:
        model: p(x, z), in evaluation mode.
        like: how many; or real data, whose contexts and masks the simulated data are given.
        generator: the source of randomness.
    Raises:
        ElbowroomError: fewer than one.
    """
    num_data, context, mask = (like, None, None) if isinstance(like, int) else (len(like), like.context, like.mask)
    if num_data < 1:
        raise ElbowroomError(
            f"{num_data} examples were to be simulated.",
            "Simulate 1 or more; with 1,000 the gap is precise enough to be useful.",
        )
    drawn = model.sample(num_data, context=context, generator=generator)
    return Simulated(Batch(drawn.x, context=context, mask=mask), drawn.z)


@torch.no_grad()
def bidirectional(
    model: LatentModel, data: Simulated, *, generator: Generator | None = None, **settings: Any
) -> Sandwich:
    r"""Bound log p(x) of simulated data from both sides.

    Args:
        model: p(x, z), the very one that simulated them.
        data: from :func:`simulate`.
        generator: the source of randomness; not in the same state as for the simulation.
        **settings: of :func:`~elbowroom.inference.annealing.ais.ais`, as for the real data that the gap is to stand
        beside.
    Raises:
        ElbowroomError: as for :func:`~elbowroom.inference.annealing.ais.ais`.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, guide, _ = oracles.ppca(dim=8, latent_dim=2, seed=0)
        >>> generator = torch.Generator().manual_seed(0)
        >>> found = bidirectional(model, simulate(model, 64, generator=generator), guide=guide, generator=generator)
        >>> bool(found.gap.mean() < 0.1)
        True
    """
    found = ais(model, data.batch, exact=data.z, generator=generator, **settings)
    assert found.log_evidence_above is not None  # there are exact draws
    upper = found.log_evidence_above
    return Sandwich(found.log_evidence, upper, upper - found.log_evidence, found)
