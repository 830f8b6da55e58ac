"""Tables in another dialect through the commands: what is said once, scored and completed."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from elbowroom.cli import main

pytest.importorskip("polars")

Ask = Callable[..., tuple[int, str, str]]  # arguments -> exit code, standard output, standard error
NUMBERS = ("--data.support", "reals")  # yes and no are 1 and 0
TINY = ("--model.encoder.hidden", "6", "--model.decoder.hidden", "6", "--model.latent-dim", "1", "--train.epochs", "1",
        *NUMBERS)  # fmt: skip
SAID = (
    "semi.csv: semicolons separate the cells, and commas are decimal\n"
    "semi.csv: yes is 1 and no is 0 (column 'smoker')\n"
)


@pytest.fixture(scope="module", autouse=True)
def workplace(tmp_path_factory: pytest.TempPathFactory, _lonely_machine: None) -> Iterator[Path]:
    """A folder with a table as a European spreadsheet saves it, and the same table in plain form."""
    folder, before = tmp_path_factory.mktemp("tables"), Path.cwd()
    os.chdir(folder)
    size = np.random.default_rng(0).normal(size=60).round(3)
    rows = [(f"{value:.3f}", f"{2 * value + 1:.3f}", "yes" if value > 0 else "no") for value in size]
    plain = [",".join(["a", "b", "smoker"]), *(",".join(row) for row in rows)]
    Path("plain.csv").write_text("\n".join(plain) + "\n")
    Path("semi.csv").write_text("\n".join(plain).replace(",", ";").replace(".", ",") + "\n")
    Path("holes.csv").write_text("a;b;smoker\n0,125;;yes\n-999;1,5;no\n0,5;2,0;\n")
    try:
        main(["train", "plain.csv", *TINY, "--quiet", "--out", "plain"])
        yield folder
    finally:
        os.chdir(before)


def test_training_says_once_how_the_table_was_read_and_learns_the_same(ask: Ask) -> None:
    code, _, err = ask("train", "semi.csv", *TINY, "--quiet", "--out", "semi")
    assert (code, err) == (0, SAID)
    weights = [sorted(Path(run).glob("checkpoints/*/model.safetensors")) for run in ("plain", "semi")]
    assert weights[0]
    assert [path.read_bytes() for path in weights[0]] == [path.read_bytes() for path in weights[1]]


def test_a_table_is_shown_with_what_was_found(ask: Ask) -> None:
    assert ask("data", "show", "semi.csv", *NUMBERS)[2] == SAID
    code, out, _ = ask("data", "show", "semi.csv", *NUMBERS, "--json")
    assert code == 0
    assert json.loads(out)["remarks"] == [line.removeprefix("semi.csv: ") for line in SAID.splitlines()]


def test_scores_do_not_depend_on_the_dialect(ask: Ask) -> None:
    for name in ("plain", "semi"):
        assert ask("score", "plain", f"{name}.csv", "--k", "3", "--out", f"{name}-scores.csv")[0] == 0
    assert Path("plain-scores.csv").read_text() == Path("semi-scores.csv").read_text()


def test_what_data_show_suspects_can_be_followed_on_the_command_line(ask: Ask) -> None:
    Path("codes.csv").write_text("a,b\n" + "1,2\n3,4\n-999,6\n5,-999\n-999,1\n" * 6)
    _, _, err = ask("data", "show", "codes.csv")
    flags = [word for word in err.split() if word.startswith("--data.missing-values")]
    assert flags == ["--data.missing-values=-999"] or flags == ["--data.missing-values=-999"] * 2
    code, _, err = ask("data", "show", "codes.csv", flags[0], "--data.missing", "mask")
    assert (code, err) == (0, "codes.csv: 18 values of -999 count as missing\n")


def test_a_table_in_another_dialect_is_completed(ask: Ask) -> None:
    masked = ("--data.missing", "mask", "--data.missing-values=-999")
    assert ask("train", "plain.csv", *TINY, *masked, "--quiet", "--out", "masked")[0] == 0
    code, _, err = ask(
        "impute", "masked", "holes.csv", "--out", "filled.npz", "--draws", "10", "--chains", "2", "--warmup", "5"
    )
    assert code == 0, err
    with Path("filled.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["a", "b", "smoker"]
    assert [row[0] for row in rows][0::2] == ["0.125", "0.5"]
    assert [float(row[1]) for row in rows][1:] == [1.5, 2.0]
    assert [float(row[2]) for row in rows][:2] == [1, 0]
    assert float(rows[1][0]) != -999
    assert all(np.isfinite(float(cell)) for row in rows for cell in row)


def test_a_completed_table_is_written_in_one_notation(ask: Ask) -> None:
    cells = [f"{at % 7},5%;{at % 5},5;{('yes', 'no')[at % 2]}" for at in range(40)]
    Path("shares.csv").write_text("share;b;paid\n" + "\n".join(["58,6%;None;no", *cells, "None;1,5;"]) + "\n")
    masked = ("--data.missing", "mask", "--data.missing-values=-999")
    assert ask("train", "shares.csv", *TINY, *masked, "--quiet", "--out", "shares")[0] == 0
    code, _, err = ask(
        "impute", "shares", "shares.csv", "--num", "3", "--draws", "10", "--chains", "2", "--warmup", "5"
    )
    assert code == 0, err
    with Path("shares/imputed.csv").open() as file:
        _, *rows = csv.reader(file)
    assert [row[0] for row in rows] == ["0.586", "0.005", "0.015"]  # no cell of that column was filled in
    assert [row[1] for row in rows][1:] == ["0.5", "1.5"]
    assert [row[2] for row in rows] == ["no", "yes", "no"]
    assert "-999" not in err  # of which there is none: said when training began


@pytest.mark.parametrize(
    "flags",
    [
        ("--data.decimal", "comma"),
        ("--data.separator", "semicolon"),
        ("--data.separator", "tab", "--data.decimal", "comma"),
    ],
)
def test_a_completed_table_is_written_as_its_run_reads_tables(flags: tuple[str, ...], ask: Ask) -> None:
    mark = "\t" if "tab" in flags else ";"
    cells = [f"{at:03};{at % 7},25;{1000 + at % 5}" for at in range(40)]
    Path("own.csv").write_text("\n".join(["id;a;b", "x;;1002", *cells, "y;1,5;"]).replace(";", mark) + "\n")
    run = "-".join(("run", *flags))
    code, _, err = ask(
        "train", "own.csv", *TINY, *flags, "--data.missing", "mask", "--data.id", "id", "--train.batch-size", "10",
        "--quiet", "--out", run,
    )  # fmt: skip
    assert code == 0, err
    code, _, err = ask("impute", run, "own.csv", "--draws", "10", "--chains", "2", "--warmup", "5")
    assert code == 0, err
    assert ask("score", run, f"{run}/imputed.csv", "--k", "30", "--out", "own-filled.csv")[0] == 0
    assert ask("score", run, "own.csv", "--k", "30", "--out", "own-scores.csv")[0] == 0
    filled, given = (Path(name).read_text().splitlines() for name in ("own-filled.csv", "own-scores.csv"))
    assert filled[2:-1] == given[2:-1]
