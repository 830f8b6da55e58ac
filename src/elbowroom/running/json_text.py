"""JSON text that any program can read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["json_text"]


def json_text(content: Mapping[str, Any]) -> str:
    """One JSON object; numbers that are not finite become null, since JSON does not have them.

    Example:
        >>> json_text({"value": float("nan"), "among": (1.5, float("inf"))}).split()
        ['{', '"value":', 'null,', '"among":', '[', '1.5,', 'null', ']', '}']
    """
    return json.dumps(_finite(content), indent=2, default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    """The same content with null for every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value
