r"""The aggregate posterior against the prior: where the encoder puts z, and where the model draws z from.

.. math:: q(z) = \frac1N \sum_n q(z | x_n), \qquad p(z)

A sample of the model begins with z ~ p(z), but its decoder was trained on z ~ q(z). Where the two differ, the decoder
gets z that it was never trained on: reconstructions are good and samples are poor. Three numbers measure the
difference, all on held-out data:

- the accuracy of a classifier between draws of q(z) and of p(z) (:mod:`elbowroom.evaluation.two_sample`);
- the gain of a learned prior in nats (:mod:`elbowroom.evaluation.doctor.learned_prior`), and its causes;
- the share of prior draws in empty regions, where the density of the learned prior is below that of all but 1% of the
  held-out encodings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.evaluation.doctor.learned_prior import LearnedPrior, learn_priors
from elbowroom.evaluation.two_sample import LEAST_DRAWS, TwoSampleTest, classifier_test
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import draw, mean
from elbowroom.model.guides import guide_distribution
from elbowroom.model.latent import evaluation_mode

__all__ = ["Aggregate", "aggregate_study"]

_TRAINING = 10  # training examples for each held-out one
_BATCH = 500  # examples at a time through the guide
_DRAWS = 4  # draws of q(z | x) for each example, where a mean over q is taken
_LEAST_TRAINING = 2000  # draws of q(z) that a mixture is fitted to, at the least
_RARE = 0.01  # share of the encodings in regions that count as empty


@dataclass(frozen=True, eq=False)
class Aggregate:
    """The aggregate posterior of held-out data, compared with the prior.

    Attributes:
        encodings: a draw of q(z | x) for each example, shape (n, latent).
        prior: as many draws of p(z), with the same contexts.
        learned: the mixture that could replace the prior.
        gains: by candidate, E_q[log r(z) − log p(z)] of each example, nats, float64, shape (n,).
        test: classifier between encodings and draws of the prior.
        empty: share of prior draws in empty regions; for encodings it is 1%.
        variance: of each latent under q(z), divided by that under the prior; shape (latent,).
        plane: the two directions in which the clusters of q(z) lie farthest apart, orthonormal, shape (latent, 2);
            (latent, 1) for a single latent.
    """

    encodings: Tensor
    prior: Tensor
    learned: LearnedPrior
    gains: dict[str, Tensor]
    test: TwoSampleTest
    empty: float
    variance: Tensor
    plane: Tensor

    @property
    def empty_stderr(self) -> float:
        """Standard error of ``empty``."""
        return math.sqrt(max(self.empty * (1 - self.empty), 1 / len(self.prior)) / len(self.prior))


def aggregate_study(inputs: DoctorInput) -> Aggregate:
    """Compares q(z) with p(z).

    Args:
        inputs: a trained model with a guide, and its data.
    Raises:
        ElbowroomError: no guide; too few held-out examples; latents that are codes.
    """
    inputs.model.require_real("A mixture of normals as a prior", "For codes, see the check code_prior.")
    with evaluation_mode(inputs.model, *([] if inputs.guide is None else [inputs.guide])):
        return _study(inputs)


def _study(inputs: DoctorInput) -> Aggregate:
    guide, model, generator = inputs.learned_guide, inputs.model, inputs.generator("holes")
    if guide is None:
        raise ElbowroomError(
            "The aggregate posterior is that of a guide, but this model has no guide.", "Train with a guide (encoder)."
        )
    learned = _learned(inputs, guide, generator)
    batch = inputs.batch(inputs.held_out(LEAST_DRAWS), 2 * inputs.points)
    z = draw(guide_distribution(guide, batch), (_DRAWS,), generator=generator)
    drawn = inputs.prior_draws(batch, generator)
    best = learned["mixture"]
    of_data, of_prior = (
        best.log_ratio(model, at, batch.context) + model.log_prior(at, batch.context) for at in (z[0], drawn)
    )
    return Aggregate(
        encodings=z[0],
        prior=drawn,
        learned=best,
        gains={name: found.log_ratio(model, z, batch.context).mean(0) for name, found in learned.items()},
        test=classifier_test(_with(z[0], batch), _with(drawn, batch), generator=generator),
        empty=float((of_prior < of_data.quantile(_RARE)).double().mean()),
        variance=z[0].var(0) / drawn.var(0),
        plane=_plane(best, z[0]),
    )


def _learned(inputs: DoctorInput, guide: Conditional, generator: torch.Generator) -> dict[str, LearnedPrior]:
    """The candidates for a learned prior, fitted to draws of q(z | x) of training data."""
    inputs.require_training()
    points = min(_TRAINING * inputs.points, inputs.data.size("train"))
    draws = -(-_LEAST_TRAINING // max(points, 1))
    means, z, contexts = [], [], []
    for batch in inputs.data.batches("train", _BATCH, points=points):
        q = guide_distribution(guide, batch)
        means.append(mean(q))
        z.append(draw(q, (draws,), generator=generator))
        contexts.append(batch.context)
    context = None if contexts[0] is None else torch.cat([part for part in contexts if part is not None])
    prior = inputs.model.prior(None, context)
    of_prior = draw(prior, () if prior.batch_shape else (1000,), generator=generator)
    spread = torch.cat(means).var(0) / of_prior.var(0)
    return learn_priors(inputs.model, torch.cat(z, 1), spread, context=context, generator=generator)


def _plane(learned: LearnedPrior, z: Tensor) -> Tensor:
    """Fisher's discriminant directions of the components; for one normal, those where its variance is least like 1."""
    _, within, between = learned.scatter()
    if learned.components > 2:
        root = torch.linalg.inv(torch.linalg.cholesky(within))
        size, directions = torch.linalg.eigh(root @ between @ root.T)
        directions = root.T @ directions
    else:
        size, directions = torch.linalg.eigh(within + between)
        size = size.log().abs()
    chosen = directions[:, size.argsort(descending=True)[:2]]
    axes = torch.linalg.qr(chosen).Q
    plane = z.new_zeros(z.shape[1], axes.shape[1]).double()
    plane[learned.dims] = axes
    return plane


def _with(z: Tensor, batch: Batch) -> Tensor:
    """z joined with its context, because a prior p(z | c) depends on it."""
    return z if batch.context is None else torch.cat([z, batch.context.to(z)], 1)
