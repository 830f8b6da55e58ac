"""The training rows that samples given a context are compared with: those of the same context, as far as there are any.

Of rows whose covariates are real numbers hardly any has just these numbers. Then those of the same classes are taken,
and where these are too few for a histogram, all rows; the figure says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from elbowroom.data.dataset import DataSet
from elbowroom.data.naming import Covariate
from elbowroom.running.contexts import run_context
from elbowroom.running.runs import Run

__all__ = ["rows_in_context"]

_FEWEST = 20  # rows of a histogram


def rows_in_context(run: Run, data: DataSet, context: Any) -> tuple[DataSet, str]:
    """The data with the training rows to compare with samples given one context, and a sentence that says which.

    Args:
        run: that is conditional on it.
        data: its own.
        context: one for all samples, as in `Run.sample`.
    """
    wanted = run_context(run.naming, context, None, None)
    rows = data.splits["train"]
    given = data.context_as_given(rows)
    if wanted is None or given is None or bool((wanted != wanted[:1]).any()):
        return data, "Data: all training rows."
    equal = given.cpu().double() == wanted[0].double()
    same, number = equal.all(1), int(equal.all(1).sum())
    if number >= _FEWEST:
        return _only(data, rows[same]), f"Data: the {number:,} training rows of this context."
    classes = [one for one in run.naming.covariates if one.levels is not None]
    alike = equal[:, _columns_of_classes(run.naming.covariates)].all(1)
    if classes and int(alike.sum()) >= _FEWEST:
        named = " and ".join(one.name for one in classes)
        return _only(data, rows[alike]), f"Data: the {int(alike.sum()):,} training rows of this {named}."
    return data, f"Data: all training rows, of which {number:,} {'is' if number == 1 else 'are'} of this context."


def _columns_of_classes(covariates: Sequence[Covariate]) -> Tensor:
    """Which numbers of the context are one-hot, bool, shape (context_dim,)."""
    return torch.tensor([one.levels is not None for one in covariates for _ in range(one.width)])


def _only(data: DataSet, rows: Tensor) -> DataSet:
    return replace(data, splits={**data.splits, "train": rows})
