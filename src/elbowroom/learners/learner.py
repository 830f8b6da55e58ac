"""What a learner is: ``init(pair) -> state``, ``step(state, batch) -> (state, info)``.

A learner maximises something over (θ, φ), the weights of model and guide, one batch at a time. It is the only thing
that averages over a batch and updates weights; how often, on which data, and what is kept, is the engine's affair.

=============== =========================================== ========================================================
learner         maximises                                   with draws of z from
=============== =========================================== ========================================================
``aevb``        a bound on log p(x), in (θ, φ)              the guide, differentiated through
``naive``       log (1/K) Σ p(x | z_k), in θ                the prior
``mcem``        E log p(x, z), in θ                         the posterior, by Markov chains that follow it
``wake-sleep``  E log p(x, z) in θ, E log q(z | x) in φ     the guide for θ; with dreamt data, the model itself for φ
``svi``         a bound on log p(x), in (θ, φ)              the guide, in Pyro
=============== =========================================== ========================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from elbowroom.data.batch import Batch
from elbowroom.data.value_checks import describe_non_finite
from elbowroom.errors import ElbowroomError
from elbowroom.model.latent import Pair

__all__ = ["Learner", "StepInfo", "TrainingState", "check_finite", "untouched"]


@dataclass(slots=True)
class TrainingState:
    """Where learning stands.

    Attributes:
        step: batches learned from so far.
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

    def tensors(self) -> dict[str, Tensor]:
        """Everything beside the learned weights that the next step depends on, by name."""
        tensors: dict[str, Tensor] = {}
        for index, moments in self.optimizer.state_dict()["state"].items():
            for name, value in moments.items():
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value).contiguous().clone()
        if self.average is not None:
            tensors["average.n"] = self.average.n_averaged.clone()
            for name, value in _unique_tensors(self.pair).items():
                tensors[f"raw.{name}"] = value.contiguous().clone()
        return tensors

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes :meth:`tensors` back, into a fresh state whose learned weights are those of the same moment."""
        moments: dict[int, dict[str, Any]] = {}
        for key, value in tensors.items():
            kind, *rest = key.split(".", 2)
            if kind == "optimizer":
                moments.setdefault(int(rest[0]), {})[rest[1]] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        if self.average is not None:
            self.average.n_averaged.copy_(tensors["average.n"])
            for name, value in _unique_tensors(self.pair).items():
                value.copy_(tensors[f"raw.{name}"])


@contextmanager
def untouched(pair: Pair) -> Iterator[None]:
    """For trying something out: weights and buffers are put back afterwards, and there are no gradients."""
    before = [(tensor, tensor.detach().clone()) for tensor in _unique_tensors(pair).values()]
    try:
        yield
    finally:
        pair.zero_grad(set_to_none=True)
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)


def _unique_tensors(pair: Pair) -> dict[str, Tensor]:
    """Parameters and buffers, each once even where model and guide share it."""
    return {**dict(pair.named_parameters()), **dict(pair.named_buffers())}


class StepInfo(NamedTuple):
    """What one step did: means over the batch."""

    terms: dict[str, float]  #: nats per datum: what is maximised under its own name, its parts; and ess or acceptance
    lr: float  #: the learning rate that was used
    decoder_gradients: int  #: evaluations of the decoder with its gradient, over all data and draws of z
    beta: float | None = None  #: the weight of the KL term that was used, where there is one
    grad_norm: float | None = None  #: of all weights together, before clipping; None where none is clipped


class Learner(Protocol):
    """A way of learning; the table above names the implementations."""

    @property
    def name(self) -> str:
        """The figure by which validation compares weights, higher being better; a key of `measure`'s terms."""
        ...

    def init(self, pair: Pair) -> TrainingState:
        """The state before the first step."""
        ...

    def step(self, state: TrainingState, batch: Batch, *, generator: torch.Generator) -> tuple[TrainingState, StepInfo]:
        """Learns from one batch.

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
