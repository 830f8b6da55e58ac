"""A machine that lacks something: a package, a GPU, the network."""

from __future__ import annotations

import builtins
import gzip
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from complaints import Ask, assert_complains, snapshot, tiny, tr
from elbowroom.data import sources


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a package look as if it were not installed."""

    def hide(package: str) -> None:
        real = builtins.__import__

        def fake(name: str, *args: Any, **rest: Any) -> Any:
            if name == package or name.startswith(f"{package}."):
                raise ModuleNotFoundError(f"No module named '{package}'", name=package)
            return real(name, *args, **rest)

        for loaded in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setattr(builtins, "__import__", fake)

    return hide


def test_a_table_without_polars(here: Path, bad: Path, ask: Ask, without: Callable[[str], None]) -> None:
    without("polars")
    before = snapshot(here)
    assert_complains(ask(*tiny("train", str(bad / "table.csv"), "--out", "out")), "polars", "elbowroom[tables]")
    assert snapshot(here) == before


def test_tensorboard_without_tensorboard(here: Path, ask: Ask, without: Callable[[str], None]) -> None:
    without("torch.utils.tensorboard")
    before = snapshot(here)
    answer = ask(*tiny("train", "digits", "--train.tensorboard", "--out", "out"))
    assert_complains(answer, "TensorBoard", "elbowroom[tensorboard]")
    assert snapshot(here) == before


@pytest.mark.parametrize("flow", ["--model.prior maf", "--model.guide iaf"])
def test_a_flow_without_zuko(flow: str, here: Path, ask: Ask, without: Callable[[str], None]) -> None:
    without("zuko")
    before = snapshot(here)
    assert_complains(ask(*tiny("train", "digits", *flow.split(), "--out", "out")), "zuko", "elbowroom[flows]")
    assert snapshot(here) == before


@pytest.mark.parametrize("argv", ["train digits --runtime.device cuda --out out", "evaluate run --device cuda"])
def test_no_gpu_where_one_is_asked_for(argv: str, here: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = snapshot(here)
    assert_complains(ask(*argv.split()), "'cuda'", "cpu")
    assert snapshot(here) == before


@pytest.mark.parametrize("argv", ["data fetch fashion-mnist", tr("fashion-mnist")], ids=["fetch", "train"])
def test_no_network(argv: str, here: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, path: Path) -> None:
        raise OSError("Temporary failure in name resolution")

    monkeypatch.setattr(sources, "_download", refuse)
    assert_complains(ask(*argv.split()), "fashion-mnist", "name resolution", "$ELBOWROOM_DATA/FashionMNIST")
    assert not (here / "out").exists()


def test_a_download_with_the_wrong_digest_is_not_kept(here: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(url: str, path: Path) -> None:
        path.write_bytes(gzip.compress(b"not clothes"))  # whole, but another file

    monkeypatch.setattr(sources, "_download", serve)
    answer = ask("data", "fetch", "fashion-mnist")
    assert_complains(answer, "train-images-idx3-ubyte.gz", "sha256", "was expected")
    assert not [path for path in sources.cache_folder().rglob("*") if path.is_file()]
