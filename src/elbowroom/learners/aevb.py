r"""Auto-encoding variational Bayes: ascend a bound on log p(x) in model and guide together.

.. math:: (\theta, \phi) \leftarrow (\theta, \phi)
    + \eta \, \nabla_{\theta, \phi} \frac{1}{B} \sum_{b=1}^B \mathcal{L}(x_b)

with any bound :math:`\mathcal{L}` of `inference.objectives`, any estimator of its gradient, any ``torch.optim``
algorithm. (Kingma & Welling 2014, algorithm 1, arXiv:1312.6114.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.inference.objectives import Terms
from elbowroom.inference.perceptron_elbo import PerceptronElbo
from elbowroom.learners.ascent import Ascent
from elbowroom.learners.learner import Info, Pair, State

__all__ = ["Aevb", "AevbState"]


@dataclass(slots=True)
class AevbState(State):
    """Where learning stands, and the gradient by hand of pairs that have one."""

    written_out: PerceptronElbo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Aevb:
    """Any objective × estimator × optimiser.

    Args:
        name: what the objective is called in reports.
        objective: (model, guide, batch, num_samples=…, generator=…, beta=…) to
            :class:`~elbowroom.inference.objectives.Terms`; ``beta`` is passed only where ``weighs_kl``.
        ascent: optimiser, schedule, clipping, moving average.
        num_samples: draws of z per datum.
        last_samples: those from step ``last_from`` on, and in `measure` always, so that its figures compare; None for
            ``num_samples`` throughout.
        last_from: a step.
        weighs_kl: whether the objective has a KL term to weigh.
        beta: its weight.
        warmup_steps: steps over which that weight grows linearly from 0.
        plain: whether the objective is the ELBO with its KL in closed form, differentiated along the path; perceptrons
            then go by :class:`~elbowroom.inference.perceptron_elbo.PerceptronElbo`, the same function in less time.
    """

    name: str
    objective: Callable[..., Terms]
    ascent: Ascent
    num_samples: int = 1
    last_samples: int | None = None
    last_from: int = 0
    weighs_kl: bool = True
    beta: float = 1.0
    warmup_steps: float = 0.0
    plain: bool = False

    def init(self, pair: Pair) -> AevbState:
        """The state before the first step."""
        knows = self.plain and PerceptronElbo.fits(pair.model, pair.guide)
        written_out = PerceptronElbo(pair.model, pair.guide) if knows else None
        return AevbState(0, pair, *self.ascent.parts(pair), written_out)

    def step(self, state: State, batch: Batch, *, generator: torch.Generator) -> tuple[State, Info]:
        """One update of the weights of model and guide.

        Raises:
            ElbowroomError: the objective or its gradient is not finite; names the step, the term and the likely
                cause, and leaves the weights as they were.
        """
        beta = None
        if self.weighs_kl:
            beta = self.beta * min(1.0, state.step / self.warmup_steps) if self.warmup_steps else self.beta
        num_samples = self.num_samples if state.step < self.last_from else self._last_samples
        if isinstance(state, AevbState) and state.written_out is not None and batch.mask is None:
            value, parts = state.written_out.ascend(
                batch, num_samples=num_samples, generator=generator, beta=1.0 if beta is None else beta
            )
            climbed = self.ascent.follow(state, self.name, value.mean(), parts, batch)
        else:
            value, parts = self._terms(state.pair, batch, generator, beta, num_samples)
            climbed = self.ascent.climb(state, self.name, value.mean(), parts, batch)
        state.step += 1
        terms = climbed.terms
        if self.weighs_kl:  # the value holds β·KL and free bits; what is reported as ELBO holds neither
            terms["elbo"] = terms["reconstruction"] - terms["kl"]
        return state, Info(terms, climbed.lr, num_samples * len(batch), beta, climbed.grad_norm)

    def measure(self, pair: Pair, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """The bound itself, with no weight on its KL term, and its parts; per datum."""
        terms = self._terms(pair, batch, generator, None, self._last_samples)
        values = {self.name: terms.value, **terms.parts}
        if self.weighs_kl:  # free bits, too, are for training only
            values["elbo"] = terms.parts["reconstruction"] - terms.parts["kl"]
        return values

    @property
    def _last_samples(self) -> int:
        return self.num_samples if self.last_samples is None else self.last_samples

    def _terms(
        self, pair: Pair, batch: Batch, generator: torch.Generator, beta: float | None, num_samples: int
    ) -> Terms:
        weight = {} if beta is None else {"beta": beta}
        return self.objective(pair.model, pair.guide, batch, num_samples=num_samples, generator=generator, **weight)
