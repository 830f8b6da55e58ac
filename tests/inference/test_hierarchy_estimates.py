"""What estimates log p(x) and draws from the posterior works on hierarchies: against the oracle, and on a grid."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Independent, Normal

import hierarchy_cases as cases
from elbowroom.data.batch import Batch
from elbowroom.inference.annealing.ais import ais
from elbowroom.inference.gaussian.curvature import gauss_newton, network_jacobian, prior_precision
from elbowroom.inference.gaussian.laplace import laplace
from elbowroom.inference.importance.laplace_proposal import laplace_evidence
from elbowroom.inference.posterior.sample import posterior
from elbowroom.model.draws import draw
from elbowroom.model.priors import MixtureOfGaussians
from elbowroom.model.sequential_normal import BlockDistribution
from elbowroom.numerics import log_mean_exp


def test_laplace_is_exact_on_the_oracle() -> None:
    case = cases.linear((1, 2, 1))
    exact = case.model.posterior(case.x)
    found = laplace(case.model, torch.zeros(3, 4).double(), Batch(case.x))
    torch.testing.assert_close(found.mode, exact.mean.detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.precision, exact.precision_matrix.detach())
    torch.testing.assert_close(gauss_newton(case.model, case.x, found.mode), exact.precision_matrix.detach())
    evidence = laplace_evidence(case.model, case.guides["top-down"], case.x, k=50, generator=cases.seeded())
    torch.testing.assert_close(evidence.log_evidence, case.model.log_evidence(case.x).detach(), rtol=0, atol=0.2)


def test_jacobian_through_a_grid() -> None:
    case = cases.nonlinear("grid", context_dim=2)
    u = torch.randn(6, sum(case.ladder.sizes), generator=cases.seeded(), dtype=torch.float64)
    output, jacobian = network_jacobian(case.ladder, u, case.context)
    torch.testing.assert_close(output, case.ladder(u, case.context).detach())

    def first(z: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = case.ladder(z[None], case.context[:1])[0]
        return value

    known = torch.autograd.functional.jacobian(first, u[0])
    torch.testing.assert_close(jacobian[0], known.movedim(-1, 0))


def test_precision_of_blocks_is_that_of_each() -> None:
    torch.manual_seed(0)
    top = MixtureOfGaussians(2, 3).double()(None)
    below = Independent(Normal(torch.zeros(3).double(), 2.0), 1)
    z = torch.randn(4, 5, generator=cases.seeded(), dtype=torch.float64)
    found = prior_precision(BlockDistribution([top, below]), z)
    torch.testing.assert_close(found[:, :2, :2], prior_precision(top, z[:, :2]))
    torch.testing.assert_close(found[:, 2:, 2:], 0.25 * torch.eye(3).double().expand(4, -1, -1))
    assert not found[:, :2, 2:].any()
    assert not found[:, 2:, :2].any()


@pytest.mark.parametrize("start", ["guide", "prior", "laplace"])
@pytest.mark.parametrize("name", cases.GUIDES)
def test_annealing_from_every_start(name: str, start: str) -> None:
    if start != "guide" and name == "bottom-up":
        pytest.skip("does not read the guide")
    case = cases.linear((1, 1))
    guide = cases.worsened(case.guides[name])
    found = ais(
        case.model, case.x, guide=guide, start=start, temperatures=12, chains=200, pilot_chains=2,
        generator=cases.seeded(),
    )  # fmt: skip
    ratio = (found.log_weights - case.model.log_evidence(case.x).detach().unsqueeze(0)).exp()
    z = (ratio.mean(0) - 1) / (ratio.std(0) / math.sqrt(len(ratio)))
    assert z.abs().max() < 4


def test_chains_have_the_exact_moments() -> None:
    case = cases.linear((1, 1), num_data=2)
    found = posterior(
        case.model, case.guides["top-down"], case.x, method="hmc", draws=60, warmup=60, chains=8,
        generator=cases.seeded(),
    )  # fmt: skip
    exact = case.model.posterior(case.x)
    assert ((found.z.mean((0, 1)) - exact.mean) / exact.variance.sqrt()).abs().max() < 0.3


@pytest.mark.parametrize("kind", cases.KINDS)
def test_estimates_agree_where_nothing_is_known(kind: str) -> None:
    """Importance sampling from Laplace approximations and from the prior, of a nonlinear hierarchy."""
    case = cases.nonlinear(kind, prior="mixture", num_data=2)
    found = laplace_evidence(case.model, case.guide, case.x, k=400, starts=2, generator=cases.seeded())
    with torch.no_grad():
        u = draw(case.model.prior(None), (30_000, 1), generator=cases.seeded())
        by_prior = log_mean_exp(case.model.log_likelihood(case.x, u))
    torch.testing.assert_close(found.log_evidence, by_prior, rtol=0, atol=0.3)
