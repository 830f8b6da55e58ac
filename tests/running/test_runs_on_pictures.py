"""Runs on folders of pictures: what was asked for in training holds for pictures that come later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import elbowroom as er
from elbowroom.cli import main
from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.data.row_form import RowForm
from elbowroom.data.support import Support
from elbowroom.running.config import DataConfig, configure
from elbowroom.running.train import train

SMALL: dict[str, Any] = {
    "model": {"latent_dim": 2, "encoder": {"hidden": [3]}, "decoder": {"hidden": [3]}},
    "train": {"steps": 2, "batch_size": 8},
    "runtime": {"compile": "off"},
    "observers": [],
    "announce": lambda said: None,
}


def folder(path: Path, sizes: list[tuple[int, int]], seed: int = 0) -> Path:
    """Coloured pictures of (width, height) in two classes."""
    rng = np.random.default_rng(seed)
    for at, (width, height) in enumerate(sizes):
        place = path / ("cats" if at % 2 else "dogs")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(place / f"{at}.png")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    top = tmp_path_factory.mktemp("pictures")
    source = folder(top / "train", [(9, 7), (8, 8), (12, 10), (7, 11)] * 5)
    return train(source, out=top / "run", data={"image_size": "6x5", "image_mode": "grey"}, **SMALL)


def test_other_pictures_are_cropped_scaled_and_turned_grey_alike(run: Any, tmp_path: Path) -> None:
    other = folder(tmp_path / "other", [(20, 20), (6, 5), (31, 17)], seed=1)
    data = run.read(other)
    assert data.event_shape == (5, 6)
    assert len(data.remarks) == 2
    assert run.score(other, method="iwae", k=5).log_evidence.shape == (3,)
    one = folder(tmp_path / "one", [(6, 5)], seed=2)  # of the right size, so that it is only turned grey
    picture = Image.open(one / "dogs" / "0.png").convert("L")
    array = np.asarray(picture)[None]
    assert torch.equal(run.encode(one).mean, run.encode(array).mean)  # arrays need no size
    assert torch.equal(run.encode([picture.convert("RGB")]).mean, run.encode(array).mean)


def test_the_run_finds_its_own_data_again(run: Any) -> None:
    again = er.load(run.folder.path)
    assert again.dataset().event_shape == (5, 6)
    assert (again.config.data.image_size, again.config.data.image_mode) == ("6x5", "grey")
    assert again.dataset().classes == ("cats", "dogs")


def test_the_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = folder(tmp_path / "x", [(9, 7), (8, 8)] * 6)

    def refused(*flags: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["train", str(source), "--out", str(tmp_path / "run"), *flags])
        assert ended.value.code == 2
        return " ".join(capsys.readouterr().err.split())

    assert "pass --data.image-size 7, or another size" in refused()
    # the pictures are read then, and something else is at fault
    assert "has 10 rows to train on" in refused("--data.image-size", "7", "--data.train", "999")
    assert "image-mode" in refused("--data.image-size", "7x6", "--data.image-mode", "gray")


@pytest.mark.parametrize(("given", "kept"), [(64, "64"), ("64x48", "64x48"), ([64, 48], "64x48"), (None, None)])
def test_a_size_in_a_recipe(given: Any, kept: str | None) -> None:
    assert DataConfig(image_size=given).image_size == kept


@pytest.mark.parametrize("given", [0, -3, "64x", "big", 6.5, [1, 2, 3], 100_000, "64x9000"])
def test_a_size_that_is_none(given: Any) -> None:
    with pytest.raises(er.ElbowroomError, match=r"data.image_size is"):
        configure({"data": {"image_size": given}})


def test_a_run_of_an_earlier_version_on_black_and_white_keeps_its_bytes(tmp_path: Path) -> None:
    bits = np.random.default_rng(0).random((20, 4, 5)) < 0.5
    (tmp_path / "x").mkdir()
    for at, picture in enumerate(bits):
        Image.fromarray(picture).save(tmp_path / "x" / f"{at:02}.png")
    # what an earlier version did of itself: bytes, of which 255 is white
    old = train(tmp_path / "x", out=tmp_path / "run", data={"support": "bytes"}, **SMALL)
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    content["config"]["data"]["support"] = "auto"
    for key in ("image_size", "image_mode"):
        del content["config"]["data"][key]
    (tmp_path / "run" / "config.json").write_text(json.dumps(content))
    again = er.load(tmp_path / "run")
    assert again.dataset().protocol()["sha256"] == old.dataset().protocol()["sha256"]
    batch = again.dataset().take("train", torch.arange(2))
    assert batch.x.max() == 255
    resumed = train(
        None, out=tmp_path / "run", resume=True, **{**SMALL, "train": {"steps": 3}, "model": {}, "runtime": {}}
    )
    assert resumed.dataset().native_support.value == "bytes"


def test_a_run_of_an_earlier_version_with_colours_last_keeps_them(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (20, 6, 7, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    train(tmp_path / "x.npy", out=tmp_path / "run", **SMALL)
    before = load_data(tmp_path / "x.npy", form=RowForm((6, 7, 3), Support.BYTES))
    assert isinstance(before, DataSet)
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    content["facts"]["event_shape"] = [6, 7, 3]
    content["data"] |= {key: value for key, value in before.protocol().items() if key.startswith("sha256")}
    (tmp_path / "run" / "config.json").write_text(json.dumps(content))
    old = er.load(tmp_path / "run")
    assert old.dataset().event_shape == (6, 7, 3)
    assert old.sample(2).x.shape == (2, 6, 7, 3)
    torch.testing.assert_close(old.encode(x[:3]).mean, old.encode(tmp_path / "x.npy").mean[:3])
    assert er.load(tmp_path / "run", data=tmp_path / "x.npy").dataset().event_shape == (6, 7, 3)


def test_a_run_that_saw_one_form_says_what_to_do_with_several(tmp_path: Path) -> None:
    bare = train(folder(tmp_path / "alike", [(6, 5)] * 20), out=tmp_path / "bare", **SMALL)
    mixed = folder(tmp_path / "mixed", [(6, 5), (9, 9)], seed=3)
    with pytest.raises(er.ElbowroomError, match="is 6x5 RGB, but") as caught:
        bare.score(mixed)  # which takes no size
    assert "A run trained with --data.image-size 5, or --data.image-mode grey, does it by itself" in caught.value.remedy
    source = tmp_path / "alike"
    again = train(source, out=tmp_path / "again", data={"image_size": 5, "image_mode": "grey"}, **SMALL)
    assert again.score(mixed, method="iwae", k=5).log_evidence.shape == (2,)


def test_whole_pixels_are_hidden_where_their_channels_depend_on_each_other(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (40, 3, 4, 4), dtype=np.uint8)
    few: dict[str, Any] = {"num": 3, "hide": 0.4, "draws": 10, "warmup": 2, "chains": 2}
    for likelihood in ("colour-logistic-mixture", "discretized-logistic-mixture"):
        model = SMALL["model"] | {"likelihood": likelihood, "components": 2}
        hidden = er.impute(train(x, out=tmp_path / likelihood, **SMALL | {"model": model}), **few).hidden
        assert hidden is not None and 0 < hidden.double().mean() < 1
        together = bool((hidden.any(1) == hidden.all(1)).all())
        assert together == (likelihood == "colour-logistic-mixture")


def test_patches_are_read_again_in_their_size_and_the_run_names_the_photographers(tmp_path: Path) -> None:
    said: list[str] = []
    keys = {**SMALL, "announce": said.append}
    run = train("patches", out=tmp_path / "run", data={"image_size": 16, "validation": 0.2, "train": 40}, **keys)
    assert any("so --data.validation 0.2 is not used" in line for line in said)
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    assert "danielbuechele" in recorded["source"] and "vultilion" in recorded["source"]
    assert recorded["licence"] == "CC BY 2.0"
    assert run.dataset().size("validation") == 416
    assert run.read("patches").event_shape == (3, 16, 16)


def test_pictures_of_a_folder_are_whole_in_one_split(tmp_path: Path) -> None:
    """Each picture is one row, cut out of its middle: no two rows share a pixel."""
    source = folder(tmp_path / "own", [(40, 36), (50, 50), (38, 60)] * 8)
    data = load_data(source, image_size=32, validation=0.25, test=0.25)
    assert isinstance(data, DataSet)
    assert [data.size(split) for split in ("train", "validation", "test")] == [12, 6, 6]
    assert data.event_shape == (3, 32, 32)
    assert len(torch.cat(list(data.splits.values())).unique()) == 24
