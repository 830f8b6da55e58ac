"""How commands speak: results go to standard output, remarks to standard error, so that ``--json`` stays clean."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["finite", "print_json", "remark", "say", "wrote"]


def say(text: str = "") -> None:
    """A result, to standard output."""
    print(text)  # noqa: T201


def remark(text: str) -> None:
    """What is no result: to standard error."""
    print(text, file=sys.stderr)  # noqa: T201


def print_json(content: Mapping[str, Any]) -> None:
    """One JSON object, to standard output; what is not a finite number is null, since JSON has no word for it."""
    say(json.dumps(finite(content), indent=2, default=str, allow_nan=False))


def finite(value: Any) -> Any:
    """The same content with null for every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def wrote(*paths: Path) -> None:
    """Names the files that were written, one a line."""
    for path in paths:
        say(f"wrote {path}")
