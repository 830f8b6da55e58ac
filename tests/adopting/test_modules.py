"""Adopted networks: reached by evaluation mode, held against the shapes of data and prior."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal

from elbowroom.adopting.modules import adopt_decoder, adopt_encoder, adopt_prior
from elbowroom.errors import ElbowroomError
from elbowroom.model.priors import StandardNormal


def test_evaluation_mode_reaches_networks_inside_functions() -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))
    likelihood = adopt_decoder(lambda z: net(z), "bernoulli", "logits", (4,))
    guide = adopt_encoder(lambda x: net(x[:, :2]), "mean-logvar", (4,), 2)
    for part in (likelihood, guide):
        net.train()
        part.eval()
        assert not net[1].training
    assert len(list(adopt_decoder(net, "bernoulli", "logits", (4,)).parameters())) == 4  # a module is there once


@pytest.mark.parametrize(
    "prior",
    [
        Independent(Normal(torch.zeros(3), 1.0), 1),
        Normal(torch.zeros(3), 1.0),
        lambda: Normal(torch.zeros(3), torch.ones(3)),
        MultivariateNormal(torch.zeros(3), torch.eye(3)),
        StandardNormal(3),
    ],
    ids=["independent", "normal", "function", "full", "conditional"],
)
def test_a_prior_of_another_size_is_refused(prior: Any) -> None:
    with pytest.raises(ElbowroomError, match=r"vectors of shape \(3,\), but the encoder's z has 2 elements"):
        adopt_prior(prior, 2)
    assert adopt_prior(prior, 3)(None).log_prob(torch.zeros(5, 3)).shape == (5,)


@pytest.mark.parametrize(
    "outputs",
    [lambda x: (x[:, :2], torch.eye(2).expand(len(x), 2, 2)), lambda x: (x[:1, :2], x[:1, :2])],
    ids=["covariance", "one-datum"],
)
def test_a_spread_has_the_shape_of_its_mean(outputs: Any) -> None:
    guide = adopt_encoder(outputs, "mean-scale", (4,), 2)
    with pytest.raises(ElbowroomError, match="a mean and a spread are needed"):
        guide(torch.ones(3, 4))


def test_a_decoder_that_returns_its_log_scale() -> None:
    def decoder(z: Tensor) -> dict[str, Tensor]:
        return {"mu": z, "log_sigma": 0.3 * z}

    likelihood = adopt_decoder(decoder, "gaussian", "mean-logscale", (2,))
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(likelihood(z).stddev, torch.exp(0.3 * z))


def test_a_laplace_decoder_returns_location_and_scale() -> None:
    z = torch.randn(5, 2)
    likelihood = adopt_decoder(lambda z: (z, (0.3 + z).exp()), "laplace", "mean-scale", (2,))
    torch.testing.assert_close(likelihood(z).loc, z)
    torch.testing.assert_close(likelihood(z).scale, (0.3 + z).exp(), rtol=1e-4, atol=1e-6)
    assert adopt_decoder(lambda z: z, "laplace", "mean", (2,), scale=0.5)(z).scale.unique() == 0.5


@pytest.mark.parametrize("name", ["student-t", "binomial", "ordinal", "categorical"])
def test_what_no_decoder_returns_is_said(name: str) -> None:
    with pytest.raises(ElbowroomError, match="not among the outputs of a decoder"):
        adopt_decoder(lambda z: z, name, "parameters", (2,))
