"""How far importance sampling from Laplace approximations goes: types, networks, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.inference.importance.laplace_proposal import laplace_evidence, laplace_proposal
from elbowroom.model import oracles
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli, Likelihood
from elbowroom.model.networks import MLP, ConvDecoder
from elbowroom.model.priors import StandardNormal


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


# --- sizes and types ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", [2, 20])
def test_float32_finds_what_float64_finds_at_a_condition_number_of_a_million(latent: int) -> None:
    weight = normal(60, latent, seed=1)
    weight = torch.linalg.qr(weight)[0] * torch.logspace(-1, 3, latent).double()
    x = oracles.LinearGaussian(weight, torch.zeros(60).double(), 1.0).sample(6, generator=seeded()).x
    exact = oracles.LinearGaussian(weight, torch.zeros(60).double(), 1.0).log_evidence(x).detach()
    model = oracles.LinearGaussian(weight.float(), torch.zeros(60), 1.0)
    found = laplace_evidence(model, None, x.float(), k=1000, generator=seeded())
    assert found.log_evidence.dtype == torch.float64
    # x of size a thousand has seven digits, so its distance from W z of size one has four
    assert ((found.log_evidence - exact).abs() < 4 * found.stderr + 0.05).all()
    assert found.ess.min() > 200


def test_a_precision_that_float32_cannot_factor() -> None:
    weight = torch.ones(50, 2) + 1e-5 * torch.randn(50, 2, generator=seeded())
    model = oracles.LinearGaussian(weight, torch.zeros(50), 1e-3)
    x = torch.randn(8, 50, generator=seeded(1))
    found = laplace_evidence(model, None, x, k=20, generator=seeded())
    assert found.log_evidence.isfinite().all()


def test_a_convolutional_decoder_and_a_lower_precision_inside() -> None:
    torch.manual_seed(0)
    network = ConvDecoder((3,), (1, 4, 4), channels=(4,), activation="tanh")
    model = LatentModel(StandardNormal(3), Bernoulli(network, (4, 4))).double()
    x = (torch.rand(5, 4, 4, generator=seeded()) < 0.5).double()
    found = laplace_evidence(model, None, x, k=2000, generator=seeded())
    z = torch.randn(200_000, 1, 3, generator=seeded(1), dtype=torch.float64)
    with torch.no_grad():
        log_p = model.log_likelihood(x, z.expand(-1, 5, -1)[:20_000])
    crude = log_p.logsumexp(0) - math.log(20_000)
    error = (log_p.exp().std(0) / log_p.exp().mean(0)) / math.sqrt(20_000)
    assert ((found.log_evidence - crude).abs() < 4 * (found.stderr.square() + error.square()).sqrt()).all()


# --- refusals ----------------------------------------------------------------------------------------------------


class Silent(Likelihood):
    """It has no Fisher information to offer."""

    name, support = "silent", Support.REALS

    def __init__(self) -> None:
        super().__init__(MLP((2,), (1, 4), hidden=()), (4,))

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        (theta,) = self._slices(given, context)
        return Normal(theta, 1.0, validate_args=False)


def test_a_likelihood_without_fisher_information_is_named() -> None:
    model = LatentModel(StandardNormal(2), Silent())
    with pytest.raises(ElbowroomError, match="Silent"):
        laplace_evidence(model, None, torch.zeros(3, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"k": 0}, "k is 0"), ({"starts": 0}, "starts is 0"), ({"chunk_elements": 0}, "chunk_elements is 0")],
    ids=str,
)
def test_what_makes_no_sense_is_refused(options: dict[str, int], message: str) -> None:
    model, _, x = oracles.ppca(dim=4, latent_dim=2, seed=0)
    with pytest.raises(ElbowroomError, match=message):
        laplace_evidence(model, None, x, **options)


@pytest.mark.parametrize("defence", [-0.1, 1.0, math.nan])
def test_a_share_is_a_share(defence: float) -> None:
    model, _, x = oracles.ppca(dim=4, latent_dim=2, seed=0)
    with pytest.raises(ElbowroomError, match="defence is"):
        laplace_proposal(model, None, x, defence=defence)


@pytest.mark.parametrize("widening", [0.99, -1.0, math.inf, math.nan])
def test_a_proposal_is_not_narrowed(widening: float) -> None:
    model, _, x = oracles.ppca(dim=4, latent_dim=2, seed=0)
    with pytest.raises(ElbowroomError, match="widening is"):
        laplace_proposal(model, None, x, widening=widening)


def test_data_that_are_not_finite_are_refused() -> None:
    model, _, x = oracles.ppca(dim=4, latent_dim=2, seed=0)
    x[3, 1] = math.nan
    with pytest.raises(ElbowroomError, match=r"1 of 64 examples \(the first is example 3\)"):
        laplace_evidence(model, None, x)
