"""What every test can count on: a fixed seed, one thread, and a machine without data of its own."""

from __future__ import annotations

import copy
import gc
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cyclopts import App
from matplotlib.figure import Figure
from PIL import Image

from elbowroom.cli import main
from elbowroom.phrasing import speaking
from elbowroom.showing.figures import style


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _lonely_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No data set, no cache and no run of the user's is read or written, and processes do not fight for cores."""
    home = tmp_path_factory.mktemp("machine")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELBOWROOM_DATA", str(home / "data"))
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))  # what pooch.os_cache reads on Linux
        patch.setenv("MPLCONFIGDIR", str(home / "matplotlib"))
        # no test cuts the power, and thousands of small files would wait for the disk; tests of a full one patch it too
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="session")
def _flags_gathered_once() -> Iterator[None]:
    """The flags of a command are gathered from its signature once, not at every call: `train` has three hundred."""
    gather = App.assemble_argument_collection
    gathered: dict[tuple[Any, ...], Any] = {}

    def remembered(app: App, **options: Any) -> Any:
        key = (app.default_command, *sorted(options.items()))
        if key not in gathered:
            gathered[key] = gather(app, **options)
        new = {id(flag): copy.copy(flag) for flag in gathered[key]}
        for flag in new.values():  # those that are kept are never given a value
            flag.tokens = []
            flag.children = type(gathered[key])(new[id(child)] for child in flag.children)
        return type(gathered[key])(new.values())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(App, "assemble_argument_collection", remembered)
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Weights that torch draws from its global generator are the same whichever tests ran before."""
    torch.default_generator.manual_seed(0)  # torch.manual_seed, for GPUs, writes down where it was called: half a ms
    np.random.seed(0)  # noqa: NPY002  # the legacy generator is the global one


@pytest.fixture(autouse=True)
def _in_flags() -> Iterator[None]:
    """Messages as they are written, with flags, whoever calls; tests/test_phrasing.py looks at those of Python."""
    with speaking("flags", unless_set=False):
        yield


_draw = style._save


def _save_blank(figure: Figure, where: Path | io.BytesIO, dpi: float | None = None) -> None:
    """In the place of style._save: a white picture of the figure's size."""
    width, height = (figure.get_size_inches() * (dpi or figure.dpi)).astype(int).tolist()
    Image.new("RGBA", (width, height), "white").save(where, format="png", compress_level=1)


@pytest.fixture(autouse=True, scope="module")
def _blank_pictures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Figures are made and not drawn, but in files marked ``drawn``: it takes as long as training a small model.

    `make test-all` draws all of them, and a single test can ask for ``real_pictures``.
    """
    with pytest.MonkeyPatch.context() as patch:
        quick = request.config.getoption("markexpr") == "not slow"
        if quick and request.node.get_closest_marker("drawn") is None:
            patch.setattr(style, "_save", _save_blank)
        yield


@pytest.fixture
def real_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that are drawn, in a file where they are blank otherwise."""
    monkeypatch.setattr(style, "_save", _draw)


@pytest.fixture
def generator() -> torch.Generator:
    """The explicit source of randomness that library code asks for."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def traced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`torch.compile` traces one graph, which PyTorch runs: a third of a second.

    In tests marked ``lowered`` the graph is also brought down to the operators that a compiler is given, which takes a
    second more; in those marked ``cpp`` C++ is made of it, over seconds.
    """
    import elbowroom.learners.compiled as module  # the compiler takes seconds to import

    torch._dynamo.reset()
    if request.node.get_closest_marker("cpp") is None:
        lowered = request.node.get_closest_marker("lowered") is not None
        trace = torch._dynamo.lookup_backend("aot_eager" if lowered else "eager")
        monkeypatch.setattr(module, "compile_fx", lambda graph, examples, **options: trace(graph, examples))
    yield
    torch._dynamo.reset()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where a run goes."""
    return tmp_path / "run"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's Chromium without a head; where there is none the test is skipped, or fails if CI is set."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs Debian's chromium (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line in this process: exit code, standard output, standard error."""

    def ask(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = 0
        try:
            main(argv)
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return ask


@pytest.fixture
def say(ask: Callable[..., tuple[int, str, str]]) -> Callable[..., tuple[str, str]]:
    """Runs a command line that must succeed: standard output, standard error."""

    def say(*argv: str) -> tuple[str, str]:
        code, out, err = ask(*argv)
        assert code == 0, err
        return out, err

    return say
