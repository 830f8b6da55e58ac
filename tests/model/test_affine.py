"""A packed product is the plain one, in every precision, and memory that is offered is used where it can be."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from elbowroom.model import affine
from elbowroom.model.affine import Affine

PACKS = affine._is_packable(torch.ones(256, 128))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("sigmoid", [False, True], ids=["", "sigmoid"])
@pytest.mark.parametrize(("outputs", "inputs"), [(3, 4), (200, 100), (100, 200)])
@pytest.mark.parametrize("rows", [1, 7, 600])
def test_the_map_is_linear(dtype: torch.dtype, bias: bool, sigmoid: bool, outputs: int, inputs: int, rows: int) -> None:
    weight, shift, h = normal(outputs, inputs), normal(outputs, seed=1), normal(rows, inputs, seed=2)
    weight, shift, h = (tensor.to(dtype) for tensor in (weight / inputs**0.5, shift, h))
    map_ = Affine(weight, shift if bias else None)
    wanted = h.double() @ weight.double().T + (shift.double() if bias else 0)
    close = {torch.bfloat16: 2e-2, torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    for _ in range(2):  # packed by the first call, used by the second
        found = map_(h, sigmoid=sigmoid)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), wanted.sigmoid() if sigmoid else wanted, rtol=close, atol=close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_transposed_matrix(dtype: torch.dtype) -> None:
    weight, g = normal(200, 100).to(dtype), normal(5, 200, seed=1).to(dtype)
    torch.testing.assert_close(Affine(weight.T)(g), g @ weight, rtol=1e-4, atol=1e-4)


def test_single_precision_is_as_exact_as_the_plain_product() -> None:
    """Not a product in a lower precision that nobody asked for."""
    weight, h = normal(400, 300).float(), normal(600, 300, seed=1).float()
    wanted = h.double() @ weight.double().T
    packed, plain = ((found.double() - wanted).square().mean().sqrt() for found in (Affine(weight)(h), h @ weight.T))
    assert float(packed) < 2 * float(plain)


def test_memory_is_asked_for_where_it_is_of_use() -> None:
    place = torch.empty(5, 200, dtype=torch.float64)
    found = Affine(normal(200, 100), normal(200))(normal(5, 100), lambda: place)
    assert found.data_ptr() == place.data_ptr()


@pytest.mark.skipif(not PACKS, reason="this build of torch has no packed products")
def test_what_is_worth_it_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = Affine(torch.ones(256, 128)), Affine(torch.ones(8, 128))
    assert torch.equal(large(torch.ones(2, 128)), torch.full((2, 256), 128.0))
    small(torch.ones(2, 128))
    assert large._packed is not None
    assert small._packed is None
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", partial(bool, 0))
    without = Affine(torch.ones(256, 128))
    assert torch.equal(without(torch.ones(2, 128)), torch.full((2, 256), 128.0))
    assert without._packed is None
