"""The joint density and ancestral draws."""

from __future__ import annotations

import math

import pytest
import torch

from elbowroom.errors import ElbowroomError
from elbowroom.model.draws import mean
from elbowroom.model.latent import LatentModel, evaluation_mode
from elbowroom.model.likelihoods import Bernoulli, Gaussian
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import ppca
from elbowroom.model.priors import MixtureOfGaussians, StandardNormal


def bernoulli_model() -> LatentModel:
    torch.manual_seed(0)
    return LatentModel(StandardNormal(2), Bernoulli(MLP((2,), (1, 4, 3), hidden=(6,)), (4, 3)))


def test_joint_is_prior_plus_likelihood_by_hand():
    model = bernoulli_model()
    z = torch.randn(5, 7, 2)
    x = (torch.rand(7, 4, 3) < 0.5).float()
    probability = model.likelihood(z).probs
    by_hand = (x * probability.log() + (1 - x) * (1 - probability).log()).sum((-2, -1))
    prior = -0.5 * z.square().sum(-1) - math.log(2 * math.pi)
    torch.testing.assert_close(model.log_likelihood(x, z), by_hand)
    torch.testing.assert_close(model.log_prior(z), prior)
    torch.testing.assert_close(model.log_joint(x, z), prior + by_hand)
    assert model.log_joint(x, z[0]).shape == (7,)


def test_unobserved_elements_add_nothing_and_carry_no_gradient():
    model = bernoulli_model()
    z = torch.randn(7, 2, requires_grad=True)
    x = (torch.rand(7, 4, 3) < 0.5).float()
    nothing = torch.zeros(7, 4, 3, dtype=torch.bool)
    value = model.log_likelihood(x, z, mask=nothing)
    assert (value == 0).all()
    assert (torch.autograd.grad(value.sum(), z)[0] == 0).all()


def test_samples_are_draws_and_means_are_means():
    model = bernoulli_model()
    sample = model.sample(200, generator=torch.Generator().manual_seed(0))
    assert sample.z.shape == (200, 2)
    assert ((sample.x == 0) | (sample.x == 1)).all()
    torch.testing.assert_close(sample.mean, mean(model.likelihood(sample.z)))
    again = model.sample(200, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sample.x, again.x)
    residual = (sample.x - sample.mean).sum((-2, -1))
    z_score = residual.mean() / (residual.std() / math.sqrt(200))
    assert abs(z_score) < 4


def test_x_is_drawn_from_its_own_z():
    model, _, _ = ppca(4, 2, seed=0)
    sample = model.sample(20_000, generator=torch.Generator().manual_seed(1))
    residual = (sample.x - sample.mean) / model.noise_scale
    assert (residual.mean(0).abs() * math.sqrt(20_000) < 4).all()
    squares = residual.square()
    assert ((squares.mean(0) - 1).abs() / (squares.std(0) / math.sqrt(20_000)) < 4).all()


def test_context_reaches_prior_and_likelihood():
    torch.manual_seed(0)
    prior = MixtureOfGaussians(2, 3, context_dim=2)
    model = LatentModel(prior, Gaussian(MLP((2,), (1, 3), context_dim=2), (3,)))
    context = torch.randn(6, 2)
    assert model.sample(6, context=context, generator=torch.Generator().manual_seed(0)).x.shape == (6, 3)
    x, z = torch.randn(6, 3), torch.randn(4, 6, 2)
    for density in (
        lambda c: model.log_prior(z, c),
        lambda c: model.log_likelihood(x, z, context=c),
        lambda c: model.log_joint(x, z, context=c),
    ):
        assert density(context).shape == (4, 6)
        assert not torch.allclose(density(context), density(context + 1))


def test_a_context_of_another_number_of_rows_is_refused():
    torch.manual_seed(0)
    model = LatentModel(StandardNormal(2), Bernoulli(MLP((2,), (1, 4), context_dim=3), (4,)))
    assert model.sample(5, context=torch.zeros(5, 3)).x.shape == (5, 4)
    for context in (torch.zeros(5, 3), torch.zeros(3)):
        with pytest.raises(ElbowroomError, match="25 samples"):
            model.sample(25, context=context)


def test_evaluation_mode_is_left_after_a_failure_too():
    model = bernoulli_model()
    network = model.likelihood.network.eval()  # modes may differ within a model
    with pytest.raises(ZeroDivisionError), evaluation_mode(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        raise ZeroDivisionError
    assert model.training and not network.training
    assert torch.is_grad_enabled()
