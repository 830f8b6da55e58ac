"""Tables from files and from memory: numbers in, names kept out, faults named by column."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elbowroom.data.csv.reading import read_table
from elbowroom.data.loading import load_data
from elbowroom.data.support import Support
from elbowroom.data.tables import frame_material
from elbowroom.errors import ElbowroomError
from elbowroom.running.build import load_configured
from elbowroom.running.config import DataConfig

pl = pytest.importorskip("polars")

FRAME = pl.DataFrame(
    {"a": [1.5, 2.5, 3.5, 4.5], "b": [1, 0, 3, 4], "age": [30, 40, 50, 60], "kind": ["x", "y", "x", "z"]}
)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".CSV"])
def test_a_table_with_context_and_labels(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    if suffix == ".parquet":
        FRAME.write_parquet(path)
    else:
        FRAME.write_csv(path, separator="\t" if suffix == ".tsv" else ",")
    data = load_data(path, context=["age"], labels="kind", test=0)
    batch = data.take("train", torch.arange(4))
    assert batch.x.tolist() == [[1.5, 1.0], [2.5, 0.0], [3.5, 3.0], [4.5, 4.0]]
    assert batch.context is not None
    assert batch.context.tolist() == [[30.0], [40.0], [50.0], [60.0]]
    assert data.labels.tolist() == [0, 1, 0, 2]
    assert data.support is Support.REALS


def test_a_table_without_header(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1,2\n3,4\n1,2\n")
    assert load_data(tmp_path / "x.csv", test=0).take("train", torch.arange(3)).x.tolist() == [[1, 2], [3, 4], [1, 2]]


@pytest.mark.parametrize("missing", ["", "NA", "NaN", "null", "?"])
def test_missing_cells(tmp_path: Path, missing: str) -> None:
    (tmp_path / "x.csv").write_text(f"a,b\n1,2\n3,{missing}\n5,6\n")
    with pytest.raises(ElbowroomError, match="1 NaN, the first in row 1"):
        load_data(tmp_path / "x.csv")
    batch = load_data(tmp_path / "x.csv", missing="mask", test=0).take("train", torch.arange(3))
    assert batch.mask is not None
    assert batch.mask.tolist() == [[True, True], [True, False], [True, True]]


class Pandas:
    """As much of a pandas data frame as is used, object columns included."""

    def __init__(self, **columns: Any) -> None:
        self.columns = list(columns)
        self.data = columns

    def __len__(self) -> int:
        return len(self.data[self.columns[0]])

    def __getitem__(self, column: str) -> Any:
        return type("Series", (), {"to_numpy": lambda _: np.asarray(self.data[column])})()

    def to_numpy(self) -> Any:
        return np.column_stack(list(self.data.values()))


@pytest.mark.parametrize(
    "frame", [FRAME[["a", "b"]], Pandas(a=[1.5, 2.5, 3.5, 4.5], b=[1, 0, 3, 4])], ids=["polars", "pandas"]
)
def test_data_frames(frame: Any) -> None:
    x = load_data(frame, test=0).take("train", torch.arange(4)).x
    assert x.tolist() == [[1.5, 1.0], [2.5, 0.0], [3.5, 3.0], [4.5, 4.0]]


def test_object_columns_of_numbers() -> None:
    frame = Pandas(a=np.array([1, None, True], dtype=object))
    column = frame_material(frame, "x").storage.gather(torch.arange(3))[:, 0]
    torch.testing.assert_close(column, torch.tensor([1.0, torch.nan, 1.0], dtype=torch.float64), equal_nan=True)


@pytest.mark.parametrize(
    ("frame", "options", "problem"),
    [
        (FRAME, {}, "Column 'kind' of x holds values such as 'x'"),
        (
            FRAME.select("a", d=pl.lit("2020-01-01").str.to_date()),
            {},
            "Column 'd' of x holds dates or times",
        ),
        (FRAME, {"context": ["aged"]}, "x has no column 'aged'"),
        (FRAME, {"labels": "kinds"}, "x has no column 'kinds'"),
        (FRAME[["a"]], {"context": ["a"]}, "no column left for x"),
        (FRAME[:0], {}, "x has no rows"),
        (Pandas(a=np.array([[1], 2], dtype=object)), {}, "Column 'a'"),
    ],
)
def test_refused(frame: Any, options: Any, problem: str) -> None:
    with pytest.raises(ElbowroomError, match=problem):
        frame_material(frame, "x", **options)


def test_without_polars_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ElbowroomError, match="polars") as caught:
        read_table(tmp_path / "x.csv")
    assert caught.value.remedy == "Install it: pip install 'elbowroom[tables]'."


def test_text_names_both_ways_out() -> None:
    with pytest.raises(ElbowroomError) as caught:
        frame_material(FRAME, "x")
    assert "--data.labels kind" in caught.value.remedy
    assert "drop the column" in caught.value.remedy


def test_text_in_the_context_is_one_hot() -> None:
    data = load_data(FRAME, context=["age", "kind"], test=0)
    assert data.context.tolist() == [[30, 1, 0, 0], [40, 0, 1, 0], [50, 1, 0, 0], [60, 0, 0, 1]]
    assert data.protocol()["levels"] == {"kind": ["x", "y", "z"]}
    part = load_data(FRAME[3:], context=["age", "kind"], test=0, min_rows=1, levels=data.levels)
    assert part.context.tolist() == [[60, 0, 0, 1]]
    with pytest.raises(ElbowroomError, match="holds the class 'x', but the classes in training were y, z"):
        load_data(FRAME, context=["kind"], levels={"kind": ["y", "z"]})


@pytest.mark.parametrize("labels", ["kind", "age"], ids=["text", "numbers"])
def test_the_label_column_of_the_configuration(tmp_path: Path, labels: str) -> None:
    path = tmp_path / "x.csv"
    FRAME.select("a", "b", labels).write_csv(path)
    data = load_configured(DataConfig(name=str(path), labels=labels, context="labels", test=0, validation=0))
    assert data.event_shape == (2,)
    assert data.context_dim == len(set(FRAME[labels]))
    assert data.labels.tolist() == [sorted(set(FRAME[labels])).index(value) for value in FRAME[labels]]


@pytest.mark.parametrize("suffix", ["frame", ".csv"])
def test_a_label_column_that_may_be_missing(tmp_path: Path, suffix: str) -> None:
    source: Any = FRAME[["a", "b"]]
    if suffix == ".csv":
        source.write_csv(tmp_path / "x.csv")
        source = tmp_path / "x.csv"
    with pytest.raises(ElbowroomError, match="no column 'kind'"):
        load_data(source, labels="kind")
    assert load_data(source, labels="kind", labels_required=False).labels is None


def test_whole_numbers_of_more_than_64_bits_are_classes_and_covariates() -> None:
    wide = pl.Series("wide", [10**20, 10**20 + 1, 10**20] * 4, pl.Int128)
    frame = pl.DataFrame({"a": [float(at) for at in range(12)], "wide": wide})
    assert load_data(frame, labels="wide", test=0).classes == (str(10**20), str(10**20 + 1))
    assert load_data(frame, context=["wide"], test=0).context_dim == 1


BIG = 2**53


@pytest.mark.parametrize(
    "columns",
    [
        {"t": [BIG, BIG + 1, 5], "y": [0.5, 1.5, 2.5]},
        {"t": [BIG, BIG + 1, None], "y": [1, 2, 3]},
        {"t": [-BIG - 1, -BIG, 5], "y": [0.5, 1.5, 2.5]},
    ],
    ids=["fractions", "a gap", "negative"],
)
@pytest.mark.parametrize("kind", ["polars", "pandas", "csv", "parquet"])
def test_large_whole_numbers_that_become_equal_are_refused(columns: dict[str, Any], kind: str, tmp_path: Path) -> None:
    frame: Any = pl.DataFrame(columns)
    source: Any = tmp_path / f"x.{kind}"
    if kind == "csv":
        frame.write_csv(source)
    elif kind == "parquet":
        frame.write_parquet(source)
    elif kind == "pandas":
        pandas = pytest.importorskip("pandas")
        source = pandas.DataFrame({name: pandas.array(values) for name, values in columns.items()})
    else:
        source = frame
    with pytest.raises(ElbowroomError, match=r"Column 't' of .* 1 of . different ones become equal") as caught:
        load_data(source, missing="mask")
    assert "--data.id t" in caught.value.remedy or 'id="t"' in caught.value.remedy
    load_data(source, missing="mask", id="t")  # the remedy


def test_large_whole_numbers_alone_are_kept_exactly() -> None:
    data = load_data(pl.DataFrame({"t": [BIG, BIG + 1, 5], "n": [1, 2, 3]}), test=0)
    assert data.storage.gather(torch.arange(3))[:, 0].tolist() == [BIG, BIG + 1, 5]
    assert data.remarks == ()


def test_rounding_that_loses_no_value_is_said() -> None:
    nanoseconds = [17 * 10**17 + 10**6 * second + 1 for second in range(20)]
    data = load_data(pl.DataFrame({"t": nanoseconds, "y": [0.5] * 20}), test=0)
    assert data.remarks == ("float64 rounds whole numbers above 2^53, here by up to 127 (column 't')",)
    exact = load_data(pl.DataFrame({"t": [256 * n for n in nanoseconds[:3]], "y": [0.5] * 3}).with_columns(
        pl.col("t") // 256 // 1000 * 1024), test=0)  # fmt: skip
    assert exact.remarks == ()  # multiples of a power of two are not rounded
