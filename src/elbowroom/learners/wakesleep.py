r"""Wake-sleep: the model learns from the guide's draws, the guide from the model's dreams.

.. math:: \text{wake:} \quad \max_\theta \; \mathbb{E}_{q_\phi(z|x)} [\log p_\theta(x, z)],
    \qquad \text{sleep:} \quad \max_\phi \; \mathbb{E}_{p_\theta(x, z)} [\log q_\phi(z | x)]

Wake ascends the ELBO in θ. Sleep does not ascend it in φ: it lowers KL(p(z|x) ‖ q(z|x)), the other way round, averaged
over data that the model dreams and not over those there are. So the two have no objective in common and need not
converge together; no draw is differentiated through, though, so z may be of any kind.

Reference:
    Hinton, Dayan, Frey & Neal (1995), The wake-sleep algorithm for unsupervised neural networks.
    Kingma & Welling (2014), section 5 and figure 2, compare it with the same encoder, arXiv:1312.6114.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.inference.objectives import elbo_terms
from elbowroom.inference.soundness import ask
from elbowroom.learners.ascent import Ascent
from elbowroom.learners.learner import Info, Pair, State
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import draw
from elbowroom.model.latent import LatentModel

__all__ = ["WakeSleep", "sleep", "wake"]


def wake(
    model: LatentModel, guide: Conditional, batch: Batch, *, num_samples: int = 1, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The wake phase: log p(x, z) with its gradient in θ alone, and an estimate of the ELBO from the same draws.

    Returns:
        Nats, two tensors of shape (batch,): the average of log p(x, z) over z ~ q(z | x), and, without a gradient,
        that of log p(x, z) − log q(z | x).
    """
    with torch.no_grad():  # nothing of this phase may reach the guide
        q = ask(guide, batch)
        z = draw(q, (num_samples,), generator=generator)
        log_q = q.log_prob(z)
    log_joint = model.log_joint(batch.x, z, context=batch.context, mask=batch.mask)
    return log_joint.mean(0), (log_joint.detach() - log_q).mean(0)


def sleep(
    model: LatentModel, guide: Conditional, batch: Batch, *, num_samples: int = 1, generator: torch.Generator
) -> Tensor:
    """The sleep phase: log q(z | x) of dreamt data, with its gradient in φ alone.

    Args:
        model: dreams, z ~ p(z) and x ~ p(x | z).
        guide: learns to tell z from x.
        batch: gives the number of dreams, their context, and what is hidden: where an element of the batch was not
            observed, the guide sees in its dream what it sees there, the filler. Its data are not looked at otherwise.
        num_samples: dreams for each datum.
        generator: the source of randomness.
    Returns:
        Nats, shape (batch,).
    """
    context = None if batch.context is None else batch.context.repeat(num_samples, 1)
    dream = model.sample(num_samples * len(batch), context=context, generator=generator)
    seen = dream.x
    if batch.mask is not None:
        times = (num_samples, *(1 for _ in batch.x.shape[1:]))
        seen = torch.where(batch.mask.repeat(times), seen, batch.x.to(seen.dtype).repeat(times))
    log_q: Tensor = ask(guide, Batch(seen, context=context)).log_prob(dream.z)
    return log_q.view(num_samples, len(batch)).mean(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeSleep:
    """Both phases on every batch, one update of all weights.

    Args:
        ascent: optimiser, schedule, clipping, moving average.
        num_samples: draws of z, and dreams, for each datum.
    """

    name: ClassVar[str] = "elbo"
    ascent: Ascent
    num_samples: int = 1

    def init(self, pair: Pair) -> State:
        """The state before the first step."""
        return State(0, pair, *self.ascent.parts(pair))

    def step(self, state: State, batch: Batch, *, generator: torch.Generator) -> tuple[State, Info]:
        """One update of θ by the wake phase and of φ by the sleep phase.

        Raises:
            ElbowroomError: a phase's value or gradient is not finite; the weights are left as they were.
        """
        model, guide = state.pair.model, state.pair.guide
        awake, bound = wake(model, guide, batch, num_samples=self.num_samples, generator=generator)
        asleep = sleep(model, guide, batch, num_samples=self.num_samples, generator=generator)
        parts = {"elbo": bound, "wake": awake.detach(), "sleep": asleep.detach()}
        climbed = self.ascent.climb(state, "wake + sleep", (awake + asleep).mean(), parts, batch)
        state.step += 1
        del climbed.terms["wake + sleep"]  # a sum of unlike things
        return state, Info(climbed.terms, climbed.lr, self.num_samples * len(batch), grad_norm=climbed.grad_norm)

    def measure(self, pair: Pair, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """The ELBO and its two terms, per datum."""
        terms = elbo_terms(pair.model, pair.guide, batch, num_samples=self.num_samples, kl="auto", generator=generator)
        return {"elbo": terms.value, **terms.parts}
