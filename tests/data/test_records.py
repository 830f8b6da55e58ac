"""Structured arrays are tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.errors import ElbowroomError

PEOPLE = np.array(
    [(170.5, 70, "a"), (180.0, 81, "b"), (165.0, 66, "a"), (176.0, 75, "b")],
    dtype=[("height", "f8"), ("weight", "i4"), ("group", "U1")],
)


def load(source: Any, **options: Any) -> DataSet:
    loaded = load_data(source, **{"test": 0, **options})
    assert isinstance(loaded, DataSet)
    return loaded


def rows(data: DataSet) -> np.ndarray:
    return data.storage.gather(torch.arange(len(data))).double().numpy()


@pytest.mark.parametrize("kind", ["array", "recarray", "memmap", "file"])
def test_fields_are_columns(kind: str, tmp_path: Path) -> None:
    np.save(tmp_path / "people.npy", PEOPLE)
    source: Any = {
        "array": PEOPLE,
        "recarray": PEOPLE.view(np.recarray),
        "memmap": np.load(tmp_path / "people.npy", mmap_mode="r"),
        "file": tmp_path / "people.npy",
    }[kind]
    data = load(source, labels="group", context=["weight"])
    assert data.columns == ("height",)
    assert rows(data)[:, 0].tolist() == PEOPLE["height"].tolist()
    assert data.labels is not None and data.context is not None
    assert (data.labels.tolist(), data.classes) == ([0, 1, 0, 1], ("a", "b"))
    assert data.context[:, 0].tolist() == PEOPLE["weight"].tolist()


def test_bytes_are_text() -> None:
    assert load(PEOPLE.astype([("height", "f8"), ("weight", "i4"), ("group", "S1")]), labels="group").classes == (
        "a",
        "b",
    )


def test_masked_fields_are_missing() -> None:
    given = np.ma.masked_array(PEOPLE[["height", "weight"]].copy())
    given["weight"][2] = np.ma.masked
    data = load(given)
    assert np.array_equal(rows(data)[:, 1], [70, 81, np.nan, 75], equal_nan=True)
    assert data.masked
    assert not load(np.ma.masked_array(PEOPLE[["height", "weight"]].copy())).masked


def test_labels_that_only_colour_may_lack() -> None:
    assert load(PEOPLE[["height", "weight"]], labels="group", labels_required=False).labels is None


def test_a_field_that_is_an_array() -> None:
    given = np.zeros(4, dtype=[("id", "i4"), ("pixels", "f4", (2, 3))])
    given["pixels"] = np.random.default_rng(0).normal(size=(4, 2, 3))
    with pytest.raises(ElbowroomError, match=r"field 'pixels' of the array holds rows of shape \(2, 3\)") as caught:
        load(given)
    assert caught.value.remedy == "Give that field alone: data['pixels']."
    assert load(given["pixels"]).event_shape == (2, 3)


def test_a_field_of_fields() -> None:
    given = np.zeros(4, dtype=[("id", "i4"), ("place", [("north", "f4"), ("east", "f4")])])
    given["place"]["north"] = np.arange(4)
    with pytest.raises(ElbowroomError, match=r"field 'place' of the array holds fields") as caught:
        load(given)
    assert caught.value.remedy == "Give that field alone: data['place']."
    assert load(given["place"]).columns == ("north", "east")


def test_a_text_field_of_x() -> None:
    with pytest.raises(ElbowroomError, match="'group' of the data frame holds") as caught:
        load(PEOPLE, support="reals")
    assert "--data.labels group" in caught.value.remedy
    assert load(PEOPLE, labels="group").columns == ("height", "weight")
    assert load(PEOPLE).support == "table"
