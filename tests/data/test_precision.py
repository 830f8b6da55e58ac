"""Units: where an origin is needed and where not, which covariates are standardised, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.data.precision import (
    Units,
    check_range,
    check_spread,
    check_whole_numbers,
    find_context_units,
    find_units,
    in_units,
    varying,
)
from elbowroom.data.storage import SCAN_ROWS
from elbowroom.data.stream import StreamSet
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError

ROWS = 400
UNIX = 1.7e9


def normal(rows: int = ROWS, dim: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def origin(x: Any, dtype: torch.dtype = torch.float32, **settings: Any) -> list[float] | None:
    data = load_data(x, support="reals", **settings)
    found = find_units(data, dtype).origin
    return None if found is None else found.flatten().tolist()


def delivered(x: Any, **settings: Any) -> DataSet:
    data = load_data(x, **settings)
    assert isinstance(data, DataSet)
    return in_units(data, find_units(data, torch.float32))


def refusal(x: Any, **settings: Any) -> ElbowroomError:
    with pytest.raises(ElbowroomError) as caught:
        find_units(load_data(x, **settings), torch.float32)
    return caught.value


# --- the origin --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e3 / 4, 1e3 * 4])
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("sign", [-1, 1])
def test_an_origin_begins_where_the_median_is_a_thousand_spreads_away(size: float, unit: float, sign: int) -> None:
    x = unit * (normal() + sign * size)
    found = origin(x)
    if size < 1e3:
        assert found is None
    else:
        assert found == pytest.approx((sign * unit * torch.full((3,), size)).tolist(), rel=1e-3)


def test_every_element_has_an_origin_of_its_own() -> None:
    x = normal() + torch.tensor([0.0, UNIX, 7.0])
    found = origin(x)
    assert found is not None
    assert found[0] == found[2] == 0.0
    assert abs(found[1] - UNIX) < 1


@pytest.mark.parametrize("outlier", [0.0, 1e15, -1e30])
def test_a_single_outlier_moves_neither_median_nor_spread(outlier: float) -> None:
    x = normal() + UNIX
    x[7, 1] = outlier
    found = origin(x)
    assert found == pytest.approx([UNIX] * 3, abs=1)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "uint32"])
def test_an_origin_whatever_the_type_that_is_stored(dtype: str) -> None:
    x = (UNIX + 1e4 * normal()).numpy().round().astype(dtype)
    found = origin(x)
    assert found == pytest.approx([UNIX] * 3, abs=2e3)
    data = delivered(x, support="reals")
    assert data.take("train", torch.arange(5)).x.dtype == torch.float32
    exact = x.astype(np.float64)[data.splits["train"][:5].numpy()]
    assert data.view.restored(data.take("train", torch.arange(5)).x).numpy() == pytest.approx(exact, abs=1e-2)


def test_none_in_double_precision() -> None:
    assert origin(normal() + UNIX, torch.float64) is None


@pytest.mark.parametrize("x", [torch.rand(ROWS, 4, 4), torch.full((ROWS, 2), 5.0), torch.randint(0, 9, (ROWS, 3))])
def test_ordinary_data_are_delivered_to_the_bit_as_before(x: Tensor) -> None:
    data = load_data(x)
    assert isinstance(data, DataSet)
    units = find_units(data, torch.float32)
    assert units.origin is None
    assert in_units(data, units) is data


def test_rounding_in_float64_gets_no_origin() -> None:
    """A constant that varies in its last digits stays constant, and is refused as that when a model is started."""
    x = torch.cat([normal(), 0.1 + 1e-17 * torch.arange(ROWS, dtype=torch.float64)[:, None]], 1)
    assert len(x[:, 3].unique()) > 1
    assert origin(x) is None


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_whole_numbers_have_no_rounding(dtype: torch.dtype) -> None:
    found = origin((10**15 + torch.arange(ROWS)[:, None]).to(dtype))
    assert found is not None
    assert abs(found[0] - 10**15) < ROWS


def test_half_the_rows_equal() -> None:
    """The central 90% have no width where they are all equal; the standard deviation takes its place."""
    x = torch.full((ROWS, 1), UNIX, dtype=torch.float64)
    x[:10, 0] += torch.arange(10)
    assert origin(x) == [UNIX]
    assert origin(torch.cat([torch.full((ROWS, 1), 7.25), torch.full((20, 1), 1.5)])) is None


def test_missing_values_are_no_part_of_it() -> None:
    x = normal() + UNIX
    x[::3, 0] = float("nan")
    x[:, 2] = float("nan")
    found = origin(x, missing="mask")
    assert found is not None
    assert found[:2] == pytest.approx([UNIX] * 2, abs=1)
    assert found[2] == 0.0


def test_the_filler_is_in_the_unit_of_delivery() -> None:
    x = normal() + torch.tensor([0.0, UNIX, 0.0])
    x[::2, 1] = float("nan")
    data = delivered(x, missing="mask", test=0.0)
    batch = next(data.batches("train", ROWS))
    assert batch.mask is not None
    filled = batch.x[~batch.mask]
    seen = batch.x[:, 1][batch.mask[:, 1]]
    assert filled.unique().tolist() == pytest.approx([float(seen.double().mean())], abs=1e-6)
    assert seen.abs().max() < 5


def test_moments_are_those_of_what_is_delivered() -> None:
    x = normal() + UNIX
    data = delivered(x, test=0.0)
    mean, std = data.moments()
    whole = next(data.batches("train", ROWS)).x.double()
    assert torch.allclose(mean, whole.mean(0), atol=1e-6)
    assert torch.allclose(std, x.std(0, unbiased=False), atol=1e-6)


class Items(Dataset[Any]):
    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> Tensor:
        return self.x[row]


@pytest.mark.parametrize("kind", ["array", "memmap", "items", "loader"])
def test_all_sources_keep_their_digits(kind: str, tmp_path: Path) -> None:
    x = normal() + UNIX
    source: Any = x
    if kind == "memmap":
        np.save(tmp_path / "x.npy", x.numpy())
        source = tmp_path / "x.npy"
    elif kind == "items":
        source = Items(x)
    elif kind == "loader":
        source = DataLoader(TensorDataset(x), batch_size=50)
    data = load_data(source, **({} if kind == "loader" else {"test": 0.0}))
    data = in_units(data, find_units(data, torch.float32)) if isinstance(data, DataSet) else _stream(data)
    batches = data.training_batches(50, seed=0, epoch=0, generator=torch.Generator())
    back = torch.cat([data.view.restored(batch.x) for batch in batches])
    assert back.dtype == torch.float64
    assert torch.allclose(back.sort(0).values, x.sort(0).values, rtol=0, atol=1e-6)


def _stream(data: StreamSet) -> StreamSet:
    return in_units(data, find_units(data, torch.float32))


# --- merging -----------------------------------------------------------------------------------------------------


def two_groups(far: float = UNIX, share: float = 0.5) -> Tensor:
    x = normal()
    x[: int(share * ROWS), 1] += far
    return x


def cubed(size: float) -> Tensor:
    return size * normal() ** 3


@pytest.mark.parametrize(
    "x",
    [
        pytest.param(two_groups(), id="two groups"),
        pytest.param(two_groups(share=0.8), id="most far off"),
        pytest.param(two_groups(-1e10), id="negative"),
        pytest.param(two_groups().unsqueeze(1), id="pictures"),
        pytest.param((torch.arange(ROWS) + torch.arange(ROWS) % 2 * 10**15)[:, None].expand(-1, 2), id="identifiers"),
        pytest.param((torch.arange(ROWS) + torch.arange(ROWS) % 2 * 10**15)[:, None].double(), id="as float64"),
    ],
)
def test_values_that_merge_are_refused(x: Tensor) -> None:
    error = refusal(x, support="reals")
    assert "become equal to others in float32" in error.problem
    assert "--runtime.dtype float64" in error.remedy
    find_units(load_data(x, support="reals"), torch.float64)  # the remedy


@pytest.mark.parametrize(("size", "double"), [(1e-46, True), (1e-100, True), (1e-200, False)])
def test_small_numbers_that_merge_need_another_unit(size: float, double: bool) -> None:
    """Double precision helps as long as it has the squares."""
    error = refusal(size * normal())
    assert "become 0" in error.problem or "become -0" in error.problem or "e-45" in error.problem
    assert "another unit" in error.remedy
    assert ("--runtime.dtype float64" in error.remedy) is double
    find_units(load_data(normal()), torch.float32)


@pytest.mark.parametrize(
    "x",
    [1e12 + 0.3 * normal(), 17 * 10**17 + (100 * normal()).long(), 2**60 + torch.arange(ROWS)[:, None]],
    ids=["float", "int", "consecutive"],
)
def test_values_too_narrow_for_float64_have_another_remedy(x: Tensor) -> None:
    """In double precision their spread counts as rounding, so that it does not help."""
    with pytest.raises(ElbowroomError, match="become equal") as caught:
        origin(x)
    assert "Subtract a number near them" in caught.value.remedy and "float64" not in caught.value.remedy
    moved = delivered(x - x[0], support="reals")
    assert len(next(moved.batches("train", ROWS)).x[:, 0].unique()) > 100


def test_the_refusal_shows_two_values_and_names_the_column() -> None:
    pl = pytest.importorskip("polars")
    x = two_groups()
    error = refusal(pl.DataFrame(x.numpy(), schema=["age", "seen", "income"]))
    assert "column 'seen' of the data frame" in error.problem
    one, other = (float(word) for word in error.problem.split(": ")[1].split(" both ")[0].split(" and "))
    assert one != other
    assert np.float32(one) == np.float32(other)
    find_units(load_data(x[:, [0, 2]]), torch.float32)  # the other remedy: without that column


def test_in_the_unit_interval() -> None:
    x = 0.5 + 1e-9 * torch.rand(ROWS, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert load_data(x).support is Support.UNIT_INTERVAL
    assert "element 0 of the array, " in refusal(x).problem
    assert origin(x) == pytest.approx([0.5, 0.5], abs=1e-8)  # as real numbers nothing is lost


def healthy() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(10_000, 3, dtype=torch.float64, generator=generator)
    bell = normal(10_000)
    return {
        "normal": bell,
        "just below the limit": bell + 900,
        "years": 2015 + 5 * bell,
        "Cauchy": bell / normal(10_000, seed=1),
        "log-normal, σ = 20": (20 * bell).exp().clamp(max=1e30),
        "heavy tails far from 0": 1e9 + bell / normal(10_000, seed=1),
        "softmax": (50 * bell).softmax(1),
        "sigmoid, the worst": (22 * bell).sigmoid(),
        "sigmoid beside others": torch.cat([(22 * bell).sigmoid(), bell], 1),
        "nearly half of it saturated": torch.cat([20 + bell, 5 * bell, 5 * bell]).sigmoid()[::3],
        "peaked": 700 + bell * torch.where(uniform < 0.85, 0.15, 3.0),
        "probabilities near 1": 1 - 1e-16 * (10 * uniform).round(),
        "decimals with rounding": (10 * uniform).round() * 0.1 * (1 + 1e-15 * bell),
        "levels after a round trip": (10 * uniform).round() * 0.1 * (1 + 1e-14 * bell),
        "cents": (100 * (1000 + 20 * bell)).round() / 100,
        "float32": bell.float() + 500,
    }


@pytest.mark.parametrize("name", healthy())
def test_healthy_data_are_not_refused(name: str) -> None:
    find_units(load_data(healthy()[name]), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_counts_beyond_the_whole_numbers_of_float32(dtype: torch.dtype) -> None:
    x = torch.arange(ROWS)[:, None].to(dtype)
    find_units(load_data(x + 2**24 - ROWS), torch.float32)
    error = refusal(x + 2**24)
    assert "counts 0, 1, 2, …, up to 16,777,615" in error.problem
    for remedy in ("--runtime.dtype float64", "--data.support reals"):
        assert remedy in error.remedy
    assert origin(x + 2**24) is not None
    find_units(load_data(x + 2**24), torch.float64)
    error = refusal(x + 2**24, support="categories")
    assert "category numbers" in error.problem
    assert "Number the categories 0, 1, 2" in error.remedy
    find_units(load_data(x.unique(return_inverse=True)[1], support="categories"), torch.float32)


def test_counts_for_a_trained_model_are_named_by_row(tmp_path: Path) -> None:
    x = np.arange(2 * SCAN_ROWS)[:, None].repeat(2, 1)
    x[5, 1] = 2**24 + 1  # a row that evenly spaced ones pass over
    np.save(tmp_path / "x.npy", x)
    for source in (x, tmp_path / "x.npy"):
        data = load_data(source, support="counts")
        with pytest.raises(ElbowroomError, match=r"Row 5 of .* holds 16,777,217 in element 1, but float32") as caught:
            check_whole_numbers(data, torch.float32, trained=True)
        assert "take the row out" in caught.value.remedy
        check_whole_numbers(data, torch.float64, trained=True)
    x[5, 1] = 2**24
    check_whole_numbers(load_data(x, support="counts"), torch.float32, trained=True)
    x[5, 1] = 2**40
    check_whole_numbers(load_data(x, support="reals"), torch.float32, trained=True)


def test_a_value_beyond_the_largest_number_is_found_in_any_row_of_a_file(tmp_path: Path) -> None:
    x = normal(2 * SCAN_ROWS).numpy()
    x[5, 1] = 1e300
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(ElbowroomError, match=r"Row 5 of x.npy holds 1e\+300 in element 1"):
        check_range(delivered(tmp_path / "x.npy"))


@pytest.mark.parametrize(("share", "said"), [(0.005, False), (0.02, True), (0.25, True)])
def test_few_values_that_merge_are_said(share: float, said: bool) -> None:
    pl = pytest.importorskip("polars")
    x = two_groups(share=share)
    units = find_units(load_data(pl.DataFrame(x.numpy(), schema=["age", "seen", "income"]), test=0), torch.float32)
    assert len(units.remarks) == said
    if said:
        assert units.remarks[0].startswith(f"in column 'seen' of the data frame, {share:.0%} of the different values")
        assert units.remarks[0].endswith("to keep them apart, pass --runtime.dtype float64")
    assert not find_units(load_data(x), torch.float64).remarks


def test_the_worst_element_is_named_with_the_number_of_others() -> None:
    x = two_groups(share=0.05)
    x[:40, 2] += UNIX
    (remark,) = find_units(load_data(x, test=0), torch.float32).remarks
    assert remark.startswith("in element 2 of the array, 10% of")
    assert "(1 more like it)" in remark


def test_covariates_that_merge_are_said_by_name() -> None:
    pl = pytest.importorskip("polars")
    x = normal()
    x[:40, 1] = 900 + 1e-7 * torch.arange(40, dtype=torch.float64)
    frame = pl.DataFrame({"kind": ["a", "b"] * (ROWS // 2), "time": x[:, 1].numpy(), "y": x[:, 0].numpy()})
    (remark,) = find_units(load_data(frame, context=["kind", "time"], test=0), torch.float32).remarks
    assert remark.startswith("in covariate 'time' of the data frame, 10% of the different values")


def test_which_elements_vary() -> None:
    """A deviation of rounding size does not tell whether all values are equal."""
    x = normal(dim=4)
    x[:, 0] = 1.7e9 + 2.0**-22 * (torch.arange(ROWS) % 2).double()
    x[:, 1] = 0.1
    x[:, 2] = float("nan")
    assert varying(load_data(x, missing="mask", test=0)).tolist() == [True, False, False, True]


@pytest.mark.parametrize("value", [1e39, -1e300])
def test_values_beyond_the_largest_number(value: float) -> None:
    x = normal()
    x[17, 2] = value
    data = delivered(x)
    with pytest.raises(ElbowroomError, match=r"Row 17 of the array holds .* in element 2, but the largest"):
        check_range(data)
    check_range(data.to(dtype=torch.float64))
    x[17, 2] = 3e38
    check_range(delivered(x))


@pytest.mark.parametrize("size", [1e-20, 1e20])
def test_deviations_whose_squares_are_beyond_it(size: float) -> None:
    data = delivered(size * normal())
    with pytest.raises(ElbowroomError, match="standard deviation of element 0") as caught:
        check_spread(data, data.moments()[1])
    assert "--runtime.dtype float64" in caught.value.remedy
    double = data.to(dtype=torch.float64)
    check_spread(double, double.moments()[1])
    inside = delivered(normal())
    check_spread(inside, inside.moments()[1])


def test_unsigned_whole_numbers_that_torch_does_not_have() -> None:
    x = np.array([[2**63], [2**64 - 1]] * 20, dtype=np.uint64)
    with pytest.raises(ElbowroomError, match="up to 18,446,744,073,709,551,615") as caught:
        load_data(x)
    assert "x.astype(float)" in caught.value.remedy
    load_data(x.astype(float))


# --- covariates --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "scaled"),
    [
        (normal(dim=1), False),
        (900 * normal(dim=1).sign(), False),
        (normal(dim=1) + 10, False),
        ((normal(dim=1) > 0).double(), False),
        (torch.full((ROWS, 1), 3.0).double(), False),
        (1e-5 * normal(dim=1), True),
        (1e5 * normal(dim=1), True),
        (normal(dim=1) + UNIX, True),
        (0.01 * normal(dim=1) + 100, True),
        (torch.full((ROWS, 1), UNIX).double(), True),
    ],
)
def test_covariates_are_standardised_where_their_magnitude_calls_for_it(column: Tensor, scaled: bool) -> None:
    found = find_context_units(torch.cat([column, normal(dim=1)], 1))
    assert (found is not None) is scaled
    if found is not None:
        after = Units(context=found).scaled(torch.cat([column, normal(dim=1)], 1))
        varies = column.std() > 0
        assert after[:, 0].mean().abs() < 1e-6
        assert float(after[:, 0].std(unbiased=False)) == pytest.approx(float(varies), abs=1e-5)
        assert torch.equal(after[:, 1:], normal(dim=1))


def test_covariates_keep_their_digits() -> None:
    times = UNIX + torch.arange(ROWS, dtype=torch.float64)[:, None]
    data = delivered(normal(), context=times)
    batch = next(data.batches("train", ROWS))
    assert batch.context is not None and batch.index is not None
    assert batch.context.dtype == torch.float32
    assert len(batch.context.unique()) == len(batch)
    assert batch.context.std() == pytest.approx(1, abs=0.01)
    assert torch.equal(data.context_as_given(batch.index), times[batch.index])


def test_the_digest_of_covariates_does_not_depend_on_the_units() -> None:
    times = UNIX + torch.arange(ROWS, dtype=torch.float64)[:, None]
    plain = load_data(normal(), context=times)
    assert plain.protocol()["sha256_context"] == delivered(normal(), context=times).protocol()["sha256_context"]
    single = load_data(normal(), context=times.float())
    assert plain.protocol()["sha256_context"] == single.protocol()["sha256_context"]


def test_units_can_be_taken_again() -> None:
    """A data set gets the units of another run from what is stored, not on top of those that it has."""
    times = UNIX + torch.arange(ROWS, dtype=torch.float64)[:, None]
    data = delivered(normal() + UNIX, context=times)
    units = Units(
        torch.full((3,), UNIX - 1, dtype=torch.float64), (torch.tensor([UNIX]).double(), torch.tensor([10.0]).double())
    )
    again = in_units(data, units)
    batch, rows = again.take("train", torch.arange(4)), again.splits["train"][:4]
    assert torch.allclose(batch.x.double(), normal()[rows] + 1, atol=1e-6)
    assert batch.context is not None
    assert torch.allclose(batch.context.double(), (times[rows] - UNIX) / 10)
    back = in_units(again, Units())
    assert torch.equal(back.take("train", torch.arange(4)).x, (normal() + UNIX).float()[rows])


def test_covariates_that_merge_are_refused() -> None:
    error = refusal(normal(), context=two_groups()[:, 1:2])
    assert "covariate 0 of the array" in error.problem


def test_covariates_beyond_float32() -> None:
    x = 1e39 * normal(dim=1)
    data = delivered(normal(), context=x)
    check_range(data)
    with pytest.raises(ElbowroomError, match="The context of row 0 of the array is beyond"):
        check_range(in_units(data, Units()))
