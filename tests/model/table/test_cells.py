"""Probabilities of cells, against arithmetic of 60 digits."""

from __future__ import annotations

import itertools

import mpmath
import pytest
import torch

from elbowroom.model.table.cells import log_normal_below, log_normal_interval

MIDDLES = (0.0, 1e-4, 0.3, 2.0, 7.0, 40.0, 1e3, 1e5)
WIDTHS = (1e-7, 1e-3, 0.02, 0.0999, 0.1001, 0.7, 3.0, 50.0, 1e3)


def exact_interval(middle: float, width: float) -> tuple[float, float, float]:
    """log of the mass, and its derivatives by the middle and the width."""
    with mpmath.workdps(60):
        a, b = mpmath.mpf(middle) - mpmath.mpf(width) / 2, mpmath.mpf(middle) + mpmath.mpf(width) / 2
        if a > 20 or b - a < 0.1:  # the integral itself, of what φ(m) leaves
            half = mpmath.mpf(width) / 2
            middle_ = mpmath.mpf(middle)
            if a > 20:  # Q by its continued fraction would do as well; erfc of mpmath is exact at any size
                mass = (mpmath.erfc(a / mpmath.sqrt(2)) - mpmath.erfc(b / mpmath.sqrt(2))) / 2
            else:
                mass = mpmath.npdf(middle_) * mpmath.quad(lambda t: mpmath.exp(-middle_ * t - t * t / 2), [-half, half])
        else:
            mass = mpmath.ncdf(b) - mpmath.ncdf(a)
        at_a, at_b = mpmath.npdf(a) / mass, mpmath.npdf(b) / mass
        return float(mpmath.log(mass)), float(at_b - at_a), float((at_a + at_b) / 2)


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float64, 1e-11), (torch.float32, 1e-5)], ids=str)
def test_the_mass_of_an_interval_is_exact_in_both_tails_and_wherever_it_is_narrow(
    dtype: torch.dtype, digits: float
) -> None:
    for sign, (middle, width) in itertools.product((1, -1), itertools.product(MIDDLES, WIDTHS)):
        m = torch.tensor(sign * middle, dtype=dtype, requires_grad=True)
        w = torch.tensor(width, dtype=dtype, requires_grad=True)
        found = log_normal_interval(m, w)
        slopes = torch.autograd.grad(found, [m, w])
        value, by_middle, by_width = exact_interval(float(m.detach()), float(w.detach()))
        place = (sign * middle, width)
        scale = 1 + middle  # of a slope, in σ
        assert float(found.detach()) == pytest.approx(value, rel=digits, abs=digits), place
        assert float(slopes[0]) == pytest.approx(by_middle, rel=50 * digits, abs=50 * digits * scale), place
        assert float(slopes[1]) == pytest.approx(by_width, rel=50 * digits, abs=50 * digits * scale), place


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float64, 1e-13), (torch.float32, 1e-6)], ids=str)
def test_the_mass_below_a_number_is_exact_in_both_tails(dtype: torch.dtype, digits: float) -> None:
    for number in (-1e5, -1e3, -40.0, -3.0, -1e-3, 0.0, 0.5, 3.0, 12.0, 1e3):
        x = torch.tensor(number, dtype=dtype, requires_grad=True)
        found = log_normal_below(x)
        (slope,) = torch.autograd.grad(found, x)
        with mpmath.workdps(60):
            mass = mpmath.erfc(-mpmath.mpf(float(x.detach())) / mpmath.sqrt(2)) / 2
            value, by_x = float(mpmath.log(mass)), float(mpmath.npdf(mpmath.mpf(float(x.detach()))) / mass)
        assert float(found.detach()) == pytest.approx(value, rel=digits, abs=1e-37)
        assert float(slope) == pytest.approx(by_x, rel=10 * digits, abs=1e-37)
