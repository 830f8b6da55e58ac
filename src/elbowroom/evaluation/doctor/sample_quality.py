r"""Samples of the model against held-out data: is the prior or the decoder the cause of a difference?

Held-out data are compared with draws x ~ p(x | z) by one classifier. The z come from three sources:

================ ============================== ================================================================
z from           is                             a difference from the data comes from
================ ============================== ================================================================
``encodings``    q(z | x) of *other* examples   the decoder and its likelihood, which were trained on such z
``learned``      a mixture fitted to q(z)       these, and what a mixture cannot represent
``prior``        p(z), as the user samples      these, and the holes between q(z) and p(z)
================ ============================== ================================================================

A fourth test compares the samples from the prior with those from the encodings. What the decoder does to both alike,
such as adding the noise of a Gaussian likelihood, cancels there.

With :math:`d = 2 \cdot \text{accuracy} - 1`, a lower bound on the total variation, the share due to the prior is
:math:`1 - d_\text{encodings} / d_\text{prior}`. The encoded examples are others than those compared with, since a
reconstruction would contain the example itself.

Draws are compared, not means: a mean of p(x | z) is not a sample, and is smoother than any example. For pictures, a
separate number says how much smoother: the mean squared difference of neighbouring pixels of the means, relative to
that of the data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.support import Support
from elbowroom.evaluation.doctor.aggregate_posterior import Aggregate, aggregate_study
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.evaluation.doctor.two_sample import LEAST_DRAWS, TwoSampleTest, classifier_test
from elbowroom.model.conditional import Likelihood
from elbowroom.model.draws import conditionals, draw, mean
from elbowroom.model.guides import guide_distribution
from elbowroom.model.latent import LatentModel, evaluation_mode
from elbowroom.model.noise import uniform
from elbowroom.numerics import chunks, mean_and_stderr

__all__ = ["SOURCES", "SampleStudy", "sample_study", "share_of_prior"]

SOURCES = ("encodings", "learned", "prior")
"""The sources of z."""

_CHUNK = 500  # examples at a time through the decoder
_SHOWN = 20  # pictures of each source that are kept


@dataclass(frozen=True, eq=False)
class SampleStudy:
    """Samples with z from three sources, compared with held-out data.

    Attributes:
        tests: by source, draws of x against data; without a guide only the prior's, and none of "learned" for codes.
        holes: draws of x with z from the prior against those with z from encodings; None without a guide.
        means: by source, means of p(x | z), shape (20, \\*event).
        blur: by source, mean squared difference of neighbouring pixels of the means, divided by that of the data, and
            its standard error. Empty where the data are not pictures.
        data: some held-out examples, shape (20, \\*event); NaN where missing.
    """

    tests: dict[str, TwoSampleTest]
    holes: TwoSampleTest | None
    means: dict[str, Tensor]
    blur: dict[str, tuple[float, float]]
    data: Tensor


def share_of_prior(tests: dict[str, TwoSampleTest]) -> float:
    """The share of the distance between samples and data that vanishes if z comes from encodings; 0 to 1.

    Example:
        >>> found = {"encodings": TwoSampleTest(0.6, 0.01, 9.0, 1000), "prior": TwoSampleTest(0.9, 0.01, 36.0, 1000)}
        >>> round(share_of_prior(found), 3)
        0.75
    """
    distance = tests["prior"].distance
    return max(0.0, 1 - tests["encodings"].distance / distance) if distance else 0.0


def sample_study(inputs: DoctorInput, aggregate: Aggregate | None = None) -> SampleStudy:
    """Compares samples with data.

    Args:
        inputs: a trained model and its data.
        aggregate: the study of its q(z), which holds the learned prior; made here unless given.
    Raises:
        ElbowroomError: too few held-out examples.
    """
    with evaluation_mode(inputs.model, *([] if inputs.guide is None else [inputs.guide])):
        return _study(inputs, aggregate)


def _study(inputs: DoctorInput, aggregate: Aggregate | None) -> SampleStudy:
    model, generator = inputs.model, inputs.generator("sample-quality")
    batch = inputs.batch(inputs.held_out(2 * LEAST_DRAWS), 2 * inputs.points)
    # rows are in the order of the data set, which may be sorted by class
    order = torch.randperm(len(batch), generator=generator, device=generator.device).to(batch.x.device)
    compared, others = batch.rows(order[: len(batch) // 2]), batch.rows(order[len(batch) // 2 :])
    unit = _unit(model.likelihood, compared)
    data = _features(model.likelihood, _as_drawn(model, compared, generator), compared, unit)
    tests, means, blur, seen = {}, {}, {}, {}
    for source, z in _latents(inputs, aggregate, others, generator).items():
        x, expected = _decoded(model, z, others, generator)
        seen[source] = _features(model.likelihood, x, others, unit)
        tests[source] = classifier_test(data, seen[source], generator=generator)
        means[source] = expected[:_SHOWN].cpu()
        if _is_picture(model.likelihood):
            shown = expected if others.mask is None else torch.where(others.mask, expected, others.x)
            blur[source] = _ratio(_edges(shown), _edges(compared.x))  # a missing pixel is the same filler in both
    holes = None
    if "encodings" in seen:
        holes = classifier_test(seen["encodings"], seen["prior"], generator=generator)
    first = compared.rows(slice(_SHOWN))
    pictures = first.x if first.mask is None else torch.where(first.mask, first.x, torch.nan)
    return SampleStudy(tests, holes, means, blur, pictures.cpu())


def _latents(
    inputs: DoctorInput, aggregate: Aggregate | None, others: Batch, generator: torch.Generator
) -> dict[str, Tensor]:
    """z by source, each of shape (batch, latent)."""
    guide, model = inputs.learned_guide, inputs.model
    prior = inputs.prior_draws(others, generator)
    if guide is None:
        return {"prior": prior}
    if model.latent_support == "codes":  # of which no mixture of normals can be a prior
        return {"encodings": draw(guide_distribution(guide, others), generator=generator), "prior": prior}
    aggregate = aggregate_study(inputs) if aggregate is None else aggregate
    learned = aggregate.learned.sample(model, inputs.prior_draws(others, generator), generator)
    return {
        "encodings": draw(guide_distribution(guide, others), generator=generator),
        "learned": learned,
        "prior": prior,
    }


def _decoded(model: LatentModel, z: Tensor, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws and means of p(x | z), or of each pixel given those before it in the draw, a chunk at a time."""
    drawn, means = [], []
    for rows in chunks(len(z), _CHUNK):
        p_x = model.likelihood(z[rows], None if batch.context is None else batch.context[rows])
        drawn.append(draw(p_x, generator=generator))
        means.append(mean(conditionals(p_x, drawn[-1])))
    return torch.cat(drawn), torch.cat(means)


def _as_drawn(model: LatentModel, batch: Batch, generator: torch.Generator) -> Tensor:
    """The data as the likelihood draws them: under the cross-entropy likelihood, grey values are drawn as bits."""
    x = batch.x
    if model.likelihood.normalized or model.likelihood.support is not Support.UNIT_INTERVAL:
        return x
    return (uniform(x.shape, x, generator) < x).to(x)


def _unit(likelihood: Likelihood, batch: Batch) -> Tensor | float:
    """The unit of each element, float64: real elements can have different units, but pixels share one."""
    if likelihood.support is not Support.REALS or _is_picture(likelihood):
        return 1.0
    scale = batch.x.double().std(0)
    return torch.where(scale > 0, scale, 1.0)


def _features(likelihood: Likelihood, x: Tensor, batch: Batch, unit: Tensor | float) -> Tensor:
    """Input of the classifier, shape (batch, features); elements that were not observed are equal in both samples."""
    x = x if batch.mask is None else torch.where(batch.mask, x, batch.x)
    match likelihood.support:
        case Support.CATEGORIES:
            seen = torch.nn.functional.one_hot(x.long(), likelihood.elementwise.num_parameters).double()
        case Support.COUNTS:
            seen = torch.log1p(x.double())
        case _:
            seen = x.double() / unit
    parts = [seen.flatten(1)]
    if batch.context is not None:
        parts.append(batch.context.double())
    if batch.mask is not None:
        parts.append(batch.mask.double().flatten(1))
    return torch.cat(parts, 1)


def _is_picture(likelihood: Likelihood) -> bool:
    """Whether x is a picture, so that differences of neighbouring elements mean something."""
    *channels, height, width = (0, 0, *likelihood.event_shape)[-max(2, len(likelihood.event_shape)) :]
    return channels in ([], [1], [3]) and min(height, width) > 1 and likelihood.support is not Support.CATEGORIES


def _edges(pictures: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels, float64, shape (batch,)."""
    pictures = pictures.double()
    down, across = pictures.diff(dim=-2).square(), pictures.diff(dim=-1).square()
    return down.flatten(1).mean(1) + across.flatten(1).mean(1)


def _ratio(of: Tensor, to: Tensor) -> tuple[float, float]:
    """Ratio of two means, and its standard error by the delta method."""
    (above, above_error), (below, below_error) = mean_and_stderr(of), mean_and_stderr(to)
    if below == 0:
        return 0.0, 0.0
    ratio = above / below
    return ratio, ((above_error / below) ** 2 + (ratio * below_error / below) ** 2) ** 0.5
