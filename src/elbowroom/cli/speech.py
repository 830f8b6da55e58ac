"""How commands speak: results go to standard output, remarks to standard error, so that ``--json`` stays clean."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elbowroom.running.json_text import json_text

__all__ = ["print_json", "remark", "say", "wrote"]


def say(text: str = "") -> None:
    """A result, to standard output."""
    print(text)  # noqa: T201


def remark(text: str) -> None:
    """What is no result: to standard error."""
    print(text, file=sys.stderr)  # noqa: T201


def print_json(content: Mapping[str, Any]) -> None:
    """One JSON object, to standard output."""
    say(json_text(content))


def wrote(*paths: Path) -> None:
    """Names the files that were written, one a line."""
    for path in paths:
        say(f"wrote {path}")
