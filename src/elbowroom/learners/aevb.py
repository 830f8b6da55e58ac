r"""Auto-encoding variational Bayes: ascend a bound on log p(x) in model and guide together.

.. math:: (\theta, \phi) \leftarrow (\theta, \phi)
    + \eta \, \nabla_{\theta, \phi} \frac{1}{B} \sum_{b=1}^B \mathcal{L}(x_b)

with any bound :math:`\mathcal{L}` of `inference.objectives`, any estimator of its gradient, any ``torch.optim``
algorithm. (Kingma & Welling 2014, algorithm 1, arXiv:1312.6114.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from elbowroom.data.batch import Batch
from elbowroom.inference.objectives import Terms
from elbowroom.learners.learner import Info, Pair, State, check_finite
from elbowroom.learners.schedules import Schedule, constant

__all__ = ["Aevb"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Aevb:
    """Any objective × estimator × optimiser.

    Args:
        name: what the objective is called in reports.
        objective: (model, guide, batch, generator=…, beta=…) to :class:`~elbowroom.inference.objectives.Terms`;
            ``beta`` is passed only where ``weighs_kl``.
        optimizer: makes the optimiser of the weights.
        total_steps: length of the run, for the schedule.
        schedule: factor of the learning rate as a function of progress.
        weighs_kl: whether the objective has a KL term to weigh.
        beta: its weight.
        warmup_steps: steps over which that weight grows linearly from 0.
        clip_norm: the largest gradient norm.
        ema: decay of the moving average of the weights; 0 for none.
    """

    name: str
    objective: Callable[..., Terms]
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    total_steps: int
    schedule: Schedule = constant
    weighs_kl: bool = True
    beta: float = 1.0
    warmup_steps: float = 0.0
    clip_norm: float | None = None
    ema: float = 0.0

    def init(self, pair: Pair) -> State:
        """The state before the first step."""
        average = None
        if self.ema:
            update = get_ema_multi_avg_fn(self.ema)  # type: ignore[no-untyped-call]
            average = AveragedModel(pair, multi_avg_fn=update)
        optimizer = self.optimizer(pair.parameters())
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
        return State(0, pair, optimizer, average)

    def step(self, state: State, batch: Batch, *, generator: torch.Generator) -> tuple[State, Info]:
        """One update of the weights of model and guide.

        Raises:
            ElbowroomError: the objective or its gradient is not finite; names the step, the term and the likely
                cause, and leaves the weights as they were.
        """
        lr = self._set_lr(state)
        beta = self.beta * min(1.0, state.step / self.warmup_steps) if self.warmup_steps else self.beta
        weight = {"beta": beta} if self.weighs_kl else {}
        objective = self.objective(state.pair.model, state.pair.guide, batch, generator=generator, **weight)
        value = objective.value.mean()
        state.optimizer.zero_grad(set_to_none=True)
        value.neg().backward()  # type: ignore[no-untyped-call]
        weights = [weight for group in state.optimizer.param_groups for weight in group["params"]]
        norm = nn.utils.get_total_norm(self._watched_gradients(weights))
        terms, grad_norm = self._to_host(value, objective.parts, norm)
        check_finite(state.step + 1, terms, lr, grad_norm=grad_norm, batch=batch)
        if self.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(weights, self.clip_norm, norm)
        state.optimizer.step()
        if state.average is not None:
            state.average.update_parameters(state.pair)
        state.step += 1
        return state, Info(terms, lr, beta, None if self.clip_norm is None else grad_norm)

    def measure(self, pair: Pair, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """The bound itself, with no weight on its KL term, and its parts; per datum."""
        terms = self.objective(pair.model, pair.guide, batch, generator=generator)
        values = {self.name: terms.value, **terms.parts}
        if self.weighs_kl:  # free bits, too, are for training only
            values["elbo"] = terms.parts["reconstruction"] - terms.parts["kl"]
        return values

    def _set_lr(self, state: State) -> float:
        factor = self.schedule(state.step / self.total_steps)
        for group in state.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        return float(state.optimizer.param_groups[0]["lr"])

    def _watched_gradients(self, weights: Iterable[Tensor]) -> list[Tensor]:
        """All of them to clip; otherwise the biases', to see that they are finite.

        A bias's gradient is the sum of all that flows back through its layer, so it is not finite where that is not;
        reading every weight's gradient again would cost a twentieth of the step.
        """
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        if self.clip_norm is not None:
            return gradients
        return [gradient for gradient in gradients if gradient.dim() <= 1] or gradients

    def _to_host(self, value: Tensor, parts: Mapping[str, Tensor], norm: Tensor) -> tuple[dict[str, float], float]:
        """Batch means under the names that they deserve, and the gradients' norm, in one transfer."""
        means = torch.stack(list(parts.values())).mean(1)
        head, grad_norm, *numbers = torch.cat([torch.stack([value.detach(), norm.to(value.dtype)]), means]).tolist()
        terms = {self.name: head} | dict(zip(parts, numbers, strict=True))
        if self.weighs_kl:  # the value holds β·KL and free bits; what is reported as ELBO holds neither
            terms["elbo"] = terms["reconstruction"] - terms["kl"]
        return terms, grad_norm
