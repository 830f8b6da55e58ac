"""What is written out by hand is what torch would make of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from elbowroom.model import latent
from elbowroom.model.fused import BACKWARD, activate, bernoulli_log_prob_, bernoulli_total
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli, CrossEntropy
from elbowroom.model.networks import ACTIVATIONS, MLP
from elbowroom.model.priors import StandardNormal


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_has_its_own_derivative(activation):
    module = ACTIVATIONS[activation]()
    pre = torch.randn(5, 7, generator=seeded(), dtype=torch.float64, requires_grad=True)
    slope = torch.randn(5, 7, generator=seeded(1), dtype=torch.float64)
    (wanted,) = torch.autograd.grad((module(pre) * slope).sum(), pre)
    given = pre.detach()
    h = activate(module, given.clone())
    torch.testing.assert_close(h, module(given))
    torch.testing.assert_close(BACKWARD[type(module)](module, slope.clone(), given, h), wanted)


def test_every_activation_has_a_derivative():
    assert {type(make()) for make in ACTIVATIONS.values()} == set(BACKWARD)


@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
def test_the_log_probability_is_torchs(scale):
    logits = scale * torch.randn(3, 5, 7, generator=seeded(), dtype=torch.float64)
    x = torch.rand(5, 7, generator=seeded(1), dtype=torch.float64)
    wanted = -nn.functional.binary_cross_entropy_with_logits(logits, x.expand(3, 5, 7), reduction="none").sum(-1)
    torch.testing.assert_close(bernoulli_total(logits, x, torch.empty_like(logits)), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("elements", [1, 2, 3, 33, 63, 784, 1001])
def test_the_sum_by_products_is_the_sum_of_logarithms(elements, dtype):
    logits = torch.randn(4, elements, generator=seeded(), dtype=dtype) * 3
    logits[0] = 0.0  # the smallest factors
    x = torch.rand(4, elements, generator=seeded(1), dtype=dtype)
    elementwise = bernoulli_log_prob_(logits, x, torch.empty_like(logits)).double().sum(-1)
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-13}[dtype]
    torch.testing.assert_close(
        bernoulli_total(logits, x, torch.empty_like(logits)).double(), elementwise, rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("kind", [Bernoulli, CrossEntropy])
def test_a_model_takes_it_where_no_gradient_is_wanted(kind, monkeypatch):
    likelihood = kind(MLP((2,), (1, 2, 3), hidden=(4,)), (2, 3)).double()
    model = LatentModel(StandardNormal(2), likelihood)
    z = torch.randn(6, 5, 2, generator=seeded(), dtype=torch.float64)
    x = torch.rand(5, 2, 3, generator=seeded(1), dtype=torch.float64).round()
    wanted = likelihood(z).log_prob(x).flatten(2).sum(-1)
    calls = []
    monkeypatch.setattr(latent, "bernoulli_total", lambda *given: calls.append(1) or bernoulli_total(*given))
    with torch.no_grad():
        torch.testing.assert_close(model.log_likelihood(x, z), wanted)
        assert len(calls) == 1
        one = z[:, :1]  # one z for all data
        torch.testing.assert_close(model.log_likelihood(x, one), likelihood(one).log_prob(x).flatten(2).sum(-1))
    leaf = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model.log_likelihood(x, leaf).sum(), leaf)
    assert len(calls) == 1
    torch.testing.assert_close(torch.func.grad(lambda given: model.log_likelihood(x, given).sum())(z), slope)
