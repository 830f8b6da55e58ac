"""Averages over the prior: unbiased for p(x), and useless once x says much about z."""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.inference.objectives import iwae
from elbowroom.learners.naive import naive
from elbowroom.learners.update import Update
from elbowroom.model.guides import PriorGuide
from elbowroom.model.latent import LatentModel, Pair
from elbowroom.model.oracles import LinearGaussian, ppca
from elbowroom.model.priors import MixtureOfGaussians

RATE = 0.01
ASCENT = Update(optimizer=functools.partial(torch.optim.SGD, lr=RATE), total_steps=10)


def _pair(latent_dim: int = 2, num_data: int = 24) -> tuple[Pair, Tensor]:
    model, _, x = ppca(5, latent_dim, seed=0, num_data=num_data)
    return Pair(model, PriorGuide(model.prior)), x


def _generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_step_is_that_of_the_tutorials_formula() -> None:
    """log (1/K) Σ p(x | z_k), written out, with the same draws."""
    pair, x = _pair()
    start = [weight.detach().clone() for weight in pair.parameters()]
    z = torch.randn(7, 24, 2, generator=_generator(), dtype=torch.float64)
    assert isinstance(pair.model, LinearGaussian)
    residual = x - (z @ pair.model.weight.T + pair.model.bias)
    log_likelihood = (-0.5 * (residual / 0.7).square() - math.log(0.7 * math.sqrt(2 * math.pi))).sum(-1)
    value = log_likelihood.exp().mean(0).log()
    gradients = torch.autograd.grad(value.mean(), list(pair.parameters()))

    learner = naive(num_samples=7, update=ASCENT)
    state, info = learner.step(learner.init(pair), Batch(x), generator=_generator())
    for weight, old, gradient in zip(pair.parameters(), start, gradients, strict=True):
        torch.testing.assert_close(weight, old + RATE * gradient, rtol=1e-9, atol=1e-12)
    weights = torch.softmax(log_likelihood, 0)
    ess = 1 / weights.square().sum(0)
    expected = {"naive": value.mean().item(), "elbo": log_likelihood.mean().item(), "ess": ess.mean().item()}
    assert info.terms == pytest.approx(expected)
    assert info.decoder_gradients == 7 * 24
    assert (info.beta, state.step) == (None, 1)


def test_the_average_is_unbiased_for_the_density() -> None:
    pair, x = _pair(num_data=3)
    learner = naive(num_samples=5, update=ASCENT)
    with torch.no_grad():
        measured = learner.measure(pair, Batch(x.repeat(20_000, 1)), generator=_generator())["naive"]
        exact = pair.model.log_evidence(x)  # type: ignore[operator]
    ratio = (measured.view(20_000, 3) - exact).exp()
    scores = (ratio.mean(0) - 1) / (ratio.std(0) / math.sqrt(20_000))
    assert scores.abs().max() < 4
    assert ratio.log().mean() < -0.1  # and its logarithm is biased downwards


def test_ever_fewer_draws_count_as_the_dimension_grows() -> None:
    shares = []
    for latent_dim in (1, 2, 4, 8):
        model, _, x = ppca(8, latent_dim, seed=0, num_data=200)
        pair = Pair(model, PriorGuide(model.prior))
        terms = naive(num_samples=100, update=ASCENT).measure(pair, Batch(x), generator=_generator())
        shares.append(terms["ess"].mean().item() / 100)
    assert all(later < 0.7 * before for before, later in itertools.pairwise(shares))
    assert shares[-1] < 0.03


def test_there_is_no_guide_to_learn() -> None:
    pair, _ = _pair()
    assert not list(naive(num_samples=2, update=ASCENT).init(pair).pair.guide.parameters())


def test_a_prior_with_weights_learns_by_its_score() -> None:
    """The expected gradient of log (1/K) Σ p(x | z_k) in a mixture's weights, for K = 1 in closed form.

    With K = 1 it is that of Σ_m π_m E_m[log p(x | z)], and the inner expectations are known for a linear model.
    """
    linear, _, x = ppca(5, 2, seed=0, num_data=4)
    torch.manual_seed(3)
    prior = MixtureOfGaussians(2, 2).double()
    pair = Pair(LatentModel(prior, linear.likelihood), PriorGuide(prior))
    mixture = prior(None)
    components, log_weights = mixture.component_distribution, mixture.mixture_distribution.logits
    mean = components.mean @ linear.weight.detach().T + linear.bias.detach()
    spread = components.variance @ linear.weight.detach().square().sum(0) / (2 * 0.7**2)
    of_component = torch.distributions.Normal(mean.unsqueeze(-2), 0.7).log_prob(x).sum(-1).mean(-1) - spread
    exact = (log_weights.softmax(-1).flatten() * of_component.flatten()).sum()
    weights = list(prior.parameters())
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(exact, weights)])

    learner = naive(num_samples=1, update=ASCENT, estimator="score-function")
    state, noise, moved = learner.init(pair), _generator(), []
    several = Batch(x.repeat(6, 1))  # of the same mean gradient, each example with a draw of its own
    start = [weight.detach().clone() for weight in pair.parameters()]
    for _ in range(100):
        learner.step(state, several, generator=noise)
        moved.append(torch.cat([((w - s) / RATE).detach().flatten() for w, s in zip(weights, start, strict=False)]))
        with torch.no_grad():
            for weight, old in zip(pair.parameters(), start, strict=True):
                weight.copy_(old)
    gradients = torch.stack(moved)
    scores = (gradients.mean(0) - expected) / (gradients.std(0) / math.sqrt(len(gradients)))
    assert scores.abs().max() < 4


def test_it_is_the_importance_weighted_bound_of_the_prior() -> None:
    pair, x = _pair()
    learner = naive(num_samples=9, update=ASCENT)
    assert learner.name == "naive"
    measured = learner.measure(pair, Batch(x), generator=_generator())["naive"]
    bound = iwae(pair.model, pair.guide, Batch(x), num_samples=9, generator=_generator())
    assert torch.equal(measured, bound)
