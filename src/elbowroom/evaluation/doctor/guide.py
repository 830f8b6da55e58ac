r"""Checks of the guide: its amortisation gap, and whether q(z | x) is as wide as the posterior.

**Amortisation.** Refit q for each example, with the decoder unchanged. What the ELBO gains is the amortisation gap,
the loss of the encoder (:mod:`elbowroom.inference.gaussian.optimal_gaussian`). An encoder without activations is affine
in x, whatever its size, and this can be measured:

.. math:: \mu\big(t x + (1 - t) x'\big) = t \, \mu(x) + (1 - t) \, \mu(x').

Such an encoder is nearly always a mistake, since the posterior means of a nonlinear decoder are not affine in x.

**Calibration.** Draw z* from the prior and x from p(x | z*). Then z* is a draw from p(z | x), and if q is the
posterior, the rank of z* among L draws of q(z | x) is uniform on 0, …, L in every dimension. If q is too narrow, z* is
too often the least or the largest; if the mean of q is off, z* is too often on one side. This needs no density, no ELBO
and no other posterior. But the data are simulated from the model, and some may come from holes of the prior, where the
encoder was never trained. So the same question is asked of held-out data, whose posteriors are taken from weighted
draws (:mod:`elbowroom.inference.importance.laplace_proposal`).

A guide whose family does not contain the posterior is never exactly calibrated, and with enough draws every test says
so: what matters is the size of the error. A fully factorised normal that maximises the ELBO is about as narrow as the
posterior of one dimension *given* the others, and the more they depend on each other, the narrower that is.

Reference:
    Cremer, Li & Duvenaud (2018), Inference suboptimality in variational autoencoders, arXiv:1801.03558.
    Talts et al. (2018), Validating Bayesian inference algorithms with simulation-based calibration, arXiv:1804.06788.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.evaluation.doctor.findings import Evidence, Finding, Severity
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.evaluation.results import sign_remark
from elbowroom.evaluation.thresholds import ACTIVE_VARIANCE, CERTAIN_Z, MAIN_SHARE
from elbowroom.inference.gaussian.optimal_gaussian import optimal_gaussian
from elbowroom.inference.importance.laplace_proposal import laplace_evidence, laplace_proposal
from elbowroom.inference.target import default_metric
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import draw, mean
from elbowroom.model.guides import DiagonalNormal, FullNormal, guide_distribution
from elbowroom.model.latent import LatentModel, evaluation_mode
from elbowroom.model.sequential_normal import ResidualNormal, SequentialNormal
from elbowroom.numerics import chunks, mean_and_stderr

__all__ = ["Ranks", "amortisation", "calibration", "is_affine", "simulated_ranks", "weighted_coverage"]

_REFITTED = 100  # examples at most; with a convolutional decoder they take half a minute
_AFFINE = 1e-4  # of the spread of the means: a single ReLU bends them by a tenth of it
_ROUNDED = 64  # units in the last place of the largest mean: what rounding can change
_LOST_AFFINE = 0.5  # nats per example that are too much for an affine encoder: an activation costs nothing
_LOST = 3.0  # nats per example that are too much for any other, if they are also most of the elbow room

_LEAST = 200  # simulated examples: ten in each bin
_DRAWS = 199  # L: 200 ranks divide evenly into the bins
_BINS = 20
_CENTRAL = 0.8  # probability of the central intervals
_OFF = 0.2  # error of the coverage worth a warning, 60% instead of 80%: mean-field guides of good models have 65%
_FAR_OFF = 0.3  # error of the coverage that is severe
_BIASED = 0.2  # share of z* on one side of q's median above a half: q's mean is off by half a standard deviation
_BATCH = 250
_WEIGHTED = 200  # weighted draws of the posterior of each example
_WEIGHTED_DATA = 100  # examples with weighted draws


def amortisation(inputs: DoctorInput) -> list[Finding]:
    r"""The amortisation gap: what the encoder loses against a q fitted to each held-out example by itself.

    .. math:: \mathbb{E}_n \big(\mathcal{L}[q^*_n] - \mathcal{L}[q(\cdot | x_n)]\big) \ge 0

    Args:
        inputs: a trained model and its data.
    Returns:
        One finding: severe for an affine encoder that loses half a nat or more; a warning for any other that loses 3
        nats and half of the elbow room; otherwise a note. None without a guide.
    Raises:
        ElbowroomError: no held-out data; a guide that is not normal; latents that are codes.
    Reference:
        Cremer, Li & Duvenaud (2018), Inference suboptimality in variational autoencoders, arXiv:1801.03558.
    """
    guide, model = inputs.learned_guide, inputs.model
    model.require_real("The amortisation gap against a normal q", "For codes, see the check sharpness.")
    if guide is None:
        return []
    batch, generator = (
        inputs.batch(inputs.held_out(), min(inputs.points, _REFITTED)),
        inputs.generator("amortisation"),
    )
    with evaluation_mode(model, guide):
        found = optimal_gaussian(model, guide, batch, family="guide", generator=generator)
        lost = found.elbo - found.initial_elbo
        room = None  # KL(q ‖ p(z | x)), which exists for a likelihood that is not normalised too
        if default_metric(model.likelihood) == "gauss-newton":
            room = laplace_evidence(model, guide, batch, k=200, generator=generator).log_evidence - found.initial_elbo
        affine = is_affine(guide, batch)
    gap, stderr = mean_and_stderr(lost)
    evidence = [Evidence("lost to the encoder (amortisation gap), L[q*] − L[q]", gap, stderr)]
    share = None
    if room is not None:
        whole, error = mean_and_stderr(room)
        evidence.append(Evidence("elbow room, KL(q ‖ p(z | x))", whole, error))
        if not sign_remark("elbow room", whole, error):  # of a room that may be nothing there is no share
            share = max(gap, 0.0) / whole
            evidence.append(Evidence("share of the elbow room lost to the encoder", share, None, "share"))
    evidence.append(
        Evidence(
            "examples for which the search for q* converged", float(found.converged.double().mean()), None, "share"
        )
    )
    severity, title, remedy = _amortised(gap, gap > CERTAIN_Z * stderr, share, affine)
    return [Finding("amortisation", severity, title, tuple(evidence), _AMORTISED, remedy)]


_AMORTISED = (
    "q was refitted to each held-out example by itself, within the encoder's family and with the decoder unchanged. "
    "What the bound gains is the amortisation gap: the price of one encoder for all examples. A guide that was trained "
    "for another bound than the ELBO, such as IWAE's, has such a gap by design."
)


def _amortised(gap: float, sure: bool, share: float | None, affine: bool) -> tuple[Severity, str, str]:
    """Severity, title and remedy."""
    if affine and sure and gap >= _LOST_AFFINE:
        return (
            "severe",
            f"The encoder is linear, which costs {gap:.1f} nats per example.",
            "Add an activation between its layers: --model.encoder.activation relu. In this model, a q that is "
            "refitted to each example recovers the loss.",
        )
    if not affine and sure and gap >= _LOST and (share is None or share >= MAIN_SHARE):
        return (
            "warning",
            f"The encoder loses {gap:.1f} nats per example against a q fitted to each example by itself.",
            "Train longer, or with a larger encoder: --model.encoder.hidden 500,500.",
        )
    kind = "linear encoder" if affine else "encoder"
    return (
        "note",
        f"The {kind} loses {max(gap, 0):.2f} nats per example against a q fitted to each example by itself.",
        "Nothing to do.",
    )


@torch.no_grad()
def is_affine(guide: Conditional, batch: Batch) -> bool:
    r"""Whether the guide's mean is an affine function of its network's input, measured between pairs of examples.

    .. math:: \max_t |\mu(t x + (1 - t) x') - t \mu(x) - (1 - t) \mu(x')| \le 10^{-4} \, \mathrm{sd}(\mu),
        \qquad t \in \{\tfrac14, \tfrac12, 2\}

    Args:
        guide: q(z | x), in evaluation mode.
        batch: at least two examples.
    Returns:
        False also for a mean that is the same for all examples, which shows nothing.
    Example:
        >>> from elbowroom.model import oracles
        >>> _, guide, x = oracles.ppca(dim=8, latent_dim=2, seed=0)
        >>> is_affine(guide, Batch(x))
        True
    """
    seen = batch.x
    if type(guide) in (DiagonalNormal, FullNormal):
        assert isinstance(guide, DiagonalNormal | FullNormal)
        seen = seen if guide.transform is None else guide.transform(seen)
        guide = type(guide)(guide.network, guide.latent_dim)  # the transform is no part of the encoder
    if not seen.is_floating_point() or len(seen) < 2:
        return False

    def means(x: Tensor, context: Tensor | None) -> Tensor:
        return mean(guide(x, context)).double()

    at = means(seen, batch.context)
    spread = float(at.std(0).max())
    rounding = _ROUNDED * torch.finfo(seen.dtype).eps * float(at.abs().max())
    for t in (0.25, 0.5, 2.0):
        between = torch.lerp(seen.roll(1, 0), seen, t)
        context = None if batch.context is None else torch.lerp(batch.context.roll(1, 0), batch.context, t)
        if (
            not float((means(between, context) - torch.lerp(at.roll(1, 0), at, t)).abs().max())
            <= _AFFINE * spread + rounding
        ):
            return False
    return spread > rounding


class Ranks(NamedTuple):
    """Ranks of the z that generated each example, among draws of the guide for that example.

    Attributes:
        ranks: 0, …, L, int64, shape (n, latent).
        errors: (z* − E_q z) / sd_q, float64, shape (n, latent); of a hierarchy's guide, with the draws' moments.
        active: whether the posterior mean of a latent varies with x, bool, shape (latent,).
        draws: L.
    """

    ranks: Tensor
    errors: Tensor
    active: Tensor
    draws: int

    def coverage(self, level: float) -> Tensor:
        """1 where z* lies in the central interval of q, else 0; shape (n, latent). A right q has mean ``level``."""
        tail = round((1 - level) / 2 * (self.draws + 1))
        return ((self.ranks >= tail) & (self.ranks <= self.draws - tail)).double()

    def p_values(self) -> Tensor:
        """p-values of Pearson's χ² test of uniform ranks, for each latent, shape (latent,)."""
        n, dim = self.ranks.shape
        bins = self.ranks * _BINS // (self.draws + 1)
        counts = torch.nn.functional.one_hot(bins, _BINS).sum(0).double()  # (latent, bins)
        statistic = (counts - n / _BINS).square().sum(1) * _BINS / n
        p: Tensor = torch.special.gammaincc(torch.full((dim,), (_BINS - 1) / 2).to(statistic), statistic / 2)
        return p


@torch.no_grad()
def simulated_ranks(
    model: LatentModel, guide: Conditional, like: Batch, *, draws: int = _DRAWS, generator: torch.Generator
) -> Ranks:
    """Simulates z* ~ p(z) and x ~ p(x | z*), and ranks z* among draws of q(z | x).

    Args:
        model: p(x, z), in evaluation mode.
        guide: q(z | x).
        like: as many examples are simulated, with the same contexts and the same missing elements.
        draws: L.
        generator: the source of randomness.
    Reference:
        Talts et al. (2018), algorithm 1, arXiv:1804.06788.
    """
    ranks, errors, means = [], [], []
    for rows in chunks(len(like), _BATCH):
        part = like.rows(rows)
        z, x, _ = model.sample(len(part), context=part.context, generator=generator)
        x = x if part.mask is None else torch.where(part.mask, x, part.x)
        q = guide_distribution(guide, Batch(x, part.index, part.context, part.mask))
        drawn = draw(q, (draws,), generator=generator)
        ranks.append((drawn < z).sum(0))
        grouped = isinstance(q, SequentialNormal | ResidualNormal)  # their stddev is that given the groups before
        centre, spread = (drawn.mean(0), drawn.std(0)) if grouped else (q.mean, q.stddev)
        errors.append(((z - centre) / spread).double())
        means.append(q.mean)
    return Ranks(torch.cat(ranks), torch.cat(errors), torch.cat(means).var(0) > ACTIVE_VARIANCE, draws)


@torch.no_grad()
def weighted_coverage(
    model: LatentModel, guide: Conditional, batch: Batch, *, level: float = _CENTRAL, generator: torch.Generator
) -> Tensor:
    r"""The posterior probability of the guide's central intervals, by weighted draws of the posterior.

    .. math:: \Pr(z_j \in I_j(x) \,|\, x) \approx \sum_k \tilde w_k 1\{z_{kj} \in I_j(x)\}

    Args:
        model: p(x, z), in evaluation mode.
        guide: q(z | x).
        batch: examples.
        level: probability of the intervals under q.
        generator: the source of randomness.
    Returns:
        float64, shape (batch, latent).
    Raises:
        ElbowroomError: a likelihood without Fisher information.
    """
    proposal = laplace_proposal(model, guide, batch, starts=2, generator=generator).q
    z = draw(proposal, (_WEIGHTED,), generator=generator)
    log_w = model.log_joint(batch.x, z, context=batch.context, mask=batch.mask) - proposal.log_prob(z)
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=z.dtype, device=z.device)
    low, high = draw(guide_distribution(guide, batch), (999,), generator=generator).quantile(ends, 0)
    inside = (low <= z) & (z <= high)
    return torch.einsum("kn,knj->nj", log_w.double().softmax(0), inside.double())


def calibration(inputs: DoctorInput) -> list[Finding]:
    r"""Calibration of the guide: simulation-based on the model's own data, by weighted draws on held-out data.

    .. math:: z^* \sim p(z), \; x \sim p(x | z^*): \qquad \Pr(z^*_j \in I_j(x)) = 0.8

    with I the central 80% interval of q(z_j | x). Averages are over the active latents: the others equal the prior for
    every x, are always calibrated, and would hide faults.

    Args:
        inputs: a trained model and its data.
    Returns:
        One finding: a warning where the coverage is off by 0.2, or more than 70% of z* lie on one side of q's median
        in some dimension; severe where it is off by 0.3. None without a guide or without an active latent.
    Raises:
        ElbowroomError: no held-out data; latents that are codes.
    Reference:
        Talts et al. (2018), Validating Bayesian inference algorithms with simulation-based calibration,
        arXiv:1804.06788.
    """
    guide, model = inputs.learned_guide, inputs.model
    model.require_real("The calibration of intervals", "For codes, see the check sharpness.")
    if guide is None:
        return []
    batch, generator = inputs.batch(inputs.held_out()), inputs.generator("calibration")
    with evaluation_mode(model, guide):
        rows = torch.arange(max(inputs.points, _LEAST), device=batch.x.device) % len(batch)
        found = simulated_ranks(model, guide, batch.rows(rows), generator=generator)
        if not bool(found.active.any()):
            return []
        real = None
        if default_metric(model.likelihood) == "gauss-newton":
            few = batch.rows(slice(_WEIGHTED_DATA))
            real = weighted_coverage(model, guide, few, generator=generator)[:, found.active].mean(1)
    inside = found.coverage(_CENTRAL)[:, found.active]
    coverage, stderr = mean_and_stderr(inside.mean(1))
    spread = float(found.errors[:, found.active].square().mean().sqrt())
    above = (found.ranks[:, found.active] > found.draws // 2).double().mean(0)
    side = float(above[(above - 0.5).abs().argmax()])
    p_value = min(1.0, float(found.p_values()[found.active].min()) * int(found.active.sum()))  # Bonferroni's
    evidence = [Evidence("z* in the central 80% of q, simulated data", coverage, stderr, "share")]
    if real is not None:
        evidence.append(Evidence("posterior in the central 80% of q, held-out data", *mean_and_stderr(real), "share"))
    evidence += [
        Evidence("worst latent: z* in the central 80% of q, simulated data", *_worst(inside), "share"),
        Evidence("z* above q's median, most one-sided latent", side, 0.5 / math.sqrt(len(inside)), "share"),
        Evidence("distance of z* from q's mean, root mean square", spread, None, "q's standard deviations"),
        Evidence("χ² test of uniform ranks", p_value, None, "p-value"),
    ]
    # an error on simulated data alone can come from holes of the prior, so that it counts only if it is on both
    seen = [coverage] if real is None else [coverage, float(real.mean())]
    error = min((value - _CENTRAL for value in seen), key=abs)
    sure = abs(coverage - _CENTRAL) > CERTAIN_Z * stderr
    one_sided = abs(side - 0.5) > max(_BIASED, CERTAIN_Z * 0.5 / math.sqrt(len(inside)))
    severity, title, remedy = _calibrated(error if sure else 0.0, coverage, one_sided, p_value)
    return [Finding("calibration", severity, title, tuple(evidence), _CALIBRATED, remedy)]


_CALIBRATED = (
    "z* was drawn from the prior and x from p(x | z*), so that z* is an exact draw from the posterior of x. If q(z | "
    "x) is right, its central 80% interval contains z* in 80% of cases. These x are simulated from the model, some "
    "from holes of its prior; for held-out data the posterior was taken from weighted draws instead. A fully "
    "factorised q that maximises the ELBO is narrower than the posterior wherever latents depend on each other given "
    "x: about 65% is common."
)


def _worst(inside: Tensor) -> tuple[float, float]:
    """The coverage of the latent where it is farthest off, with its standard error."""
    of_each = inside.mean(0)
    return mean_and_stderr(inside[:, int((of_each - _CENTRAL).abs().argmax())])


def _calibrated(error: float, coverage: float, one_sided: bool, p_value: float) -> tuple[Severity, str, str]:
    """Severity, title and remedy."""
    holds = f"its central 80% interval contains the true z in {coverage:.0%} of cases"
    if abs(error) >= _OFF:
        severity: Severity = "severe" if abs(error) >= _FAR_OFF else "warning"
        if error < 0:
            return severity, f"The guide is over-confident: {holds}.", _WIDER
        return (
            severity,
            f"The guide is under-confident: {holds}.",
            "Train longer: a guide that is trained by the ELBO is rarely too wide.",
        )
    if one_sided:
        return (
            "warning",
            "The guide's means are off to one side (biased).",
            "Train the encoder longer, or give it more capacity.",
        )
    if p_value > 1e-4:
        return "note", f"The guide is calibrated as far as can be seen: {holds}.", "Nothing to do."
    word = "over" if coverage < _CENTRAL else "under"
    return "note", f"The guide is a little {word}-confident: {holds}.", _WIDER


_WIDER = (
    "If you need uncertainties, draw from the posterior itself: `elbowroom encode RUN --posterior hmc`. A guide with "
    "full covariance, --model.guide full, comes closer to it."
)
