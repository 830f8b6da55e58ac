"""Networks inside functions are found, and first calls that fail are explained."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elbowroom.adopting.inspection import first_call, networks_of, precisions, require_same_answer, shape_remedy
from elbowroom.errors import ElbowroomError

NET = nn.Linear(2, 3)
NETS = {"decoder": NET}


class Holder:
    def __init__(self) -> None:
        self.net = NET

    def decode(self, z: Tensor) -> Any:
        return self.net(z)

    def __call__(self, z: Tensor) -> Any:
        return self.net(z)


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = NET

    def decode(self, z: Tensor) -> Any:
        return self.net(z)


def by_global(z: Tensor) -> Any:
    return NET(z)


def by_mapping(z: Tensor) -> Any:
    return NETS["decoder"](z)


def by_helper(z: Tensor) -> Any:
    return by_global(torch.relu(z))


def by_argument(z: Tensor, net: nn.Module = NET) -> Any:
    return net(z)


def by_inner(z: Tensor) -> Any:
    return [NET(row) for row in z]


def by_closure() -> Any:
    net, held = NET, SimpleNamespace(net=NET)
    return [lambda z: net(z), lambda z: held.net(z), lambda z: (lambda y: net(y))(z)]


@pytest.mark.parametrize(
    "function",
    [NET, NET.forward, by_global, by_mapping, by_helper, by_argument, by_inner, partial(by_argument, net=NET),
     Holder(), Holder().decode, *by_closure()],
    ids=["module", "method", "global", "mapping", "helper", "default", "inner", "partial", "object", "object's method",
         "closure", "closure's record", "nested"],
)  # fmt: skip
def test_a_network_inside_a_function_is_found(function: Any) -> None:
    assert networks_of(function) == [NET]


def test_a_network_inside_another_is_not_named_again() -> None:
    whole = Whole()
    assert networks_of(whole.decode, by_global) == [whole]
    assert networks_of(torch.relu, lambda z: z.exp(), len) == []
    assert precisions(whole, NET) == [torch.float32]


def test_a_first_call_that_fails_says_what_it_was_given() -> None:
    with pytest.raises(
        ElbowroomError, match=r"The decoder fails on a tensor of shape \(4, 5\), float32.*mat1"
    ) as fault:
        first_call(NET, torch.zeros(4, 5), "decoder", "Do that.")
    assert isinstance(fault.value.__cause__, RuntimeError)
    assert "Do that." in str(fault.value)


@pytest.mark.parametrize(
    ("event", "picture"), [((64,), "(1, 8, 8)"), ((8, 8), "(1, 8, 8)"), ((3, 8, 8), "(3, 8, 8)"), ((5,), "(1, 5)")]
)
def test_the_remedy_names_shapes_of_these_data(event: tuple[int, ...], picture: str) -> None:
    assert f"input_shape={picture}" in shape_remedy(event)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Dropout(0.5), "called twice"),
        (nn.BatchNorm1d(4), "fails on a tensor of shape \\(1, 4\\)"),
        (lambda z: z - z.mean(0), "the other examples of the batch"),
    ],
    ids=["dropout", "batch-norm", "centred"],
)
def test_what_is_no_fixed_function_of_a_datum_is_refused(net: Any, message: str) -> None:
    with pytest.raises(ElbowroomError, match=message) as refusal:
        require_same_answer(lambda z: (net(z),), torch.randn(6, 4), "decoder")
    assert ".eval()" in str(refusal.value)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_rounding_is_no_difference(scale: float) -> None:
    net = nn.Sequential(nn.Linear(300, 200), nn.Tanh(), nn.Linear(200, 5))
    require_same_answer(lambda z: (scale * net(z),), torch.randn(8, 300), "decoder")
    require_same_answer(lambda z: (z, z.log()), torch.tensor([[0.0, 1.0], [2.0, 3.0]]), "decoder")  # −∞ is the same
