"""Links in Markdown lead somewhere, as the files stand in the repository: to files, headings, well-formed addresses.

Addresses of other sites are not visited. Those of the built site are followed by ``test_site.py``.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "bench").glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "docs").rglob("*.py"),
]
PAGES = sorted(page for page in PAGES if not {"_build", "_ext"} & set(page.parts) and page.name != "conf.py")

_CODE = re.compile(r"^(\s*)(`{3,}|~{3,})[^\n]*\n.*?^\1\2`*\s*$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!\\)\]\(([^()\s]+(?:\([^()\s]*\)[^()\s]*)*)\)")
_DOC = re.compile(r"\{doc\}`(?:[^`<]*<)?([^`<>]+)>?`")


def links_of(page: Path) -> list[str]:
    """The targets of a page's links; those of ``{doc}`` with an ending."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".py":  # of a page of the book, its prose
        text = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    documents = [f"{name}.md" for name in _DOC.findall(text)]
    return [*_LINK.findall(_CODE.sub("", text)), *documents]


@cache
def headings_of(page: Path) -> frozenset[str]:
    """What can stand behind the # of a link to a page: its headings, as GitHub and MyST make names of them."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".py":
        text = re.sub(r"^# ?", "", text, flags=re.MULTILINE)
    if included := re.search(r"^```\{include\} (\S+)$", text, re.MULTILINE):
        return headings_of((page.parent / included[1]).resolve())
    if "```{elbowroom-commands}" in text:  # its headings are made from the code, and tested with it
        text += "\n## elbowroom train\n"
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return frozenset({*map(_slug, titles), *re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE)})


def _slug(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


def fault(page: Path, link: str) -> str | None:
    """What is wrong with a link of a page; None if nothing is."""
    address = urlparse(link)
    if address.scheme:
        right = address.scheme in ("http", "https") and re.fullmatch(r"[\w-]+(\.[\w-]+)+", address.netloc)
        return None if right else f"{link} is no address"
    target = (page.parent / unquote(address.path)).resolve() if address.path else page
    if target.suffix == ".md" and not target.exists() and target.with_suffix(".py").exists():
        target = target.with_suffix(".py")  # a page of the book
    if not target.exists():
        return f"{link} leads to nothing"
    if address.fragment and target.suffix in (".md", ".py") and unquote(address.fragment) not in headings_of(target):
        return f"{link} leads to no such heading"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert [said for link in links_of(page) if (said := fault(page, link))] == []


def test_links_are_found_at_all() -> None:
    assert sum(len(links_of(page)) for page in PAGES) > 100


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("[x](nowhere.md)", "leads to nothing"),
        ("[x](#nowhere)", "no such heading"),
        ("[x](other.md#nowhere)", "no such heading"),
        ("[x](https://localhost)", "no address"),
        ("[x](htp://example.org)", "no address"),
        ("![x](nowhere.png)", "leads to nothing"),
        ("{doc}`the page <nowhere>`", "leads to nothing"),
        ("[x](other.md#a-heading-of-2-words)", None),
        ("[x](#title)", None),
        ("`[x](nowhere.md)`", None),
        ("```text\n[x](nowhere.md)\n```", None),
        ("[x](https://en.wikipedia.org/wiki/Set_(mathematics))", None),
    ],
)
def test_faults_are_found_and_nothing_else(link: str, said: str | None, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{link}\n", encoding="utf-8")
    (tmp_path / "other.md").write_text("## A heading, of 2 words\n", encoding="utf-8")
    found = [one for link in links_of(page) if (one := fault(page, link))]
    assert (found == []) if said is None else (len(found) == 1 and said in found[0])
