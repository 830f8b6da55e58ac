"""What the methods of evaluation can be asked for, and what they do unless asked.

One definition is the keyword of :func:`~elbowroom.evaluation.evaluate.evaluate` and of `Run.evaluate`, the flag of
``elbowroom evaluate`` and the key under which a result says what was asked. Nothing heavier than pydantic is imported
here, so that ``elbowroom evaluate --help`` is quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from elbowroom.sections import Section, explain

__all__ = ["DRAWS", "POINTS", "ScheduleName", "Settings"]

ScheduleName = Literal["adapted", "linear", "sigmoid"]
Whole = Annotated[int, Field(gt=0)]
Amount = Annotated[float, Field(gt=0)]

POINTS = {"iwae": 1000, "laplace-is": 1000, "k-curve": 1000, "ais": 1000, "room": 200}
"""How many data of a split a method takes unless asked for another number; the other methods take all."""
DRAWS = {"iwae": 5000, "room": 500, "laplace-is": 100}
"""k of a method, per datum, unless asked for another."""


class Settings(Section):
    """How the methods measure; each looks at those settings that concern it.

    Example:
        >>> Settings.of({"k": 100}).draws("iwae"), Settings().draws("iwae"), Settings().data("room")
        (100, 5000, 200)
    """

    points: Whole | None = None
    """How many data; all of them unless given, but 1,000 for iwae, laplace-is, k-curve and ais, 200 for room."""
    k: Whole | None = None
    """Draws per datum of the importance-weighted bounds; unless given 5,000 for iwae, 500 for room and 100 for
    laplace-is."""
    starts: Whole = 4
    """Climbs per datum to modes of the posterior, for laplace-is and room."""
    num_samples: Whole = 1
    """Draws per datum of the ELBO."""
    start: Literal["laplace", "guide", "prior"] | None = None
    """Where annealing starts; Laplace approximations where the likelihood allows them unless given."""
    climbs: Whole = 1
    """Per datum to modes of the posterior, where annealing starts from Laplace approximations."""
    temperatures: Whole | None = None
    """Of annealing (ais, bdmc); raised until the gap on simulated data is below the tolerance unless given."""
    chains: Whole | None = None
    """Of annealing; 32 unless given, and 100 or more draws where there is one temperature."""
    schedule: ScheduleName | None = None
    """Of the temperatures; adapted to the densities from the prior, linear from a nearer start, unless given."""
    tolerance: Amount = 0.1
    """Nats that the mean gap between the bounds on simulated data may be, where temperatures are not given."""
    budget: Amount | None = None
    """Seconds after which no more temperatures are tried, the measuring itself counted in; none unless given."""
    simulated: Whole = 1000
    """Data that bdmc simulates, at most as many as the split has."""
    seed: int = 0
    """Seed of the draws."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """From keywords.

        Raises:
            ElbowroomError: a name that does not exist (with the nearest that does), or a value that is not allowed;
                all faults in one message.
        """
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise explain(error, cls, command="evaluate", source="evaluate") from error

    def data(self, method: str) -> int | None:
        """How many data of a split a method takes; None for all."""
        return POINTS.get(method) if self.points is None else self.points

    def draws(self, method: str) -> int:
        """k of a method, per datum."""
        return DRAWS[method] if self.k is None else self.k
