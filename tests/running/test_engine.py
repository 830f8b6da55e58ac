"""A run that is stopped and goes on ends, to the last bit, where one that was never stopped does."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import elbowroom.running.checkpoints as checkpoints_module
from elbowroom.data.dataset import DataSet
from elbowroom.errors import ElbowroomError
from elbowroom.learners.learner import StepInfo
from elbowroom.numerics import mean_and_stderr
from elbowroom.running.engine import TrainingProgress, deferred_interrupts
from elbowroom.running.observers import Silent
from elbowroom.running.runs import load
from small_runs import Quits, everything, grey, reals, tiny


def _quit_at_once() -> None:
    raise KeyboardInterrupt


def _quit_politely() -> None:
    signal.raise_signal(signal.SIGINT)


DYNAMIC = {"data": {"validation": 8, "test": 8, "binarization": "dynamic"}}
MLP = {"hidden": [5]}
NORMED = {"hidden": [5], "batch_norm": True}

# a stage or a part of one ends after 4, 7 and 10 of 14 steps
VQ: dict[str, Any] = {
    "model": {"prior": "unigram", "slots": 3, "codes": 4, "code_dim": 2, "encoder": MLP, "decoder": MLP},
    "train": {"learner": "vq"},
    "vq": {"reconstruction_share": 0.3, "prior_share": 0.2},
}

# 37 training rows in batches of 10: four steps an epoch, the last a smaller one; 14 steps end within the fourth epoch
RUNS: dict[str, dict[str, Any]] = {
    "reals": {"x": reals()},
    "dynamic binarisation": {"x": grey(), **DYNAMIC},
    "moving average": {"x": grey(), **DYNAMIC, "train": {"ema": 0.7}},
    "batch-norm": {"x": reals(), "model": {"latent_dim": 2, "encoder": NORMED, "decoder": NORMED}},
    "batch-norm, moving average": {
        "x": reals(),
        "model": {"latent_dim": 2, "encoder": NORMED, "decoder": NORMED},
        "train": {"ema": 0.7},
    },
    "VampPrior": {
        "x": grey(),
        **DYNAMIC,
        "model": {"latent_dim": 2, "prior": "vamp", "prior_components": 3, "encoder": MLP, "decoder": MLP},
    },
    "VampPrior, moving average": {
        "x": reals(),
        "model": {"latent_dim": 2, "prior": "vamp", "prior_components": 3, "encoder": MLP, "decoder": MLP},
        "train": {"ema": 0.7},
    },
    "flows": {
        "x": reals(),
        "model": {
            "latent_dim": 2,
            "prior": "maf",
            "prior_width": 8,
            "prior_transforms": 1,
            "guide": "nsf",
            "guide_width": 8,
            "guide_transforms": 1,
        },
    },
    "one cycle, adamw": {"x": reals(), "optimizer": {"name": "adamw", "schedule": "one-cycle", "lr": 1e-2}},
    "early stopping": {"x": reals(), "optimizer": {"lr": 0.3}, "train": {"patience": 2, "report_every": 1}},
    "iwae, dreg": {"x": grey(), **DYNAMIC, "objective": {"name": "iwae", "num_samples": 3, "estimator": "dreg"}},
    "float64, adamax": {"x": reals(), "runtime": {"dtype": "float64"}, "optimizer": {"name": "adamax", "lr": 1e-3}},
    "labels, adagrad": {
        "x": grey(),
        "optimizer": {"name": "adagrad", "lr": 1e-3},
        "labels": torch.arange(53) % 3,
        "data": {"context": "labels", "binarization": "dynamic", "validation": 8, "test": 8},
    },
    "vector quantisation": {"x": grey(), **DYNAMIC, **VQ},
    "vector quantisation, moving average": {
        "x": reals(),
        **VQ,
        "model": VQ["model"] | {"codebook": "gradient", "prior": "made", "prior_width": 8},
        "train": {"learner": "vq", "ema": 0.7},
    },
    "reports within the epoch": {"x": reals(), "train": {"report_every": 3}},
    "warm-up, rmsprop with momentum": {
        "x": reals(),
        "objective": {"warmup_epochs": 2.5, "beta": 0.5},
        "optimizer": {"name": "rmsprop", "momentum": 0.9, "lr": 1e-3},
    },
    "no validation, sgd": {
        "x": reals(),
        "data": {"validation": 0, "test": 8},
        "optimizer": {"name": "sgd", "lr": 1e-3},
    },
    "missing values, sgd with momentum": {
        "optimizer": {"name": "sgd", "momentum": 0.9, "lr": 1e-3},
        "x": torch.where(grey(seed=3) < 0.2, torch.nan, reals()),
        "data": {"missing": "mask", "validation": 8, "test": 8},
    },
}
ELSEWHERE = {  # the quick tests have them beside something else: a moving average, or reports within the epoch
    "reals", "dynamic binarisation", "batch-norm", "VampPrior",
}  # fmt: skip
STEPS = 14


def _train(out: Path, spec: dict[str, Any], **more: Any) -> None:
    spec = dict(spec)
    spec["train"] = {"batch_size": 10, "steps": STEPS, "checkpoint_seconds": 0.0, **spec.get("train", {})}
    tiny(spec.pop("x"), out, **spec, **more)


HOW = [(name, _quit_politely) for name in RUNS]  # saves where it stands, in the middle of an epoch
HOW += [(name, _quit_at_once) for name in ("reports within the epoch", "moving average")]  # falls back to the last


@pytest.mark.parametrize(
    ("name", "quit"),
    [
        pytest.param(name, how, id=f"{name}-{how.__name__}", marks=pytest.mark.slow if name in ELSEWHERE else [])
        for name, how in HOW
    ],
)
def test_a_run_that_is_stopped_ends_where_one_that_is_not_does(
    name: str, quit: Callable[[], None], tmp_path: Path
) -> None:
    spec = RUNS[name]
    _train(tmp_path / "straight", spec)
    instants = random.Random(name)
    stopped, resume, quits = tmp_path / "stopped", False, 0
    for _ in range(2):
        try:
            _train(stopped, spec, resume=resume, observers=[Quits(instants.randint(2, 6), quit)])
        except KeyboardInterrupt:
            quits += 1
        resume = True
    _train(stopped, spec, resume=True)
    assert quits >= 1
    assert everything(stopped) == everything(tmp_path / "straight")


def test_other_seeds_end_elsewhere(tmp_path: Path) -> None:
    """So that the equality above is no accident of weights that do not move."""
    for seed in (0, 1):
        _train(tmp_path / str(seed), {"x": reals(), "train": {"seed": seed}})
    assert everything(tmp_path / "0")["metrics"] != everything(tmp_path / "1")["metrics"]


def test_early_stopping_did_stop_early(tmp_path: Path) -> None:
    _train(tmp_path, RUNS["early stopping"])
    found = everything(tmp_path)
    assert found["latest state"]["step"] < STEPS
    assert found["latest state"]["step"] == int(found["best"].removeprefix("step-")) + 2


def test_a_polite_stop_loses_no_step(out: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _train(out, {"x": reals(), "train": {"checkpoint_seconds": 1e9}}, observers=[Quits(6, _quit_politely)])
    assert everything(out)["latest state"]["step"] == 6


def test_a_run_goes_on_past_its_first_end(tmp_path: Path) -> None:
    """With reports at the same steps, a run of 8 and then 14 steps is a run of 14."""
    spec = {"x": reals(), "train": {"report_every": 4}}
    _train(tmp_path / "straight", spec)
    _train(tmp_path / "longer", {"x": reals(), "train": {"report_every": 4, "steps": 8}})
    _train(tmp_path / "longer", {"x": reals(), "train": {"report_every": 4, "steps": 14}}, resume=True)
    assert everything(tmp_path / "longer") == everything(tmp_path / "straight")


def test_a_finished_run_that_goes_on_stays_as_it_is(out: Path) -> None:
    _train(out, {"x": reals()})
    before = everything(out)
    _train(out, {"x": reals()}, resume=True)
    assert everything(out) == before


# --- a kill between any two file operations ----------------------------------------------------------------------


OPERATIONS = [
    (os, "fsync"),
    (shutil, "rmtree"),
    (Path, "rename"),
    (Path, "replace"),
    (Path, "mkdir"),
    (checkpoints_module, "save_file"),
    (checkpoints_module, "save_model"),
]


class Killed:
    """What kills would leave: a copy of a run's folder before each file operation, unless it is like another.

    What waits in a buffer is lost, and nothing tidies up, as with SIGKILL.
    """

    def __init__(self, run: Path, copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run, self.copies = run, copies
        self.operations = 0
        self.folders: dict[frozenset[tuple[str, bytes | None]], Path] = {}
        for owner, name in OPERATIONS:
            monkeypatch.setattr(owner, name, self._after_a_copy(getattr(owner, name)))

    def _after_a_copy(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def after_a_copy(*args: Any, **settings: Any) -> Any:
            self._copy()
            return operation(*args, **settings)

        return after_a_copy

    def _copy(self) -> None:
        self.operations += 1
        content = frozenset(
            (str(path.relative_to(self.run)), path.read_bytes() if path.is_file() else None)
            for path in self.run.rglob("*")
        )
        if content not in self.folders:
            self.folders[content] = self.copies / str(self.operations)
            shutil.copytree(self.run, self.folders[content]) if self.run.exists() else self.folders[content].mkdir()


@pytest.mark.parametrize(
    ("saves", "seconds"),
    [
        pytest.param(2, 0.0, id="best and latest together"),
        pytest.param(1, 1e9, id="best and latest apart", marks=pytest.mark.slow),  # with fewer operations
    ],
)
def test_a_kill_before_any_file_operation_costs_no_number(saves: int, seconds: float, tmp_path: Path) -> None:
    diverging = {"name": "sgd", "lr": 0.3}  # so that the best is not the last
    spec = {"x": reals(), "optimizer": diverging, "train": {"report_every": 3, "steps": 6}}
    spec["train"] |= {"checkpoint_seconds": seconds}
    (tmp_path / "killed").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        killed = Killed(tmp_path / "straight", tmp_path / "killed", patch)
        _train(tmp_path / "straight", spec)
    expected = everything(tmp_path / "straight")
    assert (expected["best"], expected["latest"]) == ("step-3", "step-6")
    assert killed.operations > len(killed.folders) > 10 * saves
    for out in killed.folders.values():
        _train(out, spec, resume=(out / "config.json").is_file())
        assert everything(out) == expected, f"killed before operation {out.name}"
        assert not list((out / "checkpoints").glob(".*")), "leftovers"


def test_a_kill_while_a_resumed_run_replaces_a_checkpoint(tmp_path: Path) -> None:
    """After falling back behind a damaged checkpoint, one of the same name is written anew."""
    spec = {"x": reals(), "train": {"report_every": 2, "steps": 8}}
    _train(tmp_path / "straight", spec)
    expected = everything(tmp_path / "straight")
    shutil.copytree(tmp_path / "straight", tmp_path / "damaged")
    with (tmp_path / "damaged" / "checkpoints" / expected["latest"] / "training.safetensors").open("r+b") as file:
        file.seek(100)
        file.write(b"\xff\x00\xff")
    (tmp_path / "killed").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        killed = Killed(tmp_path / "damaged", tmp_path / "killed", patch)
        _train(tmp_path / "damaged", spec, resume=True)
    assert everything(tmp_path / "damaged") == expected
    assert len(killed.folders) > 5
    for out in killed.folders.values():
        _train(out, spec, resume=True)
        assert everything(out) == expected, f"killed before operation {out.name}"


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from small_runs import grey, tiny
tiny(
    grey(), Path({out!r}), resume={resume}, data={{"validation": 8, "test": 8, "binarization": "dynamic"}},
    train={{"batch_size": 10, "steps": 400, "report_every": 7, "checkpoint_seconds": 0.0, "ema": 0.9}},
)
"""


@pytest.mark.slow
def test_a_run_survives_sigkill_at_random_instants(tmp_path: Path) -> None:
    def process(out: Path, *, resume: bool) -> subprocess.Popen[bytes]:
        script = textwrap.dedent(SCRIPT).format(tests=str(Path(__file__).parent), out=str(out), resume=resume)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-c", script], env=environment)

    assert process(tmp_path / "straight", resume=False).wait(300) == 0
    out, instants, kills = tmp_path / "killed", random.Random(1), 0
    while kills < 3:
        running = process(out, resume=(out / "config.json").is_file())
        while not list((out / "checkpoints").glob("step-*")) and running.poll() is None:
            time.sleep(0.01)
        time.sleep(instants.uniform(0.0, 0.7))
        assert running.poll() is None, "it ended before it could be killed"
        running.send_signal(signal.SIGKILL)
        assert running.wait(60) == -signal.SIGKILL
        kills += 1
    assert process(out, resume=True).wait(300) == 0
    assert everything(out) == everything(tmp_path / "straight")


# --- reports -----------------------------------------------------------------------------------------------------


def test_progress_weighs_every_example_the_same() -> None:
    progress = TrainingProgress()
    progress.add(StepInfo({"elbo": -2.0}, lr=1.0, decoder_gradients=1), 10)
    progress.add(StepInfo({"elbo": -5.0}, lr=1.0, decoder_gradients=1), 5)
    assert progress.take_means() == {"elbo": -3.0}
    progress.add(StepInfo({"elbo": -7.0}, lr=1.0, decoder_gradients=1), 5)
    assert progress.take_means() == {"elbo": -7.0}


def test_a_term_that_only_some_steps_have_is_the_mean_of_those() -> None:
    progress = TrainingProgress()
    progress.add(StepInfo({"elbo": -2.0, "kl": 1.0}, 0.1, 1), 10)
    progress.add(StepInfo({"elbo": -4.0}, 0.1, 1), 30)
    older = TrainingProgress(**{**progress.numbers(), "counts": {}, "sums": {"elbo": -140.0}})  # of a version without
    assert progress.take_means() == {"elbo": -3.5, "kl": 1.0}
    assert older.take_means() == {"elbo": -3.5}


def test_a_report_is_the_mean_over_data_since_the_last(out: Path) -> None:
    """The smaller last batch of the epoch weighs what it is: 10, 10, 10 and 7 data."""
    spec = {"x": reals(), "train": {"report_every": 1, "steps": 8}}
    _train(out, spec)
    single = [row["elbo"] for row in everything(out)["metrics"] if row["split"] == "train"]
    _train(out.with_name("epochs"), {"x": reals(), "train": {"steps": 8}})
    rows = [row for row in everything(out.with_name("epochs"))["metrics"] if row["split"] == "train"]
    for epoch, row in enumerate(rows):
        parts = single[4 * epoch : 4 * epoch + 4]
        assert row["elbo"] == pytest.approx(sum(n * v for n, v in zip((10, 10, 10, 7), parts, strict=True)) / 37)
        assert (row["step"], row["epoch"]) == (4 * epoch + 4, epoch + 1)
        assert row["elbo"] == pytest.approx(row["reconstruction"] - row["kl"])
    assert len(rows) == 2


def test_validation_is_the_bound_at_the_kept_weights(out: Path) -> None:
    run = tiny(reals(), out, train={"batch_size": 10, "steps": 8, "ema": 0.5, "checkpoint_seconds": 0.0})
    latest = load(out, checkpoint="latest", data=reals())
    row = [row for row in run.history if row["split"] == "validation"][-1]
    batch = next(iter(run.dataset().batches("validation", 100)))
    from elbowroom.inference.objectives import elbo_terms

    with torch.no_grad():
        terms = elbo_terms(latest.model, latest.guide, batch, kl="auto", generator=torch.Generator().manual_seed(0))
    value, stderr = mean_and_stderr(terms.value)
    assert row["elbo"] == pytest.approx(value, rel=1e-5)
    assert row["stderr"] == pytest.approx(stderr, rel=1e-4)


def test_what_is_kept_as_best_is_best(out: Path) -> None:
    """The latest within a standard error of the peak; every later one lies below it by more than chance."""
    run = tiny(reals(), out, optimizer={"lr": 0.3}, train={"steps": 30, "report_every": 1, "batch_size": 10})
    values = {row["step"]: row["elbo"] for row in run.history if row["split"] == "validation"}
    peak = max(values, key=values.__getitem__)
    assert peak <= run.step < 30
    assert all(values[step] < values[peak] for step in values if step > run.step)


def test_one_validation_datum_has_no_standard_error(out: Path) -> None:
    run = tiny(reals(), out, data={"validation": 1, "test": 8}, train={"steps": 2, "batch_size": 10})
    row = [row for row in run.history if row["split"] == "validation"][-1]
    assert "stderr" not in row
    assert "NaN" not in (out / "metrics.jsonl").read_text()


def test_a_step_that_is_not_finite_keeps_the_last_good_checkpoint(out: Path) -> None:
    with pytest.raises(ElbowroomError, match=r"At step \d+ the"):
        tiny(
            reals(), out, model={"latent_dim": 2, "scale": 1e-3, "encoder": MLP, "decoder": MLP},
            optimizer={"name": "sgd", "lr": 1e6}, train={"steps": 50, "report_every": 1, "batch_size": 10},
        )  # fmt: skip
    for file in (out / "checkpoints").glob("step-*/model.safetensors"):
        assert all(bool(torch.isfinite(value).all()) for value in load_file(file).values())


# --- what training may see ---------------------------------------------------------------------------------------


def test_the_test_split_is_never_touched(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither training, nor initialisation, nor selection reads a row of it: all go through these two doors."""
    splits: list[str] = []
    touched: set[int] = set()
    batches, one = DataSet.batches, DataSet._batch

    def watched_batches(self: DataSet, split: str, batch_size: int, *, points: int | None = None) -> Iterator[Any]:
        splits.append(split)
        return batches(self, split, batch_size, points=points)

    def watched_rows(self: DataSet, rows: torch.Tensor, generator: torch.Generator | None) -> Any:
        touched.update(rows.tolist())
        return one(self, rows, generator)

    monkeypatch.setattr(DataSet, "batches", watched_batches)
    monkeypatch.setattr(DataSet, "_batch", watched_rows)
    run = tiny(
        grey(), out, model={"latent_dim": 2, "prior": "vamp", "prior_components": 4, "encoder": MLP, "decoder": MLP},
        data={"binarization": "dynamic", "validation": 8, "test": 8}, train={"steps": 9, "batch_size": 10},
    )  # fmt: skip
    assert set(splits) == {"validation"}
    assert touched == {*run.dataset().splits["train"].tolist(), *run.dataset().splits["validation"].tolist()}


@pytest.mark.parametrize("split", ["test", "validation"])
def test_the_weights_do_not_depend_on_held_out_data(split: str, tmp_path: Path) -> None:
    """Scrambled held-out rows leave every weight as it was: means, units, pseudo-inputs and biases too."""
    x = reals()
    spec: dict[str, Any] = {
        "model": {"latent_dim": 2, "prior": "vamp", "prior_components": 4, "encoder": MLP, "decoder": MLP},
        "train": {"steps": 9, "batch_size": 10},
    }
    run = tiny(x, tmp_path / "a", **spec)
    changed = x.clone()
    rows = run.dataset().splits[split]
    changed[rows] = changed[rows] * 3 + 1
    tiny(changed, tmp_path / "b", **spec)
    a, b = everything(tmp_path / "a"), everything(tmp_path / "b")
    assert a["latest model"] == b["latest model"]
    train_rows = [[row for row in found["metrics"] if row["split"] == "train"] for found in (a, b)]
    assert train_rows[0] == train_rows[1]
    if split == "test":
        assert a == b


def test_observers_are_stopped_whatever_happens(out: Path) -> None:
    stopped: list[str] = []

    class Watches(Silent):
        def stop(self) -> None:
            stopped.append("stopped")

    with pytest.raises(KeyboardInterrupt):
        _train(out, {"x": reals()}, observers=[Watches(), Quits(2, _quit_at_once)])
    assert stopped == ["stopped"]


# --- signals: the first Ctrl-C waits, the second does not, and afterwards signals mean what they meant before --------

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_only_sets_the_flag(number: signal.Signals) -> None:
    with deferred_interrupts() as came:
        assert not came()
        signal.raise_signal(number)
        assert came()


def test_the_second_interrupts_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), deferred_interrupts():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it went on")


@pytest.mark.parametrize("number", SIGNALS)
def test_handlers_are_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(ZeroDivisionError), deferred_interrupts():
        assert signal.getsignal(number) is not before
        raise ZeroDivisionError
    assert signal.getsignal(number) is before


def test_outside_the_main_thread_nothing_is_caught() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with deferred_interrupts() as came:
            seen.append(came())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
    assert signal.getsignal(signal.SIGINT) is before
