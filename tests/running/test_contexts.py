"""A run is told its context by name, in every command, and the old ways mean what they meant."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elbowroom.data.naming import Covariate, Naming
from elbowroom.errors import ElbowroomError
from elbowroom.running.contexts import parsed, run_context
from elbowroom.running.impute import impute
from elbowroom.running.runs import Run, load
from small_runs import reals, tiny

pl = pytest.importorskip("polars")

FEW = {"steps": 2, "batch_size": 10}
KINDS = ["hen", "ox", "pig"]
FAST = {"draws": 4, "chains": 1, "warmup": 2}


def farm(rows: int = 53) -> Any:
    x = reals(rows, 2).double().numpy()
    kinds = [KINDS[row % 3] for row in range(rows)]
    return pl.DataFrame({"a": x[:, 0], "kind": kinds, "b": x[:, 1], "weight": np.arange(rows) / rows})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Runs that are conditional on a column of text, on two columns, on names, on numbers, on nothing."""
    folder = tmp_path_factory.mktemp("runs")
    names = np.array(["three", "five", "seven"])[np.arange(53) % 3]
    return {
        "kind": tiny(farm()[["a", "b", "kind"]], folder / "kind", data={"context": ["kind"]}, train=FEW),
        "two": tiny(farm(), folder / "two", context=["kind", "weight"], train=FEW),
        "values": tiny(farm()[["a", "b"]], folder / "values", context=farm()["kind"].to_numpy(), train=FEW),
        "names": tiny(reals(), folder / "names", labels=names, data={"context": "labels"}, train=FEW),
        "numbers": tiny(reals(), folder / "numbers", labels=np.arange(53) % 3 + 5, context="labels", train=FEW),
        "covariate": tiny(reals(), folder / "covariate", context=torch.linspace(0, 1, 53), train=FEW),
        "bare": tiny(reals(), folder / "bare", train=FEW),
    }


@pytest.mark.parametrize(
    "form",
    [
        ["ox", "ox", "pig"],
        np.eye(3)[[1, 1, 2]],
        torch.eye(3)[[1, 1, 2]],
        [1, 1, 2],
        {"kind": ["ox", "ox", "pig"]},
        pl.DataFrame({"kind": ["ox", "ox", "pig"]}),
    ],
    ids=["text", "one-hot", "tensor", "numbers", "dict", "frame"],
)
def test_samples_by_name(runs: dict[str, Run], form: Any) -> None:
    run = runs["kind"]
    expected = run.sample(3, context=torch.eye(3)[[1, 1, 2]]).mean
    assert torch.equal(run.sample(3, context=form).mean, expected)
    assert torch.equal(run.sample(context=form).mean, expected)  # as many as the context has rows
    assert not torch.equal(run.sample(3, context=["pig", "ox", "ox"]).mean, expected)


def test_one_class_for_all_samples(runs: dict[str, Run]) -> None:
    run = runs["names"]
    seven = run.sample(8, labels="seven").mean
    assert torch.equal(seven, run.sample(8, labels=["seven"] * 8).mean)
    assert torch.equal(seven, run.sample(8, labels=1).mean)  # five, seven, three
    assert torch.equal(seven, run.sample(8, context="seven").mean)
    assert torch.equal(seven, run.sample(8, context={"labels": "seven"}).mean)
    assert len(run.sample(labels="seven").x) == 25
    assert torch.equal(run.sample(9).mean, run.sample(9, context=run.class_contexts(9)).mean)


def test_a_number_is_what_the_run_was_trained_with(runs: dict[str, Run]) -> None:
    """A class by its printed number, or a real covariate."""
    numbers, covariate = runs["numbers"], runs["covariate"]
    assert numbers.naming.covariates[0].levels == ("0", "1", "2", "3", "4", "5", "6", "7")
    assert torch.equal(numbers.sample(2, labels=7).mean, numbers.sample(2, context=torch.eye(8)[[7, 7]]).mean)
    assert torch.equal(covariate.sample(2, context=0.5).mean, covariate.sample(2, context=torch.full((2, 1), 0.5)).mean)
    with pytest.raises(ElbowroomError, match="the class '8', but the classes in training were 0, 1"):
        numbers.sample(2, labels=8)


def test_columns_of_a_context_are_matched_by_name(runs: dict[str, Run]) -> None:
    run, frame = runs["two"], farm(4)
    expected = run.sample(4, context=frame[["kind", "weight"]]).mean
    assert torch.equal(run.sample(4, context=frame[["weight", "kind"]]).mean, expected)
    assert torch.equal(run.sample(4, context=frame[["weight", "kind"]].to_dict(as_series=False)).mean, expected)
    pandas = pytest.importorskip("pandas")
    assert torch.equal(run.sample(4, context=pandas.DataFrame(frame[["weight", "kind"]].to_dict())).mean, expected)


COMMANDS: dict[str, Callable[..., Any]] = {
    "score": lambda run, x, **given: run.score(x, method="iwae", k=5, **given).log_evidence,
    "encode": lambda run, x, **given: run.encode(x, **given).mean,
    "evaluate": lambda run, x, **given: torch.tensor(run.evaluate("elbo", data=x, **given)[0].value),
    "posterior": lambda run, x, **given: run.posterior(x, **FAST, **given).z,
    "impute": lambda run, x, **given: impute(run, x, hide=0.5, interval=0.5, num_samples=2, **FAST, **given).completed,
    "reconstruct": lambda run, x, **given: run.reconstruct(3, data=x, **given).mean,
    "decode": lambda run, x, **given: run.decode(torch.ones(3, 2), **given),
}


QUICK = ("score", "encode", "decode")  # the others read their data as these do


@pytest.mark.parametrize(
    "command", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS]
)
def test_every_command_takes_a_context_by_name(runs: dict[str, Run], command: str) -> None:
    do, x = COMMANDS[command], farm(3)[["a", "b"]].to_numpy()
    one_hot = do(runs["kind"], x, context=torch.eye(3)[[1, 1, 2]])
    for form in (["ox", "ox", "pig"], {"kind": ["ox", "ox", "pig"]}, [1, 1, 2]):
        assert torch.equal(do(runs["kind"], x, context=form), one_hot)
    assert not torch.equal(do(runs["kind"], x, context="ox"), one_hot)
    x = reals(3)
    one_hot = do(runs["names"], x, labels=["seven", "five", "five"])
    assert torch.equal(do(runs["names"], x, labels=[1, 0, 0]), one_hot)
    assert torch.equal(do(runs["names"], x, context=torch.eye(3)[[1, 0, 0]]), one_hot)
    assert torch.equal(do(runs["names"], x, labels="five"), do(runs["names"], x, labels=["five"] * 3))


def test_a_context_goes_with_data_that_were_read_before(runs: dict[str, Run]) -> None:
    run = runs["kind"]
    read = run.read(farm(3)[["a", "b", "kind"]])
    other = run.score(read, k=5, context="pig").log_evidence
    assert torch.equal(other, run.score(farm(3)[["a", "b"]], k=5, context="pig").log_evidence)
    assert not torch.equal(other, run.score(read, k=5).log_evidence)


def test_an_array_beside_the_rows_of_a_file_is_read_as_the_run_knows_it(runs: dict[str, Run], tmp_path: Path) -> None:
    run, x = runs["kind"], farm(3)[["a", "b"]].to_numpy()
    expected = run.score(x, context=["ox", "ox", "pig"], k=5).log_evidence
    for given in (np.eye(3)[[1, 1, 2]], np.array([1, 1, 2])):
        np.savez(tmp_path / "x.npz", x=x, context=given)
        assert torch.equal(run.score(tmp_path / "x.npz", k=5).log_evidence, expected)
    np.savez(tmp_path / "x.npz", x=x, context=np.zeros((3, 4)))
    with pytest.raises(
        ElbowroomError, match=r"has shape \(3, 4\), but the model was trained with kind \(hen, ox, pig\)"
    ):
        run.score(tmp_path / "x.npz")


def test_text_beside_a_table_is_known_by_the_run(runs: dict[str, Run]) -> None:
    run, x = runs["values"], farm(3)[["a", "b"]]
    assert run.naming.covariates == (Covariate("context", ("hen", "ox", "pig")),)
    assert run.sample(2, context="ox").x.shape == (2, 2)
    again = load(run.folder.path, data=farm()[["b", "a"]], context=farm()["kind"])
    assert torch.equal(again.score(x, k=5, context="ox").log_evidence, run.score(x, k=5, context="ox").log_evidence)
    assert torch.equal(again.score(k=5).log_evidence, run.score(k=5).log_evidence)


def test_columns_named_as_keywords_are_settings(runs: dict[str, Run]) -> None:
    assert runs["two"].config.data.context == ("kind", "weight")
    assert runs["numbers"].config.data.context == "labels"
    frame = farm(3)
    assert torch.equal(
        runs["two"].score(frame, k=5).log_evidence,
        runs["two"].score(frame[["weight", "b", "kind", "a"]], k=5).log_evidence,
    )


REFUSED = {
    "nothing given": ("two", {}, "conditional on kind (hen, ox, pig) and weight, but none were given", "by name"),
    "nothing given to values": ("covariate", {}, "one covariate, but none were given", "an array of shape (n, 1)"),
    "not conditional": ("bare", {"context": "ox"}, "A context was given, but the model is not", "Leave it out"),
    "labels, not conditional": ("bare", {"labels": "ox"}, "Labels were given, but the model is not", "Leave it out"),
    "labels of columns": ("kind", {"labels": "ox"}, "conditional on kind (hen, ox, pig)", "context={'kind': 'hen'}"),
    "both": ("names", {"labels": "five", "context": "five"}, "Both context and labels", "one of them"),
    "misspelt": ("names", {"labels": "sevn"}, "labels holds the class 'sevn'", "Did you mean 'seven'?"),
    "too many": ("names", {"labels": ["five"] * 3}, "has 3 rows, but 2 are needed", "Give it 2"),
    "not finite": ("covariate", {"context": [0.5, np.nan]}, "not finite in 1 row, the first being row 1", "Fill in"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_context_that_does_not_fit_is_refused(runs: dict[str, Run], case: str) -> None:
    name, given, problem, remedy = REFUSED[case]
    with pytest.raises(ElbowroomError) as caught:
        runs[name].sample(2, **given)
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(("name", "given"), [("two", {}), ("kind", {"labels": "ox"})])
def test_the_context_that_a_remedy_names_is_taken(runs: dict[str, Run], name: str, given: dict[str, Any]) -> None:
    with pytest.raises(ElbowroomError) as caught:
        runs[name].sample(2, **given)
    example = ast.literal_eval(caught.value.remedy.split("context=")[1].removesuffix("."))
    assert runs[name].sample(2, context=example).x.shape == (2, 2)


def test_a_context_without_data_is_refused(runs: dict[str, Run]) -> None:
    with pytest.raises(ElbowroomError, match="A context was given without data"):
        runs["kind"].score(context="ox")


def test_the_run_keeps_names(runs: dict[str, Run]) -> None:
    kept = json.loads((runs["two"].folder.path / "config.json").read_text())["data"]
    assert kept["columns"] == ["a", "b"]
    assert kept["context_columns"] == ["kind", "weight"]
    assert kept["levels"] == {"kind": ["hen", "ox", "pig"]}
    assert runs["names"].classes == ("five", "seven", "three")
    assert runs["bare"].naming == Naming()


def test_a_run_of_an_earlier_version_knows_its_context_by_its_configuration(runs: dict[str, Run]) -> None:
    for name in ("kind", "two", "names", "numbers"):
        run = load(runs[name].folder.path)
        for key in ("columns", "context_columns", "classes"):
            run.content["data"].pop(key, None)
        assert run.naming.covariates == runs[name].naming.covariates
        assert run.naming.columns is None
    run.content["data"].pop("levels")
    assert run.naming.covariates == runs["numbers"].naming.covariates


# --- the command line --------------------------------------------------------------------------------------------

FARM = Naming(covariates=(Covariate("kind", ("hen", "ox")), Covariate("weight")))


def test_pairs_of_a_command_line() -> None:
    assert parsed(FARM, ["kind=ox", "weight=true"]) == {"kind": "ox", "weight": 1.0}
    assert parsed(Naming(covariates=FARM.covariates[:1]), ["ox"]) == {"kind": "ox"}
    labels = Naming(covariates=(Covariate("labels", ("ox", "a=b"), also="kind"),))
    assert parsed(labels, ["kind=ox"]) == parsed(labels, ["labels=ox"]) == {"labels": "ox"}
    assert parsed(labels, ["labels=a=b"]) == parsed(labels, None, "a=b") == {"labels": "a=b"}
    assert parsed(FARM, None) is None


@pytest.mark.parametrize(
    ("naming", "pairs", "problem", "remedy"),
    [
        (FARM, ["kind=ox"], "--context lacks weight", "--context weight=0"),
        (FARM, ["ox"], "not of the form NAME=VALUE", "--context kind=hen --context weight=0"),
        (FARM, ["knid=ox"], "names no covariate", "'kind'"),
        (FARM, ["kind=ox", "kind=hen"], "more than once", "once"),
        (FARM, ["kind=ox", "weight=heavy"], "--context weight=heavy should be a number", "--context weight=0"),
        (Naming(), ["kind=ox"], "not conditional", "Leave it out"),
        (Naming(covariates=(Covariate(""),)), ["kind=ox"], "have no names", "run.sample(context=…)"),
    ],
)
def test_pairs_that_make_no_context(naming: Naming, pairs: list[str], problem: str, remedy: str) -> None:
    with pytest.raises(ElbowroomError) as caught:
        parsed(naming, pairs)
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy


def test_a_context_keeps_its_digits(runs: dict[str, Run]) -> None:
    """What rounds it is the run's own precision, at the very end."""
    moment = 1.7e9 + 1
    given = run_context(runs["covariate"].naming, [moment, moment + 1], None, 2)
    assert given is not None
    assert given.flatten().tolist() == [moment, moment + 1]
