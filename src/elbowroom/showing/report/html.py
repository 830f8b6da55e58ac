"""A report as one HTML page: a pure function, equal reports give equal pages.

All text is escaped, whatever it says. A policy in the page itself forbids scripts and every request to a network, so
that a browser refuses what a mistake here might let through.
"""

from __future__ import annotations

import base64
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from elbowroom.showing.report.blocks import Figure, Report

__all__ = ["page"]


def page(report: Report) -> str:
    """The HTML page of a report, self-contained.

    Args:
        report: its content.
    Returns:
        HTML, with style and pictures inside, without scripts.
    Example:
        >>> from elbowroom.showing.report.blocks import Headline
        >>> headline = Headline("log p(x) ≥", "−91.35 ± 0.24", "nats per example", ())
        >>> text = page(Report("run", "a < b", "runs/x", "Twenty latents.", headline, (), (), "elbowroom 0"))
        >>> "<h1>a &lt; b</h1>" in text, "<script" in text
        (True, False)
    """
    return _environment().get_template("report.html.j2").render(report=report)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("elbowroom.showing", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = _prose
    environment.filters["words"] = _words
    environment.filters["uri"] = _uri
    return environment


def _prose(text: str) -> Markup:
    """Escaped text in which `…` became code.

    Example:
        >>> _prose("run `a < b`")
        Markup('run <code><span>a</span> <span>&lt;</span> <span>b</span></code>')
    """
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick without a partner is a backtick
        parts[-2:] = ["`".join(parts[-2:])]
    return Markup("").join(_words(part) if place % 2 else escape(part) for place, part in enumerate(parts))


def _words(line: str) -> Markup:
    """A command as code that breaks between its words, and not at the hyphens of its flags.

    Example:
        >>> _words("a --b")
        Markup('<code><span>a</span> <span>--b</span></code>')
    """
    words = Markup(" ").join(Markup("<span>{}</span>").format(word) for word in line.split(" "))
    return Markup("<code>{}</code>").format(words)


def _uri(figure: Figure) -> str:
    """The picture as a data URI."""
    kind = "png" if figure.image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(figure.image).decode('ascii')}"
