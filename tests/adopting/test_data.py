"""Data for adopted models: in the shape that the model takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from elbowroom.adopting.adopt import adopt
from elbowroom.adopting.data import held_out_and_training
from elbowroom.errors import ElbowroomError
from small_runs import tiny


def test_colours_stay_where_the_model_has_them() -> None:
    x = torch.rand(6, 5, 7, 3, generator=torch.Generator().manual_seed(0))
    data = held_out_and_training(x[:2], x[2:], "none", 0)
    assert data.event_shape == (5, 7, 3)
    assert torch.equal(data.take("test", torch.arange(2)).x, x[:2])
    assert torch.equal(data.take("train", torch.arange(4)).x, x[2:])


def _networks(dim: int, double: bool) -> dict[str, Any]:
    """Linear networks: an encoder of mean and log-variance, and a decoder of means."""
    encoder, decoder = nn.Linear(dim, 4), nn.Linear(2, dim)
    networks = {"encoder": encoder.double() if double else encoder, "decoder": decoder.double() if double else decoder}
    form = {"encoder_output": "mean-logvar", "decoder_output": "mean", "scale": 1.0, "likelihood": "gaussian"}
    return {**networks, **form, "check": False}


FAR = 1.7e9  # a time in seconds


@pytest.mark.parametrize("kind", ["tensor", "numpy", "Dataset"])
def test_values_that_merge_in_the_networks_precision_are_refused(kind: str) -> None:
    """A run would count them from an origin; the networks take x as it is, and 400 different times become one."""
    x = FAR + 60 * torch.rand(400, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    data = {"tensor": x, "numpy": x.numpy(), "Dataset": TensorDataset(x)}[kind]
    with pytest.raises(ElbowroomError, match="become equal to others in float32") as caught:
        adopt(data=data, **_networks(3, double=False))
    assert "encoder.double() and decoder.double()" in caught.value.remedy
    adopted = adopt(data=x, **_networks(3, double=True))
    assert torch.equal(adopted.data.take("test", torch.arange(400)).x, x)


def test_values_beyond_the_networks_precision_are_refused() -> None:
    x = torch.rand(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[7, 1] = 1e39
    with pytest.raises(ElbowroomError, match=r"Row 7 of the array holds 1e\+39"):
        adopt(data=x, **_networks(3, double=False))


def test_an_offset_that_the_precision_bears_is_no_fault() -> None:
    x = 1000 + torch.randn(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    adopted = adopt(data=x, **_networks(3, double=False))
    assert torch.equal(adopted.data.take("test", torch.arange(200)).x, x.float())


def test_the_data_of_a_run_are_given_as_they_are_stored(tmp_path: Path) -> None:
    """The run itself gets differences from an origin, of which the networks know nothing."""
    x = FAR + 100 * torch.randn(60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    own = tiny(x, tmp_path / "run", train={"steps": 2}).dataset()
    assert own.view.origin is not None
    assert float(own.take("test", torch.arange(8)).x.abs().max()) < 1e4
    given = held_out_and_training(own, None, "none", 0).to(dtype=torch.float64)
    assert torch.equal(given.take("test", torch.arange(8)).x, x[own.splits["test"]])
    adopted = adopt(data=own, **_networks(3, double=True))
    assert torch.equal(adopted.data.take("test", torch.arange(8)).x, x[own.splits["test"]])
    with pytest.raises(ElbowroomError, match="become equal to others in float32"):
        adopt(data=own, **_networks(3, double=False))
