"""Small models of any of the package's parts, in float64, with data drawn from the models themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from elbowroom.data.batch import Batch
from elbowroom.data.support import Support
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import DiagonalNormal, FullNormal, InputTransform
from elbowroom.model.latent import LatentModel, Pair
from elbowroom.model.likelihoods import LIKELIHOODS, Likelihood
from elbowroom.model.networks import MLP
from elbowroom.model.priors import MixtureOfGaussians, StandardNormal, VampPrior
from likelihood_options import NEEDED

EVENT, LATENT, ROWS = (3, 2), 2, 6


def _likelihood(kind: type[Likelihood], context_dim: int = 0) -> Likelihood:
    more = {"num_categories": 3} if kind.support == Support.CATEGORIES else NEEDED.get(kind.name, {})
    shape = kind.parameter_shape(EVENT, **more)
    return kind(MLP((LATENT,), shape, hidden=(4,), context_dim=context_dim), EVENT, **more)


def _guide(kind: type[DiagonalNormal | FullNormal], support: Support, context_dim: int = 0) -> Conditional:
    transform = InputTransform(support, EVENT, num_categories=3 if support == Support.CATEGORIES else None)
    network = MLP(transform.out_shape, kind.parameter_shape(LATENT), hidden=(4,), context_dim=context_dim)
    return kind(network, LATENT, transform)


def _pair(
    likelihood: str = "bernoulli",
    guide: str = "diagonal",
    prior: str = "normal",
    *,
    context_dim: int = 0,
    seed: int = 0,
) -> tuple[Pair, Batch]:
    """Any of the package's parts, in float64, with data drawn from the model itself."""
    torch.manual_seed(seed)
    kind = LIKELIHOODS[likelihood]
    q = _guide(DiagonalNormal if guide == "diagonal" else FullNormal, kind.support, context_dim)
    context = torch.randn(ROWS, context_dim, dtype=torch.float64) if context_dim else None
    p: Conditional
    match prior:
        case "normal":
            p = StandardNormal(LATENT)
        case "mixture":
            p = MixtureOfGaussians(LATENT, 3, context_dim=context_dim)
        case _:
            p = VampPrior(q, torch.rand(4, *EVENT), kind.support, context_dim=context_dim)
    pair = Pair(LatentModel(p, _likelihood(kind, context_dim)), q).double()
    x = pair.model.sample(ROWS, context=context, generator=torch.Generator().manual_seed(seed)).x
    return pair, Batch(x, None, context, None)


@pytest.fixture
def make_pair() -> Callable[..., tuple[Pair, Batch]]:
    """(likelihood, guide, prior, *, context_dim, seed) -> a pair and six data of shape (3, 2)."""
    return _pair
