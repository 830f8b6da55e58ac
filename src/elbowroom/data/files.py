"""Reading the user's files: ``.npy`` (memory-mapped), ``.npz``, tables, folders of images. Nothing is unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch

from elbowroom.data.images import image_folder
from elbowroom.data.naming import Naming
from elbowroom.data.sources import BUILT_IN
from elbowroom.data.storage import InMemory, Material, MemoryMapped, as_classes, as_tensor, check_shape
from elbowroom.data.tables import frame_material, read_table
from elbowroom.errors import ElbowroomError, did_you_mean
from elbowroom.progress import Announce

__all__ = ["KINDS", "load_file"]

KINDS = (".npy", ".npz", ".csv", ".tsv", ".parquet")


def load_file(
    path: Path,
    *,
    context: Sequence[str] | None = None,
    labels: str | None = None,
    id: str | None = None,  # noqa: A002  # the keyword of `load_data`
    optional: Collection[str] = (),
    like: Naming | None = None,
    announce: Announce | None = None,
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
    Raises:
        ElbowroomError: missing, empty, truncated, of another kind, pickled, or not numbers.
    """
    if not path.exists():
        kinds = ", ".join(KINDS)
        remedy = did_you_mean(str(path), BUILT_IN) if len(path.parts) == 1 and not path.suffix else "Check the path."
        raise ElbowroomError(
            f"'{path}' is neither a built-in data set nor a file (of {kinds}) nor a folder of images.", remedy
        )
    suffix = path.suffix.lower()
    table = suffix in (".csv", ".tsv", ".parquet")
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
    if path.is_dir():
        return image_folder(path)
    if suffix not in KINDS:
        raise ElbowroomError(
            f"{path} is not of a kind that elbowroom reads: {', '.join(KINDS)}, or a folder of images.",
            "Convert it, for instance with numpy.save.",
        )
    if path.stat().st_size == 0:
        raise ElbowroomError(f"{path} is empty (0 bytes).", "Write the data to it again.")
    if table:
        frame = read_table(path, as_text=() if id is None else (id,))
        return frame_material(
            frame,
            path.name,
            context=context,
            labels=labels,
            id=id,
            optional=optional,
            like=like,
            announce=announce,
        )
    return _npz(path) if suffix == ".npz" else _npy(path)


def _npy(path: Path) -> Material:
    if zipfile.is_zipfile(path):
        raise ElbowroomError(f"{path} is an archive, not a single array.", "Rename it to .npz.")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as fault:
        raise _unreadable(path, fault) from fault
    check_shape(array.shape, path.name)
    return Material(name=path.name, storage=MemoryMapped(array, path.name))


def _npz(path: Path) -> Material:
    try:
        with path.open("rb") as file:  # opened here, so that it is closed even where numpy gives up half-way
            archive = np.load(file, allow_pickle=False)
            arrays = None if isinstance(archive, np.ndarray) else {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as fault:
        raise _unreadable(path, fault) from fault
    if arrays is None:
        raise ElbowroomError(f"{path} holds a single array, not an archive.", "Rename it to .npy.")
    found = ", ".join(arrays) or "nothing"
    rest = [key for key in arrays if key not in ("labels", "context", "mask")]
    key = "x" if "x" in arrays else rest[0] if len(rest) == 1 else None
    if key is None:
        raise ElbowroomError(
            f"{path} holds {found}, but one array named x is expected.", "Save it as numpy.savez(path, x=...)."
        )
    x = arrays[key]
    check_shape(x.shape, path.name)
    for companion in ("labels", "context", "mask"):
        given = arrays.get(companion)
        wanted = x.shape if companion == "mask" else x.shape[:1]
        if given is not None and given.shape[: len(wanted)] != wanted:
            raise ElbowroomError(
                f"In {path}, {companion} has shape {given.shape}, but x has {x.shape}.",
                f"Give {companion} one entry for each {'element' if companion == 'mask' else 'row'} of x.",
            )
    tensor = as_tensor(x, path.name)
    mask = arrays.get("mask")
    if mask is not None:
        tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        tensor = tensor.masked_fill(~torch.from_numpy(mask.astype(bool)), torch.nan)
    context = arrays.get("context")
    labels, classes = as_classes(arrays["labels"], f"labels of {path.name}") if "labels" in arrays else (None, None)
    return Material(
        name=path.name,
        storage=InMemory(tensor if tensor.dim() > 1 else tensor[:, None]),
        labels=labels,
        classes=classes,
        context=None
        if context is None
        else as_tensor(context.reshape(len(context), -1), f"the context of {path.name}"),
        masked=mask is not None,
    )


def _unreadable(path: Path, fault: Exception) -> ElbowroomError:
    reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
    if "pickle" in reason or "Python object" in reason:
        return ElbowroomError(
            f"{path} holds pickled Python objects, but data are numbers; elbowroom never unpickles.",
            "Save it as an array of one numeric type: numpy.save(path, x.astype(numpy.float32)).",
        )
    return ElbowroomError(f"{path} is truncated or not a numpy file ({reason}).", "Write it again with numpy.save.")
