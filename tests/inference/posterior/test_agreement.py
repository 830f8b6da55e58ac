"""Posteriors of several modes: chains that agree about one of them are found out, and jumps between modes mend it."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.posterior.agreement import disagreement
from elbowroom.inference.posterior.imputation import impute
from elbowroom.inference.posterior.sample import Posterior, posterior
from elbowroom.model import oracles
from elbowroom.model.guides import DiagonalNormal
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import DiscretizedLogisticMixture, Gaussian
from elbowroom.model.networks import MLP
from elbowroom.model.priors import StandardNormal
from elbowroom.samplers.diagnostics import ess_mean

QUICK: dict[str, Any] = {"draws": 120, "chains": 2, "warmup": 60, "method": "hmc"}
COPIES = 4  # independent chains of each example, each with a tuning of its own


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def heteroscedastic() -> tuple[LatentModel, DiagonalNormal, Tensor]:
    """Four elements with a mean and a standard deviation that depend on z: narrow modes wherever one of them is small.

    The weights are large, as after training on data that a curve with noise of changing width describes well.
    """
    generator = seeded(4)
    network = MLP((1,), Gaussian.parameter_shape((4,), scale="per-element"), hidden=(10,), activation="tanh")
    with torch.no_grad():
        for weights in network.parameters():
            size = 2 / math.sqrt(weights.shape[-1]) if weights.dim() > 1 else 1.0
            weights.copy_(size * torch.randn(weights.shape, generator=generator))
    model = LatentModel(StandardNormal(1), Gaussian(network, (4,), scale="per-element")).double().eval()
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        guide = DiagonalNormal(MLP((4,), DiagonalNormal.parameter_shape(1), hidden=(8,)), 1).double().eval()
    return model, guide, model.sample(12, generator=seeded(1)).x


@cache
@torch.no_grad()
def moments() -> tuple[Tensor, Tensor]:
    """Means and standard deviations by quadrature, each of shape (data,)."""
    model, _, x = heteroscedastic()
    z = torch.linspace(-7, 7, 7001, dtype=torch.float64)
    weight = model.log_joint(x, z[:, None, None].expand(-1, len(x), -1)).softmax(0)
    mean = weight.T @ z
    return mean, ((weight * (z[:, None] - mean).square()).sum(0)).sqrt()


def drawn(**settings: Any) -> tuple[Posterior, Tensor, Tensor]:
    """Draws, the z-scores of their means by their own effective number, and R-hat, each of shape (data,)."""
    model, guide, x = heteroscedastic()
    x = x.repeat_interleave(COPIES, 0)
    found = posterior(model, guide, x, generator=seeded(2), **{**QUICK, **settings})
    mean, stddev = (part.repeat_interleave(COPIES) for part in moments())
    z = found.z[..., 0]
    score = (z.mean((0, 1)) - mean) / (stddev / ess_mean(z).sqrt())
    return found, score.abs(), found.diagnostics.rhat.amax(1)


@cache
def without_jumps() -> tuple[Posterior, Tensor, Tensor]:
    return drawn()


def test_a_mode_that_no_chain_visits_is_found_out() -> None:
    """R-hat and E-BFMI see nothing there: the chains agree with each other, and move freely where they are."""
    found, score, rhat = without_jumps()
    apart, energies = found.diagnostics.disagreement, found.diagnostics.ebfmi.amin(1)
    assert apart is not None
    hidden = (score > 5) & (rhat < 1.03)
    assert int(hidden.sum()) >= 3
    assert float(energies[hidden].median()) > 0.6
    assert bool((apart[hidden] > 4).all())
    summary = found.summary()
    assert summary.apart_data >= 3
    (said, *_) = summary.warnings()
    assert said.startswith(f"The draws of {summary.apart_data} of 48 examples") and "jumps=True (--jumps)" in said
    assert f"warning: {said}" in summary.lines()


def test_the_remedy_works() -> None:
    found, score, rhat = drawn(jumps=True)
    worst = without_jumps()[1]
    assert float(worst.max()) > 10 and float(worst.square().mean().sqrt()) > 3
    assert float(score.max()) < 4.5 and float(score.square().mean().sqrt()) < 1.35
    assert float((rhat < 1.1).double().mean()) > 0.9
    assert found.summary().apart_data == 0
    assert found.settings["jumps"] is True and "jumps" not in without_jumps()[0].settings


def test_a_check_changes_no_draw() -> None:
    model, guide, x = oracles.ppca(dim=6, latent_dim=2, seed=3, num_data=6)
    few = {**QUICK, "draws": 20, "warmup": 10}
    one, two = (posterior(model, guide, x, check=check, generator=seeded(4), **few) for check in (True, False))
    assert torch.equal(one.z, two.z)
    assert two.diagnostics.disagreement is None and two.summary().compared_data == 0
    assert one.summary().compared_data == 6


@pytest.mark.parametrize("method", [pytest.param("nuts", marks=pytest.mark.slow), "hmc"])
def test_a_healthy_posterior_has_no_warnings(method: Any) -> None:
    model, guide, x = oracles.ppca(dim=8, latent_dim=3, seed=1, num_data=20)
    longer = {**QUICK, "method": method, "draws": 60, "chains": 8, "warmup": 40}
    found = posterior(model, guide, x, block=12, generator=seeded(5), **longer)
    assert found.summary().warnings() == []
    assert found.diagnostics.disagreement is not None and found.diagnostics.disagreement.shape == (20,)


def test_jumps_leave_a_posterior_of_one_mode_as_it_is() -> None:
    model, guide, x = oracles.ppca(dim=8, latent_dim=3, seed=1, num_data=30)
    found = posterior(
        model, guide, x, jumps=True, generator=seeded(6), **{**QUICK, "draws": 60, "chains": 6, "warmup": 40}
    )
    with torch.no_grad():
        exact = model.posterior(x)
    score = (found.z.mean((0, 1)) - exact.mean) / (exact.stddev / ess_mean(found.z).sqrt())
    assert float(score.abs().max()) < 4
    assert found.summary().warnings() == []


def test_moments_that_are_off_are_told_by_their_standard_errors() -> None:
    """Draws that are right, off by a third of a standard deviation, and too narrow by a third."""
    model, _, x = oracles.ppca(dim=6, latent_dim=2, seed=3, num_data=40)
    with torch.no_grad():
        exact = model.posterior(x)
    z = exact.sample((400, 4))  # type: ignore[no-untyped-call]
    right, moved, narrow = (
        disagreement(model, Batch(x), at, exact, generator=seeded(7))
        for at in (z, z + 0.33 * exact.stddev, exact.mean + 0.67 * (z - exact.mean))
    )
    assert float(right.max()) < 4.5
    assert float(moved.min()) > 4 and float(narrow.min()) > 4


def test_weights_that_cannot_be_trusted_say_nothing() -> None:
    model, _, x = oracles.ppca(dim=6, latent_dim=2, seed=3, num_data=10)
    with torch.no_grad():
        exact = model.posterior(x)
    narrow = torch.distributions.MultivariateNormal(exact.mean, scale_tril=0.2 * exact.scale_tril)
    z = exact.sample((100, 4))  # type: ignore[no-untyped-call]
    assert int(disagreement(model, Batch(x), z, narrow, generator=seeded(8)).isnan().sum()) >= 8


def test_what_has_no_laplace_approximation_is_not_checked_and_has_no_jumps() -> None:
    network = MLP((1,), DiscretizedLogisticMixture.parameter_shape((3,)), hidden=())
    likelihood = DiscretizedLogisticMixture(network, (3,))
    model = LatentModel(StandardNormal(1), likelihood).eval()
    guide = DiagonalNormal(MLP((3,), DiagonalNormal.parameter_shape(1), hidden=(4,)), 1).eval()
    x = torch.full((2, 3), 100.0)
    found = posterior(model, guide, x, draws=4, chains=2, warmup=2, generator=seeded(9))
    assert found.diagnostics.disagreement is None
    with pytest.raises(ElbowroomError, match="there are none for this discretized-logistic-mixture") as refused:
        posterior(model, guide, x, draws=4, chains=2, warmup=2, jumps=True, generator=seeded(9))
    assert "Leave jumps out" in refused.value.remedy


def test_imputation_jumps_and_is_checked_too() -> None:
    model, guide, x = oracles.ppca(dim=6, latent_dim=2, seed=3, num_data=4)
    batch = Batch(x, mask=torch.arange(6).expand(4, 6) < 4)
    found = impute(model, guide, batch, jumps=True, generator=seeded(10), **{**QUICK, "draws": 20, "warmup": 10})
    assert found.settings["jumps"] is True
    assert found.diagnostics is not None and found.diagnostics.disagreement is not None
