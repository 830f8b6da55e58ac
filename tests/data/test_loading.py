"""One door: whatever comes in, comes out with the right support, splits, labels and context."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from torch.utils.data import Dataset, TensorDataset

from elbowroom.data.binarization import Binarization
from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.data.map_style import MapStyle
from elbowroom.data.storage import InMemory, MemoryMapped
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError

GREY = torch.rand(20, 3, 4, generator=torch.Generator().manual_seed(0))


class Labelled(Dataset[Any]):
    """Items (x, label, more); labels may be no class numbers."""

    def __init__(self, labels: list[Any]) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return 20

    def __getitem__(self, row: int) -> tuple[Any, ...]:
        return GREY[row].numpy(), self.labels[row], "more"


def dataset(source: Any, **options: Any) -> DataSet:
    loaded = load_data(source, **options)
    assert isinstance(loaded, DataSet)
    return loaded


@pytest.mark.parametrize(
    "source",
    [GREY, GREY.numpy(), GREY.tolist(), GREY.numpy().copy(order="F"), TensorDataset(GREY), Labelled([0] * 20)],
    ids=["tensor", "array", "list", "columns first", "TensorDataset", "Dataset"],
)
def test_the_same_data_by_any_door(source: Any) -> None:
    data = dataset(source, test=5)
    assert torch.equal(data.take("train", torch.arange(15)).x, GREY[data.splits["train"]])
    assert data.splits["test"].tolist() == dataset(GREY, test=5).splits["test"].tolist()
    assert (data.support, data.event_shape, len(data)) == (Support.UNIT_INTERVAL, (3, 4), 20)


def test_where_the_rows_lie(tmp_path: Any) -> None:
    np.save(tmp_path / "x.npy", GREY.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert isinstance(dataset(mapped).storage, MemoryMapped)
    assert isinstance(dataset(TensorDataset(GREY)).storage, InMemory)
    assert isinstance(dataset(Labelled([0] * 20)).storage, MapStyle)
    assert dataset(torch.zeros(9, 2, dtype=torch.uint8)).storage.dtype == torch.uint8


@pytest.mark.parametrize(
    ("source", "labels"),
    [
        (Labelled(list(range(20))), list(range(20))),
        (Labelled([torch.tensor(i) for i in range(20)]), list(range(20))),
        (Labelled([0.5] * 20), None),
        (TensorDataset(GREY, torch.arange(20)), list(range(20))),
        (TensorDataset(GREY, torch.rand(20)), None),
    ],
)
def test_labels_of_a_dataset(source: Any, labels: list[int] | None) -> None:
    found = dataset(source).labels
    assert (None if found is None else found.tolist()) == labels


def test_labels_as_context_are_one_hot() -> None:
    data = dataset(GREY, labels=[0, 2] * 10, context="labels")
    assert data.context is not None
    assert data.context_dim == 3
    assert data.context.dtype == torch.float32
    assert data.context[:2].tolist() == [[1, 0, 0], [0, 0, 1]]


def test_labels_in_words_are_classes_by_sorted_name() -> None:
    data = dataset(GREY, labels=["dog", "cat"] * 10, context="labels")
    assert data.labels is not None and data.context is not None
    assert data.labels[:2].tolist() == [1, 0]
    assert data.levels == {"labels": ("cat", "dog")}


@pytest.mark.parametrize(
    ("labels", "part", "expected"),
    [(["a", "b", "c", "b"] * 5, ["c"], [0, 0, 1]), ([0, 1, 2, 1] * 5, [2], [0, 0, 1]), ([-1, 1] * 10, [1], [0, 0, 1])],
)
def test_one_row_has_the_context_it_had_in_training(labels: Any, part: Any, expected: list[int]) -> None:
    data = dataset(GREY, labels=labels, context="labels")
    one = dataset(GREY[:1], labels=part, context="labels", levels=data.levels, min_rows=1, test=0)
    assert one.context is not None
    assert one.context.tolist() == [expected]


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.coo_array])
def test_sparse_matrices_are_written_out(kind: Any) -> None:
    x = GREY.flatten(1).numpy().round()
    assert dataset(kind(x), test=0).take("train", torch.arange(20)).x.tolist() == x.tolist()


BINARISED = [
    (GREY, Support.UNIT_INTERVAL),
    (GREY.mul(255).to(torch.uint8), Support.BYTES),
    (GREY.round(), Support.BINARY),
]


@pytest.mark.parametrize("how", [how for how in Binarization if how is not Binarization.NONE])
@pytest.mark.parametrize(("source", "native"), BINARISED, ids=lambda value: str(value)[:12])
def test_binarised_data_declare_themselves_binary(source: Any, native: Support, how: str) -> None:
    data = dataset(source, binarization=how)
    assert (data.native_support, data.support, data.binarization) == (native, Support.BINARY, how)
    x = data.take("train", torch.arange(10)).x
    assert set(x.unique().tolist()) <= {0.0, 1.0}
    if native is Support.BINARY:
        assert torch.equal(x, source[data.splits["train"][:10]])


@pytest.mark.parametrize(("categories", "expected"), [(None, 6), (9, 9)], ids=["counted", "given"])
def test_categories(categories: int | None, expected: int) -> None:
    x = torch.tensor([[0, 5], [2, 1], [3, 3]])
    data = dataset(x, support="categories", num_categories=categories, test=0)
    assert (data.support, data.num_categories) == (Support.CATEGORIES, expected)
    assert dataset(x, num_categories=6).support is Support.CATEGORIES
    assert dataset(x).num_categories is None


def test_missing_values_need_a_mask_only_where_there_are_some() -> None:
    assert next(iter(dataset(GREY, missing="mask").batches("train", 4))).mask is None
    holed = GREY.clone()
    holed[0, 0, 0] = torch.nan
    assert next(iter(dataset(holed, missing="mask").batches("train", 4))).mask is not None


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "binarization": (GREY, {"binarization": "dynmaic"}, "Did you mean 'dynamic'"),
    "support": (GREY, {"support": "byte"}, "Did you mean 'bytes'"),
    "missing": (GREY, {"missing": "masked"}, "Did you mean 'mask'"),
    "reals binarised": (GREY - 0.5, {"binarization": "static"}, "needs grey values"),
    "counts binarised": (GREY.mul(999).round(), {"binarization": "dynamic"}, "needs grey values"),
    "grey said binary": (GREY, {"support": "binary"}, "100% strictly between"),
    "negative counts": (GREY.round() - 1, {"support": "counts"}, "% negative"),
    "categories beyond": (GREY.mul(9).round(), {"support": "categories", "num_categories": 3}, "num-categories 10"),
    "labels missing": (GREY, {"context": "labels"}, "there are no labels"),
    "labels too few": (GREY, {"labels": [1, 2]}, "20 rows"),
    "context too short": (GREY, {"context": np.zeros((3, 2))}, "20 rows"),
    "context not finite": (
        GREY,
        {"context": np.full((20, 2), np.nan)},
        "context of the array is not finite in 20 rows",
    ),
    "context unknown": (GREY, {"context": "age"}, "a list of column names"),
    "columns of an array": (GREY, {"context": ["age"]}, "not a table"),
    "labels of an array": (GREY, {"labels": "kind"}, "not a table"),
    "complex tensor": (GREY.to(torch.complex64), {}, "complex numbers"),
    "complex array": (GREY.numpy().astype(complex), {}, "complex numbers"),
    "0-d": (np.array(3.0), {}, "is a single number"),
    "one row": (GREY[:1], {}, "has one row"),
    "no columns": (np.zeros((4, 0)), {}, "has no columns"),
    "ragged": ([[1.0], [1.0, 2.0]], {}, "not an array of rows of one shape"),
    "dict": ({"x": GREY, "y": 3}, {}, "a dict of x, y, but one array"),
    "large sparse": (sparse.coo_matrix((40_000, 40_000)), {}, "give x.toarray()"),
    "labels of two columns": (GREY, {"labels": np.zeros((20, 2))}, "20 rows"),
    "unknown class": (
        GREY,
        {"labels": ["a", "b"] * 10, "context": "labels", "levels": {"labels": ["b", "c"]}},
        "holds the class 'a', but the classes in training were b, c",
    ),
    "records": ([{"a": 1}, {"b": 2}], {}, "a list of dicts with a, but an array"),
    "objects": ([object(), object()], {}, "Python objects"),
    "too few rows": (GREY[:2], {"test": 1, "validation": 1}, "at least one must be left"),
    "empty Dataset": (TensorDataset(GREY[:0]), {}, "has no rows"),
    "infinity": (GREY / 0, {"missing": "mask"}, "240 infinite values"),
    "all missing": (GREY * torch.nan, {"missing": "mask"}, "Every value of the array is missing"),
    "all NaN": (GREY * torch.nan, {}, "Every value of the array is missing"),
}


@pytest.mark.parametrize(("source", "options", "said"), REFUSED.values(), ids=REFUSED)
def test_refused(source: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ElbowroomError) as caught:
        load_data(source, **options)
    assert said in str(caught.value)
    assert caught.value.remedy


def test_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    data = dataset(GREY, binarization="dynamic", validation=0.2)
    list(data.training_batches(4, seed=0, epoch=0, generator=torch.Generator().manual_seed(0)))
    list(data.batches("test", 4, points=1))
    assert torch.equal(before, torch.get_rng_state())
