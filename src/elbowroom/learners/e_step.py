r"""The E-step by Markov chain Monte Carlo: draws from p(z | x) under the current weights.

Chains are persistent, or started anew at every visit of their example. A persistent chain continues from where it was
at the last visit. It need not converge within one visit: the weights have changed little since, so it follows the
changing posterior, and its draws average over visits (stochastic approximation EM).

Whatever was computed under old weights is computed again: log densities and gradients at every visit, a metric after
every ``refresh`` visits. A metric affects speed, never correctness, as long as it does not depend on the position of
the chain. So it is computed near the mode of the posterior, which is tracked by separate Newton steps.

Step sizes have a common part and an offset for each example. The common part adapts quickly to the acceptance of the
batch, an average over many chains; the offset adapts slowly to the example's difference from that average.

Reference:
    Delyon, Lavielle & Moulines (1999), Convergence of a stochastic approximation version of the EM algorithm.
    Kuhn & Lavielle (2004), Coupling a stochastic approximation version of EM with an MCMC procedure.
    Hoffman (2017), Learning deep latent Gaussian models with Markov chain Monte Carlo (chains from the guide).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.gaussian.laplace import laplace
from elbowroom.inference.posterior.sample import Method, make_kernel, start_metric
from elbowroom.inference.target import default_metric, posterior_target
from elbowroom.learners.chain_store import BatchChains, ChainStore
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import draw
from elbowroom.model.guides import guide_distribution
from elbowroom.model.latent import LatentModel, evaluation_mode
from elbowroom.samplers.adaptation import initial_step_size
from elbowroom.samplers.kernel import Kernel, State, Tuning, init
from elbowroom.samplers.metric import Metric
from elbowroom.samplers.target import Target

__all__ = ["Draws", "EStep"]

_NEWTON_STEPS = 2  # towards the mode; the next refresh continues from where they ended
_NEAR_ENOUGH = 0.1  # nats below the mode where the Newton steps may stop: the metric affects speed only
_COMMON_GAIN = 0.5  # adaptation rate of the common log step size, per unit of acceptance
_LEAST_GAIN = 0.05  # least adaptation rate of an example's offset: the weights change, so it is never frozen
_LIMIT = 20.0  # largest |log ε|


class Draws(NamedTuple):
    """The draws of an E-step, and their cost.

    Attributes:
        z: approximate draws from p(z | x), shape (draws · chains, batch, latent).
        acceptance: mean acceptance of each example's transitions, shape (batch,).
        divergent: share of each example's transitions after the warm-up that diverged, shape (batch,).
        decoder_gradients: evaluations of the decoder with its gradient, over all examples and chains; a Gauss–Newton
            curvature in D dimensions (D forward derivatives) counts as D / 2. The search for the first step size, once
            in a run, is not counted.
    """

    z: Tensor
    acceptance: Tensor
    divergent: Tensor
    decoder_gradients: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EStep:
    """The E-step: draws from the posteriors of a batch.

    Args:
        sampler: "hmc" or "nuts".
        start: "persistent" chains; or "guide" or "prior", from which chains start anew at every visit.
        chains: number of chains per example.
        metric: "auto", "gauss-newton", "guide" or "identity".
        refresh: number of visits of an example after which its metric is computed again.
        num_steps: leapfrog steps of an HMC trajectory; None: 4 with the metric gauss-newton, else 10.
        target_acceptance: mean acceptance that the step sizes are adapted to.
        warmup: transitions of a chain before its first draw.
        transitions: transitions per draw.
    Raises:
        ElbowroomError: ``num_steps`` for NUTS.
    """

    sampler: Method = "hmc"
    start: Literal["persistent", "guide", "prior"] = "persistent"
    chains: int = 1
    metric: Literal["auto", "gauss-newton", "guide", "identity"] = "auto"
    refresh: int = 10
    num_steps: int | None = None
    target_acceptance: float = 0.8
    warmup: int = 5
    transitions: int = 1

    def __post_init__(self) -> None:
        if self.sampler == "nuts" and self.num_steps is not None:
            raise ElbowroomError(
                f"mcem.num_steps is {self.num_steps}, but NUTS chooses the length of a trajectory itself.",
                "Leave it out, or use --mcem.sampler hmc.",
            )

    def resolved(self, model: LatentModel) -> EStep:
        """The same E-step with the metric that "auto" stands for."""
        if self.metric != "auto":
            return self
        known = default_metric(model.likelihood) == "gauss-newton"
        return replace(self, metric="gauss-newton" if known else "identity")

    @torch.no_grad()
    def run(
        self,
        model: LatentModel,
        guide: Conditional,
        batch: Batch,
        chains: ChainStore | None,
        common_log_step: Tensor,
        *,
        draws: int,
        generator: torch.Generator,
    ) -> Draws:
        """One visit of a batch: read its chains, move them, store them.

        Args:
            model: p(x, z), with its current weights.
            guide: q(z | x), or the prior where there is none.
            batch: examples, with their positions if chains are persistent.
            chains: the persistent chains; None if chains start anew.
            common_log_step: logarithm of the common step size, a scalar that is updated in place; NaN before the first
                visit.
            draws: number of draws of each chain.
            generator: the source of randomness.
        Raises:
            ElbowroomError: a density that is not finite where the chains are; data without positions.
        """
        with evaluation_mode(model, guide):
            target = posterior_target(model, batch)
            kernel = make_kernel(self.sampler, self.metric, self.num_steps)
            found, cost = self._load_chains(model, guide, batch, chains, generator)
            first = found.visits == 0
            state = init(target, found.z)  # log density and gradient under the current weights
            cost += found.z.shape[0] * len(batch)
            if bool(common_log_step.isnan()):
                guess = initial_step_size(target, state, found.metric, generator=generator)
                common_log_step.copy_(guess.log().mean())
            transitions = _Transitions(kernel, target, state, found, common_log_step, self.target_acceptance, generator)
            if bool(first.any()):
                for _ in range(self.warmup):
                    transitions.step()
                transitions.end_warm_up()
            kept = []
            for _ in range(draws):
                for _ in range(self.transitions):
                    transitions.step()
                kept.append(transitions.state.z)
        if chains is not None:
            log_step = transitions.own_log_step
            chains.write(batch.index, BatchChains(transitions.state.z, found.metric, log_step, found.visits + 1))
        cost += transitions.decoder_gradients
        return Draws(torch.cat(kept), transitions.acceptance, transitions.divergent, cost)

    def _load_chains(
        self,
        model: LatentModel,
        guide: Conditional,
        batch: Batch,
        chains: ChainStore | None,
        generator: torch.Generator,
    ) -> tuple[BatchChains, int]:
        """The chains of the batch with their metric, and the decoder gradients that were needed for it."""
        if chains is None:
            found = None
            due = torch.arange(len(batch), device=batch.x.device)
        else:
            found = chains.read(batch.index)
            due = (found.visits % self.refresh == 0).nonzero().flatten()
        if found is not None and not len(due):
            return found, 0
        part = batch.rows(due)
        again = None if found is None else found.visits[due] > 0
        metric, cost = self._metric(model, guide, part, None if found is None else found.metric.center[due], again)
        fresh = self._starting_points(model, guide, part, metric, generator)
        if found is None or again is None:
            zeros = torch.zeros_like(fresh[0, :, 0])
            return BatchChains(fresh, metric, zeros, zeros.long()), cost
        z, center, factor = found.z.clone(), found.metric.center.clone(), found.metric.factor.clone()
        z[:, due] = torch.where(again.view(-1, 1), z[:, due], fresh)
        center[due], factor[due] = metric.center, metric.factor
        return found._replace(z=z, metric=Metric(center, factor, metric.upper)), cost

    def _metric(
        self, model: LatentModel, guide: Conditional, batch: Batch, center: Tensor | None, again: Tensor | None
    ) -> tuple[Metric, int]:
        if self.metric != "gauss-newton":
            assert self.metric != "auto"  # see resolved()
            return start_metric(model, guide, batch, self.metric), 0
        start = guide_distribution(guide, batch).mean
        if center is not None and again is not None:  # the mode before is near the mode now
            start = torch.where(again.unsqueeze(-1), center, start)
        mode = laplace(model, start, batch, steps=_NEWTON_STEPS, tolerance=_NEAR_ENOUGH)
        evaluations = int(mode.iterations.sum()) + len(batch)
        cost = evaluations * (1 + math.ceil(start.shape[-1] / 2))
        return Metric.from_precision(mode.precision, mode.mode), cost

    def _starting_points(
        self, model: LatentModel, guide: Conditional, batch: Batch, metric: Metric, generator: torch.Generator
    ) -> Tensor:
        """Initial positions of chains, shape (chains, batch, latent)."""
        if self.start == "persistent" and self.metric == "gauss-newton":
            shape = (self.chains, *metric.center.shape)
            noise = torch.randn(shape, generator=generator, dtype=metric.center.dtype, device=metric.center.device)
            return metric.to_z(noise)
        if self.start == "prior":
            prior = model.prior(None, batch.context)
            shape = (self.chains,) if prior.batch_shape else (self.chains, len(batch))
            return draw(prior, shape, generator=generator)
        return draw(guide_distribution(guide, batch), (self.chains,), generator=generator)


class _Transitions:
    """The transitions of one visit, and the step sizes that adapt to their acceptance."""

    def __init__(
        self,
        kernel: Kernel,
        target: Target,
        state: State,
        found: BatchChains,
        common_log_step: Tensor,
        target_acceptance: float,
        generator: torch.Generator,
    ) -> None:
        self.kernel, self.target, self.state, self.metric = kernel, target, state, found.metric
        self.own_log_step, self.common_log_step = found.log_step.clone(), common_log_step
        self.visits, self.taken, self.warm = found.visits, 0, 0
        self.ceiling = min(_LIMIT, math.log(kernel.max_step_size))
        self.target_acceptance, self.generator = target_acceptance, generator
        self.accepted, self.diverged = torch.zeros_like(found.log_step), torch.zeros_like(found.log_step)
        self.decoder_gradients = 0

    @property
    def acceptance(self) -> Tensor:
        """Mean acceptance of each example over the transitions so far."""
        return self.accepted / max(1, self.taken)

    @property
    def divergent(self) -> Tensor:
        """Share of each example's transitions since the warm-up that diverged."""
        return self.diverged / max(1, self.taken - self.warm)

    def end_warm_up(self) -> None:
        """What diverged while the first step sizes were sought does not count."""
        self.warm = self.taken
        self.diverged.zero_()

    def step(self) -> None:
        """One transition of all chains of the batch."""
        common = self.common_log_step.to(self.own_log_step)
        tuning = Tuning((common + self.own_log_step).clamp(-_LIMIT, self.ceiling).exp(), self.metric)
        self.state, info = self.kernel.step(self.target, self.state, tuning, generator=self.generator)
        acceptance = info.acceptance.mean(0)
        average = acceptance.mean()
        gain = (1.0 + self.visits + self.taken).pow(-0.6).clamp(min=_LEAST_GAIN).to(acceptance)
        self.own_log_step += gain * (acceptance - average)
        self.common_log_step += _COMMON_GAIN * (average - self.target_acceptance).to(self.common_log_step)
        # without this limit, a step size that grew while everything was accepted would take as long to shrink again
        self.common_log_step.clamp_(-_LIMIT, self.ceiling)
        self.own_log_step.clamp_(max=self.ceiling - float(self.common_log_step))
        self.accepted += acceptance
        self.diverged += info.divergent.to(acceptance).mean(0)
        self.taken += 1
        self.decoder_gradients += int(info.num_gradients.sum())
