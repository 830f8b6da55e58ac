"""Proposals fitted in rounds: posteriors far narrower than the first proposal, several modes, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError, NotFiniteError
from elbowroom.inference.importance import adaptive
from elbowroom.inference.importance.adaptive import adapted_proposal, weighted_draws
from elbowroom.model import oracles
from elbowroom.model.conditional import Conditional
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Gaussian
from elbowroom.model.priors import StandardNormal
from elbowroom.numerics import effective_sample_size


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Fixed(Conditional):
    """The same normal for every x."""

    def __init__(self, mean: float, scale: float) -> None:
        super().__init__()
        self.mean, self.scale = mean, scale

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Independent[Normal]:
        assert given is not None
        loc = torch.full((len(given), 1), self.mean, dtype=given.dtype)
        return Independent(Normal(loc, self.scale), 1)


class Square(nn.Module):
    """z², so that z and −z are alike."""

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return z.square().unsqueeze(-2)


def test_a_foreign_guide_is_led_to_the_posterior() -> None:
    dim, latent, scale = 12, 4, 0.02
    weight, bias = oracles.ppca(dim=dim, latent_dim=latent, seed=0)[0].weight.detach(), torch.zeros(dim).double()
    model = oracles.LinearGaussian(weight, bias, scale=scale).requires_grad_(False)
    poor = oracles.ppca(dim=dim, latent_dim=latent, seed=1)[1]
    x = model.sample(3, generator=seeded(2)).x.double()
    mask = torch.arange(dim).expand(3, dim) < torch.tensor([[1], [latent], [dim - 1]])
    batch = Batch(torch.where(mask, x, 0.0), mask=mask)
    first = weighted_draws(model, adaptive.defensive(poor(batch.x), model.prior(None), prior_share=0.5), batch, 2000,
                           generator=seeded(3))  # fmt: skip
    found = adapted_proposal(model, poor, batch, generator=seeded(4))
    again = weighted_draws(model, found.proposal, batch, 4000, generator=seeded(5)).log_weights
    share = effective_sample_size(again) / len(again)
    assert (share > 0.25).all()
    assert (effective_sample_size(first.log_weights) / 2000).min() < 0.1 * share.min()
    # an average of weights whose variance is known: that of k draws of which a share is effective
    stderr = ((1 / share - 1) / len(again)).sqrt()
    exact = model.log_evidence(x, mask)
    z = (again.logsumexp(0) - math.log(len(again)) - exact).expm1() / stderr
    assert z.abs().max() < 4


def test_both_modes_are_found_where_the_guide_knows_one() -> None:
    model = LatentModel(StandardNormal(1), Gaussian(Square(), (1,), scale=0.1)).double()
    batch = Batch(torch.tensor([[1.0]]).double())
    found = adapted_proposal(model, Fixed(1.0, 0.03), batch, generator=seeded(0))
    assert float(found.share) > 0.05  # kernels are ten times as wide as a mode
    drawn = weighted_draws(model, found.proposal, batch, 10_000, generator=seeded(1))
    weights = drawn.log_weights.softmax(0).squeeze(1)
    right = float((weights * (drawn.z > 0).double().flatten()).sum())
    assert abs(right - 0.5) < 4 * 0.5 / math.sqrt(float(found.share) * 10_000)
    grid = torch.linspace(-4, 4, 8001, dtype=torch.float64)
    exact = model.log_joint(batch.x, grid.reshape(-1, 1, 1)).logsumexp(0) + math.log(8 / 8000)
    estimate = drawn.log_weights.logsumexp(0) - math.log(10_000)
    assert abs(float(estimate - exact)) < 4 / math.sqrt(float(found.share) * 10_000)


def test_the_exponent_leaves_as_many_draws_effective_as_are_wanted() -> None:
    log_weights = torch.stack([torch.linspace(0, 500, 1000), torch.linspace(0, 1, 1000)], 1).double()
    log_weights[0] = -math.inf
    exponent = adaptive._exponent(log_weights, 100.0)
    assert 0 < exponent[0] < 1 == exponent[1]
    tempered = torch.where(log_weights.isneginf(), -math.inf, exponent * log_weights)
    torch.testing.assert_close(effective_sample_size(tempered)[0], torch.tensor(100.0).double(), rtol=1e-4, atol=0.0)


def test_what_cannot_be() -> None:
    model, guide, x = oracles.ppca(dim=3, latent_dim=1, seed=0, num_data=2)
    with pytest.raises(ElbowroomError, match="a fit needs 100 draws"):
        adapted_proposal(model, guide, x, draws=10)
    far = torch.cat([x[:1], torch.full_like(x[:1], 1e300)])
    with pytest.raises(NotFiniteError, match="1 of the examples") as fault:
        adapted_proposal(model, guide, far, generator=seeded(0))
    assert fault.value.places == (1,)
