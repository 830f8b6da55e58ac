r"""Samples and data by their nearest neighbours: precision, recall, and whether training rows were copied.

With :math:`r_i` the distance of row i to its k-th nearest neighbour in its own set, a set stands for the union of the
balls of radius :math:`r_i` around its rows.

.. math:: \text{precision} = \frac1M \sum_{j=1}^M \left[ \min_i \frac{d(x_i, y_j)}{r_i} \le 1 \right]

is the share of samples :math:`y_j` that lie in the balls of the data :math:`x_i`: how many samples look like data.
Recall is the same with data and samples exchanged: how much of the data the samples cover. Of two sets of one
distribution neither is 1, and both depend on the number of rows: they are to be read beside those of training rows in
the place of samples.

Reference:
    Kynkäänniemi, Karras, Laine, Lehtinen & Aila (2019), Improved precision and recall metric for assessing generative
    models, eq. 1–2, arXiv:1904.06991.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.numerics import chunks

__all__ = ["Estimate", "PrecisionRecall", "farther_from_training", "precision_and_recall"]

_SPLITS = 20  # in halves, for standard errors
_CHUNK = 1000  # rows whose distances to all others are in memory


class Estimate(NamedTuple):
    """A share or a probability, and its standard error.

    Attributes:
        value: from 0 to 1.
        stderr: NaN where it is not known.
    """

    value: float
    stderr: float


class PrecisionRecall(NamedTuple):
    """How many samples look like data, and how much of the data samples cover.

    Attributes:
        precision: the share of samples in the data's balls.
        recall: the share of data in the samples' balls.
    """

    precision: Estimate
    recall: Estimate


def precision_and_recall(
    data: Tensor, samples: Tensor, *, neighbours: int = 3, generator: torch.Generator | None = None
) -> PrecisionRecall:
    r"""Improved precision and recall of samples, with standard errors from halves.

    Two halves of data and samples have independent precisions :math:`P, P'` of half the size, so that

    .. math:: \mathrm{stderr}^2 = \tfrac12 \, \overline{(P - P')^2 / 2}

    over twenty random splits: it counts the rows that happen to be inside a ball and the chance in where the balls are.
    (A jackknife of this statistic is too large by a factor of up to three: a row that is left out moves the
    radius of others by a whole step.)

    Args:
        data: independent rows, shape (n, features).
        samples: independent rows, shape (m, features).
        neighbours: k, the neighbour of its own set at which a row's ball ends.
        generator: the source of randomness, for the splits.
    Raises:
        ElbowroomError: sets whose halves are too small for k neighbours; different features.
    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> data = torch.randn(400, 2, generator=generator)
        >>> near, far = torch.randn(400, 2, generator=generator) / 4, torch.randn(400, 2, generator=generator) + 9
        >>> narrow = precision_and_recall(data, near)  # in the middle of the data: precise, and covers little
        >>> narrow.precision.value > 0.95, narrow.recall.value < 0.5
        (True, True)
        >>> precision_and_recall(data, far).precision.value
        0.0
    """
    least = 4 * (neighbours + 1)
    if min(len(data), len(samples)) < least or neighbours < 1:
        raise ElbowroomError(
            f"Precision and recall by {neighbours} neighbours need {least} rows of data and as many samples, but there "
            f"are {len(data):,} and {len(samples):,}.",
            f"Give more (--points {least} or more).",
        )
    if data.shape[1:] != samples.shape[1:]:
        raise ElbowroomError(
            f"Data and samples have {tuple(data.shape[1:])} and {tuple(samples.shape[1:])} features.",
            "Give both the same.",
        )
    own, other = data.double(), samples.double()
    within, among, between = _distances(own, own), _distances(other, other), _distances(own, other)

    def shares(rows: Tensor, draws: Tensor) -> Tensor:
        """Precision and recall of the rows and draws that are kept, shape (2,)."""
        across = between[rows][:, draws]
        radius = _radius(within[rows][:, rows], neighbours)
        drawn_radius = _radius(among[draws][:, draws], neighbours)
        return torch.stack(
            [
                (across <= radius.unsqueeze(1)).any(0).double().mean(),
                (across <= drawn_radius).any(1).double().mean(),
            ]
        )

    every = shares(torch.arange(len(own)), torch.arange(len(other)))
    error = _from_halves(shares, len(own), len(other), generator)
    return PrecisionRecall(*(Estimate(*pair) for pair in zip(every.tolist(), error.tolist(), strict=True)))


def _distances(first: Tensor, second: Tensor) -> Tensor:
    # not by a matrix product, which says of equal rows that they are apart
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")


def _radius(distances: Tensor, neighbours: int) -> Tensor:
    """Of each row of a set, the distance to its k-th nearest neighbour; the row itself is the 0-th."""
    found: Tensor = distances.kthvalue(neighbours + 1, dim=1).values
    return found


def _from_halves(
    statistic: Callable[[Tensor, Tensor], Tensor], rows: int, draws: int, generator: torch.Generator | None
) -> Tensor:
    """The standard error of shares of two samples, whose variance falls with their size; one row's part at least."""
    device = "cpu" if generator is None else generator.device
    squares = []
    for _ in range(_SPLITS):
        order = torch.randperm(rows, generator=generator, device=device).cpu()
        # a sample may have the context of the row at its place, and stays in that row's half
        drawn = order if rows == draws else torch.randperm(draws, generator=generator, device=device).cpu()
        first = statistic(order[: rows // 2], drawn[: draws // 2])
        second = statistic(order[rows // 2 :], drawn[draws // 2 :])
        squares.append((first - second).square() / 2)
    return (torch.stack(squares).mean(0) / 2).sqrt().clamp(min=1 / min(rows, draws))


def farther_from_training(training: Tensor, data: Tensor, samples: Tensor) -> Estimate:
    r"""The probability that a sample is farther from the training rows than a held-out row is.

    .. math:: P( \delta(y) > \delta(x) ) + \tfrac12 P( \delta(y) = \delta(x) ), \qquad \delta(x) = \min_t d(x, t)

    It is ½ where the samples are distributed as the data are. Below, they lie nearer to training rows than other rows
    of the same distribution do: some are copies. Above, they lie off the data. The standard error is that of DeLong for
    the Mann–Whitney statistic, given the training rows.

    Args:
        training: rows that the model was trained on, shape (N, features).
        data: rows that it was not, shape (n, features).
        samples: of the model, shape (m, features).
    Reference:
        Meehan, Chaudhuri & Dasgupta (2020), A non-parametric test to detect data-copying in generative models,
        arXiv:2004.05675. DeLong, DeLong & Clarke-Pearson (1988), Biometrics 44, p. 837.
    Example:
        >>> training, held_out = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.2], [1.3], [3.0]])
        >>> copies = torch.tensor([[0.0], [1.0], [1.3]])
        >>> round(farther_from_training(training, held_out, copies).value, 4)  # (0 + 0 + 1.5) / 9
        0.1667
    """
    own, drawn = _nearest(data, training), _nearest(samples, training)
    order = own.sort().values
    # how many held-out rows are nearer to the training rows than each sample is, and how many are as near
    below = torch.searchsorted(order, drawn)
    upto = torch.searchsorted(order, drawn, right=True)
    of_samples = (below + upto).double() / (2 * len(own))
    drawn_order = drawn.sort().values
    of_rows = 1 - (torch.searchsorted(drawn_order, own) + torch.searchsorted(drawn_order, own, right=True)).double() / (
        2 * len(drawn)
    )
    variance = of_samples.var() / len(drawn) + of_rows.var() / len(own)
    return Estimate(float(of_samples.mean()), math.sqrt(float(variance)))


def _nearest(rows: Tensor, training: Tensor) -> Tensor:
    """The distance of each row to the nearest training row."""
    rows, training = rows.double(), training.double()
    found = [_distances(rows[some], training).min(1).values for some in chunks(len(rows), _CHUNK)]
    return torch.cat(found)
