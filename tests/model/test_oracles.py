"""Oracles against brute force: the joint Gaussian written out, Bayes' rule, enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from elbowroom.errors import ElbowroomError
from elbowroom.inference.annealing.ais import AnnealingPlan, ais
from elbowroom.inference.annealing.bidirectional import bidirectional, simulate
from elbowroom.inference.importance.laplace_proposal import laplace_evidence
from elbowroom.model.draws import draw
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli, Gaussian
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import LinearGaussian, LogGamma, PoissonGamma, ppca, quadrature_log_evidence
from elbowroom.model.priors import MixtureOfGaussians, StandardNormal


def marginal(model: LinearGaussian) -> MultivariateNormal:
    covariance = model.weight @ model.weight.T + model.noise_scale**2 * torch.eye(len(model.bias)).double()
    return MultivariateNormal(model.bias, covariance)


@pytest.mark.parametrize(("dim", "latent_dim"), [(1, 1), (8, 2), (3, 5), (20, 4)])
def test_evidence_is_the_marginal_normal(dim, latent_dim):
    model, _, x = ppca(dim, latent_dim, seed=1)
    torch.testing.assert_close(model.log_evidence(x), marginal(model).log_prob(x))


@pytest.mark.parametrize(("dim", "latent_dim"), [(1, 1), (8, 2), (3, 5)])
def test_bayes_rule_holds_at_any_z(dim, latent_dim):
    """log p(x) = log p(x, z) − log p(z | x), whatever z."""
    model, _, x = ppca(dim, latent_dim, seed=2)
    z = torch.randn(6, len(x), latent_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got = model.log_joint(x, z) - model.posterior(x).log_prob(z)
    torch.testing.assert_close(got, model.log_evidence(x).expand(6, -1))


def test_missing_elements_are_marginalised():
    model, _, x = ppca(5, 2, seed=3, num_data=20)
    mask = torch.rand(20, 5, generator=torch.Generator().manual_seed(0)) < 0.6
    mask[0] = False  # nothing observed: log p = 0, and the posterior is the prior
    got, posterior = (
        model.log_evidence(torch.where(mask, x, 0.0), mask),
        model.posterior(torch.where(mask, x, 0.0), mask),
    )
    full = marginal(model)
    for i in range(1, 20):
        seen = mask[i]
        part = MultivariateNormal(full.mean[seen], full.covariance_matrix[seen][:, seen])
        torch.testing.assert_close(got[i], part.log_prob(x[i, seen]))
    assert got[0].item() == pytest.approx(0)
    torch.testing.assert_close(posterior.covariance_matrix[0], torch.eye(2).double())
    z = torch.randn(20, 2, dtype=torch.float64)
    torch.testing.assert_close(model.log_joint(x, z, mask=mask) - posterior.log_prob(z), got)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_exact_guide_is_the_posterior_with_parameters_of_its_own(dtype):
    model, _, x = ppca(6, 3, seed=4, dtype=dtype)
    guide = model.exact_guide()
    q, p = guide(x), model.posterior(x)
    torch.testing.assert_close(q.mean, p.mean)
    torch.testing.assert_close(q.covariance_matrix, p.covariance_matrix)
    assert q.mean.dtype == x.dtype == dtype
    assert not {id(w) for w in guide.parameters()} & {id(w) for w in model.parameters()}


def test_ppcas_guide_is_imperfect_in_a_known_measure():
    model, guide, x = ppca(8, 2, seed=0)
    q, p = guide(x), model.posterior(x)
    diagonal = MultivariateNormal(q.mean, torch.diag_embed(q.variance))
    gap = kl_divergence(diagonal, p)
    assert (gap > 0.5).all()
    assert (gap < 3).all()
    deviation = p.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()
    torch.testing.assert_close(q.mean - p.mean, 0.7 * deviation)
    torch.testing.assert_close(q.variance, 2 * deviation.square())


def test_ppca_is_a_function_of_its_seed():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    a, b, c = ppca(4, 2, seed=5)[2], ppca(4, 2, seed=5)[2], ppca(4, 2, seed=6)[2]
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), before), "building a network moved the global generator"


def test_data_come_from_the_model():
    model, _, x = ppca(4, 2, seed=7, num_data=20_000)
    truth, n = marginal(model), len(x)
    z = (x.mean(0) - truth.mean) / (truth.variance / n).sqrt()
    assert (z.abs() < 4).all()
    centred = x - truth.mean
    products = centred[:, :, None] * centred[:, None, :]
    z = (products.mean(0) - truth.covariance_matrix) / (products.std(0) / math.sqrt(n))
    assert (z.abs() < 4).all()


def test_evidence_is_differentiable():
    model, _, x = ppca(4, 2, seed=8)
    got = torch.autograd.grad(model.log_evidence(x).sum(), (model.weight, model.bias))
    expected = torch.autograd.grad(marginal(model).log_prob(x).sum(), (model.weight, model.bias))
    for mine, truth in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, truth)


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_quadrature_is_exact_where_the_answer_is_known(latent_dim):
    model, _, x = ppca(4, latent_dim, seed=9, num_data=10)
    torch.testing.assert_close(quadrature_log_evidence(model, x), model.log_evidence(x).detach())
    mask = torch.rand(10, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    expected = model.log_evidence(x, mask).detach()
    torch.testing.assert_close(quadrature_log_evidence(model, x, mask=mask), expected, rtol=1e-6, atol=1e-9)


def test_quadrature_sums_to_one_over_all_binary_data():
    torch.manual_seed(0)
    model = LatentModel(
        MixtureOfGaussians(2, 3, generator=torch.Generator().manual_seed(0)),
        Bernoulli(MLP((2,), (1, 4), hidden=(5,), activation="tanh"), (4,)),
    )
    x = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))
    total = quadrature_log_evidence(model, x, points=161).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-9)
    assert next(model.parameters()).dtype == torch.float32, "the caller's model was changed"


def test_quadrature_gives_every_datum_its_context():
    torch.manual_seed(0)
    prior = MixtureOfGaussians(1, 2, context_dim=2, generator=torch.Generator().manual_seed(0))
    model = LatentModel(prior, Gaussian(MLP((1,), (1, 3), context_dim=2), (3,), scale=0.5)).double()
    x, context = torch.randn(4, 3).double(), torch.randn(4, 2).double()
    together = quadrature_log_evidence(model, x, context=context)
    alone = torch.cat([quadrature_log_evidence(model, x[i : i + 1], context=context[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(together, quadrature_log_evidence(model, x, context=context + 1))


def test_quadrature_does_not_depend_on_its_chunks():
    model, _, x = ppca(3, 2, seed=1, num_data=4)
    wide = x.repeat(300, 1)  # so many data that the grid of 1,681 points is cut in two
    got = quadrature_log_evidence(model, wide, points=41)[:4]
    torch.testing.assert_close(got, quadrature_log_evidence(model, x, points=41))


def test_quadrature_refuses_three_dimensions():
    model, _, x = ppca(4, 3, seed=0)
    with pytest.raises(ElbowroomError, match="3 latent dimensions"):
        quadrature_log_evidence(model, x)


def test_importance_sampling_agrees_with_quadrature_under_a_nonlinear_model():
    torch.manual_seed(3)
    model = LatentModel(StandardNormal(1), Bernoulli(MLP((1,), (1, 3), hidden=(8,), activation="tanh"), (3,))).double()
    x = torch.tensor([[0.0, 1.0, 1.0]]).double()
    z = draw(model.prior(None), (50_000, 1), generator=torch.Generator().manual_seed(0))
    weights: Tensor = model.log_likelihood(x, z).exp().detach()
    exact = quadrature_log_evidence(model, x).exp()
    assert abs((weights.mean() - exact) / (weights.std() / math.sqrt(50_000))) < 4


# --- the Poisson-gamma oracle, and every estimator against it


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
    data = simulate(model, 200, generator=seeded())
    exact = model.log_evidence(data.batch.x)
    found = laplace_evidence(model, None, data.batch, k=1000, generator=seeded(1))
    assert abs((found.log_evidence - exact).mean()) < 4 * found.stderr.square().sum().sqrt() / 200 + 1e-3
    annealed = ais(model, data.batch, temperatures=8, chains=32, pilot_chains=1, generator=seeded(2))
    relative = (annealed.log_weights - exact).exp() - 1
    assert abs(relative.mean() / relative.std() * math.sqrt(relative.numel())) < 4
    path = AnnealingPlan(torch.linspace(0, 1, 5).double(), torch.tensor([0.8, 0.7, 0.6]).double())
    both = bidirectional(model, data, temperatures=path, chains=4, generator=seeded(3))
    low, high = exact - both.lower, both.upper - exact
    for error in (low, high):
        assert error.mean() > -4 * error.std() / math.sqrt(200)
    back = (exact - both.upper).exp() - 1  # E[p / p̂₊] = 1
    assert abs(back.mean() / back.std() * math.sqrt(200)) < 4
