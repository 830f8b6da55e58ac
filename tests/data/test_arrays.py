"""Arrays as people have them: read, or refused with a sentence about what they are and a remedy that works."""

from __future__ import annotations

import array
import io
import warnings
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import sparse
from torch.utils.data import Dataset, IterableDataset

from elbowroom.data.arrays import is_sequence
from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.data.stream import StreamSet
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError

X = np.random.default_rng(0).normal(size=(12, 4)).round(3)
COUNTS = np.random.default_rng(1).poisson(0.4, size=(12, 5))
HIDDEN = np.random.default_rng(2).random(X.shape) < 0.3
HOLED = np.where(HIDDEN, np.nan, X)


def rows(data: Any) -> np.ndarray:
    """The stored rows, NaN where one is missing."""
    assert isinstance(data, DataSet)
    return data.storage.gather(torch.arange(len(data))).double().numpy()


class Endless:
    """Rows by position, with a length, and no IndexError at the end."""

    def __init__(self, values: Any = X) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: int) -> Any:
        return self.values[row % len(self.values)]


class Protocol:
    """What JAX and others offer."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return X

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, row: int) -> Any:
        raise AssertionError("fetched row by row")


class Getter:
    """Rows by position, of unknown number."""

    def __getitem__(self, row: int) -> Any:
        return X[row]


def quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.tensor([[0.0, 1.0], [2.0, 3.0]]), 1.0, 0, torch.qint8)


READ: dict[str, tuple[Callable[[], Any], np.ndarray]] = {
    "sparse COO tensor": (lambda: torch.from_numpy(COUNTS).to_sparse(), COUNTS),
    "uncoalesced tensor": (lambda: torch.sparse_coo_tensor([[0, 0], [1, 1]], [2.0, 3.0], (2, 2), check_invariants=True),
                           np.array([[0.0, 5], [0, 0]])),
    "sparse DIA matrix": (lambda: sparse.dia_matrix(COUNTS), COUNTS),
    "sparse BSR array": (lambda: sparse.bsr_array(COUNTS), COUNTS),
    "tensor with a gradient": (lambda: torch.from_numpy(X).requires_grad_(), X),
    "list of tensors": (lambda: list(torch.from_numpy(X)), X),
    "list of tensors with gradients": (lambda: [torch.from_numpy(row).requires_grad_() for row in X], X),
    "list of single numbers as tensors": (lambda: list(torch.from_numpy(X[:, 0])), X[:, :1]),
    "list of arrays": (lambda: list(X), X),
    "tuple of rows": (lambda: tuple(map(tuple, X.tolist())), X),
    "deque": (lambda: deque(X.tolist()), X),
    "array of the library": (lambda: array.array("d", X[:, 0]), X[:, :1]),
    "memoryview": (lambda: memoryview(np.ascontiguousarray(X)), X),
    "range": (lambda: range(7), np.arange(7.0)[:, None]),
    "sequence without an end": (Endless, X),
    "sequence of lists": (lambda: Endless(X.tolist()), X),
    "sequence of tuples": (lambda: Endless(list(map(tuple, X.tolist()))), X),
    "__array__": (Protocol, X),
    "objects that are numbers": (lambda: X.astype(object), X),
    "decimals": (lambda: [[Decimal("1.5"), 2], [True, 0.25]], np.array([[1.5, 2], [1, 0.25]])),
    "objects that are arrays": (lambda: objects(X), X),
    "truths": (lambda: torch.from_numpy(X > 0), (X > 0)),
    "big-endian": (lambda: X.astype(">f8"), X),
    "half precision": (lambda: X.astype("f2"), X.astype("f2")),
    "8 bits": (lambda: torch.from_numpy(COUNTS).float().to(torch.float8_e4m3fn), COUNTS),
    "16-bit whole numbers": (lambda: torch.from_numpy(COUNTS.astype("u2")), COUNTS),
    "64-bit whole numbers": (lambda: torch.from_numpy(COUNTS.astype("u8")), COUNTS),
    "quantised": (quantised, np.array([[0.0, 1], [2, 3]])),
    "strides backwards": (lambda: X[::-1, ::-1], X[::-1, ::-1]),
    "read-only": (lambda: np.broadcast_to(X[0], (5, 4)), np.tile(X[0], (5, 1))),
    "(x, label)": (lambda: [(row, at) for at, row in enumerate(X)], X),
}  # fmt: skip


def objects(x: np.ndarray) -> np.ndarray:
    found = np.empty(len(x), dtype=object)
    found[:] = list(x)
    return found


@pytest.mark.parametrize(("make", "expected"), READ.values(), ids=READ)
def test_read(make: Callable[[], Any], expected: np.ndarray) -> None:
    data = load_data(make(), test=0)
    assert rows(data).tolist() == np.asarray(expected, dtype=float).tolist()
    assert not data.masked


@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_csc])
def test_compressed_sparse_tensors(layout: torch.layout) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls them new
        given = torch.from_numpy(COUNTS).to_sparse(layout=layout)
    assert rows(load_data(given)).tolist() == COUNTS.tolist()


def test_a_matrix_of_numpy() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy advises against them
        given = np.asmatrix(X)
    assert rows(load_data(given)).tolist() == X.tolist()


def test_a_sparse_frame_and_series() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame.sparse.from_spmatrix(sparse.csr_matrix(COUNTS), columns=list("abcde"))
    assert rows(load_data(frame)).tolist() == COUNTS.tolist()
    assert rows(load_data(pd.Series(X[:, 0]))).tolist() == X[:, :1].tolist()


def test_labels_of_pairs_in_a_list() -> None:
    labels = load_data([(row, at % 3) for at, row in enumerate(X)]).labels
    assert labels is not None
    assert labels.tolist() == [at % 3 for at in range(12)]


# --- masked ------------------------------------------------------------------------------------------------------


def masked(dtype: str = "f8") -> np.ma.MaskedArray[Any, Any]:
    found = np.ma.masked_where(HIDDEN, (10 * X).round().astype(dtype))
    found.data[HIDDEN] = 99  # what lies below the mask must never be seen
    return found


@pytest.mark.parametrize("dtype", ["f4", "f8", "i1", "i4", "i8"])
@pytest.mark.parametrize("missing", ["error", "mask"])
def test_the_mask_of_a_masked_array_is_the_missing_mask(dtype: str, missing: str) -> None:
    data = load_data(masked(dtype), test=0, missing=missing)
    assert np.array_equal(rows(data), np.where(HIDDEN, np.nan, (10 * X).round()), equal_nan=True)
    batch = data.take("train", torch.arange(12))
    assert batch.mask is not None
    assert batch.mask.tolist() == (~HIDDEN).tolist()


def test_a_mask_without_any_true_is_none() -> None:
    for given in (np.ma.masked_array(X), np.ma.masked_array(X, mask=np.zeros(X.shape, bool))):
        data = load_data(given, test=0)
        assert not data.masked
        assert rows(data).tolist() == X.tolist()
    assert load_data(np.ma.masked_array(COUNTS)).storage.dtype == torch.int64  # and nothing is converted


def test_large_whole_numbers_are_kept_beside_missing_ones() -> None:
    given = np.ma.masked_array([[2**24 + 1, 3], [5, 6]], mask=[[False, True], [False, False]])
    assert rows(load_data(given))[0, 0] == 2**24 + 1


def test_masked_rows_in_a_list_and_in_a_dataset() -> None:
    listed = load_data(list(masked()), test=0)
    assert np.isnan(rows(listed)).tolist() == HIDDEN.tolist()
    fetched = load_data(Endless(masked("i4")), test=0, missing="mask")
    assert np.isnan(rows(fetched)).tolist() == HIDDEN.tolist()
    with pytest.raises(ElbowroomError, match="NaN"):
        load_data(Endless(masked("i4")), test=0)


def test_missing_objects_are_missing() -> None:
    given = np.where(HIDDEN, None, X.astype(object))
    with pytest.raises(ElbowroomError, match="NaN, the first in row"):
        load_data(given)
    assert np.array_equal(rows(load_data(given, missing="mask")), HOLED, equal_nan=True)


def test_what_is_not_a_number_though_unmasked_is_refused() -> None:
    given = np.ma.masked_array([[np.nan, 1.0], [2.0, 3.0]], mask=[[False, True], [False, False]])
    with pytest.raises(ElbowroomError, match="NaN, the first in row 0") as caught:
        load_data(given)
    assert "--data.missing mask" in caught.value.remedy
    found = rows(load_data(given, missing="mask"))
    assert np.array_equal(found, [[np.nan, np.nan], [2, 3]], equal_nan=True)
    below = np.ma.masked_array([[np.inf, 1.0], [2.0, 3.0]], mask=[[True, False], [False, False]])
    assert load_data(below).masked  # whatever lies below the mask


def test_a_dictionary_of_keys_is_a_sparse_matrix() -> None:
    assert rows(load_data(sparse.dok_matrix(COUNTS))).tolist() == COUNTS.tolist()


# --- refused, and the remedy followed ----------------------------------------------------------------------------


class Stream(IterableDataset[Any]):
    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    def __iter__(self) -> Any:
        return iter(self.make())


class Faces(Dataset[Any]):
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"label": row % 3, "image": torch.from_numpy(X[row])}


def generator() -> Any:
    return (torch.from_numpy(row) for row in X)


PICTURE = Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5))
COMPLEX = X + 1j * X[::-1]
DAYS = np.array([["2020-01-01", "2020-01-02"], ["2020-01-03", "2020-02-01"]], dtype="M8[D]")
DAY = 86400.0
SINCE_FIRST = (
    "(d - d.min()) / numpy.timedelta64(1, 's') of d = numpy.asarray(x, dtype='M8[s]')|"
    "(lambda d: (d - d.min()) / numpy.timedelta64(1, 's'))(numpy.asarray(x, dtype='M8[s]'))"
)

# what is given, what is said of it, the remedy as code that the message quotes (data and x are what was given) or
# as what it asks for, and the rows that it gives
REMEDIES: dict[str, tuple[Any, str, str, Any]] = {
    "dict": ({"a": X, "b": 3}, "a dict of a, b", "data['a']", X),
    "dict of columns": ({"a": X[:, 0], "b": X[:, 1]}, "a dict of a, b", "polars.DataFrame(data)", X[:, :2]),
    "set": ({3, 1, 2}, "a set, which has no order", "sorted(data)", [[1], [2], [3]]),
    "frozenset": (frozenset({3.5, 1}), "a frozenset, which has no order", "sorted(data)", [[1], [3.5]]),
    "bytes": (
        b"\x01\x02\x03\x04",
        "4 bytes without a shape",
        "numpy.frombuffer(data, dtype=numpy.uint8).reshape(number_of_rows, -1)",
        [[1, 2], [3, 4]],
    ),
    "bytearray": (
        bytearray(b"\x01\x02\x03\x04"),
        "4 bytes without a shape",
        "numpy.frombuffer(data, dtype=numpy.uint8).reshape(number_of_rows, -1)",
        [[1, 2], [3, 4]],
    ),
    "one picture": (PICTURE, "one picture of 5x4 pixels", "a list of pictures|[data, data]", None),
    "class": (Endless, "the class Endless", "Endless(|Endless()", X),
    "function": (lambda: X, "a function, which can be called", "data()", X),
    "generator": (generator(), "a generator, whose elements come one after the other", "list(data)", X),
    "zip": (zip(X, range(12), strict=True), "a zip, whose", "list(data)", X),
    "map": (map(list, X), "a map, whose", "list(data)", X),
    "values of a dict": ({1: X[0], 2: X[1]}.values(), "a dict_values, whose", "list(data)", X[:2]),
    "list of records": ([{"a": 1, "b": 2.5}, {"a": 3, "b": 4}], "a list of dicts with a, b", "polars.DataFrame(data)",
                        [[1, 2.5], [3, 4]]),
    "list of dicts of arrays": ([{"label": 0, "x": row} for row in X], "dicts with label, x",
                                "[data[i]['x'] for i in range(len(data))]", X),
    "Dataset of dicts": (Faces(), "The items of the Faces are dicts with label, image",
                         "[data[i]['image'] for i in range(len(data))]", X),
    "sequence of dicts": (Endless([{"id": 7, "pulse": row} for row in X]), "dicts with id, pulse",
                          "[data[i]['pulse'] for i in range(len(data))]", X),
    "complex": (COMPLEX, "complex numbers", "numpy.stack([numpy.real(x), numpy.imag(x)], axis=-1)",
                np.stack([COMPLEX.real, COMPLEX.imag], -1)),
    "complex tensor": (torch.from_numpy(COMPLEX), "complex numbers", "torch.stack([x.real, x.imag], -1)",
                       np.stack([COMPLEX.real, COMPLEX.imag], -1)),
    "text": (np.array([["b", "a"], ["a", "a"]]), "text",
             "numpy.unique(x, return_inverse=True)[1].reshape(numpy.shape(x))",
             [[1, 0], [0, 0]]),
    "dates": (DAYS, "dates", SINCE_FIRST, [[0, DAY], [2 * DAY, 31 * DAY]]),
    "dates of Python": (DAYS.tolist(), "dates", SINCE_FIRST, [[0, DAY], [2 * DAY, 31 * DAY]]),
    "numbers as text": ([["1.5", "2"], ["-3", "4e2"]], "numbers written as text", "numpy.asarray(x).astype(float)",
                        [[1.5, 2], [-3, 400]]),
    "text of Python": (["b", "a"], "text", "numpy.unique(x, return_inverse=True)[1].reshape(numpy.shape(x))",
                       [[1], [0]]),
    "no length": (Getter(), "has rows by position but no length", "[data[i] for i in range(n)]", X),
    "train and test": (((X, np.arange(12)), (X[:3], np.arange(3))), "not an array of rows of one shape",
                       "data[0][0]", X),
    "durations": (DAYS - DAYS[0, 0], "durations", "x / numpy.timedelta64(1, 's')", [[0, DAY], [2 * DAY, 31 * DAY]]),
    "too large a number": (np.array([[2**63], [2**64 - 1]], dtype="u8"), "the largest that there may be is 2^63 - 1",
                           "x.astype(float)", [[2.0**63], [2.0**64]]),
    "nested": (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
               "its rows differ in length", "torch.nested.to_padded_tensor(x, torch.nan)|missing mask",
               [[1, 1, np.nan], [1, 1, 1]]),
    "no values": (torch.empty(3, 2, device="meta"), "on the device 'meta'", "the tensor that holds the values"
                  "|torch.ones(3, 2)", np.ones((3, 2))),
    "data and labels": ((X, np.arange(12)), "not an array of rows of one shape (row 0 has shape (12, 4), row 1 (12,))",
                        "the first alone|data[0]", X),
    "a single thing": (object(), "a object, which is not an array of rows", "of shape (n, ...)|numpy.ones((3, 2))",
                       np.ones((3, 2))),
    "ragged": ([[1.0], [2.0, 3.0]], "row 0 has shape (1,), row 1 (2,)", "and NaN with --data.missing mask|"
               "[[1.0, numpy.nan], [2.0, 3.0]]|missing mask", [[1, np.nan], [2, 3]]),
    "ragged tensors": ([torch.ones(1), torch.ones(2)], "row 0 has shape (1,), row 1 (2,)", "and NaN with|"
                       "[[1.0, numpy.nan], [1.0, 1.0]]|missing mask", [[1, np.nan], [1, 1]]),
    "ragged masked rows": ([np.ma.ones(1), np.ma.ones(2)], "row 0 has shape (1,), row 1 (2,)", "the same number|"
                           "[[1.0], [1.0]]", [[1], [1]]),
    "ragged objects": (np.array([np.ones(1), np.ones(2)], dtype=object), "row 0 has shape (1,), row 1 (2,)",
                       "the same number|[[1.0], [1.0]]", [[1], [1]]),
}  # fmt: skip


@pytest.mark.parametrize(("source", "problem", "remedy", "expected"), REMEDIES.values(), ids=REMEDIES)
def test_the_remedy_works(source: Any, problem: str, remedy: str, expected: Any) -> None:
    with pytest.raises(ElbowroomError) as caught:
        load_data(source)
    assert problem in caught.value.problem
    quoted, *code = remedy.split("|")  # what the message quotes, and where that is no code, what does it
    assert quoted in caught.value.remedy
    if "missing mask" in code:
        assert "--data.missing mask" in caught.value.remedy
    known = {"data": source, "x": source, "numpy": np, "torch": torch, "number_of_rows": 2, "n": 12, "Endless": Endless}
    if "polars" in remedy:
        known["polars"] = pytest.importorskip("polars")
    given = eval(code[0] if code and code[0] != "missing mask" else quoted, known)
    found = rows(load_data(given, test=0, missing="mask" if "missing mask" in code else "error"))
    if expected is not None:
        assert np.array_equal(found, np.asarray(expected, dtype=float), equal_nan=True)


def test_an_open_file_is_given_by_its_path(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    with (tmp_path / "x.npy").open("rb") as file, pytest.raises(ElbowroomError, match="an open file") as caught:
        load_data(file)
    assert caught.value.remedy == f"Give its path: '{tmp_path / 'x.npy'}'."
    assert rows(load_data(str(tmp_path / "x.npy"))).tolist() == X.tolist()
    with pytest.raises(ElbowroomError, match="an open file") as caught:
        load_data(io.BytesIO((tmp_path / "x.npy").read_bytes()))
    assert "numpy.load(file)" in caught.value.remedy


def test_an_archive_of_numpy_is_a_dict(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=X, b=X)
    with np.load(tmp_path / "x.npz") as archive:
        with pytest.raises(ElbowroomError, match="a dict of a, b") as caught:
            load_data(archive)
        assert "data['a']" in caught.value.remedy
        assert rows(load_data(archive["a"])).tolist() == X.tolist()


def test_names_of_files_are_not_what_they_hold(tmp_path: Path) -> None:
    np.save(tmp_path / "0.npy", X[0])
    np.save(tmp_path / "1.npy", X[1])
    files = [str(tmp_path / "0.npy"), str(tmp_path / "1.npy")]
    with pytest.raises(ElbowroomError, match=r"2 names of files, such as '0.npy'") as caught:
        load_data(files)
    assert "[numpy.load(path) for path in data]" in caught.value.remedy
    assert rows(load_data([np.load(path) for path in files])).tolist() == X[:2].tolist()
    for name in ("0.png", "1.png"):
        PICTURE.save(tmp_path / name)
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    with pytest.raises(ElbowroomError, match=r"2 names of files, such as '0.png'") as caught:
        load_data(paths)
    assert "[PIL.Image.open(path) for path in data]" in caught.value.remedy
    assert rows(load_data([Image.open(path) for path in paths]))[1].tolist() == np.asarray(PICTURE).tolist()


def test_a_generator_can_be_wrapped_as_a_stream() -> None:
    with pytest.raises(ElbowroomError) as caught:
        load_data(generator())
    assert "torch IterableDataset" in caught.value.remedy
    data = load_data(Stream(generator))
    assert isinstance(data, StreamSet)
    assert torch.cat(list(data.stream.chunks())).double().numpy().tolist() == X.tolist()


def test_dicts_from_a_stream() -> None:
    def dicts() -> Any:
        return ({"image": torch.from_numpy(row), "label": 1} for row in X)

    with pytest.raises(ElbowroomError, match="are dicts with image, label") as caught:
        load_data(Stream(dicts))
    assert "yield item['image']" in caught.value.remedy
    data = load_data(Stream(lambda: (item["image"] for item in dicts())))
    assert torch.cat(list(data.stream.chunks())).double().numpy().tolist() == X.tolist()


def test_dicts_from_a_loader() -> None:
    loader = torch.utils.data.DataLoader(Faces(), batch_size=5)
    with pytest.raises(ElbowroomError, match="are dicts with label, image") as caught:
        load_data(loader)
    line = "DataLoader(…, collate_fn=lambda items: torch.stack([item['image'] for item in items]))"
    assert line in caught.value.remedy
    loader = eval(line.replace("…", "Faces(), batch_size=5"), {**globals(), "DataLoader": torch.utils.data.DataLoader})
    assert torch.cat(list(load_data(loader).stream.chunks())).double().numpy().tolist() == X.tolist()


@pytest.mark.parametrize("shape", [(40_000, 40_000), (10**5, 10**4)])
@pytest.mark.parametrize("kind", ["torch", "scipy"])
def test_a_sparse_matrix_that_is_too_large(kind: str, shape: tuple[int, int]) -> None:
    given = torch.sparse_coo_tensor(torch.zeros(2, 0, dtype=torch.long), torch.zeros(0), shape, check_invariants=True)
    whole: Any = given if kind == "torch" else sparse.csr_matrix(shape)
    with pytest.raises(ElbowroomError, match="too large to be made dense") as caught:
        load_data(whole)
    assert ("x.to_dense()" if kind == "torch" else "x.toarray()") in caught.value.remedy
    few = given.index_select(1, torch.arange(3)).to_dense() if kind == "torch" else whole[:, :3].toarray()
    assert load_data(few, support="reals").event_shape == (3,)
    assert "a Dataset that makes each row dense" in caught.value.remedy
    if kind == "scipy":  # of a few rows, since ten thousand are looked at
        dense = Endless([whole[row].toarray()[0] for row in range(3)])
        assert load_data(dense, support="reals").event_shape == shape[1:]


class TooLong(Endless):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, row: int) -> Any:
        return X[row]


def test_a_length_that_is_not_true_is_named() -> None:
    with pytest.raises(
        ElbowroomError, match=r"the TooLong has 20 rows by its own account, but row 12 raised"
    ) as caught:
        load_data(TooLong())
    assert "__len__" in caught.value.remedy


def test_a_fault_of_the_dataset_stays_its_own() -> None:
    class Faulty(Endless):
        def __getitem__(self, row: int) -> Any:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        load_data(Faulty())


@pytest.mark.parametrize("source", [X, torch.ones(2), [1.0], range(3), "text", b"", {}, sparse.csr_matrix(X), Endless])
def test_what_is_no_sequence(source: Any) -> None:
    assert not is_sequence(source)
    assert is_sequence(Endless())


def test_support_follows_from_the_observed_values() -> None:
    given = np.ma.masked_array(np.where(HIDDEN, 99, X > 0), mask=HIDDEN)
    assert load_data(given).support is Support.BINARY
