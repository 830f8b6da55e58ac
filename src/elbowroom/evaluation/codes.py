r"""The methods codes and enumerate: what a model with discrete latents is worth.

``codes`` measures the bounds that such models are quoted with, and how far they are apart, all from the same draws:

=============================== ====================================================================================
result                          what it is
=============================== ====================================================================================
codes distortion                :math:`-E_q \log p(x|z)`
codes rate                      :math:`KL(q(z|x) \| p(z))`
elbo                            minus their sum
deterministic bound             :math:`\log p(x, \hat z)`, with ẑ the most likely code of each slot
distinct bound                  :math:`\log \sum_{z \in S} p(x, z)`, S: the distinct ones among ẑ and k draws
iwae                            the importance-weighted bound of the same k draws
elbow room                      iwae − elbo
room of the deterministic bound iwae − deterministic bound: in expectation at most :math:`-\log p(\hat z | x)`
perplexity                      of the most likely codes, over the split (:mod:`elbowroom.evaluation.code_usage`)
perplexity of draws             the same of drawn codes, one for each example
codes used                      how many codes are the most likely one of some example, of L K
=============================== ====================================================================================

Where codes are on several levels, the top level being the first, there are of each level also

=============================== ====================================================================================
result                          what it is
=============================== ====================================================================================
codes rate, level m             :math:`E_q KL(q(z_m|z_{<m}, x) \| p(z_m|z_{<m}))`; their sum is the rate
codes distortion, level 1 alone :math:`-E \log p(x|z)` where lower levels are drawn from the prior given this one; of
                                three levels also "levels 1 to 2 alone"
perplexity, level m             of the most likely codes of its slots
=============================== ====================================================================================

A distortion of upper levels and the rates of these are minus the ELBO of a guide that knows no others.

The deterministic bound is no log-likelihood: it leaves out the other codes. It is never above the distinct bound, which
is never above log p(x), for every example and whatever was drawn. The importance-weighted bound is below log p(x) in
expectation, and usually the tightest of them.

``enumerate`` sums over all codes: log p(x) itself, the ELBO and the elbow room between them, without any draw.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.bounds import tail_reliability
from elbowroom.evaluation.code_usage import code_usage
from elbowroom.evaluation.results import Bound, Result
from elbowroom.evaluation.row_estimates import BATCH, code_estimate, repetition_variance
from elbowroom.evaluation.study import Study, observed, require_normalized
from elbowroom.inference.enumeration import check_enumerable, enumerated, enumerated_elbo
from elbowroom.model.guides import PriorGuide, guide_distribution
from elbowroom.model.top_down_codes import levels_of

__all__ = ["codes", "enumerate_codes"]

_CODES_AT_ONCE = 2**18  # that are computed, for all examples of a part, between two reports of progress


def codes(study: Study) -> list[Result]:
    """Rate and distortion, the bounds of a model with codes, the room between them, and the use of the codes."""
    _require_codes(study, "codes")
    require_normalized(study.model, "codes")
    if isinstance(study.guide, PriorGuide):
        raise ElbowroomError(
            "codes measures a guide's codes, but this model has no guide.",
            "Evaluate with --methods enumerate or ais, which need none.",
        )
    k = study.settings.draws("codes")

    def per_batch(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        found = code_estimate(study.model, study.guide, batch, k=k, seed=study.settings.seed)
        return {"iwae": found.pop("log_evidence"), **found, "observed": observed(batch)}

    values = study.over_data(
        "codes", per_batch, batch_size=BATCH, points=study.settings.data("codes"), resumable=True,
        finite=["iwae", "elbo", "deterministic"],
    )  # fmt: skip

    def bound(name: str, column: str, stderr: str | None = None, **found: float) -> list[Result]:
        mean = values[column]
        repeated = 0.0 if stderr is None else repetition_variance(mean, values[stderr])
        asked = {} if column == "deterministic" else {"k": k}  # the one that needs no draw
        result = study.average("codes", name, mean, bound="lower", asked=asked, found=found, repeated=repeated)
        return study.with_bits(result, mean, values["observed"], repeated=repeated)

    def part(name: str, mean: Tensor, noisy: str, stderr: str, side: Bound | None = None) -> Result:
        repeated = repetition_variance(values[noisy], values[stderr])
        return study.average("codes", name, mean, bound=side, asked={"k": k}, repeated=repeated)

    elbow_room, room = values["iwae"] - values["elbo"], values["iwae"] - values["deterministic"]
    tail = {"median_ess": float(values["ess"].median()), **tail_reliability(values["pareto_k"], k)}
    return [
        part("codes distortion", values["distortion"], "distortion", "distortion_stderr"),
        part("codes rate", values["rate"], "rate", "rate_stderr"),
        *bound("elbo", "elbo", "elbo_stderr"),
        *bound("deterministic bound", "deterministic", rate=float(values["deterministic_rate"].mean())),
        *bound("distinct bound", "distinct", distinct=float(values["num_distinct"].mean())),
        *bound("iwae", "iwae", "stderr", **tail),
        part("elbow room", elbow_room, "iwae", "stderr", "lower"),
        part("room of the deterministic bound", room, "iwae", "stderr"),
        *_usage(study, k, values["mode"].long(), values["drawn"].long()),
        *(_of_levels(study, k, values) if "level_rates" in values else []),
    ]


def _usage(study: Study, k: int, mode: Tensor, drawn: Tensor) -> list[Result]:
    """Perplexities, and the number of codes that are used."""
    space, points = study.model.space, len(mode)
    likely, random = code_usage(space, mode), code_usage(space, drawn)
    perplexities = [
        study.count(
            "codes", name, found.perplexity, of=space.codes, points=points, stderr=found.stderr, unit="codes",
            asked=asked, slots=space.slots, plug_in=found.plug_in,
        )
        for name, found, asked in (("perplexity", likely, {}), ("perplexity of draws", random, {"k": k}))
    ]  # fmt: skip
    used = study.count("codes", "codes used", likely.used, of=space.dim, points=points, fewest=likely.fewest)
    return [*perplexities, used]


def _of_levels(study: Study, k: int, values: dict[str, Tensor]) -> list[Result]:
    """Rates, distortions and perplexities by level."""
    space, results = study.model.space, []

    def parts(column: str, name: Callable[[int], str]) -> None:
        for level, (mean, stderr) in enumerate(zip(values[column].T, values[f"{column}_stderr"].T, strict=True), 1):
            repeated = repetition_variance(mean, stderr)
            results.append(study.average("codes", name(level), mean, bound=None, asked={"k": k}, repeated=repeated))

    parts("level_rates", lambda level: f"codes rate, level {level}")
    parts("level_distortions", lambda level: f"codes distortion, level{'s 1 to' * (level > 1)} {level} alone")
    row = next(iter(study.data.batches(study.split, 1, points=1)))
    levels, mode = levels_of(guide_distribution(study.guide, row)), values["mode"].long()
    for number, (level, codes) in enumerate(
        zip(levels, mode.split_with_sizes([level.slots for level in levels], -1), strict=True), 1
    ):
        used = code_usage(level, codes)
        results.append(
            study.count(
                "codes", f"perplexity, level {number}", used.perplexity, of=space.codes, points=len(mode),
                stderr=used.stderr, unit="codes", slots=level.slots, plug_in=used.plug_in,
            )
        )  # fmt: skip
    return results


def enumerate_codes(study: Study) -> list[Result]:
    """log p(x) by the sum over all codes, and with a guide the exact ELBO and the exact elbow room."""
    _require_codes(study, "enumerate")
    require_normalized(study.model, "enumerate")
    count = check_enumerable(study.model.space, "enumerate")
    guided = not isinstance(study.guide, PriorGuide)

    def of_row(row: Batch) -> dict[str, Tensor]:
        found = enumerated(study.model, row)
        elbo = {"elbo": enumerated_elbo(study.model, study.guide, row, known=found)} if guided else {}
        return {"log p": found.log_evidence, **elbo}

    def per_batch(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        # one at a time, so that what is computed of a row has the same bits whichever others come with it
        rows = [of_row(batch.rows(part)) for part in (slice(i, i + 1) for i in range(len(batch)))]
        return {**{name: torch.cat([row[name] for row in rows]) for name in rows[0]}, "observed": observed(batch)}

    size = max(1, min(BATCH, _CODES_AT_ONCE // count))
    points = study.settings.data("enumerate")
    values = study.over_data("enumerate", per_batch, batch_size=size, points=points, resumable=True, finite=["log p"])
    log_p = values["log p"]
    exact = study.average("enumerate", "log p(x)", log_p, bound="exact", asked={}, found={"codes": count})
    results = study.with_bits(exact, log_p, values["observed"])
    if not guided:
        return results
    elbo = study.average("enumerate", "elbo", values["elbo"], bound="lower", asked={})
    room = study.average("enumerate", "elbow room", log_p - values["elbo"], bound="exact", asked={})
    return [*results, *study.with_bits(elbo, values["elbo"], values["observed"]), room]


def _require_codes(study: Study, method: str) -> None:
    """Refuses a model whose z is continuous."""
    if study.model.latent_support == "real":
        raise ElbowroomError(
            f"{method} measures models with discrete latents, but the z of this model is continuous.",
            "Evaluate with --methods elbo,iwae,ais; active-units counts the latents in use.",
        )
