"""Data from Python that a run keeps in its folder (``er.train(…, keep_data=True)``), and reads again by itself.

::

    RUN/data/x.npy          the rows, in their own type
             labels.npy     class numbers, if there are any
             context.npy    covariates, if there are any
             names.json     names of columns, classes, levels and rows

The folder is written under a temporary name and renamed, so it is complete where it exists. Whether the rows are still
those of the training is seen from their digest in config.json, as for a file. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from elbowroom.data.columns.column import Column
from elbowroom.data.dataset import DataSet
from elbowroom.data.storage import InMemory, Material, MemoryMapped, Storage
from elbowroom.data.stream import StreamSet
from elbowroom.errors import ElbowroomError
from elbowroom.numerics import chunks
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
    common = {field.name for field in fields(Material)} & {field.name for field in fields(DataSet)}
    context = data.context if data.raw_context is None else data.raw_context
    beside = {name: getattr(data, name) for name in common - {"storage", "context"}}
    return Material(**beside, context=context, storage=storage)


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
        beside = {field.name: getattr(material, field.name) for field in fields(material) if field.name != "storage"}
        tensors = {name: values for name, values in beside.items() if isinstance(values, Tensor)}
        for name, values in tensors.items():
            np.save(temporary / f"{name}.npy", values.cpu().numpy())
        words = {name: given for name, given in beside.items() if name not in tensors}
        for name in ("kinds", "aside"):
            words[name] = None if words[name] is None else [column.as_dict() for column in words[name]]
        content = {"in_memory": material.storage.in_memory, "tensors": [*tensors], "words": words}
        (temporary / _NAMES).write_text(json.dumps(content), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    return size


def _write_rows(path: Path, storage: Storage) -> int:
    """Writes a .npy file in chunks; not through a memory map, which a full disk would kill the process for."""
    assert isinstance(storage, InMemory | MemoryMapped)
    # in the type of the file, of which the digest depends, even where torch has no such type
    array = storage.array if isinstance(storage, MemoryMapped) else storage.tensor.cpu().numpy()
    with path.open("wb") as file:
        descr = np.lib.format.dtype_to_descr(array.dtype)
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": array.shape})
        for part in chunks(len(array), max(1, _CHUNK_BYTES * len(array) // array.nbytes)):
            file.write(array[part].tobytes())
        file.flush()
        os.fsync(file.fileno())
    return int(array.nbytes)


def read_kept(run: Path) -> Material:
    """The data in a run's folder.

    Raises:
        ElbowroomError: a file is missing or damaged.
    """
    folder = run / _FOLDER
    try:
        content = json.loads((folder / _NAMES).read_text(encoding="utf-8"))
        in_memory = bool(content["in_memory"])
        x = np.load(folder / "x.npy", mmap_mode=None if in_memory else "r", allow_pickle=False)
        beside: dict[str, Any] = {
            name: torch.from_numpy(np.load(folder / f"{name}.npy")) for name in content["tensors"]
        }
        storage: Storage = InMemory(torch.from_numpy(x)) if in_memory else MemoryMapped(x)
        words = content["words"]
        columns = {name: tuple(map(Column.from_dict, words[name])) for name in ("kinds", "aside") if words.get(name)}
        return Material(**_with_tuples(words) | columns, **beside, storage=storage)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise ElbowroomError(
            f"The data that the run {run} keeps cannot be read from {folder} ({error}).",
            f"Restore that folder, or delete it and give the data again: er.load({str(run)!r}, data=…).",
        ) from error


def _with_tuples(given: Any) -> Any:
    """The same with tuples, which JSON writes as lists."""
    if isinstance(given, dict):
        return {name: _with_tuples(value) for name, value in given.items()}
    return tuple(_with_tuples(value) for value in given) if isinstance(given, list) else given
