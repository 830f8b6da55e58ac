"""The settings of evaluation, by name: they are Literals, so that help needs no torch, and must be the registries'."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.evaluate import METHODS
from elbowroom.evaluation.settings import DRAWS, POINTS, ScheduleName, Settings
from elbowroom.inference.annealing.initial import STARTS
from elbowroom.inference.annealing.tempering import SCHEDULES
from elbowroom.inference.posterior.sample import Precision


def test_the_choices_are_those_that_there_are() -> None:
    start: Any = Settings.model_fields["start"].annotation
    assert set(get_args(get_args(start)[0])) == set(STARTS)
    assert set(get_args(ScheduleName)) == {"adapted", *SCHEDULES}
    assert set(get_args(Settings.model_fields["precision"].annotation)) == set(get_args(Precision))


def test_a_methods_own_choices_hold_unless_others_are_given() -> None:
    assert {*POINTS, *DRAWS} <= set(METHODS)
    for method in METHODS:
        assert Settings().data(method) == POINTS.get(method)
        assert Settings(points=7).data(method) == 7
    for method, draws in DRAWS.items():
        assert Settings().draws(method) == draws
        assert Settings(k=7).draws(method) == 7


NO_AMOUNTS = ("prior_share", "start", "schedule", "precision", "seed")


@pytest.mark.parametrize("name", [name for name in Settings.model_fields if name not in NO_AMOUNTS])
def test_nothing_is_measured_with_none_of_something(name: str) -> None:
    with pytest.raises(ElbowroomError, match=f"{name} is 0, but should be greater than 0"):
        Settings.of({name: 0})
    Settings.of({name: 1})
