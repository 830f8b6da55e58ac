"""The Poisson-gamma oracle against quadrature, scipy and its own draws; and every estimator against the oracle."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from elbowroom.inference.annealing.ais import ais
from elbowroom.inference.annealing.bidirectional import bidirectional, simulate
from elbowroom.inference.importance.laplace_proposal import laplace_evidence
from elbowroom.model.conjugate import LogGamma, PoissonGamma
from elbowroom.model.oracles import quadrature_log_evidence


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("a", "b"), [(0.7, 0.5), (3.0, 2.0)])
def test_the_prior_integrates_to_one_and_is_that_of_its_draws(a: float, b: float) -> None:
    prior = LogGamma(a, b).double()(None)
    grid = torch.linspace(-60, 12, 200_001, dtype=torch.float64).unsqueeze(1)
    assert float(prior.log_prob(grid).exp().sum() * 72 / 200_000) == pytest.approx(1, abs=1e-6)
    torch.manual_seed(0)
    draws = prior.sample((20_000,)).squeeze(1)
    assert stats.kstest(draws.exp().numpy(), stats.gamma(a, scale=1 / b).cdf).pvalue > 1e-3


def test_the_evidence_is_the_negative_binomial_and_quadrature_s() -> None:
    model = PoissonGamma(1, 3.0, 0.5)
    x = torch.arange(30.0).unsqueeze(1)
    expected = stats.nbinom(3.0, 0.5 / 1.5).logpmf(range(30))
    torch.testing.assert_close(model.log_evidence(x), torch.as_tensor(expected))
    several = PoissonGamma(4, 2.0, 1.0).double()
    x = several.sample(20, generator=seeded()).x
    found = quadrature_log_evidence(several, x, points=4001, limit=20.0)
    torch.testing.assert_close(found, several.log_evidence(x), rtol=0, atol=1e-6)


def test_the_posterior_is_that_of_the_joint() -> None:
    model = PoissonGamma(3, 2.0, 1.0).double()
    x = torch.tensor([[1.0, 4.0, 2.0]]).double()
    z = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(-1, 1, 1)
    # of λ: the density of z has a factor λ more
    log_posterior = model.rate_posterior(x).log_prob(z.exp().squeeze(-1)) + z.squeeze(-1)
    torch.testing.assert_close(model.log_joint(x, z) - model.log_evidence(x), log_posterior)


@pytest.mark.parametrize("dim", [1, 3])
def test_estimators_are_within_their_errors(dim: int) -> None:
    """Small counts, whose posteriors are far from normal."""
    model = PoissonGamma(dim, 0.8, 1.0).double()
    data = simulate(model, 300, generator=seeded())
    exact = model.log_evidence(data.batch.x)
    found = laplace_evidence(model, None, data.batch, k=1000, generator=seeded(1))
    assert abs((found.log_evidence - exact).mean()) < 4 * found.stderr.square().sum().sqrt() / 300 + 1e-3
    annealed = ais(model, data.batch, temperatures=8, chains=32, generator=seeded(2))
    relative = (annealed.log_weights - exact).exp() - 1
    assert abs(relative.mean() / relative.std() * math.sqrt(relative.numel())) < 4
    both = bidirectional(model, data, temperatures=4, chains=4, generator=seeded(3))
    low, high = exact - both.lower, both.upper - exact
    for error in (low, high):
        assert error.mean() > -4 * error.std() / math.sqrt(300)
    back = (exact - both.upper).exp() - 1  # E[p / p̂₊] = 1
    assert abs(back.mean() / back.std() * math.sqrt(300)) < 4
