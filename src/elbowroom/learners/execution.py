"""How an objective and its gradient are computed: by PyTorch, operation after operation, or by one compiled function.

A learner hands its objective to an :class:`Execution`. There are two: :func:`eager`, which calls it and differentiates
it, and :class:`elbowroom.learners.compiled.Compiled`, which compiles both into one. They give the same numbers to
floating-point precision, from the same random numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.model.latent import Pair

__all__ = ["Execution", "Objective", "ObjectiveValue", "eager"]

Objective = Callable[..., tuple[Tensor, dict[str, Tensor]]]
"""(pair, batch, \\*tensors, generator=…, \\*\\*settings) to values of shape (batch,) and their parts, by name."""


class ObjectiveValue(NamedTuple):
    """An objective at a batch; the gradient of minus its mean stands in the weights' ``.grad``."""

    value: Tensor  #: the mean over the batch, a scalar, off the graph
    parts: dict[str, Tensor]  #: likewise, by name


class Execution(Protocol):
    """A way to compute an objective and its gradient."""

    def __call__(
        self,
        objective: Objective,
        pair: Pair,
        batch: Batch,
        *tensors: Tensor,
        generator: torch.Generator | None = None,
        **settings: Any,
    ) -> ObjectiveValue:
        """Means over the batch; the gradient of minus the objective's is left in the weights' ``.grad``.

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
) -> ObjectiveValue:
    """Calls the objective, and differentiates it."""
    value, parts = objective(pair, batch, *tensors, generator=generator, **settings)
    mean = value.mean()
    pair.zero_grad(set_to_none=True)
    mean.neg().backward()  # type: ignore[no-untyped-call]
    return ObjectiveValue(mean.detach(), {name: part.mean() for name, part in parts.items()})
