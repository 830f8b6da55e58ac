"""A patient while it is examined: what several checks ask for is found out once, and can be shown afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property

from elbowroom.evaluation.doctor.aggregate_posterior import Aggregate, aggregate_study, guide_of
from elbowroom.evaluation.doctor.findings import DoctorInput, Finding
from elbowroom.evaluation.doctor.sample_quality import SampleStudy, sample_study

__all__ = ["Check", "Examination", "Studies"]


@dataclass(frozen=True, slots=True)
class Studies:
    """What the checks found out on their way, beyond the numbers in their findings.

    Attributes:
        aggregate: q(z) beside p(z); None where no check asked for it.
        samples: samples beside data; likewise.
    """

    aggregate: Aggregate | None = None
    samples: SampleStudy | None = None


@dataclass(frozen=True, eq=False)
class Examination(DoctorInput):
    """A patient, and its studies, each made when a check first asks for it."""

    @classmethod
    def of(cls, inputs: DoctorInput) -> Examination:
        """The examination of a patient, with nothing studied yet."""
        return cls(**{field.name: getattr(inputs, field.name) for field in fields(DoctorInput)})

    @cached_property
    def aggregate(self) -> Aggregate:
        """Where data put z, and where the prior draws it.

        Raises:
            ElbowroomError: no guide; too few data held out.
        """
        return aggregate_study(self)

    @cached_property
    def samples(self) -> SampleStudy:
        """Samples of the model beside data.

        Raises:
            ElbowroomError: too few data held out.
        """
        return sample_study(self, None if guide_of(self) is None else self.aggregate)

    @property
    def studies(self) -> Studies:
        """What has been made so far."""
        made = vars(self)
        return Studies(made.get("aggregate"), made.get("samples"))


Check = Callable[[Examination], list[Finding]]
"""One that needs no studies takes any patient."""
