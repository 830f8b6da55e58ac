"""What pydantic refuses, in elbowroom's words."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError

from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.settings import Settings
from elbowroom.sections import Section, explain


class Engine(Section):
    """Part of a car."""

    fuel_kind: Literal["petrol", "diesel"] = "petrol"
    """What it burns."""
    cylinders: int = Field(default=4, gt=0)
    """How many."""


class Car(Section):
    """A car."""

    engine: Engine = Engine()
    """What drives it."""
    seats: int = 5
    """How many."""


def told(keys: dict[str, Any], kind: type[Section] = Car, **about: Any) -> ElbowroomError:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(keys)
    return explain(caught.value, kind, command="drive", **about)


CASES: list[tuple[dict[str, Any], str, str]] = [
    (
        {"seats": "many"},
        "seats is 'many', but should be a whole number.",
        "`elbowroom drive --help` describes --seats.",
    ),
    ({"seat": 3}, "there is no key 'seat'.", "Did you mean 'seats'?"),
    ({"engin": {}}, "there is no section 'engin'.", "Did you mean 'engine'?"),
    ({"engine": {"fuel_knd": 3}}, "there is no key 'engine.fuel_knd'.", "Did you mean 'fuel_kind'?"),
    ({"engine": 3}, "engine is 3, but it is a section of keys.", "Write [engine] and its keys below."),
    (
        {"engine": {"fuel_kind": "desel", "cylinders": 0}, "seats": 1.5},
        "engine.fuel_kind is 'desel', but should be 'petrol' or 'diesel'. engine.cylinders is 0, but should be greater "
        "than 0. seats is 1.5, but should be a whole number.",
        "Did you mean 'diesel'? `elbowroom drive --help` describes --engine.cylinders and --seats.",
    ),
]


@pytest.mark.parametrize(("keys", "problem", "remedy"), CASES)
def test_every_fault_is_told_with_its_remedy(keys: dict[str, Any], problem: str, remedy: str) -> None:
    found = told(keys, source="mine.toml")
    assert (found.problem, found.remedy) == (f"mine.toml: {problem}", remedy)


def test_what_came_as_a_flag_is_named_as_one() -> None:
    found = told({"cylinders": "0"}, Engine, section="engine")
    assert found.problem == "--engine.cylinders is 0, but should be greater than 0."
    assert found.remedy == "`elbowroom drive --help` describes --engine.cylinders."
    assert told({"fuel_kind": "x"}, Engine).remedy == "`elbowroom drive --help` describes --fuel-kind."


def test_settings_of_an_evaluation_are_told_alike() -> None:
    with pytest.raises(ElbowroomError) as caught:
        Settings.of({"num_samples": 0, "start": "gide", "temprature": 3})
    assert caught.value.problem == (
        "evaluate: num_samples is 0, but should be greater than 0. start is 'gide', but should be 'laplace', 'guide' "
        "or 'prior'. there is no key 'temprature'."
    )
    assert caught.value.remedy == (
        "Did you mean 'guide'? Did you mean 'temperatures'? `elbowroom evaluate --help` describes --num-samples."
    )
