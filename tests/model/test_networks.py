"""Networks: shapes, the folding of axes, contexts, output biases, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from elbowroom.errors import ElbowroomError
from elbowroom.model.composite_networks import WithLinear
from elbowroom.model.networks import ACTIVATIONS, MLP, ConvDecoder, ConvEncoder, Network, ResidualMLP

BUILDERS = {
    "mlp": lambda **k: MLP((2, 3), (2, 4), hidden=(5, 6), **k),
    "affine": lambda **k: MLP((6,), (3,), hidden=(), **k),
    "residual": lambda **k: ResidualMLP((6,), (2, 2), width=5, blocks=2, **k),
    "conv-encoder": lambda **k: ConvEncoder((5, 7), (2, 4), channels=(3, 4), **k),
    "conv-encoder-colour": lambda **k: ConvEncoder((3, 8, 6), (4,), channels=(3,), **k),
    "conv-decoder": lambda **k: ConvDecoder((4,), (2, 5, 7), channels=(4, 3), **k),
    "conv-decoder-colour": lambda **k: ConvDecoder((4,), (1, 3, 8, 6), channels=(4,), **k),
    "linear": lambda **k: WithLinear(MLP((2, 3), (2, 4), hidden=(5,), **k)),
}


def build(name: str, **options: object) -> Network:
    torch.manual_seed(0)
    return BUILDERS[name](**options)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("name", BUILDERS)
def test_leading_axes_are_independent(name, batch_norm):
    network = build(name, batch_norm=batch_norm)
    given = torch.randn(3, 4, *network.in_shape)
    network(given)  # gives the running statistics something to remember
    network.eval()
    out = network(given)
    assert out.shape == (3, 4, *network.out_shape)
    one_by_one = torch.stack([torch.stack([network(item[None])[0] for item in row]) for row in given])
    torch.testing.assert_close(out, one_by_one)


@pytest.mark.parametrize("name", BUILDERS)
def test_context_belongs_to_its_datum_under_every_draw(name):
    network = build(name, context_dim=2)
    given, context = torch.randn(3, 4, *network.in_shape), torch.randn(4, 2)
    out = network(given, context)
    for datum in range(4):
        alone = network(given[:, datum], context[datum].expand(3, 2))
        torch.testing.assert_close(out[:, datum], alone)
    assert not torch.allclose(out, network(given, context + 1))


@pytest.mark.parametrize("name", BUILDERS)
def test_no_context_dim_ignores_the_context(name):
    network = build(name)
    given = torch.randn(4, *network.in_shape)
    torch.testing.assert_close(network(given, torch.randn(4, 2)), network(given))


@pytest.mark.parametrize("name", BUILDERS)
def test_output_bias_is_the_output_when_the_last_weights_are_zero(name):
    network = build(name)
    values = torch.randn(network.out_shape)
    network.output_layer.weight.data.zero_()
    network.set_output_bias(values)
    if isinstance(network, ConvDecoder):
        values = values.mean((-2, -1), keepdim=True).expand(network.out_shape)
    out = network(torch.randn(4, *network.in_shape))
    torch.testing.assert_close(out, values.expand(4, *network.out_shape))
    assert network.output_layer.bias.requires_grad


@pytest.mark.parametrize("channels", [(4,), (4, 3), (4, 3, 2)])
@pytest.mark.parametrize("size", [(28, 28), (8, 8), (5, 7), (1, 1), (1, 6), (27, 3)])
def test_convolutions_serve_any_image_size(size, channels):
    assert ConvDecoder((2,), (3, *size), channels=channels)(torch.zeros(2, 2)).shape == (2, 3, *size)
    assert ConvEncoder(size, (5,), channels=channels)(torch.zeros(2, *size)).shape == (2, 5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_is_applied(name):
    torch.manual_seed(0)
    network = MLP((2,), (3,), hidden=(4,), activation=name)
    x = torch.randn(5, 2)
    expected = network.output(ACTIVATIONS[name]()(nn.functional.linear(x, *network.hidden_layers[0].parameters())))
    torch.testing.assert_close(network(x), expected)


def test_the_tutorials_encoder_has_the_tutorials_weights():
    """hidden=(400,) to (2, 20) is fc1 and (fc_mu, fc_logvar) side by side, with torch's own initialisation."""
    torch.manual_seed(0)
    network = MLP((28, 28), (2, 20), hidden=(400,))
    torch.manual_seed(0)
    fc1, fc_both = nn.Linear(784, 400), nn.Linear(400, 40)
    x = torch.rand(3, 28, 28)
    mu, log_var = fc_both(torch.relu(fc1(x.flatten(1)))).chunk(2, 1)
    torch.testing.assert_close(network(x), torch.stack([mu, log_var], 1))


def test_residual_blocks_add_to_their_input():
    network = build("residual")
    for block in network.blocks:
        block[-1].weight.data.zero_()
        block[-1].bias.data.zero_()
    x = torch.randn(4, 6)
    expected = network.output(torch.relu(network.input(x))).reshape(4, 2, 2)
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: ConvEncoder((784,), (2,)), r"image.*\(784\)"),
        (lambda: ConvDecoder((2,), (1, 784)), r"image.*\(784\)"),
        (lambda: ConvDecoder((2,), (1, 8, 8), channels=()), "no channels"),
        (lambda: MLP((2,), (2,), activation="rleu"), "Did you mean 'relu'"),
        (lambda: ResidualMLP((2,), (2,), activation="rleu"), "Did you mean 'relu'"),
        (lambda: MLP((2,), (0,)), "sizes start at 1"),
        (lambda: MLP((2,), (2,), hidden=(0,)), "starts at 1"),
        (lambda: MLP((2, 3), (2,))(torch.zeros(4, 6)), r"\(\*, 2, 3\) was given \(4, 6\)"),
        (lambda: MLP((2, 3), (2,))(torch.zeros(3)), "was given"),
        (lambda: MLP((2,), (2,), context_dim=3)(torch.zeros(4, 2)), "none was"),
        (lambda: MLP((2,), (2,), context_dim=3)(torch.zeros(4, 2), torch.zeros(4, 2)), "length 2 was"),
    ],
)
def test_refusals_say_what_was_given(wrong, message):
    with pytest.raises(ElbowroomError, match=message):
        wrong()


@pytest.mark.parametrize(
    "network",
    [
        lambda: MLP((4,), (3,), hidden=(5,), batch_norm=True),
        lambda: ResidualMLP((4,), (3,), width=5, batch_norm=True),
        lambda: ConvDecoder((4,), (1, 2, 2), channels=(3,), batch_norm=True),
    ],
)
def test_a_single_row_cannot_be_batch_normalised(network):
    network = network()
    with pytest.raises(ElbowroomError, match="one row") as caught:
        network(torch.zeros(1, 4))
    assert "--train.batch-size" in caught.value.remedy
    network(torch.zeros(2, 4))
    network.eval()(torch.zeros(1, 4))


@pytest.mark.parametrize(
    ("network", "widest"),
    [
        (lambda: MLP((4,), (3,), hidden=(5, 9, 2)), 9),
        (lambda: MLP((4,), (3, 5), hidden=(9,)), 15),
        (lambda: ResidualMLP((4,), (3,), width=50), 50),
        (lambda: ConvEncoder((8, 8), (3,), channels=(16, 32)), 16 * 4 * 4),
        (lambda: ConvDecoder((4,), (1, 8, 8), channels=(32, 16)), 16 * 4 * 4),
        (lambda: ConvDecoder((4,), (1, 8, 8), channels=(100, 2)), 100 * 2 * 2),
    ],
)
def test_the_widest_layer_is_known(network, widest):
    network = network()
    sizes = []
    for part in network.modules():
        part.register_forward_hook(lambda module, given, out: sizes.append(out[0].numel()))
    network(torch.zeros(2, *network.in_shape))
    assert network.widest == widest == max(sizes)
