"""``load_data``: a data set from a name, a path, an array, a data frame, a ``Dataset`` or a stream."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from elbowroom.data.arrays import array_material, dataset_material, is_sequence
from elbowroom.data.binarization import Binarization, fixed_bits
from elbowroom.data.builtin import load_built_in
from elbowroom.data.captions import with_captions
from elbowroom.data.channels import channels_first
from elbowroom.data.columns.asking import Asked, parse_columns
from elbowroom.data.context_source import checked_drop, column_names, contextual, is_frame, known_levels
from elbowroom.data.covariates import class_numbers, exact_context, finite_context
from elbowroom.data.csv.reading import notation_of
from elbowroom.data.dataset import DataSet
from elbowroom.data.files import load_file
from elbowroom.data.identifiers import identifiers
from elbowroom.data.images import PictureOptions
from elbowroom.data.mixed_tables import Kinds, fit_to_training, refuse_without_table
from elbowroom.data.naming import Naming
from elbowroom.data.records import Records, is_records
from elbowroom.data.row_form import RowForm
from elbowroom.data.sentinels import as_marks, check_covariates, numbers_among, suspected, with_missing_values
from elbowroom.data.sources import BUILT_IN
from elbowroom.data.splits import make_splits
from elbowroom.data.storage import InMemory, Material, check_shape, scan
from elbowroom.data.stream import Peekable, StreamSet
from elbowroom.data.support import Support
from elbowroom.data.tables import frame_material
from elbowroom.data.value_checks import Survey, check_finite, check_support, infer_support, survey
from elbowroom.data.views import View
from elbowroom.errors import ElbowroomError, did_you_mean
from elbowroom.phrasing import phrased, speaking
from elbowroom.progress import Announce

__all__ = ["load_data"]

_TEST = 0.1  # share of the test set, where neither the data nor the caller says


@speaking("flat keywords")
def load_data(
    source: Any,
    *,
    binarization: str = "none",
    support: str = "auto",
    validation: float = 0.0,
    test: float | None = None,
    train: int | None = None,
    missing: Literal["error", "mask"] = "error",
    context: Any = None,
    context_drop: float = 0.0,
    labels: Any = None,
    id: Any = None,  # noqa: A002  # the word of tables and of the configuration
    columns: str | Sequence[str] | Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    num_categories: int | None = None,
    seed: int = 0,
    min_rows: int = 2,
    labels_required: bool = True,
    id_required: bool = True,
    levels: Mapping[str, Sequence[str]] | None = None,
    missing_values: Any = (),
    separator: str = "auto",
    decimal: str = "auto",
    image_size: int | str | tuple[int, int] | None = None,
    image_mode: Literal["grey", "rgb"] | None = None,
    form: RowForm | None = None,
    like: Naming | None = None,
    announce: Announce | None = None,
) -> DataSet | StreamSet:
    """Load data of any kind as a data set with a support, splits and batches.

    Args:
        source: a built-in name; a path (.npy, .npz, .csv, .tsv, .txt, .parquet, a folder of images); an array or tensor
            of shape (n, \\*event); a masked array, whose mask marks missing elements; a sparse matrix or tensor, made
            dense; a structured array or data frame; a list of images of PIL; a torch ``Dataset`` or another sequence
            with a length; an ``IterableDataset`` or ``DataLoader``. Pictures (n, height, width, colours) become
            (n, colours, height, width) where the shape leaves no doubt, with a remark. Or a
            :class:`~elbowroom.data.storage.Material`, whose own context and labels hold.
        binarization: none, static, dynamic or threshold; for grey values.
        support: binary, unit-interval, bytes, counts, categories, reals; or auto, the narrowest that the values fit.
        validation: a fraction (below 1) or number of rows, taken from the training part by a seeded permutation.
        test: the same, by default 0.1. Where the data have a test set of their own, it is taken, and a remark says that
            what was given here is not used.
        train: how many rows to train on, chosen by seed; all that are left unless given.
        missing: what NaN means, a mistake (``error``) or an element that was not observed (``mask``).
        context: covariates: None, ``"labels"`` (one-hot), ``"captions"`` of grey pictures with labels, column names of
            a table (text becomes one-hot); or values: an array (n, context_dim), text or numbers of shape (n,), a dict
            or a data frame with a column for each covariate. A list of text is column names where a table has them all.
        context_drop: share of the training examples that are delivered without their context, and of its words that
            are left out of the others; where all covariates are classes.
        labels: class labels, whole numbers or text, shape (n,), or the column of a table that holds them.
        id: what identifies each row: a column of a table, or an array of shape (n,); it is not part of x, and is
            carried into files of results.
        columns: kinds of a table's columns, as ``"age:count,grade:ordinal(low<mid<high),notes:drop"``, or by name;
            those of the others are found, ``"auto"`` finds all. Unless given, a table of numbers alone is one array of
            numbers, and any other has columns of several kinds.
        drop: columns of a table that are left out.
        num_categories: C, for the support ``categories``; by default the largest value plus one.
        seed: of the splits and of fixed bits.
        min_rows: the least number of rows; one is enough for scoring, but not for training.
        labels_required: whether a missing column ``labels`` is an error.
        id_required: whether a missing column ``id`` is an error.
        levels: the names of one-hot covariates as in training, by column (``labels`` where these are the context); a
            class that is not among them is refused. Found from the data unless given.
        missing_values: what stands for a missing value in x, such as -999; numbers, and text in the cells of a
            table; one or several. They become NaN.
        separator: what separates the cells of a table of text: comma, semicolon, tab, bar, space, or auto.
        decimal: its decimal mark: point, comma, or auto.
        image_size: of a folder or list of images, the size to crop and scale them to: 64, "64x48" or (64, 48)
            (width x height); of the built-in patches, 32 or 16.
        image_mode: of these, grey or rgb for all.
        form: of the rows that a trained model had, where the same source could be read in more than one way.
        like: the names in the data of a trained model; the columns of a table and the context are matched to them.
            Tables without a header, and arrays, are taken by position.
        announce: told in sentences what is downloaded, how a table was understood, which columns are left out, and
            whether identifiers tell rows apart.
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
    source = Records(source) if is_records(source) else source
    pictures = _picture_options(image_size, image_mode, wanted, form)
    pictures.require_pictures(source)
    if isinstance(source, (IterableDataset, DataLoader)):
        _check_beside_stream(context, labels, id if id_required else None, missing_values)
        return _stream(source, how, wanted, missing == "mask", num_categories, seed, form, announce)

    covariates = column_names(context, source, like)
    like = like or known_levels(levels or {}, covariates)
    kinds = _kinds(parse_columns(columns, drop), wanted, how, num_categories, like, form)
    if id is None and like is not None and like.kinds is not None:
        id, id_required = like.id, False  # noqa: A001  # found in training
    marks = as_marks(missing_values)
    table = {"separator": separator, "notation": notation_of(decimal, marks)}
    roles = _roles(covariates, labels, id, like, labels_required=labels_required, id_required=id_required)
    material = _material(source, roles | {"kinds": kinds}, table, pictures, announce)
    material = channels_first(material, None if form is None else form.event_shape)
    check_shape((len(material.storage), *material.storage.event_shape), material.name, min_rows=min_rows)
    material = _with_labels_and_ids(material, labels, id, announce)
    material = contextual(material, context, covariates, like)
    if material.test_rows is not None and test is not None and like is None:
        material = replace(material, remarks=(*material.remarks, _own_test_set(len(material.test_rows), test)))
    if kinds.known is not None and material.kinds is None and material.storage.event_shape == (len(kinds.known),):
        material = replace(material, kinds=kinds.known, aside=kinds.aside, masked=True)  # as `encode` gives them
    if like is not None and material.columns is None and material.storage.event_shape == (len(like.columns or ()),):
        material = replace(material, columns=like.columns)
    material = _with_remarks(material, marks, like, announce)

    found = survey(material.storage)
    masked = material.masked or (missing == "mask" and material.storage.dtype.is_floating_point)
    check_finite(found, material.name, missing_allowed=masked)
    masked = masked and (found.nan > 0 or not material.storage.surveyed_whole)
    view, num_categories = _view(found, material, how, wanted, num_categories, seed)
    splits = make_splits(
        len(material.storage),
        validation=validation,
        test=_TEST if test is None else test,
        seed=seed,
        validation_rows=material.validation_rows,
        test_rows=material.test_rows,
        train=train,
        name=material.name,
    )
    material = _fitted(material, splits["train"], like, announce)
    if isinstance(context, str) and context == "captions" and (like is None or material.context is None):
        material = with_captions(material, splits["train"], like)
    data = _data_set(material, found, view, splits, masked=masked, num_categories=num_categories, seed=seed)
    return replace(data, context_drop=checked_drop(context_drop, material))


def _kinds(
    asked: Asked,
    wanted: Support | None,
    how: Binarization,
    num_categories: int | None,
    like: Naming | None,
    form: RowForm | None,
) -> Kinds:
    """How a table is read: as numbers where anything says so, as columns of several kinds where anything says that."""
    known = None if like is None else like.kinds
    if known is not None or (like is None and (asked.mixed or wanted is Support.TABLE)):
        if wanted not in (None, Support.TABLE) or how is not Binarization.NONE:
            said = f"--data.support {wanted}" if how is Binarization.NONE else f"--data.binarization {how}"
            raise ElbowroomError(
                f"{said} was given for a table with columns of several kinds.", "Leave it out, or leave the kinds out."
            )
        return Kinds(asked, mixed=True, known=known, aside=() if like is None else like.aside)
    free = wanted is None and how is Binarization.NONE and num_categories is None and like is None and form is None
    return Kinds(asked, mixed=None if free else False)


def _fitted(material: Material, train: Tensor, like: Naming | None, announce: Announce | None) -> Material:
    """The material with what the densities of its columns have to know of the training rows."""
    if material.kinds is None or (like is not None and like.kinds is not None):
        return material
    kinds, remarks = fit_to_training(material.kinds, material.storage.gather(train).double().cpu().numpy())
    if announce is not None:
        for remark in remarks:
            announce(f"{material.name}: {remark}")
    return replace(material, kinds=kinds, remarks=(*material.remarks, *remarks))


def _option(kind: Any, given: str, flag: str) -> Any:
    options = [str(option) for option in kind]
    if str(given) not in options:
        choices = options if flag == "binarization" else ["auto", *options]
        raise ElbowroomError(f"--data.{flag} is '{given}'.", did_you_mean(str(given), choices))
    return kind(str(given))


def _picture_options(size: Any, mode: Any, wanted: Support | None, form: RowForm | None) -> PictureOptions:
    """How pictures are read: as was asked for, or as those that a trained model had."""
    if form is not None:
        return PictureOptions.of(size, mode, form.native_support, len(form.event_shape) == 3)
    if wanted is Support.UNIT_INTERVAL:
        wanted = Support.REALS  # bytes as they are, which the view divides
    return PictureOptions.of(size, mode, wanted)


def _check_beside_stream(context: Any, labels: Any, id: Any, missing_values: Any) -> None:  # noqa: A002
    """Refuse what belongs to rows by their numbers, which a stream has not."""
    if context is not None or labels is not None or id is not None:
        raise ElbowroomError(
            "A stream was given together with context, labels or id, but a stream has no row numbers for them.",
            "Give arrays or a map-style Dataset.",
        )
    if as_marks(missing_values):
        raise ElbowroomError(
            "A stream was given together with missing_values, which are replaced only where rows lie in memory.",
            "Let the stream yield NaN in their place.",
        )


def _roles(
    columns: list[str] | None,
    labels: Any,
    id: Any,  # noqa: A002
    like: Naming | None,
    *,
    labels_required: bool,
    id_required: bool,
) -> dict[str, Any]:
    """The columns of a table that are not part of x, which of them it may lack, and the names of a trained model."""
    column, id_column = (one if isinstance(one, str) else None for one in (labels, id))
    required = ((column, labels_required), (id_column, id_required))
    optional = {name for name, must in required if name is not None and not must}
    return {"context": columns, "labels": column, "id": id_column, "optional": optional, "like": like}


def _material(
    source: Any,
    roles: dict[str, Any],
    table: dict[str, Any],
    pictures: PictureOptions,
    announce: Announce | None,
) -> Material:
    """Rows, and of a table labels, identifiers and context.

    Args:
        source: as for :func:`load_data`.
        roles: the columns of a table that are not part of x, and the names that a trained model knows.
        table: how a table of text is written.
        pictures: how pictures are read.
        announce: called with remarks.
    """
    if isinstance(source, Material):
        return source
    if is_frame(source):
        material = frame_material(source, "the data frame", announce=announce, notation=table["notation"], **roles)
        return replace(material, masked=True) if isinstance(source, Records) and source.masked else material
    if isinstance(source, (str, os.PathLike)) and not (isinstance(source, str) and source in BUILT_IN):
        return load_file(Path(source).expanduser(), announce=announce, pictures=pictures, **table, **roles)
    named = (roles["labels"], roles["id"])
    if roles["like"] is None:
        refuse_without_table(roles["kinds"])
    asked = [*(roles["context"] or []), *(one for one in named if one is not None and one not in roles["optional"])]
    if asked:
        raise ElbowroomError(
            f"Columns {', '.join(asked)} were asked for, but the data are not a table.",
            "Give a table or a data frame, or pass context and labels as arrays.",
        )
    if isinstance(source, str):
        return load_built_in(source, size=pictures.size, announce=announce)
    if isinstance(source, Dataset) or is_sequence(source):
        return dataset_material(source)
    return array_material(source, pictures)


def _own_test_set(number: int, test: float) -> str:
    """The remark on data that come with a test set, so that a share for testing has no effect."""
    rows = f"{number:,} test row{'s are' if number > 1 else ' is'}"
    return f"Its own {rows} the test set, so --data.test {test:g} is not used."


def _with_labels_and_ids(
    material: Material,
    labels: Any,
    id: Any,  # noqa: A002
    announce: Announce | None,
) -> Material:
    """The material with the labels and identifiers that were given as values; text names columns, which were read."""
    total = len(material.storage)
    if labels is not None and not isinstance(labels, str):
        numbers, names = class_numbers(labels, total)
        material = replace(material, labels=numbers, classes=names)
    if id is not None and not isinstance(id, str):
        material = replace(material, ids=identifiers(id, total, "id"), id_name="id")
    if isinstance(id, str) and material.ids is None and announce is not None:
        announce(f"{material.name} has no column '{id}': its rows are only numbered")
    return material


def _with_remarks(
    material: Material, marks: tuple[object, ...], like: Naming | None, announce: Announce | None
) -> Material:
    """The material with NaN for numbers that stand for a missing value, and with remarks, which are announced.

    Args:
        material: as read.
        marks: what stands for a missing value.
        like: the names in the data of a trained model, which has heard the remarks about its marks.
        announce: called with the remarks.
    """
    missing_numbers = numbers_among(marks)
    if missing_numbers and material.kinds is None:  # of several kinds, they are missing already
        marked = with_missing_values(material, missing_numbers)
        material = marked if like is None or marked.storage is not material.storage else material  # else nothing to say
    odd = (*(() if material.kinds else suspected(material)), *check_covariates(material, missing_numbers))
    material = replace(material, remarks=(*material.remarks, *odd))
    if announce is not None:
        for remark in material.remarks:
            announce(f"{material.name}: {phrased(remark)}")
    return material


def _view(
    found: Survey,
    material: Material,
    how: Binarization,
    wanted: Support | None,
    num_categories: int | None,
    seed: int,
) -> tuple[View, int | None]:
    """How the values are delivered, and the number of categories."""
    if material.kinds is not None:
        return View(Support.TABLE, Support.TABLE), None
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


def _data_set(
    material: Material,
    found: Survey,
    view: View,
    splits: dict[str, Tensor],
    *,
    masked: bool,
    num_categories: int | None,
    seed: int,
) -> DataSet:
    """The data set of checked rows; missing real numbers are filled with the means of the training rows."""
    data = DataSet(
        name=material.name,
        storage=material.storage,
        splits=splits,
        view=view,
        seed=seed,
        context=finite_context(material),
        raw_context=exact_context(material),
        labels=material.labels,
        num_categories=num_categories,
        masked=masked,
        licence=material.licence,
        source=material.source,
        bits=None if masked else _static_bits(material, view),
        levels=material.levels,
        context_columns=material.context_columns,
        captions=material.captions,
        columns=material.columns,
        kinds=material.kinds,
        aside=material.aside,
        classes=material.classes,
        ids=material.ids,
        id_name=material.id_name,
        remarks=material.remarks,
        extremes=(found.lowest, found.highest),
    )
    if material.kinds is not None:
        return replace(data, fill=torch.full(data.event_shape, torch.nan, dtype=torch.float64))
    return replace(data, fill=data.moments()[0]) if masked and view.native is Support.REALS else data


def _static_bits(material: Material, view: View) -> InMemory | None:
    """The bits of static binarisation for all rows, where they fit into memory; hashing them every epoch is slow."""
    if view.binarization is not Binarization.STATIC or not material.storage.in_memory:
        return None
    parts = [fixed_bits(raw, rows, view.seed, scale=view.scale).to(torch.uint8) for rows, raw in scan(material.storage)]
    return InMemory(torch.cat(parts))


def _stream(
    source: Any,
    how: Binarization,
    wanted: Support | None,
    masked: bool,
    num_categories: int | None,
    seed: int,
    form: RowForm | None,
    announce: Announce | None,
) -> StreamSet:
    name = f"the {type(source).__name__}"
    if how is Binarization.STATIC:
        raise ElbowroomError(
            f"Static binarisation of {name} was asked for, but fixed bits belong to row numbers, which a stream lacks.",
            "Use --data.binarization dynamic or threshold.",
        )
    stream = Peekable(source, name, None if form is None else form.event_shape)
    head = stream.peek(1_000)
    if stream.remark is not None and announce is not None:
        announce(f"{name}: {stream.remark}")
    found = Survey()
    for chunk in head:
        found.add(torch.arange(len(chunk)), chunk)
    first = Material(name=name, storage=InMemory(head[0]))
    check_finite(found, name, missing_allowed=masked)
    view, num_categories = _view(found, first, how, wanted, num_categories, seed)
    masked = masked and head[0].is_floating_point()
    extremes = (found.lowest, found.highest)
    data = StreamSet(name, stream, view, tuple(head[0].shape[1:]), seed, num_categories, masked, extremes=extremes)
    if isinstance(source, DataLoader) and not isinstance(source.dataset, IterableDataset):
        data = replace(data, hint="Give loader.dataset, the Dataset behind the loader, to have splits and epochs.")
    return replace(data, fill=data.moments()[0]) if masked and view.native is Support.REALS else data
