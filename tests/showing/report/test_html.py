"""The page of a report: whatever it is told it escapes, and whoever reads it, by whatever means, can."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from importlib import resources
from itertools import pairwise

import pytest
from jinja2 import UndefinedError

from elbowroom.showing.report.blocks import (
    Block,
    Column,
    Commands,
    FactList,
    FactSheet,
    Figure,
    Group,
    Headline,
    Listing,
    Problem,
    Prose,
    Report,
    ReportSection,
    Table,
    Tile,
)
from elbowroom.showing.report.html import page

VOID = {"meta", "link", "img"}
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)> & `<b>{{ 7 * 7 }}</b>` {% raw %} ` --></style>"


def full(text: str) -> Report:
    """A report that says the same everywhere, in every kind of block."""
    table = Table(text, (Column(""), Column(text), Column(text, numeric=True)), (Group(((text,) * 3,), text),))
    plain = Table(text, (Column(text), Column(text)), (Group(((text, text),)),))
    blocks: tuple[Block, ...] = (
        Prose(text),
        Prose(text, tone="missing"),
        FactSheet((FactList(text, ((text, text),)),)),
        table,
        plain,
        Figure(PNG, text, text, 900, 300, readable=True),
        Figure(b"\xff\xd8\xff", text, text, 300, 300),
        Problem("severe", text, ((text, text),), text, text),
        Problem("note", text, (), text, text),
        Commands((text, text)),
        Listing(text, text),
    )
    return Report(
        subject="run",
        name=text,
        place=text,
        lead=text,
        headline=Headline(text, text, text, (text, text), tone="warning"),
        tiles=(Tile(text, text, text),),
        sections=(ReportSection("one", text, text, blocks), ReportSection("two", text, text, blocks)),
        maker=text,
    )


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    inside: tuple[str, ...]
    text: str = ""


@dataclass
class Reader(HTMLParser):
    """Elements in their order, each with its text; a tag that is not closed, or closed twice, is a failure."""

    elements: list[Element] = field(default_factory=list)
    open: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice"
        element = Element(tag, dict(attrs), tuple(one.tag for one in self.open))
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data

    def all(self, *tags: str) -> list[Element]:
        return [element for element in self.elements if element.tag in tags]


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


TAGS = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "link",
        "style",
        "body",
        "header",
        "nav",
        "main",
        "footer",
        "section",
        "article",
    ),
    *("a", "p", "h1", "h2", "h3", "div", "span", "strong", "dl", "dt", "dd", "ol", "li", "pre", "code"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "figure", "img", "figcaption", "details", "summary"),
}


def test_whatever_is_said_is_escaped() -> None:
    text = page(full(HOSTILE))
    reader = read(text)
    assert {element.tag for element in reader.elements} <= TAGS
    assert not any(name.startswith("on") for element in reader.elements for name in element.attributes)
    assert {a.attributes["href"] for a in reader.all("a")} == {"#content", "#one", "#two"}
    assert all((image.attributes["src"] or "").startswith("data:image/") for image in reader.all("img"))
    assert [style.text.count("script") for style in reader.all("style")] == [0]
    assert "{{ 7 * 7 }}" in text


@pytest.mark.parametrize("tag", ["h1", "h3", "dd", "th", "td", "caption", "figcaption", "summary", "pre"])
def test_hostile_text_is_shown_as_it_is(tag: str) -> None:
    found = [element.text for element in read(page(full(HOSTILE))).all(tag)]
    assert found
    plain = HOSTILE.replace("`", "")  # in prose a pair of them sets code apart
    assert any(HOSTILE in text or plain in text.replace("`", "") for text in found)


def test_nothing_comes_from_elsewhere() -> None:
    text = page(full("x"))
    assert "http:" not in text and "https:" not in text and "url(" not in text and "@import" not in text
    assert "default-src 'none'" in text
    assert not read(text).all("script", "iframe", "object", "embed")


def test_headings_are_in_order() -> None:
    levels = [int(element.tag[1]) for element in read(page(full("x"))).all("h1", "h2", "h3")]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_landmarks_and_language() -> None:
    reader = read(page(full("x")))
    assert reader.all("html")[0].attributes["lang"] == "en"
    for tag in ("header", "nav", "main", "footer", "title"):
        assert len(reader.all(tag)) == 1
    anchors = {element.attributes["id"] for element in reader.elements if "id" in element.attributes}
    assert len(anchors) == sum("id" in element.attributes for element in reader.elements)
    assert {(a.attributes["href"] or "").removeprefix("#") for a in reader.all("a")} <= anchors
    assert all(element.attributes.get("aria-labelledby") in anchors for element in reader.all("section"))


def test_every_picture_is_said_in_words() -> None:
    reader = read(page(full("what is seen")))
    images = reader.all("img")
    assert len(images) == 4
    for image in images:
        assert image.attributes["alt"] == "what is seen"
        assert int(image.attributes["width"] or 0) > 0 and int(image.attributes["height"] or 0) > 0
        assert "figure" in image.inside
    assert len(reader.all("figcaption")) == len(images)
    kinds = {(image.attributes["src"] or "").partition(";")[0] for image in images}
    assert kinds == {"data:image/png", "data:image/jpeg"}


def test_tables_name_their_rows_and_columns() -> None:
    reader = read(page(full("x")))
    assert len(reader.all("table")) == len(reader.all("caption")) == 8
    assert {cell.attributes.get("scope") for cell in reader.all("th")} == {"col", "row", "rowgroup"}
    rows = [one for one in reader.elements if one.tag in ("th", "td") and one.inside[-2:] == ("tbody", "tr")]
    assert sum(one.attributes.get("scope") == "row" for one in rows) == 6 and len(rows) == 16  # the others are data
    scrolling = [one for one in reader.all("div") if one.attributes.get("class") == "scroll"]
    assert scrolling and all(one.attributes["tabindex"] == "0" for one in scrolling)  # by the keyboard too


def test_equal_reports_are_equal_pages() -> None:
    assert page(full("x")) == page(full("x")) != page(replace(full("x"), lead="y"))


def test_commands_in_prose_are_set_apart() -> None:
    def of(text: str) -> list[str]:
        section = ReportSection("one", "One", "One", (Prose(text),))
        report = replace(full("x"), sections=(section,), headline=Headline("a", "b", "c", ()))
        return [element.text for element in read(page(report)).all("code")]

    assert of("ask `elbowroom doctor x` and `y < z`") == ["elbowroom doctor x", "y < z"]
    assert of("a lonely ` backtick") == []
    assert of("`one` and a lonely ` backtick") == ["one"]


def test_what_the_page_does_not_know_is_an_error() -> None:
    class Strange:
        kind = "strange"

    strange: Block = Strange()  # type: ignore[assignment]
    with pytest.raises(UndefinedError):
        page(replace(full("x"), sections=(ReportSection("one", "One", "One", (strange,)),)))


def test_a_row_too_long_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"\[3\] cells under 2"):
        Table("t", (Column("a"), Column("b")), (Group((("1", "2", "3"),)),))


# --- colours -----------------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def palettes() -> dict[str, dict[str, str]]:
    """The colours of the style sheet, in light and in dark."""
    sheet = (resources.files("elbowroom.showing") / "templates" / "report.css.j2").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", sheet, re.DOTALL)[:2]
    light, dark = (dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})\b", block)) for block in blocks)
    return {"light": light, "dark": {**light, **dark}}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("ground", ["paper", "card", "tint", "warning-tint"])
@pytest.mark.parametrize("ink", ["ink", "soft", "accent", "severe", "warning"])
def test_every_text_stands_out(scheme: str, ground: str, ink: str) -> None:
    colours = palettes()[scheme]
    assert contrast(colours[ink], colours[ground]) >= 4.5


def test_the_measure_of_contrast() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert palettes()["light"]["accent"] == "#0072b2"  # that of the figures
    assert palettes()["light"]["paper"] != palettes()["dark"]["paper"]
