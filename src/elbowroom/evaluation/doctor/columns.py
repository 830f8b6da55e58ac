"""A check of tables: which columns do not follow their density, and which density would serve better."""

from __future__ import annotations

import math
from collections.abc import Sequence

from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.evaluation.doctor.column_ranks import ColumnTest, column_tests
from elbowroom.evaluation.doctor.findings import Evidence, Finding, Severity
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.evaluation.thresholds import COLUMN_NATS, COLUMN_P, NOTABLE_NATS
from elbowroom.model.table.likelihood import Table
from elbowroom.phrasing import with_article

__all__ = ["columns_fit"]

_TESTS = 3  # of each column
_EXCESS = 0.01  # share of the rows by which a value is there too often
_TIED = 1.5  # times as many ties as the model says
_APART = 3  # columns whose shape is wrong, up to which each has a finding of its own
_CLEAR = 3.0  # of a component that has an error of 1
# Z₂ / √n and Z₄ / √n where the truth is a normal 0.2, 0.3, … 0.9, 1, 1.1, 1.3, 1.6 and 2 times as wide as the model's
_WIDTHS = (
    (-1.036, 0.872), (-0.942, 0.631), (-0.823, 0.393), (-0.688, 0.196), (-0.546, 0.057), (-0.403, -0.023),
    (-0.262, -0.052), (-0.127, -0.041), (0.0, 0.0), (0.119, 0.061), (0.332, 0.218), (0.596, 0.480), (0.862, 0.807),
)  # fmt: skip
_NOISY = (ColumnKind.REAL, ColumnKind.POSITIVE, ColumnKind.DATE)


def columns_fit(inputs: DoctorInput) -> list[Finding]:
    """Whether the held-out values of each column of a table are as the model says, given the rest of their row.

    A column is named where chance would name any column of a sound model in about one of 1,000 tables (Bonferroni over
    columns and tests), and where that costs more than a few hundredths of a nat per row.

    Args:
        inputs: a trained model and its data.
    Returns:
        A warning, severe beyond one nat per row, for each column whose values repeat more often than the density says,
        or of which one value is too frequent, or whose values are spread otherwise; one for all columns together where
        many are spread otherwise; nothing for the others.
    Raises:
        ElbowroomError: no table with columns of several kinds; too few held-out rows.
    """
    tests = column_tests(inputs)
    likelihood = inputs.model.likelihood.elementwise
    assert isinstance(likelihood, Table)
    limit = COLUMN_P / (_TESTS * len(tests))
    findings, spread = [], []
    for test in tests:
        if _has_ties(test, limit):
            findings.append(_tied(test))
        elif _has_frequent_value(test, limit):
            findings.append(_frequent(test))
        elif test.p_shape < limit and test.gain > COLUMN_NATS:
            spread.append(test)
    spread.sort(key=lambda test: -test.gain)
    if len(spread) <= _APART:
        return findings + [_otherwise(test, likelihood) for test in spread]
    return [*findings, _many(spread, len(tests))]


def _has_frequent_value(test: ColumnTest, limit: float) -> bool:
    column = test.column
    is_number = not (column.kind.has_levels or column.cells) and column.atom is None
    return is_number and test.p_value < limit and test.number - test.expected > _EXCESS * test.rows


def _has_ties(test: ColumnTest, limit: float) -> bool:
    many = test.ties > _TIED * test.expected_ties
    return not test.column.is_probability and test.p_ties < limit and many


def _frequent(test: ColumnTest) -> Finding:
    name, value = test.column.name, f"{test.value:g}"
    evidence = (
        Evidence(f"held-out rows with {value}", test.number, None, f"of {test.rows:,}"),
        Evidence("by the model", test.expected, None, "rows"),
    )
    if test.column.kind is ColumnKind.REAL and test.value == 0:
        remedy = (
            f'If no value is negative: --data.columns "{name}:positive", whose zeros have a probability of their own. '
            f"Otherwise {_split(name, value, begins=False)}"
        )
    else:
        remedy = _split(name, value)
    return Finding(
        "columns_fit",
        "warning",
        f"The value {value} of column '{name}' is more frequent than its {_density(test.column)} says: an atom, a "
        "probability of its own, would serve better.",
        evidence,
        "A smooth density puts the rows of such a value around it, where there are none, and is wrong about both. An "
        "atom is found where a value has a tenth of the training rows, so this one was not.",
        remedy,
    )


def _split(name: str, value: str, *, begins: bool = True) -> str:
    first = "Split" if begins else "split"
    return (
        f"{first} it in two: a column that says whether '{name}' is {value}, and '{name}' with empty cells where it "
        "is. Empty cells are left out of p(x)."
    )


def _tied(test: ColumnTest) -> Finding:
    name = test.column.name
    evidence = (
        Evidence("pairs of held-out rows with equal values", test.ties, None, f"among {test.rows:,} rows"),
        Evidence("by the model", test.expected_ties, None, "pairs"),
    )
    return Finding(
        "columns_fit",
        "warning",
        f"The values of column '{name}' are rounded: they repeat more often than its {_density(test.column)} says, and "
        "probabilities of cells would serve better.",
        evidence,
        "A density on repeated values has no bound: a narrow peak on each of them raises log p(x), which then says how "
        "narrow the peaks are. Probabilities of the cells between the values are taken where five training rows or "
        "more share each value.",
        f"Round '{name}' to the digits that most of its values have, so that five rows or more share each value; or, "
        f'if it has few values, --data.columns "{name}:ordinal".',
    )


def _otherwise(test: ColumnTest, likelihood: Table) -> Finding:
    name = test.column.name
    return Finding(
        "columns_fit",
        _severity(test),
        f"The values of column '{name}' are {_how(test)} than its {_density(test.column)} says, given the rest of "
        "their row.",
        _numbers(test),
        _WHY,
        _remedy(test, likelihood),
    )


def _many(tests: Sequence[ColumnTest], of: int) -> Finding:
    names = ", ".join(f"'{test.column.name}'" for test in tests)
    evidence = tuple(
        Evidence(f"gain of a density that fits '{test.column.name}'", test.gain, test.gain_stderr) for test in tests
    )
    return Finding(
        "columns_fit",
        _severity(tests[0]),
        f"{len(tests)} of {of} columns are spread otherwise than their densities say, given the rest of their row: "
        f"{names}.",
        evidence,
        f"{_WHY} Where many columns are wrong at once, it is rather the model than their densities.",
        "See to what finished and generalises say first; then more freedom: --model.likelihood-components 4, "
        "--model.scale per-element.",
    )


_WHY = (
    "Held-out values and draws from p(column | the rest of the row) are exchangeable if the model is right. The gain "
    "is what log p(x) would rise by, at least, with a density that fits."
)


def _severity(test: ColumnTest) -> Severity:
    return "severe" if test.gain > NOTABLE_NATS else "warning"


def _numbers(test: ColumnTest) -> tuple[Evidence, ...]:
    return (
        Evidence("gain of a density that fits", test.gain, test.gain_stderr),
        Evidence("values outside the model's 90% intervals", test.outside, _stderr(test.outside, test.rows), "share"),
        Evidence("values outside the model's 98% intervals", test.far, _stderr(test.far, test.rows), "share"),
    )


def _stderr(share: float, rows: int) -> float:
    return math.sqrt(share * (1 - share) / rows)


def _main(test: ColumnTest) -> tuple[int, bool]:
    """The component that is farthest from 0, counted from 1, and whether it is above.

    Heavy tails widen the σ that is fitted, so that most values are in the middle of it, and Z₂ may be the farthest from
    0. Tails are told from width by Z₄, which is then larger than for a normal of any width.
    """
    root = math.sqrt(test.rows)
    if test.z[3] - root * _tails_of_width(test.z[1] / root) > _CLEAR:
        return 4, True
    number = max(range(len(test.z)), key=lambda at: abs(test.z[at]))
    return number + 1, test.z[number] > 0


def _tails_of_width(second: float) -> float:
    """Z₄ / √n of a normal of another width, by its Z₂ / √n."""
    second = min(max(second, _WIDTHS[0][0]), _WIDTHS[-1][0])
    at = next(at for at in range(1, len(_WIDTHS)) if second <= _WIDTHS[at][0])
    (left, below), (right, above) = _WIDTHS[at - 1 : at + 1]
    return below + (above - below) * (second - left) / (right - left)


def _how(test: ColumnTest) -> str:
    if test.column.kind in (ColumnKind.BINARY, ColumnKind.CATEGORY):
        return "distributed otherwise"  # their levels have no order
    return {
        (1, True): "larger",
        (1, False): "smaller",
        (2, True): "more often far out",
        (2, False): "more often in the middle",
        (3, True): "skewed more to the right",
        (3, False): "skewed more to the left",
        (4, True): "heavier-tailed",
        (4, False): "lighter-tailed",
    }[_main(test)]


def _remedy(test: ColumnTest, likelihood: Table) -> str:
    column, kind = test.column, test.column.kind
    main = _main(test)
    narrow = test.z[1] > 0
    freer = "More components give it more shapes: --model.likelihood-components 4."
    if kind in _NOISY:
        if main == (4, True):
            return _heavier(column, likelihood, freer)
        if main == (3, True) and kind is ColumnKind.REAL:
            return f'If all values are above 0, a log-normal density: --data.columns "{column.name}:positive". {freer}'
        if main == (3, False) and kind is ColumnKind.POSITIVE:
            return f'A normal density: --data.columns "{column.name}:real". {freer}'
    if kind is ColumnKind.COUNT and main == (2, False):
        return (
            "A negative binomial cannot vary less than a Poisson. If it has few values, "
            f'--data.columns "{column.name}:ordinal"; otherwise --data.columns "{column.name}:real".'
        )
    if kind is ColumnKind.ORDINAL:
        return f'Levels without an order: --data.columns "{column.name}:category". {freer}'
    if kind is ColumnKind.PROPORTION:
        return f'A log-normal density: --data.columns "{column.name}:positive". {freer}'
    if main[0] == 2 and narrow:
        return f"The model is too sure: more data, --optimizer.weight-decay 3e-3, --train.patience. {freer}"
    return f"Train for longer, with more --model.latent-dim. {freer}"


def _heavier(column: Column, likelihood: Table, freer: str) -> str:
    families = {part.places[at].item(): part.family for part in likelihood.parts() for at in range(len(part.places))}
    family = families[likelihood.columns.index(column)]
    family = getattr(family, "rest", family)
    if getattr(family.spread, "raw_share", None) is None:
        return "Normal noise with wide tails: --model.tails wide."
    if family.num_rows == 1:
        return f"Noise whose width depends on z: --model.scale per-element. {freer}"
    return freer


def _density(column: Column) -> str:
    if column.cells:
        return "probabilities of cells"
    return {
        ColumnKind.REAL: "normal density",
        ColumnKind.DATE: "normal density",
        ColumnKind.POSITIVE: "log-normal density",
        ColumnKind.PROPORTION: "beta density",
        ColumnKind.COUNT: "negative binomial distribution",
    }.get(column.kind, f"distribution of {with_article(str(column.kind))} column")
