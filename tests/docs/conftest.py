"""Pages show messages as their readers get them: in Python with keywords."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from elbowroom.phrasing import speaking


@pytest.fixture(autouse=True)
def _in_flags() -> Iterator[None]:
    """In the place of the fixture of all other tests."""
    with speaking("keywords", unless_set=False):
        yield
