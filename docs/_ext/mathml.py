"""Mathematics as MathML, made when the site is built: browsers draw it themselves, with no script and no network."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

#: what latex2mathml does not know, in terms of what it does
_KNOWN = ((re.compile(r"\\arg(?![A-Za-z])"), r"\\operatorname{arg}"), (re.compile(r"\\big(\\[{}])"), r"\1"))
#: what it makes that browsers would space otherwise than TeX does: a relation, the spaces around log, a sign
_SPACED = (
    (re.compile(r"<mi>&#x0007E;</mi>"), "<mo>&#x0223C;</mo>"),
    (
        re.compile(r"(?<!<msub>)(?<!<msup>)(<mi>(?:log|exp|sinh)</mi>)(?!<mo|<mspace|</)"),
        r'\1<mspace width="0.167em" />',
    ),
    (re.compile(r"(</m(?!o)\w+>|&#x00029;</mo>)(<mi>(?:log|exp|sinh)</mi>)"), r'\1<mspace width="0.167em" />\2'),
    (re.compile(r"(<mo[^>]*>(?:&#x00028;|[\[(=,])</mo>)<mo>&#x02212;</mo>"), r'\1<mo form="prefix">&#x02212;</mo>'),
)


def mathml(latex: str, *, block: bool) -> str:
    """A formula as MathML.

    Raises:
        ExtensionError: a command that is not understood, and would be shown as it stands; a brace that is not closed.
    """
    known = latex.strip()
    for unknown, instead in _KNOWN:
        known = unknown.sub(instead, known)
    try:
        converted: str = convert(known, display="block" if block else "inline")
    except Exception as error:
        raise ExtensionError(f"No MathML for the formula {latex!r}: {type(error).__name__}") from error
    left = re.search(r">[^<]*(\\[A-Za-z]+)", converted)
    if left:
        raise ExtensionError(f"No MathML for {left.group(1)} in the formula {latex!r}.")
    for wrong, right in _SPACED:
        converted = wrong.sub(right, converted)
    return converted


def _rendered(node: nodes.Node, *, block: bool) -> str:
    try:
        return mathml(node.astext(), block=block)
    except ExtensionError as error:
        raise ExtensionError(f"{node.source}:{node.line}: {error.message}") from error


def _visit_math(translator: Any, node: nodes.math) -> None:
    translator.body.append(_rendered(node, block=False))
    raise nodes.SkipNode


def _visit_block(translator: Any, node: nodes.math_block) -> None:
    number = f'<span class="eqno">({node["number"]})</span>' if node.get("number") else ""
    attributes = {"ids": node.get("ids", [])}
    translator.body.append(translator.starttag(node, "div", CLASS="math-block", **attributes))
    translator.body.append(f"{_rendered(node, block=True)}{number}</div>")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the renderer under the name by which `html_math_renderer` chooses it."""
    app.add_html_math_renderer("mathml", (_visit_math, None), (_visit_block, None))
    app.config.html_math_renderer = "mathml"  # type: ignore[attr-defined]
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
