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
from elbowroom.data.covariates import class_numbers, context_from_labels, finite_context, with_context
from elbowroom.data.dataset import DataSet
from elbowroom.data.files import load_file
from elbowroom.data.identifiers import identifiers
from elbowroom.data.naming import Covariate, Naming
from elbowroom.data.sources import BUILT_IN
from elbowroom.data.splits import make_splits
from elbowroom.data.storage import InMemory, Material, check_shape, scan
from elbowroom.data.stream import Peekable, StreamSet
from elbowroom.data.support import Support
from elbowroom.data.tables import frame_material
from elbowroom.data.value_checks import Survey, check_finite, check_support, infer_support, survey
from elbowroom.data.views import View
from elbowroom.errors import ElbowroomError, did_you_mean
from elbowroom.progress import Announce

__all__ = ["column_names", "load_data"]


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
    id: Any = None,  # noqa: A002  # the word of tables and of the configuration
    num_categories: int | None = None,
    seed: int = 0,
    min_rows: int = 2,
    labels_required: bool = True,
    id_required: bool = True,
    levels: Mapping[str, Sequence[str]] | None = None,
    like: Naming | None = None,
    announce: Announce | None = None,
) -> DataSet | StreamSet:
    """Load data of any kind as a data set with a support, splits and batches.

    Args:
        source: a built-in name; a path (.npy, .npz, .csv, .tsv, .parquet, a folder of images); an array or tensor of
            shape (n, \\*event); a sparse matrix of scipy, made dense; a data frame; a torch ``Dataset``,
            ``IterableDataset`` or ``DataLoader``.
        binarization: none, static, dynamic or threshold; for grey values.
        support: binary, unit-interval, bytes, counts, categories, reals; or auto, the narrowest that the values fit.
        validation: a fraction (below 1) or number of rows, taken from the training part by a seeded permutation.
        test: the same; ignored where the data have an official test set.
        train: how many rows to train on, chosen by seed; all that are left unless given.
        missing: what NaN means, a mistake (``error``) or an element that was not observed (``mask``).
        context: covariates: None, ``"labels"`` (one-hot), column names of a table (text becomes one-hot); or values: an
            array (n, context_dim), text or numbers of shape (n,), a dict or a data frame with a column for each
            covariate. A list of text is column names where a table has them all.
        labels: class labels, whole numbers or text, shape (n,), or the column of a table that holds them.
        id: what identifies each row: a column of a table, or an array of shape (n,); it is not part of x, and is
            carried into files of results.
        num_categories: C, for the support ``categories``; by default the largest value plus one.
        seed: of the splits and of fixed bits.
        min_rows: the least number of rows; one is enough for scoring, but not for training.
        labels_required: whether a missing column ``labels`` is an error.
        id_required: whether a missing column ``id`` is an error.
        levels: the names of one-hot covariates as in training, by column (``labels`` where these are the context); a
            class that is not among them is refused. Found from the data unless given.
        like: the names in the data of a trained model; the columns of a table and the context are matched to them.
            Tables without a header, and arrays, are taken by position.
        announce: told in a sentence what is downloaded, and which columns are left out or do not tell rows apart.
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
        if context is not None or labels is not None or (id is not None and id_required):
            raise ElbowroomError(
                "A stream was given together with context, labels or id, but a stream has no row numbers for them.",
                "Give arrays or a map-style Dataset.",
            )
        return _stream(source, how, wanted, missing == "mask", num_categories, seed)

    columns = column_names(context, source, like)
    column, id_column = (one if isinstance(one, str) else None for one in (labels, id))
    like = like or _known_levels(levels or {}, columns)
    required = ((column, labels_required), (id_column, id_required))
    optional = {name for name, must in required if name is not None and not must}
    material = _material(source, columns, column, id_column, optional, like, announce)
    total = len(material.storage)
    check_shape((total, *material.storage.event_shape), material.name, min_rows=min_rows)
    if labels is not None and column is None:
        numbers, names = class_numbers(labels, total)
        material = replace(material, labels=numbers, classes=names)
    if id is not None and id_column is None:
        material = replace(material, ids=identifiers(id, total, "id"), id_name="id")
    if id_column is not None and material.ids is None and announce is not None:
        announce(f"{material.name} has no column '{id_column}': its rows are only numbered")
    material = _contextual(material, context, columns, like)
    if like is not None and material.columns is None and material.storage.event_shape == (len(like.columns or ()),):
        material = replace(material, columns=like.columns)

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
        context_columns=material.context_columns,
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


def _is_frame(source: Any) -> bool:
    return hasattr(source, "to_numpy") and hasattr(source, "columns")


def column_names(context: Any, source: Any, like: Naming | None = None) -> list[str] | None:
    """The columns that text names as the context; None where it holds values of the context, or is something else.

    Args:
        context: as for :func:`load_data`.
        source: of the data. A list of text is values where there are as many as rows, and not all are columns.
        like: the names in the data of a trained model; then the columns are those that it was trained with.
    """
    there = {str(column) for column in source.columns} if _is_frame(source) else set[str]()
    if isinstance(context, str) and context != "labels" and context in there:
        return [context]
    sequence = isinstance(context, Sequence) and not isinstance(context, str)
    if not (sequence and len(context) > 0 and all(isinstance(name, str) for name in context)):
        return None
    trained_with = {name for one in (() if like is None else like.covariates) for name in one.names}
    if trained_with:
        return list(context) if trained_with.issuperset(context) else None
    if _is_frame(source):
        return None if len(context) == len(source) and not there.issuperset(context) else list(context)
    if isinstance(source, (str, Path)):
        return list(context)
    if hasattr(source, "shape"):  # sparse matrices have a length, and refuse to say it
        return None if tuple(source.shape)[:1] == (len(context),) else list(context)
    return None if hasattr(source, "__len__") and len(source) == len(context) else list(context)


def _known_levels(levels: Mapping[str, Sequence[str]], columns: list[str] | None) -> Naming | None:
    """The names of covariates where only their classes are known."""
    if not levels:
        return None
    known = (tuple(levels[name]) if name in levels else None for name in columns or ["labels"])
    covariates = (Covariate(name, classes) for name, classes in zip(columns or ["labels"], known, strict=True))
    return Naming(covariates=tuple(covariates))


def _contextual(material: Material, context: Any, columns: list[str] | None, like: Naming | None) -> Material:
    """The material with the context that was asked for, where its source has not read it."""
    known = () if like is None else like.covariates
    if columns is not None:
        return material
    if context is None:
        beside = material.context  # an array of the same file
        return material if beside is None or not known else with_context(material, beside, known)
    if isinstance(context, str) and context == "labels":
        return context_from_labels(material, known[0].levels if known else None)
    if isinstance(context, str) and not known:
        raise ElbowroomError(
            f"--data.context is '{context}', but it should be 'labels', a list of column names, or an array.",
            f"Pass labels, or for a column the list ['{context}'].",
        )
    return with_context(material, context, known)


def _material(
    source: Any,
    columns: list[str] | None,
    labels: str | None,
    id: str | None,  # noqa: A002
    optional: set[str],
    like: Naming | None,
    announce: Announce | None,
) -> Material:
    """Rows, and of a table labels, identifiers and context."""
    roles: dict[str, Any] = {"context": columns, "labels": labels, "id": id, "optional": optional, "like": like}
    if _is_frame(source):
        return frame_material(source, "the data frame", announce=announce, **roles)
    if isinstance(source, (str, Path)) and not (isinstance(source, str) and source in BUILT_IN):
        return load_file(Path(source).expanduser(), announce=announce, **roles)
    asked = [*(columns or []), *(one for one in (labels, id) if one is not None and one not in optional)]
    if asked:
        raise ElbowroomError(
            f"Columns {', '.join(asked)} were asked for, but the data are not a table.",
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
