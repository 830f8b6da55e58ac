"""Tables with columns of several kinds as data sets: when a table is one, what x holds, and what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from PIL import Image

from elbowroom.data.columns.column import ColumnKind
from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.data.naming import Naming
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError

CUSTOMERS = """customer,joined,city,age,spend,zip,member,country
C7,2021-03-04,Oslo,34,12.50,02134,yes,NO
C2,2021-03-09,Bergen,51,0.0,10001,no,NO
C9,2021-04-01,Oslo,,33.10,02134,yes,NO
C1,,Oslo,29,8.25,10001,no,NO
C5,2021-05-20,Bergen,44,0.0,10001,no,NO
C3,2021-06-01,Bergen,38,19.75,02134,yes,NO
"""
NAMES = ("joined", "city", "age", "spend", "zip", "member")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    written = tmp_path / "customers.csv"
    written.write_text(CUSTOMERS)
    return written


def load(source: Any, **settings: Any) -> DataSet:
    data = load_data(source, **{"test": 0, **settings})
    assert isinstance(data, DataSet)
    return data


def kinds(data: DataSet) -> dict[str, str]:
    assert data.kinds is not None
    return {column.name: str(column.kind) for column in data.kinds}


def like(data: DataSet) -> Naming:
    return Naming(
        columns=data.columns,
        id=data.id_name,
        kinds=data.kinds,
        aside=data.aside,
    )


def test_a_table_of_names_dates_and_numbers(path: Path) -> None:
    data = load(path)
    assert data.support is data.native_support is Support.TABLE
    assert data.columns == NAMES
    assert kinds(data) == {
        "joined": "date", "city": "binary", "age": "real", "spend": "positive", "zip": "binary", "member": "binary",
    }  # fmt: skip
    assert [(column.name, str(column.kind)) for column in data.aside] == [
        ("customer", "identifier"),
        ("country", "constant"),
    ]
    assert data.kinds is not None
    assert data.kinds[4].levels == ("02134", "10001")


def test_missing_elements_stay_nan_and_the_mask_says_so(path: Path) -> None:
    data = load(path)
    assert data.masked
    batch = data.take("train", torch.arange(6))
    assert batch.mask is not None
    assert torch.equal(batch.mask, ~batch.x.isnan())
    assert (~batch.mask).nonzero().tolist() == [[2, 2], [3, 0]]
    assert data.to(dtype=torch.float64).take("train", torch.tensor([2])).x[0, 2].isnan()
    assert data.describe_non_finite(batch) is None


def test_the_identifier_goes_into_results(path: Path) -> None:
    data = load(path)
    assert data.row_columns(torch.tensor([2, 0])) == {"row": [2, 0], "customer": ["C9", "C7"]}
    other = load(path, id="age")
    assert other.id_name == "age"
    assert "age" not in kinds(other)


def test_what_was_found_is_said(path: Path) -> None:
    said: list[str] = []
    load(path, announce=said.append)
    assert "customers.csv: columns of several kinds: 1 date, 3 binary, 1 real, 1 positive" in said
    assert "customers.csv: set aside as constant (column 'country')" in said
    assert "customers.csv: 2 cells are missing, and marginalised out (columns 'joined', 'age')" in said


def test_densities_are_fitted_to_training_rows_alone(path: Path) -> None:
    data = load(path, test=2, seed=3)
    assert data.kinds is not None
    x = data.storage.gather(data.splits["train"])[:, 2]
    known = x[~x.isnan()]
    assert data.kinds[2].shift == pytest.approx(float(known.mean()))
    assert data.kinds[2].unit == pytest.approx(float(known.std(correction=0)))


@pytest.mark.parametrize(
    "frame",
    [
        pl.DataFrame({"a": [1.5, 2.5, 3.5, 4.5], "b": ["x", "y", "x", "z"]}),
        pl.DataFrame({"a": [1.5, 2.5, 3.5, 4.5], "b": [True, False, None, True]}),
        pl.DataFrame({"a": [1.5, 2.5, 3.5, 4.5], "b": ["2021-03-04", None, "2021-03-05", "2021-03-07"]}),
        pd.DataFrame({"a": [1.5, 2.5, 3.5, 4.5], "b": pd.Series(["x", "y", None, "y"], dtype="category")}),
        pd.DataFrame({"a": [1, 2, 7, 9], "b": pd.Series([True, None, False, True], dtype="boolean")}),
        np.array([(1.5, "x"), (2.5, "y"), (4.5, "y")], dtype=[("a", "f8"), ("b", "U1")]),
    ],
    ids=["names", "truths", "dates", "pandas-category", "pandas-boolean", "records"],
)
def test_a_column_that_is_no_number_makes_it_one(frame: Any) -> None:
    assert load(frame).support is Support.TABLE


@pytest.mark.parametrize(
    ("frame", "support"),
    [
        (pl.DataFrame({"a": [1.5, 2.5], "b": [1, 2]}), Support.REALS),
        (pl.DataFrame({"a": ["1,5", "2,5"], "b": ["12%", "3%"]}), Support.REALS),
        (pl.DataFrame({"a": [True, False], "b": [False, True]}), Support.BINARY),
        (pl.DataFrame({"a": [True, False], "b": [0, 1]}), Support.BINARY),
        (pd.DataFrame({"a": [1, 2, 7], "b": pd.Series([1, 2, 3], dtype="Int64")}), Support.COUNTS),
    ],
    ids=["numbers", "numbers-in-text", "truths-alone", "truths-and-bits", "nullable"],
)
def test_numbers_alone_stay_as_they_are(frame: Any, support: Support) -> None:
    data = load(frame)
    assert data.support is support
    assert data.kinds is None
    assert not any("kinds" in remark for remark in data.remarks)


def test_kinds_of_numbers_are_found_on_request() -> None:
    frame = pl.DataFrame({"a": [1.5, 2.5, 4.0], "b": [3, 0, 7]})
    assert kinds(load(frame, columns="auto")) == {"a": "positive", "b": "count"}
    assert kinds(load(frame, columns={"b": "category"})) == {"a": "positive", "b": "category"}
    assert kinds(load(frame, support="table")) == {"a": "positive", "b": "count"}


def test_columns_are_dropped(path: Path) -> None:
    data = load(path, columns="joined:drop,age:real", drop=["zip"])
    assert kinds(data) == {"city": "binary", "age": "real", "spend": "positive", "member": "binary"}
    numbers = load(pl.DataFrame({"a": [1.5, 2.5], "b": [1.0, 2.0], "c": ["x", "y"]}), drop=["c"])
    assert (numbers.columns, numbers.support) == (("a", "b"), Support.REALS)


@pytest.mark.parametrize(
    ("settings", "problem", "remedy"),
    [
        (
            {"columns": "aeg:count"},
            "names column 'aeg', which customers.csv does not have",
            "Did you mean 'age'?",
        ),
        ({"drop": ["citi"]}, "names column 'citi', which", "Did you mean 'city'?"),
        (
            {"columns": "age:count", "context": ["age"]},
            "names column 'age', which is no part of x",
            "set the column aside",
        ),
        ({"drop": ["city"], "labels": "city"}, "names column 'city', which is no part of x", "Leave it out there"),
        ({"columns": "zip:count", "id": "zip"}, "names column 'zip', which is no part of x", "set the column aside"),
        ({"columns": "age:cuont"}, "asks for the kind 'cuont' of column 'age'", "Did you mean 'count'?"),
        ({"columns": "age"}, "says 'age', but the kind of a column is given as NAME:KIND", "age:category"),
        ({"columns": "age:count,age:real"}, "says more than once what 'age' is", "Say it once"),
        ({"columns": "age:count(1<2)"}, "only an ordinal lists its levels", "Leave (1<2) out"),
        (
            {"columns": "auto", "support": "reals"},
            "support reals was given for a table with columns",
            "Leave it out",
        ),
        ({"columns": "city:real"}, "is asked to be real, but holds 'Oslo'", "category"),
    ],
)
def test_what_is_asked_is_checked(path: Path, settings: dict[str, Any], problem: str, remedy: str) -> None:
    with pytest.raises(ElbowroomError) as error:
        load(path, **settings)
    assert problem in error.value.problem
    assert remedy in error.value.remedy


def test_kinds_are_for_tables() -> None:
    with pytest.raises(ElbowroomError, match="but the data are no table"):
        load(torch.rand(5, 2), columns="auto")


def test_all_columns_set_aside() -> None:
    with pytest.raises(ElbowroomError, match=r"no column left for x: a \(constant\)"):
        load(pl.DataFrame({"a": ["x"] * 5}))


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b,a\n1,x,2\n2,y,3\n")
    with pytest.raises(ElbowroomError, match="more than one column named 'a'"):
        load(tmp_path / "x.csv")


# --- data for a trained model ------------------------------------------------------------------------------------


def test_other_rows_are_read_as_in_training(path: Path, tmp_path: Path) -> None:
    data = load(path)
    other = tmp_path / "new.csv"  # in another order, without what was set aside, one id less than a hundred
    other.write_text("zip,member,spend,age,city,joined,customer\n10001,NO,1.5,7,oslo,2022-01-01,C77\n")
    new = load(other, like=like(data), support="table", min_rows=1)
    assert new.columns == NAMES
    assert new.kinds == data.kinds
    assert new.aside == data.aside
    assert new.storage.gather(torch.tensor([0])).tolist() == [[18993.0, 1.0, 7.0, 1.5, 1.0, 0.0]]
    assert new.ids == ("C77",)


def test_a_level_that_training_did_not_have_is_named(path: Path, tmp_path: Path) -> None:
    data = load(path)
    other = tmp_path / "new.csv"
    other.write_text(CUSTOMERS.replace("Bergen", "Bodø", 1))
    with pytest.raises(ElbowroomError, match=r"Row 1 \(line 3\) of new.csv holds 'Bodø' in column 'city'") as error:
        load(other, like=like(data), support="table")
    assert "empty it so that it counts as missing" in error.value.remedy


def test_numbers_of_levels_are_taken_as_they_are(path: Path) -> None:
    data = load(path)
    drawn = load(torch.rand(4, 6), like=like(data), support="table")
    assert (drawn.support, drawn.kinds) == (Support.TABLE, data.kinds)


def test_the_kind_of_a_dtype_survives(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"size": pd.Categorical(["S", "L", "M", "S"], categories=["S", "M", "L"], ordered=True), "n": [1.5, 2.0, 9, 4]}
    )
    data = load(frame)
    assert data.kinds is not None
    assert (data.kinds[0].kind, data.kinds[0].levels) == (ColumnKind.ORDINAL, ("S", "M", "L"))


@pytest.mark.parametrize("asked", [{"columns": "a:count"}, {"columns": "auto"}, {"drop": ["a"]}], ids=str)
@pytest.mark.parametrize("kind", ["x.npy", "x.npz", "pictures"])
def test_columns_of_files_that_are_no_tables_are_refused(tmp_path: Path, kind: str, asked: dict[str, Any]) -> None:
    path, x = tmp_path / kind, np.random.default_rng(0).integers(0, 255, (30, 8, 8), dtype=np.uint8)
    if path.suffix == ".npz":
        np.savez(path, x=x)
    elif path.suffix:
        np.save(path, x)
    else:
        path.mkdir()
        for number, picture in enumerate(x):
            Image.fromarray(picture).save(path / f"{number}.png")
    load_data(path)
    with pytest.raises(ElbowroomError, match="but the data are no table"):
        load_data(path, **asked)
