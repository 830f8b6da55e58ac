"""Execution of an objective and its gradient: operation by operation in PyTorch, or as one compiled function.

A learner hands its objective to an :class:`Execution`. There are two: :func:`eager` calls the objective and
differentiates it; :class:`elbowroom.learners.compiled.Compiled` compiles both into one function. They give the same
numbers up to floating-point rounding, from the same random numbers.
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
    """Value of an objective at a batch; the gradient of minus its mean is in the ``.grad`` of the weights."""

    value: Tensor  #: the mean over the batch, a detached scalar
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
        """Computes means over the batch, and the gradient of minus the objective in the ``.grad`` of the weights.

        Args:
            objective: the objective, the same function at every call.
            pair: model and guide.
            batch: examples.
            *tensors: other inputs that change from step to step, such as a weight or draws of a Markov chain.
            generator: the source of randomness; None where the objective draws nothing.
            **settings: constants, such as the number of draws; hashable.
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
    """Calls the objective and differentiates it."""
    value, parts = objective(pair, batch, *tensors, generator=generator, **settings)
    mean = value.mean()
    pair.zero_grad(set_to_none=True)
    mean.neg().backward()  # type: ignore[no-untyped-call]
    return ObjectiveValue(mean.detach(), {name: part.mean() for name, part in parts.items()})
