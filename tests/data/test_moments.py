"""Merged in parts, the moments are those of the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from elbowroom.data.moments import Moments


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
