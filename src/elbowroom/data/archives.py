"""Reading ``.npz`` archives: rows with labels, context and mask; training and test rows; or a sparse matrix.

Which array is which follows from the names. Rows are called x (or X, data, images, features, inputs), class labels
labels (or y, target, targets); context and mask have no other names. Each may exist more than once, for training,
validation and test: ``x_train`` and ``x_test``, ``train_images`` and ``test_images``, ``train`` and ``test``.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elbowroom.data.arrays import dense_array
from elbowroom.data.records import Records, is_records
from elbowroom.data.storage import InMemory, Material, as_classes, as_tensor, check_shape
from elbowroom.data.tables import frame_material
from elbowroom.errors import ElbowroomError

__all__ = ["POSITIONS", "read_archive", "unreadable"]

POSITIONS = "row"  #: of values that were evaluated, their positions in the data that they came from

_OWN = ("x", "labels", "context", "mask")  # the names that win where others would do, too
_ROLES = {
    **dict.fromkeys(("x", "data", "images", "image", "features", "inputs"), "x"),
    **dict.fromkeys(("y", "labels", "label", "targets", "target"), "labels"),
    "context": "context",
    "mask": "mask",
}
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_SPARSE = {"format", "shape", "data"}  # what scipy.sparse.save_npz always writes


class _Place(NamedTuple):
    """What an array is: x, labels, context or mask; of train, validation or test, or of all rows ("")."""

    role: str
    split: str


class _Found(NamedTuple):
    """The arrays that are used, and the names of those that are not."""

    arrays: dict[_Place, npt.NDArray[Any]]
    names: dict[_Place, str]
    unused: list[str]


def read_archive(path: Path) -> Material:
    """The rows of an ``.npz`` archive; nothing is unpickled.

    Raises:
        ElbowroomError: damaged, pickled, a single array, several arrays of which none is x, or companions that do not
            fit.
    """
    try:
        with path.open("rb") as file:  # opened here, so that it is closed even where numpy gives up half-way
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ElbowroomError(f"{path} holds a single array, not an archive.", "Rename it to .npy.")
            if set(archive.files) >= _SPARSE:
                return _sparse(path)
            names = _places(archive.files)
            if not any(place.role == "x" for place in names):
                raise ElbowroomError(
                    f"{path} holds {', '.join(archive.files) or 'nothing'}, but one array named x is expected.",
                    "Save it as numpy.savez(path, x=...), or with a test set as numpy.savez(path, x_train=..., "
                    "x_test=...).",
                )
            unused = [key for key in archive.files if key not in names.values() and key != POSITIONS]
            found = _Found({place: archive[key] for place, key in names.items()}, names, unused)
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as fault:
        raise unreadable(path, fault) from fault
    return _material(path, found)


def _sparse(path: Path) -> Material:
    from scipy import sparse  # type: ignore[import-untyped]  # scikit-learn brings scipy

    x = as_tensor(np.asarray(dense_array(sparse.load_npz(path))), path.name)
    check_shape(tuple(x.shape), path.name)
    return Material(name=path.name, storage=InMemory(x))


def _places(keys: Sequence[str]) -> dict[_Place, str]:
    """Which array is what. A single one with an unknown name is x; two that could be the same are neither."""
    names: dict[_Place, str] = {}
    twice: set[_Place] = set()
    for key in sorted(keys, key=lambda key: key not in _OWN):
        place = _place(key)
        if place is None:
            continue
        if place in names and names[place] not in _OWN:
            twice.add(place)
        names.setdefault(place, key)
    unknown = [key for key in keys if _place(key) is None]
    if len(unknown) == 1 and not any(place.role == "x" for place in names):
        names[_Place("x", "")] = unknown[0]
    return {place: key for place, key in names.items() if place not in twice}


def _place(key: str) -> _Place | None:
    """What an array is, by its name.

    Example:
        >>> _place("x_train"), _place("testY"), _place("weights")
        (_Place(role='x', split='train'), _Place(role='labels', split='test'), None)
    """
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", key)]
    if len(words) == 1 and (joined := re.fullmatch(r"([xy])(train|test|val)", words[0])):
        words = [joined[1], joined[2]]
    splits = [_SPLITS[word] for word in words if word in _SPLITS]
    others = [word for word in words if word not in _SPLITS]
    if len(splits) > 1 or len(others) > 1 or not words:
        return None
    role = _ROLES.get(others[0]) if others else "x"
    return None if role is None else _Place(role, splits[0] if splits else "")


def _material(path: Path, found: _Found) -> Material:
    parts = _parts(path, found)
    x = next(iter(parts.values())) if len(parts) == 1 else np.concatenate(list(parts.values()))
    if is_records(x):
        return frame_material(Records(x, path.name), path.name)
    tensor = as_tensor(x, path.name)
    mask = _companion(path, "mask", parts, found)
    if mask is not None:
        tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        tensor = tensor.masked_fill(~torch.from_numpy(mask.astype(bool)), torch.nan)
    context = _companion(path, "context", parts, found)
    labels, classes = _labels(path, parts, found)
    remarks = []
    if len(parts) > 1:
        counts = ", ".join(f"{len(part):,} for {split}" for split, part in parts.items())
        joined = "; those for validation are taken for training, too" if "validation" in parts else ""
        remarks.append(f"{path.name} says what its rows are for: {counts}{joined}.")
    if found.unused:
        remarks.append(f"Not used, of {path.name}: {', '.join(found.unused)}.")
    return Material(
        name=path.name,
        storage=InMemory(tensor if tensor.dim() > 1 else tensor[:, None]),
        labels=labels,
        classes=classes,
        context=None
        if context is None
        else as_tensor(context.reshape(len(context), -1), f"the context of {path.name}"),
        test_rows=torch.arange(len(x) - len(parts["test"]), len(x)) if len(parts) > 1 and "test" in parts else None,
        masked=mask is not None,
        remarks=tuple(remarks),
    )


def _parts(path: Path, found: _Found) -> dict[str, npt.NDArray[Any]]:
    """The rows of every split, those for training first; or all rows, as the split ""."""
    splits = [split for split in ("", "train", "validation", "test") if _Place("x", split) in found.arrays]
    if "" in splits:
        found.unused.extend(key for place, key in found.names.items() if place.split)
        splits = [""]
    parts = {split: found.arrays[_Place("x", split)] for split in splits}
    first = found.names[_Place("x", splits[0])]
    for split, part in parts.items():
        key = found.names[_Place("x", split)]
        check_shape(part.shape, path.name if len(parts) == 1 else f"{key} of {path.name}")
        if part.shape[1:] != parts[splits[0]].shape[1:]:
            raise ElbowroomError(
                f"In {path}, the rows of {key} have shape {part.shape[1:]}, but those of {first} have "
                f"{parts[splits[0]].shape[1:]}.",
                f"Bring both to one shape, or save {first} alone.",
            )
    return parts


def _companion(path: Path, role: str, parts: Mapping[str, npt.NDArray[Any]], found: _Found) -> npt.NDArray[Any] | None:
    """Labels, context or mask of all rows; None if there are none."""
    given = {split: _Place(role, split) for split in parts if _Place(role, split) in found.arrays}
    if not given:
        return None
    if len(given) < len(parts):
        lacking = ", ".join(found.names[_Place("x", split)] for split in parts if split not in given)
        raise ElbowroomError(
            f"{path} holds {', '.join(found.names[place] for place in given.values())}, but no {role} for {lacking}.",
            f"Save {role} for all rows, or for none.",
        )
    for split, place in given.items():
        x, values = parts[split], found.arrays[place]
        wanted = x.shape if role == "mask" else x.shape[:1]
        if values.shape[: len(wanted)] != wanted:
            raise ElbowroomError(
                f"In {path}, {found.names[place]} has shape {values.shape}, but x has {x.shape}.",
                f"Give {found.names[place]} one entry for each {'element' if role == 'mask' else 'row'} of x.",
            )
    arrays = [found.arrays[place] for place in given.values()]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _labels(
    path: Path, parts: Mapping[str, npt.NDArray[Any]], found: _Found
) -> tuple[Tensor | None, tuple[str, ...] | None]:
    """The class labels; what is called y or target may be none, as in a regression, and is not used then."""
    key = found.names.get(_Place("labels", next(iter(parts))))
    try:
        values = _companion(path, "labels", parts, found)
        if values is None:
            return None, None
        if values.size != len(values):
            raise ElbowroomError(
                f"In {path}, {key} has shape {values.shape}, but a row has one class.",
                f"Give {key} one class number or name for each row.",
            )
        return as_classes(values, f"{key} of {path.name}")
    except ElbowroomError:
        if key == "labels":
            raise
    found.unused.extend(name for place, name in found.names.items() if place.role == "labels" and place.split in parts)
    return None, None


def unreadable(path: Path, fault: Exception) -> ElbowroomError:
    """The error for a file of numpy that is damaged, or holds pickled objects."""
    reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
    if "pickle" in reason or "Python object" in reason:
        return ElbowroomError(
            f"{path} holds pickled Python objects, but data are numbers; elbowroom never unpickles.",
            "Save it as an array of one numeric type: numpy.save(path, x.astype(numpy.float32)).",
        )
    return ElbowroomError(f"{path} is truncated or not a numpy file ({reason}).", "Write it again with numpy.save.")
