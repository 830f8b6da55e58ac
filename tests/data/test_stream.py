"""A stream is looked at without losing a row, and regrouped without changing one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from elbowroom.data.loading import load_data
from elbowroom.data.stream import StreamSet, regroup
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError

X = torch.rand(53, 2, generator=torch.Generator().manual_seed(99))  # not the seed that draws the bits


class Again(IterableDataset[Any]):
    """Starts anew at every iteration."""

    def __iter__(self) -> Iterator[Any]:
        return iter((x, 0) for x in X)


class Once(IterableDataset[Any]):
    """A one-shot source: what is read is gone."""

    def __init__(self) -> None:
        self.rows = iter(X)

    def __iter__(self) -> Iterator[Tensor]:
        return self.rows


SOURCES = {
    "again": Again,
    "once": Once,
    "loader": lambda: DataLoader(TensorDataset(X, torch.zeros(53)), batch_size=7),
    "sampler": lambda: DataLoader(X, batch_sampler=[list(range(30)), list(range(30, 53))]),
    "no batches": lambda: DataLoader(Again(), batch_size=None),
}


def stream(source: Any, **options: Any) -> StreamSet:
    loaded = load_data(source, **options)
    assert isinstance(loaded, StreamSet)
    return loaded


def rows(data: StreamSet, size: int = 10, epoch: int = 0, start: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    batches = list(data.training_batches(size, seed=0, epoch=epoch, generator=generator, start=start))
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(batch.index is None for batch in batches)
    return torch.cat([batch.x for batch in batches])


@pytest.mark.parametrize("size", [7, 10, 1000])
@pytest.mark.parametrize("kind", SOURCES)
def test_no_row_is_lost(kind: str, size: int) -> None:
    data = stream(SOURCES[kind]())
    mean, std = data.moments()  # looks at the first rows
    torch.testing.assert_close(mean, X.double().mean(0))
    torch.testing.assert_close(std, X.double().std(0, unbiased=False))
    assert torch.equal(rows(data, size), X)
    assert (data.event_shape, data.support) == ((2,), Support.UNIT_INTERVAL)


@pytest.mark.parametrize("kind", ["again", "loader"])
def test_next_epoch_starts_anew(kind: str) -> None:
    data = stream(SOURCES[kind]())
    assert torch.equal(rows(data), rows(data, epoch=1))


def test_start_reads_past_batches_without_drawing() -> None:
    generator = torch.Generator().manual_seed(0)
    data = stream(Again(), binarization="dynamic")
    batches = data.training_batches(10, seed=0, epoch=0, generator=generator)
    next(batches)
    next(batches)
    resumed = torch.Generator()
    resumed.set_state(generator.get_state())
    rest = torch.cat([batch.x for batch in batches])
    again = data.training_batches(10, seed=0, epoch=0, generator=resumed, start=2)
    assert torch.equal(rest, torch.cat([batch.x for batch in again]))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8, 12])
@pytest.mark.parametrize("number", [1, 2, 3, 12])
def test_regrouping_changes_sizes_only(number: int, batch_size: int) -> None:
    """All ways to choose up to three sizes of four, and some ways to choose twelve of nine."""
    some = torch.randint(1, 10, (30, number), generator=torch.Generator().manual_seed(0)).tolist()
    for sizes in some if number == 12 else itertools.product((1, 2, 5, 9), repeat=number):
        x = torch.arange(sum(sizes))[:, None]
        groups = list(regroup(iter(x.split(list(sizes))), batch_size))
        assert torch.equal(torch.cat(groups), x)
        assert all(len(group) == batch_size for group in groups[:-1])
        assert 0 < len(groups[-1]) <= batch_size


def test_vectors_of_a_loader_are_rows_of_one_element() -> None:
    assert stream(DataLoader(torch.arange(6.0), batch_size=2)).event_shape == (1,)


@pytest.mark.parametrize("how", ["dynamic", "threshold"])
def test_binarisation_of_a_stream(how: str) -> None:
    data = stream(Again(), binarization=how)
    assert data.support is Support.BINARY
    x = rows(data)
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert x[X > 0.9].mean() > x[X < 0.1].mean()
    mean = X.double().mean(0) if how == "dynamic" else x.double().mean(0)
    torch.testing.assert_close(data.moments(), (mean, (mean * (1 - mean)).sqrt()))


def test_missing_values_of_a_stream() -> None:
    x = X.clone()
    x[3, 1] = torch.nan
    data = stream(DataLoader(x, batch_size=53), missing="mask")
    batch = next(data.training_batches(53, seed=0, epoch=0, generator=torch.Generator()))
    assert batch.mask is not None
    assert batch.mask.logical_not().nonzero().tolist() == [[3, 1]]
    assert batch.x[3, 1] == 0
    assert data.moments()[0].isfinite().all()


def ragged() -> DataLoader[Any]:
    return DataLoader([torch.zeros(2)] * 2000 + [torch.zeros(3)], batch_size=1)


@pytest.mark.parametrize(
    ("ask", "problem"),
    [
        (lambda: load_data(DataLoader(torch.zeros(0, 2))), "is empty"),
        (lambda: load_data(Again(), binarization="static"), "fixed bits belong to row numbers"),
        (lambda: load_data(Again(), labels=[1]), "no row numbers for them"),
        (lambda: load_data(DataLoader(X / 0)), "infinite values, the first in row 0"),
        (lambda: stream(Again()).batches("test", 4), "The test split of the Again was asked for"),
        (lambda: stream(Again()).take("train", torch.tensor([0])), "no row numbers"),
        (
            lambda: stream(Again()).viewed_as(Support.BINARY, needed_by="a B"),
            r"\(100% strictly between\), but a B needs",
        ),
        (lambda: rows(stream(ragged())), r"yields x of shape \(3,\) after \(2,\)"),
        (lambda: rows(stream(Again()), 0), "batch size is 0"),
    ],
)
def test_misuse(ask: Any, problem: str) -> None:
    with pytest.raises(ElbowroomError, match=problem):
        ask()


def test_interface_where_it_means_something() -> None:
    data = stream(Again()).to(dtype=torch.float64).viewed_as(Support.REALS)
    assert (data.size("train"), data.splits, data.labels, data.context_dim) == (None, {}, None, 0)
    assert data.support is Support.REALS
    assert rows(data).dtype == torch.float64
    assert data.protocol() == {"dataset": "the Again", "binarization": "none", "seed": 0, "sha256": None}


def test_a_row_outside_the_support_stops_the_stream() -> None:
    late = torch.cat([torch.ones(3000, 2), torch.full((1, 2), 7.0)])
    data = stream(DataLoader(late, batch_size=100))
    assert data.support is Support.BINARY
    with pytest.raises(ElbowroomError, match="Row 3000 of the DataLoader holds 7, but"):
        rows(data)


def test_missing_reals_of_a_stream_stand_at_the_mean(generator: torch.Generator) -> None:
    x = 1000 + torch.randn(40, 2, generator=generator)
    x[7, 1] = torch.nan
    batch = next(
        stream(DataLoader(x, batch_size=8), missing="mask").training_batches(40, seed=0, epoch=0, generator=generator)
    )
    assert batch.x[7, 1] == pytest.approx(float(x[:, 1].nanmean()), abs=1e-3)


def test_a_loader_hints_at_its_dataset() -> None:
    assert "loader.dataset" in stream(SOURCES["loader"]()).hint
    assert "loader.dataset" not in stream(SOURCES["no batches"]()).hint
    with pytest.raises(ElbowroomError) as caught:
        stream(SOURCES["loader"]()).batches("test", 4)
    assert "loader.dataset" in caught.value.remedy


class Pictures(IterableDataset[Any]):
    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.rand(6, *self.shape, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("batched", [False, True])
def test_colours_that_move_are_said(batched: bool) -> None:
    said: list[str] = []
    source: Any = Pictures(8, 9, 3)
    data = stream(DataLoader(source, batch_size=2) if batched else source, announce=said.append)
    assert data.event_shape == (3, 8, 9)
    (remark,) = said
    assert remark.endswith("colours was moved to the front: examples of shape (8, 9, 3) are now (3, 8, 9).")
    for shape in ((3, 8, 9), (5,)):
        stream(Pictures(*shape), announce=said.append)
    assert len(said) == 1
