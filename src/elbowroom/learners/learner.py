"""The learner protocol: ``init(pair) -> state``, ``step(state, batch) -> (state, info)``.

A learner is a training method. It maximises an objective over (θ, φ), the weights of model and guide, one batch at a
time. Only learners average over a batch and update weights. How often, on which data, and what is saved is decided by
the training loop (:mod:`elbowroom.running.engine`).

=============== =========================================== ========================================================
learner         maximises                                   with draws of z from
=============== =========================================== ========================================================
``aevb``        a bound on log p(x), in (θ, φ)              the guide, differentiated through
``naive``       log (1/K) Σ p(x | z_k), in θ                the prior
``mcem``        E log p(x, z), in θ                         the posterior, by Markov chains
``wake-sleep``  E log p(x, z) in θ, E log q(z | x) in φ     the guide for θ; the model, with simulated x, for φ
``svi``         a bound on log p(x), in (θ, φ)              the guide, in Pyro
``vq``          the same, after stages of its parts         the guide, over codes
``em``          log p(x) of a mixture, in θ                 no draws: the sum over its classes
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
    """The state of training between two steps.

    Attributes:
        step: number of batches so far.
        pair: model and guide, whose weights are updated.
        optimizer: the optimiser, with its moments.
        average: the exponential moving average of the weights, where there is one.
    """

    step: int
    pair: Pair
    optimizer: Optimizer
    average: AveragedModel | None = None

    @property
    def learned(self) -> Pair:
        """The pair to evaluate and save: the moving average, where there is one."""
        if self.average is None:
            return self.pair
        averaged = self.average.module
        assert isinstance(averaged, Pair)
        return averaged

    def tensors(self) -> dict[str, Tensor]:
        """Everything except the learned weights that the next step depends on, by name."""
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
        """Restores what :meth:`tensors` returned, into a fresh state with the learned weights of the same step."""
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
    """A context for trials: afterwards weights and buffers are as before, and there are no gradients."""
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
    """What one step reports: means over the batch."""

    terms: dict[str, float]  #: nats per example: the objective and its parts, by name; and ess or acceptance
    lr: float  #: the learning rate that was used
    decoder_gradients: int  #: evaluations of the decoder with its gradient, over all examples and draws of z
    beta: float | None = None  #: the weight of the KL term that was used, where there is one
    grad_norm: float | None = None  #: of all weights together, before clipping; None where none is clipped


class Learner(Protocol):
    """A training method; the table above names the implementations."""

    @property
    def name(self) -> str:
        """Name of the value by which validation compares weights, higher is better; a key of `measure`."""
        ...

    def init(self, pair: Pair) -> TrainingState:
        """The state before the first step."""
        ...

    def step(self, state: TrainingState, batch: Batch, *, generator: torch.Generator) -> tuple[TrainingState, StepInfo]:
        """Updates the weights with one batch.

        Raises:
            ElbowroomError: the objective or its gradient is not finite; the weights are left as they were.
        """
        ...

    def measure(self, pair: Pair, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Values for validation: nats of each example, shape (batch,), higher is better."""
        ...


def check_finite(
    step: int, terms: Mapping[str, float], lr: float, *, grad_norm: float | None = None, batch: Batch | None = None
) -> None:
    """Raises an error at a batch mean or a gradient that is not finite, before the weights are updated.

    Args:
        step: number of the current step, from 1.
        terms: batch means, nats per example.
        lr: the learning rate.
        grad_norm: norm of the gradients that are checked.
        batch: the examples, which are checked for NaN and infinity first.
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
    if step == 1:  # no update yet, so the learning rate is not the cause
        what = f"{' and '.join(bad)} of the objective" if bad else "the gradient"
        raise ElbowroomError(
            f"At the first step, before any update, {what} is not finite: {values}. The likely cause is the scale of "
            "the data, or settings of the model or the objective.",
            "Check the range of the data and scale them to about 1, or use the defaults of --model.",
        )
    if not bad:
        raise ElbowroomError(
            f"At step {step} the gradient stopped being finite, although the objective is finite: {values}. A "
            f"derivative overflowed, for instance in a network with too large outputs (the learning rate is {lr:.3g}).",
            "Lower --optimizer.lr; the last good checkpoint is kept.",
        )
    if "kl" in bad and "reconstruction" not in bad:
        cause = "The scale of the guide overflowed or underflowed, probably because the learning rate is too large"
    elif "reconstruction" in bad and "kl" not in bad:
        cause = "The parameters of the likelihood overflowed: extreme values in the data, or a too large learning rate"
    else:
        cause = "The weights have diverged, probably because the learning rate is too large"
    raise ElbowroomError(
        f"At step {step} the objective stopped being finite: {values}. {cause} (it is {lr:.3g}).",
        "Lower --optimizer.lr, or set --optimizer.clip-norm 10; the last good checkpoint is kept.",
    )
