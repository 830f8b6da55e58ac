r"""The elbow room (inference gap) and its parts: the amortisation gap and the approximation gap.

.. math:: \underbrace{\log p(x) - \mathcal{L}[q]}_{\text{elbow room}}
    = \underbrace{\log p(x) - \mathcal{L}[q^*]}_{\text{approximation gap}}
    + \underbrace{\mathcal{L}[q^*] - \mathcal{L}[q]}_{\text{amortisation gap}}

Here q is the guide's distribution for an example, and q* the best member of the guide's family for that example
(:mod:`elbowroom.inference.gaussian.optimal_gaussian`). A large amortisation gap calls for a better encoder, or for
refining q at test time; a large approximation gap calls for a richer family. Of a guide that is not normal, such as
that of a hierarchy or of a flow, q* is the best diagonal normal. The approximation gap is then that of diagonal
normals, and the amortisation gap is negative where the guide has a larger ELBO than any of them. Between training and
test data,

.. math:: \text{generalisation gap} = \overline{\log p}_\text{train} - \overline{\log p}_\text{test}, \qquad
    \text{encoder's overfitting} = \overline{\text{room}}_\text{test} - \overline{\text{room}}_\text{train}

are two different faults: overfitting of the decoder, and overfitting of the encoder.

All three values of an example use the same x, L[q] and L[q*] use the same noise, and differences are taken for each
example, so that their standard errors are those of paired means. :math:`\log p(x)` is estimated from below, by
:func:`reference_log_evidence`; so the true approximation gap and elbow room can only be larger.

Draws of the posterior give a bound from the other side. Any normalised q has :math:`\mathbb{E}_{p(z|x)}[q / p(x, z)] =
1 / p(x)`, so that by Jensen's inequality, for any number of draws,

.. math:: \mathbb{E}\Big[{-\log} \frac{1}{K} \sum_{k=1}^K \frac{q(z_k)}{p(x, z_k)}\Big] \ge \log p(x),
    \qquad z_k \sim p(z | x).

For K = 1 it is :math:`\log p(x) + \mathrm{KL}(p(z|x) \,\|\, q)`. It is tight for many draws and the best full normal
as q, and it is valid as far as the chains have converged.

Reference:
    Cremer, Li & Duvenaud (2018), Inference suboptimality in variational autoencoders, arXiv:1801.03558.
    Wu, Burda, Salakhutdinov & Grosse (2017), On the quantitative analysis of decoder-based generative models,
    arXiv:1611.04273, section 5.3, on overfitting.
    Gelfand & Dey (1994), Bayesian model choice: asymptotics and exact calculations, JRSS B 56, eq. 18.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Generator, Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.results import Bound, Result
from elbowroom.evaluation.row_estimates import BATCH, best_q_estimate, laplace_estimate, repetition_variance
from elbowroom.evaluation.study import Study, require_normalized
from elbowroom.evaluation.thresholds import LOW_ESS_SHARE
from elbowroom.inference.gaussian.optimal_gaussian import optimal_gaussian
from elbowroom.inference.posterior.sample import posterior
from elbowroom.inference.target import posterior_target
from elbowroom.model.guides import PriorGuide
from elbowroom.numerics import log_mean_exp

__all__ = ["Room", "decompose", "reference_log_evidence", "room"]

_CHECKED = 20  # examples for which chains are run
_CHAINS = 4  # per example
_DRAWS = 400  # of each chain

_ELBO, _BEST, _LOG_P = "elbo", "elbo of q*", "log p(x)"
_AMORTISATION, _APPROXIMATION, _ROOM = "amortisation gap", "approximation gap", "elbow room"
_UPPER = "upper bound by HMC draws"


class Room(NamedTuple):
    """The gaps on training and on test data, and their differences.

    Attributes:
        train: results of :func:`room` on training data.
        test: results on the other data.
        generalisation: log p(x), train − test; None where the likelihood has no log p(x).
        overfitting: the elbow room, test − train; the amortisation gap where the likelihood has no log p(x).
    """

    train: list[Result]
    test: list[Result]
    generalisation: Result | None
    overfitting: Result


def room(study: Study, *, check: bool = False) -> list[Result]:
    """The ELBO, the ELBO of the best q of the guide's family for each example, log p(x), and the gaps between them.

    Args:
        study: model, guide, split and settings, of which ``points``, ``k`` (draws for log p(x)) and ``starts`` are
            used.
        check: whether to run Markov chains on the first 20 examples, for an upper bound.
    Returns:
        Results in nats, each with the standard error of its paired mean: "elbo", "elbo of q*", "log p(x)",
        "amortisation gap", "approximation gap", "elbow room". With a check also "upper bound by HMC draws", which
        reports the largest R-hat, on which it depends, and the lower bounds on the same data. A likelihood that is not
        normalised has no log p(x); the other results are then marked "not a log-likelihood". Where the guide is not
        normal, "family" among what was found says that q* is a diagonal normal.
    Raises:
        ElbowroomError: there is no guide; latents that are codes; a check where there is no log p(x).
    """
    study.model.require_real("room", "Evaluate with --methods codes, or with enumerate up to a million codes.")
    if isinstance(study.guide, PriorGuide):
        raise ElbowroomError(
            "room measures the gap between a guide's bound and log p(x), but this model has no guide.",
            "Evaluate with --methods laplace-is, which needs none.",
        )
    normalized = study.model.likelihood.normalized
    if check:
        require_normalized(study.model, "room's check by chains")

    def per_batch(batch: Batch, generator: Generator) -> dict[str, Tensor]:
        found = best_q_estimate(study.model, study.guide, batch, seed=study.settings.seed)
        return {**found, **(reference_log_evidence(study, batch) if normalized else {})}

    points = study.settings.data("room")
    finite = ["elbo", "best", *(["log p"] if normalized else [])]
    values = study.over_data("room", per_batch, batch_size=BATCH, points=points, finite=finite)
    results = _results(study, values)
    return [*results, _upper_bound(study)] if check else results


def reference_log_evidence(study: Study, batch: Batch) -> dict[str, Tensor]:
    """The estimate of log p(x) that room uses: a lower bound in expectation, and its effective sample size.

    Returns:
        "log p" in nats with its standard error, "log p stderr", and "ess", the share of draws that are effective; each
        of shape (batch,).
    """
    k, settings = study.settings.draws("room"), study.settings
    found = laplace_estimate(study.model, study.guide, batch, k=k, starts=settings.starts, seed=settings.seed)
    return {"log p": found["log_evidence"], "log p stderr": found["stderr"], "ess": found["ess"] / k}


def decompose(train: Sequence[Result], test: Sequence[Result]) -> Room:
    """The gaps of two splits and the differences between them.

    Args:
        train: results of :func:`room` on training data; results of other methods are ignored.
        test: results of :func:`room` on data that the model was not trained on.
    Returns:
        Both and their differences. The splits are independent, so the squares of their standard errors add.
    Raises:
        ElbowroomError: a split without results of :func:`room`.
    """
    before, after = _named(train), _named(test)
    what = _ROOM if _ROOM in (*before, *after) else _AMORTISATION
    for split, found in (("training", before), ("test", after)):
        if what not in found:
            raise ElbowroomError(
                f"The elbow room is compared between splits, but the results of the {split} data do not contain it.",
                "Evaluate both splits with --methods room.",
            )
    generalisation = None
    if _LOG_P in before and _LOG_P in after:
        generalisation = _difference("generalisation gap", before[_LOG_P], after[_LOG_P])
    return Room(
        [before[name] for name in before],
        [after[name] for name in after],
        generalisation,
        _difference("encoder's overfitting", after[what], before[what]),
    )


def _results(study: Study, values: dict[str, Tensor]) -> list[Result]:
    remark = _remark(study)
    found = {
        "unconverged": float(1 - values["converged"].mean()),
        "evaluations": float(values["evaluations"].mean()),
    }
    elbo, best, of_best, of_gain = (values[name] for name in ("elbo", "best", "stderr", "gain_stderr"))
    of_elbo = of_best + of_gain  # at most: L[q] = L[q*] - gain, and the two have their draws in common
    family = {} if bool(values["normal"].all()) else {"family": "diagonal"}

    def result(name: str, each: Tensor, stderr: Tensor, bound: Bound | None, **more: Any) -> Result:
        """The mean of ``each``, with what equal examples, which have equal draws, add to its standard error."""
        about = {"asked": {}, "found": found, **more}
        about["found"] = {**about["found"], **family}
        return study.average("room", name, each, bound=bound, repeated=repetition_variance(each, stderr), **about)

    side: Bound | None = None if remark else "lower"
    bounds = [result(f"{_ELBO}{remark}", elbo, of_elbo, side), result(f"{_BEST}{remark}", best, of_best, side)]
    amortisation = result(f"{_AMORTISATION}{remark}", best - elbo, of_gain, None)
    if remark:
        return [*bounds, amortisation]
    log_p, ess, of_log_p = values["log p"], values["ess"], values["log p stderr"]
    asked = _reference_settings(study)
    trust = {"median_ess": float(ess.median()) * asked["k"], "low_ess": float((ess < LOW_ESS_SHARE).double().mean())}
    about = {"asked": asked, "found": trust}
    return [
        *bounds,
        result(_LOG_P, log_p, of_log_p, "lower", **about),
        amortisation,
        result(_APPROXIMATION, log_p - best, of_log_p.hypot(of_best), None, **about),
        result(_ROOM, log_p - elbo, of_log_p.hypot(of_elbo), "lower", **about),
    ]


def _upper_bound(study: Study) -> Result:
    """Upper bound by draws of the posterior, with the lower bounds on the same data."""

    def per_batch(batch: Batch, generator: Generator) -> dict[str, Tensor]:
        best = optimal_gaussian(study.model, study.guide, batch, family="full", generator=generator)
        drawn = posterior(
            study.model, study.guide, batch, method="hmc", draws=_DRAWS, chains=_CHAINS, generator=generator
        )
        z = drawn.z.flatten(0, 1).to(batch.x.device)
        log_ratio = posterior_target(study.model, batch).log_density(z) - best.q.log_prob(z)
        return {
            "upper": -log_mean_exp(-log_ratio.double()),
            "best": best.elbo,
            "log p": reference_log_evidence(study, batch)["log p"],
            "rhat": drawn.diagnostics.rhat.amax(-1),
        }

    points = min(study.settings.points or _CHECKED, _CHECKED)
    values = study.over_data("room-check", per_batch, batch_size=_CHECKED, points=points)
    found = {
        "chains": _CHAINS,
        "draws": _DRAWS,
        "rhat": float(values["rhat"].max()),
        "elbo_of_best_normal": float(values["best"].mean()),
        "log_p": float(values["log p"].mean()),
    }
    return study.average("room", _UPPER, values["upper"], bound="upper", asked=_reference_settings(study), found=found)


def _reference_settings(study: Study) -> dict[str, int]:
    return {"k": study.settings.draws("room"), "starts": study.settings.starts}


def _remark(study: Study) -> str:
    likelihood = study.model.likelihood
    return "" if likelihood.normalized else f" ({likelihood.name}: not a log-likelihood)"


def _named(results: Sequence[Result]) -> dict[str, Result]:
    """The results of :func:`room`, by their names without a remark."""
    return {r.name.partition(" (")[0]: r for r in results if r.method == "room"}


def _difference(name: str, a: Result, b: Result) -> Result:
    """The difference a − b of results on different data."""
    stderr = None if a.stderr is None or b.stderr is None else math.hypot(a.stderr, b.stderr)
    _, bracket, remark = a.name.partition(" (")
    return Result(
        name=f"{name}{bracket}{remark}",
        method=a.method,
        value=a.value - b.value,
        stderr=stderr,
        unit=a.unit,
        points=a.points + b.points,
        split=f"{a.split} − {b.split}",
        bound=None,
        asked=a.asked,
        found=a.found,
        protocol=a.protocol,
    )
