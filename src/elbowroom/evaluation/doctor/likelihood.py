"""The doctor's look at the likelihood: whether it is one, and whether its noise is that of the data."""

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
from elbowroom.evaluation.study import evaluation_mode
from elbowroom.evaluation.thresholds import CERTAIN_Z, NOTABLE_NATS
from elbowroom.inference.soundness import guide_distribution
from elbowroom.model.distributions import ContinuousBernoulli
from elbowroom.model.draws import draw
from elbowroom.model.likelihoods import Bernoulli, CrossEntropy, Gaussian, Likelihood, Poisson
from elbowroom.numerics import mean_and_stderr

__all__ = ["likelihood_fits"]

_NEAR_BOUND = 1.5  # σ within this factor of the least that can be learned has run into it
_VERY_WRONG_SCALE = 0.1  # of a nat per element: σ is off by a factor of 1.25 or more
_OVERDISPERSED = 1.5  # Pearson's χ² per element, 1 for Poisson counts


def likelihood_fits(inputs: DoctorInput) -> list[Finding]:
    """Whether p(x | z) integrates to one over what the data are, and is as noisy as they are about its means.

    Args:
        inputs: a trained model and its data.
    Returns:
        Severe for grey pixels under a Bernoulli and a σ at its bound; a warning or severe for a σ that is far off and
        for counts that vary more than Poisson's; nothing otherwise.
    Raises:
        ElbowroomError: no data held out.
    """
    likelihood = inputs.model.likelihood
    for kind, look in _LOOKS.items():
        if type(likelihood) is kind:
            batch, generator = inputs.batch(inputs.held_out()), inputs.generator("likelihood_fits")
            with evaluation_mode(*[part for part in (inputs.model, inputs.guide) if part is not None]):
                guide = inputs.learned_guide
                if guide is None:
                    z = inputs.prior_draws(batch, generator)
                else:
                    z = draw(guide_distribution(guide, batch), (), generator=generator)
                found = look(likelihood, likelihood(z, batch.context), batch, guide is not None)
            return [] if found is None else [found]
    return []


def _observed(values: Tensor, batch: Batch) -> Tensor:
    """Sums over the observed elements of each datum."""
    kept = values if batch.mask is None else torch.where(batch.mask, values, 0.0)
    return kept.double().flatten(1).sum(1)


def _elements(batch: Batch) -> Tensor:
    return _observed(torch.ones_like(batch.x, dtype=torch.float64), batch)


def _grey(likelihood: Likelihood, p_x: Distribution, batch: Batch, encoded: bool) -> Finding | None:
    x = batch.x.double()
    grey = _observed(((x > 0) & (x < 1)).double(), batch) / _elements(batch)
    share, of_share = mean_and_stderr(grey)
    if share == 0:
        return None
    logits = p_x.logits.double()  # type: ignore[attr-defined]  # a Bernoulli's
    missing = _observed(ContinuousBernoulli(logits).log_prob(x) - (x * logits - F.softplus(logits)), batch)
    nats, of_nats = mean_and_stderr(missing)
    evidence = (
        Evidence("elements between 0 and 1", share, of_share, "share"),
        Evidence("constant left out, log of 1 / ∫ pˣ(1−p)¹⁻ˣ dx, at the model's own outputs", nats, of_nats),
    )
    return Finding(
        "likelihood_fits",
        "severe",
        "The loss is cross-entropy on grey pixels, which is no log-likelihood: log p(x) does not exist.",
        evidence,
        "A Bernoulli gives probability to 0 and 1 alone. Used as a density on grey values it does not integrate to one "
        "and the constant that is left out depends on z: the model is rewarded for something that is no probability, "
        "and its figures compare with no other model's. Draws from it are black and white, unlike the data.",
        "Binarise the data (--data.binarization dynamic), or keep them grey with the constant "
        "(--model.likelihood continuous-bernoulli).",
    )


def _noise(likelihood: Likelihood, p_x: Distribution, batch: Batch, encoded: bool) -> Finding | None:
    assert isinstance(likelihood, Gaussian)
    if likelihood.num_parameters == 2:  # a σ for every element and z
        units = (p_x.stddev / likelihood.unit).double()
        at_bound = float((units < _NEAR_BOUND * likelihood.min_scale).double().mean())
        return _at_bound(at_bound, float(units.min()), likelihood.min_scale) if at_bound > 0 else None
    scale, mean = p_x.stddev.double(), p_x.mean.double()
    least = float((scale / likelihood.unit).min())
    if likelihood.raw_scale is not None and least < _NEAR_BOUND * likelihood.min_scale:
        return _at_bound(1.0, least, likelihood.min_scale)
    if not encoded:  # residuals about means that know nothing of x are no noise
        return None
    squares = _observed(((batch.x.double() - mean) / scale).square(), batch)
    elements = _elements(batch)
    ratio = float(squares.sum() / elements.sum())  # of the residuals' mean square to σ²
    gains = 0.5 * (squares - squares / ratio) - 0.5 * elements * math.log(ratio)
    gain, stderr = mean_and_stderr(gains)
    if not (gain > NOTABLE_NATS and gain > CERTAIN_Z * stderr):
        return None
    wrong = "too small" if ratio > 1 else "too large"
    per_element = gain / float(elements.mean())
    evidence = (
        Evidence("σ", float(scale.mean()), None, "in the data's unit"),
        Evidence("root mean square of residuals", float(scale.mean()) * math.sqrt(ratio), None, "in the data's unit"),
        Evidence("gain of a σ that fits", gain, stderr),
    )
    return Finding(
        "likelihood_fits",
        "severe" if per_element > _VERY_WRONG_SCALE else "warning",
        f"The noise σ is {wrong} by a factor of {max(ratio, 1 / ratio) ** 0.5:.2g}.",
        evidence,
        "σ weighs how well x is told against how simply z is spread. A σ that does not fit the residuals gives a wrong "
        "log p(x), and a wrong balance between reconstruction and KL: a mean squared error without σ is σ² = ½.",
        "Learn it: --model.scale learned.",
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
        "The noise σ has run into its lower bound: the density grows without end.",
        evidence,
        "Elements that the model fits exactly, constant ones say, let log p(x | z) grow for ever as σ shrinks. The "
        "figures then say where the bound is, and nothing of the model.",
        "Leave out constant elements, fix σ at the precision of the measurement (--model.scale 0.1), or treat the data "
        "as the integers that they are (--model.likelihood discretized-logistic-mixture).",
    )


def _counts(likelihood: Likelihood, p_x: Distribution, batch: Batch, encoded: bool) -> Finding | None:
    if not encoded:
        return None
    rate = p_x.mean.double().clamp(min=1e-12)
    pearson = _observed((batch.x.double() - rate).square() / rate, batch) / _elements(batch)
    found, stderr = mean_and_stderr(pearson)
    if not (found > _OVERDISPERSED and found - 1 > CERTAIN_Z * stderr):
        return None
    return Finding(
        "likelihood_fits",
        "warning",
        f"Counts vary {found:.1f} times as much about their means as Poisson's can.",
        (Evidence("Pearson's χ² per element, 1 for Poisson counts", found, stderr, "ratio"),),
        "A Poisson's variance is its mean. Data that vary more make the model put noise into z, and the figures worse.",
        "Use the likelihood with a dispersion: --model.likelihood negative-binomial.",
    )


_Look = Callable[[Likelihood, Distribution, Batch, bool], Finding | None]
#: likelihood -> what is looked for
_LOOKS: dict[type[Likelihood], _Look] = {
    CrossEntropy: _grey,
    Bernoulli: _grey,
    Gaussian: _noise,
    Poisson: _counts,
}
