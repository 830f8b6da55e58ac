"""Colours of a pixel given each other: a density by enumeration, draws that follow it, masks of whole pixels."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.evaluate import default_methods
from elbowroom.inference.gaussian.curvature import gauss_newton
from elbowroom.inference.target import default_metric
from elbowroom.model.colour import ColourLogisticMixture
from elbowroom.model.distributions import DiscretizedLogisticMixture, mean_level
from elbowroom.model.draws import draw, mean
from elbowroom.model.guides import InputTransform
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import ColourLogisticMixture as Likelihood
from elbowroom.model.networks import MLP
from elbowroom.model.pixels.autoregressive import AutoregressivePixels
from elbowroom.model.pixels.masked_convolutions import MaskedPixels
from elbowroom.model.priors import StandardNormal


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(
    *grid: int, lead: tuple[int, ...] = (), components: int = 3, levels: int = 256, dtype=torch.float64, seed: int = 0
) -> ColourLogisticMixture:
    """Mixtures whose components differ, some of them beyond the ends of the range."""
    generator = seeded(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*lead, *shape, components, generator=generator, dtype=torch.float64).to(dtype)

    locations, log_scales, coefficients = (normal(3, *grid) for _ in range(3))
    scale = -1.0 if levels < 16 else -2.0
    return ColourLogisticMixture(
        normal(*grid),
        0.8 * locations,
        0.5 * log_scales + scale,
        coefficients.tanh(),
        grid_dims=len(grid),
        levels=levels,
    )


def colours(levels: int) -> Tensor:
    """All of them, shape (levels³, 3)."""
    return torch.tensor(list(itertools.product(range(levels), repeat=3)), dtype=torch.float64)


def by_hand(p: ColourLogisticMixture, x: Tensor) -> Tensor:
    """p(r, g, b) of one pixel, by the formula as it stands: shape (n, 3) gives (n)."""
    last = p.levels - 1
    r, g, b = (2 * x / last - 1).unbind(-1)
    total = torch.zeros(len(x), dtype=torch.float64)
    for k in range(p.logits.shape[-1]):
        alpha, beta, gamma = p.coefficients[:, k]
        places = (p.locations[0, k] + 0 * r, p.locations[1, k] + alpha * r, p.locations[2, k] + beta * r + gamma * g)
        joint = p.logits.softmax(-1)[k] * torch.ones_like(total)
        for value, place, s in zip((r, g, b), places, p.log_scales[:, k].exp(), strict=True):
            upper = torch.where(value > 1 - 1 / last, 1.0, torch.sigmoid((value + 1 / last - place) / s))
            lower = torch.where(value < -1 + 1 / last, 0.0, torch.sigmoid((value - 1 / last - place) / s))
            joint = joint * (upper - lower)
        total = total + joint
    return total


@pytest.mark.parametrize("levels", [2, 4, 7])
@pytest.mark.parametrize("seed", range(3))
def test_all_colours_add_up_to_one(levels: int, seed: int) -> None:
    p = pixels(levels=levels, seed=seed)
    total = p.log_prob(colours(levels)).sum(-1).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("channel", [0, 1, 2])
def test_every_conditional_adds_up_to_one(channel: int, dtype: torch.dtype) -> None:
    p = pixels(4, 5, dtype=dtype)
    x = torch.randint(0, 256, (3, 4, 5), generator=seeded(1)).to(dtype).repeat(256, 1, 1, 1)
    x[:, channel] = torch.arange(256, dtype=dtype).reshape(-1, 1, 1)
    total = p.log_prob(x)[:, channel].exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12 if dtype == torch.float64 else 2e-4)


@pytest.mark.parametrize("levels", [4, 256])
def test_the_three_numbers_are_the_factors_of_the_mixture(levels: int) -> None:
    p = pixels(levels=levels)
    x = colours(4) if levels == 4 else torch.randint(0, 256, (200, 3), generator=seeded(2)).double()
    x = torch.cat([x, torch.tensor([[0, 0, 0], [levels - 1] * 3, [0, levels - 1, 0]])])
    torch.testing.assert_close(p.log_prob(x).sum(-1).exp(), by_hand(p, x), rtol=1e-9, atol=1e-15)
    if levels == 4:  # p(r) and p(r, g) are sums of the table
        table = by_hand(p, colours(4)).reshape(4, 4, 4)
        factors = p.log_prob(colours(4)).exp().reshape(4, 4, 4, 3)
        torch.testing.assert_close(factors[..., 0], table.sum((1, 2), keepdim=True).expand(4, 4, 4))
        torch.testing.assert_close(
            factors[..., 1], (table.sum(2) / table.sum((1, 2))[:, None])[..., None].expand(4, 4, 4)
        )


def test_without_coefficients_one_component_is_three_independent_elements() -> None:
    p = pixels(2, 2, components=1)
    apart = ColourLogisticMixture(p.logits, p.locations, p.log_scales, torch.zeros_like(p.coefficients))
    each = DiscretizedLogisticMixture(torch.zeros_like(p.locations), p.locations, p.log_scales)
    x = torch.randint(0, 256, (5, 3, 2, 2), generator=seeded()).double()
    torch.testing.assert_close(apart.log_prob(x), each.log_prob(x))
    torch.testing.assert_close(apart.mean[0], each.mean[0])


def test_one_indicator_ties_the_channels_together() -> None:
    """Two sharp components, black and white: after a black red, green is black for sure."""
    locations = torch.tensor([[-1.5, 1.5]] * 3)
    p = ColourLogisticMixture(torch.zeros(2), locations, locations * 0 - 6, locations * 0, grid_dims=0)
    found = p.log_prob(torch.tensor([0.0, 0.0, 0.0]))
    torch.testing.assert_close(found[0].exp(), torch.tensor(0.5), rtol=0, atol=1e-6)
    assert (found[1:] > -1e-6).all()


@pytest.mark.parametrize("seed", range(4))
def test_draws_follow_the_density(seed: int) -> None:
    """Every colour of 4 levels as often as its probability says, and the same for every place of the grid."""
    n, levels = 20_000, 4
    p = pixels(2, levels=levels, seed=seed)
    x = draw(p, (n,), generator=seeded(seed))
    assert x.shape == (n, 3, 2)
    probability = p.log_prob(colours(levels).unsqueeze(-1)).sum(1).exp()  # (64, 2)
    code = (x * torch.tensor([levels**2, levels, 1]).reshape(1, 3, 1)).sum(1).long()
    for place in range(2):
        expected = n * probability[:, place]
        often = expected > 5
        counts = torch.bincount(code[:, place], minlength=levels**3)
        z = (counts - expected) / (expected * (1 - probability[:, place])).sqrt()
        assert z[often].abs().max() < 4
        rare = counts[~often].sum() - expected[~often].sum()
        assert rare.abs() < 4 * expected[~often].sum().clamp(min=1).sqrt()


def test_bits_per_dimension_are_those_of_enumeration() -> None:
    p, n = pixels(levels=4), 20_000
    log_p = p.log_prob(colours(4)).sum(-1)
    entropy = -(log_p.exp() * log_p).sum() / (3 * math.log(2))
    drawn = -p.log_prob(draw(p, (n,), generator=seeded())).sum(-1) / (3 * math.log(2))
    assert abs(drawn.mean() - entropy) < 4 * drawn.std() / math.sqrt(n)


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_is_that_of_enumeration(seed: int) -> None:
    """Red exactly, green and blue within half a level, over all 256² values of the channels before."""
    p = pixels(components=2, seed=seed)
    one = ColourLogisticMixture(p.logits, p.locations, p.log_scales, p.coefficients, grid_dims=0)
    levels = torch.arange(256, dtype=torch.float64)
    x = torch.stack(torch.broadcast_tensors(levels[:, None], levels, torch.zeros(())), -1)  # (256, 256, 3)
    weights, scaled = p.logits.softmax(-1), levels / 127.5 - 1
    exact = torch.zeros(3, dtype=torch.float64)
    for k in range(2):
        kth = ColourLogisticMixture(
            torch.zeros(1).double(), p.locations[:, k : k + 1], p.log_scales[:, k : k + 1],
            p.coefficients[:, k : k + 1], grid_dims=0,
        )  # fmt: skip
        log_p = kth.log_prob(x)
        joint = log_p[..., :2].sum(-1).exp()  # p(r, g | k)
        place = p.locations[2, k] + p.coefficients[1, k] * scaled[:, None] + p.coefficients[2, k] * scaled
        blue = mean_level(place, p.log_scales[2, k])
        moments = (joint * levels[:, None], joint * levels, joint * blue)
        exact += weights[k] * torch.stack([moment.sum() for moment in moments])
    torch.testing.assert_close(one.mean[0], exact[0])
    torch.testing.assert_close(mean(one), exact, rtol=0, atol=0.5)


def test_shapes_broadcast_and_draws_repeat() -> None:
    p = pixels(4, 5, lead=(7, 2), dtype=torch.float32)
    assert p.batch_shape == (7, 2, 3, 4, 5)
    x = draw(p, (6,), generator=seeded())
    assert x.shape == (6, 7, 2, 3, 4, 5)
    assert torch.equal(x, draw(p, (6,), generator=seeded()))
    assert p.log_prob(x[0, 0]).shape == p.mean.shape == p.batch_shape
    assert p.mean.isfinite().all() and (p.mean >= 0).all() and (p.mean <= 255).all()


def test_gradients_are_those_of_differences() -> None:
    p = pixels(2, components=2)
    x = torch.randint(0, 256, (3, 2), generator=seeded()).double()
    parameters = [
        part.detach().clone().requires_grad_() for part in (p.logits, p.locations, p.log_scales, p.coefficients)
    ]
    assert torch.autograd.gradcheck(lambda *given: ColourLogisticMixture(*given, grid_dims=1).log_prob(x), parameters)


def test_channels_that_are_not_three_are_refused() -> None:
    with pytest.raises(ElbowroomError, match="4 channels"):
        ColourLogisticMixture(torch.zeros(5, 2), *(torch.zeros(4, 5, 2) for _ in range(3)), grid_dims=1)


# --- the likelihood ----------------------------------------------------------------------------------------------


def model(*grid: int) -> LatentModel:
    torch.manual_seed(0)
    network = MLP((2,), Likelihood.parameter_shape((3, *grid), components=2), hidden=(6,))
    return LatentModel(StandardNormal(2), Likelihood(network, (3, *grid), components=2)).double()


def test_missing_pixels_are_summed_out() -> None:
    made = model(2, 2)
    z = torch.randn(4, 2, generator=seeded()).double()
    x = made.sample(4, generator=seeded()).x
    seen = torch.rand(4, 1, 2, 2, generator=seeded()) < 0.5
    mask = seen.expand(4, 3, 2, 2)
    expected = (made.likelihood(z).log_prob(x) * mask).flatten(1).sum(-1)
    filled = torch.where(mask, x, 0.0)  # what was in a hole makes no difference
    torch.testing.assert_close(made.log_likelihood(filled, z, mask=mask), expected)


def test_a_missing_channel_is_refused() -> None:
    made = model(2, 2)
    mask = torch.ones(1, 3, 2, 2, dtype=torch.bool)
    mask[0, 1, 0, 0] = False
    with pytest.raises(ElbowroomError, match="missing of 1 of 4 pixels"):
        made.log_likelihood(torch.zeros(1, 3, 2, 2).double(), torch.zeros(1, 2).double(), mask=mask)


@pytest.mark.parametrize("shape", [(28, 28), (1, 4, 4), (4, 4, 3), ()], ids=str)
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ElbowroomError, match="needs colour pictures"):
        Likelihood.parameter_shape(shape)


def test_there_is_no_fisher_information_and_the_metric_is_dense() -> None:
    made = model(2, 2)
    assert default_metric(made.likelihood) == "dense"
    assert default_methods(made, has_guide=False) == ("ais",)
    with pytest.raises(ElbowroomError, match=r"colour-logistic-mixture(.|\n)*metric dense"):
        gauss_newton(made, Batch(torch.zeros(1, 3, 2, 2).double()), torch.zeros(1, 2).double())


def test_the_weights_are_those_of_the_pixel() -> None:
    """One set of weights for the three channels: the sum of what the network says for each."""
    made = model(2, 2)
    output = torch.randn(8, 3, 2, 2, generator=seeded()).double()
    p = made.likelihood.distribution(*output)
    assert isinstance(p, ColourLogisticMixture)
    torch.testing.assert_close(p.logits, output[:2].sum(1).movedim(0, -1))
    torch.testing.assert_close(p.coefficients, output[6:].tanh().movedim(0, -1))


# --- pixels given those before them, colours given each other ------------------------------------------------------


def masked(height: int = 2, width: int = 2) -> AutoregressivePixels:
    torch.manual_seed(0)
    shape = (3, height, width)
    pixels = MaskedPixels(
        Likelihood.parameter_shape(shape, components=2),
        features=2,
        transform=InputTransform(Support.BYTES, shape),
        layers=1,
        width=8,
        kernel=3,
    )
    base = Likelihood(pixels, shape, components=2)
    return AutoregressivePixels(MLP((1,), pixels.in_shape, hidden=()), base).double()


@pytest.mark.parametrize("channel", [0, 1, 2])
@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 1)])
def test_a_masked_pixels_conditionals_add_up_to_one(place: tuple[int, int], channel: int) -> None:
    """With all that comes before held fixed; and nothing before it moves."""
    p = masked()(torch.zeros(256, 1).double())
    x = torch.randint(0, 256, (3, 2, 2), generator=seeded()).double().repeat(256, 1, 1, 1)
    x[(slice(None), channel, *place)] = torch.arange(256, dtype=torch.float64)
    log_p = p.log_prob(x)
    total = log_p[(slice(None), channel, *place)].exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)
    before = log_p.flatten(2)[:, :, : 2 * place[0] + place[1]]
    torch.testing.assert_close(before, before[:1].expand_as(before))


def test_draws_of_masked_pixels_follow_the_density() -> None:
    """The mean of −log p of every element given those before it is their entropy, which differs from draw to draw."""
    likelihood, n = masked(1, 2), 600
    with torch.no_grad():
        p = likelihood(torch.zeros(n, 1).double())
        x = draw(p, generator=seeded())
        assert x.shape == (n, 3, 1, 2)
        red = x.unsqueeze(0).repeat(256, 1, 1, 1, 1)
        red[:, :, 0, 0, 1] = torch.arange(256).double()[:, None]  # red of the second pixel, given the first
        log_p = torch.stack([p.log_prob(one)[:, 0, 0, 1] for one in red])
        entropy = -(log_p.exp() * log_p).sum(0)
        excess = -p.log_prob(x)[:, 0, 0, 1] - entropy
    assert abs(excess.mean()) < 4 * excess.std() / math.sqrt(n)
    assert entropy.std() > 1e-3  # the second pixel does depend on the first


def test_masked_colours_have_no_fisher_information_either() -> None:
    likelihood = masked()
    assert default_metric(likelihood) == "dense"
    assert likelihood.name == "colour-logistic-mixture"
