"""How much annealing is enough: temperatures are added until simulated data show that log p(x) is known well enough.

The gap between a lower and an upper bound can be measured on simulated data only. So the number of temperatures is
raised, candidate by candidate, until the mean gap on simulated data, with its standard error, is below the tolerance,
or until the next candidate would exceed the time budget. The first candidates have one temperature and many draws,
which is importance sampling: from a good start it is the cheapest. The choice is made on simulated data of its own,
never on the data to be measured, so that their estimates stay unbiased. The gap that is reported beside them is
measured again, on other simulated data.
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

__all__ = ["CANDIDATES", "AnnealingChoice", "AnnealingSize", "chain_settings", "choose_annealing", "schedule_of"]


class AnnealingSize(NamedTuple):
    """Number of temperatures, and of chains per example."""

    temperatures: int
    chains: int


#: what the automatic mode tries, in this order; beyond 32 chains, more temperatures help more than more chains
CANDIDATES = (AnnealingSize(1, 100), AnnealingSize(1, 200), *(AnnealingSize(2**power, 32) for power in range(3, 13)))
_TRIED_ON = 512  # simulated examples for each candidate
_PILOT = 64  # simulated examples on which temperatures and step sizes are found
_SEARCH = 2**31  # random stream of the search, other than those of the measured batches

Why = Literal["given", "tolerance", "budget", "ladder"]


@dataclass(frozen=True, slots=True)
class AnnealingChoice:
    """The annealing that was chosen, and the reason.

    Attributes:
        size: temperatures and chains.
        plan: temperatures and step sizes, frozen.
        why: "given" by the user; "tolerance", it was met; "budget", it ended; "ladder", all candidates were tried.
        gap: mean gap on the data of the search, nats; None where there was no search.
        gap_stderr: its standard error.
        seconds: run time of the search.
    """

    size: AnnealingSize
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
        """As tensors, for the cache of an unfinished evaluation."""
        unknown = math.nan
        gap = (
            (self.gap, self.gap_stderr) if self.gap is not None and self.gap_stderr is not None else (unknown, unknown)
        )
        return {
            "size": torch.tensor([*self.size, get_args(Why).index(self.why), self.plan.num_gradients]),
            "gap": torch.tensor([*gap, self.seconds], dtype=torch.float64),
            "betas": self.plan.betas,
            "step_sizes": self.plan.step_sizes,
        }

    @classmethod
    def of_tensors(cls, kept: dict[str, Tensor]) -> AnnealingChoice:
        """The inverse of :meth:`to_tensors`."""
        temperatures, chains, why, gradients = kept["size"].tolist()
        gap, stderr, seconds = kept["gap"].tolist()
        known = None if math.isnan(gap) else gap
        plan = AnnealingPlan(kept["betas"], kept["step_sizes"], gradients)
        reason: Why = get_args(Why)[why]
        return cls(AnnealingSize(temperatures, chains), plan, reason, known, None if known is None else stderr, seconds)


def choose_annealing(study: Study, work: int) -> AnnealingChoice:
    """The annealing that the settings ask for, or the first candidate that meets the tolerance within the budget.

    Args:
        study: model, data and settings.
        work: number of examples to be measured with it, for the budget.
    """
    settings, began = study.settings, time.monotonic()
    generator = stream(device_of(study), study.settings.seed, _SEARCH)
    like = examples_like(study, _TRIED_ON)
    if settings.temperatures is not None:
        size = AnnealingSize(settings.temperatures, settings.chains or (100 if settings.temperatures == 1 else 32))
        return AnnealingChoice(size, _plan(study, size, like, generator), "given", None, None, time.monotonic() - began)
    data = simulate(study.model, like, generator=generator)
    tried: AnnealingChoice | None = None
    for step, size in enumerate(CANDIDATES):
        size = AnnealingSize(size.temperatures, settings.chains or size.chains)
        frozen, started = _plan(study, size, like, generator), time.monotonic()
        found: Sandwich = bidirectional(
            study.model, data, generator=generator, temperatures=frozen, chains=size.chains, **chain_settings(study)
        )
        spent = time.monotonic() - started
        gap, stderr = mean_and_stderr(found.gap)
        met = gap + stderr <= settings.tolerance
        tried = AnnealingChoice(size, frozen, "tolerance" if met else "ladder", gap, stderr, time.monotonic() - began)
        study.announce("searching", step + 1, len(CANDIDATES))
        if met:
            break
        if settings.budget is not None and step + 1 < len(CANDIDATES):
            after = CANDIDATES[step + 1]
            longer = (after.temperatures * (settings.chains or after.chains)) / (size.temperatures * size.chains)
            next_trial, whole = spent * longer, spent * longer * work / len(like)
            if tried.seconds + next_trial + whole > settings.budget:
                return AnnealingChoice(size, frozen, "budget", gap, stderr, tried.seconds)
    assert tried is not None  # there are candidates
    return tried


def device_of(study: Study) -> torch.device:
    """The device of the model."""
    return next((parameter.device for parameter in study.model.parameters()), torch.device("cpu"))


def examples_like(study: Study, points: int) -> Batch:
    """So many examples, for their contexts and masks; repeated where there are fewer."""
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
    """The schedule of the settings; by default adapted from the prior, and linear from a nearer start.

    From a good start the mean gap is decided by a few examples with heavy tails, for which even steps are best.
    """
    if study.settings.schedule is not None:
        return study.settings.schedule
    return "adapted" if chain_settings(study)["start"] == "prior" else "linear"


def _plan(study: Study, size: AnnealingSize, like: Batch, generator: torch.Generator) -> AnnealingPlan:
    found = simulate(study.model, like.rows(slice(_PILOT)), generator=generator)
    return plan(
        study.model, found.batch, temperatures=size.temperatures, schedule=schedule_of(study),
        generator=generator, **chain_settings(study),
    )  # fmt: skip
