"""Masked convolutions: nothing is seen of a pixel and what is behind it, and steps agree with the pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.model.guides import InputTransform
from elbowroom.model.pixels.masked_convolutions import Cache, MaskedConv2d, MaskedPixels, of_pixel
from pixel_cases import a_picture, bases_of, pixel_likelihood, seeded

SHAPES = [(4, 5), (1, 4, 3), (3, 3, 4)]


def network(shape: tuple[int, ...] = (9, 9), parameters: int = 2, features: int = 2, **options: int) -> MaskedPixels:
    transform = InputTransform(Support.BINARY, shape)
    made = MaskedPixels((parameters, *shape), features=features, transform=transform, **options).double()
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(std=0.5, generator=seeded(weight.numel()))
    return made


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(5), dtype=torch.float64)


def position(shape: tuple[int, ...]) -> Tensor:
    """The place of each element's pixel in the order of reading."""
    return torch.arange(shape[-2] * shape[-1]).reshape(shape[-2:]).expand(shape)


@pytest.mark.parametrize(("base", "shape"), bases_of(SHAPES), ids=str)
def test_a_change_of_a_pixel_moves_no_parameter_up_to_it_and_some_behind_it(base, shape):
    likelihood = pixel_likelihood(base, shape)
    x, z, order = a_picture(likelihood, 1), random(1, 2), position(shape)
    before = likelihood(z).parameters(x)[0]
    last = int(order.max())
    for place in range(last + 1):
        here = order == place
        changed = x.clone()
        changed[0][here] = (x[0][here] + 1) % 2  # another value that every support has
        moved = (likelihood(z).parameters(changed)[0] - before).abs().amax(0)
        assert not moved[order <= place].any()
        if place < last:
            assert moved[order > place].any()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_pixel_has_its_own_features(shape):
    """A picture's own features reach its parameters, and no other picture's do."""
    pixels = network(shape)
    x, features = torch.ones(3, *shape, dtype=torch.float64), random(3, *pixels.in_shape)
    before = pixels(x, features)
    features[1] += 1
    moved = (pixels(x, features) - before).abs().flatten(1).amax(1) > 0
    assert moved.tolist() == [False, True, False]


@pytest.mark.parametrize(("layers", "kernel"), [(1, 3), (1, 5), (2, 3), (3, 5)])
def test_the_receptive_field_is_as_said(layers, kernel):
    pixels = network((23, 23), parameters=1, layers=layers, kernel=kernel)
    x = random(1, 23, 23).requires_grad_()
    pixels(x, random(1, 2, 23, 23))[0, 0, 20, 11].backward()
    rows, columns = x.grad[0].nonzero().unbind(1)
    reach = pixels.receptive_field // 2
    assert (20 - int(rows.min()), int((columns - 11).abs().max())) == (reach, reach)
    assert pixels.receptive_field == 7 + (layers - 1) * (kernel - 1)
    assert x.grad[0, 20, 10] != 0  # the neighbours are seen
    assert x.grad[0, 19, 11] != 0


def test_masked_kernels_see_what_a_full_kernel_with_a_mask_sees():
    layer = MaskedConv2d(2, 3, 5, sees_itself=True).double()
    full = torch.zeros(3, 2, 5, 5, dtype=torch.float64)
    full[:, :, :3] = layer.masked_weight
    assert not full[:, :, 2, 3:].any()
    assert full[:, :, 2, 2].all()
    x = random(4, 2, 6, 7)
    torch.testing.assert_close(layer(x), torch.nn.functional.conv2d(x, full, layer.bias, padding=2))
    assert not MaskedConv2d(1, 1, 5, sees_itself=False).mask[2, 2]


def test_draws_of_features_share_a_picture():
    pixels = network((4, 4))
    x, features = (random(3, 4, 4) > 0).double(), random(6, 3, *pixels.in_shape)
    together = pixels(x, features)
    assert together.shape == (6, 3, 2, 4, 4)
    for one, each in zip(features, together, strict=True):
        torch.testing.assert_close(pixels(x, one), each)
    several = torch.stack([x, 1 - x])
    torch.testing.assert_close(pixels(several, features[0])[1], pixels(1 - x, features[0]))


@pytest.mark.parametrize(("base", "shape"), bases_of(SHAPES), ids=str)
def test_steps_agree_with_the_pass(base, shape):
    likelihood = pixel_likelihood(base, shape, layers=3, kernel=5)
    x, features = a_picture(likelihood), likelihood.network(random(3, 2))
    pixels = likelihood.base.network
    expected, cache = pixels(x, features), Cache(pixels, features)
    for row in range(shape[-2]):
        for column in range(shape[-1]):
            here = (..., slice(row, row + 1), slice(column, column + 1))
            torch.testing.assert_close(cache.parameters(row, column), expected[here])
            cache.put(row, column, x[here])


@pytest.mark.parametrize(("base", "shape"), bases_of(SHAPES), ids=str)
def test_the_likelihood_of_a_pixel_is_that_of_the_picture_there(base, shape):
    likelihood = pixel_likelihood(base, shape)
    x, z = a_picture(likelihood), random(3, 2)
    theta = likelihood.base.split(likelihood(z).parameters(x))
    here = (..., slice(1, 2), slice(2, 3))
    one = of_pixel(likelihood.base, shape, 1, 2).distribution(*(each[here] for each in theta))
    torch.testing.assert_close(one.log_prob(x[here]), likelihood(z).log_prob(x)[here])
    assert likelihood.base.event_shape == shape  # the original is as it was


def test_bfloat16_inside_stays_inside():
    pixels = network((5, 5)).float().train()
    x, features = (random(3, 5, 5) > 0).float(), random(3, 2, 5, 5).float()
    exact = pixels(x, features)
    pixels.autocast = torch.bfloat16
    rough = pixels(x, features)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).detach().abs().max() < 0.1 * exact.detach().abs().max()
    with torch.no_grad():
        assert torch.equal(pixels(x, features), exact)


def test_the_output_starts_at_its_bias():
    pixels = network((4, 4), parameters=1)
    values = random(1, 4, 4)
    before = pixels(torch.zeros(1, 4, 4).double(), torch.zeros(1, 2, 4, 4).double()) - pixels.bias
    pixels.set_output_bias(values)
    after = pixels(torch.zeros(1, 4, 4).double(), torch.zeros(1, 2, 4, 4).double())
    torch.testing.assert_close(after - before, values.unsqueeze(0))


@pytest.mark.parametrize("parameters", [1, 2, 5])
def test_training_starts_near_independent_pixels_whose_parameters_are_the_features(parameters):
    torch.manual_seed(0)
    shape = (3, 4, 4)
    transform = InputTransform(Support.BINARY, shape)
    pixels = MaskedPixels((parameters, *shape), features=2, transform=transform, width=8)
    features = random(1, 2, *shape).float()
    with torch.no_grad():
        found = pixels((random(1, *shape) > 0).float(), features)[0]
    for number in range(parameters):
        assert (found[number] - features[0, number % 2]).abs().max() < 0.2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (12,)}, r"masked-layers 0"),
        ({"layers": 0}, "0 layers"),
        ({"width": 0}, "width 0"),
        ({"features": 0}, "0 features"),
        ({"kernel": 4}, "side 4"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(ElbowroomError, match=message):
        network(**options)


def test_inputs_of_another_shape_are_refused():
    with pytest.raises(ElbowroomError, match=r"\(9, 9\)"):
        network()(torch.zeros(2, 9, 8), torch.zeros(2, 2, 9, 9))
    with pytest.raises(ElbowroomError, match=r"\(2, 9, 9\)"):
        network()(torch.zeros(2, 9, 9), torch.zeros(2, 3, 9, 9))
