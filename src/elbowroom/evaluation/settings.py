"""What the methods of evaluation can be asked for; every method has good values of its own."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from elbowroom.errors import ElbowroomError, did_you_mean
from elbowroom.inference.starts import STARTS, StartName
from elbowroom.inference.tempering import SCHEDULES as FIXED
from elbowroom.inference.weights import check_name

__all__ = ["Settings"]

ScheduleName = Literal["adapted", "linear", "sigmoid"]
SCHEDULES = ("adapted", *FIXED)

_DRAWS = {"iwae": 5000, "laplace-is": 100}  # k unless given


@dataclass(frozen=True, slots=True)
class Settings:
    """How the methods measure.

    Attributes:
        k: draws per datum of the importance-weighted bounds; unless given, 5,000 for iwae and 100 for laplace-is.
        starts: climbs per datum to modes of the posterior, for laplace-is.
        num_samples: draws per datum of the ELBO.
        start: where annealing starts: "laplace", "guide" or "prior"; unless given, the best that there is.
        climbs: per datum to modes of the posterior, where annealing starts from Laplace approximations.
        temperatures: of annealing; unless given, raised until the tolerance is met.
        chains: of annealing; unless given 32, and more where there is one temperature.
        schedule: of the temperatures: "adapted", "linear" or "sigmoid"; unless given adapted from the prior and linear
            from a start that is nearer.
        tolerance: nats that the mean gap on simulated data may be, where temperatures are not given.
        budget: seconds after which no more temperatures are tried, the measuring itself counted in; none unless given.
        simulated: data that bdmc simulates, at most as many as the split has.
    Raises:
        ElbowroomError: a number below one; a tolerance or a budget that is not positive; an unknown name.
    """

    k: int | None = None
    starts: int = 4
    num_samples: int = 1
    start: StartName | None = None
    climbs: int = 1
    temperatures: int | None = None
    chains: int | None = None
    schedule: ScheduleName | None = None
    tolerance: float = 0.1
    budget: float | None = None
    simulated: int = 1000

    def __post_init__(self) -> None:
        if self.start is not None:
            check_name("start", self.start, STARTS)
        if self.schedule is not None:
            check_name("schedule", self.schedule, SCHEDULES)
        for name in ("tolerance", "budget"):
            amount = getattr(self, name)
            if amount is not None and not amount > 0:
                raise ElbowroomError(f"{name} is {amount}, but must be positive.", f"Give --{name} 0.1, say.")
        for name in ("k", "starts", "num_samples", "climbs", "temperatures", "chains", "simulated"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ElbowroomError(
                    f"{name} is {number}, but must be 1 or more.", f"Give --{name.replace('_', '-')} 1 or more."
                )

    @classmethod
    def of(cls, given: dict[str, Any]) -> Settings:
        """From keywords.

        Raises:
            ElbowroomError: an unknown name.
        """
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise ElbowroomError(f"There is no setting '{name}' of evaluation.", did_you_mean(name, known))
        return cls(**given)

    def draws(self, method: str) -> int:
        """k, per datum."""
        return _DRAWS[method] if self.k is None else self.k
