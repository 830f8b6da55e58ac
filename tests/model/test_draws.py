"""Draws: the generator alone decides, moments are right, gradients are the reparameterised ones."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Distribution,
    Gamma,
    Independent,
    Laplace,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Poisson,
)

from elbowroom.errors import ElbowroomError
from elbowroom.model import noise
from elbowroom.model.colour import ColourLogisticMixture
from elbowroom.model.distributions import Binomial, ContinuousBernoulli, DiscretizedLogisticMixture, NegativeBinomial
from elbowroom.model.draws import detach, draw, mean
from elbowroom.model.heavy_tails import StudentT
from elbowroom.model.logit_laplace import LogitLaplace
from elbowroom.model.ordinal import Ordinal

LOC = torch.tensor([[0.0, 1.0, -2.0], [3.0, 0.5, 0.0]], dtype=torch.float64)
SCALE = torch.tensor([[0.1, 1.0, 2.0], [0.5, 0.2, 3.0]], dtype=torch.float64)
TRIL = torch.tensor([[1.0, 0, 0], [0.9, 0.5, 0], [-0.7, 0.3, 0.4]], dtype=torch.float64)
UNIT = torch.tensor([[0.1, 0.4, 0.9], [0.0, 1.0, 0.3]], dtype=torch.float64)
WEIGHTS = torch.tensor([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]], dtype=torch.float64)


def mixture(components: Distribution) -> MixtureSameFamily:
    return MixtureSameFamily(Categorical(probs=WEIGHTS), components)


#: batch shape (2,) or (2, 3); everything that draw() knows, and two that it does not
DISTRIBUTIONS: dict[str, Distribution] = {
    "normal": Normal(LOC, SCALE),
    "independent": Independent(Normal(LOC, SCALE), 1),
    "multivariate": MultivariateNormal(LOC, scale_tril=TRIL.expand(2, 3, 3)),
    "bernoulli": Bernoulli(UNIT),
    "continuous-bernoulli": ContinuousBernoulli(4 * LOC),
    "categorical": Categorical(probs=WEIGHTS),
    "poisson": Poisson(SCALE * 3),
    "negative-binomial": NegativeBinomial(LOC, SCALE),
    "logistic-mixture": DiscretizedLogisticMixture(LOC, LOC / 4, -SCALE),
    "colour-mixture": ColourLogisticMixture(
        WEIGHTS[:, 0].log(), LOC[..., None] / 4, -SCALE[..., None], UNIT[..., None], grid_dims=0
    ),
    "laplace": Laplace(LOC, SCALE),
    "student-t": StudentT(torch.tensor(9.0).double(), LOC, SCALE),
    "logit-laplace": LogitLaplace(LOC, SCALE),
    "binomial": Binomial(7, LOC),
    "ordinal": Ordinal(LOC, torch.tensor(-1.0).double(), SCALE[:, 0]),
    "mixture-diagonal": mixture(Independent(Normal(LOC[..., None] + torch.zeros(2).double(), SCALE[..., None]), 1)),
    "mixture-scalar": mixture(Normal(LOC, SCALE)),
    "mixture-full": mixture(MultivariateNormal(LOC[..., None].expand(2, 3, 3), scale_tril=TRIL.expand(2, 3, 3, 3))),
    "mixture-unknown": mixture(Gamma(SCALE, SCALE)),
    "unknown-gamma": Gamma(SCALE, SCALE),
    "unknown-lognormal": LogNormal(LOC / 4, SCALE / 4),
}


#: all but the one whose moments are sums over three channels at once: see test_colour
WITH_MOMENTS = [name for name in DISTRIBUTIONS if name != "colour-mixture"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sample_shape", [(), (4,), (2, 3)])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_shape_and_determinism(name, sample_shape):
    distribution = DISTRIBUTIONS[name]
    generator = seeded()
    first = draw(distribution, sample_shape, generator=generator)
    assert first.shape == (*sample_shape, *distribution.batch_shape, *distribution.event_shape)
    torch.testing.assert_close(draw(distribution, sample_shape, generator=seeded()), first, rtol=0, atol=0)
    later = [draw(distribution, sample_shape, generator=generator) for _ in range(20)]
    assert any(not torch.equal(other, first) for other in later), "the generator did not move on"


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_global_generator_is_neither_read_nor_moved(name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = draw(DISTRIBUTIONS[name], (3,), generator=seeded())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(draw(DISTRIBUTIONS[name], (3,), generator=seeded()), first)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_no_generator_is_the_global_one(name):
    torch.manual_seed(7)
    first = draw(DISTRIBUTIONS[name], (3,))
    torch.manual_seed(7)
    assert torch.equal(draw(DISTRIBUTIONS[name], (3,)), first)


def moments(distribution: Distribution) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(distribution, Categorical):
        k = torch.arange(3.0).double()
        first = (distribution.probs * k).sum(-1)
        return first, (distribution.probs * k**2).sum(-1) - first**2
    if isinstance(distribution, DiscretizedLogisticMixture):
        x = torch.arange(256.0).double()[:, None]
        p = distribution.log_prob(x).exp()
        return (p * x).sum(0), (p * x**2).sum(0) - (p * x).sum(0) ** 2
    return distribution.mean, distribution.variance


@pytest.mark.parametrize("name", WITH_MOMENTS)
def test_moments(name):
    n = 20_000
    x = draw(DISTRIBUTIONS[name], (n,), generator=seeded(2)).double()
    first, second = moments(DISTRIBUTIONS[name])
    certain = second == 0  # a Bernoulli with p = 0 or 1
    z_mean = (x.mean(0) - first) / (x.std(0) / math.sqrt(n))
    squares = (x - first).square()
    z_variance = (squares.mean(0) - second) / (squares.std(0) / math.sqrt(n))
    assert (z_mean[~certain].abs() < 4).all()
    assert (z_variance[~certain].abs() < 4).all()
    assert torch.equal(x.mean(0)[certain], first.double()[certain])


@pytest.mark.parametrize("name", ["multivariate", "mixture-full"])
def test_full_covariance(name):
    n = 20_000
    x = draw(DISTRIBUTIONS[name], (n,), generator=seeded(4))[:, 0]
    if name == "multivariate":
        covariance = TRIL @ TRIL.T
    else:  # within components, plus a common shift LOC[k] of all coordinates
        spread = (WEIGHTS[0] * LOC[0] ** 2).sum() - (WEIGHTS[0] * LOC[0]).sum() ** 2
        covariance = TRIL @ TRIL.T + spread
    centred = x - x.mean(0)
    products = centred[:, :, None] * centred[:, None, :]
    z = (products.mean(0) - covariance) / (products.std(0) / math.sqrt(n))
    assert (z.abs() < 4).all()


@pytest.mark.parametrize("name", ["categorical", "mixture-scalar"])
def test_every_category_of_every_batch_element(name):
    """Each batch element has weights of its own; a transposed draw would mix them up."""
    n = 20_000
    if name == "categorical":
        k = draw(Categorical(probs=WEIGHTS), (n,), generator=seeded(1))
    else:
        apart = torch.tensor([0.0, 100.0, 200.0]).double().expand(2, 3)
        k = (draw(mixture(Normal(apart, torch.ones(2, 3).double())), (n,), generator=seeded(1)) / 100).round()
    for category in range(3):
        p = WEIGHTS[:, category]
        z = ((k == category).double().mean(0) - p) / (p * (1 - p) / n).sqrt()
        assert (z.abs() < 4).all()


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: Independent(d, 1)], ids=["normal", "independent"])
def test_gradient_of_a_normal_draw_is_that_of_the_path(wrap):
    loc, scale = LOC.clone().requires_grad_(), SCALE.clone().requires_grad_()
    z = draw(wrap(Normal(loc, scale)), (5,), generator=seeded())
    epsilon = ((z - loc) / scale).detach()
    upstream = torch.randn(z.shape, dtype=z.dtype, generator=seeded(1))
    by_loc, by_scale = torch.autograd.grad((upstream * z).sum(), (loc, scale))
    torch.testing.assert_close(by_loc, upstream.sum(0))
    torch.testing.assert_close(by_scale, (upstream * epsilon).sum(0))  # z = μ + σ ε


def test_gradient_of_a_multivariate_draw_is_that_of_the_path():
    loc, tril = LOC.clone().requires_grad_(), TRIL.clone().requires_grad_()
    z = draw(MultivariateNormal(loc, scale_tril=tril.expand(2, 3, 3)), (5,), generator=seeded())
    epsilon = torch.linalg.solve_triangular(TRIL, (z - loc).detach().unsqueeze(-1), upper=False).squeeze(-1)
    upstream = torch.randn(z.shape, dtype=z.dtype, generator=seeded(1))
    by_loc, by_tril = torch.autograd.grad((upstream * z).sum(), (loc, tril))
    torch.testing.assert_close(by_loc, upstream.sum(0))
    torch.testing.assert_close(by_tril, torch.einsum("sbi,sbj->ij", upstream, epsilon))


@pytest.mark.parametrize("make", [Gamma, Beta, LogNormal])
def test_unknown_types_keep_their_own_gradient(make):
    a, b = SCALE.clone().requires_grad_(), SCALE.clone().requires_grad_()
    z = draw(make(a, b), (4,), generator=seeded())
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(z.sum(), (a, b)))


def test_draws_of_a_mixture_have_no_gradient():
    loc = LOC.clone().requires_grad_()
    assert not draw(mixture(Normal(loc, SCALE)), (2,), generator=seeded()).requires_grad


@pytest.mark.parametrize(
    "name", ["normal", "independent", "multivariate", "categorical", "mixture-diagonal", "mixture-full"]
)
def test_detach_keeps_the_density_and_cuts_the_parameters(name):
    parameters = [t.clone().requires_grad_() for t in (LOC, SCALE, TRIL, WEIGHTS)]
    loc, scale, tril, weights = parameters
    build = {
        "normal": lambda: Normal(loc, scale),
        "independent": lambda: Independent(Normal(loc, scale), 1),
        "multivariate": lambda: MultivariateNormal(loc, scale_tril=tril.expand(2, 3, 3)),
        "categorical": lambda: Categorical(probs=weights),
        "colour-mixture": ColourLogisticMixture(
            WEIGHTS[:, 0].log(), LOC[..., None] / 4, -SCALE[..., None], UNIT[..., None], grid_dims=0
        ),
        "mixture-diagonal": lambda: MixtureSameFamily(Categorical(probs=weights), Normal(loc, scale)),
        "mixture-full": lambda: MixtureSameFamily(
            Categorical(probs=weights), MultivariateNormal(loc[..., None], scale_tril=tril[:1, :1].expand(2, 3, 1, 1))
        ),
    }
    attached = build[name]()
    x = draw(attached, generator=seeded()).detach().clone()
    if x.is_floating_point():
        x.requires_grad_()
    density = detach(attached).log_prob(x)
    torch.testing.assert_close(density, attached.log_prob(x))
    assert attached.log_prob(x.detach()).requires_grad
    assert not detach(attached).log_prob(x.detach()).requires_grad
    if x.is_floating_point():
        cut, whole = (torch.autograd.grad(d.log_prob(x).sum(), x)[0] for d in (detach(attached), attached))
        torch.testing.assert_close(cut, whole)


def test_detach_of_an_unknown_type_names_the_estimator_that_works():
    with pytest.raises(ElbowroomError, match=r"Gamma.*(\n.*)?pathwise"):
        detach(Gamma(SCALE, SCALE))


@pytest.mark.parametrize("name", WITH_MOMENTS)
def test_mean(name):
    torch.testing.assert_close(mean(DISTRIBUTIONS[name]), moments(DISTRIBUTIONS[name])[0])


def test_a_categorical_without_draws():
    assert noise.category(torch.zeros(2, 3), (0, 2), seeded()).shape == (0, 2)
