"""Pages of the book show what a reader can use, public names alone, and code that fits the column of the site."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import elbowroom

PAGES = sorted((Path(__file__).parents[2] / "docs" / "book").glob("*.py"))
WIDTH = 96  # characters of code that the column holds; see docs/_static/site.css


def hidden_names(source: str) -> list[str]:
    """What a page takes from elbowroom other than by ``import elbowroom as er`` and public names of ``er``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found += [
                    f"import {alias.name}"
                    for alias in names
                    if alias.name.split(".")[0] == "elbowroom" and (alias.name, alias.asname) != ("elbowroom", "er")
                ]
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] == "elbowroom":
                found.append(f"from {module} import")
            case ast.Attribute(value=ast.Name(id="er"), attr=name) if name not in elbowroom.__all__:
                found.append(f"er.{name}")
    return found


def code_of(page: str) -> list[str]:
    """The lines of a percent file that the site shows as code."""
    lines, code = [], False
    for line in page.splitlines():
        if line.startswith("# %%"):
            code = "[markdown]" not in line
        elif code:
            lines.append(line)
    return lines


def wide_lines(page: str) -> list[str]:
    return [line for line in code_of(page) if len(line) > WIDTH]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_uses_public_names_alone(page: Path) -> None:
    assert hidden_names(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_fits_the_column(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(code_of(text)) > 20
    assert wide_lines(text) == []


def test_there_are_thirteen_pages() -> None:
    assert len(PAGES) == 13


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        ("import elbowroom.samplers", ["import elbowroom.samplers"]),
        ("import elbowroom", ["import elbowroom"]),
        ("from elbowroom import plots", ["from elbowroom import"]),
        ("def f():\n    from elbowroom.numerics import chunks", ["from elbowroom.numerics import"]),
        ("import elbowroom as er\ner.running.train", ["er.running"]),
        ("import elbowroom as er\ner.plots.image_grid(er.load('a'))", []),
        ("import elbows\nfrom torch import nn", []),
    ],
)
def test_a_hidden_name_is_found(planted: str, said: list[str]) -> None:
    assert hidden_names(planted) == said


def test_a_wide_line_is_found_in_code_alone() -> None:
    wide = "x" * (WIDTH + 1)
    assert wide_lines(f"# %% [markdown]\n# {wide}\n\n# %%\n{wide}\n{wide[1:]}\n# {wide}") == [wide, f"# {wide}"]
