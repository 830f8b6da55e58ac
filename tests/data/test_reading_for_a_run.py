"""Data that a trained model is given later are made ready as its own were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import elbowroom as er
from elbowroom.errors import ElbowroomError
from elbowroom.running.own_data import check_same_data

pl = pytest.importorskip("polars")

KINDS = ["cat", "dog", "emu"]
SMALL = {
    "model": {"latent_dim": 2, "encoder": {"hidden": (8,)}, "decoder": {"hidden": (8,)}},
    "train": {"steps": 4, "batch_size": 16},
}


def frame(mean: float = 0.0, rows: int = 60) -> Any:
    x = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)
    holes = np.random.default_rng(1).random(x.shape) < 0.2
    columns = {name: np.where(holes[:, at], np.nan, x[:, at] + mean) for at, name in enumerate("abc")}
    return pl.DataFrame({**columns, "kind": [KINDS[row % 3] for row in range(rows)]})


def train(source: Any, out: Path, data: dict[str, Any], **arrays: Any) -> Any:
    return er.train(source, out=out, observers=[], data=data, **SMALL, **arrays)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("labelled")
    frame(1000.0).write_csv(folder / "x.csv")
    data = {"name": str(folder / "x.csv"), "labels": "kind", "context": "labels", "missing": "mask"}
    return train(folder / "x.csv", folder / "run", data)


def test_one_row_is_scored_with_the_class_it_has(run: Any) -> None:
    one = frame(1000.0)[2:3]
    data = run.read(one)
    assert data.context.tolist() == [[0, 0, 1]]
    assert run.score(one).log_evidence.shape == (1,)
    assert run.encode(one).mean.shape == (1, 2)


def test_a_class_never_trained_on_is_named(run: Any) -> None:
    with pytest.raises(ElbowroomError, match="holds the class 'fox', but the classes in training were cat, dog, emu"):
        run.read(frame(1000.0).with_columns(kind=pl.lit("fox")))


def test_missing_elements_stand_at_the_mean_of_training(run: Any) -> None:
    other = frame(1000.0)[:2].with_columns(a=pl.Series([5000.0, np.nan]))
    batch = run.read(other).take("train", torch.arange(2))
    mean = run.data.moments()[0][0]
    assert float(batch.x[1, 0]) == pytest.approx(float(mean), abs=1e-3)
    assert abs(float(run.guide.get_submodule("transform")(batch.x)[1].flatten()[0])) < 1e-3


def test_missing_values_cost_the_same_wherever_the_mean_lies(tmp_path: Path) -> None:
    """The guide sees the same numbers, so that training takes the same course."""
    scores = []
    for mean in (0.0, 1000.0):
        x = frame(mean)[["a", "b", "c"]]
        learned = train(x, tmp_path / f"{mean}", {"missing": "mask", "labels": None})
        learned = er.load(tmp_path / f"{mean}", data=x)
        scores.append(learned.score(split="train"))
    at_zero, at_1000 = scores  # other rows, so other draws
    z = (at_zero.log_evidence - at_1000.log_evidence) / (at_zero.stderr**2 + at_1000.stderr**2).sqrt()
    assert z.square().mean().sqrt() < 1.4
    assert at_1000.stderr.max() < 0.05


def test_labels_are_not_needed_where_they_only_colour(tmp_path: Path) -> None:
    frame().write_csv(tmp_path / "x.csv")
    data = {"name": str(tmp_path / "x.csv"), "labels": "kind", "missing": "mask"}
    learned = train(tmp_path / "x.csv", tmp_path / "run", data)
    assert learned.dataset().labels.tolist()[:4] == [0, 1, 2, 0]
    assert learned.read(frame()[["a", "b", "c"]][:1]).labels is None
    assert learned.read(frame().drop("kind").to_numpy()[:1]).event_shape == (3,)


def test_another_context_is_another_data_set(run: Any, tmp_path: Path) -> None:
    changed = frame(1000.0).with_columns(kind=pl.Series([KINDS[row % 3] for row in range(1, 61)]))
    changed.write_csv(tmp_path / "x.csv")
    with pytest.raises(ElbowroomError, match=r"The context of the data x\.csv have changed"):
        er.load(run.folder.path, data=tmp_path / "x.csv")


@pytest.mark.parametrize("key", ["sha256", "sha256_of_rows"])
def test_every_digest_of_the_rows_is_compared(run: Any, key: str) -> None:
    content = {**run.content, "data": {**run.content["data"], key: "0" * 64}}
    with pytest.raises(ElbowroomError, match="have changed since"):
        check_same_data(content, run.data, run.folder)
