"""The best normal approximation: exact on a linear-Gaussian model, better than Laplace's on others."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.gaussian.curvature import covariance_factor
from elbowroom.inference.gaussian.laplace import laplace
from elbowroom.inference.importance.refinement import refine
from elbowroom.model import oracles
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli
from elbowroom.model.networks import MLP
from elbowroom.model.priors import StandardNormal


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def skewed(latent_dim: int = 2, num_data: int = 12) -> tuple[LatentModel, Batch]:
    """Bernoulli data under a network with large weights."""
    torch.manual_seed(3)
    network = MLP((latent_dim,), (1, 10), hidden=(16,), activation="tanh").double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3.0)
    model = LatentModel(StandardNormal(latent_dim), Bernoulli(network, (10,))).double()
    return model, Batch(model.sample(num_data, generator=seeded()).x.double())


@pytest.mark.parametrize("latent_dim", [1, 2, 7])
def test_one_step_finds_the_posterior_of_a_linear_gaussian_model(latent_dim: int) -> None:
    model, _, x = oracles.ppca(dim=12, latent_dim=latent_dim, seed=latent_dim)
    eye = torch.eye(latent_dim).double().expand(len(x), -1, -1)
    found = refine(model, Batch(x), torch.ones(len(x), latent_dim).double(), eye, steps=1, generator=seeded())
    exact = model.posterior(x)
    torch.testing.assert_close(found.loc, exact.mean.detach())
    torch.testing.assert_close(found.scale_tril @ found.scale_tril.mT, exact.covariance_matrix.detach())
    # the noise of the draws' second moment is the same before and after
    again = refine(model, Batch(x), found.loc, found.scale_tril, steps=1, generator=seeded(1))
    torch.testing.assert_close(again.gain, torch.zeros(len(x)).double(), rtol=0, atol=1e-9)


def test_the_elbo_is_that_of_the_normal() -> None:
    model, batch = skewed()
    found = refine(
        model,
        batch,
        torch.zeros(12, 2).double(),
        torch.eye(2).double().expand(12, 2, 2),
        pairs=400,
        generator=seeded(),
    )
    q = MultivariateNormal(found.loc, scale_tril=found.scale_tril)
    terms = model.log_joint(batch.x, q.sample((800,)))
    stderr = terms.std(0) * math.sqrt(2 / 800)  # of two such averages; the entropy is known
    assert ((terms.mean(0) + q.entropy() - found.elbo).abs() < 4.5 * stderr).all()


def test_it_beats_laplace_by_fresh_draws() -> None:
    model, batch = skewed()
    start = laplace(model, torch.zeros(12, 2).double(), batch)
    tril = covariance_factor(start.precision)
    found = refine(model, batch, start.mode, tril, steps=2, pairs=50, generator=seeded())
    noise = torch.randn(4000, 12, 2, generator=seeded(9), dtype=torch.float64)

    def elbo(loc: torch.Tensor, scale_tril: torch.Tensor) -> torch.Tensor:
        z = loc + (scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
        return model.log_joint(batch.x, z) - MultivariateNormal(loc, scale_tril=scale_tril).log_prob(z)

    better = elbo(found.loc, found.scale_tril) - elbo(start.mode, tril)
    assert better.mean(0).mean() > 10 * better.mean(1).std() / math.sqrt(4000)
    assert (found.gain >= 0).all()
    torch.testing.assert_close(better.mean(0), found.gain, rtol=0, atol=0.1)


def test_a_step_that_does_not_help_is_not_taken() -> None:
    model, _, x = oracles.ppca(dim=12, latent_dim=2, seed=0)
    exact = model.posterior(x)
    loc, tril = exact.mean.detach(), exact.scale_tril.detach()
    found = refine(model, Batch(x), loc, tril, steps=3, pairs=1, generator=seeded())
    torch.testing.assert_close(found.loc, loc)
    torch.testing.assert_close(found.scale_tril, tril)
    none = refine(model, Batch(x), loc + 1, tril, steps=0)
    assert torch.equal(none.loc, loc + 1) and none.evaluations == 8


def test_draws_where_the_density_is_no_number_do_not_win() -> None:
    model, batch = skewed()
    wide = 1e200 * torch.eye(2).double().expand(12, 2, 2)
    found = refine(model, batch, torch.zeros(12, 2).double(), wide, steps=2, generator=seeded())
    assert found.loc.isfinite().all() and found.scale_tril.isfinite().all()


def test_masks_are_respected() -> None:
    model, _, x = oracles.ppca(dim=12, latent_dim=2, seed=0)
    mask = torch.rand(x.shape, generator=seeded()) < 0.5
    eye = torch.eye(2).double().expand(len(x), 2, 2)
    found = refine(model, Batch(x, mask=mask), torch.zeros(len(x), 2).double(), eye, generator=seeded())
    torch.testing.assert_close(found.loc, model.posterior(x, mask).mean.detach())


@pytest.mark.parametrize("settings", [{"steps": -1}, {"pairs": 0}])
def test_bad_numbers(settings: dict[str, int]) -> None:
    model, batch = skewed()
    with pytest.raises(ElbowroomError, match="Give steps=2, pairs=4"):
        refine(model, batch, torch.zeros(12, 2).double(), torch.eye(2).double().expand(12, 2, 2), **settings)
