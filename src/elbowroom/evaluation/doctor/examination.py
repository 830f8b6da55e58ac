"""One examination: the checks' input, and the studies that several checks share, each made once.

A study is a measurement that more than one check needs, and that figures show afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property

from elbowroom.evaluation.doctor.aggregate_posterior import Aggregate, aggregate_study
from elbowroom.evaluation.doctor.findings import Finding
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.evaluation.doctor.sample_quality import SampleStudy, sample_study

__all__ = ["Check", "Examination", "Studies"]


@dataclass(frozen=True, slots=True)
class Studies:
    """The studies that the checks made, beyond the numbers in their findings.

    Attributes:
        aggregate: q(z) against p(z); None where no check asked for it.
        samples: samples against data; likewise.
    """

    aggregate: Aggregate | None = None
    samples: SampleStudy | None = None


@dataclass(frozen=True, eq=False)
class Examination(DoctorInput):
    """A :class:`DoctorInput` with its studies, each made when a check first asks for it."""

    @classmethod
    def of(cls, inputs: DoctorInput) -> Examination:
        """An examination with no study made yet."""
        return cls(**{field.name: getattr(inputs, field.name) for field in fields(DoctorInput)})

    @cached_property
    def aggregate(self) -> Aggregate:
        """The aggregate posterior against the prior.

        Raises:
            ElbowroomError: no guide; too few examples held out.
        """
        return aggregate_study(self)

    @cached_property
    def samples(self) -> SampleStudy:
        """Samples of the model against data.

        Raises:
            ElbowroomError: too few examples held out.
        """
        has_aggregate = self.learned_guide is not None and self.model.latent_support == "real"
        return sample_study(self, self.aggregate if has_aggregate else None)

    @property
    def studies(self) -> Studies:
        """What has been made so far."""
        made = vars(self)
        return Studies(made.get("aggregate"), made.get("samples"))


Check = Callable[[Examination], list[Finding]]
"""A check. One that needs no studies takes any :class:`DoctorInput`."""
