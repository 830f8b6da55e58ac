"""The importance-weighted bound for several numbers of draws, and whether its weights can be trusted: ``k-curve``."""

from __future__ import annotations

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.evaluation.results import Result
from elbowroom.evaluation.study import Study, observed, require_normalized
from elbowroom.inference.importance.curve import importance_curve
from elbowroom.inference.importance.pareto import pareto_threshold
from elbowroom.model.guides import guide_distribution

__all__ = ["k_curve", "unreliable"]

_KS = (1, 10, 100, 1000, 5000)


def k_curve(study: Study) -> list[Result]:
    """The bound of draws from the guide for k = 1, 10, 100, 1000, 5000, from one set of draws; k̂ with the last."""
    require_normalized(study.model, "k-curve")

    def per_batch(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        found = importance_curve(
            study.model, guide_distribution(study.guide, batch), batch, ks=_KS, generator=generator
        )
        bounds = {f"k={k}": bound for k, bound in zip(_KS, found.log_evidence, strict=True)}
        return {**bounds, "ess": found.estimate.ess, "pareto_k": found.estimate.pareto_k, "observed": observed(batch)}

    points = study.settings.data("k-curve")
    values = study.over_data("k-curve", per_batch, batch_size=100, points=points)
    results = []
    for k in _KS:
        # the tail is that of all draws, and says something of their average alone
        tail = (
            {"median_ess": float(values["ess"].median()), **unreliable(values["pareto_k"], k)} if k == _KS[-1] else {}
        )
        results.append(study.average("k-curve", "k-curve", values[f"k={k}"], bound="lower", asked={"k": k}, found=tail))
    return results


def unreliable(pareto_k: Tensor, draws: int) -> dict[str, float]:
    """What a result says of the tail: the median k̂, and the share of data whose k̂ is too high."""
    known = pareto_k[~pareto_k.isnan()]
    if not len(known):
        return {}
    share = float((known > pareto_threshold(draws)).double().mean())
    return {"median_pareto_k": float(known.clamp(-1e3, 1e3).median()), "unreliable": share}
