"""The form of rows that a trained model fixes: what data that are read for it have to look like."""

from __future__ import annotations

from typing import NamedTuple

from elbowroom.data.support import Support

__all__ = ["RowForm"]


class RowForm(NamedTuple):
    """Shape and stored values of the rows that a model was trained on.

    The same file can be read in more than one way: colours first or last, black and white as 0 and 1 or as 0 and 255.
    A run that is there already decides between them.
    """

    event_shape: tuple[int, ...]
    native_support: Support
