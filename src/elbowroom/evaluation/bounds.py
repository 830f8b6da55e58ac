"""Lower bounds from draws of a proposal, and active units: elbo, iwae, laplace-is, k-curve, active-units."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.results import Result
from elbowroom.evaluation.row_estimates import (
    BATCH,
    elbo_estimate,
    guide_curve,
    guide_estimate,
    laplace_estimate,
    repetition_variance,
)
from elbowroom.evaluation.study import Study, observed, require_normalized
from elbowroom.evaluation.thresholds import ACTIVE_VARIANCE, LOW_ESS_SHARE
from elbowroom.inference.importance.pareto import pareto_threshold
from elbowroom.model.guides import PriorGuide

__all__ = ["active_units", "elbo", "iwae", "k_curve", "laplace_is", "tail_reliability"]

_KS = (1, 10, 100, 1000, 5000)
_ROWS = 1000  # at a time, where a row is quick


def _elbo_of(study: Study, batch: Batch, method: str = "elbo") -> dict[str, Tensor]:
    settings = study.settings
    return elbo_estimate(
        study.model, study.guide, batch, num_samples=settings.num_samples, seed=settings.seed, method=method
    )


def _elbo_values(study: Study, points: int | None) -> dict[str, Tensor]:
    def per_batch(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        return {**_elbo_of(study, batch), "observed": observed(batch)}

    return study.over_data("elbo", per_batch, batch_size=_ROWS, points=points, finite=["elbo"])


def _elbo_repetition(study: Study, points: int | None, values: dict[str, Tensor]) -> dict[str, float]:
    r"""What equal rows add to the variance of the means of "elbo", "reconstruction" and "kl".

    The noise of a bound from few draws is not known from these. So rows that are there more than once are estimated
    twice, and of two independent estimates of variance σ², :math:`(a - b)^2 / 2` has the mean σ².
    """
    _, place, times = torch.unique(values["elbo"], return_inverse=True, return_counts=True)
    repeated = times[place] > 1
    stderr = {name: torch.zeros_like(values[name]) for name in ("elbo", "reconstruction", "kl")}
    done = 0
    for batch in study.data.batches(study.split, _ROWS, points=points) if bool(repeated.any()) else ():
        mine = repeated[done : done + len(batch)].nonzero().squeeze(1)
        if len(mine):
            other = _elbo_of(study, batch.rows(mine.to(batch.x.device)), "elbo, again")
            for name, error in stderr.items():
                error[done + mine] = (values[name][done + mine] - other[name].cpu()).abs() / math.sqrt(2)
        done += len(batch)
    return {name: repetition_variance(values[name], error) for name, error in stderr.items()}


def elbo(study: Study) -> list[Result]:
    """The evidence lower bound and its two terms, reconstruction and KL."""
    points, asked = study.settings.data("elbo"), {"num_samples": study.settings.num_samples}
    values = _elbo_values(study, points)
    repeated = _elbo_repetition(study, points, values)
    likelihood = study.model.likelihood
    remark = "" if likelihood.normalized else f" ({likelihood.name}: not a log-likelihood)"
    bound, *terms = (
        study.average(
            "elbo", f"{name}{remark}", values[name], bound="lower" if name == "elbo" and not remark else None,
            asked=asked, repeated=shared,
        )
        for name, shared in repeated.items()
    )  # fmt: skip
    if remark:
        return [bound, *terms]
    return [*study.with_bits(bound, values["elbo"], values["observed"], repeated=repeated["elbo"]), *terms]


def iwae(study: Study) -> list[Result]:
    """The importance-weighted bound, and the elbow room: the inference gap between it and the ELBO on the same data."""
    require_normalized(study.model, "iwae")
    k = study.settings.draws("iwae")
    settings = study.settings
    wide, of_prior = settings.proposal_width, settings.prior_share

    def per_batch(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        found = guide_estimate(
            study.model, study.guide, batch, k=k, seed=settings.seed, width=wide, prior_share=of_prior
        )
        kept = {name: found[name] for name in ("stderr", "ess", "pareto_k")}
        return {"iwae": found["log_evidence"], **kept, "observed": observed(batch)}

    points = study.settings.data("iwae")
    values = study.over_data("iwae", per_batch, batch_size=BATCH, points=points, finite=["iwae"])
    found = {"median_ess": float(values["ess"].median()), **tail_reliability(values["pareto_k"], k)}
    repeated = repetition_variance(values["iwae"], values["stderr"])
    asked: dict[str, Any] = {"k": k}
    if (wide, of_prior) != (1.0, 0.0):
        asked |= {"proposal_width": wide, "prior_share": of_prior}
    lower = study.average("iwae", "iwae", values["iwae"], bound="lower", asked=asked, found=found, repeated=repeated)
    results = study.with_bits(lower, values["iwae"], values["observed"], repeated=repeated)
    if isinstance(study.guide, PriorGuide):  # without a guide there is no inference gap
        return results
    elbos = _elbo_values(study, points)
    room, repeated = values["iwae"] - elbos["elbo"], repeated + _elbo_repetition(study, points, elbos)["elbo"]
    asked = {**asked, "num_samples": study.settings.num_samples}
    return [*results, study.average("iwae", "elbow room", room, bound="lower", asked=asked, repeated=repeated)]


def laplace_is(study: Study) -> list[Result]:
    """The importance-weighted bound with draws from Laplace approximations around the modes of the posterior."""
    study.model.require_real("laplace-is", "Evaluate with --methods codes, or with enumerate up to a million codes.")
    require_normalized(study.model, "laplace-is")
    k = study.settings.draws("laplace-is")

    def per_batch(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        settings = study.settings
        found = laplace_estimate(study.model, study.guide, batch, k=k, starts=settings.starts, seed=settings.seed)
        return {**found, "observed": observed(batch)}

    points = study.settings.data("laplace-is")
    values = study.over_data("laplace-is", per_batch, batch_size=BATCH, points=points, finite=["log_evidence"])
    found = {
        "median_ess": float(values["ess"].median()),
        "low_ess": float((values["ess"] < LOW_ESS_SHARE * k).double().mean()),
        "num_modes": float(values["num_modes"].mean()),
        "unconverged": float(1 - values["converged"].mean()),
        "evaluations": float(values["evaluations"].mean()),
        **tail_reliability(values["pareto_k"], k),
    }
    asked = {"k": k, "starts": study.settings.starts}
    bound = values["log_evidence"]
    repeated = repetition_variance(bound, values["stderr"])
    lower = study.average("laplace-is", "laplace-is", bound, bound="lower", asked=asked, found=found, repeated=repeated)
    return study.with_bits(lower, bound, values["observed"], repeated=repeated)


def k_curve(study: Study) -> list[Result]:
    """The importance-weighted bound for k = 1, 10, 100, 1000, 5000 draws, from one set of draws; k̂ with the last."""
    require_normalized(study.model, "k-curve")

    def per_batch(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        found = guide_curve(study.model, study.guide, batch, ks=_KS, seed=study.settings.seed)
        return {**found, "observed": observed(batch)}

    points = study.settings.data("k-curve")
    bounds = [f"k={k}" for k in _KS]
    values = study.over_data("k-curve", per_batch, batch_size=BATCH, points=points, finite=bounds)
    results = []
    for k in _KS:
        tail = {}
        if k == _KS[-1]:  # k̂ is that of all draws, and so belongs to the bound of all draws
            tail = {"median_ess": float(values["ess"].median()), **tail_reliability(values["pareto_k"], k)}
        results.append(study.average("k-curve", "k-curve", values[f"k={k}"], bound="lower", asked={"k": k}, found=tail))
    return results


def tail_reliability(pareto_k: Tensor, draws: int) -> dict[str, float]:
    """Reliability of the weights: the median Pareto k̂, and the share of examples whose k̂ is too high."""
    known = pareto_k[~pareto_k.isnan()]
    if not len(known):
        return {}
    share = float((pareto_k > pareto_threshold(draws)).double().mean())  # of all: where k̂ is unknown nothing is claimed
    return {"median_pareto_k": float(known.clamp(-1e3, 1e3).median()), "unreliable": share}


def active_units(study: Study) -> list[Result]:
    """Active units: the number of latent dimensions whose posterior mean varies with the data."""
    study.model.require_real("active-units", "Evaluate with --methods codes, which counts the codes in use.")
    if isinstance(study.guide, PriorGuide):
        raise ElbowroomError(
            "active-units counts latents whose mean under the guide varies with the data, but this model has no guide.",
            "Evaluate with --methods laplace-is, which needs none.",
        )

    def per_batch(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        return {"mean": study.guide(batch.x, batch.context).mean}

    points = study.settings.data("active-units")
    means = study.over_data("active-units", per_batch, batch_size=1000, points=points, finite=["mean"])["mean"]
    if len(means) < 2:
        raise ElbowroomError(
            "Active units need a variance over examples, but there is one example.",
            "Give more examples (--points 2 or more), or measure others: --methods elbo,iwae.",
        )
    active = int((means.var(0) > ACTIVE_VARIANCE).sum())
    return [
        study.count(
            "active-units", "active units", active, of=means.shape[1], points=len(means), threshold=ACTIVE_VARIANCE
        )
    ]
