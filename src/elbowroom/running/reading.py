"""Reading other data for a trained model, prepared in the same way as those that it was trained on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.errors import ElbowroomError
from elbowroom.model.likelihoods import Likelihood
from elbowroom.running.build import DataFacts
from elbowroom.running.config import Config
from elbowroom.running.own_data import check_fits
from elbowroom.running.units import prepared

__all__ = ["TrainedOn", "read_like_training"]


class TrainedOn(NamedTuple):
    """What a trained run knows about its data, as far as other data must be like them."""

    config: Config
    facts: DataFacts
    protocol: dict[str, Any]  #: of the data, as in config.json
    likelihood: Likelihood
    filler: Tensor  #: in place of a missing element, as delivered
    device: torch.device  #: where batches go


def read_like_training(
    trained: TrainedOn,
    source: Any,
    *,
    context: Any = None,
    labels: Any = None,
    missing: Literal["error", "mask"] | None = None,
) -> DataSet:
    """The data of ``source``, prepared for a trained model; arguments and errors as in `Run.read`."""
    own = trained.config.data
    named = list(own.context) if isinstance(own.context, tuple) else own.context
    data = load_data(
        source,
        binarization=own.binarization,
        support=str(trained.facts.native_support),
        validation=0,
        test=0,
        missing=missing or own.missing,
        context=named if context is None else context,
        labels=own.labels if labels is None else labels,
        num_categories=trained.facts.num_categories,
        seed=own.seed,
        min_rows=1,
        labels_required=labels is not None or own.context == "labels",
        levels=trained.protocol.get("levels"),
    )
    if not isinstance(data, DataSet):
        raise ElbowroomError("A stream cannot be scored or encoded as a whole.", "Give an array, a file or a Dataset.")
    check_fits(data, trained.facts)
    if data.fill is not None:  # missing elements get the mean of the training data, not of these data
        data = replace(data, fill=trained.filler)
    likelihood = trained.likelihood
    data = data.viewed_as(likelihood.support, needed_by=f"a {likelihood.name} likelihood")
    ready = prepared(data, trained.config, trained.device, trained.facts, fill=trained.filler)
    assert isinstance(ready, DataSet)
    return ready
