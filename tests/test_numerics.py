"""Sums of exponentials that lie far apart, against torch's."""

from __future__ import annotations

import math

import pytest
import torch

from elbowroom.numerics import log_sum_exp


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [1.0, 30.0, 300.0, 3000.0])
def test_value_and_gradients_are_those_of_torch(spread: float, dtype: torch.dtype) -> None:
    drawn = torch.randn(50, 40, generator=torch.Generator().manual_seed(0), dtype=dtype) * spread
    drawn[0, 1:] = -math.inf  # terms that are none
    ours, theirs = (drawn.clone().requires_grad_() for _ in range(2))
    for values, summed in ((ours, log_sum_exp(ours)), (theirs, torch.logsumexp(theirs, -1))):
        (values.grad,) = torch.autograd.grad(summed @ torch.linspace(-1, 2, 50, dtype=dtype), values)
    torch.testing.assert_close(log_sum_exp(ours), torch.logsumexp(theirs, -1))
    assert ours.grad is not None and theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_second_derivatives() -> None:
    values = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(log_sum_exp, (values,))


def test_no_term_at_all() -> None:
    assert log_sum_exp(torch.full((2, 3), -math.inf)).tolist() == [-math.inf, -math.inf]


def test_the_axis_is_the_callers() -> None:
    values = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 500.0]])
    torch.testing.assert_close(log_sum_exp(values, 0), torch.logsumexp(values, 0))
