"""What the site's own extensions do: formulas become MathML or stop the build, docstrings are read as prose, links lead
to pages, to highlighted sources or to copies."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("sphinx")
pytest.importorskip("latex2mathml")

from sphinx.errors import ExtensionError

ROOT = Path(__file__).parents[2]


def extension(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "_ext" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- formulas ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "latex", [r"\log p(x) \le \mathbb{E}_q[w]", r"\arg\max_z", r"\mathrm{KL}(q \,\|\, p)", "x < y"]
)
def test_a_formula_becomes_mathml(latex: str) -> None:
    made = extension("mathml").mathml(latex, block=False)
    assert made.startswith("<math")
    assert "\\" not in made


def test_spaces_are_those_of_tex() -> None:
    made = extension("mathml").mathml(r"(-a) \log p \sim \beta", block=False)
    assert '</mo><mspace width="0.167em" /><mi>log</mi><mspace' in made
    assert "<mo>&#x0223C;</mo>" in made
    assert '<mo form="prefix">&#x02212;</mo>' in made


@pytest.mark.parametrize("latex", [r"\nosuchcommand x", r"\left[ x"])
def test_a_formula_that_is_not_understood_stops_the_build(latex: str) -> None:
    with pytest.raises(ExtensionError, match="No MathML for"):
        extension("mathml").mathml(latex, block=True)


# --- docstrings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "read"),
    [
        ("x of shape (batch, *event)", r"x of shape (batch, \*event)"),
        (r"already (\*, D)", r"already (\*, D)"),
        ("log |det C|, nats", r"log \|det C\|, nats"),
        ("the *naive* estimator of L[q*]", r"the *naive* estimator of L[q\*]"),
        ("``(*, D)`` and `a|b` and :math:`|x|`", "``(*, D)`` and `a|b` and :math:`|x|`"),
        ("**afresh** at every visit", "**afresh** at every visit"),
    ],
)
def test_stars_and_bars_mean_themselves(line: str, read: str) -> None:
    assert extension("docstrings").escaped(line) == read


# --- links -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "target", "leads_to"),
    [
        ("speed", "../src/elbowroom/model/fused.py", "_modules/elbowroom/model/fused.html"),
        ("speed", "../bench/RESULTS.md", "bench/results.html"),
        ("index", "CONTRIBUTING.md", "howto/contributing.html"),
        ("index", "docs/training-methods.md#on-one-clock", "training-methods.html#on-one-clock"),
        ("index", "examples/adopt.py", "files/examples/adopt.py.txt"),
        ("speed", "../nowhere.md", None),
        ("speed", "../../outside.md", None),
    ],
)
def test_links_out_of_the_folder_lead_into_the_site(page: str, target: str, leads_to: str | None) -> None:
    assert extension("links").destination(page, target) == leads_to


def test_every_page_that_is_included_has_a_page_and_exists() -> None:
    for page, file in extension("links").INCLUDED.items():
        assert (ROOT / file).is_file()
        text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
        assert f"{'../' * (page.count('/') + 1)}{file}" in text, f"docs/{page}.md should include {file}"
