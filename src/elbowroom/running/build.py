"""Builds the data set from a configuration, and the few facts about it that a model depends on.

`DataFacts` are stored in config.json, so that a model can be loaded where its data are not available.
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict

from elbowroom.data.columns.column import Column
from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.data.row_form import RowForm
from elbowroom.data.sources import BUILT_IN
from elbowroom.data.stream import StreamSet
from elbowroom.data.support import Support
from elbowroom.model.conditional import Likelihood
from elbowroom.model.likelihoods import LIKELIHOODS
from elbowroom.model.table.likelihood import TABLE_LIKELIHOODS
from elbowroom.phrasing import phrased, speaking, with_article
from elbowroom.running.config import Config, DataConfig
from elbowroom.running.largest_values import known_highest, within_setting
from elbowroom.running.model_config import ModelConfig

__all__ = [
    "DataFacts",
    "build_data",
    "facts_of",
    "likelihood_class",
    "load_configured",
    "pick_likelihood",
    "suited",
]

_BY_SUPPORT = {
    Support.BINARY: "bernoulli",
    Support.UNIT_INTERVAL: "continuous-bernoulli",
    Support.BYTES: "discretized-logistic-mixture",
    Support.COUNTS: "negative-binomial",
    Support.CATEGORIES: "categorical",
    Support.REALS: "gaussian",
    Support.TABLE: "table",
}


class DataFacts(BaseModel):
    """Facts about the data that model and guide depend on."""

    model_config = ConfigDict(frozen=True)

    event_shape: tuple[int, ...]
    support: Support
    """Support of the values that the model gets."""
    native_support: Support
    """Support of the stored values."""
    context_dim: int = 0
    words: tuple[int, ...] = ()
    """Of captions, how many numbers of the context each word takes."""
    num_categories: int | None = None
    highest: int | None = None
    """The largest value, where all were counts and all were seen."""
    grey_steps: int | None = None
    """In how many steps stored numbers go from 0 to 1, where the model counts these."""
    steps_per_epoch: int | None = None
    """None for a stream."""
    origin: tuple[float, ...] | None = None
    """What real-valued elements are counted from, in row-major order; None: from 0."""
    columns: tuple[Column, ...] | None = None
    """Of a table with columns of several kinds, those of x, in their order."""
    set_aside: tuple[Column, ...] = ()
    """The columns of that table that x has no part in."""
    id_column: str | None = None
    """The one of them that identifies the rows."""
    context_units: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Shifts and scales of the covariates; None: the model gets them as given."""

    @property
    def row_form(self) -> RowForm:
        """What decides how the same data are read again."""
        return RowForm(self.event_shape, self.native_support)


@speaking("keywords")
def load_configured(data: DataConfig, source: Any = None, **arrays: Any) -> DataSet | StreamSet:
    """The data set that the ``data`` section describes.

    Args:
        data: the section.
        source: data from Python; by default the data that ``data.name`` names.
        arrays: ``context``, ``labels``, ``id`` from Python, ``announce``; of a trained run ``form``, that of its rows,
            and ``like``, the names in its data; as in :func:`load_data`.
    """
    settings: dict[str, Any] = {
        "binarization": data.binarization,
        "support": data.support,
        "validation": data.validation if data.validation < 1 else int(data.validation),
        "test": (data.test if data.test < 1 else int(data.test)) if _is_asked(data, "test") else None,
        "train": data.train,
        "missing": data.missing,
        "missing_values": data.missing_values,
        "separator": data.separator,
        "decimal": data.decimal,
        "context": list(data.context) if isinstance(data.context, tuple) else data.context,
        "context_drop": data.context_drop,
        "labels": data.labels,
        "id": data.id,
        "columns": data.columns,
        "drop": data.drop,
        "id_required": "like" not in arrays,
        "num_categories": data.num_categories,
        "image_size": data.image_size,
        "image_mode": data.image_mode,
        "seed": data.seed,
    }
    given = data.name if source is None else source
    own = isinstance(given, str) and given in BUILT_IN and "validation" in BUILT_IN[given].sizes
    announce = arrays.get("announce")
    if own and announce is not None and "like" not in arrays and _is_asked(data, "validation"):
        announce(
            phrased(
                f"{given}: Its validation rows are a set of their own, so --data.validation {data.validation:g} is not "
                "used."
            )
        )
    return load_data(given, **(settings | arrays))


def _is_asked(data: DataConfig, key: str) -> bool:
    """Whether a setting was given, or differs from its default, which the data may overrule without a word."""
    return key in data.model_fields_set or getattr(data, key) != DataConfig.model_fields[key].default


def build_data(config: Config, source: Any = None, **arrays: Any) -> DataSet | StreamSet:
    """The data set, with values in the support of the likelihood; arguments as in :func:`load_configured`.

    Raises:
        ElbowroomError: data that cannot be read, or that the likelihood does not fit.
    """
    return suited(config, load_configured(config.data, source, **arrays))


def suited(config: Config, loaded: DataSet | StreamSet) -> DataSet | StreamSet:
    """The data with values in the support of the likelihood.

    Raises:
        ElbowroomError: the likelihood does not fit them.
    """
    likelihood = likelihood_class(config.model, loaded.support)
    found = loaded.viewed_as(likelihood.support, needed_by=with_article(f"{likelihood.name} likelihood"))
    return within_setting(found, config.model, likelihood.name)


def pick_likelihood(model: ModelConfig, support: Support) -> str:
    """The name of the likelihood; 'auto' takes the one for the support of the data."""
    return _BY_SUPPORT[support] if model.likelihood == "auto" else model.likelihood


def likelihood_class(model: ModelConfig, support: Support) -> type[Likelihood]:
    """The class of the likelihood; 'auto' takes the one for the support of the data."""
    return (LIKELIHOODS | TABLE_LIKELIHOODS)[pick_likelihood(model, support)]


def facts_of(data: DataSet | StreamSet, batch_size: int) -> DataFacts:
    """The facts about a data set that are stored with a run."""
    size, origin = data.size("train"), data.view.origin
    units = data.context_units if isinstance(data, DataSet) else None
    mixed = data if isinstance(data, DataSet) and data.kinds is not None else None
    return DataFacts(
        event_shape=tuple(data.event_shape),
        support=data.support,
        native_support=data.native_support,
        context_dim=data.context_dim,
        words=data.word_widths if isinstance(data, DataSet) and data.captions is not None else (),
        num_categories=data.num_categories,
        highest=known_highest(data),
        grey_steps=data.view.steps if data.view.counts_steps else None,
        steps_per_epoch=None if size is None else math.ceil(size / batch_size),
        origin=None if origin is None else tuple(origin.flatten().tolist()),
        columns=None if mixed is None else mixed.kinds,
        set_aside=() if mixed is None else mixed.aside,
        id_column=None if mixed is None else mixed.id_name,
        context_units=None if units is None else (tuple(units[0].tolist()), tuple(units[1].tolist())),
    )
