"""Likelihoods of real numbers: their units and their scales; the laws of all likelihoods are in test_likelihoods."""

from __future__ import annotations

import math

import pytest
import torch

from elbowroom.errors import ElbowroomError
from elbowroom.model.networks import MLP
from elbowroom.model.real_likelihoods import Gaussian, Laplace, LocationScale, StudentT


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


# --- heavy tails -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Gaussian, Laplace, StudentT])
def test_all_have_the_same_units_and_scales(kind: type[LocationScale]):
    network, z = MLP((2,), (2, 3)), torch.randn(5, 2)
    settings = {"scale": "per-element", "shift": torch.tensor(3.0), "unit": torch.tensor([1.0, 20.0, 0.1])}
    one, other = Gaussian(network, (3,), **settings)(z), kind(network, (3,), **settings)(z)
    torch.testing.assert_close(other.mean, one.loc)
    torch.testing.assert_close(other.scale, one.scale)


def test_degrees_of_freedom_start_at_five_and_are_learned_for_each_element():
    likelihood = StudentT(MLP((2,), (1, 3)), (3,))
    torch.testing.assert_close(likelihood.degrees, torch.full((3,), 5.0))
    with torch.no_grad():
        likelihood.log_degrees.copy_(torch.tensor([-1e3, 0.0, 1e3]))
    torch.testing.assert_close(likelihood.degrees, torch.tensor([2.1, 3.1, 2.1 + math.exp(10)]), rtol=0, atol=1e-2)


def test_many_degrees_of_freedom_are_a_gaussian():
    network, z, x = MLP((2,), (1, 3)), torch.randn(5, 2), torch.randn(5, 3)
    heavy, normal = StudentT(network, (3,), degrees_of_freedom=1e9, scale=0.7), Gaussian(network, (3,), scale=0.7)
    torch.testing.assert_close(heavy(z).log_prob(x), normal(z).log_prob(x), rtol=1e-5, atol=1e-5)


def test_given_degrees_of_freedom_are_not_learned():
    likelihood = StudentT(MLP((2,), (1, 3)), (3,), degrees_of_freedom=3.0)
    assert {name for name, _ in likelihood.named_parameters() if not name.startswith("network")} == {"raw_scale"}
    assert likelihood(torch.zeros(1, 2)).variance.isfinite().all()


@pytest.mark.parametrize("degrees", [1.0, -3.0, math.inf, "free"])
def test_other_degrees_of_freedom_are_refused(degrees):
    with pytest.raises(ElbowroomError, match="degrees of freedom"):
        StudentT(MLP((2,), (1, 3)), (3,), degrees_of_freedom=degrees)
