"""Parts of an unfinished evaluation: found by those who ask for the same, and by nobody else."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from elbowroom.running.evaluation_cache import FileCache


def test_a_part_comes_back_to_the_same_evaluation_only(tmp_path: Path) -> None:
    parts = FileCache(tmp_path / "unfinished", {"seed": 0, "k": None})
    assert parts.read("ais-0") is None
    parts.write("ais-0", {"x": torch.arange(3.0, dtype=torch.float64), "row": torch.arange(3).flip(0)})
    again = FileCache(tmp_path / "unfinished", {"k": None, "seed": 0}).read("ais-0")
    assert again is not None and torch.equal(again["x"], torch.arange(3.0, dtype=torch.float64))
    assert again["row"].tolist() == [2, 1, 0]
    assert parts.read("ais-1") is None
    assert FileCache(tmp_path / "unfinished", {"seed": 1, "k": None}).read("ais-0") is None


def test_a_spoiled_part_counts_as_not_done(tmp_path: Path) -> None:
    parts = FileCache(tmp_path, {})
    parts.write("a", {"x": torch.ones(100)})
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:60])
    assert parts.read("a") is None


def test_nothing_is_left_when_it_has_ended(tmp_path: Path) -> None:
    parts = FileCache(tmp_path / "unfinished", {"seed": 0})
    parts.write("a", {"x": torch.ones(2)})
    parts.forget()
    assert not list(tmp_path.iterdir())
    parts.forget()  # again does no harm


def test_an_evaluation_that_runs_beside_it_keeps_its_parts(tmp_path: Path) -> None:
    ended, beside, given_up = (FileCache(tmp_path / "unfinished", {"seed": seed}) for seed in range(3))
    for parts in (ended, beside, given_up):
        parts.write("a", {"x": torch.ones(2)})
    old = time.time() - 25 * 60 * 60
    for path in (given_up._folder / "a.safetensors", given_up._folder):
        os.utime(path, (old, old))
    ended.forget()
    assert ended.read("a") is None
    assert given_up.read("a") is None
    assert beside.read("a") is not None
    beside.forget()
    assert not list(tmp_path.iterdir())
