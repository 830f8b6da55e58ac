r"""Wake-sleep: the model is trained on draws from the guide, the guide on data simulated from the model (dreams).

.. math:: \text{wake:} \quad \max_\theta \; \mathbb{E}_{q_\phi(z|x)} [\log p_\theta(x, z)],
    \qquad \text{sleep:} \quad \max_\phi \; \mathbb{E}_{p_\theta(x, z)} [\log q_\phi(z | x)]

The wake phase increases the ELBO in θ. The sleep phase does not increase it in φ: it reduces the reversed divergence
KL(p(z|x) ‖ q(z|x)), averaged over simulated data instead of real ones. So the two phases have no common objective, and
need not converge together. But no draw is differentiated through, so z can be of any kind.

Reference:
    Hinton, Dayan, Frey & Neal (1995), The wake-sleep algorithm for unsupervised neural networks.
    Kingma & Welling (2014), section 5 and figure 2, compare it with the same encoder, arXiv:1312.6114.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.inference.objectives import elbo_terms
from elbowroom.learners.execution import Execution, eager
from elbowroom.learners.learner import StepInfo, TrainingState
from elbowroom.learners.update import Update
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import draw
from elbowroom.model.guides import guide_distribution
from elbowroom.model.latent import LatentModel, Pair
from elbowroom.model.noise import NoiseSource

__all__ = ["Dream", "GuideDraws", "WakeSleep", "both_phases", "dream", "guide_draws", "sleep", "wake"]


class GuideDraws(NamedTuple):
    """Draws from the guide, detached from the graph."""

    z: Tensor  #: draws from q(z | x), shape (samples, batch, latent)
    log_q: Tensor  #: log q(z | x), nats, shape (samples, batch)


class Dream(NamedTuple):
    """Simulated data with their z, detached from the graph."""

    z: Tensor  #: (samples · batch, latent)
    x: Tensor  #: as the input of the guide, (samples · batch, \\*event)


@torch.no_grad()
def guide_draws(guide: Conditional, batch: Batch, *, num_samples: int = 1, generator: torch.Generator) -> GuideDraws:
    """z ~ q(z | x) for the wake phase, from which no gradient may reach the guide."""
    q = guide_distribution(guide, batch)
    z = draw(q, (num_samples,), generator=generator)
    return GuideDraws(z, q.log_prob(z))


@torch.no_grad()
def dream(model: LatentModel, batch: Batch, *, num_samples: int = 1, generator: torch.Generator) -> Dream:
    """z ~ p(z) and x ~ p(x | z) for the sleep phase.

    Args:
        model: p(x, z).
        batch: gives the number of dreams, their contexts and their masks: where an element of an example is missing,
            the dream has the same filler. The data themselves are not used.
        num_samples: number of dreams for each example.
        generator: the source of randomness.
    """
    made = model.sample(num_samples * len(batch), context=_contexts(batch, num_samples), generator=generator)
    seen = made.x
    if batch.mask is not None:
        times = (num_samples, *(1 for _ in batch.x.shape[1:]))
        seen = torch.where(batch.mask.repeat(times), seen, batch.x.to(seen.dtype).repeat(times))
    return Dream(made.z, seen)


def wake(model: LatentModel, batch: Batch, z: Tensor) -> Tensor:
    """Objective of the wake phase, maximised in θ: log p(x, z) of the guide's draws, nats, shape (samples, batch)."""
    return model.log_joint(batch.x, z, context=batch.context, mask=batch.mask)


def sleep(guide: Conditional, batch: Batch, dreamt: Dream) -> Tensor:
    """Objective of the sleep phase, maximised in φ: log q(z | x) of dreams, the mean over each example's dreams.

    Returns:
        Nats, shape (batch,).
    """
    dreams = Batch(dreamt.x, context=_contexts(batch, len(dreamt.z) // len(batch)))
    log_q: Tensor = guide_distribution(guide, dreams).log_prob(dreamt.z)
    return log_q.view(-1, len(batch)).mean(0)


def both_phases(
    pair: Pair,
    batch: Batch,
    z: Tensor,
    log_q: Tensor,
    dreamt_z: Tensor,
    dreamt_x: Tensor,
    *,
    generator: NoiseSource | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum of both objectives, nats, shape (batch,); and, without a gradient, each of them and the ELBO.

    No weight is in both, so that the gradient of the sum is that of each phase. ``z`` and ``log_q`` are of
    :class:`GuideDraws`, the others of :class:`Dream`; since everything is drawn, ``generator`` is not used.
    """
    log_joint, asleep = wake(pair.model, batch, z), sleep(pair.guide, batch, Dream(dreamt_z, dreamt_x))
    awake, bound = log_joint.mean(0), (log_joint.detach() - log_q).mean(0)
    return awake + asleep, {"elbo": bound, "wake": awake.detach(), "sleep": asleep.detach()}


def _contexts(batch: Batch, num_samples: int) -> Tensor | None:
    return None if batch.context is None else batch.context.repeat(num_samples, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeSleep:
    """Wake-sleep: both phases on every batch, and one update of all weights.

    Args:
        update: optimiser, schedule, clipping, moving average.
        num_samples: number of draws of z, and of dreams, for each example.
        execution: how the densities and their gradients are computed; draws and dreams are always made eagerly.
    """

    name: ClassVar[str] = "elbo"
    update: Update
    num_samples: int = 1
    execution: Execution = eager

    def init(self, pair: Pair) -> TrainingState:
        """The state before the first step."""
        return TrainingState(0, pair, *self.update.optimizer_and_average(pair))

    def step(self, state: TrainingState, batch: Batch, *, generator: torch.Generator) -> tuple[TrainingState, StepInfo]:
        """One update of θ by the wake phase and of φ by the sleep phase.

        Raises:
            ElbowroomError: a phase's value or gradient is not finite; the weights are left as they were.
        """
        model, guide = state.pair.model, state.pair.guide
        drawn = guide_draws(guide, batch, num_samples=self.num_samples, generator=generator)
        dreamt = dream(model, batch, num_samples=self.num_samples, generator=generator)
        value, parts = self.execution(both_phases, state.pair, batch, *drawn, *dreamt)
        updated = self.update.apply_gradient(state, "wake + sleep", value, parts, batch)
        state.step += 1
        del updated.terms["wake + sleep"]  # the sum of two different objectives means nothing
        return state, StepInfo(updated.terms, updated.lr, self.num_samples * len(batch), grad_norm=updated.grad_norm)

    def measure(self, pair: Pair, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """The ELBO of each example and its two terms."""
        terms = elbo_terms(pair.model, pair.guide, batch, num_samples=self.num_samples, kl="auto", generator=generator)
        return {"elbo": terms.value, **terms.parts}
