"""Tables from files that are refused, and that each remedy works."""

from __future__ import annotations

import gzip
import io
import pickle
import re
import shlex
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from csv_cases import REALS, ROWS, load, rows_of, text
from elbowroom.errors import ElbowroomError

pl = pytest.importorskip("polars")
pd = pytest.importorskip("pandas")

Edit = Callable[[bytes], bytes]


class Refused(NamedTuple):
    """A file, what is said about it, and what its reader does then."""

    content: str | bytes
    problem: str
    remedy: str
    edit: Edit | None = None  #: what the remedy says to do to the file
    rename: str = "x.csv"  #: and to its name
    rows: list[list[float]] | None = None  #: of the mended file
    name: str = "x.csv"
    options: dict[str, Any] = {}  # noqa: RUF012


def swap(old: str, new: str) -> Edit:
    def edit(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode())

    return edit


def instead(new: str) -> Edit:
    return lambda content: new.encode()


def archive(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    return file.getvalue()


def parquet() -> bytes:
    file = io.BytesIO()
    pl.DataFrame({"a": [1.5], "b": [2.5]}).write_parquet(file)
    return file.getvalue()


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([[1.5, 2.5]]))
    return file.getvalue()


def arrays() -> bytes:
    file = io.BytesIO()
    np.savez(file, x=np.array([[1.5, 2.5]]))
    return file.getvalue()


FRAME = pd.DataFrame({"a": [1.5, 3.5], "b": [2.5, 1.5]})


def feather() -> bytes:
    file = io.BytesIO()
    pl.DataFrame({"a": [1.5], "b": [2.5]}).write_ipc(file)
    return file.getvalue()


def from_feather(content: bytes) -> bytes:
    file = io.BytesIO()
    pl.read_ipc(io.BytesIO(content)).write_parquet(file)
    return file.getvalue()


def database() -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute("create table t (a real, b real)")
    connection.executemany("insert into t values (?, ?)", ROWS)
    connection.commit()
    return connection.serialize()


def from_database(content: bytes) -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.deserialize(content)
    saved: str = pd.read_sql("select * from t", connection).to_csv(index=False)
    return saved.encode()


AGES = "id,age\n" + "".join(f"{row},{20 + row}.5\n" for row in range(17)) + "17,abc\n18,40.5\n"
SAVED = instead(text(ROWS))

REFUSED = {
    "duplicates": Refused("a,b,a\n1,2,3\n4,5,6\n", "more than one column named 'a'", "Rename", swap("b,a", "b,c")),
    "a-cell": Refused(
        AGES,
        r"Row 17 \(line 19\) of x.csv, column 'age': 'abc' is not a number",
        "Correct that cell",
        swap("abc", "30"),
    ),
    "a-cell-below-comments": Refused(
        AGES.replace("id,age", "# one\n\n# two\nid,age").replace("9,29", "#\n9,29"),
        r"Row 17 \(line 23\)",
        "Correct that cell",
        swap("abc", "30"),
    ),
    "a-cell-with-a-space": Refused(
        "a,b\n1,2\n2,n. d.\n3,4\n", "'n. d.' is not a number", "Correct", swap("n. d.", "3")
    ),
    "a-cell-in-a-line-without-header": Refused(
        "1,2\n3,x1\n4,5\n", r"Row 1 \(line 2\) of x.csv, column 'column_1': 'x1'", "Correct", swap("x1", "3")
    ),
    "a-unit": Refused("a,b\n1,2\n2,$3\n3,4\n", r"'\$3' is not a number", "Correct", swap("$3", "3")),
    "a-percent-sign-too-few": Refused(
        "a,b\n1,12%\n2,13%\n3,0.14\n", "'0.14', unlike the others, has no percent sign", "Correct", swap("0.14", "14%")
    ),
    "another-decimal-mark": Refused(
        "a;b\n1;1,5\n2;2,5\n3;3.5\n", "'3.5' has another decimal mark than '1,5'", "Correct", swap("3.5", "3,5")
    ),
    "text": Refused(
        "a,town\n1,Ulm\n2,Bonn\n",
        "Column 'town' of x.csv holds values such as 'Ulm'",
        "--data.labels town",
        instead("a\n1\n2\n"),
        options=REALS,
    ),
    "text-in-a-column-with-a-space": Refused(
        "a,my town\n1,Ulm\n2,Bonn\n", "'my town'", "--data.labels 'my town'", options=REALS
    ),
    "dates": Refused(
        "a,day\n1,2020-01-01\n2,2020-01-03\n",
        "'day' of x.csv holds dates or times, such as '2020-01-01'",
        "number of days",
        lambda content: content.replace(b"2020-01-0", b""),
        options=REALS,
    ),
    "thousands-or-decimals": Refused(
        'a,b\n1,"1,234"\n2,"5,678"\n',
        r"Row 0 \(line 2\) of x.csv, column 'b': '1,234' may be 1234 or 1.234",
        "--data.decimal point or --data.decimal comma",
    ),
    "thousands-or-decimals-of-europe": Refused(
        "a;b\n1;1.234\n2;5.678\n", "'1.234' may be 1234 or 1.234", "--data.decimal"
    ),
    "short-line": Refused(
        "a,b\n1,2\n3\n5,6\n",
        "Line 3 of x.csv has 1 cell, but the header names 2 columns",
        "Give it as many cells",
        swap("3\n", "3,4\n"),
    ),
    "short-line-with-quotes": Refused(
        'a,b\n"1",2\n3\n5,6\n', "Line 3 of x.csv has 1 cell", "as many cells", swap("3\n", "3,4\n")
    ),
    "long-line": Refused(
        "a,b\n" + "1,2\n" * 9 + "3,4,5\n",
        "Line 11 of x.csv has 3 cells, but the header names 2 columns",
        "in quotes where one holds the separator",
        swap("3,4,5", '3,"4.5"'),
    ),
    "long-line-without-header": Refused(
        "1,2\n3,4\n5,6,7\n",
        "Line 3 of x.csv has 3 cells, but other lines have 2 columns",
        "as many cells",
        swap("5,6,7", "5,6"),
    ),
    "lines-above": Refused(
        "Report of May\na,b\n1.5,2.5\n3,4\n",
        "Line 2 of x.csv has 2 cells, but the header names 1 column",
        "begin lines above the table with #",
        swap("Report", "# Report"),
    ),
    "unquoted-decimal-commas": Refused(
        "a\n1,5\n2,5\n", "Line 2 of x.csv has 2 cells", "pass --data.decimal comma", swap("a\n", "a,b\n"), rows=None
    ),
    "commas-for-two": Refused(
        "a,b\n1,5,2,5\n2,5,3,5\n",
        "Line 2 of x.csv has 4 cells",
        "with semicolons",
        instead("a;b\n1,5;2,5\n2,5;3,5\n"),
        rows=[[1.5, 2.5], [2.5, 3.5]],
    ),
    "indian-groups": Refused(
        'a,b\n1.5,"1,23,456"\n2,5\n', "'1,23,456' is not a number", "Correct", swap("1,23,456", "123,456")
    ),
    "a-footnote": Refused(
        "a,b\n1,2\n3,4\n\nSource: me\n", "Line 5 of x.csv has 1 cell", "or take it out", swap("Source: me\n", "")
    ),
    "a-row-of-totals": Refused(
        "a,b\n1,2\n3,4\nTotal,6\n", "'Total' is not a number", "take its row out", swap("Total,6\n", "")
    ),
    "unclosed-quote-above-much": Refused(
        'a,b\n1,2\n"3,4\n' + "5,6\n" * 40_000, "Line 3 of x.csv opens a quote", "Close it", swap('"3', '"3"')
    ),
    "torn-gzip": Refused(
        gzip.compress(text(ROWS).encode())[:-9],
        "cannot be read as a table",
        "Check that it is whole",
        lambda content: gzip.compress(text(ROWS).encode()),
        name="x.csv.gz",
        rename="x.csv.gz",
    ),
    "another-ending": Refused(text(ROWS), "x.dat is not of a kind", "rename it to .csv if it is text", name="x.dat"),
    "unclosed-quote": Refused(
        'a,b\n1,2\n3,"4\n5,6\n',
        r'Line 3 of x.csv opens a quote \("\) that is never closed',
        "Close it",
        swap('"4', '"4"'),
    ),
    "cell-behind-a-quote": Refused(
        'a,b\n"1"x,2\n"3,4\n"5",6\n'.replace('"3', '3"'),
        "Line 2 of x.csv has a cell that goes on behind its",
        "twice",
        lambda content: content.replace(b'"1"x', b"1").replace(b'3"', b"3"),
    ),
    "nul": Refused(
        b"a,b\n1,2\n3,\x004\n5,6\n" + b"7,8\n" * 9,
        "Line 3 of x.csv holds a NUL byte",
        "take the byte out",
        lambda content: content.replace(b"\0", b""),
    ),
    "blank": Refused("\n \n", "x.csv holds no table: every line is blank", "Write the data", SAVED),
    "nothing": Refused("", "x.csv is empty", "Write the data", SAVED),
    "only-comments": Refused("# a\n# b\n", "every line is blank or begins with #", "Write the data", SAVED),
    "only-a-header": Refused("a,b\n", r"x.csv has a header \(a, b\) but no rows", "Write the data below it", SAVED),
    "excel": Refused(archive("xl/workbook.xml"), "x.csv is an Excel workbook", "save the sheet as CSV", SAVED),
    "open-document": Refused(archive("mimetype", "content.xml"), "x.csv is an OpenDocument", "sheet as CSV", SAVED),
    "old-excel": Refused(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" * 9, "x.csv is an Excel workbook", "sheet as CSV", SAVED),
    "zip": Refused(archive("y.csv"), r"x.csv is a zip archive \(of y.csv\)", "Unpack it", SAVED),
    "parquet": Refused(parquet(), "x.csv is a Parquet file", "Rename it to x.parquet", rename="x.parquet"),
    "npy": Refused(array(), "x.csv is an array of numpy", "Rename it to x.npy", rename="x.npy"),
    "npz": Refused(arrays(), "x.csv is an archive of numpy", "Rename it to x.npz", rename="x.npz"),
    "gzip": Refused(
        gzip.compress(text(ROWS).encode()), "x.csv is compressed with gzip", "Rename it to x.csv.gz", rename="x.csv.gz"
    ),
    "json": Refused(
        '[{"a": 1.5}, {"a": 2.5}]',
        "x.csv is JSON",
        "pandas.read_json(path).to_csv(…, index=False)",
        lambda content: pd.read_json(io.BytesIO(content)).to_csv(index=False).encode(),
    ),
    "feather": Refused(
        feather(), "x.csv is an Arrow", "polars.read_ipc(path).write_parquet(…)", from_feather, rename="x.parquet"
    ),
    "sqlite": Refused(
        database(), "x.csv is an SQLite database", "pandas.read_sql(…).to_csv(…, index=False)", from_database
    ),
    "picture": Refused(b"\x89PNG\r\n\x1a\n\0", "x.csv is a picture", "Give the folder", SAVED),
    "html": Refused("<!DOCTYPE html>\n<html>", "x.csv is an HTML or XML page", "Download the data", SAVED),
    "pickle": Refused(
        pickle.dumps(FRAME, protocol=5),
        "x.csv is a pickled Python object",
        "frame.to_csv(…, index=False)",
        lambda content: pickle.loads(content).to_csv(index=False).encode(),
    ),
    "torn-parquet": Refused(
        b"PAR1 and no more",
        "cannot be read as a table",
        "Check that it is whole",
        lambda content: parquet(),
        name="x.parquet",
        rename="x.parquet",
    ),
    "separator": Refused(
        text(ROWS),
        "--data.separator is 'semi'",
        "Did you mean 'semicolon'?",
        lambda content: content,
        options={"separator": "semi"},
    ),
    "decimal": Refused(
        text(ROWS),
        "--data.decimal is 'coma'",
        "Did you mean 'comma'?",
        lambda content: content,
        options={"decimal": "coma"},
    ),
}


def flags_in(remedy: str) -> list[dict[str, Any]]:
    """The keywords of every alternative that a remedy names by flags; alternatives are divided by ; and "or"."""
    found = []
    for alternative in re.split(r"; | or ", remedy.rstrip(".")):
        words = shlex.split(alternative[alternative.index("--data.") :]) if "--data." in alternative else []
        options: dict[str, Any] = {}
        while words:
            flag, equals, value = words.pop(0).partition("=")
            if flag.startswith("--data."):
                value = value if equals else words.pop(0)
                key = flag.removeprefix("--data.").replace("-", "_")
                options[key] = value.split(",") if key == "missing_values" else value.rstrip(",.")
        if options:
            found.append(options)
    return found


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refused_and_the_remedy_followed(tmp_path: Path, case: Refused) -> None:
    content = case.content.encode() if isinstance(case.content, str) else case.content
    path = tmp_path / case.name
    path.write_bytes(content)
    with pytest.raises(ElbowroomError, match=case.problem) as caught:
        load(path, **case.options)
    assert case.remedy in caught.value.remedy
    alternatives = flags_in(caught.value.remedy)
    assert alternatives or case.edit or case.rename != case.name
    for options in alternatives:
        assert len(load(path, **options))
    if case.edit or case.rename != case.name:
        mended = tmp_path / case.rename
        mended.write_bytes(case.edit(content) if case.edit else content)
        data = load(mended)
        assert len(data)
        if case.rows is not None:
            assert rows_of(data).tolist() == case.rows
