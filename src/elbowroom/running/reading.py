"""Reading other data for a trained model, prepared in the same way as those that it was trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from elbowroom.data.dataset import DataSet
from elbowroom.data.images import holds_pictures
from elbowroom.data.loading import load_data
from elbowroom.data.naming import Naming
from elbowroom.data.precision import check_whole_numbers
from elbowroom.data.sources import BUILT_IN
from elbowroom.data.value_checks import NotFiniteDataError
from elbowroom.errors import ElbowroomError
from elbowroom.model.likelihoods import Likelihood
from elbowroom.phrasing import with_article
from elbowroom.progress import Announce
from elbowroom.running.build import DataFacts
from elbowroom.running.config import Config
from elbowroom.running.largest_values import within_model
from elbowroom.running.own_data import check_fits
from elbowroom.running.runtime import dtype_of
from elbowroom.running.units import prepared

__all__ = ["TrainedOn", "read_like_training"]

_COMPLETE = (
    "Take those rows out; or, with NaN for what was not observed, let `elbowroom impute` fill it in, or read them in "
    "Python by run.read(data, missing='mask')."
)


class TrainedOn(NamedTuple):
    """What a trained run knows about its data, as far as other data must be like them."""

    config: Config
    facts: DataFacts
    naming: Naming  #: of columns and covariates
    likelihood: Likelihood
    filler: Tensor  #: in place of a missing element, as delivered
    device: torch.device  #: where batches go
    announce: Announce  #: for remarks


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
    if context is None and _is_class(labels, source, trained.naming):  # one class for all rows, or a list of them
        context, labels = labels, None
    if context is not None and not trained.naming.covariates:
        raise ElbowroomError(
            "A context was given, but the model is not conditional on one.", "Leave it out: context=None."
        )
    named = _own_context(trained, source) if context is None else context
    try:
        data = load_data(
            source,
            binarization=own.binarization,
            support=str(trained.facts.native_support),
            validation=0,
            test=0,
            missing=missing or own.missing,
            missing_values=own.missing_values,
            separator=own.separator,
            decimal=own.decimal,
            context=named,
            labels=own.labels if labels is None else labels,
            id=own.id,
            columns=own.columns,
            drop=own.drop,
            num_categories=trained.facts.num_categories,
            seed=own.seed,
            min_rows=1,
            labels_required=labels is not None or (context is None and own.context == "labels"),
            id_required=False,
            image_size=own.image_size if holds_pictures(source) else None,
            image_mode=own.image_mode if holds_pictures(source) else None,
            form=trained.facts.row_form,
            like=trained.naming,
            announce=trained.announce,
        )
    except NotFiniteDataError as error:  # what is said to `train` is no setting of what reads other data
        raise NotFiniteDataError(error.problem, _COMPLETE) from None
    if not isinstance(data, DataSet):
        raise ElbowroomError("A stream cannot be scored or encoded as a whole.", "Give an array, a file or a Dataset.")
    check_fits(data, trained.facts, trained.naming)
    if data.fill is not None:  # missing elements get the mean of the training data, not of these data
        data = replace(data, fill=trained.filler)
    likelihood = trained.likelihood
    needed_by = with_article(f"{likelihood.name} likelihood")
    data = data.viewed_as(likelihood.support, needed_by=needed_by, steps=trained.facts.grey_steps)
    data = within_model(data, likelihood)
    check_whole_numbers(data, dtype_of(trained.config.runtime), trained=True)
    ready = prepared(data, trained.config, trained.device, trained.facts, fill=trained.filler)
    assert isinstance(ready, DataSet)
    return ready


def _own_context(trained: TrainedOn, source: Any) -> Any:
    """Where the context is found in data that are like those of training: in the labels, or in columns by name."""
    own, names = trained.config.data.context, [one.name for one in trained.naming.covariates if one.name]
    if isinstance(own, tuple):  # an archive has no columns, but may hold the context as an array
        archive = isinstance(source, str | Path) and Path(source).suffix.lower() == ".npz"
        return None if archive else names or list(own)
    there = {str(column) for column in getattr(source, "columns", ())}
    return names if own is None and names and there.issuperset(names) else own


def _is_class(labels: Any, source: Any, naming: Naming) -> bool:
    """Whether labels are one class for all rows of a model that is conditional on labels, and no column's name."""
    covariate = naming.covariates[0] if len(naming.covariates) == 1 else None
    if covariate is None or covariate.name != "labels" or isinstance(labels, list | tuple) or hasattr(labels, "shape"):
        return False
    if not isinstance(labels, str):
        return isinstance(labels, int | float)
    if hasattr(source, "columns"):
        return labels not in [str(column) for column in source.columns]
    is_file = isinstance(source, str | Path) and source not in BUILT_IN
    return not is_file or labels in (covariate.levels or ())
