"""A reader who follows `elbowroom train` meets the objective and the model: no step learns by another road.

cli → running/train → running/engine → learners/aevb → inference/objectives → model/latent
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor

import elbowroom
from elbowroom.cli import main
from elbowroom.data.batch import Batch
from elbowroom.learners.aevb import Aevb
from elbowroom.learners.execution import ObjectiveValue
from elbowroom.model.latent import Pair

SOURCE = Path(elbowroom.__file__).parent
ROAD = [
    ("cli/train.py", "train"),
    ("running/train.py", "train"),
    ("running/engine.py", "fit"),
    ("learners/aevb.py", "step"),
    ("learners/execution.py", "eager"),
    ("learners/aevb.py", "_terms"),
    ("inference/objectives.py", "elbo_terms"),
    ("model/latent.py", "log_likelihood"),
]
STEPS = 3


def _roads_to(place: tuple[str, str], run: Callable[[], Any]) -> list[list[tuple[str, str]]]:
    """Every call of a function of ours while something runs: the functions of ours that led there, outermost first."""
    roads: list[list[tuple[str, str]]] = []

    def where(frame: FrameType) -> tuple[str, str] | None:
        path = Path(frame.f_code.co_filename)
        inside = path.is_relative_to(SOURCE)
        return (path.relative_to(SOURCE).as_posix(), frame.f_code.co_name) if inside else None

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        if event != "call" or frame.f_code.co_name != place[1] or where(frame) != place:
            return
        road: list[tuple[str, str]] = []
        at: FrameType | None = frame
        while at is not None:
            step = where(at)
            road += [step] if step is not None else []
            at = at.f_back
        roads.append(road[::-1])

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        run()
    finally:
        sys.setprofile(before)
    return roads


def _train(out: Path) -> None:
    tokens = ["train", "digits", "--out", str(out), "--train.steps", str(STEPS), "--data.validation", "0"]
    with pytest.raises(SystemExit) as ended:
        main([*tokens, "--model.encoder.hidden", "8", "--model.decoder.hidden", "8"])
        raise SystemExit(0)
    assert ended.value.code in (0, None)


def _check(out: Path) -> None:
    roads = _roads_to(ROAD[-1], lambda: _train(out))
    steps = [road for road in roads if ("learners/aevb.py", "step") in road]
    assert len(steps) == STEPS
    for road in steps:
        assert [step for step in road if step in ROAD] == ROAD
        # and little else: what starts the command line, and the error boundary around it
        assert len([step for step in road if step not in ROAD]) <= 3, road


def test_a_training_step_is_what_contributing_says(tmp_path: Path) -> None:
    _check(tmp_path / "run")


def test_a_detour_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a learner that has its own way to the gradient of the ELBO."""

    def by_hand(objective: Any, pair: Pair, batch: Batch, *tensors: Tensor, **settings: Any) -> Any:
        logits = pair.model.likelihood.network(pair.guide(batch.x).rsample())[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.x, reduction="sum") / len(batch)
        loss.backward()
        return ObjectiveValue(-loss.detach(), {"reconstruction": -loss.detach(), "kl": torch.zeros(())})

    monkeypatch.setattr(Aevb, "step", _with_execution(Aevb.step, by_hand))
    with pytest.raises(AssertionError):
        _check(tmp_path / "run")


def _with_execution(step: Callable[..., Any], execution: Any) -> Callable[..., Any]:
    def changed(self: Aevb, *args: Any, **keywords: Any) -> Any:
        object.__setattr__(self, "execution", execution)
        return step(self, *args, **keywords)

    return changed
