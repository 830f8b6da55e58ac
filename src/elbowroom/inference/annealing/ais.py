r"""Annealed importance sampling (AIS): estimates of log p(x) by many small steps from a known distribution.

Importance sampling goes from a proposal q₀ to the posterior in one step, and its weights vary as much as the two
differ. Annealing goes there through densities in between (:mod:`elbowroom.inference.annealing.tempering`), with a
Markov transition at each:

.. math:: z_0 \sim q_0, \qquad z_t \sim \mathcal{T}_t(\cdot \,|\, z_{t-1}), \quad
    \mathcal{T}_t \text{ leaves } f_{\beta_t} \text{ invariant}, \qquad
    w = \prod_{t=1}^T \frac{f_{\beta_t}(z_{t-1})}{f_{\beta_{t-1}}(z_{t-1})}, \qquad \mathbb{E}[w] = p(x)

The expectation is exact for any number of temperatures and for transitions of any quality, since w is an importance
weight on the space of whole paths. So the average weight is judged as in importance sampling, log p̂(x) is a lower bound
in expectation, and with T = 1 the two are the same. What the transitions and their number decide is the variance.

It is exact only as long as no transition depends on where the weighted chains have been. So step sizes are found by
a *pilot run* of other chains with another stream of random numbers (:mod:`elbowroom.inference.annealing.chains`), and
frozen before the first weighted chain is drawn. They are found either for each example, or once for all examples: an
:class:`AnnealingPlan`, found on a few real or simulated examples, also holds temperatures that follow how fast the
densities change.

Reference:
    Neal (2001), Annealed importance sampling, Statistics and Computing 11, arXiv:physics/9803008.
    Wu, Burda, Salakhutdinov & Grosse (2017), On the quantitative analysis of decoder-based generative models,
    arXiv:1611.04273.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from elbowroom.data.batch import Batch, as_batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.annealing.chains import Annealed, AnnealingPath, anneal, anneal_back, pilot, pilot_transitions
from elbowroom.inference.annealing.codes import CODE_ACCEPTANCE, code_kernel, refuse_prior_start
from elbowroom.inference.annealing.initial import Start, default_start, metric_of, rows_of, start_density, start_of
from elbowroom.inference.annealing.tempering import Schedule, TemperedTarget, adapted_schedule, inverse_temperatures
from elbowroom.inference.importance.estimate import WeightSums
from elbowroom.inference.target import Precision, posterior_target
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import draw
from elbowroom.model.latent import LatentModel
from elbowroom.numerics import chunks
from elbowroom.progress import BlockProgress, Progress
from elbowroom.samplers.hmc import HMC
from elbowroom.samplers.kernel import Kernel

__all__ = ["AIS", "AnnealingPlan", "ais", "plan"]

#: For a continuous z. The rotation is exact at β = 0, where w = C⁻¹(z − m) is standard normal. At equal cost, short
#: trajectories and more temperatures do best. The wide jitter keeps chains of nearly normal posteriors from
#: returning to where they began.
_KERNEL = HMC(num_steps=2, integrator="rotation", jitter=0.6)
_ACCEPTANCE = 0.65  # target of pilot runs, as a harmonic mean over chains
_PILOT_TEMPERATURES = 16  # of the pilot run that a schedule is adapted from


class AIS(NamedTuple):
    """Annealed importance weights, and the estimate of log p(x) of each example.

    Attributes:
        log_weights: log w, nats, float64, shape (chains, data).
        log_evidence: log of the average weight, nats, float64, shape (data,); in expectation a lower bound on log p(x).
        stderr: its standard error, nats, by the delta method, shape (data,); NaN for a single chain.
        ess: effective number of chains, between 1 and ``chains``, shape (data,).
        acceptance: average over chains and transitions, shape (data,); NaN where there is no transition.
        num_gradients: evaluations of the decoder with its gradient per example, all its weighted chains together.
        pilot_gradients: those of the pilot run, per example.
        start_gradients: those of finding the start, per example.
        log_evidence_above: of data simulated with their own z, in expectation an upper bound on log p(x), nats,
            float64, shape (data,); None for all others.
    """

    log_weights: Tensor
    log_evidence: Tensor
    stderr: Tensor
    ess: Tensor
    acceptance: Tensor
    num_gradients: float
    pilot_gradients: float
    start_gradients: float
    log_evidence_above: Tensor | None = None


@dataclass(frozen=True, slots=True)
class AnnealingPlan:
    """Temperatures and step sizes that are the same for all examples.

    Attributes:
        betas: inverse temperatures 0 = β₀ < … < β_T = 1, float64, shape (T + 1,).
        step_sizes: ε of the transitions at β₁ … β_{T−1}, shape (T − 1,).
        num_gradients: evaluations of the decoder that it took to find them.
    Raises:
        ElbowroomError: another number of step sizes than temperatures between 0 and 1, or one that is not positive.
    """

    betas: Tensor
    step_sizes: Tensor
    num_gradients: int = 0

    def __post_init__(self) -> None:
        wanted = len(self.betas) - 2
        if self.step_sizes.shape != (wanted,) or not bool((self.step_sizes > 0).all()):
            raise ElbowroomError(
                f"A plan of {len(self.betas)} inverse temperatures was given {len(self.step_sizes)} step sizes, but "
                f"needs {wanted}, all positive: one for each transition.",
                "Use plan(), or give a step size for each temperature strictly between 0 and 1.",
            )


@torch.no_grad()
def ais(
    model: LatentModel,
    batch: Batch | Tensor,
    *,
    guide: Conditional | None = None,
    start: Start | None = None,
    temperatures: int | Tensor | AnnealingPlan = 8,
    schedule: Schedule = "sigmoid",
    chains: int = 16,
    kernel: Kernel | None = None,
    pilot_chains: int = 4,
    target_acceptance: float | None = None,
    climbs: int = 2,
    precision: Precision = "full",
    exact: Tensor | None = None,
    block: int = 512,
    generator: Generator | None = None,
    announce: Progress | None = None,
) -> AIS:
    r"""Estimate log p(x) of each example by annealed importance sampling (AIS).

    .. math:: \log \hat{p}(x) = \log \frac1C \sum_{c=1}^C w_c, \qquad
        \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \big[\log p(x, z_{t-1}) - \log q_0(z_{t-1})\big]

    A weighted chain costs one evaluation at its start and those of T − 1 transitions: 1 + (T − 1) L gradients with HMC
    of L steps. Data are annealed a block at a time, so that memory does not grow with them.

    Of data that were simulated together with their z, a reverse chain from that z, the chain w₁ below, takes the place
    of a forward one, and the average is then an upper bound in expectation
    (:mod:`elbowroom.inference.annealing.bidirectional`):

    .. math:: \log \hat{p}_+(x) = \log \frac1C \Big( \overleftarrow{w}_1 + \sum_{c=2}^C w_c \Big)

    Args:
        model: p(x, z), in evaluation mode if its networks have batch normalisation or dropout.
        batch: data, ``x`` of shape (batch, \*event).
        guide: q(z | x), to start from or to find modes from; not needed.
        start: q₀: "laplace", "guide" or "prior"; a conditional; or distributions of batch shape (batch,) and event
            shape (latent,). Unless given, the best there is
            (:func:`~elbowroom.inference.annealing.initial.default_start`).
        temperatures: T; the inverse temperatures themselves, from 0 to 1, of shape (T + 1,) or (T + 1, batch); or a
            plan, which needs no pilot run.
        schedule: "sigmoid" or "linear", for a T that is a number.
        chains: C, weighted chains per example.
        kernel: the transition; it moves in the start's own metric. By default HMC of two steps, and over codes informed
            moves (:mod:`elbowroom.inference.annealing.codes`).
        pilot_chains: per example, for the pilot run that finds the step sizes.
        target_acceptance: that the pilot run aims at, as a harmonic mean over chains; by default 0.65, and 0.4 over
            codes.
        climbs: local optimisations to modes (restarts) of each posterior, for the start "laplace".
        precision: "bf16" takes the gradients that move the chains in bfloat16 where the decoder is an MLP
            (:func:`~elbowroom.inference.target.posterior_target`). Weights and acceptance stay in full
            precision, so that the estimate is as exact; long trajectories of wide decoders gain.
        exact: the z that x was simulated with, shape (batch, latent).
        block: examples at a time.
        generator: the source of randomness.
        announce: called after every transition, those of the pilot run included.
    Returns:
        Weights, the estimate, its standard error, and what it cost.
    Raises:
        ElbowroomError: a number out of range; temperatures that do not rise from 0 to 1; a start of another shape;
            a density that is not a number at a draw of the start.
    Reference:
        Neal (2001), Annealed importance sampling, arXiv:physics/9803008.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, guide, x = oracles.ppca(dim=8, latent_dim=2, seed=0)
        >>> found = ais(model, x, guide=guide, generator=torch.Generator().manual_seed(0))
        >>> bool(((found.log_evidence - model.log_evidence(x)).abs() < 5 * found.stderr + 1e-9).all())
        True
    """
    batch = as_batch(batch)
    frozen, given = None, temperatures
    if isinstance(given, AnnealingPlan):
        frozen, given = given, given.betas
    betas = inverse_temperatures(given, schedule, len(batch)).to(batch.x.device)
    start = default_start(model, guide) if start is None else start
    transitions = (len(betas) - 2) * (1 if exact is None else 2)
    transitions += pilot_transitions(len(betas) - 1) if frozen is None else 0
    progress = BlockProgress(announce, "annealing", len(batch) * transitions)
    aim = _aim(model, target_acceptance)
    settings = _Settings(chains, pilot_chains, kernel, aim, climbs, precision, generator)
    _check(batch, settings, block, exact)
    if exact is not None and model.latent_support == "codes":
        refuse_prior_start(model, guide, start)
    parts = []
    for rows in chunks(len(batch), block):
        part, own_start = batch.rows(rows), start
        if isinstance(start, Distribution) and start.batch_shape == (len(batch),):
            own_start = rows_of(start, rows)
        z = None if exact is None else exact[rows]
        announce_step = progress.block(len(part))
        parts.append(_anneal_block(model, guide, part, own_start, betas[:, rows], frozen, z, settings, announce_step))
    log_weights = torch.cat([part.forward.log_weights for part in parts], 1)
    estimate = WeightSums.empty(len(batch), log_weights.device).add(log_weights).estimate()
    acceptance = torch.cat([part.forward.acceptance for part in parts])
    gradients, pilots, starts = (
        sum(numbers) / len(batch)
        for numbers in zip(*((p.forward.num_gradients, p.pilot, p.start) for p in parts), strict=True)
    )
    above = None
    if exact is not None:
        back = torch.cat([part.back.log_weights for part in parts if part.back is not None], 1)
        mixed = torch.cat([back, log_weights[len(back) :]])
        above = WeightSums.empty(len(batch), log_weights.device).add(mixed).estimate().log_evidence
    return AIS(log_weights, *estimate, acceptance, gradients, pilots, starts, above)


@torch.no_grad()
def plan(
    model: LatentModel,
    batch: Batch | Tensor,
    *,
    guide: Conditional | None = None,
    start: Start | None = None,
    temperatures: int = 8,
    schedule: Schedule | Literal["adapted"] = "adapted",
    kernel: Kernel | None = None,
    pilot_chains: int = 4,
    target_acceptance: float | None = None,
    climbs: int = 2,
    precision: Precision = "full",
    generator: Generator | None = None,
) -> AnnealingPlan:
    r"""Find temperatures and step sizes on some examples, to be used on any.

    The adapted schedule makes every interval contribute alike. In a slow schedule the log weight's variance is about
    :math:`\sum_t (\beta_t - \beta_{t-1})^2 v(\beta_t)` with v the variance of log p(x, z) − log q₀(z) under f_β, which
    for T intervals is least if

    .. math:: \int_{\beta_{t-1}}^{\beta_t} \sqrt{v(\beta)} \, d\beta = \frac1T \int_0^1 \sqrt{v(\beta)} \, d\beta

    The square root is averaged over the data, so that a few with heavy tails do not decide for all.

    Args:
        model: p(x, z), in evaluation mode.
        batch: examples; 64 are enough.
        guide: as for :func:`ais`.
        start: as for :func:`ais`; a name, or distributions for these examples.
        temperatures: T.
        schedule: "adapted", "sigmoid" or "linear".
        kernel: the transition that the step sizes are for; by default that of :func:`ais`.
        pilot_chains: per example.
        target_acceptance: that the step sizes aim at; by default that of :func:`ais`.
        climbs: as for :func:`ais`.
        precision: as for :func:`ais`.
        generator: the source of randomness.
    Raises:
        ElbowroomError: as for :func:`ais`.
    Reference:
        Gelman & Meng (1998), Simulating normalizing constants, Statistical Science 13, section 4.
        Grosse, Maddison & Salakhutdinov (2013), Annealing between distributions by averaging moments, NeurIPS.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, guide, x = oracles.ppca(dim=8, latent_dim=2, seed=0)
        >>> found = plan(model, x, guide=guide, start="guide", temperatures=4)
        >>> found.betas.shape, found.step_sizes.shape
        (torch.Size([5]), torch.Size([3]))
    """
    batch = as_batch(batch)
    adapted = schedule == "adapted" and temperatures > 1
    first: Schedule = "sigmoid" if schedule == "adapted" else schedule
    rough = inverse_temperatures(max(_PILOT_TEMPERATURES, temperatures) if adapted else temperatures, first, 1)[:, 0]
    if temperatures == 1:
        return AnnealingPlan(rough, rough[:0])
    start = default_start(model, guide) if start is None else start
    aim = _aim(model, target_acceptance)
    settings = _Settings(1, pilot_chains, kernel, aim, climbs, precision, generator)
    _check(batch, settings, 1, None)
    q, _ = start_of(model, guide, batch, start, climbs=climbs, generator=generator)
    z = _draw(q, pilot_chains, len(batch), generator)
    betas = rough.to(z).unsqueeze(1).expand(-1, len(batch))
    bridge = TemperedTarget(start_density(q), posterior_target(model, batch, precision=precision), betas[-1])
    found = pilot(
        bridge, betas, z, metric_of(q, z), kernel=_kernel_of(model, q, kernel), target_acceptance=aim,
        shared=True, first_step=_first_step(model), generator=generator,
    )  # fmt: skip
    step_sizes = found.step_sizes[:, 0].double()
    if not adapted:
        return AnnealingPlan(rough, step_sizes, found.num_gradients)
    chosen = adapted_schedule(rough[1:-1], found.spread.mean(1), temperatures)
    return AnnealingPlan(chosen, _interpolated(chosen[1:-1], rough[1:-1], step_sizes), found.num_gradients)


class _Settings(NamedTuple):
    """The settings of one call, the same for all blocks."""

    chains: int
    pilot_chains: int
    kernel: Kernel | None
    target_acceptance: float
    climbs: int
    precision: Precision
    generator: Generator | None


class _Block(NamedTuple):
    """The result of one block, with the gradients that its pilot run and its start took, all examples together."""

    forward: Annealed
    back: Annealed | None
    pilot: float
    start: float


def _anneal_block(
    model: LatentModel,
    guide: Conditional | None,
    part: Batch,
    start: Start,
    betas: Tensor,
    frozen: AnnealingPlan | None,
    exact: Tensor | None,
    settings: _Settings,
    announce: Progress,
) -> _Block:
    chains, pilot_chains, given, target_acceptance, climbs, precision, generator = settings
    # a draw in ten from the prior is a safety that importance sampling needs, and chains that move do not
    defence = 0.1 if len(betas) == 2 else 0.0
    q, found_by = start_of(model, guide, part, start, climbs=climbs, defence=defence, generator=generator)
    if exact is not None and exact.shape[1:] != q.event_shape:
        raise ElbowroomError(
            f"exact has {exact.shape[1]} latents, but the model has {q.event_shape[0]}.",
            "Give the z that this model drew.",
        )
    kernel = _kernel_of(model, q, given)
    bridge = TemperedTarget(start_density(q), posterior_target(model, part, precision=precision), betas[-1])
    z, spent = _draw(q, chains, len(part), generator), 0
    betas, metric = betas.to(z.dtype), metric_of(q, z)  # weights and transitions have to mean the same densities
    if frozen is not None:
        step_sizes = frozen.step_sizes.to(z).unsqueeze(1).expand(-1, len(part))
    elif len(betas) == 2:  # importance sampling: no transition, nothing to find, and no random number spent on it
        step_sizes = betas[:0]
    else:
        other = _other_stream(generator, betas.device)
        first = _draw(q, pilot_chains, len(part), other)
        found = pilot(
            bridge,
            betas,
            first,
            metric,
            kernel=kernel,
            target_acceptance=target_acceptance,
            first_step=_first_step(model),
            generator=other,
            announce=announce,
        )
        step_sizes, spent = found.step_sizes, found.num_gradients
    path = AnnealingPath(betas, step_sizes, metric)
    forward = anneal(bridge, path, z, kernel=kernel, generator=generator, announce=announce)
    back = None
    if exact is not None:
        back = anneal_back(
            bridge, path, exact.to(z).unsqueeze(0), kernel=kernel, generator=generator, announce=announce
        )
    return _Block(forward, back, spent, found_by * len(part))


def _kernel_of(model: LatentModel, q: Distribution, given: Kernel | None) -> Kernel:
    if model.latent_support == "codes":
        return code_kernel(model, q, given)
    return _KERNEL if given is None else given


def _aim(model: LatentModel, given: float | None) -> float:
    if given is not None:
        return given
    return CODE_ACCEPTANCE if model.latent_support == "codes" else _ACCEPTANCE


def _first_step(model: LatentModel) -> float | None:
    """Over codes a pilot run begins with the longest step, with which a draw of the start is accepted."""
    return 1.0 if model.latent_support == "codes" else None


def _interpolated(at: Tensor, known_at: Tensor, step_sizes: Tensor) -> Tensor:
    """Step sizes at other temperatures: log ε is taken as piecewise linear in β, and constant beyond the ends."""
    logs = np.interp(at.numpy(), known_at.numpy(), step_sizes.log().cpu().numpy())
    return torch.as_tensor(np.exp(logs)).to(step_sizes)


def _draw(q: Distribution, chains: int, num_data: int, generator: Generator | None) -> Tensor:
    """Shape (chains, data, latent)."""
    return draw(q, (chains,) if q.batch_shape else (chains, num_data), generator=generator)


def _other_stream(generator: Generator | None, device: torch.device) -> Generator:
    """A generator whose draws are independent of those of the weighted chains."""
    where = device if generator is None else generator.device
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device=where))
    return Generator(where).manual_seed(seed)


def _check(batch: Batch, settings: _Settings, block: int, exact: Tensor | None) -> None:
    if not len(batch):
        raise ElbowroomError("The evidence was asked for, but the batch is empty.", "Give one example or more.")
    if exact is not None and (exact.dim() != 2 or len(exact) != len(batch)):
        raise ElbowroomError(
            f"exact has shape {tuple(exact.shape)}, but {len(batch)} examples were simulated with one z each.",
            "Give the z of model.sample, shape (batch, latent).",
        )
    numbers = {
        "chains": settings.chains, "pilot_chains": settings.pilot_chains, "climbs": settings.climbs, "block": block,
    }  # fmt: skip
    for name, number in numbers.items():
        if number < 1:
            raise ElbowroomError(f"{name} is {number}, but 1 is the least.", f"Give {name}=1 or more.")
    if not 0 < settings.target_acceptance < 1:
        raise ElbowroomError(
            f"The target acceptance is {settings.target_acceptance}, but should lie between 0 and 1.",
            "0.65 suits most posteriors.",
        )
