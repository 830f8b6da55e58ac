r"""Auto-encoding variational Bayes: maximise a bound on log p(x) over model and guide (encoder) together.

.. math:: (\theta, \phi) \leftarrow (\theta, \phi)
    + \eta \, \nabla_{\theta, \phi} \frac{1}{B} \sum_{b=1}^B \mathcal{L}(x_b)

with any bound :math:`\mathcal{L}` of `inference.objectives`, any estimator of its gradient, any ``torch.optim``
algorithm. (Kingma & Welling 2014, algorithm 1, arXiv:1312.6114.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.inference.objectives import Terms
from elbowroom.learners.execution import Execution, eager
from elbowroom.learners.learner import StepInfo, TrainingState
from elbowroom.learners.update import Update, cosine
from elbowroom.model import noise
from elbowroom.model.latent import Pair
from elbowroom.model.noise import NoiseSource

__all__ = ["Aevb"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Aevb:
    """Auto-encoding variational Bayes with any objective, gradient estimator and optimiser.

    Args:
        name: name of the objective in reports.
        objective: (model, guide, batch, num_samples=…, generator=…, beta=…) to
            :class:`~elbowroom.inference.objectives.Terms`; ``beta`` is passed only where ``weighs_kl``.
        update: optimiser, schedule, clipping, moving average.
        num_samples: draws of z per example.
        last_samples: draws of z per example from step ``last_from`` on. `measure` always uses them, so that its values
            can be compared over training. None for ``num_samples`` throughout.
        last_objective: the objective of the last part, as with another gradient estimator; None for the same.
        last_name: name of the objective of the last part, where it is another; it then has no KL term to weigh.
        last_from: step from which ``last_samples`` and ``last_objective`` serve.
        weighs_kl: whether the objective has a KL term that can be weighted.
        beta: weight of the KL term.
        warmup_steps: steps over which that weight grows linearly from 0.
        temperature: of an estimator for codes, which the objective then takes; None for one that has none, or whose
            objective holds it.
        last_temperature: what it falls to by the end, along half a cosine over ``update.total_steps``; None keeps it.
        holes: mean share of the elements of a table that are hidden from the guide in training, and that the likelihood
            still scores: the bound is one for all that was observed, with a guide that knows less. Each row has a share
            of its own, uniform between 0 and twice this. A guide that does not read what is missing sees all.
        execution: how objective and gradient are computed, eagerly or compiled; `measure` is always eager.
    """

    name: str
    objective: Callable[..., Terms]
    update: Update
    num_samples: int = 1
    last_samples: int | None = None
    last_objective: Callable[..., Terms] | None = None
    last_name: str | None = None
    last_from: int = 0
    weighs_kl: bool = True
    beta: float = 1.0
    warmup_steps: float = 0.0
    temperature: float | None = None
    last_temperature: float | None = None
    holes: float = 0.0
    execution: Execution = eager

    def init(self, pair: Pair) -> TrainingState:
        """The state before the first step."""
        return TrainingState(0, pair, *self.update.optimizer_and_average(pair))

    def step(self, state: TrainingState, batch: Batch, *, generator: torch.Generator) -> tuple[TrainingState, StepInfo]:
        """One update of the weights of model and guide.

        Raises:
            ElbowroomError: the objective or its gradient is not finite; names the step, the term and the likely
                cause, and leaves the weights as they were.
        """
        early = state.step < self.last_from
        num_samples = self.num_samples if early else self._last_samples
        bound = self.objective if early or self.last_objective is None else self.last_objective
        weighs_kl = self.weighs_kl and (early or self.last_name is None)
        beta, changing = None, dict[str, float]()  # what changes from step to step is an input and not a setting
        settings: dict[str, Any] = {"bound": bound, "num_samples": num_samples}
        if self.holes:
            settings["holes"] = self.holes
        if self.warmup_steps and weighs_kl:
            beta = changing["beta"] = self.beta * min(1.0, state.step / self.warmup_steps)
        elif weighs_kl:
            beta = settings["beta"] = self.beta
        if self.last_temperature is not None:
            changing["temperature"] = self.temperature_at(state.step)
        inputs = [torch.tensor(value, dtype=torch.float64, device=batch.x.device) for value in changing.values()]
        if changing:
            settings["changing"] = tuple(changing)
        value, parts = self.execution(_terms, state.pair, batch, *inputs, generator=generator, **settings)
        updated = self.update.apply_gradient(
            state, self.name if early else self.last_name or self.name, value, parts, batch
        )
        state.step += 1
        terms = updated.terms
        if weighs_kl:  # the value includes β and free bits; the reported ELBO includes neither
            terms["elbo"] = terms["reconstruction"] - terms["kl"]
        return state, StepInfo(terms, updated.lr, num_samples * len(batch), beta, updated.grad_norm)

    def measure(self, pair: Pair, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """The bound of each example, without a weight on the KL term, and its parts."""
        settings: dict[str, Any] = {"bound": self.objective, "num_samples": self._last_samples}
        terms = _terms(pair, batch, generator=generator, **settings)
        values = {self.name: terms.value, **terms.parts}
        if self.weighs_kl:  # without free bits, which are for training only
            values["elbo"] = terms.parts["reconstruction"] - terms.parts["kl"]
        return values

    def temperature_at(self, step: int) -> float:
        r"""The temperature at step t of n.

        .. math:: \tau_t = \tau_n + \tfrac12 (\tau_0 - \tau_n) \big(1 + \cos(\pi t / n)\big)

        Reference:
            Ramesh et al. (2021), Zero-Shot Text-to-Image Generation, appendix A.2, arXiv:2102.12092.
        """
        total = self.update.total_steps
        assert self.temperature is not None and self.last_temperature is not None and total
        return self.last_temperature + (self.temperature - self.last_temperature) * cosine(min(1.0, step / total))

    @property
    def _last_samples(self) -> int:
        return self.num_samples if self.last_samples is None else self.last_samples


def _terms(
    pair: Pair,
    batch: Batch,
    *inputs: Tensor,
    bound: Callable[..., Terms],
    changing: tuple[str, ...] = (),
    holes: float = 0.0,
    generator: NoiseSource | None,
    **settings: Any,
) -> Terms:
    """The objective of a pair, in the form that an :class:`~elbowroom.learners.execution.Execution` takes it.

    Args:
        pair: model and guide.
        batch: examples.
        inputs: values of the settings that change from step to step.
        bound: the objective.
        changing: the names of these settings.
        holes: mean share of the elements that the guide does not see.
        generator: the source of randomness.
        settings: those that do not change.
    """
    settings |= zip(changing, inputs, strict=True)
    if holes and getattr(getattr(pair.guide, "transform", None), "reads_missing", False):
        batch = replace(batch, seen=_with_holes(batch.x, holes, generator))
    return bound(pair.model, pair.guide, batch, generator=generator, **settings)


def _with_holes(x: Tensor, share: float, generator: NoiseSource | None) -> Tensor:
    """x with NaN in some elements, in each row a share of its own, uniform between 0 and twice ``share``."""
    of_row = 2 * share * noise.uniform((len(x), *[1] * (x.dim() - 1)), x, generator)
    return torch.where(noise.uniform(x.shape, x, generator) < of_row, torch.nan, x)
