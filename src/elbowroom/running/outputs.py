"""What a run gives back for each example: encodings, reconstructions, scores."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.dataset import DataSet
from elbowroom.evaluation.scores import Scores
from elbowroom.model.draws import conditionals, draw, mean
from elbowroom.model.latent import Pair, evaluation_mode
from elbowroom.model.top_down_codes import TopDownCodes

__all__ = ["Encoded", "Reconstruction", "Scores", "encoded", "reconstructed"]


class _Reconstructions(NamedTuple):
    x: Tensor  #: (n, *event)
    mean: Tensor  #: (n, *event), the mean of p(x | z)
    sample: Tensor  #: (n, *event), a draw of p(x | z)


class Reconstruction(_Reconstructions):
    """Examples x and their reconstructions from z ~ q(z | x); unpacks into x, mean and sample.

    Attributes:
        x: the examples, shape (n, *event).
        mean: of p(x | z), the same shape; where pixels depend on each other, of each given those before it in
            ``sample``.
        sample: a draw of p(x | z), the same shape.
        mask: true where an element of x was observed, the same shape; None where all were.
    """

    mask: Tensor | None

    def __new__(cls, x: Tensor, mean: Tensor, sample: Tensor, mask: Tensor | None = None) -> Reconstruction:
        made = super().__new__(cls, x, mean, sample)
        made.mask = mask
        return made

    @property
    def observed(self) -> Tensor:
        """x with NaN in place of its missing elements, whose fillers are not data."""
        return self.x if self.mask is None else torch.where(self.mask, self.x, torch.nan)


def reconstructed(pair: Pair, batch: Batch, generator: torch.Generator) -> Reconstruction:
    """The reconstructions of a batch, each decoded from one draw of q(z | x)."""
    with evaluation_mode(pair):
        z = draw(pair.guide(batch.x, batch.context), (), generator=generator)
        p_x = pair.model.likelihood(z, batch.context)
        drawn = draw(p_x, (), generator=generator)
        mask = None if batch.mask is None else batch.mask.cpu()
        return Reconstruction(batch.x.cpu(), mean(conditionals(p_x, drawn)).cpu(), drawn.cpu(), mask)


class _Encodings(NamedTuple):
    mean: Tensor  #: (n, latent)
    stddev: Tensor  #: (n, latent)
    labels: Tensor | None  #: (n,) class labels, where the data have any


class Encoded(_Encodings):
    """The guide's q(z | x) for each example; unpacks into mean, stddev and labels.

    Where the latents are codes, the mean of z is the probability of every code of every slot; of lower levels, given
    the most likely codes above.

    Attributes:
        mean: shape (n, latent).
        stddev: shape (n, latent).
        labels: class labels, shape (n,), where the data have any.
        classes: the names of labels 0, 1, …, where they have names.
        rows: which rows these are: ``row``, positions in the data, and the identifiers where a column was named.
        codes: the number of the most likely code of each slot, from 0, int64, shape (n, slots); None where the latents
            are real vectors.
    """

    classes: tuple[str, ...] | None
    rows: dict[str, list[Any]]
    codes: Tensor | None

    def __new__(
        cls,
        mean: Tensor,
        stddev: Tensor,
        labels: Tensor | None,
        classes: tuple[str, ...] | None = None,
        rows: dict[str, list[Any]] | None = None,
        codes: Tensor | None = None,
    ) -> Encoded:
        made = super().__new__(cls, mean, stddev, labels)
        made.classes, made.rows, made.codes = classes, rows or {}, codes
        return made

    @property
    def class_names(self) -> list[str] | None:
        """The name of each example's class, or its number; None without labels."""
        if self.labels is None:
            return None
        return [str(label) if self.classes is None else self.classes[label] for label in self.labels.tolist()]


def encoded(pair: Pair, data: DataSet, split: str, points: int | None) -> Encoded:
    """The encodings of a split, or of ``points`` examples of it, with their labels and rows."""
    means, deviations, codes, places = [], [], [], []
    has_codes = pair.model.latent_support == "codes"
    with evaluation_mode(pair):
        for batch in data.batches(split, 1000, points=points):
            q = pair.guide(batch.x, batch.context)
            mean_of_z = q.probs.flatten(-2) if isinstance(q, TopDownCodes) else q.mean
            means.append(mean_of_z.cpu())
            if has_codes:
                codes.append(pair.model.space.numbers(q.mode).cpu())
            # an entry of a one-hot z is 1 with probability p: its variance is p (1 − p)
            deviations.append((mean_of_z * (1 - mean_of_z)).sqrt().cpu() if has_codes else q.stddev.cpu())
            assert batch.index is not None, "only a stream has no positions"
            places.append(batch.index.cpu())
    rows = torch.cat(places)
    labels = None if data.labels is None else data.labels.cpu()[rows]
    return Encoded(
        torch.cat(means),
        torch.cat(deviations),
        labels,
        data.classes,
        data.row_columns(rows),
        torch.cat(codes) if has_codes else None,
    )
