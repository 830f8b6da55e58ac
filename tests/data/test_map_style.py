"""Items of a Dataset: what of them is x."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from elbowroom.data.map_style import MapStyle, item_parts
from elbowroom.errors import ElbowroomError

GREY = np.arange(20, dtype=np.uint8).reshape(4, 5)


@pytest.mark.parametrize(
    ("item", "x", "label"),
    [
        (torch.tensor([1.0, 2.0]), [1, 2], None),
        ((torch.tensor([1.0, 2.0]), 3), [1, 2], 3),
        ([np.array([1.0, 2.0]), "cat", "more"], [1, 2], "cat"),
        ((0.5, 1), [0.5], 1),
        ([0.5, 1], [0.5, 1], None),
        ([[1, 2], [3, 4]], [[1, 2], [3, 4]], None),
        ((0.5, 1, 2), [0.5, 1, 2], None),
        (7, [7], None),
        ((torch.tensor(7.0),), [7], None),
        (np.ma.masked_array([1, 2], [False, True]), [1, np.nan], None),
        (torch.tensor([[0, 2], [0, 0]]).to_sparse(), [[0, 2], [0, 0]], None),
        ((Image.fromarray(GREY), 1), GREY.tolist(), 1),
        (Image.fromarray(GREY).convert("P"), GREY.tolist(), None),
        (Image.new("CMYK", (2, 1), (0, 255, 255, 0)), [[[255, 0, 0]] * 2], None),
    ],
)
def test_items(item: Any, x: Any, label: Any) -> None:
    found, beside = item_parts(item)
    assert np.allclose(found.double().numpy(), np.asarray(x, dtype=float), atol=3, equal_nan=True)
    assert found.shape == np.shape(x)
    assert beside == label


@pytest.mark.parametrize("item", [object(), None, [[1.0], [2.0, 3.0]], ([[1.0], [2.0, 3.0]], 1)])
def test_items_that_are_no_array(item: Any) -> None:
    with pytest.raises(ElbowroomError) as caught:
        MapStyle([item, item], "the list")
    assert "The items of the list are of type" in caught.value.problem
    assert "Let it return x as an array, or (x, label)." in caught.value.remedy
    assert MapStyle([np.ones(2), np.ones(2)], "the list").event_shape == (2,)


def test_text_is_named() -> None:
    with pytest.raises(ElbowroomError, match="an item of the list holds text"):
        MapStyle(["a", "b"], "the list")
