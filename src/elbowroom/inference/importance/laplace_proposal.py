r"""log p(x) without a guide: importance sampling from Laplace approximations around several modes.

A model that was trained without an encoder has no guide to draw from; where there is one, an estimate from its draws
also depends on how good the guide is. The joint density alone makes a better proposal. For each example, find modes
:math:`\hat z_1, \ldots, \hat z_S` of p(x, z) by local optimisation from several starts
(:mod:`elbowroom.inference.gaussian.laplace`), drop duplicates, and draw from

.. math:: q_x(z) = \epsilon \, N(z \,|\, m, V)
    + (1 - \epsilon) \sum_s \pi_s \, N(z \,|\, \hat z_s, \tau^2 H_s^{-1}), \qquad
    \pi_s \propto \sqrt{e_s}, \qquad
    \log e_s = \log p(x, \hat z_s) + \tfrac12 \log \big| 2 \pi H_s^{-1} \big|

where e_s is Laplace's approximation of what mode s adds to p(x). Most draws of the component of the
largest e_s come from a normal of larger ELBO that is found from there
(:mod:`elbowroom.inference.importance.refinement`): its centre is nearer the posterior's mean, which multiplies the
effective sample size by several. Four more measures are for safety and cost little:

- Widening, τ² > 1. Weights p / q have no bound where q's tails are lighter than the posterior's, and posteriors are
  not normal. If one were, the weights' mean square would be :math:`(\tau^2 / \sqrt{2 \tau^2 - 1})^D` times their
  squared mean, which grows without end in D for a fixed τ², so that τ² − 1 shrinks like D^{-1/2} beyond 20 latents.
- The square root. e_s is a rough estimate, and a mode with too few draws harms an average more than one with too many.
- Several starts: the guide's mean or the prior's, and draws of the prior in pairs that are reflections of each other,
  z and 2 E[z] − z, because networks often leave signs undetermined.
- A share ε of draws from a defensive component that does not depend on the modes: a normal with the prior's mean m and
  variances V. Under a normal prior no weight exceeds p(x | z) / ε. With a few latents it reaches modes that the local
  optimisations have missed, and the effective sample size then shows it.

Whatever the modes, the estimate is unbiased for p(x), since q covers all of space and is made before the draws. With
many latents, a mode that no local optimisation has found stays unseen, in the weights too. So this estimate as well is
a lower bound in expectation, and its effective sample size can be misleading. Under a prior with heavier tails than a
normal's the weights have no variance, and the standard error is too small.

Reference:
    Geweke (1989), Bayesian inference in econometric models using Monte Carlo integration, Econometrica 57.
    Hesterberg (1995), Weighted average importance sampling and defensive mixture distributions, Technometrics 37.
    Owen & Zhou (2000), Safe and effective importance sampling, JASA 95.
    Tierney & Kadane (1986), Accurate approximations for posterior moments and marginal densities, JASA 81.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, MultivariateNormal

from elbowroom.data.batch import Batch, as_batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.gaussian.curvature import covariance_factor
from elbowroom.inference.gaussian.laplace import Laplace, laplace
from elbowroom.inference.importance.estimate import importance_estimate_from
from elbowroom.inference.importance.refinement import Refined, refine
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import draw, mean
from elbowroom.model.guides import guide_distribution
from elbowroom.model.latent import LatentModel
from elbowroom.model.noise import NoiseSource
from elbowroom.numerics import RowSlots

__all__ = ["LaplaceEvidence", "LaplaceProposal", "default_widening", "laplace_evidence", "laplace_proposal"]

_WEIGHT_EXPONENT = 0.5  # of e_s in π_s
_TOLERANCE = 0.05  # nats; a proposal gains nothing from a mode that is known more precisely
_REFINED_SHARE = 0.75  # of the draws about the highest mode; the refined normal may be too narrow to take all
_SAME_MODE = 1.0  # standard deviations: modes that are nearer to each other than this count as one


class LaplaceProposal(NamedTuple):
    """One proposal for each example, and how it was found.

    Attributes:
        q: batch shape (batch,), event shape (latent,); a mixture of normals.
        num_modes: that are different from each other, int64, shape (batch,).
        converged: whether the local optimisation for the component with the largest weight converged, bool, shape
            (batch,). A component about a point that is not a mode is valid too, but less efficient.
        evaluations: of the decoder, with the gradient, float64, shape (batch,): a Newton step counts one for its trial,
            one for the gradient, and latent / 2 for the Gauss–Newton curvature.
    """

    q: Distribution
    num_modes: Tensor
    converged: Tensor
    evaluations: Tensor


class LaplaceEvidence(NamedTuple):
    """An estimate of the evidence of each example; all of shape (batch,).

    Attributes:
        log_evidence: log of the average weight, nats, float64; in expectation a lower bound on log p(x).
        stderr: its standard error, nats, by the delta method, float64; NaN for a single draw.
        ess: effective number of draws, between 1 and k, float64.
        pareto_k: k̂ of the weights' tail, float64 (:mod:`elbowroom.inference.importance.pareto`).
        num_modes: as in :class:`LaplaceProposal`.
        converged: as in :class:`LaplaceProposal`.
        evaluations: as in :class:`LaplaceProposal`, and one more for each draw.
    """

    log_evidence: Tensor
    stderr: Tensor
    ess: Tensor
    pareto_k: Tensor
    num_modes: Tensor
    converged: Tensor
    evaluations: Tensor


def laplace_evidence(
    model: LatentModel,
    guide: Conditional | None,
    batch: Batch | Tensor,
    *,
    k: int = 100,
    starts: int = 4,
    slots: RowSlots | None = None,
    chunk_elements: int = 2**20,
    generator: NoiseSource | None = None,
) -> LaplaceEvidence:
    r"""Estimate log p(x) of each example from ``k`` draws of a mixture of Laplace approximations.

    .. math:: \log \hat{p}(x) = \log \frac{1}{k} \sum_{i=1}^k \frac{p(x, z_i)}{q_x(z_i)}, \qquad z_i \sim q_x

    Args:
        model: p(x, z), in evaluation mode if its networks have batch normalisation or dropout.
        guide: q(z | x), only its mean is used, as the first start; None where there is no guide.
        batch: data, ``x`` of shape (batch, \*event).
        k: draws per example.
        starts: as in :func:`laplace_proposal`.
        slots: as in :func:`laplace_proposal`.
        chunk_elements: of the draws, as in :func:`~elbowroom.inference.importance.estimate.importance_estimate`.
        generator: the source of randomness, of starts and of draws.
    Returns:
        Estimate, standard error, effective sample size, and how the proposals were found.
    Raises:
        ElbowroomError: a number below 1; a likelihood without Fisher information; log p(x, z) that is not finite at
            the prior's mean.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, _, x = oracles.ppca(dim=8, latent_dim=2, seed=0)
        >>> found = laplace_evidence(model, None, x, k=100, generator=torch.Generator().manual_seed(0))
        >>> bool(((found.log_evidence - model.log_evidence(x)).abs() < 5 * found.stderr).all())
        True
    """
    batch = as_batch(batch)
    if k < 1:
        raise ElbowroomError(f"k is {k}, but an average needs at least one draw per example.", "Give --k 1 or more.")
    proposal = laplace_proposal(model, guide, batch, starts=starts, slots=slots, generator=generator)
    estimate = importance_estimate_from(
        model, proposal.q, batch, num_samples=k, chunk_elements=chunk_elements, generator=generator
    )
    return LaplaceEvidence(*estimate, proposal.num_modes, proposal.converged, proposal.evaluations + k)


@torch.no_grad()
def laplace_proposal(
    model: LatentModel,
    guide: Conditional | None,
    batch: Batch | Tensor,
    *,
    starts: int = 4,
    widening: float | None = None,
    defence: float = 0.1,
    refinements: int = 2,
    tolerance: float = _TOLERANCE,
    slots: RowSlots | None = None,
    generator: NoiseSource | None = None,
) -> LaplaceProposal:
    r"""A mixture of widened Laplace approximations of each posterior, to draw from.

    Args:
        model: p(x, z), in evaluation mode if its networks have batch normalisation or dropout.
        guide: q(z | x), for the first start; None starts at the prior's mean.
        batch: data, ``x`` of shape (batch, \*event).
        starts: S, local optimisations to modes (restarts) per example.
        widening: τ², factor on the covariances; :func:`default_widening` unless given.
        defence: ε, share of the draws that have the prior's mean and variances.
        refinements: steps from the highest mode towards the normal of the largest ELBO.
        tolerance: nats that a further step may still gain, as in :func:`~elbowroom.inference.gaussian.laplace.laplace`.
        slots: where given, an example's proposal does not depend on the others, to the bit: modes are searched as in
            :func:`~elbowroom.inference.gaussian.laplace.laplace`, and every mixture has as many components, those that
            an example lacks with a share of zero. The caller puts the batch into such slots, and gives noise by rows
            (:class:`~elbowroom.model.noise.PerRow`).
        generator: the source of randomness, for the starts.
    Returns:
        The proposals, and how they were found.
    Raises:
        ElbowroomError: ``starts`` or ``widening`` below 1; a ``defence`` that is no share; a negative tolerance; a
            likelihood without Fisher information; log p(x, z) that is not finite at the prior's mean; latents that are
            codes.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, _, x = oracles.ppca(dim=8, latent_dim=2, seed=0)
        >>> found = laplace_proposal(model, None, x, widening=1.0, defence=0.0, refinements=0, tolerance=1e-9)
        >>> torch.allclose(found.q.mean, model.posterior(x).mean), int(found.num_modes.max())
        (True, 1)
    """
    batch = as_batch(batch)
    model.require_real("A Laplace approximation", "For codes, draw from the guide: iwae, or ais, which starts there.")
    if starts < 1:
        raise ElbowroomError(f"starts is {starts}, but finding a mode needs a start.", "Give starts=1 or more.")
    if widening is not None and not 1 <= widening < math.inf:
        raise ElbowroomError(
            f"widening is {widening}, but a proposal narrower than the posterior misses its tails.",
            "Give widening=1 for the Laplace approximations themselves, or a little more.",
        )
    if not 0 <= defence < 1:
        raise ElbowroomError(
            f"defence is {defence}, but it is the share of draws that the modes do not get.",
            "Give a number from 0 to below 1, such as 0.1.",
        )
    prior = model.prior(None, batch.context)
    center, variance = (part.expand(len(batch), -1) for part in _moments(prior, generator))
    points = _starting_points(model, guide, batch, prior, center, starts, generator)
    found = laplace(model, torch.stack(points), batch, tolerance=tolerance, slots=slots)
    modes = Laplace(*(part.transpose(0, 1).contiguous() for part in found))  # (batch, S, …)
    latent_dim = modes.mode.shape[-1]
    scale_tril = covariance_factor(modes.precision)
    # log e_s = log p(x, mode) + ½ log |2π H⁻¹|, but for (2π)^{D/2}, which all modes share
    log_volume = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_parts = (modes.log_joint.double() + log_volume).masked_fill(~_distinct(modes), -math.inf)
    widening = default_widening(latent_dim) if widening is None else widening
    best = log_parts.argmax(1, keepdim=True)
    evaluations = _evaluations(modes.iterations, latent_dim)
    most = modes.mode.shape[1] if slots else int(log_parts.isfinite().sum(1).max())
    components = _components(modes.mode, scale_tril, _WEIGHT_EXPONENT * log_parts, most)
    if refinements:
        loc, tril, _ = components
        better = refine(model, batch, loc[:, 0], tril[:, 0].to(loc), steps=refinements, generator=generator)
        components = _with_refined(*components, better)
        evaluations = evaluations + better.evaluations
    components = (components[0], math.sqrt(widening) * components[1], components[2])
    if defence:
        components = _defended(components, center, variance, defence)
    return LaplaceProposal(
        _mixture(*components),
        log_parts.isfinite().sum(1),
        modes.converged.gather(1, best).squeeze(1),
        evaluations,
    )


def default_widening(latent_dim: int) -> float:
    r"""τ² = 1.44 up to D = 20 latents, beyond that 1 + 0.44 (20 / D)^{½}.

    Of draws about the mode of a normal posterior it leaves a seventh or more effective, in any dimension.

    Example:
        >>> [round(default_widening(dim), 3) for dim in (2, 20, 100)]
        [1.44, 1.44, 1.197]
    """
    return 1 + 0.44 * min(1.0, math.sqrt(20 / latent_dim))


def _starting_points(
    model: LatentModel,
    guide: Conditional | None,
    batch: Batch,
    prior: Distribution,
    center: Tensor,
    starts: int,
    generator: NoiseSource | None,
) -> list[Tensor]:
    """S of them, each of shape (batch, latent); where log p(x, z) is not finite, the prior's mean stands in."""
    shape = () if prior.batch_shape else (len(batch),)
    points = [center if guide is None else mean(guide_distribution(guide, batch)).to(center)]
    while len(points) < starts:
        z = draw(prior, shape, generator=generator).to(center)
        points += [z, 2 * center - z]
    if guide is None:
        return [center, *(_sound(model, batch, z, center) for z in points[1:starts])]
    return [_sound(model, batch, z, center) for z in points[:starts]]


def _moments(prior: Distribution, generator: NoiseSource | None) -> tuple[Tensor, Tensor]:
    """Mean and variances, or those of draws where they are unknown, as of a flow, or infinite."""
    try:
        center, variance = mean(prior), prior.variance
    except NotImplementedError:
        pass
    else:
        if bool(center.isfinite().all() & variance.isfinite().all()):
            return center, variance
    z = draw(prior, (256,), generator=generator)
    return z.mean(0), z.var(0)


def _sound(model: LatentModel, batch: Batch, z: Tensor, otherwise: Tensor) -> Tensor:
    finite = model.log_joint(batch.x, z, context=batch.context, mask=batch.mask).isfinite()
    return torch.where(finite.unsqueeze(-1), z, otherwise)


def _distinct(modes: Laplace) -> Tensor:
    """Which of the modes found are distinct, shape (batch, S): of those that coincide, the highest counts."""
    order = modes.log_joint.argsort(1, descending=True)
    rows = torch.arange(len(order), device=order.device).unsqueeze(1)
    mode, precision = modes.mode[rows, order], modes.precision[rows, order]
    kept = torch.ones_like(order, dtype=torch.bool)
    for s in range(1, order.shape[1]):
        away = mode[:, s : s + 1] - mode[:, :s]  # from each that is higher
        distance = torch.einsum("nsi,nsij,nsj->ns", away, precision[:, :s], away)
        kept[:, s] = ~((distance < _SAME_MODE**2) & kept[:, :s]).any(1)
    return torch.zeros_like(kept).scatter(1, order, kept)


def _components(loc: Tensor, scale_tril: Tensor, logits: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """The mixture's components, the so many of the largest logits; the logits are normalised."""
    order = logits.argsort(1, descending=True)[:, :most]
    rows = torch.arange(len(order), device=order.device).unsqueeze(1)
    return loc[rows, order], scale_tril[rows, order], logits[rows, order].log_softmax(1)


def _with_refined(loc: Tensor, scale_tril: Tensor, logits: Tensor, refined: Refined) -> tuple[Tensor, Tensor, Tensor]:
    """The components with the refined normal added, which takes most of the draws of the first one."""
    shares = logits.new_tensor([_REFINED_SHARE, 1 - _REFINED_SHARE]).log()
    logits = torch.cat([logits[:, :1] + shares, logits[:, 1:]], 1)
    loc = torch.cat([refined.loc.unsqueeze(1), loc], 1)
    return loc, torch.cat([refined.scale_tril.unsqueeze(1).to(scale_tril), scale_tril], 1), logits


def _defended(
    modes: tuple[Tensor, Tensor, Tensor], center: Tensor, variance: Tensor, share: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The components with the defensive one added, which has this share."""
    loc, scale_tril, logits = modes
    spread = torch.diag_embed(variance.sqrt()).unsqueeze(1).to(scale_tril)
    logits = torch.cat([logits + math.log1p(-share), torch.full_like(logits[:, :1], math.log(share))], 1)
    return torch.cat([loc, center.unsqueeze(1)], 1), torch.cat([scale_tril, spread], 1), logits


def _mixture(loc: Tensor, scale_tril: Tensor, logits: Tensor) -> Distribution:
    normals = MultivariateNormal(loc, scale_tril=scale_tril.to(loc), validate_args=False)
    return MixtureSameFamily(Categorical(logits=logits.to(loc), validate_args=False), normals, validate_args=False)


def _evaluations(iterations: Tensor, latent_dim: int) -> Tensor:
    """The gradient and the curvature at the start and after every step, and the trial that every step begins with."""
    taken = iterations.double()
    return ((taken + 1) * (1 + latent_dim / 2) + taken).sum(1)
