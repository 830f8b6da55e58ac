"""What values there are is found out, and compared with what is said."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from elbowroom.data.batch import Batch
from elbowroom.data.storage import InMemory
from elbowroom.data.support import Support
from elbowroom.data.value_checks import (
    Survey,
    check_finite,
    check_support,
    describe_non_finite,
    infer_support,
    percent,
    survey,
)
from elbowroom.errors import ElbowroomError

NAN, INF = float("nan"), float("inf")


def storage(values: Any, dtype: torch.dtype = torch.float32) -> InMemory:
    return InMemory(torch.as_tensor(values, dtype=dtype))


INFERRED = [
    ("bits", storage([[0, 1], [1, 0]]), Support.BINARY),
    ("bits in bytes", storage([[0, 1], [1, 0]], torch.uint8), Support.BINARY),
    ("bytes", storage([[0, 7], [255, 0]], torch.uint8), Support.BYTES),
    ("picture of whole floats", storage([[[0, 7], [255, 0]]]), Support.BYTES),
    ("whole floats, no picture", storage([[0, 7], [255, 0]]), Support.COUNTS),
    ("picture beyond 255", storage([[[0, 7], [256, 0]]]), Support.COUNTS),
    ("counts", storage([[0, 7], [1000, 0]], torch.int64), Support.COUNTS),
    ("grey", storage([[0, 0.5], [1, 0]]), Support.UNIT_INTERVAL),
    ("above 1", storage([[0, 0.5], [1.01, 0]]), Support.REALS),
    ("below 0", storage([[0, 0.5], [-0.01, 0]]), Support.REALS),
    ("negative whole", storage([[0, -1], [1, 0]], torch.int32), Support.REALS),
    ("bits with a hole", storage([[0, NAN], [1, 0]]), Support.BINARY),
]


@pytest.mark.parametrize(("rows", "expected"), [case[1:] for case in INFERRED], ids=[case[0] for case in INFERRED])
def test_narrowest_support(rows: InMemory, expected: Support) -> None:
    assert infer_support(survey(rows), rows) is expected


REFUSED = [
    (Support.BINARY, [[0.0, 0.5], [1.0, 0.0]], None, "25% strictly between", "--data.binarization dynamic"),
    (Support.BINARY, [[0.0, 3.0]], None, "range from 0 to 3", "--data.support counts"),
    (Support.BINARY, [[0.0, 255.0]], None, "range from 0 to 255", "bits of them with --data.binarization dynamic"),
    (Support.UNIT_INTERVAL, [[0.0, 3.0]], None, "range from 0 to 3", "--data.support reals"),
    (Support.BYTES, [[0.0, 300.0]], None, "range from 0 to 300", "--data.support counts"),
    (Support.BYTES, [[0.5, 200.0]], None, "50% of the values", "--data.support reals"),
    (Support.COUNTS, [[-1.0, 2.0], [3.0, 4.0]], None, r"25% negative", "--data.support reals"),
    (Support.COUNTS, [[0.5, 2.0], [3.0, 4.0]], None, "25% of the values", "--data.support reals"),
    (Support.CATEGORIES, [[0.0, 4.0]], 4, r"4 categories are numbered 0\.\.3", "--data.num-categories 5"),
    (Support.CATEGORIES, [[-1.0, 1.0]], 4, "range from -1 to 1", "--data.support reals"),
]


@pytest.mark.parametrize(("support", "values", "categories", "problem", "remedy"), REFUSED)
def test_values_outside_the_support(
    support: Support, values: Any, categories: int | None, problem: str, remedy: str
) -> None:
    with pytest.raises(ElbowroomError, match=problem) as caught:
        check_support(survey(storage(values)), support, "the data", categories)
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("support", list(Support))
def test_bits_have_every_support(support: Support) -> None:
    check_support(survey(storage([[0, 1], [1, 0]])), support, "bits", 2)


def test_nan_and_infinity_are_counted_and_located() -> None:
    found = survey(storage([[0.0, 1.0], [NAN, 2.0], [NAN, NAN], [INF, 0.0]]))
    assert (found.nan, found.first_nan_row, found.infinite, found.first_infinite_row) == (3, 1, 1, 3)
    assert (found.finite, found.lowest, found.highest) == (4, 0.0, 2.0)


@pytest.mark.parametrize(
    ("values", "missing_allowed", "problem"),
    [
        ([[0.0], [NAN], [NAN]], False, "2 NaN, the first in row 1"),
        ([[0.0], [0.0], [-INF]], False, "1 infinite values, the first in row 2"),
        ([[0.0], [NAN], [INF]], True, "1 infinite values, the first in row 2"),
        ([[NAN], [NAN]], True, "Every value of x is missing"),
    ],
)
def test_values_that_are_not_finite(values: Any, missing_allowed: bool, problem: str) -> None:
    with pytest.raises(ElbowroomError, match=problem):
        check_finite(survey(storage(values)), "x", missing_allowed=missing_allowed)


def test_missing_values_are_allowed_on_request() -> None:
    check_finite(survey(storage([[0.0], [NAN]])), "x", missing_allowed=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int16, torch.uint8], ids=str)
def test_survey_agrees_with_elements_counted_one_by_one(dtype: torch.dtype, generator: torch.Generator) -> None:
    x = torch.randn(300, 7, generator=generator).mul(2).mul(4).round().div(4)
    x[::3] *= 100
    x[0, :4] = torch.tensor([0, 1, 254, 255])
    x = (x.abs().clamp(max=255) if dtype == torch.uint8 else x).to(dtype)
    found, values = survey(InMemory(x)), [float(value) for value in x.flatten()]
    assert found.finite == len(values)
    assert (found.lowest, found.highest) == (min(values), max(values))
    assert found.negative == sum(value < 0 for value in values)
    assert found.fractional == sum(value != int(value) for value in values)
    assert found.inside == sum(0 < value < 1 for value in values)
    assert found.between_bytes == sum(0 < value < 255 for value in values)


def test_offending_rows_of_a_batch_are_named() -> None:
    x = torch.tensor([[0.0, 1.0], [NAN, 0.0], [INF, NAN]])
    index = torch.tensor([10, 20, 30])
    assert describe_non_finite(Batch(x[:1], index[:1])) is None
    assert describe_non_finite(Batch(x, index)) == "2 rows 20, 30 of the data (3 elements) are not finite"
    assert describe_non_finite(Batch(x)) == "2 rows 1, 2 of the batch (3 elements) are not finite"
    assert describe_non_finite(Batch(x, index, mask=x.isfinite())) is None
    context = torch.tensor([[NAN], [0.0], [0.0]])
    found = describe_non_finite(Batch(torch.zeros(3, 2), index, context))
    assert found == "row 10 of the data (1 element) is not finite"


@pytest.mark.parametrize(
    ("share", "words"), [(0.0, "0%"), (1e-9, "under 1%"), (0.12, "12%"), (1 - 1e-9, "over 99%"), (1.0, "100%")]
)
def test_shares_in_words(share: float, words: str) -> None:
    assert percent(share) == words


def test_half_precision_of_either_kind_is_surveyed():
    for dtype in (torch.bfloat16, torch.float16):
        found = Survey()
        found.add(torch.arange(2), torch.tensor([[0.0, 0.5], [1.0, 2.0]], dtype=dtype))
        assert (found.finite, found.inside, found.fractional, found.highest) == (4, 1, 1, 2.0)
