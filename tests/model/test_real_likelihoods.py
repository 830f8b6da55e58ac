"""Likelihoods of real numbers: their units and their scales; the laws of all likelihoods are in test_likelihoods."""

from __future__ import annotations

import math

import torch

from elbowroom.model.networks import MLP
from elbowroom.model.real_likelihoods import Gaussian


def test_gaussian_is_in_the_datas_units():
    shift, unit = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 0.1])
    network = MLP((2,), (2, 2), hidden=())
    network.output.weight.data.zero_()
    network.set_output_bias(torch.tensor([[0.5, -1.0], [0.0, 2.0]]))
    distribution = Gaussian(network, (2,), scale="per-element", shift=shift, unit=unit, min_scale=0.01)(
        torch.zeros(1, 2)
    )
    softplus = torch.tensor([math.log(2), math.log1p(math.exp(2.0))])
    torch.testing.assert_close(distribution.mean[0], torch.tensor([6.0, 1.9]))
    torch.testing.assert_close(distribution.stddev[0], unit * (0.01 + softplus))


def test_a_given_scale_is_in_the_datas_units_and_exact():
    network = MLP((2,), (1, 2), hidden=())
    likelihood = Gaussian(network, (2,), scale=0.7, unit=torch.tensor(10.0)).double()
    assert (likelihood(torch.zeros(1, 2).double()).stddev == 0.7).all()


def test_learned_scale_starts_at_the_unit():
    likelihood = Gaussian(MLP((2,), (1, 2)), (2,), unit=torch.tensor([10.0, 3.0]))
    torch.testing.assert_close(likelihood(torch.zeros(1, 2)).stddev[0], torch.tensor([10.0, 3.0]), rtol=2e-3, atol=0)
