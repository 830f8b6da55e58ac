"""Names on the command line: columns matched, rows identified, contexts and classes called by name."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from elbowroom.cli import main
from elbowroom.running.runs import load
from elbowroom.showing import gallery

pytest.importorskip("polars")

TINY = ("--model.encoder.hidden", "6", "--model.decoder.hidden", "6", "--model.latent-dim", "2", "--train.steps", "2")
QUICK = ("--draws", "5", "--chains", "2", "--warmup", "5", "--interval", "0.5")
KINDS = ("hen", "ox", "pig")

Ask = Callable[..., tuple[int, str, str]]
Say = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module", autouse=True)
def workplace(tmp_path_factory: pytest.TempPathFactory, _lonely_machine: None) -> Iterator[Path]:
    """The working directory, with runs on a table with names, on a conditional one, and on pictures in folders."""
    folder, before = tmp_path_factory.mktemp("workplace"), Path.cwd()
    os.chdir(folder)
    rng = np.random.default_rng(0)
    rows = [
        {"who": f"{row:03}", "age": f"{a:.3f}", "kind": KINDS[row % 3], "income": f"{a + b:.3f}", "mass": row / 60}
        for row, (a, b) in enumerate(rng.normal(size=(60, 2)))
    ]
    _write("people.csv", ["who", "age", "income"], rows)
    _write("farm.csv", ["age", "income", "kind", "mass"], rows)
    _write("shuffled.csv", ["income", "who", "age"], rows[:3])
    _write("nobody.csv", ["age", "income"], rows[:3])
    _write("renamed.csv", ["age", "incme"], [{"incme": row["income"], **row} for row in rows[:3]])
    Path("holes.csv").write_text("income,who,age\n1.25,007,\n,08,0.5\n")
    for kind in ("cats", "dogs"):
        (Path("pictures") / kind).mkdir(parents=True)
        for number in range(15):
            Image.fromarray(rng.integers(0, 256, (6, 6), dtype=np.uint8)).save(f"pictures/{kind}/{number}.png")
    try:
        main(["train", "people.csv", *TINY, "--out", "people", "--data.id", "who", "--quiet"])
        main(["train", "farm.csv", *TINY, "--out", "farm", "--data.context", "kind,mass", "--quiet"])
        main(["train", "pictures", *TINY, "--out", "zoo", "--data.context", "labels", "--quiet"])
        yield folder
    finally:
        os.chdir(before)


def _write(path: str, columns: list[str], rows: list[dict[str, object]]) -> None:
    with Path(path).open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


# --- columns and rows --------------------------------------------------------------------------------------------


def test_encodings_carry_rows_and_identifiers(say: Say) -> None:
    _, err = say("encode", "people", "shuffled.csv", "--out", "codes.npz")
    codes = np.load("codes.npz")
    assert err == ""
    assert codes["rows"].tolist() == [0, 1, 2]
    assert codes["who"].tolist() == ["000", "001", "002"]
    say("encode", "people", "nobody.csv", "--out", "others.npz")
    assert (np.load("others.npz")["mean"] == codes["mean"]).all()
    say("encode", "people", "--out", "own.npz")
    own = np.load("own.npz")
    assert own["rows"].tolist() == load("people").dataset().splits["test"].tolist()
    assert own["who"].tolist() == [f"{row:03}" for row in own["rows"]]
    say("encode", "people", "shuffled.csv", "--posterior", "nuts", *QUICK[:-2], "--out", "posterior.npz")
    assert np.load("posterior.npz")["who"].tolist() == ["000", "001", "002"]


def test_a_table_without_identifiers_is_said_to_have_none(say: Say) -> None:
    _, err = say("encode", "people", "nobody.csv", "--out", "codes.npz")
    assert err == "nobody.csv has no column 'who': its rows are only numbered\n"
    assert "who" not in np.load("codes.npz").files


def test_a_renamed_column_is_named(ask: Ask) -> None:
    for command in ("encode", "score", "evaluate", "impute"):
        code, out, err = ask(command, "people", "renamed.csv")
        assert (code, out) == (2, "")
        assert "renamed.csv has no column 'income', which the model was trained on, but a column 'incme'" in err
        assert "If 'incme' is 'income', rename it." in err


def test_a_completed_table_keeps_its_columns_and_identifiers(say: Say) -> None:
    say("impute", "people", "holes.csv", "--out", "filled.npz", *QUICK)
    found = np.load("filled.npz")
    assert found["rows"].tolist() == [0, 1]
    assert found["who"].tolist() == ["007", "08"]
    rows = [line.split(",") for line in Path("filled.csv").read_text().splitlines()]
    assert rows[0] == ["income", "who", "age"]
    assert [rows[1][:2], rows[2][1:]] == [["1.25", "007"], ["08", "0.5"]]
    assert float(rows[1][2]) == pytest.approx(found["completed"][0, 0], rel=1e-5)  # age is the first in training
    assert float(rows[2][0]) == pytest.approx(found["completed"][1, 1], rel=1e-5)


def test_a_table_without_a_header_is_completed_without_one(say: Say) -> None:
    Path("bare.csv").write_text("0.5,\n,1.25\n")
    say("impute", "people", "bare.csv", *QUICK, "--out", "bared.npz")
    rows = [line.split(",") for line in Path("bared.csv").read_text().splitlines()]
    assert (len(rows), rows[0][0], rows[1][1]) == (2, "0.5", "1.25")


def test_identifiers_called_as_an_array_do_not_hide_it(say: Say) -> None:
    text = Path("people.csv").read_text()
    Path("means.csv").write_text(text.replace("who", "mean", 1))
    say("train", "means.csv", *TINY, "--out", "means", "--data.id", "mean", "--quiet")
    say("encode", "means", "--out", "codes.npz")
    codes = np.load("codes.npz")
    assert codes["mean"].shape == (6, 2)
    assert codes["id_mean"].tolist() == [f"{row:03}" for row in codes["rows"]]


def test_axes_are_called_as_the_columns() -> None:
    run = load("people")
    for figure in (gallery.samples(run), gallery.reconstructions(run)):
        assert [axes.get_xlabel() for axes in figure.axes] == ["age", "income"]


# --- contexts and classes ----------------------------------------------------------------------------------------


def test_samples_of_a_context_by_name(say: Say) -> None:
    say("sample", "farm", "--num", "3", "--context", "mass=0.5", "--context", "kind=ox", "--arrays", "drawn.npz")
    run = load("farm")
    expected = run.sample(3, context={"kind": "ox", "mass": 0.5}).mean
    assert (np.load("drawn.npz")["mean"] == expected.numpy()).all()
    assert "samples given kind = ox" in _texts(gallery.samples(run, context={"kind": "ox", "mass": 0.5}))


def test_samples_of_a_class_by_name(say: Say) -> None:
    out, _ = say("sample", "zoo", "--num", "3", "--labels", "dogs", "--arrays", "drawn.npz")
    assert out.split() == ["wrote", "zoo/figures/samples.png", "wrote", "zoo/figures/traversals.png", "wrote",
                           "zoo/figures/manifold.png", "wrote", "drawn.npz"]  # fmt: skip
    assert (np.load("drawn.npz")["mean"] == load("zoo").sample(3, labels="dogs").mean.numpy()).all()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("sample zoo --labels dosg", ("the class 'dosg', but the classes in training were cats, dogs", "'dogs'")),
        ("sample zoo --labels dogs --context dogs", ("Both --context and --labels", "Give one")),
        (
            "sample farm --labels ox",
            ("conditional on kind (hen, ox, pig) and mass", "--context kind=hen --context mass=0"),
        ),
        ("sample farm --context kind=ox", ("--context lacks mass", "Add --context mass=0")),
        ("sample farm --context knd=ox --context mass=1", ("--context knd=ox names no covariate", "'kind'")),
        ("sample people --context kind=ox", ("not conditional", "Leave it out")),
        ("sample people --labels ox", ("not conditional", "Leave it out")),
    ],
)
def test_a_context_that_does_not_fit_is_refused(argv: str, words: tuple[str, ...], ask: Ask) -> None:
    code, out, err = ask(*argv.split())
    assert (code, out) == (2, "")
    for word in words:
        assert word in err, err


def test_the_flags_that_a_remedy_names_are_taken(ask: Ask, say: Say) -> None:
    _, _, err = ask("sample", "farm", "--context", "kind=ox")
    say("sample", "farm", "--num", "2", "--context", "kind=ox", *err.split("Add ")[1].strip().rstrip(".").split())


def test_classes_survive_into_pictures_and_files(say: Say) -> None:
    say("encode", "zoo", "--split", "train", "--out", "codes.npz")
    codes, run = np.load("codes.npz"), load("zoo")
    places = sorted(f"pictures/{kind}/{number}.png" for kind in ("cats", "dogs") for number in range(15))
    expected = [places[row].split("/")[1] for row in codes["rows"]]
    assert codes["classes"][codes["labels"]].tolist() == expected
    assert {"cats", "dogs"} <= set(_texts(gallery.latents(run.encode(split="train"))))
    assert {"cats", "dogs"} <= set(_texts(gallery.samples(run)))


def test_rows_of_classes_are_the_classes_samples() -> None:
    run = load("zoo")
    assert torch.equal(run.sample(4).mean, run.sample(4, labels=["cats", "cats", "dogs", "dogs"]).mean)


def _texts(figure: object) -> list[str]:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    assert isinstance(figure, Figure)
    figure.canvas.draw()
    texts = [text.get_text() for text in figure.findobj(Text)]
    return [part.split(", mass")[0] for text in texts for part in text.replace("\n", " ").split("; ")]
