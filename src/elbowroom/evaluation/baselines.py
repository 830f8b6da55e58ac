r"""The method baselines: what two simple models of the same table are worth on the same rows, and the gain over them.

=============================== ====================================================================================
result                          what it is
=============================== ====================================================================================
independent columns             :math:`\sum_d \log p_d(x_d)`, each column's own distribution
latent classes                  :math:`\log \sum_k \pi_k \prod_d p(x_d | \theta_{kd})`, see :mod:`elbowroom.learners.em`
gain over independent columns   log p(x) of the model less that, with the standard error of paired differences
gain over latent classes        the same of the other
=============================== ====================================================================================

They are fitted on the training rows whenever they are asked for, which takes seconds: they do not belong to the run, so
that they cannot be out of date, and a run of any version has them. Their log p(x) is exact. That of the model is the
sum over all codes where these are few, and else a lower bound from k draws of the guide, or without one around modes of
the posterior; so the gains are lower bounds too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.columns.column import Column
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.results import Result
from elbowroom.evaluation.row_estimates import BATCH, guide_estimate, laplace_estimate, repetition_variance
from elbowroom.evaluation.study import EvaluationData, Study, require_normalized, split_rows
from elbowroom.inference.enumeration import enumerated
from elbowroom.learners.em_classes import independent_columns, latent_classes
from elbowroom.model.guides import PriorGuide
from elbowroom.model.latent import LatentModel
from elbowroom.model.table.likelihood import Table

__all__ = ["baselines", "simple_log_p", "simple_models"]

_FEW_CODES = 4096  # that are summed over
_MOST_ROWS = 20_000  # of a split that simple models are fitted to: a minute
_NAMES = ("independent columns", "latent classes")


def baselines(study: Study) -> list[Result]:
    """log p(x) of independent columns and of latent classes, and what the model is ahead of them."""
    likelihood = study.model.likelihood.elementwise
    if not isinstance(likelihood, Table):
        raise ElbowroomError(
            f"baselines fits simple models of a table with columns of several kinds, but the likelihood is "
            f"{likelihood.name}.",
            "Leave it out; train such a table with --data.columns auto.",
        )
    require_normalized(study.model, "baselines")
    k, asked = study.settings.draws("baselines"), _asked(study)
    simple = simple_models(likelihood.columns, study.data, seed=study.settings.seed)

    def per_batch(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        return _of_model(study, batch, k) | simple_log_p(simple, batch)

    values = study.over_data(
        "baselines", per_batch, batch_size=BATCH, points=study.settings.data("baselines"), resumable=True,
        finite=["model", *_NAMES],
    )  # fmt: skip
    found = dict(zip(_NAMES, ({}, {"classes": simple["latent classes"].space.codes}), strict=True))
    levels = [
        study.average("baselines", name, values[name], bound=None, asked={}, found=found[name]) for name in _NAMES
    ]
    gains = [
        study.average(
            "baselines",
            f"gain over {name}",
            values["model"] - values[name],
            bound=None,
            asked=asked,
            repeated=repetition_variance(values["model"] - values[name], values["stderr"]),
        )
        for name in _NAMES
    ]
    return [*levels, *gains]


def _is_summed(model: LatentModel) -> bool:
    return model.latent_support == "codes" and model.space.size <= _FEW_CODES


def _without_guide(study: Study) -> bool:
    return study.model.latent_support == "real" and isinstance(study.guide, PriorGuide)


def _asked(study: Study) -> dict[str, Any]:
    """The settings that the model's log p(x) depends on."""
    if _is_summed(study.model):
        return {}
    starts = {"starts": study.settings.starts} if _without_guide(study) else {}
    return {"k": study.settings.draws("baselines"), **starts}


def _of_model(study: Study, batch: Batch, k: int) -> dict[str, Tensor]:
    """log p(x) of every row, and the standard error of its estimate."""
    model, guide, seed = study.model, study.guide, study.settings.seed
    if _is_summed(model):
        log_p = enumerated(model, batch).log_evidence
        return {"model": log_p, "stderr": torch.zeros_like(log_p)}
    if _without_guide(study):
        found = laplace_estimate(model, guide, batch, k=k, starts=study.settings.starts, seed=seed)
    else:
        found = guide_estimate(model, guide, batch, k=k, seed=seed)
    return {"model": found["log_evidence"], "stderr": found["stderr"]}


def simple_models(columns: Sequence[Column], data: EvaluationData, *, seed: int = 0) -> dict[str, LatentModel]:
    """Independent columns and latent classes, fitted on the training rows (20,000 of them at most), by name.

    Args:
        columns: of the table.
        data: with a split "train", and "validation" to choose the number of classes by, if there is one.
        seed: of the starts of the classes.
    Raises:
        ElbowroomError: there are no training rows.
    """
    train = _rows(data, "train")
    if train is None:
        raise ElbowroomError(
            "baselines fits simple models on the training rows, but these data have none.",
            "Evaluate on a split of the run's own data, or leave it out.",
        )
    fitted = (
        independent_columns(columns, train),
        latent_classes(columns, train, _rows(data, "validation"), seed=seed),
    )
    return dict(zip(_NAMES, fitted, strict=True))


def simple_log_p(models: Mapping[str, LatentModel], batch: Batch) -> dict[str, Tensor]:
    """log p(x) of every row by each of these models, exactly, on the processor, float64."""
    plain = Batch(batch.x, mask=batch.mask).to("cpu")
    return {name: enumerated(model, plain).log_evidence for name, model in models.items()}


def _rows(data: EvaluationData, split: str) -> Batch | None:
    """Rows of a split on the processor, all or the most there may be, without their context; None: there are none."""
    batch = split_rows(data, split, _MOST_ROWS)
    return None if batch is None else Batch(batch.x, mask=batch.mask).to("cpu")
