"""Reports in a browser, Debian's Chromium without a head: nothing fails, nothing is fetched, all can be seen and read.

Where there is no Chromium these tests are skipped, but not where CI is set: there its absence is a failure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from elbowroom.cli import main
from elbowroom.showing.figures.style import number

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.drawn

HOSTILE = "<img src=x onerror=alert(1)>"
TINY = ("--model.encoder.hidden", "6", "--model.decoder.hidden", "6", "--model.latent-dim", "2", "--train.epochs", "2")
RECIPE = """
[data]
name = "bits.npy"
validation = 0
test = 30
[model]
latent_dim = 2
encoder = {{ hidden = [{width}] }}
decoder = {{ hidden = [4] }}
[train]
batch_size = 20
"""
WIDTHS = (400, 800, 1400)

# the least contrast of any visible text with what lies behind it, and where; WCAG 2
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
                           return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const linear = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = colour => { const [r, g, b] = colour.map(linear);
                            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = element => { for (; element; element = element.parentElement) {
      const colour = rgba(getComputedStyle(element).backgroundColor); if (colour[3] === 255) return colour; }
    return [255, 255, 255, 255]; };
  let worst = [99, ""];
  for (const element of document.body.querySelectorAll("*")) {
    const said = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!said || element.closest(".unseen, .skip") || !element.getClientRects().length) continue;
    const [a, b] = [light(rgba(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < worst[0]) worst = [ratio, element.tagName + " " + element.textContent.slice(0, 60)];
  }
  return worst;
}"""


@dataclass
class Seen:
    """An open page, and what happened on it."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, _lonely_machine: None) -> dict[str, Path]:
    """Reports of a run that is measured, of one that is not, and of a comparison; their names are not kind."""
    folder = tmp_path_factory.mktemp("browser")
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["train", "digits", *TINY, "--quiet", "--out", f"full {HOSTILE}"])
        few = ("--points", "20", "--k", "8")
        methods = "elbo,iwae,active-units,k-curve,ais,bdmc"
        main(["evaluate", f"full {HOSTILE}", "--methods", methods, *few, "--simulated", "20", "--temperatures", "2"])
        main(["evaluate", f"full {HOSTILE}", "--methods", "room", *few])
        main(["doctor", f"full {HOSTILE}", "--points", "60"])
        main(["train", "digits", *TINY, "--quiet", "--out", "bare", "--model.likelihood", "cross-entropy",
              "--data.binarization", "none"])  # fmt: skip
        np.save("bits.npy", rng.integers(0, 2, (140, 6)).astype(np.uint8))
        for name, width in ((HOSTILE, 4), ("other", 9)):
            Path(f"{name}.toml").write_text(RECIPE.format(width=width))
        main(["compare", f"{HOSTILE}.toml", "other.toml", "--visits", "400", "--moments", "3", "--points", "20",
              "--k", "5", "--out", "comparison"])  # fmt: skip
        for name in (f"full {HOSTILE}", "bare", "comparison"):
            main(["report", name])
    return {
        "full": folder / f"full {HOSTILE}" / "report.html",
        "bare": folder / "bare" / "report.html",
        "comparison": folder / "comparison" / "report.html",
    }


@pytest.fixture(scope="module", params=["full", "bare", "comparison"])
def opened(request: pytest.FixtureRequest, browser: Browser, pages: dict[str, Path]) -> Iterator[Seen]:
    """A page for all tests: to open it takes longer than to look at it."""
    context = browser.new_context()
    seen = Seen(context.new_page())
    seen.page.on("request", lambda asked: seen.requests.append(asked.url))
    seen.page.on("console", lambda message: seen.complaints.append(message.text))
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    seen.page.on("dialog", lambda dialog: (seen.complaints.append(dialog.message), dialog.dismiss()))
    seen.page.goto(pages[request.param].as_uri(), wait_until="load")
    yield seen
    context.close()


@pytest.fixture
def seen(opened: Seen) -> Seen:
    """The page on a screen, whatever the test before has made of it."""
    opened.page.set_viewport_size({"width": 800, "height": 900})
    opened.page.emulate_media(media="null", color_scheme="null")
    return opened


def test_nothing_fails_and_nothing_is_fetched(seen: Seen) -> None:
    assert seen.complaints == []
    assert [url for url in seen.requests if not url.startswith("data:")] == [seen.page.url]
    assert seen.page.url.startswith("file://")
    assert seen.page.evaluate("document.scripts.length") == 0


def test_every_picture_can_be_seen(seen: Seen) -> None:
    images = seen.page.evaluate("[...document.images].map(i => [i.complete, i.naturalWidth, i.naturalHeight, i.alt])")
    assert images
    for complete, width, height, alt in images:
        assert complete and width > 100 and height > 50
        assert len(alt) > 20


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_scrolls_sideways(width: int, seen: Seen) -> None:
    seen.page.set_viewport_size({"width": width, "height": 900})
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    wide = seen.page.evaluate(
        "[...document.querySelectorAll('main > section > *, header > *')]"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(scheme: Any, seen: Seen) -> None:
    seen.page.emulate_media(color_scheme=scheme)
    ratio, where = seen.page.evaluate(CONTRAST)
    assert ratio >= 4.5, where
    dark = seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    assert dark == (scheme == "dark")


def test_the_keyboard_reaches_all_and_shows_where_it_is(seen: Seen) -> None:
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.className") == "skip"
    assert seen.page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    inner = seen.page.evaluate("[...document.querySelectorAll('.scroll, .readable')].every(box => box.tabIndex === 0)")
    assert inner


def test_it_prints(seen: Seen) -> None:
    seen.page.emulate_media(media="print")
    assert not seen.page.locator("nav").is_visible()
    assert seen.page.pdf()[:4] == b"%PDF"


def cells(page: Page) -> list[str]:
    found: list[str] = page.evaluate("[...document.querySelectorAll('td.number')].map(cell => cell.textContent.trim())")
    return found


def test_tables_hold_the_numbers_of_the_results(browser: Browser, pages: dict[str, Path]) -> None:
    page = browser.new_page()
    page.goto(pages["full"].as_uri())
    shown = cells(page)
    results = json.loads((pages["full"].parent / "evaluation.json").read_text())["results"]
    assert len(results) > 15
    for result in results:
        assert number(result["value"], ".0f" if result["unit"] == "units" else ".3f") in shown, result["name"]
        assert result["stderr"] is None or number(result["stderr"], ".3f") in shown, result["name"]
    assert page.locator("h1").inner_text() == f"full {HOSTILE}"
    page.close()


def test_tables_hold_the_numbers_of_a_comparison(browser: Browser, pages: dict[str, Path]) -> None:
    page = browser.new_page()
    page.goto(pages["comparison"].as_uri())
    shown = cells(page)
    rows = json.loads((pages["comparison"].parent / "compare.json").read_text())["rows"]
    assert len(rows) == 6
    for row in rows:
        assert number(row["value"]) in shown
        assert row["moment"] < 400 or number(row["stderr"]) in shown
    assert HOSTILE in page.locator("main").inner_text()
    page.close()


def test_a_folded_recipe_unfolds(browser: Browser, pages: dict[str, Path]) -> None:
    page = browser.new_page()
    page.goto(pages["full"].as_uri())
    recipe = page.locator("details pre").first
    assert not recipe.is_visible()
    page.locator("summary").first.click()
    assert recipe.is_visible() and "latent_dim = 2" in recipe.inner_text()
    page.close()
