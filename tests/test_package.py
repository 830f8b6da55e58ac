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
try:
    main({argv!r})
except SystemExit:
    pass
print("loaded:", *sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


def loaded_by(program: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded at the end of a program that prints them."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("loaded:")[2].split())


@pytest.mark.parametrize(
    ("command", "unwanted"),
    [
        ("--help", (*HEAVY, "pydantic")),
        ("--version", (*HEAVY, "pydantic")),
        ("train --help", HEAVY),
        ("evaluate --help", HEAVY),
        ("recipes list", HEAVY),
        ("recipes show mnist", HEAVY),
        ("data list", ("torch", "sklearn", "scipy", "matplotlib", "polars", "numpy", "safetensors")),
        ("trian", HEAVY),
        ("train digits --model.latent-dim 0", HEAVY),
    ],
)
def test_what_needs_no_model_loads_nothing_heavy(command: str, unwanted: tuple[str, ...]) -> None:
    loaded = loaded_by(WATCH.format(argv=command.split()))
    assert "cyclopts" in loaded  # else nothing was watched
    assert not loaded & set(unwanted)


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
