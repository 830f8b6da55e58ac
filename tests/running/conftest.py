"""Data and recipes that several tests of comparisons stand on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from small_comparisons import write


@pytest.fixture(scope="session")
def comparison_data(tmp_path_factory: pytest.TempPathFactory, _lonely_machine: None) -> Path:
    """Data that a latent variable has made: two kinds of rows, and two recipes."""
    folder = tmp_path_factory.mktemp("compare")
    rng = np.random.default_rng(0)
    kinds = rng.random((2, 6))
    np.save(folder / "bits.npy", (rng.random((140, 6)) < kinds[rng.integers(0, 2, 140)]).astype(np.uint8))
    np.save(folder / "grey.npy", rng.random((140, 6)).astype(np.float32))
    np.save(folder / "other.npy", rng.integers(0, 2, (140, 6), dtype=np.uint8))
    return folder


@pytest.fixture
def comparison_folder(comparison_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test stands in a folder of its own that holds the data and two recipes."""
    for file in comparison_data.glob("*.npy"):
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    write("aevb.toml")
    write("wake.toml", 'learner = "wake-sleep"')
