"""Reading the user's files: ``.npy`` (memory-mapped), ``.npz``, tables, folders of images. Nothing is unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from elbowroom.data.archives import read_archive, unreadable
from elbowroom.data.csv.notation import Notation
from elbowroom.data.csv.reading import Table, is_table, read_table
from elbowroom.data.images import PictureOptions, image_folder
from elbowroom.data.mixed_tables import Kinds, is_mixed, refuse_without_table
from elbowroom.data.naming import Naming
from elbowroom.data.pictures.finding import IMAGES
from elbowroom.data.records import Records, is_records
from elbowroom.data.sources import BUILT_IN
from elbowroom.data.storage import Material, MemoryMapped, check_shape
from elbowroom.data.tables import frame_material
from elbowroom.errors import ElbowroomError, did_you_mean
from elbowroom.progress import Announce

__all__ = ["KINDS", "load_file"]

KINDS = (".npy", ".npz", ".csv", ".tsv", ".txt", ".csv.gz", ".parquet")
_PACKED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


def load_file(
    path: Path,
    *,
    context: Sequence[str] | None = None,
    labels: str | None = None,
    id: str | None = None,  # noqa: A002  # the keyword of `load_data`
    optional: Collection[str] = (),
    like: Naming | None = None,
    announce: Announce | None = None,
    separator: str = "auto",
    notation: Notation | None = None,
    pictures: PictureOptions | None = None,
    kinds: Kinds | None = None,
) -> Material:
    """Read the file or folder at a path.

    Args:
        path: a file of one of :data:`KINDS`, or a folder of images.
        context: of a table, the columns that become the context.
        labels: of a table, the column of class labels.
        id: of a table, the column that identifies the rows.
        optional: those of labels and id that may be missing.
        like: of a table, the names in the data of a trained model, to which the columns are matched.
        announce: called with remarks on the columns of a table.
        separator: of a table of text, what separates its cells; "auto" finds it.
        notation: of a table of text, how its numbers are written.
        pictures: of a folder, what becomes of images of several forms.
        kinds: of a table, how columns of several kinds are read; None: all are numbers.
    Raises:
        ElbowroomError: missing, empty, truncated, of another kind, pickled, or not numbers.
    """
    if not path.exists():
        listed = ", ".join(KINDS)
        remedy = did_you_mean(str(path), BUILT_IN) if len(path.parts) == 1 and not path.suffix else "Check the path."
        raise ElbowroomError(
            f"'{path}' is neither a built-in data set nor a file (of {listed}) nor a folder of images.", remedy
        )
    suffix = path.suffix.lower()
    records = suffix == ".npy" and path.is_file() and path.stat().st_size > 0 and is_records(_mapped(path))
    table = records or is_table(path)
    if context is not None and not table:
        raise ElbowroomError(
            f"Context columns {', '.join(context)} were asked for, but {path} is not a table.",
            "Give a .csv, .tsv or .parquet file, or pass the context as an array from Python.",
        )
    for column, what, flag in ((labels, "label", "labels"), (id, "id", "id")):
        if column is not None and column not in optional and not table:
            raise ElbowroomError(
                f"The {what} column {column} was asked for, but {path} is not a table.",
                f"Leave --data.{flag} out, or give a .csv, .tsv or .parquet file.",
            )
    if kinds is not None and like is None and not table:
        refuse_without_table(kinds)
    if path.is_dir():
        return image_folder(path, pictures, data_files=[kind for kind in KINDS if kind != ".txt"])  # notes are no data
    if not table and suffix not in (".npy", ".npz"):
        raise _other_kind(path, suffix)
    if path.stat().st_size == 0:
        raise ElbowroomError(f"{path} is empty (0 bytes).", "Write the data to it again.")
    if not table:
        return read_archive(path) if suffix == ".npz" else _npy(path)
    if records:
        frame, notation = Records(_mapped(path), path.name), None
    else:
        measured = {name for one in (like.covariates if like else ()) if one.levels is None for name in one.names}
        classes = {column for column in (*(context or ()), labels) if column is not None} - measured
        aside = (*(context or ()), labels, id)
        known = () if like is None or like.columns is None else like.columns
        as_text, fresh = () if id is None else (id,), notation or Notation()

        def table_of(names: Collection[str]) -> Table:
            return read_table(
                path, as_text=as_text, classes=names, separator=separator, notation=replace(fresh, facts={})
            )

        read = table_of(classes)
        frame = read.without_index((*aside, *known))
        if kinds is not None and path.suffix.lower() != ".parquet":
            kinds = _decided(kinds, frame, aside, fresh.missing)
            whole = {column for column in frame.columns if frame[column].dtype.is_integer()} if kinds.mixed else set()
            if whole - {*aside}:  # 007 may be a name there
                read = table_of(classes | whole)
                frame = read.without_index((*aside, *known))
        notation = read.notation
    return frame_material(
        frame,
        path.name,
        context=context,
        labels=labels,
        id=id,
        optional=optional,
        like=like,
        announce=announce,
        notation=notation,
        kinds=kinds,
    )


def _decided(kinds: Kinds, frame: Any, aside: Collection[str | None], missing: Collection[str]) -> Kinds:
    """How the table is read, with the decision whether its columns are of several kinds."""
    if kinds.mixed is not None:
        return kinds
    beside = {*aside, *kinds.asked.dropped}
    return replace(kinds, mixed=is_mixed({name: frame[name] for name in frame.columns if name not in beside}, missing))


def _other_kind(path: Path, suffix: str) -> ElbowroomError:
    if suffix in IMAGES:
        return ElbowroomError(
            f"{path} is one image, but a model is trained on many.", f"Give the folder that they lie in: {path.parent}"
        )
    if suffix in _PACKED:
        return ElbowroomError(
            f"{path} is packed, and elbowroom does not unpack.", "Unpack it, and give the folder or the file inside."
        )
    return ElbowroomError(
        f"{path} is not of a kind that elbowroom reads: {', '.join(KINDS)}, or a folder of images.",
        "Save a table as CSV, or rename it to .csv if it is text; save an array with numpy.save.",
    )


def _npy(path: Path) -> Material:
    array = _mapped(path)
    check_shape(array.shape, path.name)
    return Material(name=path.name, storage=MemoryMapped(array, path.name))


def _mapped(path: Path) -> npt.NDArray[Any]:
    if zipfile.is_zipfile(path):
        raise ElbowroomError(f"{path} is an archive, not a single array.", "Rename it to .npz.")
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as fault:
        raise unreadable(path, fault) from fault
    return array
