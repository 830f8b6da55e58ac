"""A data set: rows with a declared support, splits (train, validation, test) and batches.

The order of an epoch is a function of (seed, epoch) alone, so that a run can be resumed in the middle of an epoch: skip
the batches that were already used, restore the generator, continue. Evaluation visits rows in a fixed order and sees
the same bits of a row at every visit (:mod:`elbowroom.data.binarization`).

    stored rows ──gather──▶ raw batch ──mask, view──▶ x (batch, *event), floating point
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.binarization import Binarization
from elbowroom.data.columns.column import Column
from elbowroom.data.splits import SPLITS, epoch_order, seeded_permutation
from elbowroom.data.steps import find_steps
from elbowroom.data.storage import InMemory, Storage, content_digest, scan
from elbowroom.data.support import Support
from elbowroom.data.value_checks import check_rows, survey
from elbowroom.data.views import View, Viewed, observed
from elbowroom.errors import ElbowroomError, did_you_mean

__all__ = ["DataSet", "check_batch_size"]


@dataclass(frozen=True, eq=False)
class DataSet(Viewed):
    """Rows that can be fetched by position.

    :func:`elbowroom.data.loading.load_data` makes one.

    Attributes:
        name: a built-in name, or that of the file.
        storage: the rows, in their own type.
        splits: sorted positions (int64) of ``train``, ``validation`` and ``test``.
        view: how stored values are delivered.
        seed: of the splits and of fixed bits; part of the protocol.
        context: covariates as delivered, shape (n, context_dim), or None.
        labels: int64, shape (n,), for pictures of results; the model never sees them unless they are the context.
        num_categories: C, where the support is ``categories``.
        masked: NaN marks a missing element; batches then carry a mask.
        dtype: of delivered x and context.
        device: of delivered batches.
        licence: of the data; empty if unknown.
        source: where they came from, in words.
        bits: the fixed bits of static binarisation, made once, where the rows lie in memory.
        fill: what stands for a missing element, shape (\\*event), as delivered; 0 if None. Real-valued data are filled
            with the mean of that element over the training rows (0 where it was never observed), so that the guide
            sees 0 there once the data are standardised; in a table of several kinds NaN stays.
        levels: the names of one-hot covariates, by column (``labels`` where these are the context).
        context_columns: the names of the covariates, in their order, where they have names.
        captions: how pictures get captions, where these are the context (:class:`.captions.Captioner`).
        context_drop: share of the training examples that are delivered without their context, and of its words that are
            left out of the others, drawn again at every visit; one-hot words of zeros say nothing.
        columns: of a table, the names of the elements of x, in their order.
        kinds: of a table with columns of several kinds, what is known about those of x, in their order; else None.
        aside: columns of that table that are set aside: constants, identifiers, free text.
        classes: the names of labels 0, 1, …, where they have names.
        ids: what identifies each row, where a column was named for that.
        id_name: the name of that column.
        remarks: what was noticed while the data were read, and how they were understood, in sentences.
        raw_context: covariates as given, float64, where ``context`` does not hold them exactly.
        context_units: shift and scale by which they were standardised, float64, shape (context_dim,); None: not at all.
        extremes: the least and the greatest stored value that was found.

    What is checked when: an array, in memory or memory-mapped, once and whole, when it is loaded. A ``Dataset`` is
    sampled when it is loaded, and every batch that is fetched from it is compared with the support of what is stored;
    a row outside it is named.
    """

    name: str
    storage: Storage
    splits: dict[str, Tensor]
    view: View
    seed: int = 0
    context: Tensor | None = None
    labels: Tensor | None = None
    num_categories: int | None = None
    masked: bool = False
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    licence: str = ""
    source: str = ""
    bits: InMemory | None = field(default=None, repr=False)
    fill: Tensor | None = field(default=None, repr=False)
    levels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    context_columns: tuple[str, ...] | None = None
    captions: dict[str, Any] | None = None
    context_drop: float = 0.0
    columns: tuple[str, ...] | None = None
    kinds: tuple[Column, ...] | None = None
    aside: tuple[Column, ...] = ()
    classes: tuple[str, ...] | None = None
    ids: tuple[str, ...] | None = field(default=None, repr=False)
    id_name: str | None = None
    remarks: tuple[str, ...] = ()
    raw_context: Tensor | None = field(default=None, repr=False)
    context_units: tuple[Tensor, Tensor] | None = None
    extremes: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.storage)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{split} {self.size(split):,}" for split in SPLITS)
        return f"DataSet({self.name}: {sizes}; event {self.event_shape}, {self.support})"

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.storage.event_shape

    @property
    def context_dim(self) -> int:
        """The number of covariates; 0 for none."""
        return 0 if self.context is None else self.context.shape[1]

    @property
    def word_widths(self) -> tuple[int, ...]:
        """How many numbers of the context each covariate takes."""
        known = (len(self.levels.get(name, " ")) for name in self.context_columns or ())
        return tuple(known) or (1,) * self.context_dim

    def size(self, split: str) -> int:
        """The number of rows in a split."""
        return len(self._split(split))

    def viewed_as(self, support: Support, *, needed_by: str = "the likelihood", steps: int | None = None) -> DataSet:
        """The same data, delivered with the support that a likelihood needs.

        Args:
            support: what is needed.
            needed_by: who needs it, for the message ("a Bernoulli likelihood").
            steps: in how many steps grey values go from 0 to 1, if it is known; counts are numbers of steps.
        Returns:
            Bytes divided by 255 where a unit interval or reals are needed; grey values k / N as k where counts are;
            otherwise the values as they are.
        Raises:
            ElbowroomError: the values do not lie in that support; names the remedies. Or grey values that should be
                counted lie between the known steps.
        Example:
            >>> from elbowroom.data.loading import load_data
            >>> data = load_data(torch.tensor([[0, 255], [51, 102]], dtype=torch.uint8), test=0)
            >>> data.viewed_as(Support.UNIT_INTERVAL).take("train", torch.tensor([1])).x
            tensor([[0.2000, 0.4000]])
        """
        view = self.view
        if support is Support.COUNTS and view.native is view.support is Support.UNIT_INTERVAL:
            view = replace(view, steps=find_steps(self.storage, steps))
            if view.steps is None and steps is not None:
                raise ElbowroomError(
                    f"Not all values of {self.name} are multiples of 1/{steps}, as those of the training data are.",
                    "Give values in the same steps, or take those rows out.",
                )
        if not view.allows(support):
            picture = len(self.event_shape) >= 2
            raise self.view.mismatch(support, needed_by, self.name, survey(self.storage), picture=picture)
        return replace(self, view=replace(view, support=support))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> DataSet:
        """The same data, delivered on another device or in another floating-point type.

        Rows in memory move to the device now; others are fetched on the CPU and moved batch by batch.
        """
        device = self.device if device is None else torch.device(device)
        dtype = dtype or self.dtype
        storage = self.storage.to(device)
        return replace(
            self,
            storage=storage,
            view=self.view.to(storage.device),
            fill=None if self.fill is None else self.fill.to(storage.device),
            context=None if self.context is None else self.context.to(device=device, dtype=dtype),
            bits=None if self.bits is None else self.bits.to(device),
            device=device,
            dtype=dtype,
        )

    def training_batches(
        self, batch_size: int, *, seed: int, epoch: int, generator: torch.Generator, start: int = 0
    ) -> Iterator[Batch]:
        """One epoch: every training row once, in an order that depends on (seed, epoch) alone.

        Args:
            batch_size: rows per batch; the last batch may be smaller.
            seed: of the run.
            epoch: 0, 1, …
            generator: draws the bits of dynamic binarisation, anew at every visit; otherwise untouched.
            start: skip so many batches, touching neither data nor generator.
        Returns:
            Batches whose ``index`` holds positions in the whole set.
        """
        check_batch_size(batch_size)
        rows = self._non_empty("train")
        rows = rows[epoch_order(len(rows), seed, epoch)].to(self.storage.device)
        return (
            self._batch(rows[first : first + batch_size], generator)
            for first in range(start * batch_size, len(rows), batch_size)
        )

    def example(self, batch_size: int, *, generator: torch.Generator) -> Batch:
        """A batch as in training; smaller where there are fewer rows."""
        return next(iter(self.training_batches(batch_size, seed=0, epoch=0, generator=generator)))

    def batches(self, split: str, batch_size: int, *, points: int | None = None) -> Iterator[Batch]:
        """The batches of a split in a fixed order, with fixed bits: every pass gives the same numbers.

        Args:
            split: train, validation or test.
            batch_size: rows per batch; the last batch may be smaller.
            points: a seeded random subset of so many rows; None, or more than there are, means all.
        Raises:
            ElbowroomError: the split is empty, or ``points`` is below 1.
        """
        check_batch_size(batch_size)
        if points is not None and points < 1:
            raise ElbowroomError(
                f"{points} points were asked for, but an average needs at least one.", "Give 1 or more."
            )
        rows = self._non_empty(split)
        if points is not None and points < len(rows):
            rows = rows[seeded_permutation(len(rows), 2, self.seed)[:points].sort().values]
        return (self._batch(part, None) for part in torch.split(rows, batch_size))

    def take(self, split: str, rows: Tensor) -> Batch:
        """Chosen rows of a split, with fixed bits.

        Args:
            split: train, validation or test.
            rows: positions within the split, int64, shape (n,).
        """
        return self._batch(self._split(split)[rows.cpu()], None)

    def row_columns(self, rows: Tensor, beside: Collection[str] = ()) -> dict[str, list[Any]]:
        """The columns that say, in a file of results, which rows it is about.

        Args:
            rows: positions in the whole set, int64, shape (n,): the ``index`` of batches.
            beside: the names of the other columns of that file.
        Returns:
            ``row``, and the column of identifiers where there is one; it is called ``id_NAME`` where its name is taken.
        """
        places = rows.tolist()
        if self.ids is None:
            return {"row": places}
        name = self.id_name or "id"
        name = f"id_{name}" if name == "row" or name in beside else name
        return {"row": places, name: [self.ids[place] for place in places]}

    def context_as_given(self, rows: Tensor) -> Tensor | None:
        """Covariates in the user's units, as ``context=`` takes them; None where there are none.

        Args:
            rows: positions in the whole set, int64, shape (n,): the ``index`` of batches.
        """
        given = self.context if self.raw_context is None else self.raw_context
        return None if given is None else given[rows.to(given.device)]

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every element over the training rows, as delivered.

        Dynamic binarisation delivers the grey mean p on average, with standard deviation √(p(1 − p)). Missing
        elements are left out; one that was never observed has mean 0 and deviation 0. Of rows outside memory, 10,000
        evenly spaced ones are read.

        Returns:
            Two float64 tensors of shape ``event_shape``, on the CPU.
        """
        chunks = ((rows, self._checked(rows, raw)) for rows, raw in scan(self.storage, self._split("train")))
        return self.view.moments(chunks, masked=self.masked)

    def protocol(self) -> dict[str, Any]:
        """The facts about the data that a result must state: name, processing, digests of rows and context."""
        given = self.context if self.raw_context is None else self.raw_context
        companions = {
            # in float32, so that the digest does not depend on the precision of delivery
            "context": None if given is None else given.float(),
            "labels": self.labels,
        }
        return {
            "dataset": self.name,
            "binarization": str(self.binarization),
            "seed": self.seed,
            **content_digest(self.storage),
            **{
                f"sha256_{what}": InMemory(values).fingerprint()
                for what, values in companions.items()
                if values is not None
            },
            **({"levels": {column: list(names) for column, names in self.levels.items()}} if self.levels else {}),
        }

    def names(self) -> dict[str, Any]:
        """What a run keeps to match other data to these: names of columns, covariates and classes, and of captions how
        they are made."""
        known = {"columns": self.columns, "context_columns": self.context_columns, "classes": self.classes}
        found: dict[str, Any] = {what: list(names) for what, names in known.items() if names is not None}
        return found if self.captions is None else found | {"captions": self.captions}

    def _checked(self, rows: Tensor, raw: Tensor) -> Tensor:
        if not self.storage.surveyed_whole:
            check_rows(
                rows,
                raw,
                self.native_support,
                self.name,
                num_categories=self.num_categories,
                missing_allowed=self.masked,
                highest=self.view.highest,
            )
        return raw

    def _batch(self, rows: Tensor, generator: torch.Generator | None) -> Batch:
        dynamic = generator is not None and self.binarization is Binarization.DYNAMIC
        if self.bits is not None:
            x, mask = self.bits.gather(rows).to(self.dtype), None
        else:
            raw = self.view.from_origin(self._checked(rows, self.storage.gather(rows)))
            raw, mask = observed(raw, masked=self.masked, fill=self.fill)
            x = self.view.deliver(raw, self.dtype, rows=rows, generator=generator if dynamic else None)
        if x.device != self.device:
            x, mask = x.to(self.device), None if mask is None else mask.to(self.device)
        rows = rows.to(self.device)
        context = None if self.context is None else self.context.index_select(0, rows)
        if context is not None and self.context_drop and generator is not None:
            context = context * self._said(len(rows), generator).to(context)
        return Batch(x, rows, context, mask)

    def _said(self, number: int, generator: torch.Generator) -> Tensor:
        """Which words of a context are said, for so many examples: 1 or 0, shape (n, context_dim)."""
        widths = torch.tensor(self.word_widths, device=generator.device)
        drawn = torch.rand(number, 1 + len(widths), generator=generator, device=generator.device)
        said = drawn >= self.context_drop
        return (said[:, :1] & said[:, 1:]).repeat_interleave(widths, 1)

    def _split(self, split: str) -> Tensor:
        if split not in self.splits:
            raise ElbowroomError(f"There is no split '{split}'.", did_you_mean(split, self.splits))
        return self.splits[split]

    def _non_empty(self, split: str) -> Tensor:
        rows = self._split(split)
        if not len(rows):
            raise ElbowroomError(f"{self.name} has no {split} rows.", f"Set some aside: --data.{split} 0.1.")
        return rows


def check_batch_size(batch_size: int) -> None:
    """Refuse a batch size below 1."""
    if batch_size < 1:
        raise ElbowroomError(
            f"The batch size is {batch_size}, but a batch holds at least one example.", "Give 1 or more."
        )
