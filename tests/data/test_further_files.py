"""Fifteen more kinds of files that people have, each made here: what they are read as, or what is said of them."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.errors import ElbowroomError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (3, 8, 9), dtype=np.uint8)
RGB = RNG.integers(0, 256, (3, 8, 9, 3), dtype=np.uint8)
REALS = RNG.normal(size=(6, 4))


def cmyk(folder: Path) -> Path:
    """Four printing colours in JPEG, as a publisher delivers them."""
    for at in range(2):
        Image.new("CMYK", (9, 8), (0, 255, 255, 0)).save(folder / f"{at}.jpg", quality=100)
    return folder


def stereo(folder: Path) -> Path:
    """Two views in a file (MPO), as telephones take them."""
    for at in range(2):
        Image.new("RGB", (9, 8), (at * 99, 30, 200)).save(
            folder / f"{at}.jpg", "MPO", save_all=True, append_images=[Image.fromarray(RGB[2])]
        )
    return folder


def scanner(folder: Path) -> Path:
    """One bit per pixel in TIFF, compressed as a fax."""
    for at in range(3):
        Image.fromarray(GREY[at] > 127).save(folder / f"{at}.tif", compression="group4")
    return folder


def animation(folder: Path) -> Path:
    """A GIF with frames and a transparent colour beside a plain one."""
    frames = [Image.fromarray(picture).quantize(8) for picture in RGB]
    frames[0].save(folder / "0.gif", save_all=True, append_images=frames[1:], transparency=0, disposal=2)
    frames[1].save(folder / "1.gif")
    return folder


def telescope(folder: Path) -> Path:
    """Signed whole numbers of 16 bits in TIFF."""
    for at in range(2):
        Image.fromarray((GREY[at].astype(np.int16) - 128) * 100).save(folder / f"{at}.tif")
    return folder


def camera(folder: Path) -> Path:
    """A portable grey map of 10 bits, most significant byte first."""
    for at in range(2):
        body = (GREY[at].astype(int) * 4 + 3).astype(">u2").tobytes()
        (folder / f"{at}.pgm").write_bytes(b"P5\n# of a camera\n9 8\n1023\n" + body)
    return folder


def sprites(folder: Path) -> Path:
    """WebP with an alpha channel, one of two without."""
    layers = np.dstack([RGB[0], GREY[0]])
    Image.fromarray(layers).save(folder / "0.webp", lossless=True)
    Image.fromarray(RGB[1]).save(folder / "1.webp", lossless=True)
    return folder


def portraits(folder: Path) -> Path:
    """JPEGs that the camera turned: of two sizes in the files, of one as they are seen."""
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(GREY[0]).save(folder / "0.jpg", quality=100)
    Image.fromarray(np.ascontiguousarray(np.rot90(GREY[1], -1))).save(folder / "1.jpg", quality=100, exif=exif)
    return folder


def memory_stick(folder: Path) -> Path:
    """What a Mac and Windows leave beside pictures, and formats that cannot be read."""
    for at in range(2):
        Image.fromarray(GREY[at]).save(folder / f"{at}.PNG")
    for name in ("._0.PNG", "Thumbs.db", "3.heic", "logo.svg"):
        (folder / name).write_bytes(b"something else")
    return folder


def web_page(folder: Path) -> Path:
    """A download that failed: HTML under the name of a picture."""
    Image.fromarray(GREY[0]).save(folder / "0.png")
    (folder / "1.png").write_text("<html>404</html>")
    return folder


def packed(folder: Path) -> Path:
    Image.fromarray(GREY[0]).save(folder / "0.png")
    with tarfile.open(folder / "x.tar.gz", "w:gz") as archive:
        archive.add(folder / "0.png", "0.png")
    return folder / "x.tar.gz"


def medical(folder: Path) -> Path:
    """Three parts of colour pictures with labels in a column, as MedMNIST has them."""
    arrays = {
        f"{split}_{what}": RGB if what == "images" else np.array([[0], [1], [1]])
        for split in ("train", "val", "test")
        for what in ("images", "labels")
    }
    np.savez_compressed(folder / "x.npz", **arrays)
    return folder / "x.npz"


def columns_first(folder: Path) -> Path:
    """An array of Fortran's order, big-endian and in half precision."""
    np.save(folder / "x.npy", np.asfortranarray(REALS.astype(">f2")))
    return folder / "x.npy"


def records(folder: Path) -> Path:
    """Rows with named fields."""
    np.save(folder / "x.npy", np.rec.fromarrays([REALS[:, 0], REALS[:, 1]], names="mass,charge"))
    return folder / "x.npy"


def hidden(folder: Path) -> Path:
    """Nothing but thumbnails."""
    (folder / ".thumbnails").mkdir()
    Image.fromarray(GREY[0]).save(folder / ".thumbnails" / "0.png")
    return folder


EVEN = np.stack([np.full((3, 8, 9), np.array([at * 99, 30, 200])[:, None, None]) for at in range(2)])
RED = np.stack([np.full((8, 9), value) for value in (255, 0, 0)])
FIRST = np.concatenate([RGB] * 3).transpose(0, 3, 1, 2)
SEEN = RGB[0] * (GREY[0][..., None] / 255) + 255 - GREY[0][..., None]
READ: list[tuple[Callable[[Path], Path], np.ndarray, float, str, str]] = [
    (cmyk, np.stack([RED, RED]), 4, "bytes", ""),
    (stereo, EVEN, 4, "bytes", "2 files hold several pages or frames, 4 in all"),
    (scanner, GREY > 127, 0, "binary", "All pixels are black or white"),
    (animation, np.stack([RGB[0], RGB[1]]).transpose(0, 3, 1, 2), 255, "bytes", "transparent in places"),
    (telescope, (GREY[:2].astype(int) - 128) * 100, 0, "reals", "measurements and not grey values"),
    (camera, (GREY[:2] * 4.0 + 3) / 1023, 1e-4, "unit-interval", "16 bits were divided by 65535"),
    (sprites, np.stack([SEEN, RGB[1]]).transpose(0, 3, 1, 2), 1, "bytes", "1 image was transparent in places"),
    (portraits, GREY[:2], 4, "bytes", "1 image was turned upright"),
    (memory_stick, GREY[:2], 0, "bytes", "3 files were left out as no image: 3.heic, Thumbs.db, logo.svg."),
    (medical, FIRST, 0, "bytes", "The axis of colours was moved"),
    (columns_first, REALS, 2e-3, "reals", ""),
    (records, REALS[:, :2], 0, "reals", ""),
]


@pytest.mark.parametrize(
    ("make", "expected", "tolerance", "support", "said"), READ, ids=lambda it: getattr(it, "__name__", "")
)
def test_read(
    make: Callable[[Path], Path], expected: np.ndarray, tolerance: float, support: str, said: str, tmp_path: Path
) -> None:
    data = load_data(make(tmp_path), test=0)
    assert isinstance(data, DataSet)
    found = data.storage.gather(torch.arange(len(data))).double().numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance
    assert (str(data.support), said in " ".join(data.remarks)) == (support, True)
    if not said:
        assert data.remarks == ()


@pytest.mark.parametrize(
    ("make", "problem", "remedy"),
    [
        (web_page, "1.png cannot be read as an image", "Replace it, or take it out of the folder."),
        (packed, "x.tar.gz is packed", "Unpack it"),
        (hidden, "holds no image beside .thumbnails", "Put images into it"),
    ],
)
def test_refused(make: Callable[[Path], Path], problem: str, remedy: str, tmp_path: Path) -> None:
    with pytest.raises(ElbowroomError) as caught:
        load_data(make(tmp_path))
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy


def test_test_rows_of_the_archive_are_the_test_set(tmp_path: Path) -> None:
    data = load_data(medical(tmp_path))
    assert isinstance(data, DataSet)
    assert data.splits["test"].tolist() == [6, 7, 8]
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 1] * 3


def test_names_of_fields_are_kept(tmp_path: Path) -> None:
    data = load_data(records(tmp_path))
    assert isinstance(data, DataSet)
    assert data.columns == ("mass", "charge")
