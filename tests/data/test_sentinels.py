"""Numbers that stand for missing values: replaced where they are named, suspected aloud where they are not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from elbowroom.data.loading import load_data
from elbowroom.data.sentinels import suspected
from elbowroom.data.storage import InMemory, Material
from elbowroom.errors import ElbowroomError
from elbowroom.running.build import load_configured
from elbowroom.running.config import DataConfig, configure

pl = pytest.importorskip("polars")

NAN = float("nan")
AGES = [31.0, 18.0, 64.0, 25.5, 40.0]


def remarks(values: list[float]) -> tuple[str, ...]:
    return suspected(Material("x", InMemory(torch.tensor(values)[:, None]), columns=("age",)))


@pytest.mark.parametrize("value", [-1, -9, -99, -999, -9999, 999, 9999, 99999])
def test_suspected(value: int) -> None:
    values = [30.0 + 0.1 * at for at in range(20)] + [value] * 3
    assert remarks(values) == (
        f"column 'age' holds {value} in 3 of 23 rows, far from its other values (30 to 31.9): if it marks a "
        f"missing value, pass --data.missing-values={value} --data.missing mask",
    )


@pytest.mark.parametrize(
    "values",
    [
        [*AGES, -999.0],  # once
        [*AGES, *[-1.0] * 3],  # no farther away than ages are from each other
        [-1.0, 1.0] * 5,  # truths of a kind
        [-1.0, 0.0, 1.0, 2.0, -1.0],
        [990.0, 999.0, 1010.0, 999.0, 1000.5],  # in the middle of the others
        [-2000.0, 500.0, -999.0, -999.0, 12.0],
        [-999.0] * 3,  # and nothing else
        [NAN, 3.0, 4.0],
    ],
)
def test_not_suspected(values: list[float]) -> None:
    assert remarks(values) == ()


def test_elements_of_arrays_are_numbered_and_pictures_left_alone() -> None:
    x = torch.tensor([[1.0, -999], [2, 5], [3, -999]])
    assert load_data(x, test=0).remarks[0].startswith("element 1 holds -999 in 2 of 3 rows")
    assert load_data(x[:, None], test=0).remarks == ()
    assert suspected(Material("x", InMemory(torch.zeros(4, 2)))) == ()


def test_two_codes_in_one_column() -> None:
    assert [said.split()[3] for said in remarks([*AGES, -999, -999, -9999, -9999])] == ["-999", "-9999"]


def test_a_large_negative_number_among_large_positive_ones() -> None:
    assert len(remarks([20_000.0, 80_000.0, 35_000.0, -999.0, -999.0])) == 1


@pytest.mark.parametrize("suffix", [".csv", ".parquet", "frame"])
def test_the_remedy_of_a_suspicion_works(tmp_path: Path, suffix: str) -> None:
    frame = pl.DataFrame({"age": [31, -999, 64, -999, 18], "size": [1.5, 2.5, 3.5, 4.5, 5.5]})
    source: Any = frame if suffix == "frame" else tmp_path / f"x{suffix}"
    if suffix != "frame":
        (frame.write_csv if suffix == ".csv" else frame.write_parquet)(source)
    (said,) = load_data(source, test=0).remarks
    flags = dict(re.findall(r"--data\.([a-z-]+)[= ](\S+)", said))
    assert flags == {"missing-values": "-999", "missing": "mask"}
    config = configure({"data": {key.replace("-", "_"): value for key, value in flags.items()}})
    data = load_configured(config.data.model_copy(update={"test": 0}), source)
    assert data.masked
    assert data.take("train", torch.arange(4)).mask is not None
    assert "2 values of -999 count as missing" in data.remarks
    assert not any("far from" in remark for remark in data.remarks)


def test_masks_follow_the_values_that_are_named() -> None:
    x = np.array([[1, -999], [2, 5], [7, 9]])
    data = load_data(x, missing_values=[-999, "-1"], missing="mask", test=0)
    assert data.take("train", torch.arange(3)).mask.tolist() == [[True, False], [True, True], [True, True]]
    with pytest.raises(ElbowroomError, match="1 NaN") as caught:
        load_data(x, missing_values=-999)
    assert "--data.missing mask" in caught.value.remedy


def test_whole_numbers_keep_their_digits_beside_the_gaps() -> None:
    x = np.array([[16_777_217, 1], [-999, 2]])
    data = load_data(x, missing_values=-999, missing="mask", test=0)
    assert int(data.storage.gather(torch.tensor([0]))[0, 0]) == 16_777_217


def test_text_marks_in_a_table(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,unknown\n2,3\n4,n.d.\n")
    data = load_data(tmp_path / "x.csv", missing_values=["unknown", "n.d."], missing="mask", test=0)
    assert data.storage.gather(torch.arange(3)).isnan().tolist() == [[False, True], [False, False], [False, True]]


def test_rows_that_do_not_lie_in_memory_are_refused_and_the_remedies_work(tmp_path: Path) -> None:
    x = np.array([[1.0, -999.0], [2.0, 5.0]])
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(ElbowroomError, match="not held in memory") as caught:
        load_data(tmp_path / "x.npy", missing_values=[-999])
    assert caught.value.remedy == "Save them as .npz with NaN there, or give the array itself: numpy.load(path)."
    np.savez(tmp_path / "x.npz", x=np.where(x == -999, np.nan, x))
    assert load_data(tmp_path / "x.npz", missing="mask", test=0).masked
    assert load_data(np.load(tmp_path / "x.npy"), missing_values=[-999], missing="mask", test=0).masked


def test_a_stream_is_refused() -> None:
    loader = DataLoader(TensorDataset(torch.rand(8, 2)), batch_size=4)
    with pytest.raises(ElbowroomError, match="A stream was given together with missing_values"):
        load_data(loader, missing_values=[-1])


@pytest.mark.parametrize("given", ["-999,unknown", [-999, "unknown"], ["-999,unknown"], ["-999", "unknown"]])
def test_the_configuration_takes_numbers_and_text(given: Any) -> None:
    assert DataConfig(missing_values=given).missing_values == ("-999", "unknown")


AGED = torch.tensor([[31.0], [-999.0], [64.0], [-999.0], [18.0]])
X = torch.arange(10.0).reshape(5, 2)


def test_covariates_may_not_hold_a_number_that_is_named_as_missing() -> None:
    assert load_data(X, context=AGED, test=0).remarks == (
        "covariate '0' holds -999 in 2 of 5 rows, far from its other values (18 to 64): if it marks a missing value, "
        "fill it in, or take those rows out",
    )
    with pytest.raises(ElbowroomError, match="Row 1 of the array holds -999 in the covariate '0'"):
        load_data(X, context=AGED, missing_values=-999, missing="mask", test=0)
    once = AGED.index_fill(0, torch.tensor([3]), 40)
    with pytest.raises(ElbowroomError, match="only x may have missing elements"):
        load_data(X, context=once, missing_values=-999, missing="mask", test=0)
    filled = load_data(X, context=AGED.abs().clamp(max=64), missing_values=-999, missing="mask", test=0)
    assert filled.context is not None


def test_truths_and_classes_beside_x_are_not_missing() -> None:
    frame = pl.DataFrame(
        {"a": [1.0, 0, 3, 4], "kind": ["x", "y", "x", "y"], "paid": [0, 1, 1, 0], "age": [3, -999, 5, 4]}
    )
    marked = load_data(frame, context=["kind", "paid"], labels="age", missing_values=0, missing="mask", test=0)
    assert marked.masked
    with pytest.raises(ElbowroomError, match="in the covariate 'age'"):
        load_data(frame, context=["kind", "paid", "age"], missing_values=-999, missing="mask", test=0)
