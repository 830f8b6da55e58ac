"""A batch of examples, as training, objectives and evaluation receive it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Batch", "as_batch"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples, with their positions in the data set, their context and their mask.

    Attributes:
        x: the examples, shape (batch, \\*event). Where ``mask`` is False the value is a filler without meaning: 0, or
            in real-valued data the mean of that element over the training rows.
        index: positions in the data set, int64, shape (batch,); None for a stream without positions.
        context: covariates for prior, likelihood and guide, shape (batch, context_dim), or None.
        mask: True where an element was observed, bool, shape (batch, \\*event); None where all were.
        seen: the examples as the guide reads them, shape (batch, \\*event), where it is not to see all that was
            observed; None: x.
    """

    x: Tensor
    index: Tensor | None = None
    context: Tensor | None = None
    mask: Tensor | None = None
    seen: Tensor | None = None

    def __len__(self) -> int:
        return self.x.shape[0]

    def rows(self, rows: slice | Tensor) -> Batch:
        """Some of the examples: a slice, or positions of type int64."""
        parts = (self.x, self.index, self.context, self.mask, self.seen)
        return Batch(*(None if part is None else part[rows] for part in parts))  # type: ignore[arg-type]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Batch:
        """The same batch elsewhere; ``dtype`` applies to ``x`` and ``context``."""
        return Batch(
            self.x.to(device=device, dtype=dtype),
            None if self.index is None else self.index.to(device=device),
            None if self.context is None else self.context.to(device=device, dtype=dtype),
            None if self.mask is None else self.mask.to(device=device),
            None if self.seen is None else self.seen.to(device=device, dtype=dtype),
        )


def as_batch(x: Batch | Tensor) -> Batch:
    """A tensor of examples as a batch; a batch is returned as it is."""
    return x if isinstance(x, Batch) else Batch(x)
