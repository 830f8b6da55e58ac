r"""Held-out values of a table among draws of the model given the rest of their rows: tests of each column.

If the model is right, a value :math:`x_d` and L draws from :math:`p(x_d | x_{-d})` are exchangeable, so that its rank
among them, ties broken at random, is uniform on 0 … L, and

.. math:: u = \frac{\text{rank} + U}{L + 1}, \qquad U \sim \text{uniform on } [0, 1)

is uniform: the randomised probability integral transform, for columns of all kinds. Values are compared as they are
written, draws on the grid of their column. Three tests are made of each column:

- **shape**, Neyman's smooth test: with the normalised Legendre polynomials :math:`h_j` on [0, 1],
  :math:`Z_j = n^{-1/2} \sum_i h_j(u_i)` are independent and nearly normal, and :math:`\sum_{j \le 4} Z_j^2` has a χ²
  distribution with four degrees of freedom, nearly: at p = 10⁻⁴ chance is 1.3 times as frequent with 250 rows, and
  twice with 100. :math:`Z_1` is about location, :math:`Z_2` about width, :math:`Z_3` about skewness and :math:`Z_4`
  about tails.
- **one value**: whether a value is there more often than the draws say (Poisson's tail); the smallest p of all values,
  times their number;
- **ties**: whether more pairs of rows have equal values, that value apart, than in the L replicates of the column.

The gain is what a density that fits would gain at least, since recalibrating u to its own density g raises log p by
E log g(u), the divergence of u from the uniform distribution; to second order

.. math:: \tfrac12 \sum_j \Big(\frac{Z_j^2}{n} - \frac1n\Big) \text{ nats per row.}

Reference:
    Dawid (1984), The prequential approach, JRSS A 147. Neyman (1937), Smooth test for goodness of fit.
    Talts, Betancourt, Simpson, Vehtari & Gelman (2018), Validating Bayesian inference algorithms with
    simulation-based calibration, arXiv:1804.06788, on ranks.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.column_scores import why_no_columns
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.inference.importance.left_out import left_out_draws
from elbowroom.model.latent import evaluation_mode
from elbowroom.model.table.likelihood import Table
from elbowroom.numerics import chunks

__all__ = ["LEAST_ROWS", "ColumnTest", "column_tests", "smooth_test"]

LEAST_ROWS = 100
"""Held-out values of a column from which it is tested."""
_MOST_ROWS = 500
_REPLICATES = 99  # L
_DRAWS = 500  # of z for each row
_AT_ONCE = 100  # rows
_SHARE = 0.01  # of the rows, which a value must have to be counted


class ColumnTest(NamedTuple):
    """The tests of one column.

    Attributes:
        column: what is known about it.
        rows: n, held-out values.
        z: Z₁ … Z₄ of the shape.
        gain: nats per row that a density that fits would gain at least.
        gain_stderr: its standard error.
        p_shape: of χ².
        outside: share of the values outside the central 90% of their draws.
        far: share outside the central 98%.
        value: the value that is there too often, if any is; NaN where none has a hundredth of the rows.
        number: rows that have it.
        expected: how many the draws say.
        p_value: of this excess, times the number of different values.
        ties: pairs of rows with equal values, other than that one.
        expected_ties: their mean over the replicates.
        p_ties: of that excess, by a normal approximation.
    """

    column: Column
    rows: int
    z: tuple[float, ...]
    gain: float
    gain_stderr: float
    p_shape: float
    outside: float
    far: float
    value: float
    number: int
    expected: float
    p_value: float
    ties: int
    expected_ties: float
    p_ties: float


def column_tests(inputs: DoctorInput) -> list[ColumnTest]:
    """Tests every column of a table with enough held-out values.

    Args:
        inputs: a trained model and its data.
    Raises:
        ElbowroomError: no table with columns of several kinds; too few held-out rows; codes without number.
    """
    likelihood = inputs.model.likelihood.elementwise
    if not isinstance(likelihood, Table):
        raise ElbowroomError("The columns of x have no kinds.", "Train with --data.columns auto.")
    if (why := why_no_columns(inputs.model)) is not None:
        raise ElbowroomError(f"Columns cannot be drawn given the others. {why}", "Leave this check out.")
    generator = inputs.generator("columns_fit")
    batch = inputs.batch(inputs.held_out(LEAST_ROWS), min(inputs.points, _MOST_ROWS))
    with evaluation_mode(*[part for part in (inputs.model, inputs.guide) if part is not None]):
        draws = torch.cat(
            [_draws(inputs, batch.rows(some), generator) for some in chunks(len(batch), _AT_ONCE)], 1
        ).double()
    seen = ~batch.x.isnan() if batch.mask is None else batch.mask & ~batch.x.isnan()
    found = []
    for place, column in enumerate(likelihood.columns):
        rows = seen[:, place]
        if int(rows.sum()) >= LEAST_ROWS:
            x, replicates = batch.x[rows, place].double(), draws[:, rows, place]
            found.append(_test(column, as_written(x, column), as_written(replicates, column), generator))
    if not found:
        raise ElbowroomError(
            f"No column has {LEAST_ROWS} held-out values among {len(batch)} rows.",
            "Hold more data out, for instance with --data.test 0.2.",
        )
    return found


def _draws(inputs: DoctorInput, batch: Batch, generator: torch.Generator) -> Tensor:
    filler = batch.x.new_tensor(math.nan)
    return left_out_draws(
        inputs.model, inputs.learned_guide, batch, filler, num_samples=_DRAWS, kept=_REPLICATES, generator=generator
    )


def as_written(x: Tensor, column: Column) -> Tensor:
    """Values as numbers of steps on the grid of their column, where it has one; else as they are.

    Example:
        >>> as_written(torch.tensor([0.1, 0.31]), Column("a", ColumnKind.REAL, step=0.1))
        tensor([1., 3.])
    """
    if not _has_grid(column):
        return x
    steps = (x / column.step).round()
    if column.kind in (ColumnKind.POSITIVE, ColumnKind.PROPORTION):
        steps = torch.where(x > 0, steps.clamp(min=1), steps)  # a small one is no 0
    return steps


def _has_grid(column: Column) -> bool:
    """Whether a density stands for values that are written on a grid."""
    return column.step > 0 and not column.is_probability


def _step(column: Column) -> float:
    return column.step if _has_grid(column) else 1.0


def _most_excessive(x: Tensor, draws: Tensor) -> tuple[float, int, float, float]:
    """The value that is least likely to be there so often, of those with a hundredth of the rows: the value, its
    number, how many the draws say, and p.
    """
    values, counts = torch.unique(x, return_counts=True)
    found = (math.nan, 0, 0.0, 1.0)
    for at in (counts >= _SHARE * len(x)).nonzero().squeeze(1).tolist():
        drawn = float((draws == values[at]).double().sum())
        expected = drawn / len(draws)
        bound = (drawn + len(x)) / (len(draws) + 1)  # a value that no draw has may be as frequent as one in L + 1
        p = min(1.0, len(values) * _poisson_tail(int(counts[at]), bound))
        if p < found[3]:
            found = (float(values[at]), int(counts[at]), expected, p)
    return found


def _test(column: Column, x: Tensor, draws: Tensor, generator: torch.Generator) -> ColumnTest:
    """Tests a column by its values, shape (n,), and L draws of each, shape (L, n)."""
    u = _transform(x, draws, generator)
    z, gain, gain_stderr, p_shape = smooth_test(u)
    value, number, expected, p_value = _most_excessive(x, draws)
    ties = torch.stack([_ties(each[each != value]) for each in draws])
    own = int(_ties(x[x != value]))
    # the spread of few ties is Poisson's, whatever that of the replicates
    spread = max(float(ties.double().std()), math.sqrt(float(ties.double().mean()) + 1))
    excess = (own - float(ties.double().mean())) / (spread * math.sqrt(1 + 1 / len(draws)))
    return ColumnTest(
        column,
        len(x),
        tuple(z.tolist()),
        gain,
        gain_stderr,
        p_shape,
        _share_outside(u, 0.05),
        _share_outside(u, 0.01),
        value * _step(column),
        number,
        expected,
        p_value,
        own,
        float(ties.double().mean()),
        0.5 * math.erfc(excess / math.sqrt(2)),
    )


def _transform(x: Tensor, draws: Tensor, generator: torch.Generator) -> Tensor:
    """u of values among their draws, ties broken at random."""
    below, equal = (draws < x).sum(0), (draws == x).sum(0)
    random = torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator)
    # the place among those that are equal, and U, are one uniform number
    return (below + random * (equal + 1)) / (len(draws) + 1)


def _share_outside(u: Tensor, tail: float) -> float:
    return float(((u < tail) | (u >= 1 - tail)).double().mean())


def smooth_test(u: Tensor) -> tuple[Tensor, float, float, float]:
    """Neyman's smooth test of uniformity, of order four.

    Args:
        u: numbers in [0, 1), shape (n,).
    Returns:
        Z₁ … Z₄; the gain in nats and its standard error; p of χ².
    Example:
        >>> u = (torch.arange(100).double() + 0.5) / 100
        >>> z, gain, _, p = smooth_test(u)
        >>> bool((z.abs() < 0.01).all()), gain < 0, p > 0.99
        (True, True, True)
    """
    t, n = 2 * u.double() - 1, len(u)
    legendre = (t, (3 * t**2 - 1) / 2, (5 * t**3 - 3 * t) / 2, (35 * t**4 - 30 * t**2 + 3) / 8)
    h = torch.stack([math.sqrt(2 * order + 3) * each for order, each in enumerate(legendre)])
    mean = h.mean(1)
    z = mean * math.sqrt(n)
    slope = (mean.unsqueeze(1) * (h - mean.unsqueeze(1))).sum(0)  # of the gain, by each row
    chi_squared = z.square().sum()
    return (
        z,
        float((mean.square().sum() - 4 / n) / 2),
        float(slope.std() / math.sqrt(n)),
        float(torch.special.gammaincc(torch.tensor(2.0, dtype=torch.float64), chi_squared / 2)),
    )


def _ties(x: Tensor) -> Tensor:
    """Pairs of rows with equal values."""
    _, counts = torch.unique(x, return_counts=True)
    pairs: Tensor = (counts * (counts - 1) // 2).sum()
    return pairs


def _poisson_tail(count: int, expected: float) -> float:
    """P(N ≥ count) for a Poisson number of this mean; in the tail it is above that of a sum of rows."""
    return float(torch.special.gammainc(*torch.tensor([count, expected], dtype=torch.float64)))
