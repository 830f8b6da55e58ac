"""A result: a number with what was measured, on which data, how, and which side it bounds."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["Bound", "Result"]

Bound = Literal["lower", "upper"]


class Result(BaseModel):
    """A number with what it measures, on which data, how, and with which error.

    Attributes:
        name: what was measured: "elbo", "kl", "elbow room", …
        method: the method, one of :data:`~elbowroom.evaluation.evaluate.METHODS`.
        value: in ``unit``.
        stderr: standard error of ``value``; None where there is none.
        unit: "nats", "bits/dim" or "units".
        points: number of examples.
        split: "train", "validation" or "test"; "simulated" from the model; "all" for other data.
        bound: whether ``value`` is a "lower" or "upper" bound of what it estimates; None for neither.
        asked: the settings that the value depends on, by their names in
            :class:`~elbowroom.evaluation.settings.Settings`; defaults of the method are filled in.
        found: what else the method reports: effective sample size, k̂, seconds, temperatures used, …
        protocol: data set, binarisation and its seed.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    method: str
    value: float
    stderr: float | None
    unit: str
    points: int
    split: str
    bound: Bound | None
    asked: dict[str, Any]
    found: dict[str, Any]
    protocol: dict[str, Any]
