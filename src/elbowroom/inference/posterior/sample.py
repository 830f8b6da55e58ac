r"""Draws from the posteriors p(z | x) of thousands of examples at once, by HMC or NUTS.

A sampler needs the posterior only up to a constant, and log p(x, z) is that. To be fast it also needs a metric for each
example, in which the posterior has about the same width in every direction:

================= ==========================================================================================
metric            where it comes from
================= ==========================================================================================
``gauss-newton``  H⁻¹ of :mod:`elbowroom.inference.gaussian.curvature`: at the mode to begin with, then averaged over
                  some draws of the warm-up and joined with their covariance. Needs the likelihood's Fisher information.
``guide``         the standard deviations of q(z | x)
``diagonal``      learned from the draws of the warm-up, from the guide's standard deviations on
``dense``         learned likewise, as a full covariance
``identity``      none
================= ==========================================================================================

The draws are exact with any metric; metrics differ in how many gradients an effective draw takes. The guide only gives
a metric and starting points, so a poor guide costs time but no correctness.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.distributions import Distribution

from elbowroom.data.batch import Batch, as_batch
from elbowroom.errors import ElbowroomError, check_name
from elbowroom.inference.gaussian.curvature import gauss_newton, regularized_cholesky
from elbowroom.inference.gaussian.laplace import laplace
from elbowroom.inference.importance.laplace_proposal import laplace_proposal
from elbowroom.inference.mlp_target import PerceptronPosterior
from elbowroom.inference.posterior.agreement import DRAWS, disagreement
from elbowroom.inference.target import MetricName, Precision, default_metric, posterior_target
from elbowroom.memory import require_memory
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import draw
from elbowroom.model.guides import guide_distribution
from elbowroom.model.latent import LatentModel
from elbowroom.numerics import chunks
from elbowroom.progress import BlockProgress, Progress
from elbowroom.samplers.adaptation import Learn, Warm, check_target_acceptance, learn_dense, learn_diagonal, warm_up
from elbowroom.samplers.hmc import HMC
from elbowroom.samplers.jumps import Jumps
from elbowroom.samplers.kernel import Info, Kernel, Tuning
from elbowroom.samplers.metric import Metric
from elbowroom.samplers.nuts import NUTS
from elbowroom.samplers.sampling import Chains, sample
from elbowroom.samplers.summary import Diagnostics, Summary, measure

__all__ = [
    "METHODS",
    "METRICS",
    "Method",
    "Posterior",
    "gauss_newton_learner",
    "make_kernel",
    "posterior",
    "start_metric",
]

Method = Literal["nuts", "hmc"]
METHODS, METRICS = get_args(Method), get_args(MetricName)

_PRIOR_DRAWS = 10  # n₀ / D in gauss_newton_learner
_CURVATURE_DRAWS = 8  # draws of the warm-up whose curvatures are averaged; each costs about ten gradients
_INFO_BYTES = 50  # of acceptance, energy, divergent and num_gradients of one transition, twice while they are joined
_FEW_LATENTS = 4  # up to here draws of the prior's width find modes, and searches for modes are cheap
_ACCEPTANCE = 0.65  # default target, a harmonic mean over chains; the arithmetic mean is then about 0.8


def start_metric(model: LatentModel, guide: Conditional, batch: Batch, name: MetricName) -> Metric:
    """The metric that a warm-up begins with, centred where the guide or the mode is.

    Raises:
        ElbowroomError: a guide without finite mean and standard deviation; a likelihood without Fisher information
            for "gauss-newton".
    """
    q = _start(guide, batch)
    mean = q.mean
    if name == "gauss-newton":
        found = laplace(model, mean, batch)
        return Metric.from_precision(found.precision, found.mode)
    stddev = torch.ones_like(mean) if name == "identity" else q.stddev
    return Metric.diagonal(stddev, mean)


def _start(guide: Conditional, batch: Batch) -> Distribution:
    """q(z | x), with finite mean and standard deviation, so that chains can start there."""
    q = guide_distribution(guide, batch)
    bad = ~(torch.isfinite(q.mean) & torch.isfinite(q.stddev)).all(-1)
    if bool(bad.any()):
        raise ElbowroomError(
            f"The guide's mean or standard deviation is not finite for {int(bad.sum())} of {len(bad)} examples, but "
            "chains start there.",
            "Check the data for NaN and the guide's weights for infinities.",
        )
    return q


def gauss_newton_learner(model: LatentModel, batch: Batch) -> Learn:
    r"""A rule by which a warm-up learns the metric: the draws' covariance, shrunk towards the inverse mean curvature.

    .. math:: \Sigma = \frac{n S + n_0 \bar H^{-1}}{n + n_0}, \qquad \bar H = \frac18 \sum_{i=1}^8 H(z_i),
        \qquad n_0 = 10 D

    with S the covariance of n draws in D dimensions. The curvature has no sampling noise, but describes only the normal
    part of a posterior; the draws describe all of it, but are few.
    """

    def learn(z: Tensor, metric: Metric) -> Metric:
        chosen = z[torch.linspace(0, len(z) - 1, min(_CURVATURE_DRAWS, len(z)), device=z.device).round().long()]
        total = torch.zeros_like(metric.covariance())
        for at in chosen:
            total += gauss_newton(model, batch, at)
        _, factor = regularized_cholesky(total / len(chosen))
        curvature = torch.cholesky_inverse(factor.double())
        center, prior_count = z.mean(0), _PRIOR_DRAWS * z.shape[-1]
        away = (z - center).movedim(0, -1).double()  # (data, dim, n)
        covariance = (away @ away.mT + prior_count * curvature) / (len(z) + prior_count)
        return Metric.dense(covariance, center)

    return learn


@dataclass(frozen=True, slots=True)
class Posterior:
    """Draws from p(z | x) of each example, with diagnostics of their convergence.

    Attributes:
        z: draws, shape (draws, chains, data, latent), on the CPU.
        info: of the transition that led to each draw; every tensor has shape (draws, chains, data).
        diagnostics: of each example: R-hat, effective sample sizes, divergences, gradients.
        tuning: the step sizes and metrics of the draws.
        warmup_gradients: evaluations of the gradient that the warm-up took, per chain; of its transitions alone.
        settings: the sampler's settings, with the precision that was in fact used.
        index: positions of the examples in their data set, int64, shape (data,); None where they have none.
    """

    z: Tensor
    info: Info
    diagnostics: Diagnostics
    tuning: Tuning
    warmup_gradients: float
    settings: dict[str, Any]
    index: Tensor | None = None

    def summary(self, *, seed: int = 0) -> Summary:
        """The diagnostics over all examples, beside those of independent draws."""
        return self.diagnostics.summary(generator=torch.Generator().manual_seed(seed))

    def to_datatree(self) -> Any:
        """The draws as an ``xarray.DataTree``, for ArviZ: variable z, dimensions (chain, draw, datum, latent).

        Raises:
            ElbowroomError: arviz-base is not installed.
        """
        try:
            from arviz_base import from_dict
        except ImportError as error:
            raise ElbowroomError(
                "The export to ArviZ needs arviz-base, which is not installed.",
                "pip install 'elbowroom[arviz]'.",
            ) from error
        info = self.info
        stats = {
            "acceptance_rate": info.acceptance,
            "energy": info.energy,
            "diverging": info.divergent,
            "n_steps": info.num_gradients,  # a step is a gradient
        }
        return from_dict(
            {
                "posterior": {"z": self.z.movedim(1, 0).numpy()},
                "sample_stats": {name: value.movedim(1, 0).numpy() for name, value in stats.items()},
            },
            dims={"z": ["datum", "latent"], **{name: ["datum"] for name in stats}},
            attrs={"/": {"inference_library": "elbowroom", **self.settings}},
        )


def posterior(
    model: LatentModel,
    guide: Conditional,
    batch: Batch | Tensor,
    *,
    method: Method = "nuts",
    draws: int = 400,
    chains: int = 4,
    warmup: int = 200,
    metric: MetricName | None = None,
    num_steps: int | None = None,
    target_acceptance: float | None = None,
    precision: Precision = "full",
    jumps: bool = False,
    check: bool = True,
    block: int = 512,
    generator: torch.Generator | None = None,
    announce: Progress | None = None,
) -> Posterior:
    """Draw from the posterior p(z | x) of each example by Markov chains.

    Blocks of examples are sampled one after the other, so that only the draws themselves take memory that grows with
    the number of examples.

    Args:
        model: p(x, z), in evaluation mode.
        guide: q(z | x), for the metric and the starting points.
        batch: data, ``x`` of shape (batch, \\*event).
        method: "nuts" or "hmc".
        draws: kept of each chain; nothing is adapted while they are made.
        chains: per example.
        warmup: transitions before the first draw that is kept.
        metric: a name in ``METRICS``; gauss-newton unless given, but dense where the Fisher information has no closed
            form.
        num_steps: of an HMC trajectory; unless given 4 with the metric gauss-newton, 5 with a dense one, else 10.
        target_acceptance: of the step size, as a harmonic mean over chains; 0.65 unless given.
        precision: "full", or "bf16" for the gradients inside trajectories.
        jumps: whether each transition is followed by a jump between modes (:mod:`elbowroom.samplers.jumps`): for
            posteriors of several modes, between which trajectories do not find a way. Needs Fisher information.
        check: whether the draws are compared with importance weights, which shows a mode that no chain has visited
            (:mod:`elbowroom.inference.posterior.agreement`); it changes no draw. Needs Fisher information too.
        block: examples at a time.
        generator: the source of randomness.
        announce: called after every transition.
    Raises:
        ElbowroomError: an unknown name; a number below one (4 draws is the least that diagnostics can be made from);
            a target acceptance that is no probability; draws that do not fit into memory; a posterior that is not
            finite where the chains start; latents that are codes.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, guide, x = oracles.ppca(dim=8, latent_dim=2, seed=0)
        >>> found = posterior(model, guide, x, draws=50, warmup=40, generator=torch.Generator().manual_seed(0))
        >>> found.z.shape
        torch.Size([50, 4, 64, 2])
    """
    batch = as_batch(batch)
    model.require_real(
        "Sampling p(z | x) by HMC or NUTS",
        "For codes the guide's q(z | x) takes its place (`elbowroom encode RUN`); its importance weights say how near "
        "to p(z | x) it is (--methods iwae).",
    )
    metric = default_metric(model.likelihood) if metric is None else metric
    check_name("method", method, METHODS)
    check_name("metric", metric, METRICS)
    for name, number, least in (("draws", draws, 4), ("chains", chains, 1), ("warmup", warmup, 1), ("block", block, 1)):
        if number < least:
            raise ElbowroomError(f"{name} is {number}, but {least} is the least.", f"Give --{name} {least} or more.")
    if not len(batch):
        raise ElbowroomError("Posteriors were asked for, but the batch is empty.", "Give one example or more.")
    kernel = transition = make_kernel(method, metric, num_steps)
    acceptance = _ACCEPTANCE if target_acceptance is None else target_acceptance
    check_target_acceptance(acceptance)
    with torch.no_grad():
        store = _Store(_start(guide, batch.rows(slice(1))).mean, len(batch), draws, chains, warmup, block)
        progress = BlockProgress(announce, "posterior", len(batch) * (warmup + draws))
        for rows in chunks(len(batch), block):
            part = batch.rows(rows)
            of_block = progress.block(len(part))
            target = posterior_target(model, part, precision=precision)
            aside = torch.Generator(part.x.device).manual_seed(0)  # the draws do not depend on the check
            proposal = _proposal(model, guide, part, aside) if jumps or check else None
            if jumps:
                transition = _with_jumps(kernel, proposal, model)
            first = start_metric(model, guide, part, metric)
            around = first if metric != "identity" else start_metric(model, guide, part, "guide")
            at_modes = metric == "gauss-newton"
            z = _starting_points(model, part, around, chains, generator, at_modes=at_modes)
            learn = _LEARN[metric](model, part)
            warm = warm_up(
                transition,
                target,
                z,
                metric=first,
                num_steps=warmup,
                target_acceptance=acceptance,
                learn=learn,
                generator=generator,
                announce=of_block,
            )
            drawn = sample(
                transition, target, warm.state, warm.tuning, draws=draws, generator=generator, announce=of_block
            )
            store.add(rows, drawn, warm)
            if check and proposal is not None:
                num = 2 * DRAWS if z.shape[-1] <= _FEW_LATENTS else DRAWS
                store.compare(disagreement(model, part, drawn.z, proposal, draws=num, generator=aside))
    settings = {
        "method": method,
        "draws": draws,
        "chains": chains,
        "warmup": warmup,
        "metric": metric,
        "target_acceptance": acceptance,
        "precision": precision if isinstance(target, PerceptronPosterior) else "full",
        **({"num_steps": kernel.num_steps} if isinstance(kernel, HMC) else {}),
        **({"jumps": True} if jumps else {}),
    }
    return store.posterior(settings, batch.index)


def _proposal(model: LatentModel, guide: Conditional, batch: Batch, generator: torch.Generator) -> Distribution | None:
    """A mixture about the modes of each posterior, and of the prior; None where there is no Laplace approximation."""
    if default_metric(model.likelihood) != "gauss-newton":
        return None
    (latent_dim,) = model.prior(None, batch.context).event_shape
    starts, defence = (8, 0.5) if latent_dim <= _FEW_LATENTS else (4, 0.1)
    try:
        return laplace_proposal(model, guide, batch, starts=starts, defence=defence, generator=generator).q
    except ElbowroomError:  # chains can do without
        return None


def _with_jumps(kernel: Kernel, proposal: Distribution | None, model: LatentModel) -> Kernel:
    if proposal is None:
        raise ElbowroomError(
            f"Jumps go to Laplace approximations of the posterior, but there are none for this {model.likelihood.name} "
            "model.",
            "Leave jumps out (--jumps on the command line).",
        )
    return Jumps(kernel, partial(draw, proposal), proposal.log_prob)


def _starting_points(
    model: LatentModel, batch: Batch, around: Metric, chains: int, generator: torch.Generator | None, *, at_modes: bool
) -> Tensor:
    """Draws from N(m, C Cᵀ) about the guide or the mode; with ``at_modes``, every second chain about a mode of its own.

    Chains that all start at one mode agree with each other even if there is a second mode. So every second chain starts
    at the mode that a search from a draw of the prior ends at, and R-hat can show that there are several.
    """
    center = around.center
    noise = torch.randn(chains, *center.shape, generator=generator, dtype=center.dtype, device=center.device)
    z = around.to_z(noise)
    prior = model.prior(None, batch.context)
    shape = () if prior.batch_shape else (len(batch),)
    if at_modes and chains > 1:
        away = noise[1::2]
        starts = torch.stack([draw(prior, shape, generator=generator).to(center) for _ in away])
        found = laplace(model, starts, batch)
        own = Metric.from_precision(found.precision.flatten(0, 1), found.mode.flatten(0, 1))
        z[1::2] = own.to_z(away.flatten(0, 1).unsqueeze(0)).view_as(away)
    return z


def make_kernel(method: Method, metric: str, num_steps: int | None) -> Kernel:
    """The kernel of that name.

    Args:
        method: "nuts" or "hmc".
        metric: the name of the metric.
        num_steps: of an HMC trajectory; unless given 4 with the metric gauss-newton, 5 with a dense one, else 10.
    Raises:
        ElbowroomError: a number of steps for NUTS.
    """
    if method == "nuts":
        if num_steps is not None:
            raise ElbowroomError(
                f"num_steps is {num_steps}, but NUTS finds the length of a trajectory by itself.",
                "Leave num_steps out, or use method='hmc'.",
            )
        return NUTS()
    if num_steps is None:  # about a quarter of a period at the step size that the warm-up usually finds
        num_steps = {"gauss-newton": 4, "dense": 5}.get(metric, 10)
    return HMC(num_steps, integrator="rotation" if metric == "gauss-newton" else "leapfrog")


#: metric -> how the warm-up improves it: (model, data) to a rule
_LEARN: dict[str, Callable[[LatentModel, Batch], Learn | None]] = {
    "gauss-newton": gauss_newton_learner,
    "diagonal": lambda model, batch: learn_diagonal,
    "dense": lambda model, batch: learn_dense,
    "guide": lambda model, batch: None,
    "identity": lambda model, batch: None,
}


class _Store:
    """Storage for the draws of all blocks, allocated before sampling begins."""

    def __init__(self, like: Tensor, size: int, draws: int, chains: int, warmup: int, block: int) -> None:
        dim = like.shape[-1]
        self._size = size
        of_one = draws * chains * (dim * like.element_size() + _INFO_BYTES)  # and as much again for the block at work
        require_memory(
            of_one * (size + min(block, size)),
            f"To keep {draws:,} draws of {chains:,} chains of {size:,} examples in {dim} dimensions",
            "Ask for fewer draws or chains, or take fewer examples at a time.",
        )
        self._z = torch.empty(draws, chains, size, dim, dtype=like.dtype)
        self._infos: list[Info] = []
        self._diagnostics: list[Diagnostics] = []
        self._tunings: list[Tuning] = []
        self._gradients = 0.0

    def add(self, rows: slice, chains: Chains, warm: Warm) -> None:
        """Store the draws of one block."""
        self._z[:, :, rows] = chains.z.cpu()
        info = Info(*(tensor.cpu() for tensor in chains.info))
        self._infos.append(info)
        self._diagnostics.append(measure(self._z[:, :, rows], info))
        self._tunings.append(warm.tuning)
        self._gradients += warm.num_gradients * chains.z.shape[2]

    def compare(self, disagreement: Tensor) -> None:
        """Note how far the draws of the last block are from weighted ones."""
        self._diagnostics[-1] = replace(self._diagnostics[-1], disagreement=disagreement)

    def posterior(self, settings: dict[str, Any], index: Tensor | None) -> Posterior:
        metrics = [tuning.metric for tuning in self._tunings]
        metric = Metric(
            torch.cat([m.center for m in metrics]).cpu(), torch.cat([m.factor for m in metrics]).cpu(), metrics[0].upper
        )
        return Posterior(
            self._z,
            Info(*(torch.cat(parts, 2) for parts in zip(*self._infos, strict=True))),
            Diagnostics.cat(self._diagnostics),
            Tuning(torch.cat([tuning.step_size for tuning in self._tunings]).cpu(), metric),
            self._gradients / self._size,
            settings,
            None if index is None else index.cpu(),
        )
