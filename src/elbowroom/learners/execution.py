"""How an objective is run: by PyTorch, operation after operation, or as one compiled function.

A learner hands its objective to an :class:`Execution`. There are two: :func:`eager`, which calls it, and
:class:`elbowroom.learners.compiled.Compiled`, which compiles it first. Both give the same numbers to floating-point
precision, from the same random numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.learners.learner import Pair

__all__ = ["Execution", "Objective", "eager"]

Objective = Callable[..., tuple[Tensor, dict[str, Tensor]]]
"""(pair, batch, \\*tensors, generator=…, \\*\\*settings) to values of shape (batch,) and their parts, by name."""


class Execution(Protocol):
    """A way to run an objective."""

    def __call__(
        self,
        objective: Objective,
        pair: Pair,
        batch: Batch,
        *tensors: Tensor,
        generator: torch.Generator | None = None,
        **settings: Any,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the objective returns.

        Args:
            objective: the same function at every call.
            pair: model and guide.
            batch: data.
            *tensors: what else changes from step to step: a weight, draws of a Markov chain.
            generator: the source of randomness; None where the objective draws nothing.
            **settings: what stays, such as the number of draws; hashable.
        """
        ...


def eager(
    objective: Objective,
    pair: Pair,
    batch: Batch,
    *tensors: Tensor,
    generator: torch.Generator | None = None,
    **settings: Any,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Calls the objective."""
    return objective(pair, batch, *tensors, generator=generator, **settings)
