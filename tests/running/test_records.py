"""What a run must remember: its splits, where its data are, its place in a stream."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

import elbowroom as er
from elbowroom.errors import ElbowroomError
from elbowroom.learners.aevb import Aevb
from elbowroom.running.observers import Silent

TINY: dict[str, Any] = {
    "model": {"latent_dim": 2, "encoder": {"hidden": [8]}, "decoder": {"hidden": [8]}},
    "train": {"batch_size": 10, "epochs": 1},
    "observers": [Silent()],
    "announce": lambda remark: None,
}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.npy"
    np.save(path, np.random.default_rng(0).normal(size=(60, 4)))
    return path


def test_the_splits_are_on_disk(table: Path, tmp_path: Path) -> None:
    run = er.train(table, out=tmp_path / "run", **TINY)
    stored = run.folder.read_splits()
    assert set(stored) == {"train", "validation", "test"}
    assert torch.equal(torch.cat(list(stored.values())).sort().values, torch.arange(60))
    assert all(torch.equal(stored[name], run.dataset().splits[name]) for name in stored)


def test_the_recorded_splits_are_used_and_not_computed_anew(table: Path, tmp_path: Path) -> None:
    run = er.train(table, out=tmp_path / "run", **TINY)
    other = {"train": torch.arange(10, 60), "validation": torch.arange(5, 10), "test": torch.arange(5)}
    run.folder.write_splits(other)
    again = er.load(tmp_path / "run")
    assert torch.equal(next(again.dataset().batches("test", 10)).index, torch.arange(5))
    # training that goes on keeps to them, too
    more = TINY | {"train": {"batch_size": 10, "epochs": 2}}
    resumed = er.train(table, out=tmp_path / "run", resume=True, **more)
    assert torch.equal(resumed.dataset().splits["test"], torch.arange(5))


def test_lost_splits_are_an_error(table: Path, tmp_path: Path) -> None:
    run = er.train(table, out=tmp_path / "run", **TINY)
    (run.folder.path / "splits.safetensors").unlink()
    with pytest.raises(ElbowroomError, match="not known which examples were for training"):
        er.load(tmp_path / "run").evaluate("elbo")


def test_a_run_is_usable_from_another_folder(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    er.train(table.name, out="run", **TINY)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert er.load("../run").evaluate("elbo")[0].points == 6


class Counting(IterableDataset[Tensor]):
    """A stream that gives the same 35 rows at every pass."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.rand(35, 4, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    ("binarization", "stop"),
    [("none", 5), *(("dynamic", stop) for stop in (1, 5, 9))]
    + [pytest.param("none", stop, marks=pytest.mark.slow) for stop in (1, 9)],  # what is drawn is further state
)
def test_a_stream_goes_on_where_it_stopped(tmp_path: Path, binarization: str, stop: int) -> None:
    def learn(name: str, steps: int, **more: Any) -> er.Run:
        train = {"batch_size": 10, "steps": steps, "report_every": 1}
        data = {"binarization": binarization}
        return er.train(Counting(), out=tmp_path / name, **(TINY | {"train": train, "data": data}), **more)

    whole = learn("whole", 11)
    learn("parts", stop)
    parts = learn("parts", 11, resume=True)
    for name, weights in whole.pair.state_dict().items():
        assert torch.equal(weights, parts.pair.state_dict()[name]), name
    figures = [[row["elbo"] for row in run.history] for run in (whole, parts)]
    assert figures[0] == figures[1]


def test_a_validation_value_that_is_not_finite_stops(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Aevb.measure

    def broken(self: Aevb, *arguments: Any, **settings: Any) -> dict[str, Tensor]:
        return {name: values * math.nan for name, values in honest(self, *arguments, **settings).items()}

    monkeypatch.setattr(Aevb, "measure", broken)
    with pytest.raises(
        ElbowroomError, match=r"At step 5 the objective is not finite on the validation data.*elbo = nan"
    ):
        er.train(table, out=tmp_path / "run", **TINY)
    assert not (tmp_path / "run" / "metrics.jsonl").read_text().count("NaN")


def test_a_run_on_a_stream_can_be_measured_on_other_data(tmp_path: Path) -> None:
    train = {"batch_size": 10, "steps": 4}
    run = er.train(Counting(), out=tmp_path / "run", **(TINY | {"train": train}))
    with pytest.raises(ElbowroomError, match="no test set"):
        run.evaluate("elbo")
    results = run.evaluate("elbo", data=np.random.default_rng(1).random((20, 4)))
    assert [(result.split, result.points) for result in results] == [("all", 20)] * 3


def test_other_data_are_measured_whole(table: Path, tmp_path: Path) -> None:
    """A file of the user's has no test set of its own: every row is scored, in the order of the file."""
    run = er.train(table, out=tmp_path / "run", **TINY)
    assert len(run.score(table, k=2).log_evidence) == 60
    assert run.evaluate("elbo", data=table)[0].points == 60
