"""A result: a number with what was measured, on which data, how, and which side it bounds."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from elbowroom.evaluation.thresholds import CERTAIN_Z

__all__ = ["INDISTINCT", "TOO_LOW", "Bound", "Result", "sign_remark"]

Bound = Literal["lower", "upper", "exact"]

INDISTINCT = "not distinguishable from 0"
TOO_LOW = "below 0: the estimate is too low"
"""The two answers of :func:`sign_remark`."""

_NOT_NEGATIVE = (
    "kl", "elbow room", "amortisation gap", "lost to the encoder", "approximation gap", "bdmc gap", "codes rate",
    "room of the deterministic bound",
)  # fmt: skip
_CLEAR = 2.0  # standard errors above zero


class Result(BaseModel):
    """A number with what it measures, on which data, how, and with which error.

    Attributes:
        name: what was measured: "elbo", "kl", "elbow room", …
        method: the method, one of :data:`~elbowroom.evaluation.evaluate.METHODS`.
        value: in ``unit``.
        stderr: standard error of ``value``; None where there is none.
        unit: "nats", "bits/dim", "units" (a count of them), "codes" (a perplexity) or "share" (from 0 to 1).
        points: number of examples.
        split: "train", "validation" or "test"; "simulated" from the model; "all" for other data.
        bound: whether ``value`` is a "lower" or "upper" bound of what it estimates, or "exact", found without draws;
            None for none of these, and for an elbow room without a sure sign (:func:`sign_remark`), which bounds
            nothing.
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


def sign_remark(name: str, value: float, stderr: float | None) -> str:
    """What is to be said of the sign of a measured quantity that cannot be negative; "" where nothing is.

    The elbow room, the gaps and the KL divergence cannot be negative, but they are measured as differences of noisy
    averages, and what was measured can be. Less than two standard errors above zero it is no bound: all that it says
    is that the quantity is small. Four standard errors below zero, it says that an average was estimated too low.

    Args:
        name: of the result, or what begins with it ("elbow room on training data").
        value: measured.
        stderr: its standard error; None where it is not known, and every value above zero then counts as such.
    Example:
        >>> sign_remark("elbow room", -0.02, 0.03), sign_remark("elbow room", 0.5, 0.03)
        ('not distinguishable from 0', '')
        >>> sign_remark("elbo", -93.2, 0.3)  # of either sign
        ''
    """
    if not name.startswith(_NOT_NEGATIVE) or not math.isfinite(value):
        return ""
    error = stderr if stderr is not None and math.isfinite(stderr) else 0.0
    if value > _CLEAR * error:
        return ""
    return TOO_LOW if error and value < -CERTAIN_Z * error else INDISTINCT
