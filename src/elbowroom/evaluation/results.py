"""A figure that carries its meaning: what was measured, on what, how, and which side it bounds."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["FOUND", "Bound", "Result"]

Bound = Literal["lower", "upper"]

#: Among a result's settings, those that were found and not asked for.
FOUND = (
    "median_ess",
    "low_ess",
    "median_pareto_k",
    "unreliable",
    "num_modes",
    "unconverged",
    "evaluations",
    "used_temperatures",
    "used_chains",
    "ended_by",
    "search_gap",
    "search_gap_stderr",
    "search_seconds",
    "seconds",
    "monte_carlo_stderr",
    "acceptance",
    "largest_gap",
    "rhat",
    "elbo_of_best_normal",
    "log_p",
)


class Result(BaseModel):
    """A figure that carries its meaning."""

    model_config = ConfigDict(frozen=True)

    name: str
    value: float
    stderr: float | None
    unit: str
    points: int
    split: str
    bound: Bound | None
    settings: dict[str, Any]
    protocol: dict[str, Any]
