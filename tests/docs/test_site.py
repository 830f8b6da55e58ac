"""The documentation as a site, opened in a browser: no script fails, nothing is fetched from anywhere, every picture
shows, every link leads somewhere, no formula is left as LaTeX, and no page scrolls sideways on a small screen.

It is the site that `make docs` has built, if nothing has changed since; CI builds it before it tests. Otherwise these
tests are slow ones, and build a site whose pages are not run, with warnings as errors.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest

pytest.importorskip("sphinx")

ROOT = Path(__file__).parents[2]
DOCS, BUILT = ROOT / "docs", ROOT / "docs" / "_build" / "html"
WIDTHS = (400, 800, 1400)
PARTS = 40  # of the pages: processes that share the tests begin with the files that have most of them


def _is_fresh() -> bool:
    """Whether `make docs` has built the site since anything was changed."""
    built = BUILT / "search.html"  # written last
    sources = [*DOCS.rglob("*"), *(ROOT / "src").rglob("*.py"), *ROOT.glob("*.md"), *(ROOT / "bench").glob("*.md")]
    sources = [file for file in sources if file.is_file() and "_build" not in file.parts and file.suffix != ".pyc"]
    return built.is_file() and all(file.stat().st_mtime <= built.stat().st_mtime for file in sources)


FRESH = _is_fresh()
of_the_site = (lambda test: test) if FRESH else pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site that `make docs` has built, if nothing has changed since; otherwise built here, its pages not run."""
    if FRESH:
        return BUILT
    folder = tmp_path_factory.mktemp("site")
    flags = ("-q", "-W", "--keep-going", "-D", "nb_execution_mode=off", "-j", "2")
    said = subprocess.run(
        [sys.executable, "-m", "sphinx", *flags, str(DOCS), str(folder / "html")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert said.returncode == 0, said.stderr[-4000:]
    return folder / "html"


@cache
def places(page: Path) -> frozenset[str]:
    """What a link can point to in a page."""
    return frozenset(re.findall(r"""\bid=["']([^"']+)["']""", page.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def tab(browser: Any) -> Iterator[Any]:
    """A tab of the browser, for one page after the other: a new one for each takes as long as the page."""
    context = browser.new_context()
    yield context.new_page()
    context.close()


def faults(opened: Any, page: Path) -> list[str]:
    """What is wrong with a page, opened in a tab, in words."""
    told: list[str] = []
    listeners: dict[str, Callable[[Any], None]] = {
        "console": lambda message: told.append(f"console: {message.text}") if message.type == "error" else None,
        "pageerror": lambda error: told.append(f"script: {error}"),
        "request": lambda asked: (
            None if asked.url.startswith(("file:", "data:")) else told.append(f"fetched {asked.url}")
        ),
    }
    for event, listener in listeners.items():
        opened.on(event, listener)
    opened.goto(page.as_uri(), wait_until="load")
    seen = list(_faults_seen(opened))
    for event, listener in listeners.items():
        opened.remove_listener(event, listener)
    return told + seen


def _faults_seen(opened: Any) -> Iterator[str]:
    """What is wrong with the page that is open, apart from what the browser says of its own."""
    for source, width, alt in opened.evaluate("[...document.images].map(i => [i.src, i.naturalWidth, i.alt])"):
        if not width:
            yield f"picture without a size: {source}"
        if not alt:
            yield f"picture without a text: {source}"
    for width in WIDTHS:
        opened.set_viewport_size({"width": width, "height": 900})
        beyond = opened.evaluate("document.documentElement.scrollWidth") - width
        if beyond > 0:
            yield f"{beyond} pixels too wide on a screen of {width}"
    text = opened.evaluate("[...document.querySelectorAll('math')].map(m => m.textContent).join(' ')")
    if "\\" in text:
        yield f"LaTeX left in a formula: {text[max(0, text.index(chr(92)) - 20) :][:60]}"
    for link in opened.evaluate("[...document.links].map(a => a.href)"):
        address, anchor = urldefrag(link)
        if not address.startswith("file://"):
            continue
        target = Path(unquote(address.removeprefix("file://")))
        if not target.is_file():
            yield f"link to nothing: {link}"
        elif anchor and target.suffix == ".html" and unquote(anchor) not in places(target):
            yield f"link to no such place: {link}"


@of_the_site
@pytest.mark.parametrize("part", range(PARTS))
def test_every_page_can_be_read(part: int, site: Path, tab: Any) -> None:
    pages = sorted(page for page in site.rglob("*.html") if "_modules" not in page.parts)
    assert len(pages) > 70
    found = {str(page.relative_to(site)): faults(tab, page) for page in pages[part::PARTS]}
    assert {name: said for name, said in found.items() if said} == {}


@of_the_site
def test_formulas_are_mathml(site: Path) -> None:
    page = (site / "book" / "05-variational-inference.html").read_text(encoding="utf-8")
    assert page.count("<math") > 20
    assert re.search(r"<script[^>]*mathjax", page, re.IGNORECASE) is None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("<img src='none.png' alt='a digit'>", "without a size"),
        ("<img src='data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=='>", "without a text"),
        ("<div style='width: 500px'>wide</div>", "too wide on a screen of 400"),
        ("<math><mi>\\arg</mi></math>", "LaTeX left"),
        ("<a href='nowhere.html'>there</a>", "link to nothing"),
        ("<a href='#nowhere'>there</a>", "link to no such place"),
        ("<script>throw new Error('no')</script>", "script: no"),
        ("<script src='https://example.org/x.js'></script>", "fetched https://example.org"),
    ],
)
def test_a_fault_is_found(body: str, said: str, tab: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><html lang='en'><body>{body}</body></html>", encoding="utf-8")
    assert any(said in fault for fault in faults(tab, page))


def test_a_page_without_faults_has_none(tab: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><html lang='en'><body><p id='x'>x <a href='#x'>x</a></p></body></html>", "utf-8")
    assert faults(tab, page) == []
