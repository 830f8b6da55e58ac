"""Three trained runs, and files with every fault."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from complaints import train_run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, _lonely_machine: None) -> Path:
    """A folder with three runs: on digits, on the user's own file, on grey pixels under cross-entropy."""
    folder = tmp_path_factory.mktemp("trained")
    before = Path.cwd()
    os.chdir(folder)
    try:
        np.save("own.npy", np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32))
        often = ("--train.report-every", "5", "--train.checkpoint-seconds", "0")
        train_run("run", "digits", "--optimizer.schedule", "constant", *often)
        train_run("mine", "own.npy")
        train_run("grey", "digits", "--data.binarization", "none", "--model.likelihood", "cross-entropy")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh copy of the runs, as the working directory, beside files with every fault."""
    folder = tmp_path / "here"
    shutil.copytree(trained, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with every fault, and good ones that something else does not fit."""
    folder = tmp_path_factory.mktemp("bad")
    rng = np.random.default_rng(0)
    grey = rng.random((40, 4)).astype(np.float32)
    np.save(folder / "grey.npy", grey)
    np.save(folder / "reals.npy", rng.normal(size=(40, 4)))
    np.save(folder / "counts.npy", rng.integers(-1, 9, (40, 4)))
    np.save(folder / "categories.npy", rng.integers(0, 5, (40, 4)) + np.eye(40, 4, dtype=int))
    np.save(folder / "one.npy", grey[:1])
    np.save(folder / "none.npy", grey[:0])
    np.save(folder / "complex.npy", grey.astype(complex))
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        spoilt = grey.copy()
        spoilt[7, 2] = value
        np.save(folder / f"{name}.npy", spoilt)
    constant = rng.normal(size=(40, 4))
    constant[:, 1] = 3.0
    np.save(folder / "constant.npy", constant)
    np.save(folder / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (folder / "empty.npy").touch()
    (folder / "truncated.npy").write_bytes((folder / "grey.npy").read_bytes()[:200])
    (folder / "text.npy").write_text("these are no numbers")
    (folder / "notes.doc").write_text("hello")
    np.savez(folder / "two.npz", a=grey, b=grey)
    np.savez(folder / "labels.npz", x=grey, labels=np.zeros(7))
    (folder / "words.csv").write_text("age,town\n" + "3,Ulm\n4,Bonn\n" * 20)
    (folder / "infinite.csv").write_text("age,size\n" + "3,1.5\n4,inf\n" * 20)
    (folder / "one.csv").write_text("age,size\n3,1.5\n")
    (folder / "ragged.csv").write_text("age,size\n3,1.5\n4\n5,6,7\n")
    (folder / "table.csv").write_text("age,size\n" + "".join(f"{i},{i / 7}\n" for i in range(40)))
    (folder / "nothing").mkdir()
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_bytes(b"no picture")
    (folder / "broken.toml").write_text("[model\nlatent_dim = 3\n")
    (folder / "section.toml").write_text("[modle]\nlatent_dim = 3\n")
    (folder / "key.toml").write_text('[model.encoder]\nhiden = [3]\n[data]\nname = "digits"\n')
    (folder / "type.toml").write_text('[train]\nepochs = "many"\n')
    (folder / "flat.toml").write_text("model = 3\n")
    (folder / "value.toml").write_text('[model]\nlikelihood = "bernouli"\n')
    return folder
