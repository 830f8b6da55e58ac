"""As what data are delivered, and which likelihoods they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from elbowroom.data.binarization import Binarization
from elbowroom.data.support import Support
from elbowroom.data.value_checks import Survey
from elbowroom.data.views import Moments, View
from elbowroom.errors import ElbowroomError

ALLOWED = {
    Support.BINARY: {Support.BINARY, Support.UNIT_INTERVAL, Support.COUNTS, Support.REALS},
    Support.UNIT_INTERVAL: {Support.UNIT_INTERVAL, Support.REALS},
    Support.BYTES: {Support.BYTES, Support.UNIT_INTERVAL, Support.COUNTS, Support.REALS},
    Support.COUNTS: {Support.COUNTS},
    Support.CATEGORIES: {Support.CATEGORIES},
    Support.REALS: {Support.REALS},
    Support.TABLE: {Support.TABLE},
}
GREY = (Support.BINARY, Support.UNIT_INTERVAL, Support.BYTES)


@pytest.mark.parametrize("wanted", list(Support))
@pytest.mark.parametrize("native", list(Support))
def test_who_may_stand_for_whom(native: Support, wanted: Support) -> None:
    assert View(native, native).allows(wanted) is (wanted in ALLOWED[native])


@pytest.mark.parametrize("wanted", list(Support))
@pytest.mark.parametrize("native", GREY)
def test_binarised_data_are_binary(native: Support, wanted: Support) -> None:
    view = View(native, Support.BINARY, Binarization.DYNAMIC)
    assert view.allows(wanted) is (wanted in ALLOWED[Support.BINARY])


@pytest.mark.parametrize("how", [how for how in Binarization if how is not Binarization.NONE])
@pytest.mark.parametrize("native", list(Support))
def test_only_grey_values_are_binarised(native: Support, how: Binarization) -> None:
    view = View(native, Support.BINARY, how)
    if native in GREY:
        view.check_binarization("x")
    else:
        with pytest.raises(ElbowroomError, match=f"--data.binarization {how} needs grey values"):
            view.check_binarization("x")


@pytest.mark.parametrize(
    ("support", "expected"),
    [
        (Support.BYTES, [0.0, 51.0, 255.0]),
        (Support.COUNTS, [0.0, 51.0, 255.0]),
        (Support.UNIT_INTERVAL, [0.0, 0.2, 1.0]),
        (Support.REALS, [0.0, 0.2, 1.0]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bytes_are_divided_where_a_grey_value_is_needed(
    support: Support, expected: list[float], dtype: torch.dtype
) -> None:
    raw = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
    x = View(Support.BYTES, support).deliver(raw, dtype, rows=None)
    assert x.dtype == dtype
    assert torch.equal(x, torch.tensor([expected], dtype=dtype))


@pytest.mark.parametrize("wanted", list(Support))
@pytest.mark.parametrize("native", list(Support))
def test_every_refusal_names_values_need_and_remedy(native: Support, wanted: Support) -> None:
    view = View(native, native)
    if view.allows(wanted):
        return
    found = Survey(finite=100, lowest=0, highest=9, inside=12, between_bytes=40)
    error = view.mismatch(wanted, "a Pareto likelihood", "x", found, picture=False)
    assert error.problem.startswith("the values of x ")
    assert error.problem.endswith(f"but a Pareto likelihood needs {wanted.description}.")
    assert "--model.likelihood" in error.remedy or "--data.support" in error.remedy


def test_the_specimen() -> None:
    found = Survey(finite=100, inside=12, lowest=0, highest=1)
    view = View(Support.UNIT_INTERVAL, Support.UNIT_INTERVAL)
    error = view.mismatch(Support.BINARY, "a Bernoulli likelihood", "grey.npy", found, picture=True)
    assert error.problem == (
        "the pixels of grey.npy lie between 0 and 1 (12% strictly between), but a Bernoulli likelihood needs 0 or 1."
    )
    assert error.remedy == (
        "Say how to make them so: --data.binarization dynamic (or static, threshold), or use "
        "--model.likelihood continuous-bernoulli."
    )


# --- running mean and standard deviation


@pytest.mark.parametrize("offset", [0.0, 1e8])
@pytest.mark.parametrize("masked", [False, True])
def test_parts_merge_to_the_whole(masked: bool, offset: float, generator: torch.Generator) -> None:
    x = torch.randn(103, 2, 3, generator=generator, dtype=torch.float64) + offset
    mask = torch.rand(x.shape, generator=generator) < 0.7 if masked else None
    moments = Moments()
    for part in torch.arange(103).split(10):  # the last one is smaller
        moments.add(x[part], None if mask is None else mask[part])
    exact = np.ma.masked_array(x.numpy(), mask=None if mask is None else ~mask.numpy())
    np.testing.assert_allclose(moments.mean, exact.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.std, exact.std(0), rtol=1e-6)


def test_never_observed_elements() -> None:
    x = torch.tensor([[1.0, 2.0, 0.0], [1.0, 3.0, 0.0]])
    mask = torch.tensor([[True, True, False], [True, True, False]])
    moments = Moments()
    moments.add(x[:1], mask[:1])
    moments.add(x[1:], mask[1:])
    assert moments.mean.tolist() == [1.0, 2.5, 0.0]
    assert moments.std.tolist() == [0.0, 0.5, 0.0]
