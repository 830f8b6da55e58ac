"""Decoding of one picture: an image of PIL, of any colour mode, as grey values or colours.

======================  ==========================================================================================
what lies in the file   what becomes of it
======================  ==========================================================================================
8 bits, 1 bit           bytes 0..255 as they are
a palette, CMYK, …      bytes of red, green and blue
transparency α          laid on white: α x + (1 − α) 255; nothing changes where every pixel is opaque
16 bits, grey           x / 65535, from 0 to 1
floating point          as it is, as a grey value where all lie between 0 and 1, otherwise as a measurement
32-bit whole numbers    as they are, as measurements
EXIF orientation        turned upright
pages, frames           the first, and their number
======================  ==========================================================================================
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Picture", "decode", "fitted", "greyed", "is_picture", "item_pixels"]

_ORIENTATION = 0x0112  # the tag of EXIF; 1 is upright
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: grey values of shape (height, width), or colours of shape (height, width, 3).
        kind: bytes (0..255); sixteen and float (numbers from 0 to 1); or measured (any numbers).
        either: whether a picture in colours is grey all the same, since all colours of its palette are.
        turned, composited, reduced: whether it was turned upright, laid on white, or had 16 bits per colour, of which
            Pillow reads the upper eight.
        pages: how many pages or frames the file holds.
    """

    pixels: npt.NDArray[Any]
    kind: Literal["bytes", "sixteen", "float", "measured"]
    either: bool = False
    turned: bool = False
    composited: bool = False
    reduced: bool = False
    pages: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def grey(self) -> bool:
        """Whether it has one value for each pixel."""
        return self.pixels.ndim == 2

    def __str__(self) -> str:
        width, height = self.size
        return f"{width}x{height} {'grey' if self.grey else 'RGB'}"


def is_picture(value: Any) -> bool:
    """Whether a value is an image of PIL."""
    module = sys.modules.get("PIL.Image")  # without it there is none
    return module is not None and isinstance(value, module.Image)


def decode(image: Any) -> Picture:
    """The pixels of an image of PIL.

    Raises:
        OSError, SyntaxError, ValueError: what Pillow raises for a damaged file.
    Example:
        >>> from PIL import Image
        >>> decode(Image.new("LA", (3, 2), (0, 51))).pixels  # black, of which a fifth covers the white
        array([[204, 204, 204],
               [204, 204, 204]], dtype=uint8)
    """
    from PIL import ImageOps

    reduced = image.getbands() != ("I",) and any(_is_wide(part) for part in getattr(image, "tile", ()))
    pages = int(getattr(image, "n_frames", 1))
    turned = image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    upright = ImageOps.exif_transpose(image)
    mode = upright.mode
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        whole = np.asarray(upright)
        hidden = whole == upright.info.get("transparency", -1)  # the one grey value that is not shown
        pixels = np.where(hidden, np.float32(1), whole.astype(np.float32) / np.float32(65535))
        return Picture(pixels, "sixteen", turned=turned, composited=bool(hidden.any()), pages=pages)
    if mode in ("I", "F"):
        pixels = np.array(upright)
        inside = mode == "F" and bool(((pixels >= 0) & (pixels <= 1)).all())
        return Picture(pixels, "float" if inside else "measured", turned=turned, pages=pages)
    grey = mode in ("1", "L", "LA", "La")
    composited = False
    if upright.has_transparency_data:
        whole_mode = _PREMULTIPLIED.get(mode, mode)
        layers = np.asarray(upright.convert(whole_mode).convert("RGBA"))
        pixels, alpha = layers[..., :3], layers[..., 3:]
        composited = bool((alpha < 255).any())
        if composited:
            share = alpha.astype(np.float32) / 255
            pixels = np.rint(share * pixels + (1 - share) * 255).astype(np.uint8)
        pixels = pixels[..., 0] if grey else pixels
    else:
        pixels = np.asarray(upright.convert("L" if grey else "RGB"))
    either = mode in ("P", "PA") and bool((pixels == pixels[..., :1]).all())
    return Picture(pixels, "bytes", either, turned, composited, reduced, pages)


def _is_wide(tile: Any) -> bool:
    """Whether a file holds more than 8 bits per value, by what Pillow tells its decoder: "RGB;16B", ("RGB", 1023)."""
    how = tile[-1]
    greatest = how[-1] if isinstance(how, tuple) and len(how) == 2 else 0  # of PPM
    return ";16" in str(how) or (isinstance(greatest, int) and greatest > 255)


def item_pixels(image: Any) -> npt.NDArray[Any]:
    """The pixels of an image that a ``Dataset`` returned, (height, width) or (height, width, 3).

    A plain grey, colour or 1-bit image is taken as numpy takes it.
    """
    if image.mode in ("1", "L", "RGB"):
        return np.asarray(image)
    picture = decode(image)
    return picture.pixels[..., 0] if picture.either else picture.pixels


def greyed(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Colours (height, width, 3) as grey values, by the luma of ITU-R 601: 0.299 R + 0.587 G + 0.114 B."""
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).convert("L"))


def fitted(pixels: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """The middle of a picture in the proportions of ``size``, scaled to it.

    Every new pixel is an average, with weights of a triangle that is as wide as the new pixels where these are larger
    (bilinear with antialiasing), so that no value leaves the range of the old ones.

    Args:
        pixels: shape (height, width) or, of bytes, (height, width, 3).
        size: width and height.
    Example:
        >>> fitted(np.array([[0, 100], [0, 100]], dtype=np.uint8), (1, 1))
        array([[50]], dtype=uint8)
    """
    from PIL import Image, ImageOps

    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    image = Image.fromarray(pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32))
    return np.asarray(ImageOps.fit(image, size, method=Image.Resampling.BILINEAR))
