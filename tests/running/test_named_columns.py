"""Tables that a run is given later: matched by name, in Python; the remedies of messages are followed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elbowroom.errors import ElbowroomError
from elbowroom.running.impute import impute
from elbowroom.running.runs import Run, load
from elbowroom.running.train import train
from small_runs import everything, reals, tiny

pl = pytest.importorskip("polars")

FEW = {"steps": 2, "batch_size": 10}
COLUMNS = ["age", "income", "size"]
FAST = {"draws": 4, "chains": 1, "warmup": 2}


def people(rows: int = 53) -> Any:
    frame = pl.DataFrame(reals(rows, 3).double().numpy(), schema=COLUMNS)
    kinds = pl.Series("kind", [("ox", "hen", "pig")[row % 3] for row in range(rows)])
    return frame.with_columns(kinds, pl.Series("who", [f"{row:03}" for row in range(rows)]))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on a file with labels and identifiers."""
    folder = tmp_path_factory.mktemp("people")
    people().write_csv(folder / "people.csv")
    return tiny(folder / "people.csv", folder / "run", data={"labels": "kind", "id": "who"}, train=FEW)


@pytest.fixture
def said(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the run remarks."""
    remarks: list[str] = []
    monkeypatch.setattr(run, "_announce", remarks.append)
    return remarks


COMMANDS: dict[str, Callable[[Run, Any], Any]] = {
    "score": lambda run, x: run.score(x, k=5).log_evidence,
    "encode": lambda run, x: run.encode(x).mean,
    "evaluate": lambda run, x: torch.tensor(run.evaluate("elbo", data=x)[0].value),
    "posterior": lambda run, x: run.posterior(x, **FAST).z,
    "impute": lambda run, x: impute(run, x, hide=0.5, interval=0.5, num_samples=2, **FAST).completed,
    "read": lambda run, x: run.read(x).take("train", torch.arange(4)).x,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_order_of_columns_is_that_of_training(run: Run, command: str, tmp_path: Path) -> None:
    frame = people(4)
    expected = COMMANDS[command](run, frame[COLUMNS].to_numpy())
    for columns in (COLUMNS, ["size", "who", "age", "kind", "income"]):
        assert torch.equal(COMMANDS[command](run, frame[columns]), expected)
    frame[["kind", "size", "income", "age"]].write_csv(tmp_path / "x.csv")
    assert torch.equal(COMMANDS[command](run, tmp_path / "x.csv"), expected)


def test_a_data_frame_of_pandas_is_matched_too(run: Run) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(people(4)[COLUMNS].to_dict(as_series=False))
    expected = run.score(frame.to_numpy(), k=5).log_evidence
    assert torch.equal(run.score(frame[COLUMNS[::-1]], k=5).log_evidence, expected)
    unnamed = pandas.DataFrame(frame.to_numpy())
    assert torch.equal(run.score(unnamed, k=5).log_evidence, expected)
    with pytest.raises(ElbowroomError, match="more than one column named 'age'"):
        run.score(frame[["age", "age", "size", "income"]])


def test_columns_without_names_are_taken_by_position(run: Run, tmp_path: Path) -> None:
    x = people(4)[COLUMNS]
    x.write_csv(tmp_path / "x.csv", include_header=False)
    assert torch.equal(run.score(tmp_path / "x.csv", k=5).log_evidence, run.score(x, k=5).log_evidence)
    assert run.read(tmp_path / "x.csv").columns == tuple(COLUMNS)
    with pytest.raises(
        ElbowroomError, match=r"shape \(2,\), but the model was trained on shape \(3,\) \(age, income, size\)"
    ):
        run.score(x.to_numpy()[:, :2])


def test_a_run_on_an_array_takes_columns_by_position(tmp_path: Path) -> None:
    run = tiny(people()[COLUMNS].to_numpy(), tmp_path / "run", train=FEW)
    x = people(4)[COLUMNS]
    assert torch.equal(run.score(x, k=5).log_evidence, run.score(x.to_numpy(), k=5).log_evidence)
    assert run.naming.columns is None


def test_missing_and_unknown_columns_are_named_and_the_remedies_work(run: Run) -> None:
    x, expected = people(4), run.score(people(4)[COLUMNS], k=5).log_evidence
    renamed = x.rename({"income": "Income"})
    with pytest.raises(ElbowroomError, match="no column 'income', which the model was trained on, but") as caught:
        run.score(renamed)
    assert caught.value.remedy == "If 'Income' is 'income', rename it."
    assert torch.equal(run.score(renamed.rename({"Income": "income"}), k=5).log_evidence, expected)
    with pytest.raises(ElbowroomError, match="has the column 'noise' besides those that the model") as caught:
        run.score(x.with_columns(noise=1.0))
    assert caught.value.remedy.startswith("Take it out")
    with pytest.raises(ElbowroomError, match="has no columns 'age', 'size', which") as caught:
        run.score(x.drop("age", "size"))
    assert caught.value.remedy.endswith("age, income, size.")


def test_text_in_a_column_of_numbers_has_a_remedy_of_its_own(run: Run) -> None:
    with pytest.raises(ElbowroomError, match="Column 'size' of the data frame holds values such as 'large'") as caught:
        run.score(people(4).with_columns(size=pl.lit("large")))
    assert caught.value.remedy == "Give numbers there, as in training."


def test_identifiers_and_classes_go_with_the_rows(run: Run, said: list[str]) -> None:
    found = run.encode(split="validation")
    rows = run.dataset().splits["validation"].tolist()
    assert found.rows == {"row": rows, "who": [f"{row:03}" for row in rows]}
    assert found.classes == ("hen", "ox", "pig")
    assert found.class_names == [("ox", "hen", "pig")[row % 3] for row in rows]
    mean, stddev, labels = found  # as before there were names
    assert (len(mean), len(stddev), labels) == (8, 8, found.labels)
    assert run.encode(people(4)[2:]).rows == {"row": [0, 1], "who": ["002", "003"]}
    filled = impute(run, split="validation", num=3, hide=0.5, interval=0.5, num_samples=2, **FAST)
    assert set(filled.rows.tolist()) <= set(rows)
    assert filled.ids == {"who": [f"{row:03}" for row in filled.rows.tolist()]}
    assert said == []
    assert run.encode(people(4).drop("who")).rows == {"row": [0, 1, 2, 3]}
    assert said == ["the data frame has no column 'who': its rows are only numbered"]


def test_what_is_beside_x_is_left_out_aloud(run: Run, said: list[str], tmp_path: Path) -> None:
    conditional = tiny(
        people()[[*COLUMNS, "kind"]], tmp_path / "run", context=["kind"], train=FEW, announce=said.append
    )
    x = people(3)[[*COLUMNS, "kind"]]
    assert torch.equal(
        conditional.score(x, context="pig", k=5).log_evidence,
        conditional.score(x[COLUMNS], context="pig", k=5).log_evidence,
    )
    assert said == ["the data frame: kind left out, which the model's x has no part in"]


def test_text_beside_an_array_is_found_in_a_table(tmp_path: Path) -> None:
    frame = people()[[*COLUMNS, "kind"]]
    run = tiny(frame[COLUMNS], tmp_path / "run", context=frame[["kind"]], train=FEW)
    assert torch.equal(
        run.score(frame[:4], k=5).log_evidence,
        run.score(frame[COLUMNS][:4], context=frame[:4]["kind"], k=5).log_evidence,
    )


def test_a_context_column_that_is_missing_or_renamed_is_named(tmp_path: Path) -> None:
    frame = people()[[*COLUMNS, "kind"]]
    run = tiny(frame, tmp_path / "run", context=["kind"], train=FEW)
    with pytest.raises(ElbowroomError, match="no column 'kind', which the model was trained with") as caught:
        run.score(frame.rename({"kind": "knid"}))
    assert caught.value.remedy == "If 'knid' is 'kind', rename it."
    with pytest.raises(ElbowroomError, match="no column 'kind'") as caught:
        run.score(frame[COLUMNS])
    assert "context=" in caught.value.remedy
    assert run.score(frame[COLUMNS][:2], context=["ox", "ox"], k=5).log_evidence.shape == (2,)
    with pytest.raises(ElbowroomError, match="'kind' of the data frame holds the class 'cow'"):
        run.score(frame.with_columns(kind=pl.lit("cow")))
    numbered = people().with_columns(kind=pl.Series([row % 3 for row in range(53)]))[[*COLUMNS, "kind"]]
    assert torch.equal(
        run.score(numbered[:4], k=5).log_evidence, run.score(frame[COLUMNS][:4], context=[0, 1, 2, 0], k=5).log_evidence
    )


def test_numbers_where_training_had_text_are_classes_by_their_names(tmp_path: Path) -> None:
    """A text column of 1, 2 and x comes as whole numbers from a table that lacks x."""
    frame = people()[COLUMNS].with_columns(code=pl.Series([("1", "2", "x")[row % 3] for row in range(53)]))
    run = tiny(frame, tmp_path / "run", context=["code"], train=FEW)
    part = frame[:2].with_columns(pl.col("code").cast(pl.Int64))
    assert run.read(part).context.tolist() == [[1, 0, 0], [0, 1, 0]]  # type: ignore[union-attr]
    run = tiny(frame[COLUMNS], tmp_path / "other", context=["age"], train=FEW)
    with pytest.raises(ElbowroomError, match="'age' of the data frame holds text, such as 'a', but held numbers"):
        run.read(frame[COLUMNS].with_columns(age=pl.lit("a")))


def test_the_own_data_are_known_in_any_order(run: Run, tmp_path: Path) -> None:
    expected = run.score(k=5).log_evidence
    shuffled = people()[["who", "size", "kind", "income", "age"]]
    assert torch.equal(load(run.folder.path, data=shuffled).score(k=5).log_evidence, expected)
    path = Path(run.config.data.name)
    text = path.read_text()
    try:
        shuffled.write_csv(path)
        assert torch.equal(load(run.folder.path).score(k=5).log_evidence, expected)
    finally:
        path.write_text(text)


def test_a_run_goes_on_with_columns_in_another_order(tmp_path: Path) -> None:
    frame = people()[[*COLUMNS, "kind"]]
    settings: dict[str, Any] = {"data": {"validation": 8, "test": 8}, "model": {"latent_dim": 2}, "observers": []}
    quiet = {"announce": lambda _: None}
    whole = train(frame, out=tmp_path / "whole", context=["kind"], train={"steps": 4}, **settings, **quiet)
    train(frame, out=tmp_path / "parts", context=["kind"], train={"steps": 2}, **settings, **quiet)
    shuffled = frame[["kind", "size", "age", "income"]]
    parts = train(shuffled, out=tmp_path / "parts", resume=True, train={"steps": 4}, observers=[], **quiet)
    assert torch.equal(parts.sample(context="ox").mean, whole.sample(context="ox").mean)
    kept = json.loads((tmp_path / "parts" / "config.json").read_text())["data"]
    assert (kept["columns"], kept["context_columns"]) == (COLUMNS, ["kind"])


def test_keywords_that_name_columns_are_kept(tmp_path: Path) -> None:
    run = tiny(people(), tmp_path / "run", labels="kind", id="who", train=FEW)
    assert (run.config.data.labels, run.config.data.id) == ("kind", "who")
    assert run.naming.columns == tuple(COLUMNS)
    found = load(run.folder.path).encode(people(3))
    assert (found.class_names, found.rows["who"]) == (["ox", "hen", "pig"], ["000", "001", "002"])


def test_numbered_labels_keep_their_numbers(tmp_path: Path) -> None:
    frame = people()[COLUMNS].with_columns(digit=pl.Series([(3, 5, 7)[row % 3] for row in range(53)]))
    run = tiny(frame, tmp_path / "run", labels="digit", context="labels", train=FEW)
    assert run.classes == ("3", "5", "7")
    assert torch.equal(run.sample(2, labels=7).mean, run.sample(2, context=np.eye(3)[[2, 2]]).mean)
    assert torch.equal(run.sample(2, context={"digit": 7}).mean, run.sample(2, labels="7").mean)
    assert run.encode(frame[:3]).class_names == ["3", "5", "7"]


# --- columns of the context --------------------------------------------------------------------------------------


ORDERS = [["kind", "size"], ["size", "kind"]]


@pytest.mark.parametrize("given", ["keyword", "setting", "recipe", "frame"])
def test_a_run_goes_on_with_the_columns_of_its_context_in_any_order(given: str, tmp_path: Path) -> None:
    """They are called by name, so that their order says nothing."""
    people().drop("who").write_csv(tmp_path / "people.csv")
    source = people().drop("who") if given == "frame" else tmp_path / "people.csv"
    few = FEW | {"report_every": 2}
    longer = few | {"steps": 4}
    settings: list[dict[str, Any]] = []
    for order in ORDERS:
        (tmp_path / f"{order[0]}.toml").write_text(f"[data]\ncontext = {json.dumps(order)}\n")
        settings.append(
            {
                "keyword": {"context": order},
                "frame": {"context": order},
                "setting": {"data": {"context": order}},
                "recipe": {"config": tmp_path / f"{order[0]}.toml"},
            }[given]
        )
    one, other = settings
    straight = tiny(source, tmp_path / "straight", train=longer, **one)
    tiny(source, tmp_path / "run", train=few, **one)
    run = tiny(source, tmp_path / "run", train=longer, resume=True, **other)
    assert everything(tmp_path / "run") == everything(straight.folder.path)
    assert run.config.data.context == straight.config.data.context == ("kind", "size")
    with pytest.raises(ElbowroomError):
        tiny(source, tmp_path / "run", train=longer, resume=True, **{**one, **_without_size(given, tmp_path)})


def _without_size(given: str, where: Path) -> dict[str, Any]:
    (where / "less.toml").write_text('[data]\ncontext = ["kind"]\n')
    return {"recipe": {"config": where / "less.toml"}, "setting": {"data": {"context": ["kind"]}}}.get(
        given, {"context": ["kind"]}
    )


def test_other_data_are_read_with_the_columns_of_the_context_in_any_order(tmp_path: Path) -> None:
    """In the other order, one-hot numbers would change places with the numbers of another column, without a word."""
    run = tiny(people().drop("who"), tmp_path / "run", train=FEW, context=ORDERS[0])
    x = people(6).drop("who")
    read = [run.read(x, context=order).context for order in (None, *ORDERS)]
    assert read[0] is not None and read[1] is not None and read[2] is not None
    assert torch.equal(read[0], read[1]) and torch.equal(read[0], read[2])
