"""``elbowroom score``: which rows are not reliable, what helps, and the values that were scored."""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from elbowroom.evaluation.column_scores import ColumnScores
from elbowroom.running.folder import RunFolder
from elbowroom.running.runs import Run, load
from small_runs import tiny

Say = Callable[..., tuple[str, str]]
Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", autouse=True)
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run on a table of eight columns whose encoder covers hardly a posterior, and files of rows."""
    folder, before = tmp_path_factory.mktemp("workplace"), Path.cwd()
    os.chdir(folder)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3)) @ rng.normal(size=(3, 8)) + 0.05 * rng.normal(size=(120, 8))
    np.save("table.npy", x)
    rows = x[:12].copy()
    np.save("near.npy", rows)
    rows[2], rows[5] = 1e4, 3e38
    np.save("far.npy", rows)
    tiny(
        Path("table.npy"), Path("run"), train={"steps": 300}, optimizer={"lr": 0.02}, data={"test": 60},
        model={"latent_dim": 3, "decoder": {"hidden": []}, "encoder": {"hidden": [4]}},
    )  # fmt: skip
    try:
        yield folder
    finally:
        os.chdir(before)


def _rows(path: str = "run/scores.csv") -> list[dict[str, str]]:
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def _unreliable() -> int:
    return sum(row["reliable"] == "false" for row in _rows())


def test_the_file_has_the_rows_of_the_data_set_and_says_which_are_reliable(say: Say) -> None:
    out, err = say("score", "run")
    rows = _rows()
    assert list(rows[0]) == ["row", "log_p", "stderr", "ess", "pareto_k", "draws", "reliable"]
    assert [int(row["row"]) for row in rows] == RunFolder("run").read_splits()["test"].tolist()
    assert "(laplace-is, 1,000 draws each)" in out
    assert err == ""
    assert {row["reliable"] for row in rows} == {"true"}
    assert {row["draws"] for row in rows} == {"1000"}
    scores = load("run").score()
    assert [float(row["log_p"]) for row in rows] == scores.log_evidence.tolist()


def test_columns_of_an_array_are_scored_on_request(say: Say, ask: Ask) -> None:
    rows = np.load("near.npy")
    rows[4, 6] += 30
    np.save("odd.npy", rows)
    out, _ = say("score", "run", "odd.npy", "--k", "50", "--columns", "yes", "--json")
    found = json.loads(out)["scores"][4]
    assert found["least_likely_column"] == "6" and found["surprise"] > 50
    assert not Path("run/scores-columns.csv").exists()
    code, _, err = ask("score", "run", "odd.npy", "--k", "0", "--columns", "yes")
    assert code == 2 and "at least one draw" in err


def test_chains_of_annealing_are_no_draws_for_columns(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(Run, "score_columns", lambda run, *source, **given: asked.append(given["k"]) or empty(run))
    for method in ("ais", "laplace-is"):
        say("score", "run", "--method", method, "--k", "4", "--points", "2", "--columns", "yes")
    assert asked == [None, 4]


def empty(run: Run) -> ColumnScores:
    nothing = torch.full((2, 8), torch.nan)
    return ColumnScores(nothing, nothing, nothing.isfinite(), nothing, nothing[0], torch.arange(2))


def test_columns_that_cannot_be_scored_are_refused_before_any_row_is(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(np.zeros((60, 4, 4), dtype=np.uint8), tmp_path / "pictures", train={"steps": 1})
    monkeypatch.setattr(Run, "score", lambda *given, **settings: pytest.fail("rows were scored"))
    code, _, err = ask("score", str(tmp_path / "pictures"), "--columns", "yes")
    assert code == 2 and "Columns of this model have no scores" in err and "--columns no" in err


def test_the_remedies_for_rows_that_are_not_reliable_work(say: Say) -> None:
    _, err = say("score", "run", "--method", "iwae", "--k", "200")
    many = _unreliable()
    assert many > 10
    told = re.search(r"(\d+) of 60 rows are not reliable .*: --method laplace-is does\.", err)
    assert told is not None
    assert int(told[1]) == many
    say("score", "run", "--method", "laplace-is")
    assert _unreliable() == 0
    _, err = say("score", "run", "--k", "20")
    assert "So few draws do not tell: --k 1000" in err
    assert _unreliable() == 60
    _, err = say("score", "run", "--method", "iwae", "--k", "20")
    assert "So few draws do not tell: --k 1000" in err
    _, err = say("score", "run", "--k", "1000")
    assert err == ""


def test_a_tolerance_and_annealing_are_offered_and_work(say: Say) -> None:
    _, err = say("score", "run", "--k", "40")
    few = _unreliable()
    assert few > 0
    assert "--tolerance 0.1 spends more draws on them; --method ais anneals them" in err
    say("score", "run", "--k", "40", "--tolerance", "0.1")
    assert _unreliable() == 0
    assert max(float(row["stderr"]) for row in _rows()) <= 0.1
    out, _ = say("score", "run", "--method", "ais", "--tolerance", "0.1")
    assert "(ais, " in out
    assert _unreliable() == 0
    _, err = say("score", "run", "--method", "ais", "--k", "4")
    assert "So few chains do not tell: --k 32" in err
    say("score", "run", "--method", "ais", "--k", "32")
    assert _unreliable() == 0


def test_rows_that_are_far_away_are_named_and_the_mean_says_what_it_is_of(say: Say) -> None:
    out, err = say("score", "run", "far.npy")
    rows = _rows()
    assert [row["row"] for row in rows] == [str(row) for row in range(12)]
    assert rows[5]["log_p"] == rows[5]["stderr"] == ""
    assert float(rows[2]["log_p"]) < -1e5
    assert [row["row"] for row in rows if row["reliable"] == "false"] == ["2", "5"]
    assert "over the 11 of 12 examples whose value is finite" in out
    assert re.search(r"^row 5: so far from the training data that log p\(x\) is not finite", err, re.MULTILINE)
    assert re.search(r"^row 2: so far from the training data that log p\(x\) is a huge", err, re.MULTILINE)
    out, _ = say("score", "run", "far.npy", "--json")
    answer = json.loads(out)
    assert (answer["scores"][5]["log_p"], answer["scores"][5]["reliable"], answer["unreliable"]) == (None, False, 2)
    near, _ = say("score", "run", "near.npy", "--json")
    same = [row for row in range(12) if row not in (2, 5)]
    assert [answer["scores"][row] for row in same] == [json.loads(near)["scores"][row] for row in same]


def test_a_file_that_is_named_is_written_beside_json_too(say: Say) -> None:
    out, _ = say("score", "run", "near.npy", "--k", "5", "--json", "--out", "named.csv")
    rows = Path("named.csv").read_text().splitlines()
    assert len(rows) == 1 + len(json.loads(out)["scores"])


def test_chains_are_counted_where_there_are_any_and_huge_means_are_short(say: Say) -> None:
    out, _ = say("score", "run", "far.npy", "--method", "ais", "--k", "3")
    assert "(ais, 3 chains each)" in out
    assert re.search(r"log p\(x\) ≥ -\d\.\d+e\+\d+ ± \d\.\d+e\+\d+ nats", out)


def test_the_error_of_the_mean_counts_the_noise_that_equal_rows_share(say: Say) -> None:
    np.save("copies.npy", np.repeat(np.load("near.npy")[:1], 50, 0))
    np.save("one.npy", np.load("near.npy")[:1])
    out, _ = say("score", "run", "copies.npy", "--k", "30")
    one, _ = say("score", "run", "one.npy", "--k", "30")
    (row,) = _rows()
    shared = float(row["stderr"]) * math.sqrt(49 / 50)
    assert f"≥ {float(row['log_p']):.3f} ± {shared:.3f} nats over 50 examples" in out
    assert f"≥ {float(row['log_p']):.3f} nats over 1 example (" in one
    single, _ = say("score", "run", "one.npy", "--k", "1")
    assert "nats over 1 example (laplace-is, 1 draw each)" in single


def test_evaluate_names_rows_that_are_not_finite(ask: Ask) -> None:
    code, out, err = ask("evaluate", "run", "far.npy", "--methods", "iwae", "--k", "50")
    assert (code, out) == (2, "")
    assert "row 5" in err and "`elbowroom score`" in err
    assert "Traceback" not in err
    assert not [row for row in RunFolder("run").evaluations() if not math.isfinite(row["value"])]


def test_scores_and_evaluation_agree(say: Say) -> None:
    for method, column in (("iwae", "iwae"), ("laplace-is", "log_evidence")):
        say("evaluate", "run", "--methods", method, "--k", "90", "--points", "25")
        say("score", "run", "--method", method, "--k", "90", "--points", "25")
        kept, scores = _rows(f"run/evaluation/{method}-test.csv"), _rows()
        assert [row["row"] for row in kept] == [row["row"] for row in scores]
        assert [row[column] for row in kept] == [row["log_p"] for row in scores]
        assert [row["stderr"] for row in kept] == [row["stderr"] for row in scores]
        say("score", "run", "--method", method, "--k", "90")
        every = {row["row"]: row for row in _rows()}
        assert [every[row["row"]] for row in scores] == scores


def test_what_was_scored_is_written_and_scores_the_same(say: Say) -> None:
    out, _ = say("score", "run", "--points", "9", "--write-data", "seen.npz")
    assert "wrote seen.npz" in out
    first = _rows()
    say("score", "run", "seen.npz")
    again = _rows()
    assert [row["row"] for row in first] == [str(row) for row in np.load("seen.npz")["row"]]
    assert [{**row, "row": ""} for row in first] == [{**row, "row": ""} for row in again]


def test_what_was_evaluated_is_written_and_evaluates_the_same(say: Say) -> None:
    figures = []
    for source in ([], ["seen.npz"]):
        command = ["evaluate", "run", *source, "--methods", "elbo,iwae,laplace-is", "--k", "30", "--json"]
        out, _ = say(*command, *([] if source else ["--write-data", "seen.npz"]))
        figures.append({result["name"]: result["value"] for result in json.loads(out)["results"]})
    assert figures[0] == figures[1]


def test_a_run_without_an_encoder_is_scored(tmp_path: Path, say: Say) -> None:
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    tiny(x, tmp_path / "run", train={"learner": "mcem", "steps": 4, "batch_size": 10})
    np.save(tmp_path / "x.npy", x[:5].numpy())
    out, _ = say("score", str(tmp_path / "run"), str(tmp_path / "x.npy"))
    assert "(laplace-is, 1,000 draws each)" in out


def test_the_mean_of_one_row_has_no_standard_error(say: Say) -> None:
    np.save("one.npy", np.load("near.npy")[:1])
    out, _ = say("score", "run", "one.npy", "--k", "50", "--out", "one.csv")
    assert " nats over 1 example (" in out
    assert "nan" not in out
    assert "±" not in out
