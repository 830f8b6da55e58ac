"""Data from Python that a run keeps in its folder (``er.train(…, keep_data=True)``), and reads again by itself.

RUN/data/x.npy          the rows, in their own type
         labels.npy     class numbers, if there are any
         context.npy    covariates, if there are any
         names.json     names of columns, classes, levels and rows

The folder is written under a temporary name and renamed, so it is complete where it exists. Whether the rows are still
those of the training is seen from their digest in config.json, as for a file. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from elbowroom.data.dataset import DataSet
from elbowroom.data.storage import InMemory, Material, MemoryMapped, Storage
from elbowroom.data.stream import StreamSet
from elbowroom.errors import ElbowroomError
from elbowroom.running.checkpoints import full_disk_explained

__all__ = ["as_material", "keep", "keeps_data", "read_kept"]

_FOLDER, _NAMES = "data", "names.json"
_CHUNK_BYTES = 1 << 26


def keeps_data(run: Path) -> bool:
    """Whether a run's folder holds its data."""
    return (run / _FOLDER / _NAMES).is_file()


def as_material(data: DataSet | StreamSet) -> Material:
    """The rows of a data set with all that was given beside them, ready to be kept; those of a ``Dataset`` are fetched.

    Raises:
        ElbowroomError: a stream.
    """
    if not isinstance(data, DataSet):
        raise ElbowroomError(
            "A stream cannot be kept beside the run, for it has no end.",
            "Leave keep_data out, or give an array or a Dataset.",
        )
    storage = data.storage
    if not isinstance(storage, InMemory | MemoryMapped):
        storage = InMemory(storage.gather(torch.arange(len(storage))))
    return Material(
        name=data.name,
        storage=storage,
        source=data.source,
        licence=data.licence,
        labels=data.labels,
        classes=data.classes,
        context=data.context,
        levels=data.levels,
        masked=data.masked,
        columns=data.columns,
        ids=data.ids,
        id_name=data.id_name,
    )


def keep(run: Path, material: Material) -> int:
    """Writes the data into a run's folder.

    Returns:
        The number of bytes of the rows.
    Raises:
        ElbowroomError: the disk is full.
    """
    final, temporary = run / _FOLDER, run / f".{_FOLDER}.writing"
    shutil.rmtree(temporary, ignore_errors=True)
    with full_disk_explained(final):
        temporary.mkdir(parents=True)
        size = _write_rows(temporary / "x.npy", material.storage)
        for name, values in (("labels", material.labels), ("context", material.context)):
            if values is not None:
                np.save(temporary / f"{name}.npy", values.cpu().numpy())
        (temporary / _NAMES).write_text(json.dumps(_names(material)), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    return size


def _write_rows(path: Path, storage: Storage) -> int:
    first = storage.gather(torch.arange(1)).cpu().numpy()
    rows = max(1, _CHUNK_BYTES // max(1, first.nbytes))
    written = np.lib.format.open_memmap(path, mode="w+", dtype=first.dtype, shape=(len(storage), *storage.event_shape))
    for part in torch.split(torch.arange(len(storage)), rows):
        written[part.numpy()] = storage.gather(part).cpu().numpy()
    written.flush()
    return int(written.nbytes)


def _names(material: Material) -> dict[str, Any]:
    return {
        "name": material.name,
        "source": material.source,
        "licence": material.licence,
        "in_memory": material.storage.in_memory,
        "masked": material.masked,
        "columns": material.columns,
        "classes": material.classes,
        "levels": material.levels,
        "ids": material.ids,
        "id_name": material.id_name,
    }


def read_kept(run: Path) -> Material:
    """The data in a run's folder.

    Raises:
        ElbowroomError: a file is missing or damaged.
    """
    folder = run / _FOLDER
    try:
        names = json.loads((folder / _NAMES).read_text(encoding="utf-8"))
        in_memory = bool(names["in_memory"])
        x = np.load(folder / "x.npy", mmap_mode=None if in_memory else "r", allow_pickle=False)
        beside = {name: _array(folder / f"{name}.npy") for name in ("labels", "context")}
        columns, classes, ids = (
            None if names[key] is None else tuple(names[key]) for key in ("columns", "classes", "ids")
        )
        levels = {column: tuple(of) for column, of in names["levels"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise ElbowroomError(
            f"The data that the run {run} keeps cannot be read from {folder} ({error}).",
            f"Restore that folder, or delete it and give the data again: er.load({str(run)!r}, data=…).",
        ) from error
    return Material(
        name=str(names["name"]),
        storage=InMemory(torch.from_numpy(x)) if in_memory else MemoryMapped(x),
        source=str(names["source"]),
        licence=str(names["licence"]),
        labels=beside["labels"],
        classes=classes,
        context=beside["context"],
        levels=levels,
        masked=bool(names["masked"]),
        columns=columns,
        ids=ids,
        id_name=names["id_name"],
    )


def _array(path: Path) -> Tensor | None:
    return torch.from_numpy(np.load(path, allow_pickle=False)) if path.is_file() else None
