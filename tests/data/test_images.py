"""Folders and lists of pictures of every kind: rows of one form, and a remark for all that was done."""

from __future__ import annotations

import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from elbowroom.data.dataset import DataSet
from elbowroom.data.images import PictureOptions, holds_pictures
from elbowroom.data.loading import load_data
from elbowroom.data.row_form import RowForm
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError

RNG = np.random.default_rng(0)
RAMP = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)  # 0, 257, …, 65535


def grey(width: int = 5, height: int = 4, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8))


def rgb(width: int = 5, height: int = 4, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def sixteen(values: np.ndarray = RAMP) -> Image.Image:
    return Image.fromarray(values).convert("I;16")


def write(folder: Path, **images: Image.Image) -> Path:
    """Pictures as files: ``a_png`` becomes a.png."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        image.save(folder / ".".join(name.rsplit("_", 1)))
    return folder


def load(source: Any, **options: Any) -> DataSet:
    loaded = load_data(source, **{"test": 0, **options})
    assert isinstance(loaded, DataSet)
    return loaded


def rows(data: DataSet) -> np.ndarray:
    return data.storage.gather(torch.arange(len(data))).numpy()


def x(data: DataSet) -> np.ndarray:
    """As the model gets it."""
    return data.take("train", torch.arange(len(data))).x.numpy()


# --- several forms -----------------------------------------------------------------------------------------------


def test_one_size(tmp_path: Path) -> None:
    images = [grey(8, 8), grey(20, 10), grey(6, 12)]
    write(tmp_path, **{f"{at}_png": image for at, image in enumerate(images)})
    data = load(tmp_path, image_size="10x8")
    expected = [np.asarray(ImageOps.fit(image, (10, 8), method=Image.Resampling.BILINEAR)) for image in images]
    assert rows(data).tolist() == np.stack(expected).tolist()
    assert data.remarks == ("Images of 3 sizes were cropped and scaled to 10x8; 2 of 3 were enlarged.",)
    assert load(tmp_path, image_size=3).event_shape == (3, 3)
    assert load(tmp_path, image_size=(3, 2)).event_shape == (2, 3)


def test_a_size_that_all_have_changes_nothing(tmp_path: Path) -> None:
    data = load(write(tmp_path, a_png=grey(seed=1), b_png=grey(seed=2)), image_size="5x4")
    assert rows(data).tolist() == [np.asarray(grey(seed=seed)).tolist() for seed in (1, 2)]
    assert data.remarks == ()


def test_scaling_without_cropping_says_so(tmp_path: Path) -> None:
    data = load(write(tmp_path, a_png=rgb(8, 4, 1), b_png=rgb(8, 4, 2)), image_size="4x2")
    assert data.event_shape == (3, 2, 4)
    assert data.remarks == ("Images of size 8x4 were scaled to 4x2.",)


def test_one_mode(tmp_path: Path) -> None:
    write(tmp_path, a_png=grey(), b_png=rgb())
    turned = load(tmp_path, image_mode="grey")
    assert rows(turned)[1].tolist() == np.asarray(rgb().convert("L")).tolist()
    assert turned.remarks == ("1 image was turned from colours into grey values.",)
    coloured = load(tmp_path, image_mode="rgb")
    assert rows(coloured)[0].tolist() == [np.asarray(grey()).tolist()] * 3
    assert rows(coloured)[1].tolist() == np.asarray(rgb()).transpose(2, 0, 1).tolist()
    assert coloured.remarks == ("1 grey image was given three equal colours.",)


@pytest.mark.parametrize(("size", "mode"), [("0", None), ("5x", None), ("-3", None), ("a", None), (None, "gray")])
def test_options_that_are_none(size: Any, mode: Any) -> None:
    with pytest.raises(ElbowroomError, match=r"--data.image-") as caught:
        PictureOptions.of(size, mode)
    assert "Give for instance --data.image-size 64" in caught.value.remedy or "grey, rgb" in caught.value.remedy


# --- values ------------------------------------------------------------------------------------------------------


def test_sixteen_bits_keep_every_value(tmp_path: Path) -> None:
    data = load(write(tmp_path, a_png=sixteen(), b_png=sixteen(RAMP[::-1] // 16)))
    assert np.rint(x(data)[0].astype(float) * 65535).tolist() == RAMP.tolist()
    assert data.support is Support.UNIT_INTERVAL
    assert data.remarks == ("Grey values of 16 bits were divided by 65535; the greatest was 65535.",)


def test_sixteen_bits_beside_eight(tmp_path: Path) -> None:
    data = load(write(tmp_path, a_png=sixteen(), b_png=grey(16, 16)))
    assert x(data)[1] == pytest.approx(np.asarray(grey(16, 16)) / 255)
    assert x(data)[0] == pytest.approx(RAMP / 65535)
    assert data.remarks[1] == "Those of 8 bits were divided by 255."


def test_sixteen_bits_are_scaled_in_floating_point(tmp_path: Path) -> None:
    data = load(write(tmp_path, a_png=sixteen(), b_png=sixteen(RAMP // 256)), image_size=4, image_mode="rgb")
    assert data.event_shape == (3, 4, 4)
    blocks = RAMP.reshape(4, 4, 4, 4).mean((1, 3)) / 65535  # of four rows and columns
    assert np.abs(x(data)[0] - blocks)[:, 1:3, 1:3].max() < 2e-3
    assert 0 < x(data)[1].max() < 1 / 255  # which bytes would not hold


def test_sixteen_bits_as_bytes(tmp_path: Path) -> None:
    data = load(write(tmp_path, a_png=sixteen(), b_png=sixteen()), support="bytes")
    assert rows(data)[0].tolist() == (RAMP // 257).tolist()
    assert data.remarks[-1] == "All were then rounded to bytes."


def test_floating_point(tmp_path: Path) -> None:
    unit = np.random.default_rng(1).random((4, 5)).astype(np.float32)
    data = load(write(tmp_path / "unit", a_tif=Image.fromarray(unit), b_tif=Image.fromarray(unit[::-1].copy())))
    assert (data.support, rows(data)[0].tolist()) == (Support.UNIT_INTERVAL, unit.tolist())
    measured = unit * 3000 - 1000
    data = load(write(tmp_path / "any", a_tif=Image.fromarray(measured), b_tif=Image.fromarray(unit)))
    assert (data.support, rows(data)[0].tolist()) == (Support.REALS, measured.tolist())
    assert data.remarks == ("The pictures hold measurements and not grey values, which were left as they are.",)


def test_black_and_white_is_binary(tmp_path: Path) -> None:
    bits = RNG.random((6, 4, 5)) < 0.5
    for at, picture in enumerate(bits):
        write(tmp_path, **{f"{at}_png": Image.fromarray(picture)})
    data = load(tmp_path)
    assert data.support is Support.BINARY
    assert x(data).tolist() == bits.astype(float).tolist()
    (said,) = data.remarks
    assert "read as 0 and 1; --data.support bytes keeps 0 and 255." in said
    kept = load(tmp_path, support="bytes")  # what the remark offers
    assert (kept.support, rows(kept).tolist()) == (Support.BYTES, (bits * 255).tolist())
    assert load(tmp_path, support="binary").remarks == ()
    assert x(load(tmp_path, support="unit-interval")).tolist() == bits.astype(float).tolist()
    red = Image.new("RGB", (5, 4), (255, 0, 0))
    assert load([red, red]).support is Support.BYTES  # which is neither
    Image.fromarray(np.full((4, 5), 254, np.uint8)).save(tmp_path / "grey.png")
    assert load(tmp_path).support is Support.BYTES


def test_what_is_done_to_single_pictures_is_said(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    write(tmp_path, a_png=grey(5, 4), c_png=Image.fromarray(np.zeros((4, 5, 2), np.uint8)))
    grey(4, 5).save(tmp_path / "b.png", exif=exif)
    grey(5, 4).save(tmp_path / "d.gif", save_all=True, append_images=[grey(5, 4, 1), grey(5, 4, 2)])
    (tmp_path / ".trash").mkdir()
    grey(9, 9).save(tmp_path / ".trash" / "e.png")
    data = load(tmp_path)
    assert rows(data)[1].tolist() == np.asarray(grey(4, 5)).T[:, ::-1].tolist()
    assert (rows(data)[2] == 255).all()
    assert data.remarks == (
        "1 hidden file or folder was left out: .trash.",
        "1 image was turned upright, as the EXIF orientation says.",
        "1 image was transparent in places, and laid on white.",
        "1 file holds several pages or frames, 3 in all; the first of each was read.",
    )


# --- refused, and the remedy followed ----------------------------------------------------------------------------


def mixed(folder: Path) -> Path:
    return write(folder, a_png=grey(5, 4), b_png=rgb(8, 6))


def sizes(folder: Path) -> Path:
    return write(folder, a_png=grey(5, 4), b_png=grey(8, 6))


def modes(folder: Path) -> Path:
    return write(folder, a_png=grey(), b_png=rgb())


FOLLOWED: dict[str, tuple[Callable[[Path], Path], str, list[str], tuple[int, ...]]] = {
    "sizes": (sizes, "b.png is 8x6 grey, but a.png is 5x4 grey", ["--data.image-size 4"], (4, 4)),
    "modes to grey": (modes, "b.png is 5x4 RGB, but a.png is 5x4 grey", ["--data.image-mode grey"], (4, 5)),
    "modes to rgb": (modes, "b.png is 5x4 RGB, but a.png is 5x4 grey", ["--data.image-mode rgb"], (3, 4, 5)),
    "both": (mixed, "b.png is 8x6 RGB", ["--data.image-size 4", "--data.image-mode rgb"], (3, 4, 4)),
}


@pytest.mark.parametrize(("make", "problem", "flags", "shape"), FOLLOWED.values(), ids=FOLLOWED)
def test_the_flags_of_a_remedy_work(
    make: Callable[[Path], Path], problem: str, flags: list[str], shape: tuple[int, ...], tmp_path: Path
) -> None:
    folder = make(tmp_path)
    with pytest.raises(ElbowroomError) as caught:
        load(folder)
    assert problem in caught.value.problem
    assert all(flag in caught.value.remedy for flag in flags)
    words = shlex.split(" ".join(flags))
    given = {
        flag.removeprefix("--data.").replace("-", "_"): value
        for flag, value in zip(words[::2], words[1::2], strict=False)
    }
    assert load(folder, **given).event_shape == shape


def test_measurements_and_grey_values_belong_into_two_folders(tmp_path: Path) -> None:
    measured, plain = Image.fromarray(np.full((4, 5), 7.5, np.float32)), grey()
    both = write(tmp_path / "both", a_tif=measured, b_png=plain)
    with pytest.raises(
        ElbowroomError, match=r"a.tif holds measurements .* but b.png holds grey values of 8 bits"
    ) as fault:
        load(both)
    assert "folders of their own" in fault.value.remedy
    assert rows(load(write(tmp_path / "1", a_tif=measured, c_tif=measured)))[0].max() == 7.5
    assert rows(load(write(tmp_path / "2", b_png=plain, c_png=plain)))[0].tolist() == np.asarray(plain).tolist()


def test_one_file_is_no_folder(tmp_path: Path) -> None:
    write(tmp_path, a_png=grey(), b_png=grey())
    with pytest.raises(ElbowroomError, match=r"a.png is one image") as caught:
        load(tmp_path / "a.png")
    assert caught.value.remedy == f"Give the folder that they lie in: {tmp_path}"
    assert len(load(tmp_path)) == 2


def test_a_packed_folder_is_unpacked_by_hand(tmp_path: Path) -> None:
    write(tmp_path / "in", a_png=grey(), b_png=grey())
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("a.png", "b.png"):
            archive.write(tmp_path / "in" / name, f"pictures/{name}")
    with pytest.raises(ElbowroomError, match=r"x.zip is packed") as caught:
        load(tmp_path / "x.zip")
    assert caught.value.remedy == "Unpack it, and give the folder or the file inside."
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        archive.extractall(tmp_path / "out")
    assert len(load(tmp_path / "out")) == 2


def test_a_folder_with_another_file_names_it(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.eye(3))
    with pytest.raises(ElbowroomError, match="holds no image") as caught:
        load(tmp_path)
    assert caught.value.remedy == f"Name the file: {tmp_path / 'x.npy'}"
    assert len(load(tmp_path / "x.npy")) == 3


def test_a_folder_of_hidden_images_says_so(tmp_path: Path) -> None:
    write(tmp_path / ".thumbnails", a_png=grey())
    with pytest.raises(ElbowroomError, match=r"holds no image beside \.thumbnails\.") as caught:
        load(tmp_path)
    assert "Put images into it (.png, " in caught.value.remedy
    assert len(load(write(tmp_path, a_png=grey(), b_png=grey()))) == 2


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.tif", "a.webp", "a.bmp"])
def test_a_damaged_image_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path, b_png=grey(40, 50), c_png=grey(40, 50))
    grey(40, 50).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    for part in (b"", content[:7], content[: len(content) // 2]):
        (tmp_path / name).write_bytes(part)
        with pytest.raises(ElbowroomError, match=f"{name} cannot be read as an image") as caught:
            load(tmp_path)
        assert "take it out of the folder" in caught.value.remedy
    (tmp_path / name).unlink()
    assert len(load(tmp_path)) == 2


@pytest.mark.parametrize("flag", ["image_size", "image_mode"])
@pytest.mark.parametrize("source", [np.zeros((4, 6, 6)), "digits", torch.utils.data.DataLoader(torch.zeros(4, 2))])
def test_only_pictures_have_a_size(source: Any, flag: str) -> None:
    with pytest.raises(ElbowroomError, match=f"--data.{flag.replace('_', '-')} was given, but") as caught:
        load_data(source, **{flag: "grey" if flag == "image_mode" else 4})
    assert f"Leave --data.{flag.replace('_', '-')} out" in caught.value.remedy
    assert isinstance(source, str) or load_data(source).event_shape


# --- lists, and what a run knows ---------------------------------------------------------------------------------


def test_a_list_of_pictures(tmp_path: Path) -> None:
    palette = rgb().quantize(5)  # of which numpy would take the numbers of the colours
    data = load([palette, rgb()])
    assert rows(data)[0].tolist() == np.asarray(palette.convert("RGB")).transpose(2, 0, 1).tolist()
    assert load([grey(8, 6), grey(5, 4)], image_size=4).event_shape == (4, 4)
    with pytest.raises(ElbowroomError, match="Picture 1 is 5x4 grey, but Picture 0 is 8x6 grey"):
        load([grey(8, 6), grey(5, 4)])
    write(tmp_path, a_png=grey())
    with Image.open(tmp_path / "a.png") as closed:
        pass
    with pytest.raises(ElbowroomError, match="Picture 1 cannot be read as an image"):
        load([grey(), closed])


def test_which_sources_hold_pictures(tmp_path: Path) -> None:
    assert holds_pictures(tmp_path)
    assert holds_pictures(str(tmp_path))
    assert holds_pictures((grey(),))
    assert not any(map(holds_pictures, ["digits", tmp_path / "x.npy", [], [grey(), 3], np.zeros(3), grey()]))


def test_pictures_are_read_again_as_those_of_the_run(tmp_path: Path) -> None:
    white = Image.fromarray(np.full((4, 5), 255, np.uint8))
    write(tmp_path, a_png=white, b_png=white)
    as_bytes = RowForm((4, 5), Support.BYTES)
    assert rows(load(tmp_path, form=as_bytes, support="bytes")).max() == 255
    as_grey = load(tmp_path, form=RowForm((4, 5), Support.UNIT_INTERVAL), support="unit-interval")
    assert (rows(as_grey).dtype, rows(as_grey).max()) == (np.float32, 1)
    assert rows(load(tmp_path, form=RowForm((4, 5), Support.BINARY), support="binary")).max() == 1
    write(tmp_path / "palette", a_png=grey().convert("P"))
    assert load(tmp_path / "palette", min_rows=1).event_shape == (4, 5)
    coloured = load(tmp_path / "palette", min_rows=1, form=RowForm((3, 4, 5), Support.BYTES), support="bytes")
    assert rows(coloured)[0].tolist() == [np.asarray(grey()).tolist()] * 3
