"""Every command on a run whose latents are codes: it does its work, or says in one sentence why it cannot."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from complaints import Ask, assert_complains
from elbowroom.cli import main
from elbowroom.running.runs import load

Say = Callable[..., tuple[str, str]]
SMALL = ("--model.encoder.hidden", "12", "--model.decoder.hidden", "12", "--train.epochs", "2", "--quiet")
CODES = (
    "--model.prior",
    "unigram",
    "--model.slots",
    "4",
    "--model.codes",
    "4",
    "--objective.estimator",
    "straight-through",
)


@pytest.fixture(scope="module", autouse=True)
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """runs/codes, on digits; run, whose latents are real; tables, codes on a table with identifiers."""
    folder, before = tmp_path_factory.mktemp("workplace"), Path.cwd()
    os.chdir(folder)
    main(["train", "digits", *SMALL, *CODES, "--out", "runs/codes"])
    main(["train", "digits", *SMALL, "--model.latent-dim", "2", "--out", "runs/real"])
    bits = np.random.default_rng(0).integers(0, 2, (60, 6))
    lines = ["who,code_1,b,c,d,e,f", *(f"k{i},{','.join(map(str, row))}" for i, row in enumerate(bits))]
    Path("table.csv").write_text("\n".join(lines) + "\n")
    main(["train", "table.csv", *SMALL, *CODES, "--data.id", "who", "--data.test", "0.2", "--out", "runs/table"])
    try:
        yield folder
    finally:
        os.chdir(before)


def test_training_says_slots_and_codes(say: Say) -> None:
    words = [word for word in SMALL if word != "--quiet"]
    out, _ = say("train", "digits", *words, *CODES, "--out", "runs/again")
    assert "trained runs/again: 30 steps, 4 slots × 4 codes" in out
    assert "4 slots × 4 codes, step 30" in repr(load("runs/again"))
    out, _ = say("runs", "list", "runs", "--json")
    latents = {Path(row["run"]).name: row["latents"] for row in json.loads(out)["runs"]}
    assert latents == {
        "again": "4 slots × 4 codes",
        "codes": "4 slots × 4 codes",
        "real": 2,
        "table": "4 slots × 4 codes",
    }


@pytest.mark.parametrize(
    ("command", "written"),
    [
        ("evaluate runs/codes --points 20 --k 20", "evaluation.json"),
        ("evaluate runs/table --k 20", "evaluation.json"),
        ("sample runs/codes", "figures/traversals.png"),
        ("sample runs/table", "figures/samples.png"),
        ("reconstruct runs/codes", "figures/reconstructions.png"),
        ("encode runs/codes", "figures/codes.png"),
        ("encode runs/table", "encoded.npz"),
        ("score runs/codes --points 20 --k 30", "scores.csv"),
        ("impute runs/codes --hide bottom --num 5 --draws 50", "figures/completions.png"),
        ("doctor runs/codes --points 60", "doctor.json"),
        ("report runs/table", "report.html"),
    ],
)
def test_commands_that_work(command: str, written: str, say: Say) -> None:
    run = Path(command.split()[1])
    (run / written).unlink(missing_ok=True)
    _, err = say(*command.split())
    assert (run / written).is_file()
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("evaluate runs/codes --methods laplace-is", ("laplace-is needs a continuous z", "--methods codes")),
        ("evaluate runs/codes --methods room", ("room needs a continuous z", "--methods codes")),
        ("evaluate runs/codes --methods active-units", ("active-units needs a continuous z", "--methods codes")),
        ("score runs/codes --method laplace-is", ("laplace-is needs a continuous z", "iwae")),
        ("encode runs/codes --posterior nuts", ("HMC or NUTS needs a continuous z", "encode")),
        ("encode runs/codes --posterior hmc --codes", ("--codes", "--posterior", "one of them")),
        ("encode runs/codes --codes --out codes.npz", (".csv", "codes.npz")),
        (
            "impute runs/codes --hide 0.3 --method nuts --jumps",
            ("A Markov chain, which --method, --jumps are for, needs a continuous z", "codes are imputed without"),
        ),
        ("encode runs/real --codes", ("real vectors (2 latents)", "Leave it out")),
    ],
)
def test_commands_that_do_not(command: str, words: tuple[str, ...], ask: Ask) -> None:
    assert_complains(ask(*command.split()), *words)
    if words[0].endswith("continuous z"):
        assert_complains(ask(*command.split()), "codes (4 slots × 4 codes)")


def test_codes_are_written_as_integers_with_a_column_for_each_slot(say: Say) -> None:
    say("encode", "runs/codes", "--codes")
    with Path("runs/codes/codes.csv").open() as file:
        rows = list(csv.DictReader(file))
    run = load("runs/codes")
    found = run.encode()
    assert found.codes is not None
    assert list(rows[0]) == ["row", "label", "code_1", "code_2", "code_3", "code_4"]
    assert [[int(row[f"code_{slot}"]) for slot in range(1, 5)] for row in rows] == found.codes.tolist()
    assert [int(row["row"]) for row in rows] == found.rows["row"]
    assert [row["label"] for row in rows] == found.class_names
    assert found.codes.tolist() == run.model.space.split(found.mean).argmax(-1).tolist()


def test_identifiers_go_with_codes_under_a_name_that_is_free(say: Say) -> None:
    say("encode", "runs/table", "table.csv", "--codes", "--out", "mine.csv")
    with Path("mine.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["row", "who", "code_1", "code_2", "code_3", "code_4"]
    assert [row["who"] for row in rows] == [f"k{i}" for i in range(60)]


def test_arrays_of_codes_and_their_probabilities(say: Say) -> None:
    say("encode", "runs/codes")
    with np.load("runs/codes/encoded.npz") as arrays:
        assert {"codes", "probs", "labels", "rows"} <= set(arrays)
        assert arrays["probs"].shape == (len(arrays["rows"]), 4, 4)
        np.testing.assert_allclose(arrays["probs"].sum(-1), 1, rtol=1e-5)
        np.testing.assert_array_equal(arrays["probs"].argmax(-1), arrays["codes"])
        assert "stddev" not in arrays
    encoded = load("runs/codes").encode()
    variance = encoded.mean * (1 - encoded.mean)
    np.testing.assert_allclose(encoded.stddev.square(), variance, atol=1e-6)


def test_the_default_methods_leave_out_active_units() -> None:
    names = {result.method for result in load("runs/codes").evaluate(points=20, k=20)}
    assert names == {"elbo", "codes"}
    assert load("runs/codes").score(points=10, k=30).method == "iwae"


def test_the_report_shows_the_codes(say: Say) -> None:
    say("report", "runs/codes")
    page = Path("runs/codes/report.html").read_text()
    for words in (
        "with 4 slots × 4 codes",
        "a unigram (independent slots) prior",
        "codes are used",
        "What codes stand for",
    ):
        assert words in page, words
    assert "latent dimensions" not in page
    assert "Elbow room" not in page.partition("Evaluation")[0]  # of its parts, which are those of a normal q
