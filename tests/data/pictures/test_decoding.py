"""One picture of any colour mode: what its pixels become."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from elbowroom.data.pictures.decoding import decode, fitted, greyed, item_pixels

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (4, 5), dtype=np.uint8)
RGB = RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (4, 5), dtype=np.uint8)


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """α x + (1 − α) 255, pixel by pixel."""
    flat = colours.reshape(*alpha.shape, -1)
    found = np.zeros(flat.shape)
    for row, column, colour in np.ndindex(*flat.shape):
        share = alpha[row, column] / 255
        found[row, column, colour] = round(share * flat[row, column, colour] + (1 - share) * 255)
    return found.reshape(colours.shape).astype(np.uint8)


def through(image: Image.Image, kind: str, **options: Any) -> Image.Image:
    """An image, written and opened again."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Image.open(io.BytesIO(buffer.getvalue()))


@pytest.mark.parametrize("opaque", [True, False])
def test_transparency_is_laid_on_white(opaque: bool) -> None:
    alpha = np.full_like(ALPHA, 255) if opaque else ALPHA
    for colours in (GREY, RGB):
        layers = np.dstack([colours, alpha])
        for image in (Image.fromarray(layers), through(Image.fromarray(layers), "png")):
            found = decode(image)
            expected = colours if opaque else on_white(colours, alpha)
            assert np.abs(found.pixels.astype(int) - expected).max() <= (0 if opaque else 1)
            assert (found.composited, found.grey) == (not opaque, colours.ndim == 2)


def test_a_hidden_colour_does_not_show() -> None:
    layers = np.zeros((2, 2, 4), np.uint8)
    layers[0, 0] = (200, 30, 40, 0)
    assert decode(Image.fromarray(layers)).pixels[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_one_transparent_colour(mode: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    key = image.getpixel((0, 0))
    opened = through(image, "png", transparency=key)
    hidden = np.asarray(image.convert("RGB")) == np.asarray(image.convert("RGB"))[0, 0]
    found = decode(opened)
    assert found.composited
    assert (found.pixels[hidden.all(-1)] == 255).all()
    shown = found.pixels if found.pixels.ndim == 3 else np.stack([found.pixels] * 3, -1)
    assert np.array_equal(shown[~hidden.all(-1)], np.asarray(image.convert("RGB"))[~hidden.all(-1)])


def test_a_palette_with_an_alpha_for_each_colour() -> None:
    image = Image.fromarray(RGB).quantize(4)
    opened = through(image, "png", transparency=bytes([0, 255, 255, 255]))
    first = np.asarray(image) == 0
    assert (decode(opened).pixels[first] == 255).all()


@pytest.mark.parametrize("form", ["png", "tiff", "ppm"])
def test_sixteen_bits(form: str) -> None:
    whole = (np.arange(256, dtype=np.uint16) * 257)[::-1].reshape(16, 16)
    whole[3, 3] = 1  # which eight bits would not keep
    found = decode(through(Image.fromarray(whole).convert("I;16"), form))
    assert found.kind == "sixteen"
    assert found.pixels.dtype == np.float32
    assert np.array_equal(np.rint(found.pixels.astype(np.float64) * 65535), whole)


def test_sixteen_bits_big_endian() -> None:
    content = Image.frombytes("I;16B", (2, 1), b"\xff\xff\x00\x01")
    assert np.rint(decode(content).pixels * 65535).tolist() == [[65535, 1]]


def test_sixteen_bits_with_a_transparent_value() -> None:
    whole = np.array([[7, 300], [300, 65535]], dtype=np.uint16)
    found = decode(through(Image.fromarray(whole).convert("I;16"), "png", transparency=300))
    assert found.composited
    assert np.rint(found.pixels * 65535).tolist() == [[7, 65535], [65535, 65535]]


def test_floating_point() -> None:
    unit = RNG.random((4, 5)).astype(np.float32)
    assert decode(through(Image.fromarray(unit), "tiff")).kind == "float"
    for values in (unit - 0.5, unit * 1000, np.where(unit < 0.5, np.nan, unit).astype(np.float32)):
        found = decode(through(Image.fromarray(values), "tiff"))
        assert found.kind == "measured"
        assert np.array_equal(found.pixels, values, equal_nan=True)


def test_whole_numbers_of_32_bits_are_measurements() -> None:
    whole = RNG.integers(-(10**6), 10**6, (4, 5), dtype=np.int32)
    found = decode(through(Image.fromarray(whole), "tiff"))
    assert found.kind == "measured"
    assert np.array_equal(found.pixels, whole)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "LAB", "RGBX", "RGBa", "La", "PA"])
def test_other_colours(mode: str) -> None:
    even = np.full((4, 5, 3), (200, 90, 30), np.uint8)
    start = "LA" if mode == "La" else "RGBA" if mode in ("RGBa", "PA") else "RGB"
    image = Image.fromarray(even).convert(start).convert(mode)
    found = decode(image)
    expected = np.asarray(Image.fromarray(even).convert("L")) if mode == "La" else even
    assert np.abs(found.pixels.astype(int) - expected).max() <= 4
    assert not found.composited


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode(through(Image.fromarray(GREY), "png", exif=exif))
    # how the first row and the first column of the file lie in the picture, by the standard's table
    turned = {
        1: GREY,
        2: GREY[:, ::-1],
        3: GREY[::-1, ::-1],
        4: GREY[::-1],
        5: GREY.T,
        6: GREY.T[:, ::-1],
        7: GREY.T[::-1, ::-1],
        8: GREY.T[::-1],
    }
    assert np.array_equal(found.pixels, turned[orientation])
    assert found.turned == (orientation > 1)


@pytest.mark.parametrize("form", ["gif", "tiff", "png", "webp"])
def test_pages(form: str) -> None:
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)).convert("RGB") for value in (0, 120, 250)]
    options = {"lossless": True} if form == "webp" else {}
    found = decode(through(frames[0], form, save_all=True, append_images=frames[1:], **options))
    assert found.pages == 3
    assert found.pixels.max() == 0


def test_colours_of_sixteen_bits_are_told() -> None:
    import struct
    import zlib

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" + bytes([200, 1, 100, 2, 50, 3])))
    found = decode(Image.open(io.BytesIO(b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b""))))
    assert found.reduced
    assert found.pixels.tolist() == [[[200, 100, 50]]]
    assert decode(Image.open(io.BytesIO(b"P6 1 1 1023\n" + struct.pack(">HHH", 1023, 0, 512)))).reduced
    for form in ("png", "jpeg", "tiff", "ppm", "gif", "bmp"):
        assert not decode(through(Image.fromarray(RGB), form)).reduced
    assert not decode(Image.open(io.BytesIO(b"P5 1 1 1023\n" + struct.pack(">H", 7)))).reduced


def test_pixels_of_items() -> None:
    assert item_pixels(Image.fromarray(GREY > 99)).dtype == bool  # what a Dataset returns stays what numpy makes of it
    assert np.array_equal(item_pixels(Image.fromarray(RGB)), RGB)
    grey_palette = Image.fromarray(GREY).convert("P")
    assert np.array_equal(item_pixels(grey_palette), GREY)
    assert item_pixels(Image.fromarray(RGB).quantize(8)).shape == (4, 5, 3)


def test_luma() -> None:
    expected = RGB @ np.array([0.299, 0.587, 0.114])
    assert np.abs(greyed(RGB) - expected).max() <= 1


@pytest.mark.parametrize("dtype", ["u1", "f4", "i4"])
def test_fitting_averages_blocks_of_a_picture_that_varies_slowly(dtype: str) -> None:
    ramp = np.add.outer(np.arange(64), np.zeros(64)).astype(dtype)
    found = fitted(ramp, (16, 16)).astype(float)
    expected = np.arange(16) * 4 + 1.5  # the mean of four rows
    assert np.abs(found[2:-2].mean(1) - expected[2:-2]).max() <= 0.5
    assert found.min() >= ramp.min()
    assert found.max() <= ramp.max()


def test_fine_patterns_become_grey() -> None:
    checkerboard = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    assert np.abs(fitted(checkerboard, (16, 16)).astype(int) - 127.5).max() <= 2


def test_fitting_crops_the_middle_and_keeps_what_fits() -> None:
    wide = np.zeros((6, 18), np.uint8)
    wide[:, :6], wide[:, 12:] = 255, 255
    assert fitted(wide, (6, 6)).shape == (6, 6)
    assert (fitted(wide, (6, 6)) == 0).all()
    assert (fitted(wide.T, (6, 6)) == 0).all()
    assert fitted(wide, (18, 6)) is wide
    assert fitted(np.dstack([wide] * 3), (4, 2)).shape == (2, 4, 3)
