"""Docstrings as Sphinx reads them: those of this package are plain prose first, and reStructuredText second.

``(*, latent)`` and ``log |det C|`` are shapes and formulas, not the beginnings of emphasis or of a substitution; a
field's sentence may hold a colon, "p(z): standard normal, …", and has no type before it.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

# literals, roles and what is in them, emphasised words; all else of a line is prose
_MARKED = re.compile(r"(``.+?``|(?::[\w:+-]+:)?`[^`]+`|(?<![\w*\\])\*{1,2}[A-Za-z][^*|]*?\*{1,2}(?![\w*]))")


def escaped(line: str) -> str:
    r"""A line whose stars and bars mean themselves.

    Example:
        >>> escaped("shape (*, D), ``(*,)``, *not* log |C|; (\\*, K)")
        'shape (\\*, D), ``(*,)``, *not* log \\|C\\|; (\\*, K)'
    """
    parts = _MARKED.split(line)
    return "".join(part if place % 2 else re.sub(r"(?<!\\)([*|])", r"\\\1", part) for place, part in enumerate(parts))


def _process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    formula: int | None = None  # the indent of a directive or literal block
    for place, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if formula is not None and line.strip() and indent <= formula:
            formula = None
        if formula is None and (line.lstrip().startswith(".. ") or line.rstrip().endswith("::")):
            formula = indent
        if formula is None and not line.lstrip().startswith((">>>", "...")):
            bullet = re.match(r"\s*(?:\* )?", line)
            start = bullet.end() if bullet else 0
            lines[place] = line[:start] + escaped(line[start:])
    if what == "attribute" and lines and lines[0]:
        lines.insert(0, "")  # or napoleon takes all before a colon for a type


def _skip(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    # a field of a NamedTuple is told by its class; by itself it is "Alias for field number 0"
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Listens before napoleon does."""
    app.connect("autodoc-process-docstring", _process, priority=100)
    app.connect("autodoc-skip-member", _skip)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
