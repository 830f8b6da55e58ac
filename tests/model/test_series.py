"""Series against sixty-digit arithmetic, in single and in double precision."""

from __future__ import annotations

import math
from decimal import Decimal, getcontext

import pytest
import torch

from elbowroom.model.series import exp_less_line, log_gamma_ratio, stirling_error

getcontext().prec = 60
PRECISION = {torch.float32: 2e-6, torch.float64: 1e-12}


@pytest.mark.parametrize("dtype", PRECISION, ids=str)
def test_the_exponential_less_its_line(dtype):
    t = torch.tensor([-20.0, -0.5, -1e-3, 1e-4, 0.09, 0.11, 3.0], dtype=dtype)
    exact = [float(Decimal(x).exp() - 1 - Decimal(x)) for x in t.tolist()]
    found = exp_less_line(t).double()
    torch.testing.assert_close(found, torch.tensor(exact, dtype=torch.float64), rtol=PRECISION[dtype], atol=0)


@pytest.mark.parametrize("dtype", PRECISION, ids=str)
def test_what_stirlings_formula_leaves(dtype):
    x = [1, 2, 7, 50, 51, 10_000]
    constant = math.log(2 * math.pi) / 2
    exact = [float(Decimal(math.factorial(n)).ln() - Decimal(n + 0.5) * Decimal(n).ln() + n) - constant for n in x]
    found = stirling_error(torch.tensor(x, dtype=dtype)).double()
    absolute = 2e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found, torch.tensor(exact, dtype=torch.float64), rtol=0, atol=absolute)


@pytest.mark.parametrize("dtype", PRECISION, ids=str)
@pytest.mark.parametrize("r", [1.0, 10.0, 50.0, 51.0, 1e4])
def test_ratios_of_gamma_functions(r, dtype):
    """Γ(r + 3) / Γ(r) is a product of three."""
    found = log_gamma_ratio(torch.tensor(r, dtype=dtype), 3.0).item()
    assert found == pytest.approx(math.log(r * (r + 1) * (r + 2)), rel=PRECISION[dtype])
