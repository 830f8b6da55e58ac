"""A table of names, dates and numbers through training, scores, samples and imputation, and back as a table."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elbowroom.cli import main
from elbowroom.errors import ElbowroomError
from elbowroom.running.impute import impute
from elbowroom.running.runs import Run, load
from elbowroom.running.train import resolve, train

pl = pytest.importorskip("polars")

TINY = ("--model.encoder.hidden", "6", "--model.decoder.hidden", "6", "--model.latent-dim", "1", "--train.epochs", "1",
        "--quiet")  # fmt: skip
FAST = ("--draws", "10", "--chains", "2", "--warmup", "5")
HEADER = ["who", "city", "zip", "since", "smokes", "visits", "spend", "mass", "land"]


def people(rows: int = 80) -> list[list[str]]:
    draw = np.random.default_rng(0)
    table = []
    for row in range(rows):
        table.append(
            [
                f"p{row:03d}",
                ["Oslo", "Bergen", "Tromsø"][draw.integers(3)],
                ["02134", "10001"][draw.integers(2)],
                f"{draw.integers(1, 29):02d}.{draw.integers(1, 13):02d}.2021",
                ["yes", "No"][draw.integers(2)],
                str(draw.poisson(2)),
                f"{0.0 if draw.random() < 0.3 else draw.lognormal(2, 1):.2f}",
                str(int(draw.normal(4000, 600) // 25 * 25)),
                "NO",
            ]
        )
        if row % 4 == 0:
            table[-1][int(draw.integers(1, 8))] = ""
    return table


def write(path: Path, table: list[list[str]], header: list[str] = HEADER) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *table])
    return path


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("people")
    write(place / "people.csv", people())
    main(["train", str(place / "people.csv"), *TINY, "--out", str(place / "run")])
    return place


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return load(folder / "run")


def test_a_run_knows_its_columns(run: Run) -> None:
    assert run.facts.columns is not None
    assert [(column.name, str(column.kind)) for column in run.facts.columns] == [
        ("city", "category"), ("zip", "binary"), ("since", "date"), ("smokes", "binary"), ("visits", "count"),
        ("spend", "positive"), ("mass", "real"),
    ]  # fmt: skip
    assert run.config.model.likelihood == "auto"
    assert run.model.likelihood.name == "table"
    assert run.dataset().kinds == run.facts.columns


def test_a_run_that_goes_on_knows_the_same(folder: Path) -> None:
    went_on = ["--train.epochs", "2", "--quiet", "--resume", "--out", str(folder / "again")]
    main(["train", str(folder / "people.csv"), *TINY, "--out", str(folder / "again")])
    before = load(folder / "again").facts
    main(["train", *went_on])
    main(["train", str(folder / "people.csv"), *went_on[:1], "3", *went_on[2:]])
    assert load(folder / "again").facts == before


def test_scores_of_the_same_rows_in_another_order_of_columns(run: Run, folder: Path, tmp_path: Path) -> None:
    order = [6, 0, 3, 5, 1, 2, 7, 4]  # without the constant
    other = write(tmp_path / "o.csv", [[row[at] for at in order] for row in people()], [HEADER[at] for at in order])
    here, there = (run.score(path, k=5, seed=1).log_evidence for path in (folder / "people.csv", other))
    assert torch.isfinite(here).all()
    torch.testing.assert_close(here, there)


def test_scores_carry_the_identifier(folder: Path) -> None:
    main(["score", str(folder / "run"), str(folder / "people.csv"), "--k", "5", "--out", str(folder / "scores.csv")])
    header, *rows = rows_of(folder / "scores.csv")
    assert header[:2] == ["row", "who"]
    assert [row[1] for row in rows[:2]] == ["p000", "p001"]


def test_scores_name_the_column_that_makes_a_row_unlikely(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = people()[:4]
    table[2][HEADER.index("mass")] = "40000"
    odd = write(tmp_path / "odd.csv", table)
    main(["score", str(folder / "run"), str(odd), "--k", "30", "--out", str(tmp_path / "s.csv")])
    said = capsys.readouterr().out
    header, *rows = rows_of(tmp_path / "s.csv")
    assert header[-3:] == ["least_likely_column", "least_likely_log_p", "surprise"]
    assert rows[2][-3] == "mass" and float(rows[2][-1]) > 10
    assert "unlikely given the rest of their row: mass in row 2 (log p " in said
    head, *cells = rows_of(tmp_path / "s-columns.csv")
    assert head == ["row", "who", "column", "log_p", "stderr", "surprise", "reliable"]
    assert [cell[:3] for cell in cells[:8]] == [["0", "p000", name] for name in HEADER[1:-1]] + [["1", "p001", "city"]]
    assert [cell[3] for cell in cells if cell[0] == "2" and cell[2] == "mass"] == [rows[2][-2]]
    empty = next(
        (row, name) for row, line in enumerate(table) for name, text in zip(HEADER, line, strict=True) if not text
    )
    assert [cell[3:6] for cell in cells if (int(cell[0]), cell[2]) == empty] == [["", "", ""]]
    main(["score", str(folder / "run"), str(odd), "--k", "30", "--columns", "no", "--out", str(tmp_path / "n.csv")])
    assert rows_of(tmp_path / "n.csv")[0] == header[:-3]
    assert not (tmp_path / "n-columns.csv").exists()


def test_samples_are_a_table_in_the_kinds_of_training(folder: Path) -> None:
    main(["sample", str(folder / "run"), "--num", "40", "--out", str(folder / "drawn.csv")])
    header, *rows = rows_of(folder / "drawn.csv")
    assert header == HEADER[1:-1]
    assert len(rows) == 40
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    assert set(columns["city"]) <= {"Oslo", "Bergen", "Tromsø"}
    assert set(columns["zip"]) <= {"02134", "10001"}
    assert set(columns["smokes"]) <= {"No", "yes"}
    assert all(len(day) == 10 and day[2] == day[5] == "." for day in columns["since"])
    assert all(visits.isdecimal() for visits in columns["visits"])
    assert all(float(mass) % 25 == 0 for mass in columns["mass"])
    assert all(float(spend) >= 0 and len(spend.partition(".")[2]) <= 2 for spend in columns["spend"])


def test_samples_can_be_scored_as_a_table(run: Run, tmp_path: Path) -> None:
    drawn = run.sample(30, seed=2).x
    run.table(drawn).write_csv(tmp_path / "drawn.csv")
    written = run.score(tmp_path / "drawn.csv", k=5, seed=0).log_evidence
    assert written.shape == (30,)
    assert torch.isfinite(written).all()


def test_a_completed_table_keeps_what_was_observed(folder: Path) -> None:
    main(["impute", str(folder / "run"), str(folder / "people.csv"), *FAST, "--out", str(folder / "filled.npz")])
    (header, *given), (names, *filled) = rows_of(folder / "people.csv"), rows_of(folder / "filled.csv")
    assert names == header
    assert len(filled) == len(given)
    holes = [(row, at) for row, cells in enumerate(given) for at, cell in enumerate(cells) if not cell]
    assert holes
    assert all(old == new for was, now in zip(given, filled, strict=True)
               for old, new in zip(was, now, strict=True) if old)  # fmt: skip
    seen = {at: {row[at] for row in given} for at in (1, 2, 4)}
    for row, at in holes:
        cell = filled[row][at]
        assert cell
        assert at not in seen or cell in seen[at]
    columns, *cells = rows_of(folder / "filled-cells.csv")
    assert columns == ["row", "column", "filled", "probability", "mean", "lower", "upper", "who"]
    assert [(int(cell[0]), header.index(cell[1])) for cell in cells] == holes
    for cell in cells:
        named = cell[1] in ("city", "zip", "smokes")
        assert bool(cell[3]) is named
        assert bool(cell[4]) is bool(cell[5]) is bool(cell[6]) is not named
        assert cell[7] == f"p{int(cell[0]):03d}"


def test_hidden_names_and_numbers_are_judged_apart(run: Run) -> None:
    found = impute(run, hide=0.5, draws=10, chains=2, warmup=5, split="train", num=20, seed=1)
    assert found.recovery is not None
    assert found.recovery.names is not None
    assert (found.recovery.measure, found.recovery.names.measure) == ("rmse", "accuracy")
    assert found.hidden is not None
    assert found.recovery.num_values + found.recovery.names.num_values == int(found.hidden.sum())
    assert found.table.columns == HEADER[1:-1]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda row: [*row[:1], "Bodø", *row[2:]], r"Row 0 \(line 2\) of new.csv holds 'Bodø' in column 'city'"),
        (lambda row: [*row[:3], "2021-03-04", *row[4:]], "'2021-03-04' is no date written as in training"),
        (lambda row: [*row[:5], "-1", *row[6:]], "holds -1 in column 'visits', but counts are whole numbers"),
    ],
)
def test_rows_that_training_could_not_have_are_refused(run: Run, tmp_path: Path, change: Any, problem: str) -> None:
    table = people(5)
    table[0] = change(table[0])
    with pytest.raises(ElbowroomError, match=problem):
        run.score(write(tmp_path / "new.csv", table), k=5)


def test_there_are_settings_for_tables_and_a_run_without_any_is_told(tmp_path: Path) -> None:
    file, said = write(tmp_path / "people.csv", people()), list[str]()
    few: dict[str, Any] = {"train": {"epochs": 1}, "observers": [], "announce": said.append}
    train(file, out=tmp_path / "plain", **few)
    assert sum("there are settings for tables" in remark for remark in said) == 1
    said.clear()
    run = train(file, out=tmp_path / "set", config="table", **few)
    assert not any("settings for tables" in remark for remark in said)
    assert (run.config.objective.name, run.config.model.latent_dim, run.config.train.epochs) == ("iwae", 4, 1)


def test_a_recipe_without_data_asks_for_them() -> None:
    with pytest.raises(ElbowroomError, match="recipe table has settings for data of your own") as caught:
        resolve("table", {})
    assert "--config table" in caught.value.remedy
