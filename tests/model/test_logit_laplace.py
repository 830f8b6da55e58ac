"""The logit-Laplace distribution: the paper's density in the unit of x, its moments, and its draws."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from torch.distributions import AffineTransform, Laplace, SigmoidTransform, TransformedDistribution

from elbowroom.model.logit_laplace import LogitLaplace

PARAMETERS = [(0.0, 1.0), (-2.0, 0.3), (1.5, 2.0), (8.0, 0.01), (-6.0, 4.0)]  # μ, b


def at(mu: float, b: float, dtype: torch.dtype = torch.float64) -> LogitLaplace:
    return LogitLaplace(torch.tensor(mu, dtype=dtype), torch.tensor(b, dtype=dtype))


def by_torch(mu: float, b: float) -> TransformedDistribution:
    """Laplace, sigmoid, and (y − ε) / (1 − 2ε), with torch's own log-Jacobians."""
    unmapped = AffineTransform(-0.1 / 0.8, 1 / 0.8)
    return TransformedDistribution(Laplace(torch.tensor(mu).double(), b), [SigmoidTransform(), unmapped])


@pytest.mark.parametrize(("dtype", "precision"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str)
@pytest.mark.parametrize(("mu", "b"), PARAMETERS)
def test_it_is_a_laplace_variable_mapped_through_a_sigmoid(mu, b, dtype, precision):
    x = torch.tensor([0.0, 1 / 255, 0.2, 0.5, 1.0], dtype=torch.float64)
    found = at(mu, b, dtype).log_prob(x.to(dtype)).double()
    torch.testing.assert_close(found, by_torch(mu, b).log_prob(x), rtol=precision, atol=precision / b)


def test_it_is_the_papers_density_of_the_mapped_value_times_its_slope():
    """f(y | μ, b) = 1 / (2 b y (1 − y)) exp(−|logit y − μ| / b) at y = 0.8 x + 0.1."""
    y, mu, b = 0.8 * 0.25 + 0.1, 0.4, 0.7
    density = math.exp(-abs(math.log(y / (1 - y)) - mu) / b) / (2 * b * y * (1 - y))
    assert at(mu, b).log_prob(torch.tensor(0.25).double()).item() == pytest.approx(math.log(0.8 * density))


def test_what_lies_outside_has_no_density():
    found = at(0.0, 1.0).log_prob(torch.tensor([-0.13, -0.125, 1.125, 2.0]).double())
    assert (found == -math.inf).all()
    assert at(0.0, 1.0).log_prob(torch.tensor([-0.12, 1.12]).double()).isfinite().all()


@pytest.mark.parametrize(("mu", "b"), PARAMETERS)
def test_its_moments_are_those_of_quantiles(mu, b):
    """E[f(x)] = ∫ f(x(u)) du over the quantiles u of the Laplace variable."""
    u = (torch.arange(400_000).double() + 0.5) / 400_000
    logits = torch.from_numpy(scipy.stats.laplace.ppf(u.numpy(), mu, b))
    x = (logits.sigmoid() - 0.1) / 0.8
    torch.testing.assert_close(at(mu, b).mean, x.mean(), rtol=0, atol=2e-6)
    torch.testing.assert_close(at(mu, b).variance, x.var(correction=0), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("mean", [0.0, 0.02, 0.4, 0.9, 1.0])
def test_it_is_found_by_its_mean(mean):
    scale = torch.tensor([0.01, 1.0, 5.0]).double()
    found = LogitLaplace.with_mean(torch.full((3,), mean).double(), scale)
    torch.testing.assert_close(found.mean, torch.full((3,), mean).double(), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("mu", "b"), PARAMETERS)
def test_draws_have_its_distribution_function(mu, b):
    n = 20_000
    x = at(mu, b).sample((n,), torch.Generator().manual_seed(0))
    for p in (0.01, 0.2, 0.5, 0.9, 0.999):
        logit = torch.tensor(scipy.stats.laplace.ppf(p, mu, b))
        share = (x <= (logit.sigmoid() - 0.1) / 0.8).double().mean()
        assert abs(float(share - p)) < 4 * math.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_draws_far_out_have_a_density(dtype):
    x = at(3.0, 50.0, dtype).sample((1000,), torch.Generator().manual_seed(0))
    assert at(3.0, 50.0, dtype).log_prob(x).isfinite().all()
