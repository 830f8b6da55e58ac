"""One run of a tiny model on the digits, which several files of tests look at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from elbowroom.cli import main

TINY = ("--model.encoder.hidden", "6", "--model.decoder.hidden", "6", "--model.latent-dim", "2", "--train.epochs", "1")


@pytest.fixture(scope="session")
def trained_digits(tmp_path_factory: pytest.TempPathFactory, _lonely_machine: None) -> Path:
    """A folder with runs/digits; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    main(["train", "digits", *TINY, "--quiet", "--out", str(folder / "runs/digits")])
    return folder


@pytest.fixture(scope="module")
def beside_digits(trained_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder of a file's tests, with runs/digits in it."""
    folder, before = tmp_path_factory.mktemp("workplace") / "here", Path.cwd()
    shutil.copytree(trained_digits, folder)
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)
