"""What a learner is: ``init(model, guide) -> state``, ``step(state, batch) -> (state, info)``.

A learner maximises something over (θ, φ), the weights of model and guide, one batch at a time. It is the only thing
that averages over a batch and updates weights; how often, on which data, and what is kept, is the engine's affair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from elbowroom.data.batch import Batch
from elbowroom.data.survey import describe_non_finite
from elbowroom.errors import ElbowroomError
from elbowroom.model.conditional import Conditional
from elbowroom.model.latent import LatentModel

__all__ = ["Info", "Learner", "Pair", "State", "check_finite"]


class Pair(nn.Module):
    """A model p(x, z) and its guide q(z | x): what is learned, measured and written to disk."""

    def __init__(self, model: LatentModel, guide: Conditional) -> None:
        super().__init__()
        self.model = model
        self.guide = guide


@dataclass(slots=True)
class State:
    """Where learning stands.

    Attributes:
        step: updates made so far.
        pair: the weights that are being updated.
        optimizer: and its moments.
        average: the exponential moving average of the weights, where there is one.
    """

    step: int
    pair: Pair
    optimizer: Optimizer
    average: AveragedModel | None = None

    @property
    def learned(self) -> Pair:
        """The weights to measure and keep: the moving average, where there is one."""
        if self.average is None:
            return self.pair
        averaged = self.average.module
        assert isinstance(averaged, Pair)
        return averaged


class Info(NamedTuple):
    """What one step did: means over the batch, in nats per datum."""

    terms: dict[str, float]  #: the bound under its own name, and its parts
    lr: float  #: the learning rate that was used
    beta: float  #: the weight of the KL term that was used
    grad_norm: float | None = None  #: of all weights together, before clipping; None where none is clipped


class Learner(Protocol):
    """A way of learning. Implementations: :class:`elbowroom.learners.aevb.Aevb`."""

    @property
    def name(self) -> str:
        """What it maximises, as reports call it; a key of `measure`'s terms."""
        ...

    def init(self, pair: Pair) -> State:
        """The state before the first step."""
        ...

    def step(self, state: State, batch: Batch, *, generator: torch.Generator) -> tuple[State, Info]:
        """One update of the weights.

        Raises:
            ElbowroomError: the objective or its gradient is not finite; the weights are left as they were.
        """
        ...

    def measure(self, pair: Pair, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """What validation looks at: per-datum values in nats, shape (batch,), higher is better."""
        ...


def check_finite(
    step: int, terms: Mapping[str, float], lr: float, *, grad_norm: float | None = None, batch: Batch | None = None
) -> None:
    """Stops at a batch mean or a gradient that is not a finite number, before it reaches the weights.

    Args:
        step: the one that is being made, counted from 1.
        terms: batch means, nats per datum.
        lr: the learning rate.
        grad_norm: of the gradients that are watched.
        batch: the data, of which NaN and infinities are looked for before anything else is blamed.
    Raises:
        ElbowroomError: names the step, the term and the likely cause.
    """
    bad = [name for name, value in terms.items() if not math.isfinite(value)]
    if not bad and (grad_norm is None or math.isfinite(grad_norm)):
        return
    in_data = None if batch is None else describe_non_finite(batch)
    if in_data is not None:
        raise ElbowroomError(
            f"At step {step} the objective stopped being finite, because of the data: {in_data}.",
            "Clean the data, or pass --data.missing mask if NaN means 'not observed'.",
        )
    values = ", ".join(f"{name} = {value:.4g}" for name, value in terms.items())
    if step == 1:  # no update was made yet, so the learning rate is not to blame
        what = f"{' and '.join(bad)} of the objective" if bad else "the gradient"
        raise ElbowroomError(
            f"At the first step, before any update, {what} is not finite: {values}. The likely cause is the scale of "
            "the data, or settings of the model or the objective.",
            "Look at the data's range and bring them to a scale of about 1, or use the defaults of --model.",
        )
    if not bad:
        raise ElbowroomError(
            f"At step {step} the gradient stopped being finite, though the objective is: {values}. A derivative "
            f"overflowed, as in a network whose outputs have grown too large (the learning rate is {lr:.3g}).",
            "Lower --optimizer.lr; the last good checkpoint is kept.",
        )
    if "kl" in bad and "reconstruction" not in bad:
        cause = "The guide's scale over- or underflowed, which a learning rate that is too large does"
    elif "reconstruction" in bad and "kl" not in bad:
        cause = "The likelihood's parameters overflowed, by data of an unexpected size or a learning rate too large"
    else:
        cause = "The weights have diverged, as a learning rate that is too large makes them"
    raise ElbowroomError(
        f"At step {step} the objective stopped being finite: {values}. {cause} (it is {lr:.3g}).",
        "Lower --optimizer.lr, or set --optimizer.clip-norm 10; the last good checkpoint is kept.",
    )
