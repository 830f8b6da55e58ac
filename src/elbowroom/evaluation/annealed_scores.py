"""Scores of rows by annealed importance sampling."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import NotFiniteError
from elbowroom.evaluation.annealed import annealed
from elbowroom.evaluation.row_estimates import BATCH, guide_estimate, laplace_estimate
from elbowroom.evaluation.scores import FACTORS, Scores, judged_chains, lacking
from elbowroom.evaluation.settings import Settings
from elbowroom.evaluation.study import EvaluationData, Study
from elbowroom.inference.annealing.initial import default_start
from elbowroom.model.conditional import Conditional
from elbowroom.model.latent import LatentModel
from elbowroom.progress import Progress

__all__ = ["annealed_scores"]


class _Rows:
    """One batch as a data set for evaluation."""

    labels: Tensor | None = None

    def __init__(self, batch: Batch, protocol: dict[str, Any]) -> None:
        self._batch, self._protocol = batch, protocol

    def size(self, split: str) -> int:
        return len(self._batch)

    def batches(self, split: str, batch_size: int, *, points: int | None = None) -> Iterator[Batch]:
        rows = torch.arange(min(len(self._batch), points or len(self._batch)), device=self._batch.x.device)
        return (self._batch.rows(part) for part in torch.split(rows, batch_size))

    def protocol(self) -> dict[str, Any]:
        return self._protocol


def annealed_scores(
    model: LatentModel,
    guide: Conditional,
    data: EvaluationData,
    *,
    split: str,
    points: int | None,
    tolerance: float | None,
    settings: dict[str, Any],
    announce: Progress,
) -> Scores:
    """log p(x) of every row by annealed importance sampling; arguments as in
    :func:`elbowroom.evaluation.scoring.score`, modules in evaluation mode.
    """
    dtype = next(model.parameters()).dtype

    def measured(data: EvaluationData, **more: int) -> tuple[dict[str, Tensor], int]:
        kept: dict[str, dict[str, Tensor]] = {}
        asked = Settings.of({"points": points or data.size(split), **settings, **more})
        study = Study(model, guide, data, split, asked, announce, kept.__setitem__)
        try:
            annealed(study)
        except NotFiniteError:  # no mean, but values
            if "ais" not in kept:
                raise
        size = study.memory["choice"].size
        return judged_chains(kept["ais"], size.chains, dtype), size.temperatures

    whole = _joined(list(data.batches(split, BATCH, points=points)))
    finite = torch.ones(len(whole), dtype=torch.bool)
    try:
        values, temperatures = measured(data)
    except NotFiniteError:
        finite = _can_start(model, guide, whole, settings["seed"])
        if not bool(finite.any()):
            raise
        values, temperatures = measured(_Rows(_some(whole, finite), data.protocol()))
    columns = {name: _spread(value, finite) for name, value in values.items()}
    for factor in FACTORS:
        rows = lacking(columns, tolerance)
        if not len(rows):
            break
        short = torch.zeros_like(finite).index_fill(0, rows, True)
        more = {"temperatures": factor * temperatures, "chains": int(columns["draws"].max())}
        better, _ = measured(_Rows(_some(whole, short), data.protocol()), **more)
        for name, value in better.items():
            columns[name][rows] = value
    places = torch.arange(len(whole)) if whole.index is None else whole.index.cpu()
    return Scores(**columns, rows=places, method="ais")


def _can_start(model: LatentModel, guide: Conditional, batch: Batch, seed: int) -> Tensor:
    """Which rows have a finite density where chains would start."""
    if default_start(model, None) == "laplace":
        found = laplace_estimate(model, guide, batch, k=1, starts=1, seed=seed)
    else:
        found = guide_estimate(model, guide, batch, k=1, seed=seed)
    return found["log_evidence"].isfinite().cpu()


def _joined(batches: list[Batch]) -> Batch:
    parts = zip(*((b.x, b.index, b.context, b.mask) for b in batches), strict=True)
    return Batch(*(None if part[0] is None else torch.cat(part) for part in parts))  # type: ignore[arg-type]


def _some(batch: Batch, chosen: Tensor) -> Batch:
    return batch.rows(chosen.nonzero().squeeze(1).to(batch.x.device))


def _spread(values: Tensor, places: Tensor) -> Tensor:
    """Values at the places where True; elsewhere NaN, 0 or False."""
    whole = values.new_zeros(len(places))
    if whole.is_floating_point():
        whole.fill_(math.nan)
    whole[places] = values
    return whole
