"""Logarithms of gamma functions and of numbers near one, by series where the closed form would cancel.

The densities of counts are differences of numbers that grow with the counts; written in terms of these functions they
keep their digits in float32, however large the counts are.

Reference:
    Loader (2000), Fast and Accurate Computation of Binomial Probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["exp_less_line", "log_gamma_ratio", "log_near_1", "polynomial", "stirling_error", "stirling_tail"]


def polynomial(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """c₀ + c₁ x + c₂ x² + …, by Horner's rule.

    Example:
        >>> polynomial(torch.tensor(2.0), (1.0, 0.0, 3.0))
        tensor(13.)
    """
    out = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        out = out * x + coefficient
    return out


def log_near_1(excess: Tensor, log: Tensor) -> Tensor:
    """log(1 + excess): by itself where the excess is small; elsewhere ``log``.

    Args:
        excess: above −1.
        log: log(1 + excess), computed in a way that is accurate where the excess is large.
    Example:
        >>> log_near_1(torch.tensor(1e-9), torch.tensor(0.0))
        tensor(1.0000e-09)
    """
    near = excess.abs() < 0.5
    return torch.where(near, torch.log1p(torch.where(near, excess, 0.0)), log)


def exp_less_line(t: Tensor) -> Tensor:
    """e^t − 1 − t, by its series where that is the more accurate.

    Example:
        >>> exp_less_line(torch.tensor(1e-4))  # t² / 2
        tensor(5.0002e-09)
    """
    small = t.abs() < 0.1
    near = torch.where(small, t, 0.0)
    far = torch.where(small, 1.0, t)
    series = near.square() * polynomial(near, (1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 720, 1 / 5040, 1 / 40320))
    return torch.where(small, series, torch.expm1(far) - far)


def log_gamma_ratio(r: Tensor, x: Tensor | float) -> Tensor:
    """log Γ(r + x) − log Γ(r), by Stirling's series where r is large: the difference of logarithms would cancel.

    Args:
        r: positive.
        x: 0 or more; the shapes broadcast.
    Example:
        >>> log_gamma_ratio(torch.tensor(1e6), 1.0)  # log 1e6
        tensor(13.8155)
    """
    large = r > 50
    safe = torch.where(large, r, 50.0)
    total = safe + x
    stirling = (
        (safe - 0.5) * torch.log1p(x / safe) + x * (torch.log(total) - 1) + stirling_tail(total) - stirling_tail(safe)
    )
    moderate = torch.where(large, 50.0, r)
    return torch.where(large, stirling, torch.lgamma(moderate + x) - torch.lgamma(moderate))


def stirling_tail(r: Tensor) -> Tensor:
    """log Γ(r) − (r − ½) log r + r − ½ log 2π, for r > 50.

    Example:
        >>> stirling_tail(torch.tensor(100.0))  # about 1 / 12 r
        tensor(0.0008)
    """
    inverse = 1 / r
    return inverse * polynomial(inverse.square(), (1 / 12, -1 / 360, 1 / 1260))


def stirling_error(x: Tensor) -> Tensor:
    """log x! − (x + ½) log x + x − ½ log 2π, for x of 1 or more.

    Example:
        >>> stirling_error(torch.tensor([1.0, 1000.0]))
        tensor([8.1061e-02, 8.3333e-05])
    """
    large = x > 50
    few = torch.where(large, 50.0, x)
    exact = torch.lgamma(few + 1) - (few + 0.5) * few.log() + few - 0.5 * math.log(2 * math.pi)
    return torch.where(large, stirling_tail(torch.where(large, x, 50.0)), exact)
