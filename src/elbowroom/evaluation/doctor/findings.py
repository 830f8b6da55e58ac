"""What a check of the doctor reports: findings, each with its evidence, explanation and remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from elbowroom.phrasing import phrased

__all__ = ["Evidence", "Finding", "Severity"]

Severity = Literal["note", "warning", "severe"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """A number that a finding rests on."""

    name: str
    value: float
    stderr: float | None = None
    unit: str = "nats"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        check: its name.
        severity: a note is worth knowing, a warning worth a change, and severe what makes results useless.
        title: one plain sentence.
        evidence: the numbers behind it.
        explanation: why it is so, and what follows; settings are named in the language of the caller, as in errors.
        remedy: what to do; likewise.
    """

    check: str
    severity: Severity
    title: str
    evidence: tuple[Evidence, ...]
    explanation: str
    remedy: str

    def __post_init__(self) -> None:
        for name in ("explanation", "remedy"):
            object.__setattr__(self, name, phrased(getattr(self, name)))
