"""Reading the user's files: ``.npy`` (memory-mapped), ``.npz``, tables, folders of images. Nothing is unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from elbowroom.data.sources import BUILT_IN
from elbowroom.data.storage import InMemory, Material, MemoryMapped, as_classes, as_tensor, check_shape
from elbowroom.data.tables import frame_material, read_table
from elbowroom.errors import ElbowroomError, did_you_mean

__all__ = ["KINDS", "image_folder", "load_file"]

KINDS = (".npy", ".npz", ".csv", ".tsv", ".parquet")
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
# as which an image of this mode is read
_MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "LA": "LA", "RGBA": "RGBA"}


def load_file(
    path: Path,
    *,
    context: list[str] | None = None,
    labels: str | None = None,
    labels_required: bool = True,
    levels: Mapping[str, Sequence[str]] | None = None,
) -> Material:
    """Read the file or folder at a path.

    Args:
        path: a file of one of :data:`KINDS`, or a folder of images.
        context: of a table, the columns that become the context.
        labels: of a table, the column of class labels.
        labels_required: whether it is a fault that there is no such column.
        levels: of a table, the known values of text columns in the context.
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
    if labels is not None and labels_required and not table:
        raise ElbowroomError(
            f"The label column {labels} was asked for, but {path} is not a table.",
            "Leave --data.labels out, or give a .csv, .tsv or .parquet file.",
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
        frame = read_table(path)
        if not labels_required and labels not in frame.columns:
            labels = None
        return frame_material(frame, path.name, context=context, labels=labels, levels=levels)
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


def image_folder(path: Path) -> Material:
    """All images below a folder, sorted by path: grey ones as (height, width), colour ones as (3, height, width).

    The folder in which an image lies is its label, where there are several. An alpha channel without any transparency
    is dropped. An image with a palette is grey if all its colours are, unless others of the folder are in colour.

    Raises:
        ElbowroomError: no image, one that cannot be read, or one that differs from the first in size or mode, or
            is transparent.
    """
    from PIL import Image

    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _IMAGES and file.is_file())
    if not files:
        contents = "is empty" if not any(path.iterdir()) else "holds no image"
        raise ElbowroomError(f"The folder {path} {contents}.", f"Put images into it ({', '.join(_IMAGES)}).")
    pictures: list[npt.NDArray[np.uint8]] = []
    either: list[int] = []  # which of them are grey, though written in colours of a palette
    for file in files:
        try:
            with Image.open(file) as image:
                mode = _MODES.get(image.mode)
                if mode is None:
                    raise ElbowroomError(
                        f"{file} has colour mode {image.mode}, but grey or RGB is expected.",
                        "Convert it, for instance with PIL: image.convert('RGB').",
                    )
                picture = _without_alpha(np.asarray(image.convert(mode)), mode, file)
                if image.mode == "P" and bool((picture == picture[..., :1]).all()):
                    either.append(len(pictures))
        except (OSError, SyntaxError, ValueError) as fault:  # what Pillow raises on a damaged file
            raise ElbowroomError(
                f"{file} cannot be read as an image ({fault}).", "Replace it, or take it out of the folder."
            ) from fault
        pictures.append(picture)
    if not any(picture.ndim == 3 for at, picture in enumerate(pictures) if at not in set(either)):
        for at in either:
            pictures[at] = pictures[at][..., 0]
    for file, picture in zip(files, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            raise ElbowroomError(
                f"{file} is {_form(picture)}, but {files[0].name} is {_form(pictures[0])}.",
                "Bring all images to one size, all grey or all in colour.",
            )
    check_shape((len(pictures), *pictures[0].shape), f"The folder {path}")
    stacked = np.stack(pictures)
    if stacked.ndim == 4:
        stacked = stacked.transpose(0, 3, 1, 2)
    folders = sorted({file.parent for file in files})
    if len(folders) == 1:
        return Material(name=path.name, storage=InMemory(as_tensor(stacked)))
    place = {folder: at for at, folder in enumerate(folders)}
    return Material(
        name=path.name,
        storage=InMemory(as_tensor(stacked)),
        labels=torch.tensor([place[file.parent] for file in files]),
        classes=tuple(folder.relative_to(path).as_posix() for folder in folders),
    )


def _without_alpha(picture: npt.NDArray[np.uint8], mode: str, file: Path) -> npt.NDArray[np.uint8]:
    if mode not in ("LA", "RGBA"):
        return picture
    if not (picture[..., -1] == 255).all():
        raise ElbowroomError(
            f"{file} has transparent pixels (colour mode {mode}), but grey or RGB is expected.",
            "Paint it on a background, for instance with PIL: image.convert('RGB').",
        )
    return picture[..., 0] if mode == "LA" else picture[..., :3]


def _form(picture: npt.NDArray[np.uint8]) -> str:
    height, width = picture.shape[:2]
    return f"{width}x{height} {'RGB' if picture.ndim == 3 else 'grey'}"
