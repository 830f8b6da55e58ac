"""What a report says of a model beside simple ones."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from elbowroom.evaluation.results import Result
from elbowroom.showing.report.records import StoredResult, StoredResults
from elbowroom.showing.report.simple_models import beside_simple_models
from table_cases import COLUMNS, output_for, table

PROTOCOL = {"dataset": "animals.csv", "binarization": "none"}
RUN: Any = SimpleNamespace(
    model=SimpleNamespace(likelihood=table([COLUMNS["real"]], output_for([COLUMNS["real"]]))),
    folder=SimpleNamespace(path=Path("runs/a")),
    is_beside_best=False,
    config=SimpleNamespace(train=SimpleNamespace(learner="aevb")),
)


def stored(name: str, value: float, stderr: float, step: int = 9, **found: int) -> StoredResult:
    return StoredResult(
        Result(name=name, method="baselines", value=value, stderr=stderr, unit="nats", points=50, split="test",
               bound=None, asked={}, found=found, protocol=PROTOCOL), step,
    )  # fmt: skip


def of(gain: float) -> StoredResults:
    rows = (
        stored("latent classes", -9.0, 0.3, classes=6),
        stored("gain over independent columns", 2.5, 0.2),
        stored("gain over latent classes", gain, 0.1),
        stored("gain over independent columns", 77.0, 0.2, step=8),
    )
    return StoredResults(rows, "animals.csv", "none", 9)


@pytest.mark.parametrize(("gain", "tone"), [(0.4, "plain"), (0.1, "warning"), (-0.5, "warning")])
def test_the_gain_is_said_and_whether_it_is_one(gain: float, tone: str) -> None:
    (said,) = beside_simple_models(RUN, of(gain))
    assert said.tone == tone  # type: ignore[union-attr]
    assert "independent columns by 2.50 ± 0.20 nats" in said.text  # type: ignore[union-attr]
    assert "6 latent classes by" in said.text  # type: ignore[union-attr]
    assert ("no better" in said.text) == (tone == "warning")  # type: ignore[union-attr]


def test_latent_classes_need_not_be_ahead_of_latent_classes() -> None:
    by_em = SimpleNamespace(**vars(RUN) | {"config": SimpleNamespace(train=SimpleNamespace(learner="em"))})
    (said,) = beside_simple_models(by_em, of(0.1))
    assert said.tone == "plain" and "no better" not in said.text  # type: ignore[union-attr]


def test_what_was_not_measured_has_its_command() -> None:
    (said,) = beside_simple_models(RUN, StoredResults((), "animals.csv", "none", 9))
    assert said.tone == "missing" and "--methods baselines" in said.text  # type: ignore[union-attr]


def test_nothing_is_said_where_there_is_no_table() -> None:
    other: Any = SimpleNamespace(model=SimpleNamespace(likelihood=SimpleNamespace(elementwise=nn.Identity())))
    assert beside_simple_models(other, of(1.0)) == []
