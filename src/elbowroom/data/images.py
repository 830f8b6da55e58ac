"""Reading a folder of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from elbowroom.data.storage import InMemory, Material, as_tensor, check_shape
from elbowroom.errors import ElbowroomError

__all__ = ["image_folder"]

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
# as which an image of this mode is read
_MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "LA": "LA", "RGBA": "RGBA"}


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
