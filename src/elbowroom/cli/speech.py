"""Output of commands: results go to standard output, messages to standard error, so that ``--json`` stays clean."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elbowroom.running.json_text import json_text

__all__ = ["print_json", "remark", "say", "wrote"]


def say(text: str = "") -> None:
    """Prints a result to standard output."""
    print(text)  # noqa: T201


def remark(text: str) -> None:
    """Prints a message that is not a result to standard error."""
    print(text, file=sys.stderr)  # noqa: T201


def print_json(content: Mapping[str, Any]) -> None:
    """Prints one JSON object to standard output."""
    say(json_text(content))


def wrote(*paths: Path) -> None:
    """Prints the files that were written, one per line."""
    for path in paths:
        say(f"wrote {path}")
