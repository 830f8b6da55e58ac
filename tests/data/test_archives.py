"""Archives of numpy under the names that people give: rows, labels, official test rows, sparse matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from elbowroom.data.archives import _place
from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.errors import ElbowroomError

X = np.random.default_rng(0).normal(size=(20, 3)).round(3)
Y = np.arange(20) % 4


def saved(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "x.npz", **arrays)
    return folder / "x.npz"


def load(path: Path, **options: Any) -> DataSet:
    loaded = load_data(path, **options)
    assert isinstance(loaded, DataSet)
    return loaded


def rows(data: DataSet) -> np.ndarray:
    return data.storage.gather(torch.arange(len(data))).double().numpy()


NAMES = [
    ("x_train", "y_train", "x_test", "y_test"),
    ("X_train", "Y_train", "X_test", "Y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("xtrain", "ytrain", "xtest", "ytest"),
    ("train", "labels_train", "test", "labels_test"),
    ("trainX", "trainY", "testX", "testY"),
    ("training-data", "training-target", "testing-data", "testing-target"),
]


@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[0])
def test_an_official_test_set(names: tuple[str, ...], tmp_path: Path) -> None:
    path = saved(tmp_path, **dict(zip(names, (X[:15], Y[:15], X[15:], Y[15:]), strict=True)))
    told: list[str] = []
    data = load(path, test=0.5, validation=3, announce=told.append)
    (said,) = (remark for remark in told if "--data.test" in remark)
    assert said == f"{path.name}: Its own 5 test rows are the test set, so --data.test 0.5 is not used."
    load(path, validation=3, announce=told.append)
    assert [remark for remark in told if "--data.test" in remark] == [said]
    assert rows(data).tolist() == X.tolist()
    assert data.labels is not None
    assert data.labels.tolist() == Y.tolist()
    assert data.splits["test"].tolist() == list(range(15, 20))
    assert data.size("validation") == 3
    assert data.remarks[0] == "x.npz says what its rows are for: 15 for train, 5 for test."


def test_validation_rows_are_trained_on(tmp_path: Path) -> None:
    data = load(saved(tmp_path, x_train=X[:10], x_val=X[10:14], x_test=X[14:]))
    assert rows(data).tolist() == X.tolist()
    assert data.splits["test"].tolist() == list(range(14, 20))
    assert "4 for validation, 6 for test; those for validation are taken for training, too." in data.remarks[0]


def test_training_rows_alone_are_all_rows(tmp_path: Path) -> None:
    data = load(saved(tmp_path, x_train=X, y_train=Y), test=4)
    assert (data.size("test"), data.size("train"), data.remarks) == (4, 16, ())


@pytest.mark.parametrize(
    ("arrays", "unused"),
    [
        ({"X": X, "y": Y}, ()),
        ({"features": X, "target": Y}, ()),
        ({"images": X, "names": Y}, ("Not used, of x.npz: names.",)),
        ({"x": X, "data": Y, "y": Y}, ("Not used, of x.npz: data.",)),
        ({"x": X, "x_train": Y, "labels": Y}, ("Not used, of x.npz: x_train.",)),
        ({"arr_0": X, "y": np.linspace(0, 1, 20)}, ("Not used, of x.npz: y.",)),  # the target of a regression
        ({"x": X, "targets": np.zeros((20, 2))}, ("Not used, of x.npz: targets.",)),
        ({"x": X, "object": np.array([None] * 20, dtype=object)}, ("Not used, of x.npz: object.",)),
    ],
)
def test_names_that_people_give(arrays: dict[str, Any], unused: tuple[str, ...], tmp_path: Path) -> None:
    data = load(saved(tmp_path, **arrays))
    assert rows(data).tolist() == X.tolist()
    assert data.remarks == unused
    assert (data.labels is not None) == bool({"y", "target", "labels"} & set(arrays) and "y" not in str(unused)[-6:])


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_array, sparse.coo_matrix, sparse.bsr_array])
def test_a_sparse_matrix_of_scipy(kind: Any, tmp_path: Path) -> None:
    counts = np.random.default_rng(1).poisson(0.3, size=(12, 6))
    sparse.save_npz(tmp_path / "x.npz", kind(counts))
    assert rows(load(tmp_path / "x.npz")).tolist() == counts.tolist()


def test_a_sparse_matrix_that_is_too_large(tmp_path: Path) -> None:
    whole = sparse.csr_matrix((40_000, 40_000))
    sparse.save_npz(tmp_path / "x.npz", whole)
    with pytest.raises(ElbowroomError, match="too large to be made dense") as caught:
        load(tmp_path / "x.npz")
    assert "Take fewer columns and give x.toarray()" in caught.value.remedy
    assert load_data(whole[:, :2].toarray(), support="reals").event_shape == (2,)


def test_fields_in_an_archive(tmp_path: Path) -> None:
    people = np.array([(170.0, 3), (180.0, 4)], dtype=[("height", "f8"), ("shoes", "i4")])
    data = load(saved(tmp_path, people=people), test=0)
    assert (data.columns, rows(data).tolist()) == (("height", "shoes"), [[170, 3], [180, 4]])


# what is saved, what is said, the remedy, and what it asks to save
REMEDIES: dict[str, tuple[dict[str, Any], str, str, dict[str, Any]]] = {
    "no x": ({"a": X, "b": X}, "holds a, b, but one array named x", "numpy.savez(path, x=...)", {"x": X}),
    "no x, with tests": (
        {"a": X, "b": X},
        "holds a, b, but",
        "numpy.savez(path, x_train=..., x_test=...)",
        {"x_train": X[:15], "x_test": X[15:]},
    ),
    "nothing": ({}, "holds nothing, but", "numpy.savez(path, x=...)", {"x": X}),
    "two that could be x": ({"data": X, "images": X}, "holds data, images, but", "savez(path, x=...)", {"x": X}),
    "labels of some": (
        {"x_train": X[:15], "x_test": X[15:], "mask_train": np.ones((15, 3))},
        "holds mask_train, but no mask for x_test",
        "for all rows, or for none",
        {"x_train": X[:15], "x_test": X[15:], "mask_train": np.ones((15, 3)), "mask_test": np.ones((5, 3))},
    ),
    "labels in columns": (
        {"x": X, "labels": np.zeros((20, 2))},
        "labels has shape (20, 2), but a row has one class",
        "one class number or name for each row",
        {"x": X, "labels": Y},
    ),
    "two shapes": (
        {"x_train": X, "x_test": X[:, :2]},
        "the rows of x_test have shape (2,), but those of x_train have (3,)",
        "save x_train alone",
        {"x_train": X},
    ),
    "mask of other rows": (
        {"x_train": X[:15], "x_test": X[15:], "mask_train": np.ones((15, 3)), "mask_test": np.ones((4, 3))},
        "mask_test has shape (4, 3), but x has (5, 3)",
        "one entry for each element of x",
        {"x_train": X[:15], "x_test": X[15:], "mask_train": np.ones((15, 3)), "mask_test": np.ones((5, 3))},
    ),
}


@pytest.mark.parametrize(("arrays", "problem", "remedy", "followed"), REMEDIES.values(), ids=REMEDIES)
def test_the_remedy_works(
    arrays: dict[str, Any], problem: str, remedy: str, followed: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ElbowroomError) as caught:
        load(saved(tmp_path, **arrays))
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy
    assert rows(load(saved(tmp_path, **followed))).tolist() == X.tolist()


def test_a_wrong_suffix_is_renamed(tmp_path: Path) -> None:
    saved(tmp_path, x=X).rename(tmp_path / "x.npy")
    with pytest.raises(ElbowroomError, match=r"x\.npy is an archive") as caught:
        load(tmp_path / "x.npy")
    assert caught.value.remedy == "Rename it to .npz."
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    assert rows(load(tmp_path / "x.npz")).tolist() == X.tolist()
    np.save(tmp_path / "y.npy", X)
    (tmp_path / "y.npy").rename(tmp_path / "y.npz")
    with pytest.raises(ElbowroomError, match=r"y\.npz holds a single array") as caught:
        load(tmp_path / "y.npz")
    assert caught.value.remedy == "Rename it to .npy."
    (tmp_path / "y.npz").rename(tmp_path / "y.npy")
    assert rows(load(tmp_path / "y.npy")).tolist() == X.tolist()


@pytest.mark.parametrize("key", ["arr_0", "weights", "x_1", "train_test", "x_train_images", ""])
def test_names_that_say_nothing(key: str) -> None:
    assert _place(key) is None
