"""What the methods of evaluation can be asked for; every method has good values of its own."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from elbowroom.errors import ElbowroomError, did_you_mean

__all__ = ["Settings"]

_DRAWS = {"iwae": 5000, "laplace-is": 100}  # k unless given


@dataclass(frozen=True, slots=True)
class Settings:
    """How the methods measure.

    Attributes:
        k: draws per datum of the importance-weighted bounds; unless given, 5,000 for iwae and 100 for laplace-is.
        starts: climbs per datum to modes of the posterior, for laplace-is.
        num_samples: draws per datum of the ELBO.
    Raises:
        ElbowroomError: a number below one.
    """

    k: int | None = None
    starts: int = 4
    num_samples: int = 1

    def __post_init__(self) -> None:
        for name in ("k", "starts", "num_samples"):
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
