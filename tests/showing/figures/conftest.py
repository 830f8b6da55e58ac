"""Figures are drawn here."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="module")
def _blank_pictures() -> None:
    """In the place of the fixture of all other tests, which leaves pictures blank."""
