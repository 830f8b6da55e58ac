"""Levels between cut points: a distribution at any parameters, its draws, and its Fisher information."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from elbowroom.model.ordinal import Ordinal

LOCATIONS = [-1e4, -40.0, -3.0, 0.0, 0.7, 40.0, 1e4]


def levels(dtype: torch.dtype, gaps: list[float], location: float, first: float = -1.0) -> Ordinal:
    return Ordinal(*(torch.tensor(number, dtype=dtype) for number in (location, first, gaps)))


def all_of(distribution: Ordinal) -> Tensor:
    return torch.arange(distribution.levels).to(distribution.location)


def test_it_is_the_difference_of_two_cumulative_logits():
    """McCullagh (1980), by element: two elements with cut points of their own."""
    first, gaps, f = torch.tensor([-1.0, 0.5]), torch.tensor([[0.5, 2.0], [1.5, 0.1]]), torch.tensor([0.3, -0.4])
    distribution = Ordinal(f.double(), first.double(), gaps.double())
    for element, cuts in enumerate([[-1.0, -0.5, 1.0], [0.5, 2.5, 2.6]]):
        below = [0.0, *(1 / (1 + math.exp(float(f[element]) - cut)) for cut in cuts), 1.0]
        for k in range(4):
            log_p = distribution.log_prob(torch.tensor(float(k)).double())[element]
            assert log_p.item() == pytest.approx(math.log(below[k + 1] - below[k]), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("gaps", [[], [1e-6, 1e-6], [3e6, 3e6], [1e-6, 2.0, 3e6]], ids=str)
@pytest.mark.parametrize("location", LOCATIONS)
def test_it_sums_to_one_and_is_finite_at_extremes(location, gaps, dtype):
    location_ = torch.tensor(location, dtype=dtype, requires_grad=True)
    widths = torch.tensor(gaps, dtype=dtype, requires_grad=True)
    distribution = Ordinal(location_, torch.tensor(-1.0, dtype=dtype), widths)
    log_p = distribution.log_prob(all_of(distribution))
    assert log_p.isfinite().all()
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-5 if dtype == torch.float32 else 1e-12)
    log_p.sum().backward()
    assert location_.grad.isfinite() and widths.grad.isfinite().all()
    assert distribution.information.isfinite()


def test_a_level_far_from_likely_keeps_its_digits_in_single_precision():
    """Between 40 and 41, where both sigmoids are 1: e⁻⁴⁰ − e⁻⁴¹."""
    found = levels(torch.float32, [1.0], 0.0, first=40.0).log_prob(torch.tensor(1.0))
    assert found.item() == pytest.approx(math.log(math.exp(-40) - math.exp(-41)), abs=1e-5)


def test_two_levels_are_a_bernoulli():
    distribution = levels(torch.float64, [], 0.3)
    torch.testing.assert_close(distribution.log_prob(torch.tensor(1.0)), torch.tensor(1.3).double().sigmoid().log())


def test_there_is_no_level_above_the_highest():
    distribution = levels(torch.float64, [1.0, 1.0], 0.0)
    assert distribution.log_prob(torch.tensor([3.0, 4.0])).isfinite().tolist() == [True, False]
    assert distribution.log_prob(torch.tensor(4.0)) == -math.inf


def test_moments_are_sums_over_the_levels():
    distribution = levels(torch.float64, [0.5, 2.0, 0.1], 0.7)
    x = all_of(distribution)
    p = distribution.log_prob(x).exp()
    torch.testing.assert_close(distribution.mean, (p * x).sum())
    torch.testing.assert_close(distribution.variance, (p * x.square()).sum() - (p * x).sum().square())


def test_draws_have_its_probabilities():
    distribution, n = levels(torch.float64, [0.5, 2.0, 0.1], 0.7), 20_000
    x = distribution.sample((n,), torch.Generator().manual_seed(0))
    p = distribution.log_prob(all_of(distribution)).exp()
    share = torch.stack([(x == k).double().mean() for k in all_of(distribution)])
    assert ((share - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all()


@pytest.mark.parametrize("location", [-6.0, 0.0, 5.0])
def test_information_is_the_mean_square_of_the_score(location):
    f = torch.tensor(location).double().requires_grad_()
    distribution = Ordinal(f, torch.tensor(-1.0).double(), torch.tensor([0.5, 2.0]).double())
    log_p = distribution.log_prob(all_of(distribution))
    scores = torch.stack([torch.autograd.grad(one, f, retain_graph=True)[0] for one in log_p])
    torch.testing.assert_close(distribution.information.detach(), (log_p.exp() * scores.square()).sum().detach())
