r"""Monte Carlo EM: draw z from the posterior by Markov chains, then make the draws more probable.

.. math:: \text{E-step:} \quad z_1, \ldots, z_S \sim p_{\theta}(z | x) \text{ by HMC or NUTS},
    \qquad \text{M-step:} \quad \theta \leftarrow \theta
    + \eta \, \nabla_\theta \frac{1}{B} \sum_{b=1}^B \frac1S \sum_{s=1}^S \log p_\theta(x_b, z_{bs})

By Fisher's identity, :math:`\nabla_\theta \log p_\theta(x) = \mathbb{E}_{p_\theta(z|x)}[\nabla_\theta \log p_\theta(x,
z)]`, the first update of an M-step follows the gradient of log p(x) itself and not of a bound, as far as the chains
have converged. EM finds a stationary point, not the global maximum.

If there is a guide, it is trained on the same draws, :math:`\max_\phi \log q_\phi(z | x)`. The model does not use it,
except as a place where chains can start.

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
from elbowroom.learners.chain_store import ChainStore, no_positions
from elbowroom.learners.e_step import EStep
from elbowroom.learners.execution import Execution, eager
from elbowroom.learners.learner import StepInfo, TrainingState
from elbowroom.learners.update import Update
from elbowroom.model.guides import guide_distribution
from elbowroom.model.latent import Pair
from elbowroom.model.networks import Network
from elbowroom.model.noise import NoiseSource

__all__ = ["Mcem", "McemState", "m_step_terms"]

_MEASURED_WITH = 8  # draws from the Laplace approximation for each validation example


@dataclass(slots=True)
class McemState(TrainingState):
    """The state of training, with the chains.

    Attributes:
        chains: of all training examples, if they are persistent.
        common_log_step: the part of log ε that all chains share, a float64 scalar; NaN before the first visit.
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
    pair: Pair, batch: Batch, z: Tensor, *, learns_guide: bool = False, generator: NoiseSource | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective of the M-step, for fixed draws z.

    Args:
        pair: model and guide.
        batch: examples.
        z: draws from p(z | x), shape (samples, batch, latent).
        learns_guide: whether the guide is trained too.
        generator: not used, since z is given.
    Returns:
        The average of log p(x, z) over draws, plus that of log q(z | x) if the guide is trained, nats, shape (batch,);
        and the two by name.
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
        e_step: the E-step, which makes the draws.
        latent_dim: dimensions of z; None for as many as the decoder's input has.
        positions: of the training examples in the data set, ascending, int64, for persistent chains; None for a stream.
        draws: draws of each chain per visit, at the beginning.
        growth_per_step: draws added per step, rounded down in total.
        updates: updates of the weights per E-step.
        learns_guide: whether the guide is trained too.
        scratch: a folder for memory-mapped chains; None keeps them in memory.
        execution: how the M-step's objective and gradient are computed.
    Raises:
        ElbowroomError: persistent chains for a stream; chains that start from a guide or use its metric, without a
            guide.
    """

    name: ClassVar[str] = "laplace-is"
    update: Update
    e_step: EStep
    latent_dim: int | None
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
                    f"mcem.{key} is guide, but by default Monte Carlo EM trains no guide.",
                    f"Give --model.guide diagonal, or leave --mcem.{key} out.",
                )

    def init(self, pair: Pair) -> McemState:
        """The state before the first step; chains are empty."""
        weight = next(pair.model.parameters())
        chains = None
        if self.e_step.start == "persistent":
            assert self.positions is not None  # see __post_init__
            network, latent_dim = pair.model.likelihood.network, self.latent_dim
            if latent_dim is None:
                assert isinstance(network, Network)  # only such a decoder says how long its input is
                (latent_dim,) = network.in_shape
            like = torch.zeros(latent_dim, dtype=weight.dtype, device=weight.device)
            dense = self.e_step.resolved(pair.model).metric == "gauss-newton"
            chains = ChainStore(self.positions, self.e_step.chains, like, dense=dense, folder=self.scratch)
        unknown = torch.tensor(torch.nan, dtype=torch.float64)
        return McemState(0, pair, *self.update.optimizer_and_average(pair), chains, unknown)

    def step(self, state: TrainingState, batch: Batch, *, generator: torch.Generator) -> tuple[TrainingState, StepInfo]:
        """Draws z for a batch (E-step), and updates the weights with them (M-step).

        Raises:
            ElbowroomError: a density or a gradient that is not finite, in which case the weights are those of the last
                good update; examples without positions where chains are persistent.
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
            parts |= {"acceptance": found.acceptance, "divergent": found.divergent}
            updated = self.update.apply_gradient(state, "m_step", value, parts, batch)
            first = first or updated  # later updates use draws from a posterior that has changed
        assert first is not None
        state.step += 1
        del first.terms["m_step"]
        gradients = found.decoder_gradients + self.updates * found.z.shape[:2].numel()
        return state, StepInfo(first.terms, first.lr, gradients, grad_norm=first.grad_norm)

    def measure(self, pair: Pair, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """log p(x) of each example by importance sampling around the mode of the posterior, which needs no guide."""
        found = laplace_evidence(pair.model, pair.guide, batch, k=_MEASURED_WITH, starts=2, generator=generator)
        return {self.name: found.log_evidence}
