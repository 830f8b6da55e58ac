"""Settings of the evaluation methods, with their defaults.

One definition is the keyword of :func:`~elbowroom.evaluation.evaluate.evaluate` and of `Run.evaluate`, the flag of
``elbowroom evaluate``, and the key in a result's ``asked``. Nothing heavier than pydantic is imported here, so that
``elbowroom evaluate --help`` is quick.
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

POINTS = {
    "iwae": 1000,
    "laplace-is": 1000,
    "k-curve": 1000,
    "ais": 1000,
    "room": 200,
    "codes": 1000,
    "enumerate": 1000,
    "samples": 1000,
    "baselines": 1000,
}
"""Default number of examples of a split, by method; the other methods use all of them."""
DRAWS = {"iwae": 5000, "room": 500, "laplace-is": 100, "codes": 5000, "baselines": 1000}
"""Default number of draws k per example, by method."""


class Settings(Section):
    """Settings of the methods; each method reads those that concern it.

    Example:
        >>> Settings.of({"k": 100}).draws("iwae"), Settings().draws("iwae"), Settings().data("room")
        (100, 5000, 200)
    """

    points: Whole | None = None
    """Number of examples; by default all of them, but 1,000 for iwae, laplace-is, k-curve, ais, codes, enumerate,
    samples and baselines, and 200 for room."""
    k: Whole | None = None
    """Draws per example of the importance-weighted bounds; by default 5,000 for iwae and codes, 1,000 for
    baselines, 500 for room and 100 for laplace-is."""
    proposal_width: Amount = 1.0
    """How many times as wide as the guide the proposal of iwae is; a guide's tails are often too light."""
    prior_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the draws of iwae that are of the prior."""
    starts: Whole = 4
    """Starting points per example of the optimisation that finds modes of the posterior, for laplace-is and room."""
    num_samples: Whole = 1
    """Draws of z per example for the ELBO."""
    start: Literal["laplace", "guide", "prior"] | None = None
    """Initial distribution of annealing; by default Laplace approximations where the likelihood allows them."""
    climbs: Whole = 1
    """Starting points per example of the optimisation that finds modes of the posterior, where annealing starts from
    Laplace approximations."""
    temperatures: Whole | None = None
    """Number of temperatures of annealing (ais, bdmc); by default raised until the gap on simulated data is below the
    tolerance."""
    chains: Whole | None = None
    """Number of annealing chains per example; by default 32, and 100 or more where there is one temperature."""
    schedule: ScheduleName | None = None
    """Spacing of the temperatures; by default adapted to the densities where annealing starts from the prior, else
    linear."""
    precision: Literal["full", "bf16"] = "full"
    """Precision of the gradients that move the chains of ais and bdmc: bf16 computes them in bfloat16 where the decoder
    is an MLP, which is quicker for wide ones. Energies and weights stay in full precision: bounds stay valid."""
    tolerance: Amount = 0.1
    """Largest mean gap between the bounds on simulated data, in nats, if the number of temperatures is not given."""
    budget: Amount | None = None
    """Seconds that the search for temperatures and the measurement together may take; by default unlimited."""
    simulated: Whole = 1000
    """Number of examples that bdmc simulates, at most as many as the split has."""
    seed: int = 0
    """Seed of the draws."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """Settings from keywords.

        Raises:
            ElbowroomError: a name that does not exist (with the nearest that does), or a value that is not allowed;
                all faults in one message.
        """
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise explain(error, cls, command="evaluate", source="evaluate") from error

    def data(self, method: str) -> int | None:
        """Number of examples of a split for a method; None for all."""
        return POINTS.get(method) if self.points is None else self.points

    def draws(self, method: str) -> int:
        """Number of draws k per example for a method."""
        return DRAWS[method] if self.k is None else self.k
