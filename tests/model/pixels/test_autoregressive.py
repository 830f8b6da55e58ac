"""Likelihoods of pixels that depend on each other: densities, draws, curvature, refusals."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.gaussian.curvature import gauss_newton
from elbowroom.model import oracles
from elbowroom.model.draws import conditionals, draw, mean
from elbowroom.model.likelihoods import Bernoulli
from elbowroom.model.networks import MLP
from elbowroom.model.noise import CannotPrepareError, Recorder
from elbowroom.model.pixels.autoregressive import AutoregressivePixels, PixelByPixel
from elbowroom.model.pixels.masked_convolutions import of_pixel
from elbowroom.numerics import mean_and_stderr
from pixel_cases import BASES, a_picture, bases_of, pixel_likelihood, pixel_model, seeded

SHAPES = [(4, 5), (3, 3, 4)]
EXACT = [name for name in BASES if "logistic-mixture" not in name]  # whose Fisher information is closed


def every_picture(*shape: int) -> Tensor:
    """All binary pictures, shape (2^pixels, *shape)."""
    bits = list(itertools.product([0.0, 1.0], repeat=math.prod(shape)))
    return torch.tensor(bits, dtype=torch.float64).reshape(-1, *shape)


def some_z(rows: int = 3, latent_dim: int = 2) -> Tensor:
    return torch.randn(rows, latent_dim, generator=seeded(7), dtype=torch.float64)


def test_all_pictures_have_a_probability_of_one_together():
    likelihood = pixel_likelihood(shape=(3, 3))
    log_p = likelihood(some_z().unsqueeze(1)).log_prob(every_picture(3, 3)).flatten(2).sum(2)
    torch.testing.assert_close(log_p.logsumexp(1), torch.zeros(3, dtype=torch.float64))
    assert log_p.std(1).min() > 0.5  # they are not all equal


def test_all_pictures_in_three_channels_have_a_probability_of_one_together():
    likelihood = pixel_likelihood(shape=(3, 2, 2))
    log_p = likelihood(some_z().unsqueeze(1)).log_prob(every_picture(3, 2, 2)).flatten(2).sum(2)
    torch.testing.assert_close(log_p.logsumexp(1), torch.zeros(3, dtype=torch.float64))


def test_pictures_in_categories_have_a_probability_of_one_together():
    likelihood = pixel_likelihood("categorical", shape=(2, 3))
    x = torch.tensor(list(itertools.product(range(3), repeat=6))).reshape(-1, 2, 3)
    log_p = likelihood(some_z(1)).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(log_p.logsumexp(0), torch.zeros((), dtype=torch.float64))


def test_the_evidence_of_all_pictures_is_one_together():
    evidence = oracles.quadrature_log_evidence(pixel_model(), every_picture(3, 3), points=101)
    assert abs(float(evidence.logsumexp(0))) < 1e-6


def test_densities_are_of_each_draw_and_each_example():
    model = pixel_model((3, 4), latent_dim=2)
    x, z = a_picture(model.likelihood), torch.randn(5, 3, 2, generator=seeded(), dtype=torch.float64)
    together = model.log_likelihood(x, z)
    one_by_one = [[model.log_likelihood(x[n, None], z[s, n, None])[0] for n in range(3)] for s in range(5)]
    torch.testing.assert_close(together, torch.stack([torch.stack(row) for row in one_by_one]))
    p_x = model.likelihood(z)
    torch.testing.assert_close(p_x.log_prob(x).flatten(2).sum(2), together)


def without_cache(p_x: PixelByPixel, generator: torch.Generator) -> Tensor:
    """Draws by a whole pass for every pixel."""
    base, event = p_x.base, p_x.base.event_shape
    x = torch.zeros(len(p_x.features), *event, dtype=p_x.features.dtype)
    for row, column in itertools.product(range(event[-2]), range(event[-1])):
        here = (..., slice(row, row + 1), slice(column, column + 1))
        theta = [each[here] for each in base.split(p_x.parameters(x).detach())]
        x[here] = draw(of_pixel(base, event, row, column).distribution(*theta), generator=generator).to(x.dtype)
    return x


@pytest.mark.parametrize(("base", "shape"), bases_of(SHAPES), ids=str)
def test_draws_with_a_cache_are_those_without(base, shape):
    likelihood = pixel_likelihood(base, shape, layers=3)
    p_x = likelihood(some_z())
    torch.testing.assert_close(
        draw(p_x, generator=seeded(1)).double(), without_cache(p_x, seeded(1)), rtol=1e-9, atol=1e-9
    )


def test_draws_have_the_probabilities_of_the_density():
    p_x = pixel_likelihood(shape=(2, 3))(some_z(1).expand(40_000, -1))
    pictures = every_picture(2, 3)
    number = (draw(p_x, generator=seeded(3)).flatten(1) @ (2.0 ** torch.arange(5, -1, -1)).double()).long()
    found = torch.bincount(number, minlength=64).double() / len(number)
    expected = pixel_likelihood(shape=(2, 3))(some_z(1)).log_prob(pictures).flatten(1).sum(1).exp()
    z = (found - expected) / (expected * (1 - expected) / len(number)).sqrt()
    assert z.abs().max() < 4


def test_draws_of_a_shape_and_without_examples():
    p_x = pixel_likelihood()(some_z())
    assert draw(p_x, (2, 4), generator=seeded()).shape == (2, 4, 3, 4, 5)
    assert draw(pixel_likelihood()(some_z(0)), generator=seeded()).shape == (0, 4, 5)
    assert torch.equal(draw(p_x, generator=seeded(2)), draw(p_x, generator=seeded(2)))


def test_means_are_of_each_pixel_given_those_before_it():
    likelihood = pixel_likelihood(shape=(2, 2))
    p_x = likelihood(some_z(1))
    x = every_picture(2, 2)
    probability = p_x.log_prob(x).flatten(1).sum(1).exp()
    expected = mean(conditionals(p_x, x))
    for number, place in enumerate(itertools.product(range(2), repeat=2)):
        for first in itertools.product([0.0, 1.0], repeat=number):
            same = (x.flatten(1)[:, :number] == torch.tensor(first)).all(1)
            share = (probability * x[(slice(None), *place)])[same].sum() / probability[same].sum()
            torch.testing.assert_close(expected[same][(slice(None), *place)], share.expand(int(same.sum())))
    with pytest.raises(ElbowroomError, match="no closed form"):
        mean(p_x)


def test_samples_of_the_model_come_with_means_at_their_own_pixels():
    model = pixel_model()
    found = model.sample(4, generator=seeded())
    torch.testing.assert_close(found.mean, mean(conditionals(model.likelihood(found.z), found.x)))


@pytest.mark.parametrize("base", EXACT)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_curvature_is_that_of_the_parameters_at_the_observed_picture(base, shape):
    model = pixel_model(shape, latent_dim=2, base=base)
    likelihood = model.likelihood
    x, z = a_picture(likelihood, 2), some_z(2)
    found = gauss_newton(model, x, z)
    for n in range(2):
        theta = lambda one, n=n: likelihood(one[None]).parameters(x[n, None])[0]  # noqa: E731
        jacobian = torch.autograd.functional.jacobian(theta, z[n]).flatten(1, -2)  # (P, elements, latent)
        information = likelihood.fisher_information(theta(z[n])[None])[0].flatten(2)  # (P, P, elements)
        expected = torch.eye(2).double() + torch.einsum("pej,pqe,qek->jk", jacobian, information, jacobian)
        torch.testing.assert_close(found[n], expected)


def test_the_expected_score_outer_product_is_the_expected_curvature():
    """Σ p(x | z) s sᵀ over all pictures, s the slope of log p(x | z) by z, is Σ p(x | z) Jᵀ F J of every picture."""
    model = pixel_model((2, 3), latent_dim=2)
    x, z = every_picture(2, 3), some_z(1).requires_grad_()
    log_p = model.log_likelihood(x, z.expand(64, 2))
    scores = torch.stack([torch.autograd.grad(each, z, retain_graph=True)[0][0] for each in log_p])
    probability = log_p.detach().exp()
    outer = torch.einsum("n,nj,nk->jk", probability, scores, scores)
    curvature = gauss_newton(model, x, z.detach().expand(64, 2)) - torch.eye(2)
    torch.testing.assert_close(torch.einsum("n,njk->jk", probability, curvature), outer)


def test_the_output_bias_is_the_mean_of_the_data():
    likelihood = pixel_likelihood(scale=0.0)
    means = torch.rand(4, 5, generator=seeded(2), dtype=torch.float64).clamp(0.1, 0.9)
    likelihood.init_output_bias(means)
    torch.testing.assert_close(mean(conditionals(likelihood(some_z(1)), torch.zeros(1, 4, 5).double()))[0], means)


def test_a_context_reaches_the_pixels():
    likelihood = pixel_likelihood(context_dim=2)
    z, context = some_z(), some_z(3)
    x = a_picture(likelihood)
    before, after = (likelihood(z, each).log_prob(x) for each in (context, context + 1))
    assert not torch.allclose(before, after)
    model = pixel_model((4, 5), latent_dim=2, context_dim=2)
    before, after = (gauss_newton(model, Batch(x, context=each), z) for each in (context, context + 1))
    assert not torch.allclose(before, after)


def test_missing_pixels_are_refused():
    model = pixel_model()
    x = a_picture(model.likelihood)
    mask = torch.ones_like(x, dtype=torch.bool)
    z = some_z(3, 1)
    torch.testing.assert_close(model.log_likelihood(x, z, mask=mask), model.log_likelihood(x, z))
    mask[0, 1, 1] = False
    with pytest.raises(ElbowroomError, match=r"1 of 27 elements are missing(.|\n)*masked-layers 0"):
        model.log_likelihood(x, z, mask=mask)


def test_draws_that_are_to_be_prepared_are_refused():
    with pytest.raises(CannotPrepareError):
        draw(pixel_likelihood()(some_z()), generator=Recorder(seeded()))


def test_what_is_wrapped_needs_masked_pixels_and_a_distribution():
    with pytest.raises(ElbowroomError, match="MaskedPixels"):
        AutoregressivePixels(MLP((2,), (2, 4, 5)), Bernoulli(MLP((2,), (1, 4, 5)), (4, 5)))

    class Own(Bernoulli):
        def forward(self, given, context=None):
            raise AssertionError

    good = pixel_likelihood()
    with pytest.raises(ElbowroomError, match="Own"):
        AutoregressivePixels(good.network, Own(good.base.network, (4, 5)))
    with pytest.raises(ElbowroomError, match=r"\(3, 4, 5\), but the masked convolutions take \(2, 4, 5\)"):
        AutoregressivePixels(MLP((2,), (3, 4, 5)), good.base)


def test_it_says_what_its_base_says():
    for name, shape in bases_of([(3, 4, 5)]):
        likelihood = pixel_likelihood(name, shape)
        assert likelihood.name == likelihood.base.name == name
        assert likelihood.support is likelihood.base.support
        assert likelihood.normalized is (name != "cross-entropy")
        assert likelihood.elementwise is likelihood.base
        assert likelihood.num_parameters == likelihood.base.num_parameters


def test_draws_of_the_prior_average_to_the_evidence():
    model = pixel_model()
    x = every_picture(3, 3)[::37]
    z = torch.randn(2000, len(x), 1, generator=seeded(4), dtype=torch.float64)
    weights = model.log_likelihood(x, z).detach()
    exact = oracles.quadrature_log_evidence(model, x)
    relative, stderr = mean_and_stderr((weights - exact).exp().T.reshape(-1))
    assert abs(relative - 1) < 4 * stderr


@pytest.mark.slow
@pytest.mark.cpp
@pytest.mark.filterwarnings("ignore")  # the compiler warns of its own doings
@pytest.mark.parametrize("base", ["bernoulli", "gaussian"])
def test_densities_compile_as_one_graph(base):
    torch._dynamo.reset()
    model = pixel_model((4, 5), latent_dim=2, base=base)
    x, z = a_picture(model.likelihood), torch.randn(2, 3, 2, generator=seeded(), dtype=torch.float64)
    expected = model.log_likelihood(x, z)
    found = torch.compile(model.log_likelihood, fullgraph=True)(x, z)
    torch.testing.assert_close(found, expected)
    weights = list(model.likelihood.parameters())
    torch.testing.assert_close(torch.autograd.grad(found.sum(), weights), torch.autograd.grad(expected.sum(), weights))
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model.log_likelihood, fullgraph=True)(x, z), expected)
    torch._dynamo.reset()
