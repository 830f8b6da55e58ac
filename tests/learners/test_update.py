"""What every learner does with a gradient, apart from any model."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.learners.execution import eager
from elbowroom.learners.learner import TrainingState
from elbowroom.learners.update import (
    SCHEDULES,
    Update,
    UpdateInfo,
    constant,
    cosine,
    iwae_stages,
    one_cycle,
    warmup_cosine,
)
from elbowroom.model.latent import Pair
from elbowroom.model.oracles import ppca

SGD = functools.partial(torch.optim.SGD, lr=0.1)
BATCH = Batch(torch.zeros(4, 3))


def _state(update: Update) -> TrainingState:
    model, guide, _ = ppca(3, 2, seed=0)
    pair = Pair(model, guide)
    return TrainingState(0, pair, *update.optimizer_and_average(pair))


def _update(**settings: Any) -> Update:
    return Update(**{"optimizer": SGD, "total_steps": 10, **settings})


def _bowl(state: TrainingState) -> Tensor:
    """−½ |θ|², whose gradient is −θ."""
    return -0.5 * sum(weight.square().sum() for weight in state.pair.parameters())  # type: ignore[return-value]


def _weights(state: TrainingState) -> list[Tensor]:
    return [weight.detach().clone() for weight in state.pair.parameters()]


def _climb(update: Update, state: TrainingState, value: Tensor | None = None, **parts: Tensor) -> UpdateInfo:
    def objective(pair: Pair, batch: Batch, **settings: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return _bowl(state) if value is None else value, parts

    return update.apply_gradient(state, "value", *eager(objective, state.pair, BATCH), BATCH)


def test_it_goes_up() -> None:
    update = _update()
    state = _state(update)
    before = _weights(state)
    climbed = _climb(update, state)
    for weight, old in zip(_weights(state), before, strict=True):
        torch.testing.assert_close(weight, 0.9 * old)
    assert climbed.lr == 0.1
    assert climbed.grad_norm is None


def test_a_gradient_that_was_there_before_is_not_followed() -> None:
    update = _update()
    state = _state(update)
    before = _weights(state)
    for weight in state.pair.parameters():
        weight.grad = torch.full_like(weight, 1e3)
    _climb(update, state)
    torch.testing.assert_close(_weights(state), [0.9 * old for old in before])


def test_following_takes_the_gradient_that_stands_there() -> None:
    """Of what is lowered, as an optimiser sees it."""
    update = _update()
    state = _state(update)
    before = _weights(state)
    for weight in state.pair.parameters():
        weight.grad = torch.ones_like(weight)
    update.apply_gradient(state, "value", torch.zeros(()), {}, BATCH)
    torch.testing.assert_close(_weights(state), [old - 0.1 for old in before])


@pytest.mark.parametrize("parts", [{}, {"a": [1.0, 2.0, 6.0]}, {"a": [1.0, 2.0, 6.0], "b": [0.0, -4.0, 1.0]}])
def test_terms_are_means_under_their_own_names(parts: dict[str, list[float]]) -> None:
    update = _update()
    state = _state(update)
    value = _bowl(state)
    terms = _climb(update, state, value, **{name: torch.tensor(part).double() for name, part in parts.items()}).terms
    assert terms == pytest.approx({"value": value.item()} | {name: sum(part) / 3 for name, part in parts.items()})


def test_the_rate_is_that_of_the_states_step() -> None:
    """Not of the updates: a learner that makes several in a step makes them all at one rate."""
    update = _update(schedule=cosine)
    state = _state(update)
    rates = []
    for step in (0, 0, 5, 9):
        state.step = step
        rates.append(_climb(update, state).lr)
    assert rates == pytest.approx([0.1 * cosine(step / 10) for step in (0, 0, 5, 9)])
    assert state.step == 9  # the learner's to count


def test_a_run_of_unknown_length_has_the_rate_of_its_beginning() -> None:
    update = _update(total_steps=None)
    state = _state(update)
    state.step = 1_000_000
    assert _climb(update, state).lr == 0.1


@pytest.mark.parametrize("share", [0.1, 10.0], ids=["too long", "short enough"])
def test_the_gradient_is_clipped_to_a_norm(share: float) -> None:
    update = _update()
    state = _state(update)
    before = _weights(state)
    norm = math.sqrt(sum(weight.square().sum().item() for weight in before))
    climbed = _climb(_update(clip_norm=share * norm), state)
    assert climbed.grad_norm == pytest.approx(norm)
    factor = 1 - 0.1 * min(1.0, share)
    torch.testing.assert_close(_weights(state), [factor * old for old in before], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("limit", "moves"), [(0.9, False), (1.1, True)])
def test_a_gradient_above_the_limit_is_skipped_and_said(limit: float, moves: bool) -> None:
    state = _state(_update(ema=0.5))
    before = [weight.clone() for weight in _weights(state)]
    norm = _climb(_update(clip_norm=1e9), _state(_update())).grad_norm
    assert norm is not None
    info = _climb(_update(skip_norm=limit * norm, ema=0.5), state)
    assert info.terms["skipped"] == (not moves) and info.grad_norm == pytest.approx(norm)
    assert any(not torch.equal(a, b) for a, b in zip(before, _weights(state), strict=True)) == moves
    assert state.average is not None and int(state.average.n_averaged) == moves


def test_the_average_follows_every_update() -> None:
    update = _update(ema=0.75)
    state = _state(update)
    expected = None
    for _ in range(4):
        _climb(update, state)
        now = _weights(state)
        expected = now if expected is None else [0.75 * a + 0.25 * b for a, b in zip(expected, now, strict=True)]
    torch.testing.assert_close([weight.detach() for weight in state.learned.parameters()], expected)
    assert _update().optimizer_and_average(state.pair)[1] is None


def _no_number(state: TrainingState) -> Tensor:
    return _bowl(state) * math.nan


def _infinite(state: TrainingState) -> Tensor:
    return _bowl(state) + math.inf


def _steep(state: TrainingState) -> Tensor:
    """A number whose derivative is none: 0 · ∞."""
    zero = _bowl(state) - _bowl(state).detach()
    return _bowl(state) + zero.square().sqrt()


@pytest.mark.parametrize("value", [_no_number, _infinite, _steep])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_what_is_not_finite_reaches_no_weight(
    value: Callable[[TrainingState], Tensor], clip_norm: float | None
) -> None:
    update = _update(ema=0.5, clip_norm=clip_norm)
    state = _state(update)
    _climb(update, state)
    before, average = _weights(state), [weight.clone() for weight in state.learned.parameters()]
    with pytest.raises(ElbowroomError, match="finite"):
        _climb(update, state, value(state))
    assert all(torch.equal(a, b) for a, b in zip(_weights(state), before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(state.learned.parameters(), average, strict=True))


def test_a_part_that_is_not_finite_is_named() -> None:
    update = _update()
    state = _state(update)
    with pytest.raises(ElbowroomError, match="beside"):
        _climb(update, state, beside=torch.tensor([1.0, math.nan]).double())


# --- schedules: pure functions of progress; torch's schedulers, which keep state, are the oracle --------------------


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


def test_warmup_cosine_rises_over_a_twentieth_and_is_a_cosine_then() -> None:
    assert warmup_cosine(0.0) == pytest.approx(1 / 50)
    assert warmup_cosine(0.025) == pytest.approx(0.52)
    assert [warmup_cosine(p) for p in (0.05, 0.5, 1.0)] == [cosine(p) for p in (0.05, 0.5, 1.0)]


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
