"""Checks of the likelihood: whether it is a density, and whether its noise is that of the data."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution

from elbowroom.data.batch import Batch
from elbowroom.evaluation.doctor.findings import Evidence, Finding
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.evaluation.thresholds import CERTAIN_Z, NOTABLE_NATS
from elbowroom.model.distributions import ContinuousBernoulli
from elbowroom.model.draws import conditionals, draw
from elbowroom.model.guides import guide_distribution
from elbowroom.model.latent import evaluation_mode
from elbowroom.model.likelihoods import (
    Bernoulli,
    CrossEntropy,
    Gaussian,
    Laplace,
    Likelihood,
    LocationScale,
    LogitLaplace,
    Poisson,
    StudentT,
)
from elbowroom.model.mixtures import Mixture
from elbowroom.numerics import mean_and_stderr

__all__ = ["likelihood_fits"]

_NEAR_BOUND = 1.5  # a σ within this factor of the least that can be learned is at its bound
_VERY_WRONG_SCALE = 0.1  # nats per element that a right σ would gain: σ is off by a factor of 1.25 or more
_OVERDISPERSED = 1.5  # Pearson's χ² per element, 1 for Poisson counts
_ROUNDING = 1e-12  # of σ: smaller residuals are rounding


def likelihood_fits(inputs: DoctorInput) -> list[Finding]:
    """Whether p(x | z) is a density over such data, and whether its noise is as large as theirs.

    Args:
        inputs: a trained model and its data.
    Returns:
        Severe for grey pixels under a Bernoulli, for a σ at its bound and for residuals of zero; a warning or severe
        for a σ that is far off, and a warning for counts that vary more than a Poisson's; nothing otherwise, nor for
        mixtures, whose components have residuals of their own.
    Raises:
        ElbowroomError: no held-out data.
    """
    likelihood = inputs.model.likelihood.elementwise
    if isinstance(inputs.model.likelihood, Mixture):
        return []
    for kind, check in _CHECKS.items():
        if type(likelihood) is kind:
            batch, generator = inputs.batch(inputs.held_out()), inputs.generator("likelihood_fits")
            with evaluation_mode(*[part for part in (inputs.model, inputs.guide) if part is not None]):
                guide = inputs.learned_guide
                if guide is None:
                    z = inputs.prior_draws(batch, generator)
                else:
                    z = draw(guide_distribution(guide, batch), (), generator=generator)
                p_x = conditionals(inputs.model.likelihood(z, batch.context), batch.x)
                found = check(likelihood, p_x, batch, guide is not None)
            return [] if found is None else [found]
    return []


def _observed(values: Tensor, batch: Batch) -> Tensor:
    """Sums over the observed elements of each example."""
    kept = values if batch.mask is None else torch.where(batch.mask, values, 0.0)
    return kept.double().flatten(1).sum(1)


def _elements(batch: Batch) -> Tensor:
    """Numbers of observed elements, 0 for an example of which nothing is known."""
    return _observed(torch.ones_like(batch.x, dtype=torch.float64), batch)


def _grey(likelihood: Likelihood, p_x: Distribution, batch: Batch, encoded: bool) -> Finding | None:
    x = batch.x.double()
    grey = _observed(((x > 0) & (x < 1)).double(), batch) / _elements(batch).clamp(min=1)
    share, of_share = mean_and_stderr(grey)
    if share == 0:
        return None
    logits = p_x.logits.double()  # type: ignore[attr-defined]  # a Bernoulli's
    missing = _observed(ContinuousBernoulli(logits).log_prob(x) - (x * logits - F.softplus(logits)), batch)
    nats, of_nats = mean_and_stderr(missing)
    evidence = (
        Evidence("elements between 0 and 1", share, of_share, "share"),
        Evidence("missing constant, log of 1 / ∫ pˣ(1−p)¹⁻ˣ dx, at the model's outputs", nats, of_nats),
    )
    return Finding(
        "likelihood_fits",
        "severe",
        "The loss is cross-entropy on grey pixels, which is not a log-likelihood: log p(x) does not exist.",
        evidence,
        "A Bernoulli gives probability to 0 and 1 only. As a density on grey values it does not integrate to one, "
        "and the missing constant depends on z. So the model maximises something that is not a probability, and its "
        "figures cannot be compared with another model's. Its samples are black and white, unlike the data.",
        "Binarise the data (--data.binarization dynamic), or keep them grey and include the constant "
        "(--model.likelihood continuous-bernoulli).",
    )


def _noise(likelihood: Likelihood, p_x: Distribution, batch: Batch, encoded: bool) -> Finding | None:
    assert isinstance(likelihood, LocationScale)
    sigma: Tensor = p_x.scale  # type: ignore[attr-defined]  # of all that have a location and a scale
    if likelihood.num_parameters == 2:  # a σ for every element and z
        units = (sigma / likelihood.unit).double()
        at_bound = float((units < _NEAR_BOUND * likelihood.min_scale).double().mean())
        return _at_bound(at_bound, float(units.min()), likelihood.min_scale) if at_bound > 0 else None
    scale, mean = sigma.double(), p_x.mean.double()
    least = float((scale / likelihood.unit).min())
    if likelihood.raw_scale is not None and least < _NEAR_BOUND * likelihood.min_scale:
        return _at_bound(1.0, least, likelihood.min_scale)
    # residuals from means that do not depend on x are not noise, and only a Gaussian's σ is that of their squares
    if not (encoded and isinstance(likelihood, Gaussian)):
        return None
    squares = _observed(((batch.x.double() - mean) / scale).square(), batch)
    elements = _elements(batch)
    if not bool(elements.any()):
        return None
    ratio = float(squares.sum() / elements.sum())  # of the residuals' mean square to σ²
    if ratio < _ROUNDING**2:
        return _exact(float(scale.mean()))
    gains = 0.5 * (squares - squares / ratio) - 0.5 * elements * math.log(ratio)
    gain, stderr = mean_and_stderr(gains)
    if not (gain > NOTABLE_NATS and gain > CERTAIN_Z * stderr):
        return None
    wrong = "too small" if ratio > 1 else "too large"
    per_element = gain / float(elements.mean())
    evidence = (
        Evidence("σ", float(scale.mean()), None, "in the data's unit"),
        Evidence("root mean square of residuals", float(scale.mean()) * math.sqrt(ratio), None, "in the data's unit"),
        Evidence("gain of a σ that fits the residuals", gain, stderr),
    )
    return Finding(
        "likelihood_fits",
        "severe" if per_element > _VERY_WRONG_SCALE else "warning",
        f"The noise σ is {wrong} by a factor of {max(ratio, 1 / ratio) ** 0.5:.2g}.",
        evidence,
        "σ sets the weight of reconstruction against KL. A σ that does not fit the residuals gives a wrong log p(x), "
        "and a wrong balance of the two: a squared error without σ means σ² = ½.",
        "Learn it: --model.scale learned.",
    )


def _exact(scale: float) -> Finding:
    evidence = (
        Evidence("σ", scale, None, "in the data's unit"),
        Evidence("root mean square of residuals", 0.0, None, "in the data's unit"),
    )
    return Finding(
        "likelihood_fits",
        "severe",
        "The residuals are zero: the model gives every held-out value back to the last digit, so that no σ fits.",
        evidence,
        "Where the residuals are zero, log p(x | z) grows without limit as σ shrinks: it says how small σ is, not how "
        "good the model is. Measurements are never met so exactly. Usual causes are held-out rows that are also in the "
        "training data, elements that are constant or functions of others, and values whose digits were lost.",
        "Leave out duplicates and constant elements; where large numbers differ in their last digits, train in double "
        "precision (--runtime.dtype float64).",
    )


def _at_bound(share: float, least: float, bound: float) -> Finding:
    evidence = (
        Evidence("least σ", least, None, "of the data's unit"),
        Evidence("least σ that can be learned", bound, None, "of the data's unit"),
        Evidence("elements at the bound", share, None, "share"),
    )
    return Finding(
        "likelihood_fits",
        "severe",
        "The noise σ is at its lower bound: the density grows without limit.",
        evidence,
        "If the model fits some elements exactly, for instance constant ones, log p(x | z) grows without limit as σ "
        "shrinks. The figures then depend on the lower bound of σ, not on the model.",
        "Leave out constant elements, fix σ at the precision of the measurement (--model.scale 0.1), or, if the data "
        "are integers, treat them as such (--model.likelihood discretized-logistic-mixture).",
    )


def _counts(likelihood: Likelihood, p_x: Distribution, batch: Batch, encoded: bool) -> Finding | None:
    if not encoded:
        return None
    rate = p_x.mean.double().clamp(min=1e-12)
    pearson = _observed((batch.x.double() - rate).square() / rate, batch) / _elements(batch).clamp(min=1)
    found, stderr = mean_and_stderr(pearson)
    if not (found > _OVERDISPERSED and found - 1 > CERTAIN_Z * stderr):
        return None
    return Finding(
        "likelihood_fits",
        "warning",
        f"The variance of the counts is {found:.1f} times as large as a Poisson's.",
        (Evidence("Pearson's χ² per element, 1 for Poisson counts", found, stderr, "ratio"),),
        "The variance of a Poisson is its mean. Data that vary more make the model put noise into z, and lower log "
        "p(x).",
        "Use a likelihood with a dispersion parameter: --model.likelihood negative-binomial.",
    )


_LikelihoodCheck = Callable[[Likelihood, Distribution, Batch, bool], Finding | None]
#: likelihood -> its check
_CHECKS: dict[type[Likelihood], _LikelihoodCheck] = {
    CrossEntropy: _grey,
    Bernoulli: _grey,
    Gaussian: _noise,
    Laplace: _noise,
    StudentT: _noise,
    LogitLaplace: _noise,
    Poisson: _counts,
}
