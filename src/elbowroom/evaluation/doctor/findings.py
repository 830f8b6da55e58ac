"""What a doctor's check looks at and what it says: a patient goes in, findings come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from zlib import crc32

import torch

from elbowroom.data.batch import Batch
from elbowroom.data.dataset import DataSet
from elbowroom.model.conditional import Conditional
from elbowroom.model.latent import LatentModel

__all__ = ["DoctorInput", "Evidence", "Finding", "Severity"]

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
        explanation: why it is so, and what follows.
        remedy: what to do.
    """

    check: str
    severity: Severity
    title: str
    evidence: tuple[Evidence, ...]
    explanation: str
    remedy: str


@dataclass(frozen=True, eq=False)
class DoctorInput:
    """A trained model and what is known of its training.

    Attributes:
        model: p(x, z).
        guide: q(z | x), or None.
        data: with their splits.
        history: rows of metrics.jsonl.
        settings: learner, binarisation, …; empty for a model from elsewhere.
        points: data that a check looks at.
        seed: of all draws.
    """

    model: LatentModel
    guide: Conditional | None
    data: DataSet
    history: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    points: int = 1000
    seed: int = 0

    def batch(self, split: str, points: int | None = None) -> Batch:
        """Some data of a split, always the same."""
        points = self.points if points is None else points
        return next(iter(self.data.batches(split, points, points=points)))

    def generator(self, check: str) -> torch.Generator:
        """The draws of a check."""
        # torch's generator on the CPU looks at the lowest 32 bits alone, so that both parts have to be in these
        return torch.Generator(self.data.device).manual_seed((self.seed * 0x9E3779B1 + crc32(check.encode())) % 2**32)
