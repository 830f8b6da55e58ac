"""Views: conversion of stored values to the values that a likelihood needs, and their moments.

Bytes become grey values, grey values become bits, whole numbers stay as they are. A data set and a likelihood each
declare a support. Where one contains the other, or the two differ by the factor 255, the values are converted
automatically. Otherwise the user has to choose, and the error lists the choices.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.binarization import Binarization, fixed_bits, fresh_bits, threshold_bits
from elbowroom.data.support import Support
from elbowroom.data.value_checks import Survey, describe_non_finite, percent
from elbowroom.errors import ElbowroomError

__all__ = ["Moments", "View", "Viewed", "observed"]

# delivered support -> the supports it may be delivered as besides itself
_ALSO = {
    Support.BINARY: {Support.UNIT_INTERVAL, Support.COUNTS, Support.REALS},
    Support.UNIT_INTERVAL: {Support.REALS},
    Support.BYTES: {Support.UNIT_INTERVAL, Support.COUNTS, Support.REALS},
    Support.COUNTS: set[Support](),
    Support.CATEGORIES: set[Support](),
    Support.REALS: set[Support](),
    Support.TABLE: set[Support](),
}
_GREY = (Support.BINARY, Support.UNIT_INTERVAL, Support.BYTES)
_DISCRETE = {
    Support.COUNTS: "poisson",
    Support.BYTES: "discretized-logistic-mixture",
    Support.CATEGORIES: "categorical",
}


def observed(raw: Tensor, *, masked: bool, fill: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Stored values with missing elements filled in, and the mask of observed elements.

    Args:
        raw: shape (n, \\*event).
        masked: NaN marks a missing element; otherwise nothing is missing, and the mask is None.
        fill: the value of a missing element, shape (\\*event); 0 unless given.
    """
    if not masked:
        return raw, None
    mask = ~raw.isnan()
    return torch.where(mask, raw, 0 if fill is None else fill.to(raw)), mask


class Moments:
    r"""Running mean and standard deviation of the observed values of every element, accumulated in float64.

    Two parts of the data, with counts :math:`n_a, n_b`, means :math:`\mu_a, \mu_b` and sums of squared deviations
    :math:`S_a, S_b`, merge to

    .. math:: \mu = \mu_a + \delta \frac{n_b}{n}, \quad S = S_a + S_b + \delta^2 \frac{n_a n_b}{n}, \quad
              \delta = \mu_b - \mu_a,

    which, unlike the mean of squares minus the squared mean, does not cancel when the mean is large.

    Reference:
        Chan, Golub & LeVeque (1979), Updating formulae and a pairwise algorithm for computing sample variances.

    Example:
        >>> moments = Moments()
        >>> moments.add(torch.tensor([[1.0], [2.0]]), None)
        >>> moments.add(torch.tensor([[3.0], [9.0]]), torch.tensor([[True], [False]]))
        >>> moments.mean.item(), round(moments.std.item(), 6)
        (2.0, 0.816497)
    """

    def __init__(self) -> None:
        self.count = self.mean = self.squares = torch.zeros((), dtype=torch.float64)

    def add(self, x: Tensor, mask: Tensor | None) -> None:
        """Take more rows into account, shape (n, \\*event)."""
        x = x.detach().to("cpu", torch.float64)
        if mask is None:
            count = torch.tensor(len(x), dtype=torch.float64)
            mean = x.mean(0)
            squares = (x - mean).square_().sum(0)
        else:
            seen = mask.cpu()
            count = seen.sum(0).double()
            mean = torch.where(seen, x, 0.0).sum(0) / count.clamp(min=1)
            squares = torch.where(seen, x - mean, 0.0).square_().sum(0)
        total = self.count + count
        delta = mean - self.mean
        self.mean = self.mean + delta * count / total.clamp(min=1)
        self.squares = self.squares + squares + delta.square() * self.count * count / total.clamp(min=1)
        self.count = total

    @property
    def std(self) -> Tensor:
        """Standard deviation, divided by n; 0 where nothing was observed."""
        return (self.squares / self.count.clamp(min=1)).sqrt()


@dataclass(frozen=True)
class View:
    """The conversion from stored to delivered values.

    Attributes:
        native: the support of what is stored.
        support: the support of what is delivered.
        binarization: what happens to grey values on the way.
        seed: of the fixed bits.
        origin: what real-valued elements are counted from, float64, shape (\\*event); None: from 0
            (:mod:`elbowroom.data.precision`).
        steps: of numbers between 0 and 1 that are delivered as counts: they are k / steps, and k is the count.
        highest: the largest count that the likelihood takes; None where there is no end.
    """

    native: Support
    support: Support
    binarization: Binarization = Binarization.NONE
    seed: int = 0
    origin: Tensor | None = field(default=None, compare=False)
    steps: int | None = None
    highest: int | None = None

    @property
    def scale(self) -> int:
        """What a stored value is divided by."""
        bytes_as_grey = self.native is Support.BYTES and (
            self.binarization is not Binarization.NONE or self.support not in (Support.BYTES, Support.COUNTS)
        )
        return 255 if bytes_as_grey else 1

    @property
    def counts_steps(self) -> bool:
        """Whether values between 0 and 1 are delivered as numbers of steps."""
        return self.steps is not None and self.support is Support.COUNTS and self.binarization is Binarization.NONE

    def check_binarization(self, name: str) -> None:
        """Refuse to binarise values that are not probabilities."""
        if self.binarization is not Binarization.NONE and self.native not in _GREY:
            raise ElbowroomError(
                f"{name} holds {self.native.description}, but --data.binarization {self.binarization} needs grey "
                "values: 0 or 1, numbers between 0 and 1, or integers 0..255.",
                "Leave --data.binarization at none, or rescale the data to lie between 0 and 1.",
            )

    def to(self, device: torch.device) -> View:
        """The same conversion on another device."""
        return self if self.origin is None else replace(self, origin=self.origin.to(device))

    def from_origin(self, raw: Tensor) -> Tensor:
        """Stored values as differences from the origin, float64; as they are where there is none."""
        return raw if self.origin is None else raw.double() - self.origin.to(raw.device)

    def restored(self, x: Tensor) -> Tensor:
        """Delivered values, or others in their unit, as they are stored: the origin is added back, in float64.

        Example:
            >>> view = View(Support.REALS, Support.REALS, origin=torch.tensor([1.7e9, 0.0]).double())
            >>> view.restored(torch.tensor([[0.25, 2.0]])).tolist()
            [[1700000000.25, 2.0]]
        """
        return x if self.origin is None else x.double() + self.origin.to(x.device)

    def grey(self, raw: Tensor, dtype: torch.dtype) -> Tensor:
        """Stored values in the delivered unit, before any binarisation."""
        if self.counts_steps:
            assert self.steps is not None
            return (raw.to(dtype) * self.steps).round()
        return raw.to(dtype) / 255 if self.scale == 255 else raw.to(dtype)

    def deliver(
        self, raw: Tensor, dtype: torch.dtype, *, rows: Tensor | None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Stored values as they reach the model.

        Args:
            raw: shape (batch, \\*event), in the stored type; differences where there is an origin (`from_origin`).
            dtype: to deliver.
            rows: positions, for bits that are fixed; None for a stream, which has none.
            generator: for bits drawn afresh; None asks for the fixed ones.
        """
        if self.binarization is Binarization.NONE:
            return self.grey(raw, dtype)
        if self.binarization is Binarization.THRESHOLD:
            bits = threshold_bits(raw, scale=self.scale)
        elif self.binarization is Binarization.DYNAMIC and generator is not None:
            bits = fresh_bits(raw, generator, scale=self.scale)
        else:
            assert rows is not None, "fixed bits belong to positions"
            bits = fixed_bits(raw, rows, self.seed, scale=self.scale)
        return bits.view(torch.uint8).to(dtype)  # torch converts bytes several times as fast as bools

    def moments(self, chunks: Iterable[tuple[Tensor | None, Tensor]], *, masked: bool) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every element as delivered, missing elements left out.

        Dynamic binarisation delivers the grey mean p on average, with standard deviation √(p(1 − p)).

        Args:
            chunks: pairs of positions (None for a stream) and stored values.
            masked: NaN marks a missing element.
        Returns:
            Two float64 tensors of shape ``event_shape``, on the CPU.
        """
        dynamic = self.binarization is Binarization.DYNAMIC
        moments = Moments()
        for rows, raw in chunks:
            values, mask = observed(self.from_origin(raw), masked=masked)
            x = self.grey(values, torch.float64) if dynamic else self.deliver(values, torch.float64, rows=rows)
            moments.add(x, mask)
        std = (moments.mean * (1 - moments.mean)).clamp(min=0).sqrt() if dynamic else moments.std
        return moments.mean, std

    def allows(self, wanted: Support) -> bool:
        """Whether the delivered values may be delivered as ``wanted`` instead."""
        base = self.native if self.binarization is Binarization.NONE else Support.BINARY
        in_steps = self.steps is not None and base is Support.UNIT_INTERVAL and wanted is Support.COUNTS
        return wanted is self.support or wanted is base or wanted in _ALSO[base] or in_steps

    def mismatch(self, wanted: Support, needed_by: str, name: str, found: Survey, *, picture: bool) -> ElbowroomError:
        """The error for data and a likelihood that do not agree: what the data are, what is needed, the remedies."""
        values = f"the {'pixels' if picture else 'values'} of {name}"
        needs = f"but {needed_by} needs {wanted.description}."
        grey = self.support is Support.UNIT_INTERVAL or (self.support is Support.BYTES and wanted is Support.BINARY)
        if grey:
            inside = found.between_bytes if self.native is Support.BYTES else found.inside
            span = "lie between 0 and 1" if self.support is Support.UNIT_INTERVAL else "are integers 0..255"
            given = f"{span} ({percent(inside / max(found.finite, 1))} strictly between)"
        elif self.support is Support.REALS:
            given = f"are real numbers from {found.lowest:.4g} to {found.highest:.4g}"
        else:
            given = f"are {self.support.description}"
        return ElbowroomError(f"{values} {given}, {needs}", self._remedy(wanted))

    def _remedy(self, wanted: Support) -> str:
        if self.support is Support.TABLE:
            return "Leave --model.likelihood at auto, or leave out the columns that are no numbers: --data.drop NAME."
        if wanted is Support.TABLE:
            return "Leave --model.likelihood at auto; or have the kinds of columns found: --data.columns auto."
        if wanted is Support.BINARY and self.native in _GREY:
            return (
                "Say how to make them so: --data.binarization dynamic (or static, threshold), or use "
                "--model.likelihood continuous-bernoulli."
            )
        if self.binarization is not Binarization.NONE:
            return "Use --model.likelihood bernoulli, or leave --data.binarization at none."
        if wanted is Support.REALS:
            fitting = _DISCRETE[self.support]
            return f"If they are measurements, pass --data.support reals; otherwise use --model.likelihood {fitting}."
        if self.support in _DISCRETE and wanted is not Support.CATEGORIES:
            return f"Use --model.likelihood {_DISCRETE[self.support]}, or declare another support: --data.support."
        if wanted is Support.CATEGORIES:
            return "If they are category numbers, pass --data.support categories; otherwise choose another likelihood."
        fitting = "bernoulli" if self.support is Support.BINARY else "gaussian"
        return f"Use --model.likelihood {fitting}, or rescale the data and declare --data.support {wanted}."


class Viewed:
    """What a data set and a stream share: the questions that their view answers."""

    view: View
    extremes: tuple[float, float] | None

    @property
    def highest(self) -> int | None:
        """The largest count that was found, as delivered; None unless counts are delivered."""
        if self.support is not Support.COUNTS or self.extremes is None:
            return None
        if self.binarization is not Binarization.NONE:
            return 1
        top = self.extremes[1] * self.view.steps if self.view.steps is not None else self.extremes[1]
        return round(top)

    @property
    def support(self) -> Support:
        """Which values batches deliver."""
        return self.view.support

    @property
    def native_support(self) -> Support:
        """Which values are stored, or come."""
        return self.view.native

    @property
    def binarization(self) -> Binarization:
        """How grey values become 0 or 1."""
        return self.view.binarization

    def describe_non_finite(self, batch: Batch) -> str | None:
        """Name the rows of a batch that hold NaN or infinity; None if there are none."""
        return describe_non_finite(batch)
