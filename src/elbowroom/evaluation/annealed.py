"""The methods ais and bdmc: log p(x) by annealed importance sampling, and the error it can have.

``ais`` measures real data: a lower bound. ``bdmc`` (bidirectional Monte Carlo) measures data that are simulated from
the model, in the same way, from below and from above. The gap between the two bounds is what the first can be expected
to be too low by.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.evaluation.annealing_budget import AnnealingChoice, chain_settings, choose_annealing, schedule_of
from elbowroom.evaluation.results import Bound, Result
from elbowroom.evaluation.study import PerBatch, Study, observed, require_normalized
from elbowroom.evaluation.thresholds import LOW_ESS_SHARE
from elbowroom.inference.annealing.ais import AIS, ais
from elbowroom.inference.annealing.bidirectional import bidirectional, simulate
from elbowroom.numerics import mean_and_stderr

__all__ = ["annealed", "sandwiched"]

_BLOCK = 500  # examples at a time: what an interruption can lose


def annealed(study: Study) -> list[Result]:
    """log p(x) of the data, by annealed importance sampling: a lower bound."""
    require_normalized(study.model, "ais")
    choice, asked = _choice(study)

    def per_batch(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        found = ais(study.model, batch, generator=generator, **_settings(study, choice))
        return {**_per_example(found), "observed": observed(batch)}

    values, found = _measure(study, choice, "ais", per_batch, study.settings.data("ais"))
    lower = study.average("ais", "ais", values["log_evidence"], bound="lower", asked=asked, found=found)
    return study.with_bits(lower, values["log_evidence"], values["observed"])


def sandwiched(study: Study) -> list[Result]:
    """Lower and upper bound on log p(x) of data simulated from the model, and the gap between them."""
    require_normalized(study.model, "bdmc")
    choice, asked = _choice(study)

    def per_batch(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        # simulated first, so that the data do not depend on how they are measured, and settings can be compared on them
        data = simulate(study.model, batch, generator=generator)
        found = bidirectional(study.model, data, generator=generator, **_settings(study, choice))
        return {**_per_example(found.forward), "upper": found.upper, "gap": found.gap}

    values, found = _measure(study, choice, "bdmc", per_batch, study.settings.simulated, simulated=True)
    found["largest_gap"] = float(values["gap"].max())
    sides: tuple[tuple[str, str, Bound | None], ...] = (
        ("bdmc lower", "log_evidence", "lower"), ("bdmc upper", "upper", "upper"), ("bdmc gap", "gap", None),
    )  # fmt: skip
    results = [
        study.average("bdmc", name, values[column], bound=bound, asked=asked, found=found)
        for name, column, bound in sides
    ]
    return [result.model_copy(update={"split": "simulated"}) for result in results]


def _measure(
    study: Study,
    choice: AnnealingChoice,
    method: str,
    per_batch: PerBatch,
    points: int | None,
    *,
    simulated: bool = False,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The values of every example, and what a result reports about how they were found."""
    began = time.monotonic()
    values = study.over_data(
        method, per_batch, batch_size=_BLOCK, points=points, resumable=True, simulated=simulated,
        finite=["log_evidence"],
    )  # fmt: skip
    return values, {**_found(values, choice), "seconds": time.monotonic() - began}


def _choice(study: Study) -> tuple[AnnealingChoice, dict[str, Any]]:
    """The annealing, chosen once for both methods; and the settings that a result depends on."""
    settings, size = study.settings, study.data.size(study.split)
    if "choice" not in study.memory:
        work = min(settings.data("ais") or size, size) + settings.simulated
        found = study.part("choice", lambda: choose_annealing(study, work).to_tensors())
        study.memory["choice"] = AnnealingChoice.of_tensors(found)
    choice: AnnealingChoice = study.memory["choice"]
    asked = {
        "start": chain_settings(study)["start"],
        "climbs": settings.climbs,
        "temperatures": settings.temperatures,
        "chains": settings.chains,
        "schedule": schedule_of(study),
    }
    if settings.precision != "full":  # results of versions without this setting are the same as these
        asked |= {"precision": settings.precision}
    if settings.temperatures is None:
        asked |= {"tolerance": settings.tolerance, "budget": settings.budget}
    return choice, asked


def _settings(study: Study, choice: AnnealingChoice) -> dict[str, Any]:
    return {"temperatures": choice.plan, "chains": choice.size.chains, "block": _BLOCK, **chain_settings(study)}


def _per_example(found: AIS) -> dict[str, Tensor]:
    size = len(found.log_evidence)
    cost = found.num_gradients + found.start_gradients
    return {
        "log_evidence": found.log_evidence,
        "stderr": found.stderr,
        "ess": found.ess,
        "acceptance": found.acceptance,
        "evaluations": torch.full((size,), cost, dtype=torch.float64),
    }


def _found(values: dict[str, Tensor], choice: AnnealingChoice) -> dict[str, Any]:
    """What a result reports about how it was found."""
    chains = choice.size.chains
    found = {
        "used_temperatures": choice.size.temperatures,
        "used_chains": chains,
        "ended_by": choice.why,
        "search_gap": choice.gap,
        "search_gap_stderr": choice.gap_stderr,
        "search_seconds": choice.seconds,
        "monte_carlo_stderr": float(values["stderr"].square().sum().sqrt()) / len(values["stderr"]),
        "median_ess": float(values["ess"].median()),
        "low_ess": float((values["ess"] < max(2.0, LOW_ESS_SHARE * chains)).double().mean()),
        "evaluations": float(values["evaluations"].mean()),
    }
    acceptance = mean_and_stderr(values["acceptance"])[0]
    return found if math.isnan(acceptance) else {**found, "acceptance": acceptance}
