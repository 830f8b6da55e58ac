"""Wider proposals with a share of the prior: a density that is one, draws that have it, estimates that are unbiased."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from elbowroom.errors import ElbowroomError
from elbowroom.inference.importance.defensive import defensive
from elbowroom.inference.importance.estimate import importance_estimate_from
from elbowroom.model import oracles
from elbowroom.model.code_distributions import Codes
from elbowroom.model.draws import draw
from elbowroom.model.priors import MixtureOfGaussians


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(mean: Tensor, scale: Tensor) -> Distribution:
    return Independent(Normal(mean, scale), 1)


Q = normal(torch.tensor([[1.0], [-2.0]]).double(), torch.tensor([[0.3], [0.5]]).double())
PRIOR = normal(torch.zeros(1).double(), torch.ones(1).double())


@pytest.mark.parametrize(("width", "share"), [(1.5, 0.0), (1.0, 0.2), (2.0, 0.3)])
def test_draws_have_the_density_which_integrates_to_one(width, share):
    found = defensive(Q, PRIOR, width=width, prior_share=share)
    assert found.batch_shape == (2,) and found.event_shape == (1,)
    grid = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    p = found.log_prob(grid.reshape(-1, 1, 1)).exp()  # (grid, 2)
    torch.testing.assert_close(p.sum(0) * (grid[1] - grid[0]), torch.ones(2).double())
    z = draw(found, (20_000,), generator=seeded(1)).squeeze(-1)
    for edge in (-1.5, 0.0, 1.2):
        below = (p * (grid < edge).double().unsqueeze(1)).sum(0) * (grid[1] - grid[0])
        scores = ((z < edge).double().mean(0) - below) / (below * (1 - below) / len(z)).sqrt().clamp(min=1e-4)
        assert scores.abs().max() < 4


def test_it_is_the_guide_where_nothing_is_asked_for():
    assert defensive(Q, PRIOR) is Q


def test_a_width_widens_full_covariances():
    model, _, x = oracles.ppca(dim=5, latent_dim=2, seed=0, num_data=3)
    q = model.posterior(x)
    torch.testing.assert_close(defensive(q, PRIOR, width=1.5).covariance_matrix, 2.25 * q.covariance_matrix)


def test_estimates_are_unbiased_and_a_narrow_guide_is_mended():
    model, _, x = oracles.ppca(dim=6, latent_dim=2, seed=1, num_data=40)
    model.requires_grad_(False)
    posterior, exact = model.posterior(x), model.log_evidence(x)
    narrow = normal(posterior.mean + 0.3, 0.4 * posterior.variance.sqrt())
    prior = model.prior(None)
    for q in (defensive(narrow, prior, width=3.0, prior_share=0.1), defensive(narrow, prior, prior_share=0.5)):
        found = importance_estimate_from(model, q, x, num_samples=4000, generator=seeded(2))
        ratio = (found.log_evidence - exact).exp()
        assert abs(float(ratio.mean() - 1)) < 4 * float(found.stderr.square().sum().sqrt()) / len(x)
        assert found.stderr.max() < 0.2
    alone = importance_estimate_from(model, narrow, x, num_samples=4000, generator=seeded(2))
    wide = importance_estimate_from(
        model, defensive(narrow, prior, width=3.0, prior_share=0.1), x, num_samples=4000, generator=seeded(2)
    )
    assert (wide.log_evidence - exact).abs().mean() < (alone.log_evidence - exact).abs().mean() / 4
    assert wide.pareto_k.median() < 0.5 < alone.pareto_k.median()


def test_a_prior_that_is_a_mixture_is_drawn_from():
    torch.manual_seed(0)
    prior = MixtureOfGaussians(1, 3).double()(None)
    found = defensive(Q, prior, width=1.2, prior_share=0.999)
    z = draw(found, (5000,), generator=seeded(3))
    direct = draw(prior, (5000, 2), generator=seeded(4))
    assert ((z.mean(0) - direct.mean(0)).abs() < 6 * direct.std(0) / 5000**0.5).all()


@pytest.mark.parametrize(("width", "share"), [(0.0, 0.1), (1.2, 1.0), (1.2, -0.1), (float("inf"), 0.1)])
def test_numbers_out_of_range_are_refused(width, share):
    with pytest.raises(ElbowroomError, match="width is positive and a share"):
        defensive(Q, PRIOR, width=width, prior_share=share)


def test_what_is_not_normal_cannot_be_widened():
    with pytest.raises(ElbowroomError, match="Codes"):
        defensive(Codes(torch.zeros(2, 3, 4)), PRIOR, width=1.2)
