r"""Monte Carlo EM: draw z from the posterior by Markov chains, then make the draws more probable.

.. math:: \text{E-step:} \quad z_1, \ldots, z_S \sim p_{\theta}(z | x) \text{ by HMC or NUTS},
    \qquad \text{M-step:} \quad \theta \leftarrow \theta
    + \eta \, \nabla_\theta \frac{1}{B} \sum_{b=1}^B \frac1S \sum_{s=1}^S \log p_\theta(x_b, z_{bs})

By Fisher's identity, :math:`\nabla_\theta \log p_\theta(x) = \mathbb{E}_{p_\theta(z|x)}[\nabla_\theta \log p_\theta(x,
z)]`, the first update of an M-step follows the gradient of log p(x) itself and not of a bound, as far as the chains
have converged. EM finds a stationary point, not the global maximum.

A guide, where there is one, is taught by the same draws, :math:`\max_\phi \log q_\phi(z | x)`, and takes no part in
the model's learning but as a place for chains to start.

Reference:
    Wei & Tanner (1990), A Monte Carlo implementation of the EM algorithm.
    Kingma & Welling (2014), appendix C and figure 3: 10 leapfrog steps, 90% acceptance, 5 updates, arXiv:1312.6114.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.importance.laplace_proposal import laplace_evidence
from elbowroom.inference.soundness import guide_distribution
from elbowroom.learners.chain_store import ChainStore, no_positions
from elbowroom.learners.e_step import EStep
from elbowroom.learners.execution import Execution, eager
from elbowroom.learners.learner import Pair, StepInfo, TrainingState
from elbowroom.learners.update import Update
from elbowroom.model.noise import Source

__all__ = ["Mcem", "McemState", "m_step_terms"]

_MEASURED_WITH = 8  # draws from Laplace's approximation for each validation datum


@dataclass(slots=True)
class McemState(TrainingState):
    """Where learning stands, the chains too.

    Attributes:
        chains: of all data, where they persist.
        common_log_step: log ε, what all chains share of it; NaN before the first visit. A scalar in float64.
    """

    chains: ChainStore | None = None
    common_log_step: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        tensors = TrainingState.tensors(self)
        assert self.common_log_step is not None
        tensors["chains.common_log_step"] = self.common_log_step.clone()
        if self.chains is not None:
            tensors |= {f"chains.{name}": tensor for name, tensor in self.chains.tensors().items()}
        return tensors

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        TrainingState.load(self, tensors)
        assert self.common_log_step is not None
        self.common_log_step.copy_(tensors["chains.common_log_step"])
        if self.chains is not None:
            prefix = "chains."
            self.chains.load({name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)})


def m_step_terms(
    pair: Pair, batch: Batch, z: Tensor, *, learns_guide: bool = False, generator: Source | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """What the M-step ascends, for draws z that are held fixed.

    Args:
        pair: model and guide.
        batch: data.
        z: draws from p(z | x), shape (samples, batch, latent).
        learns_guide: whether the guide is taught beside the model.
        generator: not used, since z is given.
    Returns:
        The sum of the averages of log p(x, z) and, if so, of log q(z | x), nats, shape (batch,); and the two by name.
    """
    log_joint = pair.model.log_joint(batch.x, z, context=batch.context, mask=batch.mask).mean(0)
    if not learns_guide:
        return log_joint, {"log_joint": log_joint.detach()}
    log_q = guide_distribution(pair.guide, batch).log_prob(z).mean(0)
    return log_joint + log_q, {"log_joint": log_joint.detach(), "log_q": log_q.detach()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mcem:
    """Monte Carlo EM with any kernel and any optimiser.

    Args:
        update: optimiser, schedule, clipping, moving average.
        e_step: how draws are made.
        latent_dim: dimensions of z.
        positions: where in the data set the training data stand, ascending, int64, for chains that persist; None for a
            stream.
        draws: of each chain per visit, to begin with.
        growth_per_step: draws added per step, rounded down in total.
        updates: of the weights per E-step.
        learns_guide: whether the pair's guide is fitted alongside.
        scratch: a folder in which to map the chains; None keeps them in memory.
        execution: how the M-step's objective and gradient are computed.
    Raises:
        ElbowroomError: persistent chains of a stream; chains that start from, or move in the metric of, a guide that
            there is not.
    """

    name: ClassVar[str] = "laplace-is"
    update: Update
    e_step: EStep
    latent_dim: int
    positions: Tensor | None
    draws: int = 1
    growth_per_step: float = 0.0
    updates: int = 1
    learns_guide: bool = False
    scratch: Path | None = None
    execution: Execution = eager

    def __post_init__(self) -> None:
        if self.e_step.start == "persistent" and self.positions is None:
            raise no_positions()
        for key in ("start", "metric"):
            if getattr(self.e_step, key) == "guide" and not self.learns_guide:
                raise ElbowroomError(
                    f"mcem.{key} is guide, but Monte Carlo EM has no guide unless it is given one.",
                    f"Give --model.guide diagonal, or leave --mcem.{key} out.",
                )

    def init(self, pair: Pair) -> McemState:
        """The state before the first step; no chain has been anywhere yet."""
        weight = next(pair.model.parameters())
        chains = None
        if self.e_step.start == "persistent":
            assert self.positions is not None  # see __post_init__
            like = torch.zeros(self.latent_dim, dtype=weight.dtype, device=weight.device)
            dense = self.e_step.resolved(pair.model).metric == "gauss-newton"
            chains = ChainStore(self.positions, self.e_step.chains, like, dense=dense, folder=self.scratch)
        unknown = torch.tensor(torch.nan, dtype=torch.float64)
        return McemState(0, pair, *self.update.optimizer_and_average(pair), chains, unknown)

    def step(self, state: TrainingState, batch: Batch, *, generator: torch.Generator) -> tuple[TrainingState, StepInfo]:
        """Draws for a batch, and the updates of the weights by them.

        Raises:
            ElbowroomError: a density or a gradient that is not finite, in which case the weights are those of the last
                update of this step that was sound; data without positions where chains persist.
        """
        assert isinstance(state, McemState) and state.common_log_step is not None
        pair = state.pair
        found = self.e_step.resolved(pair.model).run(
            pair.model,
            pair.guide,
            batch,
            state.chains,
            state.common_log_step,
            # 49 steps of growth 1 / 49 are 1, though their floating-point product is less
            draws=self.draws + int(self.growth_per_step * state.step + 1e-9),
            generator=generator,
        )
        first = None
        for _ in range(self.updates):
            value, parts = self.execution(m_step_terms, pair, batch, found.z, learns_guide=self.learns_guide)
            parts["acceptance"] = found.acceptance
            updated = self.update.apply_gradient(state, "m_step", value, parts, batch)
            first = first or updated  # later ones are about draws from a posterior that has moved
        assert first is not None
        state.step += 1
        del first.terms["m_step"]
        gradients = found.decoder_gradients + self.updates * found.z.shape[:2].numel()
        return state, StepInfo(first.terms, first.lr, gradients, grad_norm=first.grad_norm)

    def measure(self, pair: Pair, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """log p(x) by importance sampling around the posterior's mode, which needs no guide."""
        found = laplace_evidence(pair.model, pair.guide, batch, k=_MEASURED_WITH, starts=2, generator=generator)
        return {self.name: found.log_evidence}
