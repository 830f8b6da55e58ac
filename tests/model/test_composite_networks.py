"""A linear part beside a network, and a network for every component."""

from __future__ import annotations

import pytest
import torch

from elbowroom.errors import ElbowroomError
from elbowroom.model.composite_networks import ByComponent, WithLinear
from elbowroom.model.networks import MLP, ConvDecoder, ResidualMLP

INSIDE = {
    "mlp": lambda: MLP((3,), (2, 4), hidden=(5,), context_dim=2),
    "residual": lambda: ResidualMLP((3,), (2, 4), width=5, context_dim=2),
    "conv": lambda: ConvDecoder((3,), (1, 4, 4), channels=(3,), context_dim=2),
}


@pytest.mark.parametrize("name", INSIDE)
def test_it_starts_linear_and_the_network_learns(name):
    network = WithLinear(INSIDE[name]())
    x, context = torch.randn(6, 3), torch.randn(6, 2)
    y = network(x, context)
    torch.testing.assert_close(y.flatten(1), network.linear(torch.cat([x, context], 1)))
    y.square().sum().backward()
    assert network.network.output_layer.weight.grad.abs().max() > 0
    with torch.no_grad():
        for parameter in network.network.parameters():
            parameter.normal_()
    torch.testing.assert_close(
        network(x, context),
        network.linear(torch.cat([x, context], 1)).reshape(y.shape) + network.network(x, context),
    )


def test_each_component_has_its_unit_vector():
    inner = MLP((2 + 3,), (2, 4), hidden=(5,))
    z = torch.randn(6, 2)
    found = ByComponent(inner, 3)(z).reshape(6, 3, 2, 4)
    for c in range(3):
        torch.testing.assert_close(found[:, c], inner(torch.cat([z, torch.eye(3)[c].expand(6, -1)], 1)))


def test_components_have_the_context_of_their_example_under_every_draw():
    network = ByComponent(MLP((2 + 3,), (2, 4), hidden=(5,), context_dim=2), 3)
    z, context = torch.randn(5, 6, 2), torch.randn(6, 2)
    out = network(z, context)
    assert out.shape == (5, 6, 6, 4)
    for datum in range(6):
        torch.testing.assert_close(out[:, datum], network(z[:, datum], context[datum].expand(5, 2)))


@pytest.mark.parametrize(("shape", "components"), [((3,), 3), ((2, 3), 2), ((4,), 0)])
def test_components_need_a_place_in_the_input(shape, components):
    with pytest.raises(ElbowroomError, match=rf"latent_dim \+ {components},"):
        ByComponent(MLP(shape, (1, 2)), components)
