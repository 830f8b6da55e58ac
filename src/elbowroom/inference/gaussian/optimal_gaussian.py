r"""The optimal Gaussian q(z) of each example: the member of a family with the largest ELBO, without an encoder.

An encoder (guide) computes q(z | x) of every example with one set of weights. Without that restriction, each example
has a q of its own with the largest ELBO in the family Q,

.. math:: q^* = \arg\max_{q \in Q} \mathcal{L}[q], \qquad
    \mathcal{L}[q] = \mathbb{E}_q[\log p(x, z)] + \mathrm{H}[q], \qquad q = N(m, C C^\top),

The amortisation gap is :math:`\mathcal{L}[q^*] - \mathcal{L}[q]`, the approximation gap
:math:`\log p(x) - \mathcal{L}[q^*]`. With z = m + C ε the slope and, by Stein's lemma, the mean curvature both come
from gradients of log p(x, z) alone, in coordinates in which q is N(0, I):

.. math:: g = \mathbb{E}[C^\top \nabla \log p], \qquad
    A = -\mathbb{E}[C^\top \nabla^2 \log p \; C] = -\mathbb{E}[(C^\top \nabla \log p) \, \epsilon^\top],

and at the optimum g = 0, A = I; for a diagonal C, only diag A = 1. A step is Newton's for the mean, and for the scale
the fixed point of the stationarity condition, on what the family is free to change:

.. math:: m \leftarrow m + C A^{-1} g, \qquad C \leftarrow C \, \mathrm{chol}(A^{-1}) \quad \text{or} \quad
    C \leftarrow C \, \mathrm{diag}(A)^{-1/2}.

Each example keeps its own ε through all steps (those of :mod:`elbowroom.inference.gaussian.cubature`, which leave
hardly any noise), so that the optimisation is deterministic: a step that lowers an example's ELBO is halved. The ELBO
on these draws is biased upwards, because q was optimised on them. So a second set of draws decides between the result
and the guide's own q, and a third set, used for no choice, measures both.

Reference:
    Cremer, Li & Duvenaud (2018), Inference suboptimality in variational autoencoders, arXiv:1801.03558.
    Opper & Archambeau (2009), The variational Gaussian approximation revisited, Neural Computation 21.
    Kim et al. (2018), Semi-amortized variational autoencoders, arXiv:1802.02550.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from elbowroom.data.batch import Batch, as_batch
from elbowroom.errors import ElbowroomError, NotFiniteError, check_name
from elbowroom.inference.gaussian.cubature import num_blocks, orthogonal_normals
from elbowroom.inference.gaussian.curvature import covariance_factor
from elbowroom.inference.gaussian.laplace import laplace
from elbowroom.inference.gaussian.normals import Normals, inverse_of, is_normal, normals_of
from elbowroom.inference.target import default_metric, posterior_target
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import draw
from elbowroom.model.guides import guide_distribution
from elbowroom.model.latent import LatentModel
from elbowroom.model.noise import NoiseSource, PerRow
from elbowroom.numerics import RowSlots, draws_last

__all__ = ["Family", "OptimalGaussian", "optimal_gaussian"]

Family = Literal["diagonal", "full", "guide"]

_LEAST_CURVATURE, _MOST_CURVATURE = 0.1, 10.0  # limits on the eigenvalues of A in a step: beyond them is noise
_LEAST_STEP = 2.0**-6  # share of a Newton step, below which an example's search ends
_MOMENT_DRAWS = 1024  # draws of the prior, for its mean and standard deviations
_UNCUT = 2**62  # elements that are computed at once where nothing is to be cut
_MODE_TOLERANCE = 0.05  # nats that a further step to a mode may still gain: it is only a start


class OptimalGaussian(NamedTuple):
    """The optimal normal q of each example, with its ELBO; all but q have shape (batch,), and numbers are float64.

    Attributes:
        q: q*, batch shape (batch,), event shape (latent,).
        elbo: of q*, nats, on draws that were used for no choice.
        stderr: of that, nats.
        initial_elbo: of the guide's q, nats, on the same standard noise; NaN where there is no guide.
        gain_stderr: of ``elbo - initial_elbo``, which share their noise; NaN where there is no guide. A q that is not
            normal has draws of its own.
        converged: whether the search ended where a further step would gain less than the tolerance, bool.
        evaluations: of the decoder with its gradient.
    """

    q: Distribution
    elbo: Tensor
    stderr: Tensor
    initial_elbo: Tensor
    gain_stderr: Tensor
    converged: Tensor
    evaluations: Tensor


def optimal_gaussian(
    model: LatentModel,
    guide: Conditional | None,
    batch: Batch | Tensor,
    *,
    family: Family = "diagonal",
    steps: int = 30,
    starts: int = 3,
    draws: int = 128,
    report_draws: int = 256,
    tolerance: float = 5e-3,
    slots: RowSlots | None = None,
    generator: NoiseSource | None = None,
) -> OptimalGaussian:
    r"""The normal distribution with the largest ELBO for each example, the decoder held fixed.

    .. math:: q^*_n = \arg\max_{q \in Q} \; \mathbb{E}_q[\log p(x_n | z)] - \mathrm{KL}(q \,\|\, p(z))

    The search starts at the guide's q, at the prior or at Laplace's approximation around one of a few modes, whichever
    has the largest ELBO. The result is never worse than a normal q of the guide, up to the noise of the draws that
    compare them. A guide's q that is not normal, such as that of a hierarchy or of a flow, may have a larger ELBO than
    any normal; the search then starts at the mean and the standard deviations of its draws.

    Args:
        model: p(x, z), in evaluation mode if its networks have batch normalisation or dropout.
        guide: q(z | x), where to start and what to compare with; None starts at the prior's mean.
        batch: data, ``x`` of shape (batch, \*event), with context and mask.
        family: "diagonal" or "full" covariances; "guide" for what the guide's own normal q has.
        steps: at most.
        starts: local optimisations to modes (restarts), whose Laplace approximations are further starts: from the
            guide's mean, from the prior's mean, and from draws of the prior.
        draws: per example to optimise on, at least; whole blocks of 2 D are taken, two or more.
        report_draws: per example to compare with the guide's q on, and as many again to measure on, at least.
        tolerance: nats that a further step may still gain.
        slots: where given, no number of an example depends on the others, to the bit, as in
            :func:`~elbowroom.inference.gaussian.laplace.laplace`. The caller puts the batch into such slots, and gives
            noise by rows (:class:`~elbowroom.model.noise.PerRow`).
        generator: the source of randomness.
    Returns:
        q*, its ELBO and the guide's on the same noise, standard errors, and how the search went. Nothing has a
        gradient.
    Raises:
        ElbowroomError: an unknown family; "guide" without a guide, or for one that is not normal; a number out of
            range; log p(x, z) that is not finite at the start.
        NotFiniteError: the last of these, with the examples.
    Reference:
        Cremer, Li & Duvenaud (2018), Inference suboptimality in variational autoencoders, arXiv:1801.03558.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, guide, x = oracles.ppca(dim=8, latent_dim=2, seed=0)
        >>> found = optimal_gaussian(model, guide, x, family="full", generator=torch.Generator().manual_seed(0))
        >>> torch.allclose(found.elbo, model.log_evidence(x), atol=1e-3)
        True
    """
    batch = as_batch(batch)
    model.require_real("The optimal normal q of an example", "For codes, compare the ELBO with iwae or ais.")
    _check(family, steps, starts, draws, report_draws, tolerance)
    with torch.no_grad():
        given = None if guide is None else guide_distribution(guide, batch)
        family_of_q = _resolved(family, given)
        normal = given is not None and is_normal(given)
        if given is None:
            start = _prior_normals(model, batch, generator)
        else:
            start = normals_of(given) if normal else _moments(draw(given, (_MOMENT_DRAWS,), generator=generator))
        task = _Task(model, batch, family_of_q, draws, report_draws, start.loc, slots, generator)
        first, spent = _best_start(task, start, starts)
        fit = _Fit(task, first)
        fit.run(steps, tolerance)
        q, own, spent = fit.q, start if normal else None, spent + fit.spent
        precision = fit.precision()
        if own is not None and (family_of_q == "full" or not isinstance(given, MultivariateNormal)):
            noise = task.report_noise()
            better = task.measure(q, noise, precision).mean(-1) >= task.measure(own, noise, precision).mean(-1)
            q, spent = q.where(better, own), spent + 2 * noise[:, :, 0, 0].numel()
        found = task.report(q, own, precision, fit.converged, spent)
        return found if given is None or normal else task.beside(found, given)


class _Look(NamedTuple):
    """An ELBO with its slope and curvature, from the draws that q is optimised on."""

    value: Tensor  #: nats, float64, (n,)
    slope: Tensor  #: g, (n, latent)
    curvature: Tensor  #: A, (n, latent, latent)

    def finite(self) -> Tensor:
        """Whether slope and curvature are finite, bool, (n,)."""
        return self.slope.isfinite().all(-1) & self.curvature.isfinite().flatten(1).all(1)


class _Task:
    """The densities, the family and the draws of one call."""

    def __init__(
        self,
        model: LatentModel,
        batch: Batch,
        family: str,
        draws: int,
        report_draws: int,
        like: Tensor,
        slots: RowSlots | None,
        generator: NoiseSource | None,
    ) -> None:
        self.model, self.batch, self.family, self.slots, self.generator = model, batch, family, slots, generator
        # a cut through the examples would move them to other places of a product
        uncut = slots is not None
        self.target = posterior_target(model, batch, chunk_elements=_UNCUT) if uncut else posterior_target(model, batch)
        self.like, dim = like, like.shape[-1]
        self.report_blocks = num_blocks(report_draws, dim)
        self.noise = _whitened(orthogonal_normals(num_blocks(draws, dim), len(batch), like, generator).flatten(0, 1))

    def look(self, q: Normals, rows: Tensor | None = None) -> _Look:
        """The ELBO of q with its slope and curvature, for the examples at these positions, or all."""
        target = self.target if rows is None else self.target.select(rows)
        noise = self.noise if rows is None else self.noise[:, rows]
        log_joint, gradient = target.evaluate(q.draws(noise))
        pulled = torch.einsum("nji,knj->kni", q.root, gradient)  # Cᵀ ∇ log p
        curvature = -torch.einsum("kni,knj->nij", pulled, noise) / len(noise)
        value = draws_last(log_joint.double()).mean(-1) + q.entropy()
        return _Look(value, draws_last(pulled).mean(-1), (curvature + curvature.mT) / 2)

    def placed(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Of some examples: where to find each, and which of them to compute, in their slots where there are any."""
        if self.slots is None:
            each = torch.arange(len(rows), device=rows.device)
            return each, each
        return self.slots.fill(rows)

    def report_noise(self) -> Tensor:
        """Fresh draws, shape (blocks, 2 D, n, D)."""
        return orthogonal_normals(self.report_blocks, len(self.batch), self.like, self.generator)

    def measure(self, q: Normals, noise: Tensor, precision: Tensor) -> Tensor:
        r"""The ELBO by each block of draws, float64, shape (n, blocks).

        With an estimate H of the curvature that knows nothing of these draws, :math:`\tfrac12 ε^\top B ε`,
        B = CᵀHC, is about what log p varies by, and its mean is tr(B) / 2: adding it and subtracting its mean changes
        no expectation and removes most of the noise.
        """
        flat = noise.flatten(0, 1)
        bend = q.root.mT @ precision @ q.root
        varies = torch.einsum("kni,nij,knj->kn", flat, bend, flat) - bend.diagonal(dim1=-2, dim2=-1).sum(-1)
        values = self.target.log_density(q.draws(flat)).double() + varies.double() / 2
        by_block = values.reshape(*noise.shape[:2], -1).permute(2, 0, 1).contiguous()
        return by_block.mean(-1) + q.entropy().unsqueeze(-1)

    def report(
        self, q: Normals, own: Normals | None, precision: Tensor, converged: Tensor, spent: Tensor
    ) -> OptimalGaussian:
        """Both ELBOs on the same fresh noise."""
        noise = self.report_noise()
        values = self.measure(q, noise, precision)
        before = torch.full_like(values, math.nan) if own is None else self.measure(own, noise, precision)
        spent = spent + (1 if own is None else 2) * noise[:, :, 0, 0].numel()
        return OptimalGaussian(
            q.distribution(self.family),
            values.mean(-1),
            _stderr(values),
            before.mean(-1),
            _stderr(values - before),
            converged,
            spent,
        )

    def beside(self, found: OptimalGaussian, given: Distribution) -> OptimalGaussian:
        """The optimal normal with the ELBO of a guide's q that is not normal, from draws of its own."""
        z = draw(given, (2 * self.report_blocks * self.like.shape[-1],), generator=self.generator)
        values = draws_last(self.target.log_density(z).double() - given.log_prob(z).double())
        gain_stderr = _stderr(values).hypot(found.stderr)
        return found._replace(
            initial_elbo=values.mean(-1), gain_stderr=gain_stderr, evaluations=found.evaluations + len(z)
        )


def _whitened(noise: Tensor) -> Tensor:
    """Draws whose second moments are I exactly, so that of a quadratic log p the slope and curvature are exact too."""
    moments = torch.einsum("kni,knj->nij", noise, noise) / len(noise)
    return torch.einsum("nij,knj->kni", inverse_of(torch.linalg.cholesky(moments)), noise)


def _stderr(blocks: Tensor) -> Tensor:
    return blocks.std(-1) / math.sqrt(blocks.shape[-1])


def _best_start(task: _Task, start: Normals, starts: int) -> tuple[Normals, Tensor]:
    """The candidate with the largest ELBO (the start, the prior, Laplace's approximations); and evaluations."""
    around_prior = _prior_normals(task.model, task.batch, task.generator)
    candidates = [start.projected(task.family), Normals(*(part.to(start.loc) for part in around_prior))]
    spent = torch.zeros(len(start.loc), dtype=torch.float64, device=start.loc.device)
    if default_metric(task.model.likelihood) == "gauss-newton":  # else the curvature is unknown or expensive
        for z in _points(task, [part.loc for part in candidates], starts):
            found = laplace(task.model, z, task.batch, tolerance=_MODE_TOLERANCE, slots=task.slots)
            taken = found.iterations.double()
            spent += (taken + 1) * (1 + z.shape[-1] / 2) + taken
            around_mode = Normals(found.mode, covariance_factor(found.precision).to(z))
            candidates.append(around_mode.projected(task.family))
    best, value = candidates[0], task.look(candidates[0]).value
    for other in candidates[1:]:
        there = task.look(other).value
        better = ~(there <= value)  # also than a value that is not a number
        best, value = other.where(better, best), torch.where(better, there, value)
    return best, spent + len(candidates) * len(task.noise)


def _points(task: _Task, points: list[Tensor], starts: int) -> list[Tensor]:
    """Starts for the search of modes: the known points, and draws of the prior with their reflections."""
    prior, center, points = task.model.prior(None, task.batch.context), points[-1], [*points]
    while len(points) < starts:
        z = draw(prior, () if prior.batch_shape else (len(center),), generator=task.generator).to(center)
        points += [z, 2 * center - z]
    finite = [task.target.log_density(z.unsqueeze(0))[0].isfinite() for z in points]
    return [torch.where(f.unsqueeze(-1), z, center) for f, z in zip(finite, points, strict=True)][:starts]


class _Fit:
    """The state of the optimisation for each example: its q, the ELBO there, and the share of a Newton step to try."""

    def __init__(self, task: _Task, q: Normals) -> None:
        # steps are written in place, and where they begin may be the guide's own q
        self.task, self.q, self.look = task, Normals(q.loc.clone(), q.root.clone()), task.look(q)
        if not bool(self.look.value.isfinite().all()):
            bad = ~self.look.value.isfinite()
            raise NotFiniteError(
                f"log p(x, z) is not finite where {int(bad.sum())} of {len(bad)} examples start (the first is example "
                f"{int(bad.nonzero()[0, 0])}).",
                "Check the data and the weights for NaN and infinity.",
                bad.nonzero().squeeze(1).tolist(),
            )
        self.share = torch.ones_like(self.look.value)  # of a Newton step
        self.spent = torch.full_like(self.look.value, len(task.noise))
        self.converged = torch.zeros_like(self.look.value, dtype=torch.bool)

    def run(self, steps: int, tolerance: float) -> None:
        """Take steps until none promises more than the tolerance, or none improves the ELBO."""
        active = torch.arange(len(self.share), device=self.share.device)
        for taken in range(steps + 1):
            step, promise = self._newton(active)
            arrived = promise < tolerance
            self.converged[active] = arrived
            going = ~arrived & (self.share[active] >= _LEAST_STEP)
            active, step = active[going], step.rows(going)
            if taken == steps or not len(active):
                return
            self._try(active, step)

    def precision(self) -> Tensor:
        """H = C⁻ᵀ A C⁻¹, the mean curvature of log p(x, z) over q, shape (n, latent, latent)."""
        inverse = inverse_of(self.q.root)
        return inverse.mT @ self.look.curvature @ inverse

    def _newton(self, active: Tensor) -> tuple[Normals, Tensor]:
        """The Newton step where q is N(0, I), and the nats that it would gain if the ELBO were quadratic."""
        places, filled = self.task.placed(active)
        slope, curvature = self.look.slope[active[filled]], self.look.curvature[active[filled]]
        eigenvalues, vectors = torch.linalg.eigh(curvature)
        believed = eigenvalues.clamp(_LEAST_CURVATURE, _MOST_CURVATURE)
        along = (vectors.mT @ slope.unsqueeze(-1)).squeeze(-1)
        move = (vectors @ (along / believed).unsqueeze(-1)).squeeze(-1)
        if self.task.family == "full":
            free = believed
            root = torch.linalg.cholesky((vectors / believed.unsqueeze(-2)) @ vectors.mT)
        else:
            free = curvature.diagonal(dim1=-2, dim2=-1).clamp(_LEAST_CURVATURE, _MOST_CURVATURE)
            root = torch.diag_embed(free.rsqrt())
        # ½ gᵀA⁻¹g for the mean; for the scale, log|C| − ½ tr(CᵀHC) at A⁻¹ and at 1
        promise = 0.5 * ((along.square() / believed).sum(-1) + (free - 1 - free.log()).sum(-1))
        return Normals(move, root).rows(places), promise.double()[places]

    def _try(self, active: Tensor, step: Normals) -> None:
        """Take a share of the step for each of these examples; where the ELBO would fall, stay and halve the share."""
        places, filled = self.task.placed(active)
        step, slotted = step.rows(filled), active[filled]
        old, share = self.q.rows(slotted), self.share[slotted].to(step.loc)
        identity = torch.eye(step.loc.shape[-1], dtype=step.root.dtype, device=step.root.device)
        moved = old.loc + share[:, None] * (old.root @ step.loc.unsqueeze(-1)).squeeze(-1)
        trial = Normals(moved, old.root @ torch.lerp(identity, step.root, share[:, None, None]))
        look = self.task.look(trial, slotted)
        better = ((look.value > self.look.value[slotted]) & look.finite())[places]
        chosen, taken = active[better], places[better]
        for now, new in zip((*self.q, *self.look), (*trial, *look), strict=True):
            now[chosen] = new[taken]
        self.share[active] = torch.where(better, (2 * self.share[active]).clamp(max=1.0), self.share[active] / 2)
        self.spent[active] += len(self.task.noise)


def _prior_normals(model: LatentModel, batch: Batch, generator: NoiseSource | None) -> Normals:
    """The prior's mean and standard deviations, estimated from draws, since not every prior has them in closed form."""
    prior = model.prior(None, batch.context)
    every = not prior.batch_shape and isinstance(generator, PerRow)  # draws for each example, of one law for all
    z = draw(prior, (_MOMENT_DRAWS, len(batch)) if every else (_MOMENT_DRAWS,), generator=generator)
    loc, root = _moments(z)
    return Normals(loc.expand(len(batch), -1).clone(), root.expand(len(batch), -1, -1))


def _moments(z: Tensor) -> Normals:
    """The diagonal normals with the means and standard deviations of draws, shape (draws, *, latent)."""
    z = draws_last(z)
    return Normals(z.mean(-1), torch.diag_embed(z.std(-1)))


def _resolved(family: str, q: Distribution | None) -> str:
    """Diagonal or full."""
    if family != "guide":
        return family
    if q is None:
        raise ElbowroomError(
            "family='guide' means the family of the guide's q, but there is no guide.",
            "Give family='full' or 'diagonal'.",
        )
    normals_of(q)  # refuses what is not normal
    return "full" if isinstance(q, MultivariateNormal) else "diagonal"


def _check(family: str, steps: int, starts: int, draws: int, report_draws: int, tolerance: float) -> None:
    check_name("family", family, get_args(Family))
    for name, number in (("draws", draws), ("report_draws", report_draws)):
        if number < 1:
            raise ElbowroomError(
                f"{name} is {number}, but an ELBO is an average over draws.", f"Give {name}=1 or more; 128 is usual."
            )
    if min(steps, starts) < 0 or not tolerance >= 0:
        raise ElbowroomError(
            f"steps is {steps}, starts {starts} and tolerance {tolerance}, but none of them can be negative.",
            "Give steps=0 to return the best of the starts.",
        )
