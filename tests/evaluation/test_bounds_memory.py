"""What a bound takes of memory grows neither with its draws nor with the data, but with a batch of a chunk of draws."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from elbowroom.data.batch import Batch
from elbowroom.evaluation.evaluate import evaluate
from elbowroom.memory import peak_memory
from elbowroom.model import oracles

_RESET = Path("/proc/self/clear_refs")
_MOST = 250e6  # bytes: fifteen tensors of a chunk, 2²² elements of 4 bytes each


class Rows:
    """A test set of ``num`` data, in batches."""

    def __init__(self, x: torch.Tensor, num: int) -> None:
        self.x, self.num = x, num

    def size(self, split: str) -> int:
        return self.num

    def batches(self, split: str, batch_size: int, *, points: int | None = None) -> Iterator[Batch]:
        rows = torch.arange(min(self.num, points or self.num))
        return (Batch(self.x[part % len(self.x)], part) for part in rows.split(batch_size))

    def protocol(self) -> dict[str, Any]:
        return {}


def _taken(method: str, k: int, points: int) -> int:
    """Bytes that an evaluation takes beyond what there was before."""
    model, guide, x = oracles.ppca(dim=128, latent_dim=2, seed=0, dtype=torch.float32)
    gc.collect()
    _RESET.write_text("5")  # the peak is from here on
    before = peak_memory()
    evaluate(model, guide, Rows(x, points), methods=[method], points=points, k=k)
    after = peak_memory()
    assert before is not None
    assert after is not None
    return after - before


@pytest.mark.skipif(not _RESET.is_file(), reason="the peak can be reset on Linux alone")
@pytest.mark.parametrize(("k", "points"), [(5000, 100), (100, 5000)])
def test_five_thousand_draws_take_no_more_than_a_chunk_of_them(k: int, points: int) -> None:
    assert points * k * 128 * 4 > _MOST  # held all at once, a single tensor of the draws would be too large
    assert _taken("iwae", k, points) < _MOST
