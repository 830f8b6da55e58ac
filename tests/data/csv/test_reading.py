"""Tables from files as people have them: what is read, and what is said of it."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from csv_cases import GAPS, MASKED, NAN, REALS, ROWS, load, rows_of, text
from elbowroom.data.csv.reading import is_table, read_table
from elbowroom.data.naming import Covariate, Naming

pl = pytest.importorskip("polars")
pd = pytest.importorskip("pandas")

# --- read, and said ----------------------------------------------------------------------------------------------


class Read(NamedTuple):
    """A file, the rows in it, and what is said about it."""

    content: str | bytes
    rows: list[list[float]]
    remarks: tuple[str, ...] = ()
    name: str = "x.csv"
    options: dict[str, Any] = {}  # noqa: RUF012
    columns: tuple[str, ...] | None = ("a", "b")


SEMICOLONS = "semicolons separate the cells"

READ = {
    "plain": Read(text(ROWS), ROWS),
    "semicolons": Read("a;b\n1,5;2,5\n3,5;1,5\n2,0;1,0\n", ROWS, (f"{SEMICOLONS}, and commas are decimal",)),
    "semicolons-without-a-header": Read(
        "1,5;2,5\n3,5;1,5\n2,0;1,0\n",
        ROWS,
        (f"{SEMICOLONS}, and commas are decimal",),
        columns=None,
    ),
    "semicolons-and-points": Read(text(ROWS, ";"), ROWS, (SEMICOLONS,)),
    "tabs-in-csv": Read(text(ROWS, "\t"), ROWS, ("tabs separate the cells",)),
    "tabs-and-decimal-commas": Read(
        "a\tb\n1,5\t2,5\n3,5\t1,5\n2,0\t1,0\n", ROWS, ("commas are decimal",), name="x.tsv"
    ),
    "bars": Read(text(ROWS, "|"), ROWS, ("bars separate the cells",)),
    "spaces-between": Read("a   b\n1.5  2.5\n3.5  1.5\n 2.0 1.0\n", ROWS, ("spaces separate the cells",), name="x.txt"),
    "spaces-after-commas": Read("a, b\n1.5, 2.5\n3.5, 1.5\n2.0, 1.0\n", ROWS),
    "spaces-around": Read(" a , b \n 1.5 , 2.5\n3.5 ,1.5\n 2.0 , 1.0 \n", ROWS),
    "quoted": Read('"a","b"\n"1.5","2.5"\n"3.5","1.5"\n"2.0","1.0"\n', ROWS),
    "quoted-after-spaces": Read('a, b\n"1.5", "2.5"\n"3.5", "1.5"\n"2.0", "1.0"\n', ROWS),
    "quoted-decimal-commas": Read('a,b\n"1,5","2,5"\n"3,5","1,5"\n"2,0","1,0"\n', ROWS, ("commas are decimal",)),
    "blank-lines": Read("\n\na,b\n1.5,2.5\n\n3.5,1.5\n   \n2.0,1.0\n\n\n", ROWS, ("2 blank lines are passed over",)),
    "blank-lines-at-the-ends": Read("\n\na,b\n1.5,2.5\n3.5,1.5\n2.0,1.0\n\n\n", ROWS),
    "carriage-returns": Read(text(ROWS, end="\r\n"), ROWS),
    "old-macintosh": Read(text(ROWS, end="\r"), ROWS),
    "mixed-line-ends": Read("a,b\r\n1.5,2.5\n3.5,1.5\r2.0,1.0\r\n", ROWS),
    "no-last-line-end": Read(text(ROWS).rstrip(), ROWS),
    "comments": Read(
        '# made by "hand\na,b\n1.5,2.5\n#3,4\n3.5,1.5\n2.0,1.0\n', ROWS, ("2 lines beginning with # are passed over",)
    ),
    "comments-and-quotes": Read(
        'a,b\n"1.5",2.5\n# it\'s\n\n"3.5",1.5\n2.0,1.0\n', ROWS, ("1 line beginning with # is passed over",)
    ),
    "savetxt": Read("# a b\n1.5 2.5\n3.5 1.5\n2.0 1.0\n", ROWS, ("the names of the columns are those behind #",)),
    "byte-order-mark": Read(text(ROWS).encode("utf-8-sig"), ROWS),
    "utf-16": Read(text(ROWS).encode("utf-16"), ROWS, ("the text is UTF-16",)),
    "utf-16-unmarked": Read(text(ROWS).encode("utf-16-le"), ROWS, ("the text is UTF-16",)),
    "latin-1": Read(
        text(ROWS, header="größe,b").encode("latin-1"), ROWS, ("the text is Latin-1",), columns=("größe", "b")
    ),
    "utf-8": Read(text(ROWS, header="größe,b"), ROWS, columns=("größe", "b")),
    "latin-1-with-comments": Read(
        ("# größe\n" + text(ROWS)).encode("latin-1"), ROWS, ("the text is Latin-1", "1 line beginning with #")
    ),
    "excel-separator-line": Read("sep=;\na;b\n1,5;2,5\n3,5;1,5\n2;1\n", ROWS, ("commas are decimal",)),
    "nulls": Read(
        "a,b\n1.5,2.5\n3.5,None\n2.0,?\n", GAPS, ("'None' marks missing values (column 'b')",), options=MASKED
    ),
    "many-nulls": Read(
        "a,b\n1.5,2.5\n3.5,#N/A\n2.0,-\n", GAPS, ("'#N/A' and '-' mark missing values (column 'b')",), options=MASKED
    ),
    "spaced-null": Read("a, b\n1.5, 2.5\n3.5, NA\n2.0, \n", GAPS, options=MASKED),
    "percent": Read(
        "a,b\n1.5,12%\n3.5,7.5 %\n2,100%\n",
        [[1.5, 0.12], [3.5, 0.075], [2.0, 1.0]],
        ("percent signs are taken off, 12% is 0.12 (column 'b')",),
    ),
    "percent-and-gaps": Read(
        "a,b\n1.5,12%\n3.5,None\n", [[1.5, 0.12], [3.5, NAN]], ("percent signs are taken off",), options=MASKED
    ),
    "thousands": Read(
        'a,b\n1.5,"1,234.5"\n3.5,"12"\n2,"1,234"\n',
        [[1.5, 1234.5], [3.5, 12], [2, 1234]],
        ("commas group thousands (column 'b')",),
    ),
    "thousands-beside-a-decimal-point": Read(
        'a,b\n1.5,"1,234"\n3.5,"5,678"\n', [[1.5, 1234], [3.5, 5678]], ("commas group thousands (column 'b')",)
    ),
    "thousands-of-europe": Read(
        "a;b\n1,5;1.234,5\n3,5;2.000\n",
        [[1.5, 1234.5], [3.5, 2000]],
        (f"{SEMICOLONS}, and commas are decimal", "points group thousands (column 'b')"),
    ),
    "thousands-by-another-column": Read(
        "a;b\n1,5;1.234\n3,5;2.000\n", [[1.5, 1234], [3.5, 2000]], ("points group thousands (column 'b')",)
    ),
    "thousands-of-france": Read(
        "a;b\n1,5;1 234,5\n3,5;2\u202f000\n", [[1.5, 1234.5], [3.5, 2000]], ("spaces group thousands (column 'b')",)
    ),
    "thousands-of-switzerland": Read(
        "a,b\n1.5,1'234.5\n3.5,2’000\n", [[1.5, 1234.5], [3.5, 2000]], ("apostrophes group thousands (column 'b')",)
    ),
    "semicolons-speak-for-decimal-commas": Read(
        "a;b\n1;1,234\n2;5,678\n", [[1, 1.234], [2, 5.678]], ("commas are decimal",)
    ),
    "printed-minus": Read("a,b\n−1.5,2.5\n3.5,−1\n", [[-1.5, 2.5], [3.5, -1]]),
    "exponents": Read("a,b\n1e3,+2.5\n3.5,-1E-1\n", [[1000, 2.5], [3.5, -0.1]]),
    "yes-no": Read(
        "a,b\n1.5,yes\n3.5,No\n2,\n",
        [[1.5, 1], [3.5, 0], [2, NAN]],
        ("yes is 1 and no is 0 (column 'b')",),
        options=MASKED | REALS,
    ),
    "true-false": Read("a,b\n1.5,TRUE\n3.5,FALSE\n", [[1.5, 1], [3.5, 0]], options=REALS),
    "true-false-and-gaps": Read(
        "a,b\n1.5,True\n3.5,None\n", [[1.5, 1], [3.5, NAN]], ("true is 1 and false is 0",), options=MASKED | REALS
    ),
    "y-n": Read("a,b\n1.5,Y\n3.5,N\n", [[1.5, 1], [3.5, 0]], ("y is 1 and n is 0",), options=REALS),
    "saved-index": Read(
        ",a,b\n0,1.5,2.5\n1,3.5,1.5\n2,2.0,1.0\n",
        ROWS,
        ("the first column, which has no name, is a saved index and is set aside",),
    ),
    "unnamed-index": Read(
        "Unnamed: 0,a,b\n7,1.5,2.5\n3,3.5,1.5\n9,2.0,1.0\n",
        ROWS,
        ("column 'Unnamed: 0' is a saved index and is set aside",),
    ),
    "saved-array": Read(",0,1\n0,1.5,2.5\n1,3.5,1.5\n2,2.0,1.0\n", ROWS, ("saved index",), columns=("0", "1")),
    "index-of-r": Read(
        '"a" "b"\n"1" 1.5 2.5\n"2" 3.5 1.5\n"3" 2.0 1.0\n'.replace('"', ""), ROWS, ("saved index",), name="x.txt"
    ),
    "index-of-r-quoted": Read('"","a","b"\n"1",1.5,2.5\n"2",3.5,1.5\n"3",2,1\n', ROWS, ("saved index",)),
    "last-separators": Read("a,b,\n1.5,2.5,\n3.5,1.5,\n2.0,1.0,\n", ROWS, ("every line ends with a separator",)),
    "last-separators-but-in-the-header": Read(
        "a,b\n1.5,2.5,\n3.5,1.5,\n2.0,1.0,\n", ROWS, ("every line ends with a separator",)
    ),
    "years-as-header": Read(
        "1990,1991,1992\n1.5,2.5,3\n3.5,1.5,4\n",
        [[1990, 1991, 1992], [1.5, 2.5, 3], [3.5, 1.5, 4]],
        ("the first line (1990, 1991, 1992) is read as data; if it names the columns, write names with letters",),
        columns=None,
    ),
    "one-column": Read("a\n1.5\n3.5\n", [[1.5], [3.5]], columns=("a",)),
    "one-column-with-a-gap": Read("a\n1.5\n\n3.5\n\n", [[1.5], [NAN], [3.5]], options=MASKED, columns=("a",)),
    "one-column-decimal-commas": Read(
        "a\n1,5\n3,5\n", [[1.5], [3.5]], ("commas are decimal",), columns=("a",), options={"decimal": "comma"}
    ),
    "gzip": Read(gzip.compress(text(ROWS).encode()), ROWS, name="x.csv.gz"),
    "whole-numbers-of-more-than-64-bits": Read(
        "a,b\n123456789012345678901234567890,1\n2,3\n",
        [[1.2345678901234568e29, 1], [2, 3]],
        ("float64 rounds whole numbers above 2^53, here by up to 1,023,514,970,834 (column 'a')",),
    ),
    "excel-errors-are-no-comments": Read("a,b\n#N/A,2\n1,3\n", [[NAN, 2], [1, 3]], ("'#N/A' marks",), options=MASKED),
    "points-that-group": Read(
        "a,b\n1.234.567,1\n2.345.678,2\n", [[1234567, 1], [2345678, 2]], ("points group thousands (column 'a')",)
    ),
    "true-false-in-text-mode": Read(
        "a;b\n1,5;True\n3,5;False\n", [[1.5, 1], [3.5, 0]], ("commas are decimal",), options=REALS
    ),
    "years-beside-a-name": Read("1990,1991,x\n1.5,2.5,1\n", [[1.5, 2.5, 1]], columns=("1990", "1991", "x")),
    "large-whole-numbers": Read('a,b\n"9007199254740993",1\n"5",2\n', [[9007199254740993, 1], [5, 2]]),
}


@pytest.mark.parametrize("case", READ.values(), ids=READ)
def test_read(tmp_path: Path, case: Read) -> None:
    path = tmp_path / case.name
    path.write_bytes(case.content.encode() if isinstance(case.content, str) else case.content)
    data = load(path, **case.options)
    torch.testing.assert_close(
        rows_of(data), torch.tensor(case.rows, dtype=torch.float64), equal_nan=True, rtol=1e-15, atol=0
    )
    assert data.columns == case.columns or (data.columns is None and case.columns[0] == "column_0")  # without a header
    said = "\n".join(data.remarks)
    for remark in case.remarks:
        assert remark in said
    if not case.remarks:
        assert data.remarks == ()


def test_a_plain_file_is_read_by_polars_from_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.csv").write_text('a,b,c\n1,2.5,x\n3,4,"y, z"\n')
    read, given = pl.read_csv, []
    monkeypatch.setattr(pl, "read_csv", lambda source, **options: given.append(source) or read(source, **options))
    assert read_table(tmp_path / "x.csv").frame.rows() == [(1, 2.5, "x"), (3, 4.0, "y, z")]
    assert given == [tmp_path / "x.csv"]


def test_whole_numbers_keep_their_type(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a;b\n1;0\n0;1\n")
    assert load(tmp_path / "x.csv").storage.dtype == torch.int64
    assert str(load(tmp_path / "x.csv").support) == "binary"


@pytest.mark.parametrize("labels", ["yes", "1,5", "-", "None", " x"])
def test_classes_keep_their_names(tmp_path: Path, labels: str) -> None:
    """What is a truth, a number or a gap in x may be a name among classes."""
    (tmp_path / "x.csv").write_text(f"a;kind\n1.5;{labels}\n2.5;no\n3.5;{labels}\n")
    assert set(load(tmp_path / "x.csv", labels="kind").classes or ()) == {"no", labels.strip()}


def test_an_index_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("Unnamed: 0,a\n0,1.5\n1,2.5\n")
    data = load(tmp_path / "x.csv", labels="Unnamed: 0")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1]
    assert data.remarks == ()


@pytest.mark.parametrize("first", ["0.5", "2"], ids=["fractions", "twice"])
def test_numbers_under_an_index_name_that_are_no_index_stay(tmp_path: Path, first: str) -> None:
    (tmp_path / "x.csv").write_text(f",a\n{first},1.5\n2,2.5\n")
    assert load(tmp_path / "x.csv").event_shape == (2,)


def test_an_index_that_pandas_saved_in_parquet_is_set_aside(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1.5, 2.5], "__index_level_0__": ["x", "y"]}).write_parquet(tmp_path / "x.parquet")
    data = load(tmp_path / "x.parquet")
    assert (data.columns, data.remarks) == (("a",), ("column '__index_level_0__' is a saved index and is set aside",))


@pytest.mark.parametrize(
    "content", ["id,a\n007,1.5\n", "id;a\n007;1,5\n", "a, id\n1.5, 007\n", '# x\nid,a\n"007",1.5\n']
)
def test_identifiers_stay_text(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.csv").write_text(content)
    frame = read_table(tmp_path / "x.csv", as_text=("id", "another")).frame
    assert (frame["id"].to_list(), frame["a"].to_list()) == (["007"], [1.5])


def test_many_columns(tmp_path: Path) -> None:
    values = np.arange(3 * 5_000).reshape(3, 5_000) + 0.5
    np.savetxt(tmp_path / "x.csv", values, delimiter=";", fmt="%.1f")
    assert torch.equal(rows_of(load(tmp_path / "x.csv")), torch.from_numpy(values))


def test_a_large_dialect_is_converted_column_by_column(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(20_000, 3)).round(4)
    lines = "\n".join(";".join(f"{value:.4f}".replace(".", ",") for value in row) for row in values)
    (tmp_path / "x.csv").write_text(f"a;b;c\n{lines}\n")
    np.testing.assert_array_equal(rows_of(load(tmp_path / "x.csv")).numpy(), values)


def test_kinds_by_name() -> None:
    assert [
        is_table(Path(name)) for name in ("x.CSV", "x.tsv.gz", "x.txt", "x.parquet", "x.gz", "x.npy", "x.csv.zip")
    ] == [
        True,
        True,
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(("decimal", "value"), [("point", 1234.0), ("comma", 1.234)])
@pytest.mark.parametrize("content", ['a,b\n1,"1,234"\n', "a;b\n1;1.234\n"])
def test_the_decimal_mark_that_is_said_decides(tmp_path: Path, content: str, decimal: str, value: float) -> None:
    (tmp_path / "x.csv").write_text(content)
    if ";" in content:
        value = {1234.0: 1.234, 1.234: 1234.0}[value]
    assert rows_of(load(tmp_path / "x.csv", decimal=decimal)).tolist() == [[1.0, value]]


def test_a_name_that_is_a_number_is_said_and_a_header_helps(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("x,1.5\ny,2.5\nx,3.5\n")
    data = load(path, labels="x")
    assert "the first line (x, 1.5) is read as names of columns, though 1.5 is a number" in data.remarks[0]
    path.write_text("kind,a\n" + path.read_text())
    assert load(path, labels="kind").remarks == ()
    assert rows_of(load(path, labels="kind")).tolist() == [[1.5], [2.5], [3.5]]


@pytest.mark.parametrize("role", ["labels", "context"])
def test_leading_zeros_make_names_of_classes(tmp_path: Path, role: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text("x,kind,n\n1.5,007,1\n2.5,12,2\n3.5,007,3\n4.5,7,4\n")
    chosen: dict[str, Any] = {"labels": "kind"} if role == "labels" else {"context": ["kind"]}
    data = load(path, **chosen)
    names = data.classes if role == "labels" else data.levels["kind"]
    assert names == ("007", "12", "7")
    assert "leading zeros are kept: these are names of classes (column 'kind')" in data.remarks
    path.write_text(path.read_text().replace("007", "17"))
    numbered = load(path, **chosen)
    assert numbered.remarks == ()
    if role == "labels":
        assert numbered.classes == ("7", "12", "17")  # in the order of numbers
    else:
        assert numbered.context is not None
        assert numbered.context.squeeze(1).tolist() == [17, 12, 17, 7]


@pytest.mark.parametrize("cells", ["0,0.5,2", "00.5,1,2", "0,1,0", "-0,1,2"])
def test_other_zeros_leave_numbers(tmp_path: Path, cells: str) -> None:
    rows = "".join(f"{at}.5,{cell}\n" for at, cell in enumerate(cells.split(",")))
    (tmp_path / "x.csv").write_text(f"x,age\n{rows}")
    context = load(tmp_path / "x.csv", context=["age"]).context
    assert context is not None
    assert context.squeeze(1).tolist() == [float(cell) for cell in cells.split(",")]


def test_leading_zeros_in_x_and_in_what_was_a_number_in_training_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("x,age\n01,09\n02,10\n")
    known = Naming(("x",), (Covariate("age"),))
    data = load(tmp_path / "x.csv", context=["age"], like=known)
    assert rows_of(data).tolist() == [[1], [2]]
    assert data.context is not None
    assert data.context.tolist() == [[9], [10]]


def test_names_with_leading_zeros_are_found_again(tmp_path: Path) -> None:
    known = Naming(("x",), (Covariate("kind", ("007", "12")),))
    for cells, places in (("12,12", [1, 1]), ("007,12", [0, 1])):
        one, other = cells.split(",")
        (tmp_path / "x.csv").write_text(f"x,kind\n1,{one}\n2,{other}\n")
        context = load(tmp_path / "x.csv", context=["kind"], like=known).context
        assert context is not None
        assert context.argmax(1).tolist() == places
