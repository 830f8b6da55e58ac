"""Closed forms of the KL against torch's general one and against draws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from elbowroom.inference.kl import closed_form_kl, factorised_kl, has_analytic_kl

BATCH, LATENT = 5, 3


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def diagonal() -> Independent:
    return Independent(Normal(noise(BATCH, LATENT), noise(BATCH, LATENT, seed=1).exp()), 1)


def full() -> MultivariateNormal:
    tril = noise(BATCH, LATENT, LATENT, seed=2).tril(-1) + torch.diag_embed(noise(BATCH, LATENT, seed=3).exp())
    return MultivariateNormal(noise(BATCH, LATENT), scale_tril=tril)


def standard() -> Independent:
    zeros = torch.zeros(LATENT, dtype=torch.float64)
    return Independent(Normal(zeros, torch.ones_like(zeros)), 1)


def shifted() -> Independent:
    return Independent(Normal(noise(LATENT, seed=4), noise(LATENT, seed=5).exp()), 1)


def mixture() -> MixtureSameFamily:
    parts = Independent(Normal(noise(4, LATENT), torch.ones(4, LATENT, dtype=torch.float64)), 1)
    return MixtureSameFamily(Categorical(torch.ones(4, dtype=torch.float64)), parts)


def as_full(p: Distribution) -> MultivariateNormal:
    return MultivariateNormal(p.mean, covariance_matrix=torch.diag_embed(p.variance))


@pytest.mark.parametrize("prior", [standard, shifted], ids=["standard", "shifted"])
@pytest.mark.parametrize("guide", [diagonal, full], ids=["diagonal", "full"])
def test_closed_form_equals_the_multivariate_one(guide: type, prior: type) -> None:
    q, p = guide(), prior()
    reference = kl_divergence(q if isinstance(q, MultivariateNormal) else as_full(q), as_full(p))
    found = closed_form_kl(q, p)
    assert found is not None
    torch.testing.assert_close(found.kl, reference)
    torch.testing.assert_close(found.penalty, reference)


@pytest.mark.parametrize(
    ("guide", "prior", "known", "factorises"),
    [
        (diagonal, standard, True, True),
        (full, standard, True, False),
        (full, full, True, False),
        (diagonal, mixture, False, False),
        (full, mixture, False, False),
        (mixture, standard, False, False),
    ],
)
def test_what_has_a_closed_form(guide: type, prior: type, known: bool, factorises: bool) -> None:
    assert has_analytic_kl(guide(), prior()) is known
    assert (factorised_kl(guide(), prior()) is not None) is factorises
    assert (closed_form_kl(guide(), prior(), free_bits=0.1) is not None) is factorises


def test_independent_without_a_registered_pair() -> None:
    laplace = Independent(Laplace(torch.zeros(LATENT), torch.ones(LATENT)), 1)
    assert has_analytic_kl(laplace, laplace)
    assert not has_analytic_kl(full(), laplace)


def test_free_bits_floor_each_dimension() -> None:
    q = Independent(Normal(torch.tensor([[0.0, 2.0, 0.5]]), torch.ones(1, 3)), 1)  # KL_j = μ²/2 = 0, 2, 0.125
    found = closed_form_kl(q, Independent(Normal(torch.zeros(3), torch.ones(3)), 1), free_bits=0.25)
    assert found is not None
    assert math.isclose(found.kl.item(), 2.125, rel_tol=1e-6)
    assert math.isclose(found.penalty.item(), 0.25 + 2 + 0.25, rel_tol=1e-6)
