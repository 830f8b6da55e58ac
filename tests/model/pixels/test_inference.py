"""Every method of inference goes through a likelihood of dependent pixels, and is held to quadrature there."""

from __future__ import annotations

import functools
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.annealing.ais import ais
from elbowroom.inference.annealing.bidirectional import bidirectional, simulate
from elbowroom.inference.annealing.initial import default_start
from elbowroom.inference.gaussian.laplace import laplace
from elbowroom.inference.gaussian.optimal_gaussian import optimal_gaussian
from elbowroom.inference.importance.estimate import importance_estimate
from elbowroom.inference.importance.laplace_proposal import laplace_evidence
from elbowroom.inference.objectives import elbo_terms, iwae_terms
from elbowroom.inference.posterior.imputation import impute
from elbowroom.inference.posterior.sample import posterior
from elbowroom.inference.target import default_metric
from elbowroom.model import oracles
from elbowroom.model.guides import PriorGuide
from elbowroom.model.latent import LatentModel
from elbowroom.numerics import mean_and_stderr
from elbowroom.samplers.diagnostics import ess_mean
from pixel_cases import QuadratureGuide, pixel_model, posterior_moments, seeded

SHAPE = (6, 6)


class Case(NamedTuple):
    model: LatentModel
    guide: QuadratureGuide
    x: Tensor  #: (6, 6, 6), simulated
    evidence: Tensor  #: log p(x), exact


@functools.cache
def case() -> Case:
    model = pixel_model(SHAPE)
    x = model.sample(6, generator=seeded(1)).x
    return Case(model, QuadratureGuide(model), x, oracles.quadrature_log_evidence(model, x, points=201))


def test_z_matters_here():
    mean, second = posterior_moments(case().model, case().x)
    assert mean.std() > 0.3
    assert (second - mean.square()).mean() < 0.8


def test_importance_sampling():
    found = importance_estimate(case().model, case().guide, case().x, num_samples=500, generator=seeded(2))
    assert ((found.log_evidence - case().evidence).abs() < 4 * found.stderr).all()


def test_laplace_importance_sampling():
    found = laplace_evidence(case().model, None, case().x, k=300, generator=seeded(3))
    assert ((found.log_evidence - case().evidence).abs() < 4 * found.stderr).all()
    assert found.ess.min() > 100


def test_the_bounds_are_below_the_evidence_and_the_second_is_better():
    model, guide, x, evidence = case()
    lower = elbo_terms(model, guide, Batch(x), num_samples=200, generator=seeded(4)).value
    tighter = iwae_terms(model, guide, Batch(x), num_samples=200, generator=seeded(4)).value
    assert (lower.mean() < tighter.mean()) and (tighter.mean() < evidence.mean() + 0.02)


def test_laplace_ends_where_the_slope_is_zero():
    model, _, x, _ = case()
    found = laplace(model, torch.zeros(len(x), 1, dtype=torch.float64), x, tolerance=1e-9)
    assert found.converged.all()
    z = found.mode.requires_grad_()
    (slope,) = torch.autograd.grad(model.log_joint(x, z).sum(), z)
    assert (slope.square() / found.precision.squeeze(-1)).max() < 1e-6


def test_the_optimal_normal_is_better_than_the_prior_and_below_the_evidence():
    model, _, x, evidence = case()
    found = optimal_gaussian(model, PriorGuide(model.prior), x, generator=seeded(5))
    assert (found.elbo - found.initial_elbo).max() > 0.3
    assert (found.elbo - found.initial_elbo >= -4 * found.gain_stderr - 1e-9).all()
    assert (found.elbo < evidence + 4 * found.stderr).all()


def test_annealing_is_unbiased():
    model, _, x, evidence = case()
    assert default_metric(model.likelihood) == "gauss-newton"
    assert default_start(model, None) == "laplace"
    found = ais(model, x, temperatures=4, chains=40, start="prior", generator=seeded(6))
    relative, stderr = mean_and_stderr((found.log_weights - evidence).exp().flatten())
    assert abs(relative - 1) < 4 * stderr


def test_bounds_of_simulated_pictures_lie_on_both_sides():
    model = case().model
    data = simulate(model, 24, generator=seeded(7))
    found = bidirectional(model, data, temperatures=4, chains=8, pilot_chains=1, generator=seeded(8))
    exact = oracles.quadrature_log_evidence(model, data.batch.x, points=201)
    below, of_below = mean_and_stderr(exact - found.lower)
    above, of_above = mean_and_stderr(found.upper - exact)
    assert below > -4 * of_below
    assert above > -4 * of_above
    assert found.gap.mean() < 0.3


@pytest.mark.parametrize("method", ["hmc", "nuts"])
def test_chains_have_the_moments_of_the_posterior(method):
    model, guide, x = case().model, case().guide, case().x[:3]
    found = posterior(model, guide, x, method=method, draws=40, chains=6, warmup=40, check=False, generator=seeded(9))
    values = torch.cat([found.z, found.z.square()], -1)
    expected = torch.cat(posterior_moments(model, x), -1)
    pooled = values.flatten(0, 1)
    z = (pooled.mean(0) - expected) / (pooled.std(0) / ess_mean(values).sqrt())
    assert z.abs().max() < 4


def test_imputation_is_refused_with_what_serves():
    model, guide, x, _ = case()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[:, 3:] = False
    with pytest.raises(ElbowroomError, match=r"108 of 216 elements are missing(.|\n)*masked-layers 0"):
        impute(model, guide, Batch(x, mask=mask), draws=20, warmup=10, generator=seeded())
