"""Pyramids: shapes, normalisation, gates, where they start, and the pictures that they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from elbowroom.errors import ElbowroomError
from elbowroom.inference.gaussian.curvature import network_jacobian
from elbowroom.model import pyramid
from elbowroom.model.networks import Network
from elbowroom.model.pyramid import PyramidDecoder, PyramidEncoder

BUILDERS = {
    "encoder": lambda **k: PyramidEncoder((8, 4), (2, 4), channels=(8, 6), **k),
    "encoder-colour": lambda **k: PyramidEncoder((3, 8, 8), (4,), channels=(4, 6, 8), **k),
    "decoder": lambda **k: PyramidDecoder((4,), (2, 8, 4), channels=(6, 8), **k),
    "decoder-colour": lambda **k: PyramidDecoder((4,), (2, 3, 8, 8), channels=(8, 6, 4), **k),
}
NORMALIZATIONS = ["group", "weight", "none"]


def build(name: str, **options: object) -> Network:
    torch.manual_seed(0)
    return BUILDERS[name](**options).double()


def inputs(network: Network, *lead: int, seed: int = 1) -> Tensor:
    return torch.randn(*lead, *network.in_shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("name", BUILDERS)
def test_leading_axes_are_independent(name: str, normalization: str, training: bool) -> None:
    """No normalisation couples the examples of a batch, in training neither."""
    network = build(name, normalization=normalization).train(training)
    given = inputs(network, 3, 4)
    out = network(given)
    assert out.shape == (3, 4, *network.out_shape)
    one_by_one = torch.stack([torch.stack([network(item[None])[0] for item in row]) for row in given])
    torch.testing.assert_close(out, one_by_one)


@pytest.mark.parametrize("name", BUILDERS)
def test_context_belongs_to_its_datum_under_every_draw(name: str) -> None:
    network = build(name, context_dim=2)
    given, context = inputs(network, 3, 4), torch.randn(4, 2).double()
    out = network(given, context)
    for datum in range(4):
        torch.testing.assert_close(out[:, datum], network(given[:, datum], context[datum].expand(3, 2)))
    assert not torch.allclose(out, network(given, context + 1))


@pytest.mark.parametrize("name", BUILDERS)
def test_output_bias_is_the_output_when_the_last_weights_are_zero(name: str) -> None:
    network = build(name)
    values = torch.randn(network.out_shape).double()
    network.output_layer.weight.data.zero_()
    network.set_output_bias(values)
    if isinstance(network, PyramidDecoder):
        values = values.mean((-2, -1), keepdim=True).expand(network.out_shape)
    torch.testing.assert_close(network(inputs(network, 4)), values.expand(4, *network.out_shape))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("name", BUILDERS)
def test_every_weight_learns(name: str, normalization: str) -> None:
    network = build(name, normalization=normalization, blocks=2)
    network(inputs(network, 4)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("name", BUILDERS)
def test_widest_is_the_largest_tensor_that_any_layer_makes_of_one_input(name: str) -> None:
    network, sizes = build(name), []
    for part in network.modules():
        if not list(part.children()):
            part.register_forward_hook(lambda part, given, out: sizes.append(out.numel()))
    given = inputs(network, 1)
    network(given)
    assert network.widest == max(*sizes, given.numel())


def test_a_weight_that_is_normalised_has_the_length_of_its_gain() -> None:
    torch.manual_seed(0)
    ours = pyramid._convolution(3, 5, "weight").double()
    assert isinstance(ours, pyramid.WeightNormalized)
    plain = nn.Conv2d(3, 5, 3, padding=1).double()
    plain.load_state_dict({"weight": ours.weight, "bias": ours.bias})
    x = torch.randn(2, 3, 4, 4).double()
    torch.testing.assert_close(ours(x), plain(x))  # it starts as the usual convolution
    with torch.no_grad():
        ours.weight.mul_(7.0)  # only its direction counts
        torch.testing.assert_close(ours(x), plain(x))
        ours.gain.mul_(2.0)
    bias = plain.bias.reshape(-1, 1, 1)
    torch.testing.assert_close(ours(x) - bias, 2 * (plain(x) - bias))


def test_groups_are_normalised_and_nothing_else_is() -> None:
    """A block of a picture at ten times the contrast changes it by the same amount, but for the way past it."""
    block = build_block("group")
    h = torch.randn(2, 8, 4, 4).double()
    torch.testing.assert_close(block(10 * h) - 10 * h, block(h) - h, rtol=0, atol=1e-3)
    block = build_block("none")
    assert not torch.allclose(block(10 * h) - 10 * h, block(h) - h, atol=1e-2)


def build_block(normalization: pyramid.Normalization) -> pyramid._Block:
    torch.manual_seed(0)
    return pyramid._Block(8, "silu", normalization).double()


def test_a_gate_multiplies_its_channel() -> None:
    block = build_block("none")
    h = torch.randn(2, 8, 4, 4).double()
    with torch.no_grad():
        change = block.convolutions(h)
        block.gate[-2].weight.zero_()
        block.gate[-2].bias.copy_(torch.logit(torch.linspace(0.1, 0.8, 8)))
    gates = torch.linspace(0.1, 0.8, 8).double().reshape(8, 1, 1)
    torch.testing.assert_close(block(h) - h, gates * change, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_block_starts_small(normalization: pyramid.Normalization) -> None:
    h = torch.randn(20, 8, 4, 4).double()
    block = build_block(normalization)
    assert (block(h) - h).std() < 0.1 * h.std()


@pytest.mark.parametrize("name", ["decoder", "decoder-colour"])
def test_its_jacobian_is_that_of_reverse_mode(name: str) -> None:
    """Laplace approximations take forward derivatives under a transform, which forbids some memory layouts."""
    network = build(name).eval()
    z = inputs(network, 3)
    _, found = network_jacobian(network, z)
    expected = torch.stack(
        [torch.autograd.functional.jacobian(lambda one: network(one[None])[0], row).movedim(-1, 0) for row in z]
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            lambda: PyramidEncoder((28, 28), (2,), channels=(4, 4, 4)),
            r"28 × 28 pixels cannot be halved evenly more often than 2 times(.|\n)*most 2",
        ),
        (
            lambda: PyramidDecoder((2,), (1, 28, 36), channels=(4, 4, 4)),
            "28 × 36 pixels cannot be halved evenly more often than 2",
        ),
        (
            lambda: PyramidEncoder((5, 8), (2,), channels=(4,)),
            r"5 × 8 pixels cannot be halved evenly\.(.|\n)*multiples of 2",
        ),
        (lambda: PyramidEncoder((12,), (2,)), r"\(12,\)"),
        (lambda: PyramidDecoder((2,), (1, 12)), r"\(1, 12\)"),
        (lambda: PyramidEncoder((8, 8), (2,), channels=()), "one level at least"),
        (lambda: PyramidEncoder((8, 8), (2,), channels=(0,)), "one channel"),
        (lambda: PyramidEncoder((8, 8), (2,), channels=(4,), blocks=-1), "-1 blocks"),
        (lambda: PyramidEncoder((8, 8), (2,), channels=(4,), activation="rleu"), r"'rleu'(.|\n)*relu"),
        (lambda: PyramidEncoder((8, 8), (2,), channels=(4,), normalization="gruop"), r"'gruop'(.|\n)*group"),
        (lambda: PyramidEncoder((8, 8), (2,), channels=(4,))(torch.zeros(2, 8, 9)), r"\(2, 8, 9\)"),
    ],
)
def test_refusals(wrong: object, message: str) -> None:
    with pytest.raises(ElbowroomError, match=message):
        wrong()  # type: ignore[operator]
