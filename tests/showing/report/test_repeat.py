"""How to repeat a run: the commands and the recipe, followed back to the configuration that they came from."""

from __future__ import annotations

import functools
import shlex
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from elbowroom.cli import main
from elbowroom.evaluation.results import Result
from elbowroom.running.config import Config, configure, nested, read_recipe, recipe_names
from elbowroom.running.runs import Run
from elbowroom.running.train import resolve
from elbowroom.showing.report.blocks import Commands, FactSheet, Listing, Prose
from elbowroom.showing.report.records import StoredResult, StoredResults
from elbowroom.showing.report.repeat import evaluation_commands, how_to_repeat, recipe_toml, training_command

PROTOCOL = {"dataset": "mnist", "binarization": "dynamic", "seed": 0, "sha256": "ab" * 32, "sha256_labels": "cd" * 32}
SIZES = {"train": 55_000, "validation": 5000, "test": 10_000}
PLACE = Path("runs/x")

SETTINGS: list[dict[str, Any]] = [
    {},
    {"data": {"name": "mnist"}},
    {"data": {"name": "mnist", "binarization": "dynamic", "validation": 0.25}, "model": {"latent_dim": 2}},
    {"model": {"encoder": {"hidden": [20, 10], "batch_norm": True}, "scale": 0.5}, "optimizer": {"betas": [0.5, 0.9]}},
    {"data": {"name": "faces.csv", "context": ["age", "income"], "seed": 7, "missing": "mask"}},
    {"data": {"name": "my 'own' data.npy"}, "train": {"seconds": 1.5, "learner": "mcem"}, "mcem": {"sampler": "nuts"}},
    {"objective": {"name": "iwae", "num_samples": 5, "estimator": "dreg"}, "optimizer": {"lr": 1e-7, "eps": 1e-12}},
]


class TrainingIsAskedError(Exception):
    """In the place of training."""


@pytest.fixture
def obeyed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Types a command, and returns the configuration and the place that training is asked for."""
    monkeypatch.chdir(tmp_path)
    for name in ("faces.csv", "my 'own' data.npy"):
        (tmp_path / name).touch()
    seen: dict[str, Any] = {}

    def train(source: Any, **given: Any) -> None:
        seen.update(given, source=source)
        raise TrainingIsAskedError

    monkeypatch.setattr("elbowroom.running.train.train", train)

    def obey(line: str) -> tuple[Config, Path]:
        program, *tokens = shlex.split(line)
        assert program == "elbowroom"
        with pytest.raises(TrainingIsAskedError):
            main(tokens)
        keys = {name: given for name, given in seen.items() if name in Config.model_fields}
        request = resolve(seen["source"], nested(keys), config=seen["config"])
        return configure(*request.layers), seen["out"]

    return obey


@pytest.mark.parametrize("settings", SETTINGS, ids=range(len(SETTINGS)))
def test_the_command_trains_with_the_same_settings(settings: dict[str, Any], obeyed: Any) -> None:
    wanted = configure(settings)
    line = training_command(wanted, Path("runs/a b"))
    assert obeyed(line) == (wanted, Path("runs/a b"))


@functools.cache
def _recipes() -> dict[str, Config]:
    return {name: configure(read_recipe(name)) for name in recipe_names()}


@pytest.mark.parametrize("name", recipe_names())
def test_a_packaged_recipe_is_called_by_its_name(name: str) -> None:
    settings = _recipes()[name]
    line = training_command(settings, PLACE)
    same = [other for other, others in _recipes().items() if others == settings]
    assert line in [f"elbowroom train {other} --out runs/x" for other in same]


def test_what_no_flag_can_say_is_left_to_the_recipe() -> None:
    settings = configure({"model": {"encoder": {"hidden": []}}})
    assert training_command(settings, PLACE) == "elbowroom train recipe.toml --out runs/x"


@pytest.mark.parametrize("name", recipe_names())
def test_the_recipe_is_that_of_the_run(name: str) -> None:
    settings = configure(read_recipe(name))
    assert configure(tomllib.loads(recipe_toml(settings))) == settings


@pytest.mark.parametrize("settings", [*SETTINGS, {"data": {"name": 'C:\\a "b"\n</pre>\x7f\x01é'}}])
def test_any_settings_become_a_recipe(settings: dict[str, Any]) -> None:
    wanted = configure(settings)
    assert configure(tomllib.loads(recipe_toml(wanted))) == wanted


# --- measuring ---------------------------------------------------------------------------------------------------


def of(
    name: str, *, method: str = "", points: int = 1000, split: str = "test", step: int = 10, **asked: Any
) -> StoredResult:
    found = {key: asked.pop(key) for key in ("used_temperatures", "used_chains") if key in asked}
    result = Result(name=name, method=method or name, value=-1.0, stderr=0.1, unit="nats", points=points, split=split,
                    bound="lower", asked={"seed": 0, **asked}, found=found, protocol=PROTOCOL)  # fmt: skip
    return StoredResult(result, step)


def commands(*all_: StoredResult) -> list[str]:
    found = evaluation_commands(PLACE, StoredResults(all_, "mnist", "dynamic", 10), SIZES)
    return [line.removeprefix("elbowroom evaluate runs/x --methods ") for line in found]


AUTOMATIC = {"start": "laplace", "climbs": 1, "temperatures": None, "chains": None, "schedule": "linear",
             "tolerance": 0.1, "used_temperatures": 8, "used_chains": 32}  # fmt: skip
GIVEN = {"start": "prior", "climbs": 1, "temperatures": 1000, "schedule": "adapted", "used_temperatures": 1000}


@pytest.mark.parametrize(
    ("results", "lines"),
    [
        ([of("elbo", points=10_000), of("kl", method="elbo", points=10_000), of("iwae", k=5000),
          of("elbow room", method="iwae", k=5000),
          of("active units", method="active-units", points=10_000)], ["elbo,iwae,active-units"]),
        ([of("elbo", points=10_000, num_samples=1)], ["elbo"]),
        ([of("elbo", points=10_000, num_samples=64)], ["elbo --num-samples 64"]),
        ([of("elbo", points=500)], ["elbo --points 500"]),
        ([of("iwae", k=100), of("iwae", k=200)], ["iwae --k 100", "iwae --k 200"]),
        ([of("iwae", k=100), of("laplace-is", k=100, starts=2)], ["iwae --k 100", "laplace-is --starts 2"]),
        ([of("iwae", k=7, points=9), of("laplace-is", k=7, points=9, starts=2)],
         ["iwae,laplace-is --points 9 --k 7 --starts 2"]),
        ([of("ais", **AUTOMATIC), of("bdmc gap", method="bdmc", split="simulated", **AUTOMATIC)], ["ais,bdmc"]),
        ([of("ais", points=10_000, **AUTOMATIC | {"tolerance": 0.02}),
          of("bdmc gap", method="bdmc", split="simulated", **AUTOMATIC | {"tolerance": 0.02})],
         ["ais,bdmc --points 10000 --tolerance 0.02"]),
        ([of("ais", **GIVEN, chains=None, used_chains=32)], ["ais --start prior --temperatures 1000"]),
        ([of("ais", **GIVEN, chains=16, used_chains=16)], ["ais --start prior --temperatures 1000 --chains 16"]),
        ([of("bdmc gap", method="bdmc", split="simulated", points=200, **AUTOMATIC)], ["bdmc --simulated 200"]),
        ([of("elbo", points=200, method="room"), of("elbow room", points=200, method="room", k=500, starts=4),
          of("elbow room", points=200, split="train", method="room", k=500)], ["room"]),
        ([of("elbo", points=200, method="room"), of("elbow room", points=200, method="room", k=50, starts=4)],
         ["room --k 50"]),
        ([of("elbow room", points=200, split="train", method="room", k=500)], ["room --split train"]),
        ([of("iwae", split="validation", k=5000, seed=3)], ["iwae --split validation --seed 3"]),
        ([of("iwae", k=5000, step=3)], []),
    ],
)  # fmt: skip
def test_the_commands_that_measured(results: list[StoredResult], lines: list[str]) -> None:
    assert commands(*results) == lines


def test_other_data_are_named() -> None:
    found = StoredResults((of("iwae", split="all", k=5000),), "x", "none", 10)
    assert evaluation_commands(PLACE, found, SIZES) == ["elbowroom evaluate runs/x mnist --methods iwae"]


# --- the section -------------------------------------------------------------------------------------------------


def run(**about: Any) -> Run:
    content = {"elbowroom": "0.1.0", "torch": "2.13.0", "data": PROTOCOL | about}
    config = configure(read_recipe("mnist"))
    stub = SimpleNamespace(folder=SimpleNamespace(path=PLACE), content=content, config=config, is_beside_best=False)
    return cast(Run, stub)


def test_the_section_holds_commands_recipe_and_digests() -> None:
    found = StoredResults((of("iwae", k=5000),), "mnist", "dynamic", 10)
    lines, recipe, facts = how_to_repeat(run(), found, SIZES, diagnosed=True)
    assert lines == Commands((
        "elbowroom train mnist --out runs/x", "elbowroom evaluate runs/x --methods iwae", "elbowroom doctor runs/x",
        "elbowroom report runs/x",
    ))  # fmt: skip
    assert isinstance(recipe, Listing) and 'binarization = "dynamic"' in recipe.text
    assert isinstance(facts, FactSheet)
    rows = dict(facts.groups[0].rows)
    assert rows["SHA-256 of the data"] == "ab" * 32 and rows["SHA-256 of the labels"] == "cd" * 32


def test_data_from_python_are_named_by_no_command() -> None:
    said, lines, *_ = how_to_repeat(
        run(from_python=True), StoredResults((), "mnist", "none", 1), SIZES, diagnosed=False
    )
    assert isinstance(said, Prose) and 'er.train(data, config="recipe.toml", out="runs/x")' in said.text
    assert lines == Commands(("elbowroom report runs/x",))
