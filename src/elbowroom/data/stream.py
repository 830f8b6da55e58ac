"""Streams: data that arrive in their own order, from an ``IterableDataset`` or a ``DataLoader``.

A stream has no row numbers, so there are no splits, no persistent chains per example, and no fixed bits of a row. Its
first rows are read to find shape and support, and are kept: the first epoch begins with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from elbowroom.data.batch import Batch
from elbowroom.data.channels import colours_to_front, has_colours_last, moved_in_words
from elbowroom.data.dataset import check_batch_size
from elbowroom.data.map_style import item_parts
from elbowroom.data.support import Support
from elbowroom.data.value_checks import Survey, check_rows
from elbowroom.data.views import View, Viewed, observed
from elbowroom.errors import ElbowroomError

__all__ = ["Peekable", "StreamSet", "regroup"]

_PEEK_ROWS = 1_000


class Peekable:
    """An iterator over chunks of rows, shape (m, \\*event), whose first ones can be read in advance.

    Args:
        source: yields batches if it is a ``DataLoader`` with batches, otherwise single items; x or (x, …).
        name: for messages.
        event_shape: of a trained model, which decides whether colours that come last are moved to the front.
    """

    def __init__(self, source: Any, name: str, event_shape: tuple[int, ...] | None = None) -> None:
        self.source = source
        self.name = name
        self.event_shape = event_shape
        self.remark: str | None = None  # on what was done to the rows that were read so far
        self._head: list[Tensor] = []
        self._rest: Iterator[Tensor] | None = None

    def peek(self, most: int) -> list[Tensor]:
        """The first chunks, of about ``most`` rows in all."""
        if self._rest is None:
            self._rest = self._fresh()
        rows = sum(map(len, self._head))
        while rows < most:
            chunk = next(self._rest, None)
            if chunk is None:
                break
            self._head.append(chunk)
            rows += len(chunk)
        if not self._head:
            raise ElbowroomError(f"The stream {self.name} is empty.", "Give one that yields at least one example.")
        return self._head

    def chunks(self) -> Iterator[Tensor]:
        """All chunks: those read in advance, then the rest; at the next call, the source from its beginning."""
        if self._rest is None:
            return self._fresh()
        head, rest = self._head, self._rest
        self._head, self._rest = [], None
        return chain(head, rest)

    def _fresh(self) -> Iterator[Tensor]:
        # a loader without batch_sampler does not collate: it hands out the data set's own items
        batched = isinstance(self.source, DataLoader) and self.source.batch_sampler is not None
        for item in self.source:
            x = item_parts(item, self.name, source="batches" if batched else "stream")[0]
            x = (x if x.dim() > 1 else x[:, None]) if batched else x[None]
            if self.remark is None and has_colours_last(tuple(x.shape[1:]), self.event_shape):
                self.remark = moved_in_words(tuple(x.shape[1:]))
            yield colours_to_front(x, self.event_shape)


def regroup(chunks: Iterator[Tensor], batch_size: int) -> Iterator[Tensor]:
    """The same rows in chunks of a given size; a chunk that already has that size is not copied.

    Example:
        >>> [len(x) for x in regroup(iter([torch.zeros(3, 1), torch.zeros(4, 1)]), 2)]
        [2, 2, 2, 1]
    """
    waiting: list[Tensor] = []
    rows = 0
    for chunk in chunks:
        waiting.append(chunk)
        rows += len(chunk)
        if rows >= batch_size:
            joined = waiting[0] if len(waiting) == 1 else torch.cat(waiting)
            whole = rows - rows % batch_size
            yield from torch.split(joined[:whole], batch_size)
            rows -= whole
            waiting = [joined[whole:]] if rows else []
    if rows:
        yield torch.cat(waiting)


@dataclass(frozen=True, eq=False)
class StreamSet(Viewed):
    """Data without row numbers, with the interface of :class:`~elbowroom.data.dataset.DataSet`.

    Attributes:
        name: for messages.
        stream: the rows.
        view: how they are delivered.
        event_shape: the shape of one example.
        seed: part of the protocol; a stream's order is its own.
        num_categories: C, where the support is ``categories``.
        masked: NaN marks a missing element.
        dtype: of delivered x.
        device: of delivered batches.
        hint: what to give instead to have splits, positions and epochs, for messages; a ``DataLoader`` has its
            ``dataset`` for that.
        fill: what stands for a missing element, shape (\\*event), as delivered; 0 if None. Real-valued data are filled
            with the mean of the first thousand rows, so that a missing element is 0 once it is standardised.
        extremes: the least and the greatest value of the first thousand rows.

    What is checked when: the first thousand rows before training, and every further one as it arrives, against the
    support of what comes; a row outside it stops the run.
    """

    name: str
    stream: Peekable
    view: View
    event_shape: tuple[int, ...]
    seed: int = 0
    num_categories: int | None = None
    masked: bool = False
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    licence: str = ""
    source: str = "a stream"
    hint: str = "Give an array or a map-style Dataset."
    fill: Tensor | None = None
    extremes: tuple[float, float] | None = None

    context_dim: ClassVar[int] = 0
    labels: ClassVar[None] = None

    @property
    def splits(self) -> dict[str, Tensor]:
        """None: empty."""
        return {}

    def size(self, split: str) -> None:
        """Unknown."""
        return

    def head(self) -> list[Tensor]:
        """The first chunks, of about a thousand rows as they come; training still gets them."""
        return self.stream.peek(_PEEK_ROWS)

    def viewed_as(self, support: Support, *, needed_by: str = "the likelihood") -> StreamSet:
        """The same stream, delivered with the support that a likelihood needs; see ``DataSet.viewed_as``."""
        if not self.view.allows(support):
            found = Survey()
            for chunk in self.head():
                found.add(torch.arange(len(chunk)), chunk)
            raise self.view.mismatch(support, needed_by, self.name, found, picture=len(self.event_shape) >= 2)
        return replace(self, view=replace(self.view, support=support))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> StreamSet:
        """The same stream, delivered elsewhere or in another floating-point type."""
        device = self.device if device is None else torch.device(device)
        return replace(self, device=device, dtype=dtype or self.dtype, view=self.view.to(device))

    def training_batches(
        self, batch_size: int, *, seed: int, epoch: int, generator: torch.Generator, start: int = 0
    ) -> Iterator[Batch]:
        """One pass over the stream, in its own order: ``seed`` and ``epoch`` are ignored.

        Args:
            batch_size: rows per batch, regrouped where the loader's own batches differ.
            generator: draws the bits of dynamic binarisation.
            start: read past so many batches, without touching the generator.
        """
        check_batch_size(batch_size)
        groups = regroup(self._checked(self.stream.chunks()), batch_size)
        return (self._batch(raw, generator) for raw in islice(groups, start, None))

    def example(self, batch_size: int, *, generator: torch.Generator) -> Batch:
        """A batch as in training, from the stream's first rows; training still gets them."""
        return self._batch(next(regroup(self._checked(self.stream.peek(batch_size)), batch_size)), generator)

    def batches(self, split: str, batch_size: int, *, points: int | None = None) -> NoReturn:
        """A stream has no splits: always an error."""
        raise self._no_splits(split)

    def take(self, split: str, rows: Tensor) -> NoReturn:
        """A stream has no row numbers: always an error."""
        raise self._no_splits(split)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every element over the first thousand rows, float64, as delivered."""
        return self.view.moments(((None, chunk) for chunk in self.head()), masked=self.masked)

    def protocol(self) -> dict[str, Any]:
        """The facts about the data that a result must state; the content of a stream has no digest."""
        return {"dataset": self.name, "binarization": str(self.binarization), "seed": self.seed, "sha256": None}

    def _checked(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        first = 0
        for chunk in chunks:
            if tuple(chunk.shape[1:]) != self.event_shape:
                raise ElbowroomError(
                    f"The stream {self.name} yields x of shape {tuple(chunk.shape[1:])} after {self.event_shape}.",
                    "Let it yield x of one shape.",
                )
            rows = torch.arange(first, first + len(chunk))
            check_rows(
                rows,
                chunk,
                self.native_support,
                self.name,
                num_categories=self.num_categories,
                missing_allowed=self.masked,
                highest=self.view.highest,
            )
            first += len(chunk)
            yield chunk

    def _batch(self, raw: Tensor, generator: torch.Generator) -> Batch:
        raw = self.view.from_origin(raw.to(self.device))
        raw, mask = observed(raw, masked=self.masked, fill=self.fill)
        return Batch(self.view.deliver(raw, self.dtype, rows=None, generator=generator), mask=mask)

    def _no_splits(self, split: str) -> ElbowroomError:
        return ElbowroomError(
            f"The {split} split of {self.name} was asked for, but a stream has no row numbers and so no splits.",
            self.hint,
        )
