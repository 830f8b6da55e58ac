"""Student's t distribution against scipy's, and its draws against its distribution function."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch

from elbowroom.model.heavy_tails import StudentT

DEGREES = [1.01, 2.1, 5.0, 99.0, 101.0, 1e4, 1e8]
PRECISION = {torch.float32: 1e-5, torch.float64: 1e-9}


def at(degrees: float, dtype: torch.dtype = torch.float64) -> StudentT:
    return StudentT(*(torch.tensor(number, dtype=dtype) for number in (degrees, -1.0, 2.0)))


@pytest.mark.parametrize("dtype", PRECISION, ids=str)
@pytest.mark.parametrize("degrees", DEGREES)
def test_it_is_scipys_at_any_number_of_degrees(degrees, dtype):
    """In single precision, too, where two log-gamma functions of 1e8 would cancel to nothing."""
    x = torch.tensor([-1e6, -30.0, -1.0, 0.5, 12.0], dtype=dtype)
    expected = torch.from_numpy(scipy.stats.t.logpdf(x.double().numpy(), degrees, -1, 2))
    if degrees > 1e7:  # there scipy's own loses digits: the normal density, as long as t² is small beside ν
        x = x[1:]
        expected = torch.distributions.Normal(-1.0, 2.0).log_prob(x.double())
    relative = max(PRECISION[dtype], 1e-5 if degrees > 1e7 else 0.0)  # t⁴ / 4 ν
    torch.testing.assert_close(at(degrees, dtype).log_prob(x).double(), expected, rtol=relative, atol=relative)


@pytest.mark.parametrize("dtype", PRECISION, ids=str)
@pytest.mark.parametrize("degrees", DEGREES)
def test_its_gradients_are_finite_far_out(degrees, dtype):
    parameters = [torch.tensor(number, dtype=dtype, requires_grad=True) for number in (degrees, 0.0, 1e-6)]
    found = StudentT(*parameters).log_prob(torch.tensor([0.0, 1.0, 1e12], dtype=dtype))
    assert found.isfinite().all()
    found.sum().backward()
    assert all(parameter.grad.isfinite() for parameter in parameters)


@pytest.mark.parametrize("degrees", [1.2, 2.1, 6.0, 1e4])
def test_draws_have_its_distribution_function(degrees):
    n = 20_000
    x = at(degrees).sample((n,), torch.Generator().manual_seed(0))
    for p in (0.01, 0.2, 0.5, 0.9, 0.999):
        share = (x <= scipy.stats.t.ppf(p, degrees, -1, 2)).double().mean()
        assert abs(float(share - p)) < 4 * math.sqrt(p * (1 - p) / n)


def test_moments_exist_from_one_and_two_degrees_on():
    assert at(1.0).mean.isnan() and at(1.5).mean == -1
    assert at(0.9).variance.isnan() and at(2.0).variance.isinf()
    assert at(4.0).variance.item() == pytest.approx(8.0)
