"""Rows of a run's table given some columns: the kinds of training, the exact posterior, and what is refused."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elbowroom.cli import main
from elbowroom.cli.sample import _lines
from elbowroom.errors import ElbowroomError
from elbowroom.inference.enumeration import all_codes
from elbowroom.running.given import GivenSample, parse_given
from elbowroom.running.runs import Run, load
from small_runs import tiny

pl = pytest.importorskip("polars")

ROWS = 120


def people() -> Any:
    """Cities, members and ages go together; a name tells the rows apart, and one column is constant."""
    rng = np.random.default_rng(0)
    north = rng.random(ROWS) < 0.4
    day = [f"{1 + at % 28:02}.{1 + at % 12:02}.2023" for at in rng.integers(0, 400, ROWS)]
    return pl.DataFrame(
        {
            "who": [f"p{at:03}" for at in range(ROWS)],
            "since": day,
            "city": np.where(north, "Bergen", np.where(rng.random(ROWS) < 0.5, "Oslo", "Tromsø")),
            "member": rng.random(ROWS) < np.where(north, 0.9, 0.2),
            "visits": rng.poisson(np.where(north, 4, 1)),
            "spend": np.where(rng.random(ROWS) < 0.3, 0.0, rng.lognormal(3, 0.5, ROWS).round(2)),
            "height": (170 + 20 * north + rng.normal(0, 5, ROWS)).round(1),
            "land": ["NO"] * ROWS,
        }
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    people().write_csv(folder / "people.csv")
    em = {"model": {"prior": "unigram", "slots": 1, "codes": 2, "scale": "per-element", "decoder": {"hidden": []}}}
    tiny(str(folder / "people.csv"), folder / "classes", train={"learner": "em", "epochs": 3, "batch_size": 1000}, **em)
    tiny(str(folder / "people.csv"), folder / "mixed", train={"epochs": 1})
    tiny(people().drop("land"), folder / "conditional", train={"epochs": 1}, context=["city", "visits"], id="who")
    return folder


@pytest.fixture(scope="module")
def mixed(place: Path) -> Run:
    return load(place / "mixed")


@pytest.fixture(scope="module")
def classes(place: Path) -> Run:
    return load(place / "classes")


GIVEN = {"city": "oslo", "member": "yes", "since": "2023-05-04", "spend": 12.34, "visits": 3}


@pytest.mark.parametrize("kind", ["mixed", "classes"])
def test_rows_are_in_the_kinds_of_training_with_what_was_given(kind: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(kind)
    found = run.sample_given(GIVEN, 50)
    table = found.table
    assert table.columns == ["since", "city", "member", "visits", "spend", "height"]
    assert set(table.drop("height").rows()) == {("04.05.2023", "Oslo", True, 3, 12.34)}
    assert table["height"].n_unique() > 10
    assert (table["height"] * 10 - (table["height"] * 10).round()).abs().max() < 1e-9  # one decimal, as in training
    assert found.z.shape[0] == 50 and found.mean.shape == found.x.shape == (50, 6)
    assert found.warnings() == []
    again, other = run.sample_given(GIVEN, 50), run.sample_given(GIVEN, 50, seed=1)
    assert torch.equal(found.x, again.x) and not torch.equal(found.x, other.x)


def test_a_latent_class_run_draws_by_enumeration(classes: Run) -> None:
    found = classes.sample_given({"height": 195.0, "city": "Bergen"}, 4000)
    data = classes.dataset()
    columns = list(classes.naming.columns or ())
    at = [columns.index(name) for name in ("height", "city")]
    row = torch.full((1, len(columns)), torch.nan)
    row[0, at] = torch.tensor([195.0, 0.0])
    assert data.kinds is not None and data.kinds[at[1]].levels[0] == "Bergen"
    with torch.no_grad():
        z = all_codes(classes.model.space).unsqueeze(1)
        log_joint = classes.model.log_joint(row, z, mask=~row.isnan()).squeeze(1).double()
        members = classes.model.likelihood(z).level_probabilities[:, 0, columns.index("member"), 1].double()
    exact = float(log_joint.softmax(0) @ members)
    share = float(found.table["member"].mean())
    assert abs(share - exact) < 4 * math.sqrt(exact * (1 - exact) / 4000)
    assert found.log_evidence == pytest.approx(float(log_joint.logsumexp(0)), abs=1e-4)
    assert (found.ess, found.draws, found.stderr) == (None, 0, 0.0)


def test_a_table_of_numbers_has_its_own_units(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=60)
    table = pl.DataFrame({"a": 1e6 + z + 0.1 * rng.normal(size=60), "b": -z, "c": rng.normal(size=60)})
    run = tiny(table, tmp_path / "numbers", train={"epochs": 1})
    found = run.sample_given({"a": 1000001.25}, 30)
    assert set(found.table["a"]) == {1000001.25}
    assert float(found.x[:, 0].min()) == pytest.approx(1000001.25, abs=1e-3)
    with pytest.raises(ElbowroomError, match="'x' was given for column 'a', which holds numbers"):
        run.sample_given({"a": "x"})


def test_bits_and_counts_take_what_they_can_hold(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    bits = pl.DataFrame({"a": rng.integers(0, 2, 60), "smokes": rng.choice(["yes", "no"], 60)})
    run = tiny(bits, tmp_path / "bits", train={"epochs": 1})
    assert set(run.sample_given({"smokes": "yes"}, 20).table["smokes"]) == {1.0}
    with pytest.raises(ElbowroomError, match="whole numbers from 0 to 1"):
        run.sample_given({"a": 2})


def test_a_context_is_given_beside_columns(place: Path) -> None:
    run = load(place / "conditional", data=people().drop("land"), context=["city", "visits"], id="who")
    oslo = {"city": "Oslo", "visits": 2}
    one = run.sample_given({"height": 170}, 40, context=oslo)
    two = run.sample_given({"height": 170}, 40, context={"city": "Bergen", "visits": 2})
    assert one.columns == ("since", "member", "spend", "height")
    assert one.log_evidence != two.log_evidence
    for given, context, words in (
        ({"height": 170}, None, "nothing of city.*for instance context="),
        ({"height": 170}, {"city": ["Oslo"] * 20 + ["Bergen"] * 20, "visits": 2}, "several contexts"),
        ({"city": "Oslo"}, oslo, "'city' was given, but it is no part of x"),
    ):
        with pytest.raises(ElbowroomError, match=f"(?s){words}"):
            run.sample_given(given, 40, context=context)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"citi": "Oslo"}, "'citi' was given, but.*Did you mean 'city'"),
        ({"city": "Olso"}, "it has Bergen, Oslo, Tromsø.*Did you mean 'Oslo'"),
        ({"who": "p001"}, "'who' was given, but it was set aside as identifier"),
        ({"land": "NO"}, "'land' was given, but it was set aside as constant"),
        ({"visits": -1}, "counts are whole numbers"),
        ({}, "No column was given"),
        ({3: 1}, "Column '3' was given, but the run was not trained"),
        ("city=Oslo", "a str was given.*Give a dictionary"),
        ({**GIVEN, "height": 170}, "All columns were given"),
    ],
)
def test_what_cannot_be_given(mixed: Run, given: Any, words: str) -> None:
    with pytest.raises(ElbowroomError, match=f"(?s){words}"):
        mixed.sample_given(given)


@pytest.mark.parametrize("wrong", [{"num_samples": True}, {"num_samples": 2.0}, {"draws": 100.5}])
def test_numbers_of_rows_and_draws_are_whole(mixed: Run, wrong: dict[str, Any]) -> None:
    with pytest.raises(ElbowroomError, match=f"{next(iter(wrong))} is a whole number, but a (bool|float) was given"):
        mixed.sample_given({mixed.naming.columns[0]: 1.0}, **wrong)  # type: ignore[index]


def test_a_mark_of_missing_values_is_no_value(tmp_path: Path) -> None:
    table = pl.DataFrame(
        {"a": [-999.0, *np.linspace(0, 1, 59)], "b": np.linspace(2, 3, 60), "c": np.linspace(0, 2, 60) ** 2}
    )
    run = tiny(table, tmp_path / "marks", train={"epochs": 1}, data={"missing": "mask", "missing_values": ["-999"]})
    with pytest.raises(ElbowroomError, match=r"-999\.0 was given for column 'a', but .* marks a missing value"):
        run.sample_given({"a": -999, "b": 2.5})


def test_pictures_have_no_columns(tmp_path: Path) -> None:
    run = tiny(torch.rand(40, 2, 2), tmp_path / "pictures", train={"epochs": 1})
    with pytest.raises(ElbowroomError, match="not trained on a table with named columns"):
        run.sample_given({"a": 1})


def test_an_impossible_value_is_named(mixed: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [part.family for part in mixed.model.likelihood.elementwise.parts()]  # type: ignore[operator]
    family = next(family for family in parts if type(family).__name__ == "BinaryColumns")
    real = family.log_prob
    monkeypatch.setattr(family, "log_prob", lambda rows, x: torch.where(x > 0, -torch.inf, real(rows, x)))
    with pytest.raises(ElbowroomError, match="The model holds member = True impossible"):
        mixed.sample_given({"city": "Oslo", "member": True})
    assert set(mixed.sample_given({"city": "Oslo", "member": False}).table["member"]) == {False}


# --- what is said ------------------------------------------------------------------------------------------------


def test_few_effective_draws_are_a_warning(mixed: Run) -> None:
    (warning,) = mixed.sample_given({"city": "Oslo"}, 60, draws=60).warnings()
    assert "weighted draws of z are effective" in warning and "draws" in warning
    part = {"z": torch.zeros(5, 1), "x": torch.zeros(5, 1), "mean": torch.zeros(5, 1), "given": {}, "columns": ("a",),
            "kinds": None, "draws": 5000, "log_evidence": 0.0, "stderr": 0.1}  # fmt: skip
    assert GivenSample(**part, ess=2000.0, pareto_k=0.5).warnings() == []
    assert "heavy tail (Pareto k̂ 1.30)" in GivenSample(**part, ess=2000.0, pareto_k=1.3).warnings()[0]
    assert "only 40 of 5,000" in GivenSample(**part, ess=40.0, pareto_k=0.5).warnings()[0]


def test_digits_of_log_p_reach_its_error() -> None:
    found = GivenSample(
        z=torch.zeros(2, 1), x=torch.zeros(2, 1), mean=torch.zeros(2, 1), given={"a": 1.0}, columns=("a", "b"),
        kinds=None, ess=2000.0, draws=5000, pareto_k=0.5, log_evidence=-12345.678, stderr=0.016,
    )  # fmt: skip
    assert _lines(found)[1] == "log p(a = 1) = -12,345.678 ± 0.016 nats"


def test_a_value_beyond_the_cells_of_training_is_a_warning(tmp_path: Path) -> None:
    table = people().with_columns(age=pl.Series(np.random.default_rng(1).integers(20, 40, ROWS)))
    run = tiny(table, tmp_path / "ages", train={"epochs": 1}, data={"columns": ["age:real"]})
    assert run.sample_given({"age": 30}, 5).warnings() == []
    (warning,) = run.sample_given({"age": 90}, 5).warnings()
    assert warning.startswith("age = 90 lies beyond the training values, 20 to 39, and counts as 39")


def test_names_may_hold_what_separates_them() -> None:
    columns = ["a=b", "b, c", "price"]
    assert parse_given(["a=b=1,b, c = x,price=1,5"], columns) == {"a=b": "1", "b, c": "x", "price": "1,5"}
    assert parse_given(["prise=2", "price="], columns) == {"prise": "2", "price": ""}
    for pairs, words in ((["price"], "not of the form"), (["x,price=1"], "not of the form"), (["price=1"] * 2, "once")):
        with pytest.raises(ElbowroomError, match=words):
            parse_given(pairs, columns)


def test_the_command_writes_a_table(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(place / "mixed")
    main(["sample", run, "--given", "city=oslo,visits=3", "--given", "member=no", "--num", "12", "--arrays",
          str(place / "drawn.npz")])  # fmt: skip
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("drew 12 rows given city = Oslo, visits = 3, member = false: z chosen from ")
    assert said[1].startswith("log p(city = Oslo, visits = 3, member = false) = -")
    assert said[-1] == f"wrote {place / 'mixed' / 'samples-given.csv'}"
    with (place / "mixed" / "samples-given.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert {(row["city"], row["visits"], row["member"]) for row in rows} == {("Oslo", "3", "false")}
    assert np.load(place / "drawn.npz")["x"].shape == (12, 6)
    main(["score", run, str(place / "mixed" / "samples-given.csv"), "--k", "5", "--out", str(place / "scores.csv")])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--given", "city=Oslo", "--temperature", "0.5"], "--given was given together with a caption or a rule"),
        (["--draws", "100"], "--draws was given without --given"),
        (["--given", "city=Oslo", "--draws", "3"], "--draws is 3, but 25 samples"),
    ],
)
def test_flags_that_do_not_go_together(
    place: Path, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["sample", str(place / "mixed"), *flags])
    assert words in capsys.readouterr().err


def test_a_conditional_run_is_told_which_flags_to_add(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sample", str(place / "conditional"), "--given", "height=170"])
    assert "Add --context city=Bergen --context visits=0." in capsys.readouterr().err
    assert json.loads((place / "conditional" / "config.json").read_text())
