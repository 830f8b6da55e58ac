"""What the doctor's checks are given: a trained model, its data, and the history of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.dataset import DataSet
from elbowroom.errors import ElbowroomError
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import draw
from elbowroom.model.guides import PriorGuide
from elbowroom.model.latent import LatentModel

__all__ = ["DoctorInput"]


@dataclass(frozen=True, eq=False)
class DoctorInput:
    """A trained model, its data, and what is known of its training.

    Attributes:
        model: p(x, z).
        guide: q(z | x), or None.
        data: with their splits.
        history: rows of metrics.jsonl.
        settings: learner, binarisation, …; empty for a model from elsewhere.
        points: number of examples that a check looks at.
        seed: of all draws.
    """

    model: LatentModel
    guide: Conditional | None
    data: DataSet
    history: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    points: int = 1000
    seed: int = 0

    @property
    def learned_guide(self) -> Conditional | None:
        """The guide, if one was learned: the prior in a guide's place counts as none."""
        return None if isinstance(self.guide, PriorGuide) else self.guide

    def held_out(self, least: int = 1) -> str:
        """The split that was not trained on: test, or else validation.

        Args:
            least: number of rows that are needed.
        Raises:
            ElbowroomError: neither has so many rows.
        """
        for split in ("test", "validation"):
            if (self.data.size(split) or 0) >= least:
                return split
        raise ElbowroomError(
            f"Of the data {self.data.name}, neither the test nor the validation split has {least} rows.",
            "Hold more data out, for instance with --data.test 0.2.",
        )

    def require_training(self) -> None:
        """Refuses data among which there are no examples that the model was trained on.

        Raises:
            ElbowroomError: the training split is empty, as where other data take the place of the run's own.
        """
        if not self.data.size("train"):
            raise ElbowroomError(
                f"This check needs training examples, and among {self.data.name} there are none.",
                "Examine the model with the data that it was trained on.",
            )

    def batch(self, split: str, points: int | None = None) -> Batch:
        """Some examples of a split, always the same."""
        points = self.points if points is None else points
        return next(iter(self.data.batches(split, points, points=points)))

    def prior_draws(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """One z ~ p(z | c) for the context of each example, shape (batch, latent)."""
        prior = self.model.prior(None, batch.context)
        return draw(prior, () if prior.batch_shape else (len(batch),), generator=generator)

    def generator(self, check: str) -> torch.Generator:
        """The random numbers of a check."""
        # torch's CPU generator reads only the lowest 32 bits of a seed: seed and check must both change those
        return torch.Generator(self.data.device).manual_seed((self.seed * 0x9E3779B1 + crc32(check.encode())) % 2**32)
