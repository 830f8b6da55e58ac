"""The score of a datum is its log p(x), in order, with the error that it states."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.evaluate import score
from elbowroom.model.guides import DiagonalNormal
from elbowroom.model.oracles import LinearGaussian, ppca


def _oracle(num_data: int) -> tuple[LinearGaussian, DiagonalNormal, Tensor]:
    return ppca(6, 2, seed=3, num_data=num_data)


def _batches(x: Tensor, size: int) -> Iterator[Batch]:
    return (Batch(part) for part in torch.split(x, size))


@pytest.mark.parametrize("size", [1, 7, 64])
def test_score_is_the_evidence_of_every_row_in_order(size: int) -> None:
    model, _, x = _oracle(64)
    values, errors = score(model, model.exact_guide(), _batches(x, size), k=2)
    assert torch.allclose(values, model.log_evidence(x).detach(), atol=1e-9)
    assert errors.abs().max() < 1e-6
    assert values.dtype == torch.float64
    assert not values.requires_grad


def test_score_errs_by_its_standard_error() -> None:
    model, guide, x = _oracle(400)
    values, errors = score(model, guide, _batches(x, 100), k=500)
    z = (values - model.log_evidence(x)) / errors
    assert abs(z.mean().item()) * math.sqrt(len(z)) < 4
    assert abs(z.var().item() - 1) < 0.3
    again, _ = score(model, guide, _batches(x, 100), k=500)
    assert torch.equal(values, again)
    other, _ = score(model, guide, _batches(x, 100), k=500, seed=1)
    assert not torch.equal(values, other)


def test_nothing_has_no_score() -> None:
    model, guide, _ = _oracle(4)
    with pytest.raises(ElbowroomError, match="no examples to score"):
        score(model, guide, [])
