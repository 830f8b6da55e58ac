"""The evaluation method samples: how samples differ from held-out data, whatever log p(x) is."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.neighbours import Estimate, farther_from_training, precision_and_recall
from elbowroom.evaluation.results import Result
from elbowroom.evaluation.sample_features import SampleFeatures, fit_features
from elbowroom.evaluation.sample_rows import comparable, data_as_drawn, decoded, unit_of_elements
from elbowroom.evaluation.study import Study, split_rows, stream
from elbowroom.evaluation.two_sample import classifier_test
from elbowroom.model.draws import draw

__all__ = ["samples"]

_LEARNED_FROM = 10_000  # training rows that features are fitted to
_KEPT = 60_000  # training rows that samples are compared with
_ELEMENTS = 50_000_000  # of these rows, if theirs are more: fewer rows


def samples(study: Study) -> list[Result]:
    """Samples against held-out data: a classifier's accuracy, precision and recall, nearness to training rows; and for
    a model of classes, whether samples are of the class that was asked for.

    Each sample is drawn for the context and with the missing elements of one held-out row. Precision and recall are
    given for training rows in the place of samples, too: so many rows of the data's own distribution have those.

    Raises:
        ElbowroomError: the training split, or no training rows; fewer than 50 rows.
    """
    held_out, training = _rows(study)
    generator = stream(held_out.x.device, study.settings.seed)
    likelihood = study.model.likelihood
    prior = study.model.prior(None, held_out.context)
    z = draw(prior, () if prior.batch_shape else (len(held_out),), generator=generator)
    drawn, _ = decoded(study.model, z, held_out, generator)

    unit = unit_of_elements(likelihood, training)
    see = partial(comparable, likelihood, unit=unit)
    alone = partial(see, with_context=False)  # who is to tell the class of x must not see it
    observed = data_as_drawn(study.model, held_out, generator)
    known = alone(data_as_drawn(study.model, training, generator), training)
    data, sampled = alone(observed, held_out), alone(drawn, held_out)
    labels, own = _labels(study, training), _labels(study, held_out)
    features = fit_features(
        known[:_LEARNED_FROM], None if labels is None else labels[:_LEARNED_FROM], seed=study.settings.seed
    )
    test = classifier_test(see(observed, held_out), see(drawn, held_out), generator=generator)
    result = partial(_result, study, len(data), features)
    found = [result("classifier accuracy", Estimate(test.accuracy, test.stderr), z=test.z)]
    points = {name: features.of(rows) for name, rows in (("data", data), ("", sampled), ("training", known))}
    near = precision_and_recall(points["data"], points[""], generator=generator)
    same = precision_and_recall(points["data"], points["training"][: len(data)], generator=generator)
    found += [
        result("precision", near.precision),
        result("precision of training rows", same.precision),
        result("recall", near.recall),
        result("recall of training rows", same.recall),
        result(
            "farther from training rows",
            farther_from_training(points["training"], points["data"], points[""]),
            training_rows=len(known),
        ),
    ]
    if features.classify is not None and own is not None and _is_context(held_out, own):
        found += [
            result("class accuracy", _share(features.classify(sampled) == own)),
            result("class accuracy of data", _share(features.classify(data) == own)),
        ]
    return found


def _rows(study: Study) -> tuple[Batch, Batch]:
    """Held-out rows, and training rows in random order."""
    if study.split == "train":
        raise ElbowroomError(
            "samples compares with rows that the model was not trained on, but the split is train.",
            "Leave --split out.",
        )
    held_out = split_rows(study.data, study.split, study.settings.data("samples"))
    if held_out is None:
        raise ElbowroomError(f"The split {study.split} has no rows to compare samples with.", "Choose another --split.")
    training = split_rows(study.data, "train", max(1, min(_KEPT, _ELEMENTS // held_out.x[0].numel())))
    if training is None:
        raise ElbowroomError(
            "samples compares with training rows, too, and these data have none.",
            "Evaluate on a split of the run's own data, or leave it out.",
        )
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(study.settings.seed))
    return held_out, training.rows(order.to(training.x.device))


def _labels(study: Study, batch: Batch) -> Tensor | None:
    labels = study.data.labels
    return None if labels is None or batch.index is None else labels[batch.index.to(labels.device)].cpu()


def _is_context(batch: Batch, labels: Tensor) -> bool:
    """Whether the context is the class, one-hot."""
    context = batch.context
    if context is None or context.dim() != 2 or not len(labels) or int(labels.max()) >= context.shape[1]:
        return False
    return torch.equal(context.cpu(), torch.nn.functional.one_hot(labels, context.shape[1]).to(context.cpu()))


def _share(right: Tensor) -> Estimate:
    share = float(right.double().mean())
    return Estimate(share, math.sqrt(max(share * (1 - share), 1 / len(right)) / len(right)))


def _result(study: Study, points: int, features: SampleFeatures, name: str, of: Estimate, **more: Any) -> Result:
    return Result(
        name=name,
        method="samples",
        value=of.value,
        stderr=of.stderr if math.isfinite(of.stderr) else None,
        unit="share",
        points=points,
        split=study.split,
        bound=None,
        asked={"seed": study.settings.seed},
        found={"features": features.description, **more},
        protocol=study.data.protocol(),
    )
