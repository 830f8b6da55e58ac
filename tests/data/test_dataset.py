"""Batches: every row once, in an order that can be resumed, with bits that stay where they should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError

N = 101  # not a multiple of any batch size below
GREY = torch.randint(0, 256, (N, 3, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


class Items(torch.utils.data.Dataset[Any]):
    """The same rows, item by item."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> Tensor:
        return GREY[row]


def memory_mapped(folder: Path) -> Path:
    np.save(folder / "grey.npy", GREY.numpy())
    return folder / "grey.npy"


@pytest.fixture(params=["memory", "mapped", "dataset"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return {"memory": lambda: GREY, "mapped": lambda: memory_mapped(tmp_path), "dataset": Items}[request.param]()


def dataset(source: Any = GREY, **options: Any) -> DataSet:
    loaded = load_data(source, **{"validation": 10, "test": 21, **options})
    assert isinstance(loaded, DataSet)
    return loaded


def epoch(
    data: DataSet, *, number: int = 0, size: int = 16, seed: int = 0, start: int = 0, draws: int = 0
) -> list[Batch]:
    generator = torch.Generator().manual_seed(draws)
    return list(data.training_batches(size, seed=seed, epoch=number, generator=generator, start=start))


def joined(batches: list[Batch]) -> tuple[Tensor, Tensor]:
    index = [batch.index for batch in batches if batch.index is not None]
    return torch.cat([batch.x for batch in batches]), torch.cat(index)


@pytest.mark.parametrize("size", [1, 16, 70, 1000])
def test_an_epoch_visits_every_training_row_once(source: Any, size: int) -> None:
    data = dataset(source)
    x, index = joined(epoch(data, size=size))
    assert torch.equal(index.sort().values, data.splits["train"])
    assert torch.equal(x, GREY[index].float())
    assert [len(batch) for batch in epoch(data, size=16)] == [16, 16, 16, 16, 6]


def test_order_depends_on_seed_and_epoch_alone(source: Any) -> None:
    data = dataset(source, binarization="dynamic")
    assert torch.equal(joined(epoch(data, draws=1))[1], joined(epoch(data, size=5, draws=2))[1])
    orders = {tuple(joined(epoch(data, seed=s, number=e))[1].tolist()) for s in range(3) for e in range(3)}
    assert len(orders) == 9


@pytest.mark.parametrize("binarization", ["none", "static", "dynamic", "threshold"])
def test_resumed_in_the_middle_the_numbers_are_the_same(source: Any, binarization: str) -> None:
    data = dataset(source, binarization=binarization)
    generator = torch.Generator().manual_seed(3)
    batches = data.training_batches(16, seed=0, epoch=4, generator=generator)
    for _ in range(2):
        next(batches)
    state = generator.get_state()
    rest = list(batches)
    resumed = torch.Generator()
    resumed.set_state(state)
    again = list(data.training_batches(16, seed=0, epoch=4, generator=resumed, start=2))
    assert len(again) == len(rest) == 3
    for one, other in zip(rest, again, strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.index, other.index)
    assert torch.equal(generator.get_state(), resumed.get_state())


@pytest.mark.parametrize("binarization", ["none", "static", "threshold"])
def test_only_dynamic_binarisation_draws(binarization: str) -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    list(dataset(binarization=binarization).training_batches(16, seed=0, epoch=0, generator=generator))
    assert torch.equal(before, generator.get_state())


def test_dynamic_bits_are_new_at_every_visit_and_right_on_average() -> None:
    data = dataset(binarization="dynamic")
    generator = torch.Generator().manual_seed(0)
    total, epochs = torch.zeros(N, 3, 4), 400
    for number in range(epochs):
        for batch in data.training_batches(64, seed=0, epoch=number, generator=generator):
            assert batch.index is not None
            total[batch.index] += batch.x
    rows = data.splits["train"]
    p = GREY[rows].double() / 255
    z = (total[rows] - epochs * p) / (epochs * p * (1 - p)).sqrt()
    z = z[(p > 0.02) & (p < 0.98)]
    assert abs(float(z.mean()) * len(z) ** 0.5) < 4  # inverted bits would be off by hundreds
    assert abs(float(z.square().mean() - 1) * (len(z) / 2) ** 0.5) < 4
    assert torch.equal(total[rows][p == 1], torch.full_like(total[rows][p == 1], epochs))
    assert not total[rows][p == 0].any()


@pytest.mark.parametrize("binarization", ["static", "dynamic"])
def test_evaluation_sees_the_same_bits_of_a_row_always(source: Any, binarization: str) -> None:
    data = dataset(source, binarization=binarization)
    reference = dataset(GREY, binarization="static")  # one protocol for both, in memory or not
    x, index = joined(list(data.batches("test", 8)))
    assert torch.equal(index, data.splits["test"])
    assert set(x.unique().tolist()) == {0.0, 1.0}
    for other in (
        joined(list(data.batches("test", 8)))[0],
        joined(list(data.batches("test", 3)))[0],
        joined(list(reference.batches("test", 50)))[0],
        joined(list(data.viewed_as(Support.REALS).batches("test", 50)))[0],
    ):
        assert torch.equal(x, other)
    order = torch.tensor([5, 0, 11])
    assert torch.equal(data.take("test", order).x, x[order])
    part = list(data.batches("test", 4, points=9))
    kept = torch.isin(index, joined(part)[1])
    assert torch.equal(joined(part)[0], x[kept])
    assert not torch.equal(x, joined(list(dataset(source, binarization=binarization, seed=1).batches("test", 8)))[0])


def test_static_bits_are_the_same_in_training_and_evaluation(source: Any) -> None:
    data = dataset(source, binarization="static")
    first, again = joined(epoch(data)), joined(epoch(data, number=1, draws=9))
    order, other = first[1].argsort(), again[1].argsort()
    assert torch.equal(first[0][order], again[0][other])
    assert torch.equal(first[0][order], joined(list(data.batches("train", 7)))[0])


def test_points_are_a_seeded_subset_in_order() -> None:
    data = dataset()
    picked = joined(list(data.batches("test", 4, points=9)))[1]
    assert len(picked) == len(picked.unique()) == 9
    assert torch.equal(picked, picked.sort().values)
    assert torch.isin(picked, data.splits["test"]).all()
    assert torch.equal(picked, joined(list(data.batches("test", 2, points=9)))[1])
    assert torch.equal(joined(list(data.batches("test", 4, points=1000)))[1], data.splits["test"])


@pytest.mark.parametrize(
    ("ask", "problem"),
    [
        (lambda d: d.batches("test", 4, points=0), "0 points"),
        (lambda d: d.batches("test", 0), "batch size is 0"),
        (lambda d: d.training_batches(0, seed=0, epoch=0, generator=torch.Generator()), "batch size is 0"),
        (lambda d: d.batches("tset", 4), "no split 'tset'"),
        (lambda d: d.size("valid"), "no split 'valid'"),
        (lambda d: dataset(validation=0).batches("validation", 4), "has no validation rows"),
    ],
)
def test_misuse(ask: Any, problem: str) -> None:
    with pytest.raises(ElbowroomError, match=problem):
        ask(dataset())


def exact_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.double().mean(0), x.double().std(0, unbiased=False)


def test_moments_are_those_of_the_training_rows_as_delivered(source: Any) -> None:
    for data in (
        dataset(source),
        dataset(source).viewed_as(Support.UNIT_INTERVAL).to(dtype=torch.float64),
        dataset(source, binarization="static"),
        dataset(source, binarization="threshold"),
    ):
        expected = exact_moments(joined(list(data.batches("train", 100)))[0])
        for found, exact in zip(data.moments(), expected, strict=True):
            assert found.dtype == torch.float64
            torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-12)


def test_moments_of_dynamic_data_are_those_of_the_bernoulli_mixture(source: Any) -> None:
    data = dataset(source, binarization="dynamic")
    mean = (GREY[data.splits["train"]].double() / 255).mean(0)
    torch.testing.assert_close(data.moments(), (mean, (mean * (1 - mean)).sqrt()))


def test_missing_elements_are_masked_and_left_out(generator: torch.Generator) -> None:
    x = torch.randn(40, 5, generator=generator)
    missing = torch.rand(40, 5, generator=generator) < 0.3
    data = dataset(torch.where(missing, torch.nan, x), missing="mask", validation=0, test=4)
    for batch in epoch(data):
        assert batch.mask is not None
        assert torch.equal(batch.mask, ~missing[batch.index])
    rows = data.splits["train"]
    expected = np.ma.masked_array(x[rows].numpy().astype(np.float64), missing[rows].numpy())
    np.testing.assert_allclose(data.moments()[0], expected.mean(0))
    np.testing.assert_allclose(data.moments()[1], expected.std(0))
    for batch in (*epoch(data), *data.batches("test", 2)):  # at the training mean: 0 once standardised
        filled = torch.where(batch.mask, x[batch.index], torch.from_numpy(expected.mean(0).filled(0)).float())
        assert torch.equal(batch.x, filled)


@pytest.mark.parametrize("scale", [1, 255])
def test_missing_grey_values_are_zero(scale: int) -> None:
    x = torch.full((20, 3, 4), float(scale))
    x[:, 0] = torch.nan
    for batch in epoch(dataset(x, missing="mask", validation=0, test=0)):
        assert not batch.x[:, 0].any()


class Late(torch.utils.data.Dataset[Any]):
    """0 and 1 in the rows that are surveyed, something else in one that is not."""

    def __init__(self, value: float, dtype: torch.dtype = torch.float32) -> None:
        self.row = torch.tensor([0, 1], dtype=dtype)
        self.odd = torch.tensor([value, 1]).to(dtype)

    def __len__(self) -> int:
        return 20_000

    def __getitem__(self, row: int) -> Tensor:
        return self.odd if row == 19_999 else self.row


LATE = [
    (7.0, torch.float32, {}, "Row 19999 of the Late holds 7, but the rows that were checked before are 0 or 1"),
    (7.0, torch.uint8, {}, "Row 19999 of the Late holds 7"),
    (-1.0, torch.int8, {"support": "bytes"}, "Row 19999 of the Late holds -1"),
    (0.5, torch.float32, {"support": "counts"}, "Row 19999 of the Late holds 0.5"),
    (3.0, torch.float32, {"num_categories": 3}, r"the 3 categories are numbered 0\.\.2"),
    (float("nan"), torch.float32, {"support": "reals"}, r"holds nan \(NaN\), but data are finite"),
    (float("inf"), torch.float32, {"support": "reals", "missing": "mask"}, "Row 19999 of the Late holds inf"),
]


@pytest.mark.parametrize(("value", "dtype", "options", "problem"), LATE)
def test_rows_that_no_survey_saw_are_checked_when_fetched(
    value: float, dtype: torch.dtype, options: Any, problem: str
) -> None:
    data = dataset(Late(value, dtype), validation=0, test=0, **options)
    assert len(data.take("train", torch.arange(9))) == 9
    with pytest.raises(ElbowroomError, match=problem):
        data.take("train", torch.tensor([3, 19_999]))


def test_a_late_hole_is_no_fault_where_holes_are_allowed() -> None:
    data = dataset(Late(float("nan")), validation=0, test=0, missing="mask")
    mask = data.take("train", torch.tensor([3, 19_999])).mask
    assert mask is not None
    assert mask.tolist() == [[True, True], [False, True]]


def test_every_row_of_a_memory_map_is_looked_at(tmp_path: Path) -> None:
    x = np.full((30_000, 6), 7, dtype=np.uint8)
    x[np.arange(10_000) * 3] = 1  # the rows that a sample of 10,000 would see
    np.save(tmp_path / "x.npy", x)
    assert dataset(tmp_path / "x.npy").support is Support.BYTES
    with pytest.raises(ElbowroomError, match="range from 1 to 7"):
        dataset(tmp_path / "x.npy", support="binary")


def test_context_and_dtype_travel_with_the_rows() -> None:
    context = torch.arange(N)[:, None] * 2.0
    data = dataset(context=context).to(dtype=torch.float64)
    assert data.context_dim == 1
    for batch in epoch(data):
        assert batch.context is not None and batch.index is not None
        assert torch.equal(batch.context[:, 0], batch.index * 2.0)
        assert batch.x.dtype == batch.context.dtype == torch.float64


def test_device_moves_every_part(source: Any) -> None:
    """On the 'meta' device nothing is computed, but everything has to be there."""
    data = dataset(source, context=torch.zeros(N, 2)).to("meta")
    batch = next(data.training_batches(4, seed=0, epoch=0, generator=torch.Generator()))
    assert {batch.x.device.type, batch.context.device.type, batch.index.device.type} == {"meta"}


def test_protocol_names_content_and_binarisation(source: Any) -> None:
    data = dataset(source, binarization="dynamic", seed=7)
    protocol = data.protocol()
    assert (protocol["binarization"], protocol["seed"]) == ("dynamic", 7)
    assert len(protocol["sha256"]) == 64
    assert data.viewed_as(Support.REALS).to(dtype=torch.float64).protocol() == protocol
    assert dataset(GREY.roll(1, 0)).protocol()["sha256"] != dataset(GREY).protocol()["sha256"]


def test_protocol_names_context_and_labels() -> None:
    labels = torch.arange(N) % 3
    digests = [
        dataset(**options).protocol().get(f"sha256_{what}")
        for what in ("context", "labels")
        for options in ({}, {"context": labels[:, None]}, {"labels": labels}, {"labels": labels.roll(1)})
    ]
    assert [digest is None for digest in digests] == [True, False, True, True, True, True, False, False]
    assert digests[6] != digests[7]
    data = dataset(context="labels", labels=labels)
    assert (
        data.protocol()["sha256_context"]
        != dataset(context="labels", labels=labels.roll(1)).protocol()["sha256_context"]
    )
    assert data.to(dtype=torch.float64).protocol() == data.protocol()
    assert data.protocol()["levels"] == {"labels": ["0", "1", "2"]}


def test_grey_pixels_under_a_bernoulli_are_refused(tmp_path: Path) -> None:
    grey = np.zeros((100, 5, 5), dtype=np.float32)
    grey[:, 0, :3] = 0.5  # 3 of 25
    np.save(tmp_path / "grey.npy", grey)
    with pytest.raises(ElbowroomError) as caught:
        dataset(tmp_path / "grey.npy").viewed_as(Support.BINARY, needed_by="a Bernoulli likelihood")
    assert caught.value.problem == (
        "the pixels of grey.npy lie between 0 and 1 (12% strictly between), but a Bernoulli likelihood needs 0 or 1."
    )
    assert "--data.binarization dynamic (or static, threshold)" in caught.value.remedy


def test_explicit_unit_interval_of_bytes_and_back() -> None:
    data = dataset(support="unit-interval")
    assert data.support is Support.UNIT_INTERVAL
    assert torch.equal(data.take("test", torch.tensor([0])).x[0], GREY[data.splits["test"][0]] / 255)
    assert torch.equal(
        data.viewed_as(Support.BYTES).take("test", torch.tensor([0])).x[0], GREY[data.splits["test"][0]].float()
    )


@pytest.mark.parametrize(
    ("name", "beside", "column"), [("who", (), "who"), ("row", (), "id_row"), ("elbo", ("row", "elbo"), "id_elbo")]
)
def test_identifiers_hide_no_other_column(name: str, beside: tuple[str, ...], column: str) -> None:
    data = replace(load_data(torch.rand(8, 2), test=0), ids=tuple("abcdefgh"), id_name=name)
    assert data.row_columns(torch.tensor([2, 0]), beside) == {"row": [2, 0], column: ["c", "a"]}
