"""Data for adopted models: in the shape that the model takes."""

from __future__ import annotations

import torch

from elbowroom.adopting.data import held_out_and_training


def test_colours_stay_where_the_model_has_them() -> None:
    x = torch.rand(6, 5, 7, 3, generator=torch.Generator().manual_seed(0))
    data = held_out_and_training(x[:2], x[2:], "none", 0)
    assert data.event_shape == (5, 7, 3)
    assert torch.equal(data.take("test", torch.arange(2)).x, x[:2])
    assert torch.equal(data.take("train", torch.arange(4)).x, x[2:])
