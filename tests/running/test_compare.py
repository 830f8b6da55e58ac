"""Comparisons: one budget, one yardstick, nothing lost by a stop, and a refusal of what cannot be compared."""

from __future__ import annotations

import math
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from elbowroom.data.binarization import mix
from elbowroom.data.dataset import DataSet
from elbowroom.errors import ElbowroomError
from elbowroom.inference.importance.laplace_proposal import laplace_evidence
from elbowroom.learners.aevb import Aevb
from elbowroom.model.latent import evaluation_mode
from elbowroom.running import compare as comparing
from elbowroom.running import engine, preflight
from elbowroom.running.compare import compare
from elbowroom.running.comparison import Comparison
from elbowroom.running.config import Config
from elbowroom.running.runs import load
from small_comparisons import ASKED, go, hush, write
from small_runs import Clock, Quits

pytestmark = pytest.mark.usefixtures("comparison_folder")


@pytest.fixture(scope="module", autouse=True)
def _tried_once() -> Iterator[None]:
    """A recipe that has been tried is not tried again by every comparison of this file: a quarter of their time."""
    tried: set[tuple[str, str]] = set()
    attempt = preflight._try

    def once(settings: Config, data: DataSet, split: str) -> None:
        key = (settings.model_dump_json(), split)
        if key not in tried:
            attempt(settings, data, split)
            tried.add(key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preflight, "_try", once)
        yield


@pytest.fixture(scope="module")
def undisturbed(comparison_data: Path, _tried_once: None) -> Iterator[Comparison]:
    """A comparison that nobody stopped, in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(comparison_data)
        write("aevb.toml")
        write("wake.toml", 'learner = "wake-sleep"')
        found = go()
        found.folder = found.folder.absolute()
        yield found


def figures(comparison: Comparison) -> list[dict[str, Any]]:
    """All that must not depend on the clock."""
    return [{key: value for key, value in asdict(row).items() if key != "seconds"} for row in comparison.rows]


def same_values(one: Comparison, other: Comparison) -> bool:
    return one.values.keys() == other.values.keys() and all(
        torch.equal(one.values[key], other.values[key]) for key in one.values
    )


# --- what it measures --------------------------------------------------------------------------------------------


def test_the_moments_double_and_all_are_measured_at_one_before_the_next(undisturbed: Comparison) -> None:
    assert undisturbed.moments == [100, 200, 400]
    assert [(row.moment, row.recipe) for row in undisturbed.rows] == [
        (moment, recipe) for moment in (100, 200, 400) for recipe in ("aevb", "wake")
    ]
    assert {(row.split, row.points) for row in undisturbed.rows} == {("test", 20)}


def test_a_leg_ends_with_the_first_step_that_reaches_its_moment(undisturbed: Comparison) -> None:
    for row in undisturbed.curve("aevb", "test"):  # 20 gradients a step: the moments are met exactly
        assert (row.decoder_gradients, row.visits, row.step) == (row.moment, row.moment, row.moment / 20)


@pytest.mark.parametrize("unit", ["visits", "decoder_gradients"])
def test_every_unit_reaches_its_budget_by_less_than_a_step(unit: str) -> None:
    write("small.toml", 'learner = "wake-sleep"')
    text = Path("small.toml").read_text().replace("test = 30", "test = 30\ntrain = 33")
    Path("small.toml").write_text(text)
    found = go("aevb.toml", "small.toml", **{"decoder_gradients": None, unit: 150, "moments": 2})
    per_step = {"visits": 20, "decoder_gradients": 40}[unit]
    for row in found.rows:
        assert row.moment <= getattr(row, unit) < row.moment + per_step
    assert {name: entrant.train_size for name, entrant in found.entrants.items()} == {"aevb": 100, "small": 33}
    for standing in found.standings():
        row = found.row(standing.recipe, "test", 150)
        assert row is not None and standing.epochs == row.visits / found.entrants[row.recipe].train_size
        assert standing.seconds_per_epoch == pytest.approx(row.seconds / standing.epochs)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(engine, "time", found)
    return found


@pytest.mark.usefixtures("clock")
def test_the_clock_is_a_budget_too() -> None:
    found = go(decoder_gradients=None, seconds=0.2, moments=2)
    assert found.moments == [0.1, 0.2]
    for row in found.rows:
        assert row.moment - 0.001 <= row.seconds <= row.moment + 0.05  # it is rounded to a millisecond
    assert all(row.step > 0 for row in found.rows)


def test_the_clock_stops_while_validation_data_are_measured(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    measure = Aevb.measure

    def slowly(learner: Aevb, *given: Any, **settings: Any) -> dict[str, Tensor]:
        clock.now += 0.4
        return measure(learner, *given, **settings)

    monkeypatch.setattr(Aevb, "measure", slowly)
    found = go("aevb.toml", decoder_gradients=None, seconds=0.2, moments=2)
    assert found.rows[-1].step > found.rows[0].step  # the first leg's 0.4 s would have been the whole budget
    assert found.rows[-1].seconds < 0.4


def _by_hand(recipe: str, checkpoint: str, seed: int = 0) -> tuple[int, Tensor]:
    run = load(Path("o") / recipe, checkpoint=checkpoint)
    batch = next(iter(run.dataset().batches("test", 100, points=20)))
    generator = torch.Generator().manual_seed(mix(4, seed) >> 1)
    with evaluation_mode(run.pair):
        found = laplace_evidence(run.model, None, batch, k=5, starts=1, generator=generator)
    return run.step, found.log_evidence


def test_it_measures_the_latest_weights_on_the_same_points() -> None:
    for name in ("aevb.toml", "wake.toml"):  # so fast that validation gets worse, and best and latest differ
        text = (
            Path(name)
            .read_text()
            .replace("lr = 1e-2", "lr = 0.3")
            .replace("batch_size", "report_every = 1\nbatch_size")
        )
        Path(name).write_text(text)
    found = go(moments=1)
    steps = []
    for row in found.rows:
        latest, values = _by_hand(row.recipe, "latest")
        best, others = _by_hand(row.recipe, "best")
        steps.append(best != latest)
        assert row.step == latest
        assert torch.equal(found.values[found.key(row.recipe, "test", 400)], values)
        assert row.value == pytest.approx(float(values.mean()))
        assert best == latest or not torch.allclose(values, others)
    assert any(steps)


def test_differences_are_paired(undisturbed: Comparison) -> None:
    best, other = undisturbed.standings()
    assert best.value is not None and other.value is not None and best.value > other.value
    assert (best.difference, best.difference_stderr) == (0.0, None)
    a, b = (undisturbed.values[undisturbed.key(s.recipe, "test", 400)].numpy() for s in (other, best))
    assert other.difference == pytest.approx(np.mean(a - b))
    assert other.difference == pytest.approx(other.value - best.value)
    assert other.difference_stderr == pytest.approx(np.std(a - b, ddof=1) / math.sqrt(20))
    assert other.stderr == pytest.approx(np.std(a, ddof=1) / math.sqrt(20))
    unpaired = math.hypot(np.std(a, ddof=1), np.std(b, ddof=1)) / math.sqrt(20)
    assert other.difference_stderr is not None and other.difference_stderr < 0.7 * unpaired


def test_the_record_on_disk_is_what_was_returned(undisturbed: Comparison) -> None:
    read = Comparison.read(undisturbed.folder)
    assert read.content() == undisturbed.content()
    assert same_values(read, undisturbed)
    assert read.standings() == undisturbed.standings()


def test_every_split_has_its_rows() -> None:
    found = go(splits=["train", "test"], points=1000, moments=1)
    assert [(row.recipe, row.split, row.points) for row in found.rows] == [
        ("aevb", "train", 100), ("aevb", "test", 30), ("wake", "train", 100), ("wake", "test", 30),
    ]  # fmt: skip
    assert [s.value for s in found.standings()] == [s.value for s in found.standings("train")]
    assert found.standings("test") != found.standings("train")


def test_a_moment_that_trains_nothing_repeats_the_figures() -> None:
    found = go("aevb.toml", decoder_gradients=20, moments=3)
    assert [row.step for row in found.rows] == [1, 1, 1]
    assert len({row.value for row in found.rows}) == 1 and len(found.values) == 3


def test_a_single_point_has_no_error() -> None:
    found = go(points=1, moments=1)
    assert {row.stderr for row in found.rows} == {None}
    assert found.standings()[1].difference_stderr is None


def test_keys_are_laid_over_every_recipe() -> None:
    Path("over.toml").write_text('[model]\nlatent_dim = 3\n[optimizer]\nschedule = "constant"')
    write("cosine.toml", "[runtime]\ncompile = false")
    Path("cosine.toml").write_text(Path("cosine.toml").read_text().replace("lr =", 'schedule = "cosine"\nlr ='))
    found = go("cosine.toml", "aevb.toml", config="over.toml", moments=1)
    assert {entrant.latent_dim for entrant in found.entrants.values()} == {3}
    assert load("o/cosine").config.model.latent_dim == 3
    assert go("cosine.toml", "aevb.toml", config={"model__latent_dim": 3, "optimizer": {"schedule": "constant"}},
              moments=1).rows == found.rows  # fmt: skip


def test_a_recipes_own_length_and_patience_give_way() -> None:
    write("long.toml", "steps = 3\npatience = 1\nreport_every = 1")
    assert go("long.toml", moments=1).rows[0].decoder_gradients == 400


# --- stops -------------------------------------------------------------------------------------------------------


class Kill(KeyboardInterrupt):
    """What nobody catches."""


def _before_measuring(patch: pytest.MonkeyPatch, number: int) -> type[BaseException]:
    measure, calls = comparing._estimate_log_p, iter(range(100))

    def stopped(*args: Any) -> Any:
        if next(calls) == number:
            raise Kill
        return measure(*args)

    patch.setattr(comparing, "_estimate_log_p", stopped)
    return Kill


def _while_training(patch: pytest.MonkeyPatch, number: int) -> type[BaseException]:
    train, calls = comparing.train, iter(range(100))

    def stopped(*args: Any, observers: Any, **settings: Any) -> Any:
        if next(calls) == number:
            observers = [Quits(2, lambda: signal.raise_signal(signal.SIGINT))]
        return train(*args, observers=observers, **settings)

    patch.setattr(comparing, "train", stopped)
    return KeyboardInterrupt


def _hard_while_training(patch: pytest.MonkeyPatch, number: int) -> type[BaseException]:
    train, calls = comparing.train, iter(range(100))

    def dies() -> None:
        raise Kill

    def stopped(*args: Any, observers: Any, **settings: Any) -> Any:
        observers = [Quits(2, dies)] if next(calls) == number else observers
        return train(*args, observers=observers, **settings)

    patch.setattr(comparing, "train", stopped)
    return Kill


def _between_values_and_record(patch: pytest.MonkeyPatch, number: int) -> type[BaseException]:
    write, calls = Comparison.write, iter(range(-1, 100))  # one is written before anything is measured

    def stopped(comparison: Comparison) -> None:
        if next(calls) == number:
            raise Kill
        write(comparison)

    patch.setattr(Comparison, "write", stopped)
    return Kill


@pytest.mark.parametrize(
    ("stop", "number"),
    [(_before_measuring, 0), (_while_training, 5), (_hard_while_training, 3), (_between_values_and_record, 3)],
)
def test_a_stop_at_any_instant_changes_no_figure(
    stop: Callable[[pytest.MonkeyPatch, int], type[BaseException]], number: int, undisturbed: Comparison
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        error = stop(patch, number)
        with pytest.raises(error):
            go()
    assert len(Comparison.read(Path("o")).rows) == number
    found = go()
    assert figures(found) == figures(undisturbed)
    assert same_values(found, undisturbed)
    assert Comparison.read(Path("o")).content() == found.content()


def test_a_finished_comparison_is_only_read(undisturbed: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(undisturbed.folder.parent)

    def fails(*args: Any, **settings: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(comparing, "train", fails)
    assert go().rows == undisturbed.rows


def test_a_larger_budget_goes_on(undisturbed: Comparison) -> None:
    whole = go(decoder_gradients=800, moments=4, out="whole")
    for moments in (3, 4):
        shutil.copytree(undisturbed.folder, "o", dirs_exist_ok=moments > 3)
        longer = go(decoder_gradients=800, moments=moments)
        assert longer.moments == [100, 200, 400, 800]
        assert figures(longer)[:6] == figures(undisturbed)
        assert figures(longer) == figures(whole) and same_values(longer, whole)
        shutil.rmtree("o")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"k": 6}, "k = 5, but now it is 6"),
        ({"seed": 1}, "seed = 0, but now it is 1"),
        ({"points": 10}, "points ="),
        ({"splits": ["train"]}, "splits ="),
        ({"config": {"model": {"latent_dim": 5}}}, "aevb: model.latent_dim = 2, but now it is 5"),
        ({"decoder_gradients": None, "visits": 400}, "the budget's unit = decoder_gradients, but now it is visits"),
        ({"decoder_gradients": 200, "moments": 2}, "training cannot go back to evaluate at 100, 200"),
        ({"decoder_gradients": 600}, "training cannot go back to evaluate at 150, 300"),
        ({"recipes": ["aevb.toml"]}, "recipes = aevb, wake, but now it is aevb"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_another_comparison_in_the_same_folder_is_refused(
    changed: dict[str, Any], named: str, undisturbed: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(undisturbed.folder.parent)
    with pytest.raises(ElbowroomError) as caught:
        go(*changed.pop("recipes", ()), **changed)
    assert named in caught.value.problem
    assert "--out" in caught.value.remedy and "--overwrite" in caught.value.remedy
    assert Comparison.read(undisturbed.folder).content() == undisturbed.content()


def test_overwriting_replaces_the_comparison_and_nothing_else() -> None:
    first = go("aevb.toml", moments=1)
    Path("o/notes.txt").write_text("mine")
    second = go("wake.toml", moments=1, overwrite=True)
    assert [row.recipe for row in first.rows + second.rows] == ["aevb", "wake"]
    assert sorted(path.name for path in Path("o").iterdir() if path.name[0] != ".") == [
        "compare.json", "notes.txt", "values.safetensors", "wake",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "problem"),
    [("values.safetensors", "cannot be read"), ("compare.json", "it is not a comparison"), ("aevb", "is missing")],
)
def test_what_is_missing_is_named(file: str, problem: str) -> None:
    go(moments=1)
    path = Path("o") / file
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ElbowroomError, match=problem):
        go(moments=2, decoder_gradients=800)


def test_a_damaged_record_is_no_bug() -> None:
    go(moments=1)
    Path("o/compare.json").write_text("{")
    with pytest.raises(ElbowroomError, match=r"cannot be read.*JSONDecodeError"):
        go(moments=1)
    assert len(go(moments=1, overwrite=True).rows) == 2


def test_somebody_elses_folder_is_left_alone() -> None:
    Path("o/aevb").mkdir(parents=True)
    Path("o/aevb/config.json").write_text("{}")
    for overwrite in (False, True):
        with pytest.raises(ElbowroomError, match="it is not a comparison"):
            go(overwrite=overwrite)
    assert Path("o/aevb/config.json").read_text() == "{}"


# --- failures ----------------------------------------------------------------------------------------------------


def test_a_recipe_that_fails_does_not_cost_the_others_what_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    write("wild.toml")
    Path("wild.toml").write_text(Path("wild.toml").read_text().replace("lr = 1e-2", 'name = "sgd"\nlr = 1e30'))
    said: list[str] = []
    found = go("wild.toml", "aevb.toml", announce=said.append)
    message = found.entrants["wild"].failed
    assert message is not None and "stopped being finite" in message
    assert [row.moment for row in found.rows if row.recipe == "aevb"] == [100, 200, 400]
    assert [(s.recipe, s.value is None, s.failed) for s in found.standings()] == [
        ("aevb", False, None),
        ("wild", True, message),
    ]
    assert sum("wild failed" in line for line in said) == 1
    assert Comparison.read(Path("o")).entrants["wild"].failed == message
    tried: list[str] = []
    plain = comparing.train

    def watched(*args: Any, **kwargs: Any) -> Any:
        tried.append(Path(kwargs["out"]).name)
        return plain(*args, **kwargs)

    monkeypatch.setattr(comparing, "train", watched)  # a second time only what failed is tried
    again = go("wild.toml", "aevb.toml")
    assert again.rows == found.rows
    assert set(tried) == {"wild"}
    assert again.entrants["wild"].failed is not None


def test_a_model_without_a_finite_value_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*args: Any, **settings: Any) -> Any:
        found = laplace_evidence(*args, **settings)
        return found._replace(log_evidence=found.log_evidence * torch.tensor(-math.inf))

    monkeypatch.setattr(comparing, "laplace_evidence", nowhere)
    found = go(moments=1)
    assert not found.rows
    assert "log p(x) of 20 of 20 test examples is not finite at step 20" in str(found.entrants["aevb"].failed)


def test_a_full_disk_is_not_the_recipes_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    train = comparing.train

    def full(*args: Any, **settings: Any) -> Any:
        raise ElbowroomError("The disk is full.", "Make room.") from OSError(28, "No space left")

    monkeypatch.setattr(comparing, "train", full)
    with pytest.raises(ElbowroomError, match="disk is full"):
        go(moments=1)
    monkeypatch.setattr(comparing, "train", train)
    assert len(go(moments=1).rows) == 2


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "problem", "remedy"),
    [
        ({"decoder_gradients": None}, "none was given", "--seconds or --decoder-gradients or --visits"),
        ({"seconds": 1}, r"2 were given \(seconds, decoder_gradients\)", "Give one of"),
        ({"decoder_gradients": 0}, "0 decoder gradients, which is too little to train", "above 0"),
        ({"decoder_gradients": None, "seconds": -1}, "-1 seconds", "--seconds"),
        ({"decoder_gradients": math.inf}, "inf", "--decoder-gradients"),
        ({"decoder_gradients": math.nan}, "nan", "--decoder-gradients"),
        ({"moments": 12}, "begins at 0.2", "fewer --moments"),
        ({"decoder_gradients": None, "seconds": 0.01}, "begins at 0.0025", "--seconds"),
        ({"moments": 0}, "moments is 0", "--moments 1"),
        ({"points": 0}, "points is 0", "--points 1"),
        ({"k": 0}, "k is 0", "--k 1"),
        ({"starts": 0}, "starts is 0", "--starts 1"),
        ({"splits": []}, "splits is 0", "--splits"),
        ({"splits": ["tset"]}, "aevb: There is no split 'tset'", "Did you mean 'test'"),
        ({"recipes": []}, "No recipe was given", "recipes list"),
        ({"recipes": ["aevb.toml", "aevb.toml"]}, "Two recipes are called 'aevb'", "once"),
        ({"recipes": ["mnits"]}, "no recipe 'mnits'", "Did you mean 'mnist'"),
        ({"recipes": ["none.toml"]}, "no recipe file none.toml", "Check the path"),
        ({"config": {"model": {"guide": "none"}}}, "aevb: The learner aevb trains a guide", "mcem"),
        ({"config": {"optimizer": {"schedule": "cosine"}}}, "aevb: .*cosine schedule needs one fixed", "constant"),
        ({"config": {"model": {"likelihood": "cross-entropy"}}}, "cross-entropy.*does not integrate", "binarization"),
        ({"config": {"data": {"test": 0}}}, "aevb: bits.npy has no test rows", "or from --config FILE"),
        ({"config": {"optimizer": {"lr": 0}}}, "aevb: optimizer.lr is 0", "describes --optimizer.lr"),
        ({"config": {"data": {"name": "nowhere.npy"}}}, "aevb: .*nowhere.npy", ""),
    ],
)  # fmt: skip
def test_a_fault_is_found_before_anything_is_trained(settings: dict[str, Any], problem: str, remedy: str) -> None:
    settings = dict(settings)
    recipes = settings.pop("recipes", ["aevb.toml", "wake.toml"])
    with pytest.raises(ElbowroomError) as caught:
        compare(recipes, **{"announce": hush, "out": "o", **ASKED, **settings})
    assert re.search(problem, caught.value.problem), caught.value.problem
    assert remedy in caught.value.remedy
    assert not Path("o").exists()
