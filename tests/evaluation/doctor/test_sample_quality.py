"""Samples against data: as far apart as two known distributions are, for the reason that is known."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch.distributions import Independent, Normal

from elbowroom.data.loading import load_data
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.doctor.examination import Examination
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.evaluation.doctor.prior import holes
from elbowroom.evaluation.doctor.sample_quality import sample_study, share_of_prior
from elbowroom.evaluation.two_sample import TwoSampleTest
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import DiagonalNormal
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli, CrossEntropy, Gaussian
from elbowroom.model.likelihoods import Categorical as Categories
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import LinearGaussian
from elbowroom.model.priors import StandardNormal
from exact_cases import Always


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _inputs(model, guide, x, *, points=800, **options) -> Examination:
    return Examination(model, guide, load_data(x, test=0.5, **options), points=points)


def _linear(dim=6, latent_dim=2, scale=0.5, seed=0) -> LinearGaussian:
    weight = torch.randn(dim, latent_dim, generator=_generator(seed))
    return LinearGaussian(weight, torch.zeros(dim), scale=scale)


# --- the accuracy ------------------------------------------------------------------------------------------------


class Told(Conditional):
    """q(z | x) = N(x, 0.05² I)."""

    def forward(self, given, context=None):
        return Independent(Normal(given, 0.05), 1)


def best_accuracy(narrow: float, wide: float, dim: int = 2) -> float:
    r"""Of telling N(0, a² I) from N(0, b² I): their densities are equal at
    :math:`r^2 = 2 D \log(b / a) / (a^{-2} - b^{-2})`.
    """
    if narrow == wide:
        return 0.5
    square = 2 * dim * math.log(wide / narrow) / (narrow**-2 - wide**-2)
    law = stats.chi2(dim)
    return 0.5 + 0.5 * (law.cdf(square / narrow**2) - law.cdf(square / wide**2))


def assert_accuracy(test: TwoSampleTest, exact: float) -> None:
    """Within four standard errors, 1.5 times as wide since folds share their draws; a classifier may miss 0.01."""
    assert test.accuracy - exact + 6 * test.stderr > -0.01
    assert test.accuracy - exact < 6 * test.stderr


@pytest.mark.parametrize(("data", "model"), [(1.0, 1.0), (1.0, 1.6), (1.6, 1.0)])
def test_samples_are_told_from_data_as_often_as_they_can_be(data, model):
    """Without a guide, of a model that ignores z: two normals of three dimensions."""
    likelihood = Gaussian(Always(torch.zeros(1, 3)), (3,), scale=model)
    x = data * torch.randn(6000, 3, generator=_generator(0))
    found = sample_study(_inputs(LatentModel(StandardNormal(1), likelihood), None, x, points=1500))
    assert list(found.tests) == ["prior"] and found.holes is None
    exact = best_accuracy(min(data, model), max(data, model), 3)
    assert_accuracy(found.tests["prior"], exact)
    assert (found.tests["prior"].z > 4) == (data != model)


def test_a_prior_that_is_too_wide_is_told_and_what_it_was_taught_on_is_not():
    """x = z + N(0, 0.1²), and z of the data is N(0, 0.5²): only z of the prior, N(0, 1), gives other samples."""
    model = LinearGaussian(torch.eye(2), torch.zeros(2), scale=0.1)
    x = 0.5 * torch.randn(6000, 2, generator=_generator(1))
    found = sample_study(_inputs(model, Told(), x, points=1500))
    assert list(found.tests) == ["encodings", "learned", "prior"]
    taught = math.sqrt(0.5**2 + 0.05**2 + 0.1**2)
    assert_accuracy(found.tests["encodings"], best_accuracy(0.5, taught))
    assert_accuracy(found.tests["learned"], best_accuracy(0.5, taught))
    assert_accuracy(found.tests["prior"], best_accuracy(0.5, math.sqrt(1 + 0.1**2)))
    assert_accuracy(found.holes, best_accuracy(taught, math.sqrt(1 + 0.1**2)))
    assert share_of_prior(found.tests) > 0.7


def test_a_decoder_that_is_too_noisy_is_told_wherever_z_is_from():
    """z has the prior's distribution, x = z + N(0, 1) where the data have no noise at all."""
    model = LinearGaussian(torch.eye(2), torch.zeros(2), scale=1.0)
    found = sample_study(_inputs(model, Told(), torch.randn(6000, 2, generator=_generator(2)), points=1500))
    for test in found.tests.values():
        assert_accuracy(test, best_accuracy(1.0, math.sqrt(2)))
    assert abs(found.holes.z) < 4
    assert share_of_prior(found.tests) < 0.2


@pytest.mark.parametrize(
    ("encodings", "prior", "share"),
    [(0.6, 0.9, 0.75), (0.5, 0.8, 1.0), (0.9, 0.8, 0.0), (0.5, 0.5, 0.0), (0.4, 0.3, 0.0)],
)
def test_the_share_of_the_prior_is_what_vanishes_with_encodings(encodings, prior, share):
    """1 − (2 a − 1) / (2 b − 1), between 0 and 1; what is told no better than by chance is at no distance."""
    tests = {name: TwoSampleTest(a, 0.01, 0.0, 1000) for name, a in (("encodings", encodings), ("prior", prior))}
    assert share_of_prior(tests) == pytest.approx(share)


def test_too_few_data_are_refused():
    model = _linear()
    data = load_data(model.sample(200, generator=_generator(0)).x, test=99)
    with pytest.raises(ElbowroomError, match="100 rows"):
        sample_study(DoctorInput(model, None, data))


def test_what_is_kept_to_be_shown_is_held_out_data_and_a_mean_for_each_source():
    x = torch.randn(3000, 2, generator=_generator(1))
    inputs = _inputs(LinearGaussian(torch.eye(2), torch.zeros(2), scale=0.1), Told(), x)
    found = inputs.samples
    assert found.data.shape == (20, 2)
    held_out = x[inputs.data.splits["test"]]
    assert all((row == held_out).all(1).any() for row in found.data)
    assert [means.shape for means in found.means.values()] == [(20, 2)] * 3
    # the mean of x is z, which is hardly more than 0.05 from the row that was encoded
    assert torch.cdist(found.means["encodings"], held_out).amin(1).max() < 0.3


# --- what is compared --------------------------------------------------------------------------------------------


def test_other_data_are_encoded_than_are_compared_with():
    # with next to no noise a reconstruction is its datum: two samples of the same rows would be alike to the last digit
    model = _linear(dim=4, latent_dim=1, scale=0.05)
    inputs = _inputs(model, model.exact_guide(), model.sample(3000, generator=_generator(5)).x)
    found = inputs.samples
    assert all(abs(test.z) < 4 for test in found.tests.values())
    assert not torch.allclose(found.means["encodings"], found.data, atol=0.5)


def test_grey_data_are_drawn_as_bits():
    class _Level(torch.nn.Module):
        def forward(self, z, context=None):
            return torch.full((*z.shape[:-1], 1, 5), 0.3).logit()

    model = LatentModel(StandardNormal(2), CrossEntropy(_Level(), (5,)))
    # grey values of mean 0.3 that a Bernoulli draw turns into what the model draws
    x = 0.3 + 0.2 * torch.rand(3000, 5, generator=_generator(6)) - 0.1
    inputs = _inputs(model, None, x, support="unit-interval")
    assert abs(inputs.samples.tests["prior"].z) < 4


@pytest.mark.parametrize("context", [False, True])
def test_masks_and_contexts_are_alike_in_both_samples(context):
    generator = _generator(7)
    decoder = MLP((2,), Gaussian.parameter_shape((4,)), hidden=(), context_dim=2 if context else 0)
    encoder = MLP((4,), (2, 2), hidden=(), context_dim=2 if context else 0)
    torch.nn.init.normal_(decoder.output.weight, generator=generator)
    model = LatentModel(StandardNormal(2), Gaussian(decoder, (4,), scale=0.5))
    c = torch.randn(3000, 2, generator=generator) if context else None
    x = model.sample(3000, context=c, generator=generator).x
    x[torch.rand(x.shape, generator=generator) < 0.3] = math.nan
    inputs = _inputs(model, DiagonalNormal(encoder, 2), x, missing="mask", context=c)
    assert abs(inputs.samples.tests["prior"].z) < 4
    assert len(holes(inputs)) == 1


def test_a_sample_of_another_context_is_found():
    generator = _generator(8)
    decoder = MLP((1,), Gaussian.parameter_shape((3,)), hidden=(), context_dim=1)
    torch.nn.init.normal_(decoder.output.weight, std=2.0, generator=generator)
    model = LatentModel(StandardNormal(1), Gaussian(decoder, (3,), scale=0.3))
    c = torch.randn(3000, 1, generator=generator)
    x = model.sample(3000, context=c, generator=generator).x
    inputs = _inputs(model, None, x, context=c[torch.randperm(3000, generator=generator)])
    assert inputs.samples.tests["prior"].z > 4


def test_categories_are_compared_by_name():
    generator = _generator(9)
    network = MLP((1,), Categories.parameter_shape((4,), num_categories=3), hidden=())
    model = LatentModel(StandardNormal(1), Categories(network, (4,), num_categories=3))
    x = model.sample(2000, generator=generator).x
    found = sample_study(_inputs(model, None, x.long(), support="categories", num_categories=3))
    assert abs(found.tests["prior"].z) < 4
    assert found.blur == {}


def test_means_are_blurred_by_what_noise_there_is():
    # pictures of independent pixels of mean ½: the mean has no edges at all, bits have 2 · ½ of them
    class _Half(torch.nn.Module):
        def forward(self, z, context=None):
            return torch.zeros(*z.shape[:-1], 1, 6, 6) + 0 * z.sum(-1)[..., None, None, None]

    model = LatentModel(StandardNormal(1), Bernoulli(_Half(), (6, 6)))
    found = sample_study(_inputs(model, None, model.sample(1000, generator=_generator(10)).x, support="binary"))
    assert found.blur["prior"][0] == 0.0
    assert found.means["prior"].shape == (20, 6, 6)


@pytest.mark.parametrize("means", [0.0, 1.0])
def test_the_blur_is_the_exact_ratio_and_its_error_that_of_the_data(means):
    """Half of the data are checkerboards, with squared differences of 1 + 1, half are blank; all means are stripes."""
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
    board, stripes = ((rows + columns) % 2).float(), (columns % 2).float()
    x = board * (torch.arange(2000) % 2).view(-1, 1, 1)
    logits = torch.where(stripes > 0, 30.0 * means, -30.0)
    model = LatentModel(StandardNormal(1), Bernoulli(Always(logits.unsqueeze(0)), (6, 6)))
    found = sample_study(_inputs(model, None, x, support="binary", points=500))
    ratio, error = found.blur["prior"]
    # stripes have differences in one direction alone; or pixels of ½ beside 0
    edges = 1.0 if means else 0.25
    share = edges / ratio / 2  # of checkerboards among the n data that were compared
    assert 0.4 < share < 0.6
    spread = 2 * math.sqrt(share * (1 - share) / 499)
    assert error == pytest.approx(ratio * spread / (2 * share), rel=1e-2)


def test_the_blur_has_the_error_of_the_means_too():
    """Means are z times stripes, whose squared differences are z²; all data are stripes of 2 or of −2."""

    class Stripes(torch.nn.Module):
        def forward(self, given, context=None):
            return given.view(*given.shape[:-1], 1, 1, 1) * (torch.arange(6) % 2).expand(6, 6)

    model = LatentModel(StandardNormal(1), Gaussian(Stripes(), (6, 6), scale=0.1))
    signs = 2.0 * (2 * (torch.arange(2000) % 2) - 1).view(-1, 1, 1)
    x = signs * (torch.arange(6) % 2).expand(6, 6)
    ratio, error = sample_study(_inputs(model, None, x, points=500)).blur["prior"]
    # of n squares of standard normal numbers: their mean is 1 and their standard deviation √2
    assert abs(ratio - 1 / 4) < 4 * math.sqrt(2 / 500) / 4
    assert error == pytest.approx(math.sqrt(2 / 500) / 4, rel=0.3)
