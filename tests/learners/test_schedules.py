"""Schedules are pure functions of progress; torch's schedulers, which keep state, are the oracle."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from elbowroom.learners.schedules import SCHEDULES, constant, cosine, iwae_stages, one_cycle


def _rates(make: type[LRScheduler], steps: int, **settings: float) -> list[float]:
    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler = make(optimizer, **settings)
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("steps", [7, 100])
def test_cosine_is_torchs(steps: int) -> None:
    ours = [cosine(step / steps) for step in range(steps)]
    assert ours == pytest.approx(_rates(CosineAnnealingLR, steps, T_max=steps), abs=1e-12)


def test_one_cycle_is_torchs_step_by_step() -> None:
    """Torch is at its end in the last step and at its peak in step pct_start · n − 1, so progress is step / (n − 1)."""
    steps = 101
    theirs = _rates(OneCycleLR, steps, max_lr=1.0, total_steps=steps, pct_start=31 / steps, final_div_factor=1e4)
    ours = [one_cycle(step / (steps - 1)) for step in range(steps)]
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_one_cycle_peaks_at_three_tenths() -> None:
    assert one_cycle(0.0) == pytest.approx(1 / 25)
    assert one_cycle(0.3) == pytest.approx(1.0)
    assert one_cycle(1.0) == pytest.approx(4e-6)


def test_iwae_stages_are_the_papers() -> None:
    """Stage i has 3^i epochs at 10^(−i/7) of the peak: 1, 3, 9, …, 2187 epochs, 3,280 in all."""
    factors = [iwae_stages(epoch / 3280) for epoch in range(3280)]
    expected = [10 ** (-i / 7) for i in range(8) for _ in range(3**i)]
    assert factors == pytest.approx(expected)
    assert factors[-1] == pytest.approx(0.1)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_a_factor_lies_between_0_and_1(name: str) -> None:
    factors = [SCHEDULES[name](step / 997) for step in range(997)]
    assert all(math.isfinite(factor) and 0 < factor <= 1 + 1e-12 for factor in factors)
    assert max(factors) == pytest.approx(1, abs=1e-4)


def test_constant_is_one() -> None:
    assert {constant(step / 10) for step in range(10)} == {1.0}
