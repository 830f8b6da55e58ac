"""Updates of the weights: gradient ascent on a batch's mean, as all learners do it.

An update sets the learning rate, checks that nothing is infinite *before* it reaches the weights, clips the gradient,
calls the optimiser, and updates the moving average of the weights.

Learning rates are pure functions of progress, so that there is nothing to save or restore: each maps progress, the
share of the run's steps already made, in [0, 1), to a factor of the peak learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from elbowroom.data.batch import Batch
from elbowroom.learners.learner import TrainingState, check_finite
from elbowroom.model.latent import Pair

__all__ = [
    "SCHEDULES",
    "Schedule",
    "Update",
    "UpdateInfo",
    "constant",
    "cosine",
    "iwae_stages",
    "one_cycle",
    "warmup_cosine",
]

# --- learning rates ----------------------------------------------------------------------------------------------

Schedule = Callable[[float], float]


def constant(progress: float) -> float:
    """The same learning rate throughout."""
    return 1.0


def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov & Hutter 2017, SGDR, eq. 5, one period, arXiv:1608.03983)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def warmup_cosine(progress: float) -> float:
    """Up linearly from 1/50 over the first 5%, then as :func:`cosine`."""
    first, start = 0.05, 1 / 50
    return min(1.0, start + progress / first) if progress < first else cosine(progress)


def one_cycle(progress: float) -> float:
    """Up from 1/25 over the first 30% and down to 4e-6, along cosines (Smith & Topin 2019, arXiv:1708.07120).

    The shape and constants of ``torch.optim.lr_scheduler.OneCycleLR``, which also cycles the momentum; this does not.
    """
    first, start, end = 0.3, 1 / 25, 4e-6
    if progress < first:
        return start + (1 - start) * (1 - cosine(progress / first))
    return end + (1 - end) * cosine((progress - first) / (1 - first))


def iwae_stages(progress: float) -> float:
    r"""Eight stages of :math:`3^i` epochs at :math:`10^{-i/7}` times the peak, i = 0…7, 3,280 epochs in all.

    A shorter run keeps the stages' proportions (Burda et al. 2016, section 5, arXiv:1509.00519).
    """
    # stages 0..i end at (3^(i+1) − 1) / 2 of 3,280 epochs
    stage = next(i for i in range(8) if progress * 3280 < (3 ** (i + 1) - 1) / 2 or i == 7)
    return float(10 ** (-stage / 7))


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "cosine": cosine,
    "warmup-cosine": warmup_cosine,
    "one-cycle": one_cycle,
    "iwae-stages": iwae_stages,
}


# --- updates -----------------------------------------------------------------------------------------------------


class UpdateInfo(NamedTuple):
    """What one update reports."""

    terms: dict[str, float]  #: batch means by name
    lr: float  #: the learning rate that was used
    grad_norm: float | None  #: norm of the gradient before clipping; None where nothing is clipped or skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """The rule by which weights are updated.

    Args:
        optimizer: makes the optimiser for the weights.
        total_steps: length of the run, for the schedule; None where it is not known, for instance under a time limit.
        schedule: factor of the learning rate as a function of progress.
        clip_norm: largest gradient norm; None for no clipping.
        skip_norm: gradients of a larger norm change nothing; None to skip none. Deep hierarchies have rare steps whose
            gradient is larger than others by orders of magnitude (Child 2021, Very Deep VAEs, arXiv:2011.10650).
        ema: decay of the moving average of the weights; 0 for none.
    """

    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    total_steps: int | None
    schedule: Schedule = constant
    clip_norm: float | None = None
    skip_norm: float | None = None
    ema: float = 0.0

    def optimizer_and_average(self, pair: Pair) -> tuple[Optimizer, AveragedModel | None]:
        """The optimiser of the weights and, if asked for, their moving average, for a `TrainingState`."""
        average = None
        if self.ema:
            update = get_ema_multi_avg_fn(self.ema)  # type: ignore[no-untyped-call]
            average = AveragedModel(pair, multi_avg_fn=update)
        optimizer = self.optimizer(pair.parameters())
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
        return optimizer, average

    def apply_gradient(
        self, state: TrainingState, name: str, value: Tensor, parts: Mapping[str, Tensor], batch: Batch
    ) -> UpdateInfo:
        """Updates the weights by the gradient of −value in their ``.grad``.

        Args:
            state: its weights and moving average are changed; its step is counted by the learner.
            name: name of the value in reports and messages.
            value: the objective, a scalar: the mean over the batch.
            parts: reported beside it, means or one number for each example.
            batch: the examples, for the message if something is not finite.
        Raises:
            ElbowroomError: the value, a part or the gradient is not finite; names the step, the term and the likely
                cause, and leaves the weights as they were.
        """
        lr = self._set_lr(state)
        weights = [weight for group in state.optimizer.param_groups for weight in group["params"]]
        norm = nn.utils.get_total_norm(self._watched_gradients(weights))
        terms, grad_norm = _to_host(name, value, parts, norm)
        check_finite(state.step + 1, terms, lr, grad_norm=grad_norm, batch=batch)
        if self.skip_norm is not None:
            terms["skipped"] = float(grad_norm > self.skip_norm)
        if not terms.get("skipped"):
            if self.clip_norm is not None:
                nn.utils.clip_grads_with_norm_(weights, self.clip_norm, norm)
            state.optimizer.step()
            if state.average is not None:
                state.average.update_parameters(state.pair)
        return UpdateInfo(terms, lr, grad_norm if self._watches_norm else None)

    @property
    def _watches_norm(self) -> bool:
        return self.clip_norm is not None or self.skip_norm is not None

    def _set_lr(self, state: TrainingState) -> float:
        factor = self.schedule(state.step / self.total_steps if self.total_steps else 0.0)
        for group in state.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        return float(state.optimizer.param_groups[0]["lr"])

    def _watched_gradients(self, weights: Iterable[Tensor]) -> list[Tensor]:
        """All gradients if they are clipped; otherwise those of the biases, to check that they are finite.

        The gradient of a bias is the sum of all gradients through its layer, so it is not finite where one of them is
        not. Reading the gradients of all weights would cost a twentieth of the step.
        """
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        if self._watches_norm:
            return gradients
        return [gradient for gradient in gradients if gradient.dim() <= 1] or gradients


def _to_host(name: str, value: Tensor, parts: Mapping[str, Tensor], norm: Tensor) -> tuple[dict[str, float], float]:
    """Batch means and the gradients' norm, in one transfer."""
    means = [part if part.dim() == 0 else part.mean() for part in parts.values()]
    head, grad_norm, *numbers = torch.stack([value.detach(), norm.to(value.dtype), *means]).tolist()
    return {name: head} | dict(zip(parts, numbers, strict=True)), grad_norm
