"""Precision, recall and nearness to training rows: by a literal double loop, and their errors by repetition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.neighbours import Estimate, farther_from_training, precision_and_recall


def _draws(number: int, dim: int, seed: int, spread: float = 1.0) -> Tensor:
    return spread * torch.randn(number, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _covered(centres: Tensor, points: Tensor, neighbours: int) -> float:
    """The share of points in any of the balls that end at the k-th neighbour of their centre, as in the paper."""
    inside = 0
    for point in points:
        for i, centre in enumerate(centres):
            others = sorted(float((centre - other).norm()) for j, other in enumerate(centres) if j != i)
            if float((point - centre).norm()) <= others[neighbours - 1]:
                inside += 1
                break
    return inside / len(points)


@pytest.mark.parametrize("neighbours", [1, 3])
def test_it_is_what_the_paper_defines(neighbours: int) -> None:
    data, samples = _draws(24, 2, 0), _draws(27, 2, 1, 1.7)
    found = precision_and_recall(data, samples, neighbours=neighbours)
    assert found.precision.value == pytest.approx(_covered(data, samples, neighbours))
    assert found.recall.value == pytest.approx(_covered(samples, data, neighbours))


def test_precision_and_recall_change_places_with_the_sets_and_need_no_unit() -> None:
    data, samples = _draws(80, 3, 0), _draws(80, 3, 1, 0.5)
    there, back = precision_and_recall(data, samples), precision_and_recall(samples, data)
    assert (there.precision.value, there.recall.value) == (back.recall.value, back.precision.value)
    scaled = precision_and_recall(1000 * data + 5, 1000 * samples + 5)
    assert scaled.precision.value == there.precision.value
    assert there.precision.value > back.precision.value  # narrow samples look like data, wide ones less


def test_of_copies_all_is_covered() -> None:
    data = _draws(60, 4, 0)
    found = precision_and_recall(data, data.flip(0))
    assert (found.precision.value, found.recall.value) == (1.0, 1.0)


def _is_calibrated(found: list[Estimate]) -> None:
    """The root mean square of the stated errors is the standard deviation over repetitions."""
    values = torch.tensor([one.value for one in found], dtype=torch.float64)
    stated = math.sqrt(sum(one.stderr**2 for one in found) / len(found))
    ratio = stated / float(values.std())
    assert abs(math.log(ratio)) < 4 / math.sqrt(2 * (len(found) - 1))


def test_errors_of_precision_and_recall_are_calibrated() -> None:
    found = [precision_and_recall(_draws(100, 2, 2 * seed), _draws(100, 2, 2 * seed + 1, 1.5)) for seed in range(60)]
    _is_calibrated([one.precision for one in found])
    _is_calibrated([one.recall for one in found])


def test_errors_of_the_distance_to_training_rows_are_calibrated() -> None:
    training = _draws(200, 2, 999)
    found = [
        farther_from_training(training, _draws(30, 2, 2 * seed), _draws(150, 2, 2 * seed + 1)) for seed in range(100)
    ]
    _is_calibrated(found)
    mean = sum(one.value for one in found) / len(found)
    assert abs(mean - 0.5) < 4 * found[0].stderr / math.sqrt(len(found))


def test_copies_are_nearer_and_outsiders_farther() -> None:
    training, data = _draws(200, 3, 0), _draws(100, 3, 1)
    half = torch.cat([training[:50], _draws(50, 3, 2)])
    copied = farther_from_training(training, data, half)
    assert copied.value < 0.5 - 4 * copied.stderr
    off = farther_from_training(training, data, _draws(100, 3, 3, 3.0))
    assert off.value > 0.5 + 4 * off.stderr
    assert farther_from_training(training, training, training).value == 0.5  # ties count a half


@pytest.mark.parametrize(
    ("data", "samples", "problem"),
    [
        (_draws(15, 2, 0), _draws(80, 2, 1), "need 16 rows of data and as many samples, but there are 15 and 80"),
        (_draws(80, 2, 0), _draws(80, 3, 1), "Data and samples have"),
    ],
)
def test_what_cannot_be_compared(data: Tensor, samples: Tensor, problem: str) -> None:
    with pytest.raises(ElbowroomError, match=problem):
        precision_and_recall(data, samples)
