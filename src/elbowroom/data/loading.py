"""``load_data``: a data set from a name, a path, an array, a data frame, a ``Dataset`` or a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from elbowroom.data.arrays import array_material, dataset_material
from elbowroom.data.binarization import Binarization, fixed_bits
from elbowroom.data.builtin import load_built_in
from elbowroom.data.covariates import aligned, class_numbers, context_from_labels, finite_context
from elbowroom.data.dataset import DataSet
from elbowroom.data.files import load_file
from elbowroom.data.sources import BUILT_IN
from elbowroom.data.splits import make_splits
from elbowroom.data.storage import InMemory, Material, check_shape, scan
from elbowroom.data.stream import Peekable, StreamSet
from elbowroom.data.support import Support
from elbowroom.data.tables import frame_material
from elbowroom.data.value_checks import Survey, check_finite, check_support, infer_support, survey
from elbowroom.data.views import View
from elbowroom.errors import ElbowroomError, did_you_mean
from elbowroom.phrasing import speaking
from elbowroom.progress import Announce

__all__ = ["load_data"]


@speaking("flat keywords")
def load_data(
    source: Any,
    *,
    binarization: str = "none",
    support: str = "auto",
    validation: float = 0.0,
    test: float = 0.1,
    train: int | None = None,
    missing: Literal["error", "mask"] = "error",
    context: Any = None,
    labels: Any = None,
    num_categories: int | None = None,
    seed: int = 0,
    min_rows: int = 2,
    labels_required: bool = True,
    levels: Mapping[str, Sequence[str]] | None = None,
    announce: Announce | None = None,
) -> DataSet | StreamSet:
    """Load data of any kind as a data set with a support, splits and batches.

    Args:
        source: a built-in name; a path (.npy, .npz, .csv, .tsv, .parquet, a folder of images); an array or tensor of
            shape (n, \\*event); a sparse matrix of scipy, made dense; a data frame; a torch ``Dataset``,
            ``IterableDataset`` or ``DataLoader``; or a :class:`~elbowroom.data.storage.Material`, whose own context and
            labels hold.
        binarization: none, static, dynamic or threshold; for grey values.
        support: binary, unit-interval, bytes, counts, categories, reals; or auto, the narrowest that the values fit.
        validation: a fraction (below 1) or number of rows, taken from the training part by a seeded permutation.
        test: the same; ignored where the data have an official test set.
        train: how many rows to train on, chosen by seed; all that are left unless given.
        missing: what NaN means, a mistake (``error``) or an element that was not observed (``mask``).
        context: covariates: None, ``"labels"`` (one-hot), column names of a table (text becomes one-hot), or an array
            (n, context_dim).
        labels: class labels, whole numbers or text, shape (n,), or the column of a table that holds them.
        num_categories: C, for the support ``categories``; by default the largest value plus one.
        seed: of the splits and of fixed bits.
        min_rows: the least number of rows; one is enough for scoring, but not for training.
        labels_required: whether a missing column ``labels`` is an error.
        levels: the names of one-hot covariates as in training, by column (``labels`` where these are the context); a
            class that is not among them is refused. Found from the data unless given.
        announce: told in a sentence what is downloaded.
    Returns:
        A :class:`DataSet`; a :class:`StreamSet` for a stream. Every value of an array is checked here, of a
        memory-mapped one too, in one sequential pass; a ``Dataset`` or a stream is sampled here, and its other rows are
        checked as they are fetched.
    Raises:
        ElbowroomError: the data have a fault, or the arguments do not fit together.
    Example:
        >>> data = load_data(torch.tensor([[0.0, 0.5], [1.0, 0.25], [0.1, 0.2]]), binarization="dynamic", test=1)
        >>> data.native_support, data.support, data.size("train")
        (<Support.UNIT_INTERVAL: 'unit-interval'>, <Support.BINARY: 'binary'>, 2)
    """
    how = _option(Binarization, binarization, "binarization")
    wanted = None if support == "auto" else _option(Support, support, "support")
    if missing not in ("error", "mask"):
        raise ElbowroomError(f"--data.missing is '{missing}'.", did_you_mean(missing, ["error", "mask"]))
    if wanted is None and num_categories is not None:
        wanted = Support.CATEGORIES
    if isinstance(source, (IterableDataset, DataLoader)):
        if context is not None or labels is not None:
            raise ElbowroomError(
                "A stream was given together with context or labels, but a stream has no row numbers for them.",
                "Give arrays or a map-style Dataset.",
            )
        return _stream(source, how, wanted, missing == "mask", num_categories, seed)

    columns = list(context) if _is_names(context) else None
    column = labels if isinstance(labels, str) else None
    material = _material(source, columns, column, labels_required, levels, announce)
    total = len(material.storage)
    check_shape((total, *material.storage.event_shape), material.name, min_rows=min_rows)
    if labels is not None and column is None:
        numbers, names = class_numbers(labels, total)
        material = replace(material, labels=numbers, classes=names)
    if isinstance(context, str):
        material = context_from_labels(context, material, (levels or {}).get("labels"))
    elif context is not None and columns is None:
        material = replace(material, context=aligned(context, total, "context").reshape(total, -1))

    found = survey(material.storage)
    masked = material.masked or (missing == "mask" and material.storage.dtype.is_floating_point)
    check_finite(found, material.name, missing_allowed=masked)
    masked = masked and (found.nan > 0 or not material.storage.surveyed_whole)
    view, num_categories = _view(found, material, how, wanted, num_categories, seed)
    data = DataSet(
        name=material.name,
        storage=material.storage,
        splits=make_splits(
            total,
            validation=validation,
            test=test,
            seed=seed,
            test_rows=material.test_rows,
            train=train,
            name=material.name,
        ),
        view=view,
        seed=seed,
        context=finite_context(material),
        labels=material.labels,
        num_categories=num_categories,
        masked=masked,
        licence=material.licence,
        source=material.source,
        bits=None if masked else _static_bits(material, view),
        levels=material.levels,
        columns=material.columns,
        classes=material.classes,
        ids=material.ids,
        id_name=material.id_name,
    )
    return replace(data, fill=data.moments()[0]) if masked and view.native is Support.REALS else data


def _option(kind: Any, given: str, flag: str) -> Any:
    options = [str(option) for option in kind]
    if str(given) not in options:
        choices = options if flag == "binarization" else ["auto", *options]
        raise ElbowroomError(f"--data.{flag} is '{given}'.", did_you_mean(str(given), choices))
    return kind(str(given))


def _is_names(context: Any) -> bool:
    sequence = isinstance(context, Sequence) and not isinstance(context, str)
    return sequence and len(context) > 0 and all(isinstance(name, str) for name in context)


def _material(
    source: Any,
    columns: list[str] | None,
    labels: str | None,
    labels_required: bool,
    levels: Mapping[str, Sequence[str]] | None,
    announce: Announce | None,
) -> Material:
    """Rows, labels and context from any source."""
    if isinstance(source, Material):
        return source
    frame = hasattr(source, "to_numpy") and hasattr(source, "columns")
    if frame:
        if not labels_required and labels not in source.columns:
            labels = None
        return frame_material(source, "the data frame", context=columns, labels=labels, levels=levels)
    if isinstance(source, (str, Path)) and not (isinstance(source, str) and source in BUILT_IN):
        path = Path(source).expanduser()
        return load_file(path, context=columns, labels=labels, labels_required=labels_required, levels=levels)
    if columns is not None or (labels is not None and labels_required):
        raise ElbowroomError(
            f"Columns {', '.join([*(columns or []), *([labels] if labels else [])])} were asked for, but the data are "
            "not a table.",
            "Give a table or a data frame, or pass context and labels as arrays.",
        )
    if isinstance(source, str):
        return load_built_in(source, announce=announce)
    return dataset_material(source) if isinstance(source, Dataset) else array_material(source)


def _view(
    found: Survey,
    material: Material,
    how: Binarization,
    wanted: Support | None,
    num_categories: int | None,
    seed: int,
) -> tuple[View, int | None]:
    """How the values are delivered, and the number of categories."""
    native = infer_support(found, material.storage)
    delivered = native
    if wanted is not None:
        # grey values asked of stored bytes: the factor 255 is ours to take out
        if wanted is Support.UNIT_INTERVAL and native is Support.BYTES:
            delivered = wanted
        elif wanted is Support.BINARY and how is not Binarization.NONE:
            delivered = native
        else:
            check_support(found, wanted, material.name, num_categories)
            native = delivered = wanted
    view = View(native, delivered if how is Binarization.NONE else Support.BINARY, how, seed)
    view.check_binarization(material.name)
    if native is not Support.CATEGORIES:
        return view, None
    return view, num_categories or int(found.highest) + 1


def _static_bits(material: Material, view: View) -> InMemory | None:
    """The bits of static binarisation for all rows, where they fit into memory; hashing them every epoch is slow."""
    if view.binarization is not Binarization.STATIC or not material.storage.in_memory:
        return None
    parts = [fixed_bits(raw, rows, view.seed, scale=view.scale).to(torch.uint8) for rows, raw in scan(material.storage)]
    return InMemory(torch.cat(parts))


def _stream(
    source: Any, how: Binarization, wanted: Support | None, masked: bool, num_categories: int | None, seed: int
) -> StreamSet:
    name = f"the {type(source).__name__}"
    if how is Binarization.STATIC:
        raise ElbowroomError(
            f"Static binarisation of {name} was asked for, but fixed bits belong to row numbers, which a stream lacks.",
            "Use --data.binarization dynamic or threshold.",
        )
    stream = Peekable(source, name)
    head = stream.peek(1_000)
    found = Survey()
    for chunk in head:
        found.add(torch.arange(len(chunk)), chunk)
    first = Material(name=name, storage=InMemory(head[0]))
    check_finite(found, name, missing_allowed=masked)
    view, num_categories = _view(found, first, how, wanted, num_categories, seed)
    masked = masked and head[0].is_floating_point()
    data = StreamSet(name, stream, view, tuple(head[0].shape[1:]), seed, num_categories, masked)
    if isinstance(source, DataLoader) and not isinstance(source.dataset, IterableDataset):
        data = replace(data, hint="Give loader.dataset, the Dataset behind the loader, to have splits and epochs.")
    return replace(data, fill=data.moments()[0]) if masked and view.native is Support.REALS else data
