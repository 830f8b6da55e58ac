"""Reading pictures: a folder of files, or images of PIL in a list; all of them rows of one form."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from elbowroom.data.pictures.decoding import Picture, decode, fitted, greyed, is_picture
from elbowroom.data.pictures.finding import IMAGES, counted, find_images, listed
from elbowroom.data.sources import BUILT_IN
from elbowroom.data.storage import InMemory, Material, as_tensor, check_shape
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError

__all__ = ["PictureOptions", "holds_pictures", "image_folder", "picture_list"]

# what Pillow raises on a damaged file, and on an image whose file was closed
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, AssertionError)


@dataclass(frozen=True)
class PictureOptions:
    """How pictures of several forms become rows of one.

    Attributes:
        size: width and height to crop and scale to; None leaves them as they are.
        mode: grey or rgb, for all; None leaves them as they are.
        values: what the values are to be: binary turns black and white into 0 and 1, bytes rounds finer ones,
            unit-interval divides bytes by 255, others leave all as they are; None finds out which of these fits.
        colour: whether pictures that are grey, though written in colours of a palette, are to be in colour; None finds
            it out from the others.
    """

    size: tuple[int, int] | None = None
    mode: Literal["grey", "rgb"] | None = None
    values: Support | None = None
    colour: bool | None = None

    @classmethod
    def of(cls, size: Any, mode: Any, values: Support | None = None, colour: bool | None = None) -> PictureOptions:
        """The options from a size in pixels, 64 or "64x48" or (64, 48) (width x height), and the name of a mode.

        Raises:
            ElbowroomError: a size or a mode that is none.
        Example:
            >>> PictureOptions.of("64x48", None).size
            (64, 48)
        """
        size = "x".join(map(str, size)) if isinstance(size, (tuple, list)) else size
        found = None if size is None else re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", str(size).strip().lower())
        if size is not None and found is None:
            raise ElbowroomError(
                f"--data.image-size is '{size}', but it is a number of pixels, or width x height.",
                "Give for instance --data.image-size 64 or --data.image-size 64x48.",
            )
        if mode not in (None, "grey", "rgb"):
            raise ElbowroomError(f"--data.image-mode is '{mode}'.", "Choose one of: grey, rgb.")
        sides = None if found is None else (int(found[1]), int(found[2] or found[1]))
        return cls(sides, mode, values, colour)

    def require_pictures(self, source: Any) -> None:
        """Refuse a size or a mode for data that are not read as pictures."""
        flag = "--data.image-size" if self.size else "--data.image-mode" if self.mode else None
        if flag is not None and not holds_pictures(source):
            raise ElbowroomError(
                f"{flag} was given, but the data are neither a folder of images nor a list of images of PIL.",
                f"Leave {flag} out, or give such pictures.",
            )
        if self.mode is not None and isinstance(source, str) and source in BUILT_IN:
            raise ElbowroomError(
                f"--data.image-mode was given, but the patches of {source} are in colour.", "Leave it out."
            )


def holds_pictures(source: Any) -> bool:
    """Whether a source is read as pictures of a size that can be chosen: a folder, a list of images of PIL, patches."""
    if isinstance(source, str) and source in BUILT_IN:
        return bool(BUILT_IN[source].sides)
    if isinstance(source, (str, Path)):
        return Path(source).expanduser().is_dir()
    return isinstance(source, (list, tuple)) and len(source) > 0 and all(is_picture(one) for one in source)


def image_folder(path: Path, options: PictureOptions | None = None, *, data_files: Sequence[str] = ()) -> Material:
    """All images below a folder, sorted by path: grey ones as (height, width), colour ones as (3, height, width).

    The folder in which an image lies is its label, where there are several. Hidden files and folders are left out.
    :mod:`elbowroom.data.pictures.decoding` says how one file is read. An image with a palette is grey if all its
    colours are, unless others of the folder are in colour.

    Args:
        path: the folder.
        options: what becomes of images of several forms.
        data_files: suffixes of files that could have been meant instead, where there is no image.
    Raises:
        ElbowroomError: no image, one that cannot be read, or images of several sizes or modes where ``options`` do not
            say what to make of them.
    """
    found = find_images(path)
    if not found.images:
        contents = "is empty" if not any(path.iterdir()) else "holds no image"
        if found.hidden or found.others:
            contents += f" beside {listed([*found.others, *found.hidden])}"
        other = next((file for file in found.others if file.suffix.lower() in data_files), None)
        remedy = f"Put images into it ({', '.join(IMAGES)})." if other is None else f"Name the file: {other}"
        raise ElbowroomError(f"The folder {path} {contents}.", remedy)
    names = [str(file) for file in found.images]
    material = _material(path.name, _decoded(found.images, names), names, options or PictureOptions())
    material = replace(material, remarks=(*found.remarks(), *material.remarks))
    folders = sorted({file.parent for file in found.images})
    if len(folders) == 1:
        return material
    place = {folder: at for at, folder in enumerate(folders)}
    return replace(
        material,
        labels=torch.tensor([place[file.parent] for file in found.images]),
        classes=tuple(folder.relative_to(path).as_posix() for folder in folders),
    )


def picture_list(images: Sequence[Any], options: PictureOptions | None = None) -> Material:
    """Images of PIL in a list, as :func:`image_folder` reads them from files."""
    names = [f"Picture {at}" for at in range(len(images))]
    return _material("the list of pictures", _decoded(images, names), names, options or PictureOptions())


def _decoded(sources: Sequence[Any], names: Sequence[str]) -> Iterator[Picture]:
    """The pictures of files or of images, one after the other."""
    from PIL import Image

    for source, name in zip(sources, names, strict=True):
        try:
            with Image.open(source) if isinstance(source, Path) else nullcontext(source) as image:
                picture = decode(image)
        except (*_DAMAGED, Image.DecompressionBombError) as fault:
            where = "folder" if isinstance(source, Path) else "list"
            raise ElbowroomError(
                f"{name} cannot be read as an image ({str(fault) or type(fault).__name__}).",
                f"Replace it, or take it out of the {where}.",
            ) from fault
        yield picture


def _material(name: str, decoded: Iterable[Picture], names: Sequence[str], options: PictureOptions) -> Material:
    """The pictures, stacked: shape (n, height, width) or (n, 3, height, width)."""
    pictures: list[Picture] = []
    before: list[tuple[tuple[int, int], bool]] = []  # what was given: size, and whether it was grey
    for picture in decoded:  # one after the other, since small ones take less memory than large ones
        before.append((picture.size, picture.grey or picture.either))
        pictures.append(_adapted(picture, options))
    coloured = options.colour if options.colour is not None else any(not (one.grey or one.either) for one in pictures)
    if not coloured:
        pictures = [replace(one, pixels=one.pixels[..., 0]) if one.either else one for one in pictures]
    _check_alike(pictures, names, trained=options.colour is not None)
    rows, said = _values(pictures, names, options.values)
    check_shape((len(rows), *rows[0].shape), name)
    stacked = np.stack(rows)
    if stacked.ndim == 4:
        stacked = stacked.transpose(0, 3, 1, 2)
    remarks = (*_remarks(pictures, before, options), *said)
    return Material(name=name, storage=InMemory(as_tensor(stacked)), remarks=remarks)


def _adapted(picture: Picture, options: PictureOptions) -> Picture:
    """A picture in the mode and of the size that were asked for."""
    pixels = picture.pixels
    if options.mode == "grey" and not picture.grey:
        pixels = pixels[..., 0] if picture.either else greyed(pixels)
    if options.size is not None:
        pixels = fitted(pixels, options.size)
    if options.mode == "rgb" and picture.grey:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    return replace(picture, pixels=pixels, either=picture.either and options.mode is None)


def _check_alike(pictures: Sequence[Picture], names: Sequence[str], *, trained: bool) -> None:
    first = pictures[0]
    for picture, name in zip(pictures, names, strict=True):
        if (picture.size, picture.grey) == (first.size, first.grey):
            continue
        remedies = []
        side = min(min(one.size) for one in pictures)
        if trained:  # what becomes of several forms was settled then
            remedies.append(
                f"Bring all to the form of the training data. A run trained with --data.image-size {side}, or "
                "--data.image-mode grey, does it by itself."
            )
        elif len({one.size for one in pictures}) > 1:
            remedies.append(f"To crop and scale all to one size, pass --data.image-size {side}, or another size.")
        if not trained and len({one.grey for one in pictures}) > 1:
            remedies.append("To have all grey or all in colour, pass --data.image-mode grey or --data.image-mode rgb.")
        raise ElbowroomError(f"{name} is {picture}, but {Path(names[0]).name} is {first}.", " ".join(remedies))


def _values(
    pictures: Sequence[Picture], names: Sequence[str], wanted: Support | None
) -> tuple[list[npt.NDArray[Any]], list[str]]:
    """The values of all pictures on one scale, and what was done to them, in sentences."""
    kinds = [picture.kind for picture in pictures]
    rows = [picture.pixels for picture in pictures]
    if "measured" in kinds:
        odd = next((at for at, kind in enumerate(kinds) if kind in ("bytes", "sixteen")), None)
        if odd is not None:
            raise ElbowroomError(
                f"{names[kinds.index('measured')]} holds measurements (signed or floating-point numbers), but "
                f"{Path(names[odd]).name} holds grey values of {8 if kinds[odd] == 'bytes' else 16} bits.",
                "Put the two kinds into folders of their own.",
            )
        return rows, ["The pictures hold measurements and not grey values, which were left as they are."]
    if set(kinds) == {"bytes"} and wanted is not Support.UNIT_INTERVAL:
        if wanted not in (None, Support.BINARY) or not all(map(_is_black_and_white, rows)):
            return rows, []
        said = "All pixels are black or white, and were read as 0 and 1; --data.support bytes keeps 0 and 255."
        return [row // 255 for row in rows], [said] if wanted is None and any(map(np.any, rows)) else []
    remarks = []
    if "sixteen" in kinds:
        greatest = max(float(row.max()) for row, kind in zip(rows, kinds, strict=True) if kind == "sixteen")
        remarks.append(f"Grey values of 16 bits were divided by 65535; the greatest was {round(greatest * 65535)}.")
    if "bytes" in kinds and set(kinds) != {"bytes"}:
        remarks.append("Those of 8 bits were divided by 255.")
    rows = [row.astype(np.float32) / np.float32(255) if row.dtype == np.uint8 else row for row in rows]
    if wanted is Support.BYTES:
        rounded = [np.rint(row * np.float32(255)).astype(np.uint8) for row in rows]
        return rounded, [*remarks, "All were then rounded to bytes."]
    return rows, remarks


def _is_black_and_white(pixels: npt.NDArray[Any]) -> bool:
    return pixels.ndim == 2 and bool(((pixels == 0) | (pixels == 255)).all())


def _remarks(
    pictures: Sequence[Picture], before: Sequence[tuple[tuple[int, int], bool]], options: PictureOptions
) -> list[str]:
    """What was done to size, mode, orientation and transparency, in sentences."""
    said = []
    sizes = {size for size, _ in before}
    if options.size is not None and sizes != {options.size}:
        width, height = options.size
        shapes = f"{len(sizes)} sizes" if len(sizes) > 1 else "size {}x{}".format(*next(iter(sizes)))
        cropped = "cropped and " if any(w * height != h * width for w, h in sizes) else ""
        larger = sum(width > w or height > h for (w, h), _ in before)
        enlarged = f"; {larger:,} of {len(before):,} were enlarged" if larger else ""
        said.append(f"Images of {shapes} were {cropped}scaled to {width}x{height}{enlarged}.")
    greys = sum(grey for _, grey in before)
    if options.mode == "grey" and greys < len(before):
        said.append(f"{counted(len(before) - greys, 'image')} turned from colours into grey values.")
    if options.mode == "rgb" and greys:
        said.append(f"{counted(greys, 'grey image')} given three equal colours.")
    facts: list[tuple[Callable[[Picture], bool], str]] = [
        (lambda one: one.turned, "turned upright, as the EXIF orientation says"),
        (lambda one: one.composited, "transparent in places, and laid on white"),
        (lambda one: one.reduced, "written with 16 bits per colour, of which the upper 8 were read"),
    ]
    for holds, words in facts:
        if number := sum(map(holds, pictures)):
            said.append(f"{counted(number, 'image')} {words}.")
    several = [one.pages for one in pictures if one.pages > 1]
    if several:
        files = "1 file holds" if len(several) == 1 else f"{len(several):,} files hold"
        said.append(f"{files} several pages or frames, {sum(several):,} in all; the first of each was read.")
    return said
