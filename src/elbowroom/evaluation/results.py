"""A figure that carries its meaning: what was measured, on what, how, and which side it bounds."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["Bound", "Result"]

Bound = Literal["lower", "upper"]


class Result(BaseModel):
    """A figure that carries its meaning.

    Attributes:
        name: of the figure: "elbo", "kl", "elbow room", …
        method: that found it, one of :data:`~elbowroom.evaluation.evaluate.METHODS`.
        value: in ``unit``.
        stderr: standard error of ``value``; None where there is none.
        unit: "nats", "bits/dim" or "units".
        points: data that were measured.
        split: that they are of; "simulated" by the model, "all" for data from elsewhere.
        bound: the side from which ``value`` bounds what it estimates; None for no bound.
        asked: the settings that the figure depends on, by their names in
            :class:`~elbowroom.evaluation.settings.Settings`; the method's own choices stand in where none was given.
        found: what else the method has to say: effective sample size, k̂, seconds, temperatures used, …
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
