r"""Bias and variance of gradient estimators, measured from repeated gradients.

The ELBO is an expectation under q, and q has parameters φ, so

.. math:: \nabla_\phi \mathbb{E}_{q_\phi}[f(z)] \;\ne\; \mathbb{E}_{q_\phi}[\nabla_\phi f(z)].

The right-hand side moves the gradient inside and treats the draw as a constant; this is the *naive* estimator. It loses
the dependence of the draws on φ, which is the whole gradient: what remains is :math:`-\mathbb{E}_q[\nabla_\phi \log
q(z|x)] = 0`, so the guide would learn nothing. It cannot be chosen for training; the study shows how it fails. The
other estimators are unbiased and differ in variance. :func:`gradient_study` draws each many times and reports both.

For codes the gradient is known: it is a sum over all of them, and so no estimator has to stand for the truth,

.. math:: \nabla_\phi \mathcal{L}(x) = \nabla_\phi \sum_z q_\phi(z | x) \log \frac{p(x, z)}{q_\phi(z | x)}.

Estimators that differentiate through draws of codes (:mod:`elbowroom.inference.code_gradients`) are biased; the
study says by how much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from elbowroom.data.batch import Batch, as_batch
from elbowroom.errors import ElbowroomError, check_name
from elbowroom.inference.code_gradients import CODE_ESTIMATORS
from elbowroom.inference.enumeration import enumerated_elbo
from elbowroom.inference.objectives import KL, OBJECTIVES
from elbowroom.inference.weights import ESTIMATORS, log_weights
from elbowroom.model.conditional import Conditional
from elbowroom.model.latent import LatentModel
from elbowroom.numerics import log_mean_exp

__all__ = ["EXACT", "NAIVE", "GradientMoments", "GradientStatistics", "gradient_study"]

NAIVE = "naive"
EXACT = "exact"
_UNBIASED = {"real": "pathwise", "codes": "score-function"}  # by the values of z: what others are measured against


class GradientStatistics(NamedTuple):
    """One estimator of the gradient of the batch-mean objective, in the parameters of one module.

    Attributes:
        estimator: its name.
        wrt: "guide" or "model" (without parameters that it shares with the guide).
        norm: length of the mean gradient, corrected for the noise in the mean (0 where noise is all there is).
        variance: total variance of one gradient, the trace of its covariance, unbiased.
        snr: signal-to-noise ratio, norm / √variance.
        bias: difference from the mean of the reference (see :func:`gradient_study`) along a direction fixed by the
            first half of the draws and measured on the second half, hence not inflated by the number of parameters. 0
            for the reference itself.
        bias_z: the bias over its standard error; a standard normal number where there is no bias.
        relative_bias: length of the difference between the two means over that of the reference, both corrected for
            the noise in the means (0 where noise is all there is).
        draws: how many gradients were drawn.
    """

    estimator: str
    wrt: str
    norm: float
    variance: float
    snr: float
    bias: float
    bias_z: float
    relative_bias: float
    draws: int


@dataclass
class GradientMoments:
    """Running mean and sum of squared deviations (Welford 1962): memory of one vector, float64.

    Attributes:
        count: vectors seen.
        mean: their mean, shape (parameters,).
        deviation: Σ ‖g − mean‖², the trace of the scatter matrix.
    """

    count: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    deviation: float = 0.0

    def add(self, vector: Tensor) -> None:
        """Add one vector."""
        vector = vector.double()
        self.count += 1
        before = vector - self.mean
        self.mean = self.mean + before / self.count
        self.deviation += float((before * (vector - self.mean)).sum())

    @property
    def variance(self) -> float:
        """Trace of the covariance, unbiased."""
        return self.deviation / (self.count - 1)

    def distance(self, other: GradientMoments | None = None) -> float:
        r"""Length of the expectation, or of its difference from another one, corrected for noise.

        .. math:: \|\mathbb{E} g\|^2 = \mathbb{E} \|\bar g\|^2 - \mathrm{tr}\, \mathrm{Cov}(g) / T

        Without the correction noise would pass for signal; 0 where noise is all there is.
        """
        apart, noise = self.mean, self.variance / self.count
        if other is not None:
            apart, noise = apart - other.mean, noise + other.variance / other.count
        return math.sqrt(max(0.0, float(apart.square().sum()) - noise))


def gradient_study(
    model: LatentModel,
    guide: Conditional,
    batch: Batch | Tensor,
    *,
    estimators: Sequence[str] | None = None,
    objective: str = "elbo",
    num_samples: int = 1,
    kl: KL = "auto",
    temperature: float = 1.0,
    draws: int = 200,
    generator: torch.Generator | None = None,
) -> list[GradientStatistics]:
    r"""Mean, variance and bias of gradient estimators, from repeated independent gradients.

    .. math:: \hat{g}_t, \; t = 1 \dots T: \qquad \bar{g}, \quad
        \mathrm{tr}\,\widehat{\mathrm{Cov}}(\hat{g}) = \frac{1}{T-1} \sum_t \|\hat{g}_t - \bar{g}\|^2

    The bias is measured against a reference: the pathwise estimator; of the ELBO over codes the exact gradient, a sum
    over all codes; of the importance-weighted bound over codes the score function. Memory is proportional to the number
    of parameters, not to ``draws``.

    Args:
        model: p(x, z).
        guide: q(z | x).
        batch: data, ``x`` of shape (batch, \*event).
        estimators: names in ``ESTIMATORS`` that suit the model and the objective, "naive", and, for the ELBO over
            codes, "exact". By default pathwise, stl, score-function and naive; over codes the score function, all that
            differentiate through codes, and naive.
        objective: a name in ``OBJECTIVES``.
        num_samples: draws of z per example in one gradient.
        kl: how the ELBO's KL is taken (the naive estimator takes everything from the draws).
        temperature: of an estimator for codes.
        draws: T, gradients per estimator; each costs a forward and a backward pass.
        generator: the source of randomness.
    Returns:
        One entry for each estimator and each of "guide" and "model" that has parameters to learn.
    Raises:
        ElbowroomError: an unknown name, fewer than 4 draws, nothing to learn, or more codes than can be enumerated.
    Reference:
        Roeder, Wu & Duvenaud (2017), arXiv:1703.09194. Rainforth et al. (2018), arXiv:1802.04537.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, guide, x = oracles.ppca(dim=8, latent_dim=2, seed=0)
        >>> study = gradient_study(
        ...     model, guide, x, estimators=["pathwise", "naive"], generator=torch.Generator().manual_seed(0)
        ... )
        >>> [abs(s.bias_z) > 4 for s in study if s.wrt == "guide"]
        [False, True]
    """
    known = model.latent_support == "codes" and objective == "elbo"
    reference = EXACT if known else _UNBIASED[model.latent_support]
    if estimators is None:
        through = CODE_ESTIMATORS if model.latent_support == "codes" else ("pathwise", "stl")
        estimators = [*through, "score-function", NAIVE]
    _check(estimators, objective, draws, [EXACT] if known else [])
    batch = as_batch(batch)
    groups = _parameter_groups(model, guide)
    names = list(dict.fromkeys([reference, *estimators]))  # the reference runs, asked for or not
    moments = {(name, wrt): GradientMoments() for name in names for wrt in groups}
    projections = {
        (name, wrt, side): GradientMoments() for name in names for wrt in groups for side in ("own", "reference")
    }
    directions: dict[tuple[str, str], Tensor] = {}
    exact = _flat_gradients(enumerated_elbo(model, guide, batch).mean(), groups) if known else {}
    options = {"num_samples": num_samples, "temperature": temperature, "generator": generator}
    for t in range(draws):
        if t == draws // 2:
            directions = {
                (name, wrt): nn.functional.normalize(moments[name, wrt].mean - moments[reference, wrt].mean, dim=0)
                for name, wrt in moments
            }
        gradients = {(EXACT, wrt): g for wrt, g in exact.items()}
        for name in names:
            if name != EXACT:
                value = _objective(model, guide, batch, objective, name, kl, options).mean()
                gradients.update({(name, wrt): g for wrt, g in _flat_gradients(value, groups).items()})
        for (name, wrt), gradient in gradients.items():
            moments[name, wrt].add(gradient)
        for (name, wrt), direction in directions.items():
            projections[name, wrt, "own"].add(direction @ gradients[name, wrt])
            projections[name, wrt, "reference"].add(direction @ gradients[reference, wrt])
    return [
        _statistics(
            name,
            wrt,
            moments[name, wrt],
            moments[reference, wrt],
            projections[name, wrt, "own"],
            projections[name, wrt, "reference"],
        )
        for name in dict.fromkeys(estimators)
        for wrt in groups
    ]


def _objective(
    model: LatentModel,
    guide: Conditional,
    batch: Batch,
    objective: str,
    estimator: str,
    kl: KL,
    options: Mapping[str, Any],
) -> Tensor:
    """One estimate of the objective per example, with the named estimator's gradient."""
    if estimator == NAIVE:
        # the draw a constant, log q's own parameters live, and no score term to make up for it
        log_w = log_weights(model, guide, batch, estimator="score-function", **options)
        return log_w.mean(0) if objective == "elbo" else log_mean_exp(log_w)
    of_elbo = {"kl": kl} if objective == "elbo" else {}
    return OBJECTIVES[objective](model, guide, batch, estimator=estimator, **of_elbo, **options).value


def _parameter_groups(model: LatentModel, guide: Conditional) -> dict[str, list[Tensor]]:
    """Trainable parameters by module; one that both share (as under a VampPrior) counts as the guide's."""
    of_guide = [p for p in guide.parameters() if p.requires_grad]
    taken = {id(p) for p in of_guide}
    of_model = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    groups: dict[str, list[Tensor]] = {"guide": list(of_guide), "model": list(of_model)}
    groups = {wrt: parameters for wrt, parameters in groups.items() if parameters}
    if not groups:
        raise ElbowroomError(
            "Neither the model nor the guide has a parameter with a gradient, but the study measures gradients.",
            "Call requires_grad_(True) on the guide or the model.",
        )
    return groups


def _flat_gradients(value: Tensor, groups: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    """The gradient in each group of parameters, as one float64 vector each."""
    parameters = [p for group in groups.values() for p in group]
    gradients = iter(torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True))
    return {wrt: torch.cat([next(gradients).flatten().double() for _ in group]) for wrt, group in groups.items()}


def _statistics(
    name: str,
    wrt: str,
    moments: GradientMoments,
    reference: GradientMoments,
    own: GradientMoments,
    others: GradientMoments,
) -> GradientStatistics:
    """Of one estimator: its moments and the reference's, and projections of both on the direction of the bias."""
    variance, norm = moments.variance, moments.distance()
    bias, bias_z, relative = 0.0, 0.0, 0.0
    if moments is not reference:
        bias = float(own.mean - others.mean)
        # the last term is rounding: two exact and equal gradients must not differ by many standard errors
        rounding = 1e-6 * max(abs(float(own.mean)), abs(float(others.mean)))
        stderr = math.sqrt(own.variance / own.count + others.variance / others.count + rounding**2)
        bias_z = bias / stderr if stderr > 0 else 0.0
        apart, length = moments.distance(reference), reference.distance()
        relative = apart / length if length > 0 else math.inf if apart > 0 else 0.0
    snr = norm / math.sqrt(variance) if variance > 0 else math.inf if norm > 0 else 0.0
    return GradientStatistics(name, wrt, norm, variance, snr, bias, bias_z, relative, moments.count)


def _check(estimators: Sequence[str], objective: str, draws: int, more: Sequence[str]) -> None:
    for name in estimators:
        check_name("gradient estimator", name, [*ESTIMATORS, NAIVE, *more])
    check_name("objective", objective, OBJECTIVES)
    if draws < 4:
        raise ElbowroomError(
            f"{draws} gradients were asked for, but a variance in each half needs at least 4.", "Give draws=4 or more."
        )
