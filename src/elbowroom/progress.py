"""How long work says how far it is: :class:`Progress`, called after every step; and :data:`Announce`, for a remark.

Whatever takes long has a keyword ``announce``. Counted work calls it by the signature of :class:`Progress`, all other
work with one sentence to print.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Announce", "BlockProgress", "Detail", "Progress", "silent"]

Announce = Callable[[str], None]
"""Takes a sentence to print."""


class Detail(Protocol):
    """What a step of Markov chains adds to its count; :class:`elbowroom.samplers.kernel.Info` is one."""

    @property
    def acceptance(self) -> Tensor:
        """Acceptance probabilities, shape (replicas, data)."""
        ...

    @property
    def divergent(self) -> Tensor:
        """Whether the transition diverged, bool, shape (replicas, data)."""
        ...


class Progress(Protocol):
    """A callback that is called with how far a piece of work is."""

    def __call__(self, what: str, done: int, total: int, detail: Detail | None = None, /) -> None:
        """Take note.

        Args:
            what: is being done, such as the name of a method.
            done: steps done.
            total: steps in all.
            detail: of the last step, where Markov chains made it.
        """
        ...


def silent(what: str, done: int, total: int, detail: Detail | None = None, /) -> None:
    """A :class:`Progress` that does nothing."""


class BlockProgress:
    """One count for work that is done block by block: a step of a block counts once for each row of the block.

    Blocks may differ in size, and the last one usually does, so that steps alone would not measure the work.

    Args:
        announce: called with the common count.
        what: is being done.
        total: rows of all blocks, times the steps that each row takes.
    Example:
        >>> progress = BlockProgress(lambda what, done, total, detail=None: print(what, done, "of", total), "draws", 6)
        >>> for rows in (2, 1):
        ...     of_block = progress.block(rows)
        ...     for step in (1, 2):
        ...         of_block("draws", step, 2)
        draws 2 of 6
        draws 4 of 6
        draws 5 of 6
        draws 6 of 6
    """

    def __init__(self, announce: Progress | None, what: str, total: int) -> None:
        self._announce, self._what, self._total = announce, what, total
        self._done = 0

    def block(self, rows: int) -> Progress:
        """The callback for the steps of one block."""

        def add(what: str, done: int, total: int, detail: Detail | None = None, /) -> None:
            self._done += rows
            if self._announce is not None:
                self._announce(self._what, self._done, self._total, detail)

        return add
