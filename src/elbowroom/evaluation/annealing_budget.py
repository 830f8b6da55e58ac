"""How much annealing is enough: more of it until data of the model's own say that log p(x) is known well enough.

The gap between a lower and an upper bound can be measured on simulated data alone. So the number of temperatures is
raised, rung by rung, until the mean gap on some of these, with its standard error, is below the tolerance; or until a
further rung would take longer than the budget leaves. The first rungs have one temperature and many draws, which is
importance sampling: where the start is good it is the cheapest. Which rung is taken is decided by simulated data of
their own, never by the data to be measured, so that their estimates stay unbiased; and the gap that is reported beside
them is measured anew, on other simulated data.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.evaluation.settings import ScheduleName
from elbowroom.evaluation.study import Study, stream
from elbowroom.inference.annealing.ais import AnnealingPlan, plan
from elbowroom.inference.annealing.bidirectional import Sandwich, bidirectional, simulate
from elbowroom.inference.annealing.initial import default_start
from elbowroom.model.guides import PriorGuide
from elbowroom.numerics import mean_and_stderr

__all__ = ["LADDER", "Effort", "Rung", "chain_settings", "find_effort", "schedule_of"]


class Rung(NamedTuple):
    """T temperatures and C chains, per datum."""

    temperatures: int
    chains: int


#: what the automatic mode tries, in this order; a few chains tell their own spread, and more temperatures serve better
LADDER = (Rung(1, 100), Rung(1, 200), *(Rung(2**power, 32) for power in range(3, 13)))
_TRIED_ON = 512  # simulated data that a rung is judged by
_PILOT = 64  # simulated data that temperatures and step sizes are found on
_SEARCH = 2**31  # the stream of what is tried, apart from those of the batches that are measured

Why = Literal["given", "tolerance", "budget", "ladder"]


@dataclass(frozen=True, slots=True)
class Effort:
    """What was chosen, and why.

    Attributes:
        rung: temperatures and chains.
        plan: temperatures and step sizes, frozen.
        why: "given" by the user; the "tolerance" was met; the "budget" ended; the "ladder" did.
        gap: mean on the data that the rung was judged by, nats; None where it was given.
        gap_stderr: its standard error.
        seconds: that the search took.
    """

    rung: Rung
    plan: AnnealingPlan
    why: Why
    gap: float | None
    gap_stderr: float | None
    seconds: float

    @property
    def reached(self) -> bool | None:
        """Whether the tolerance was met; None where none was asked for."""
        return None if self.why == "given" else self.why == "tolerance"

    def to_tensors(self) -> dict[str, Tensor]:
        """To be kept among the parts of an evaluation."""
        unknown = math.nan
        gap = (
            (self.gap, self.gap_stderr) if self.gap is not None and self.gap_stderr is not None else (unknown, unknown)
        )
        return {
            "rung": torch.tensor([*self.rung, get_args(Why).index(self.why), self.plan.num_gradients]),
            "gap": torch.tensor([*gap, self.seconds], dtype=torch.float64),
            "betas": self.plan.betas,
            "step_sizes": self.plan.step_sizes,
        }

    @classmethod
    def of_tensors(cls, kept: dict[str, Tensor]) -> Effort:
        """The inverse of :meth:`to_tensors`."""
        temperatures, chains, why, gradients = kept["rung"].tolist()
        gap, stderr, seconds = kept["gap"].tolist()
        known = None if math.isnan(gap) else gap
        plan = AnnealingPlan(kept["betas"], kept["step_sizes"], gradients)
        reason: Why = get_args(Why)[why]
        return cls(Rung(temperatures, chains), plan, reason, known, None if known is None else stderr, seconds)


def find_effort(study: Study, work: int) -> Effort:
    """The rung that the settings ask for, or the first that meets their tolerance within their budget.

    Args:
        study: model, data and settings.
        work: data that are to be measured with it, for the budget.
    """
    settings, began = study.settings, time.monotonic()
    generator = stream(device_of(study), study.settings.seed, _SEARCH)
    like = imitated(study, _TRIED_ON)
    if settings.temperatures is not None:
        rung = Rung(settings.temperatures, settings.chains or (100 if settings.temperatures == 1 else 32))
        return Effort(rung, _plan(study, rung, like, generator), "given", None, None, time.monotonic() - began)
    data = simulate(study.model, like, generator=generator)
    tried: Effort | None = None
    for step, rung in enumerate(LADDER):
        rung = Rung(rung.temperatures, settings.chains or rung.chains)
        frozen, started = _plan(study, rung, like, generator), time.monotonic()
        found: Sandwich = bidirectional(
            study.model, data, generator=generator, temperatures=frozen, chains=rung.chains, **chain_settings(study)
        )
        spent = time.monotonic() - started
        gap, stderr = mean_and_stderr(found.gap)
        met = gap + stderr <= settings.tolerance
        tried = Effort(rung, frozen, "tolerance" if met else "ladder", gap, stderr, time.monotonic() - began)
        study.announce("searching", step + 1, len(LADDER))
        if met:
            break
        if settings.budget is not None and step + 1 < len(LADDER):
            after = LADDER[step + 1]
            longer = (after.temperatures * (settings.chains or after.chains)) / (rung.temperatures * rung.chains)
            next_trial, whole = spent * longer, spent * longer * work / len(like)
            if tried.seconds + next_trial + whole > settings.budget:
                return Effort(rung, frozen, "budget", gap, stderr, tried.seconds)
    assert tried is not None  # the ladder has rungs
    return tried


def device_of(study: Study) -> torch.device:
    """Where the model is."""
    return next((parameter.device for parameter in study.model.parameters()), torch.device("cpu"))


def imitated(study: Study, points: int) -> Batch:
    """So many of the data, for their contexts and masks; in turn again where there are fewer."""
    size = min(points, study.data.size(study.split))
    batch = next(iter(study.data.batches(study.split, size, points=size)))
    return batch if size == points else batch.rows(torch.arange(points, device=batch.x.device) % size)


def chain_settings(study: Study) -> dict[str, Any]:
    """Where chains start and how their gradients are rounded: keywords of
    :func:`~elbowroom.inference.annealing.ais.ais`.
    """
    guide = None if isinstance(study.guide, PriorGuide) else study.guide
    start = study.settings.start or default_start(study.model, guide)
    settings = study.settings
    return {"guide": guide, "start": start, "climbs": settings.climbs, "precision": settings.precision}


def schedule_of(study: Study) -> ScheduleName:
    """Where the start is good, data with heavy tails decide the mean gap, and even steps serve these best."""
    if study.settings.schedule is not None:
        return study.settings.schedule
    return "adapted" if chain_settings(study)["start"] == "prior" else "linear"


def _plan(study: Study, rung: Rung, like: Batch, generator: torch.Generator) -> AnnealingPlan:
    found = simulate(study.model, like.rows(slice(_PILOT)), generator=generator)
    return plan(
        study.model, found.batch, temperatures=rung.temperatures, schedule=schedule_of(study),
        generator=generator, **chain_settings(study),
    )  # fmt: skip
