"""The package as a whole: quick to start, honest about its names."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

import elbowroom

HEAVY = ("torch", "sklearn", "scipy", "matplotlib", "polars", "numpy", "safetensors", "pooch", "PIL")

WATCH = """
import sys
from elbowroom.cli import main
for line in {lines!r}:
    try:
        main(line.split())
    except SystemExit:
        pass
    print("loaded:", line, *sorted({{name.partition(".")[0] for name in sys.modules}}), sep="\\t")
"""

UNWANTED = {
    "--help": (*HEAVY, "pydantic"),
    "--version": (*HEAVY, "pydantic"),
    "train --help": HEAVY,
    "evaluate --help": HEAVY,
    "recipes list": HEAVY,
    "recipes show mnist": HEAVY,
    "trian": HEAVY,
    "train digits --model.latent-dim 0": HEAVY,
    "data list": ("torch", "sklearn", "scipy", "matplotlib", "polars", "numpy", "safetensors"),
}
"""Commands by what they may do without; in this order each can be watched in one interpreter with those before it."""


def said_by(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def loaded_by(program: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded at the end of a program that prints them."""
    return set(said_by(program).rpartition("loaded:")[2].split())


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """Top-level packages that an interpreter has loaded after each command, by itself or by those before it."""
    lines = said_by(WATCH.format(lines=list(UNWANTED))).splitlines()
    told = (line.split("\t")[1:] for line in lines if line.startswith("loaded:"))
    return {command: set(packages) for command, *packages in told}


@pytest.mark.parametrize("command", UNWANTED)
def test_what_needs_no_model_loads_nothing_heavy(command: str, loaded: dict[str, set[str]]) -> None:
    assert "cyclopts" in loaded[command]  # else nothing was watched
    assert not loaded[command] & set(UNWANTED[command])


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = "import sys, elbowroom; print('loaded:', *{name.partition('.')[0] for name in sys.modules})"
    loaded = loaded_by(program)
    assert "elbowroom" in loaded
    assert not loaded & {*HEAVY, "pydantic", "cyclopts", "rich"}


def test_the_watch_sees_what_is_loaded() -> None:
    assert "numpy" in loaded_by("import sys, numpy; print('loaded:', *{n.partition('.')[0] for n in sys.modules})")


@pytest.mark.parametrize("name", elbowroom.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    value = getattr(elbowroom, name)
    assert value is not None
    if callable(value):
        assert value.__name__ == name
    assert name in dir(elbowroom)


def test_dir_holds_the_public_names_and_no_others() -> None:
    assert dir(elbowroom) == sorted(elbowroom.__all__)
    assert len(set(elbowroom.__all__)) == len(elbowroom.__all__)


@pytest.mark.parametrize("name", ["VAE", "Train", "model_", "_secret"])
def test_a_name_that_is_not_there(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'elbowroom' has no attribute '{name}'"):
        getattr(elbowroom, name)


def test_star_import_gives_the_public_names() -> None:
    space: dict[str, object] = {}
    exec("from elbowroom import *", space)
    assert set(elbowroom.__all__) <= set(space)


def test_the_version_is_that_of_the_distribution() -> None:
    assert elbowroom.__version__ == metadata.version("elbowroom")
