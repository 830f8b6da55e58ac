"""What may be said of a measured quantity that cannot be negative."""

from __future__ import annotations

import math

import pytest
import torch

from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.evaluation.evaluate import evaluate
from elbowroom.evaluation.results import INDISTINCT, TOO_LOW, sign_remark
from elbowroom.model.oracles import ppca


@pytest.mark.parametrize(
    ("name", "value", "stderr", "said"),
    [
        ("elbow room", -0.02, 0.03, INDISTINCT),
        ("elbow room", 0.05, 0.03, INDISTINCT),
        ("elbow room", 0.07, 0.03, ""),
        ("elbow room", -0.13, 0.03, TOO_LOW),
        ("elbow room on training data", -0.02, 0.03, INDISTINCT),
        ("approximation gap", -0.5, 0.01, TOO_LOW),
        ("amortisation gap (cross-entropy: not a log-likelihood)", 0.0, 0.0, INDISTINCT),
        ("bdmc gap", -0.001, 0.01, INDISTINCT),
        ("kl", 0.001, 0.01, INDISTINCT),
        ("elbow room", 0.1, None, ""),
        ("elbow room", -0.1, None, INDISTINCT),
        ("elbow room", 0.1, math.nan, ""),
        ("elbow room", math.nan, 0.1, ""),
        ("elbo", -93.0, 0.3, ""),
        ("generalisation gap", -1.0, 0.1, ""),
        ("encoder's overfitting", 0.0, 0.1, ""),
    ],
)
def test_the_sign(name: str, value: float, stderr: float | None, said: str) -> None:
    assert sign_remark(name, value, stderr) == said


def test_the_room_of_an_exact_guide_bounds_nothing() -> None:
    """Its true value is zero, so what is measured is noise of either sign; a guide that is off has a bound."""
    model, poor, x = ppca(4, 1, seed=1, num_data=40)
    data = load_data(x, support="reals", validation=0.0, test=0.0)
    assert isinstance(data, DataSet)
    data = data.to(dtype=torch.float64)
    for guide, bound in ((model.exact_guide(), None), (poor, "lower")):
        found = evaluate(model, guide, data, methods=["elbo", "iwae", "room"], split="train", k=50, num_samples=20)
        rooms = [result for result in found if result.name == "elbow room"]
        assert [result.method for result in rooms] == ["iwae", "room"]
        assert [result.bound for result in rooms] == [bound, bound]
        assert {result.bound for result in found if result.name in ("elbo", "iwae", "log p(x)")} == {"lower"}
