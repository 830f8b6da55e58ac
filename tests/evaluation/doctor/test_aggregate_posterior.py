"""The aggregate posterior against the prior, where both are normal and everything about them has a closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from elbowroom.data.loading import load_data
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.doctor.aggregate_posterior import Aggregate, aggregate_study
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import PriorGuide
from elbowroom.model.oracles import LinearGaussian
from elbowroom.numerics import mean_and_stderr

WIDTH = 0.2  # of q(z | x)


class Told(Conditional):
    """q(z | x) = N(x, WIDTH² I): q(z) is the data's distribution, a little wider."""

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        assert given is not None
        return Independent(Normal(given, WIDTH), 1)


def study(x: Tensor, *, points: int = 1000) -> Aggregate:
    """Of z that are x but for the width of q; the decoder has no part in it."""
    model = LinearGaussian(torch.eye(x.shape[1]), torch.zeros(x.shape[1]), scale=1.0)
    data = load_data(x, test=0.5, support="reals")
    return aggregate_study(DoctorInput(model, Told(), data, points=points))


def normal(scale: float | Tensor, rows: int = 4000, dim: int = 2, seed: int = 0) -> Tensor:
    """Data whose q(z) is N(0, scale² I)."""
    noise = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    return noise * (torch.as_tensor(scale).square() - WIDTH**2).sqrt()


def z_score(values: Tensor, exact: float) -> float:
    mean, stderr = mean_and_stderr(values.double())
    return (mean - exact) / stderr


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_encodings_and_draws_of_the_prior_have_the_moments_of_their_laws(scale: float) -> None:
    found = study(normal(scale))
    assert found.encodings.shape == found.prior.shape == (2000, 2)
    for drawn, size in ((found.encodings, scale), (found.prior, 1.0)):
        for values, exact in ((drawn, 0.0), (drawn[:, 0] * drawn[:, 1], 0.0), (drawn.square(), size**2)):
            assert abs(z_score(values.flatten(), exact)) < 4
    # the ratio of two sample variances, each with a relative error of √(2 / n)
    assert ((found.variance / scale**2).log().abs() < 4 * math.sqrt(4 / 2000)).all()


@pytest.mark.parametrize("scale", [0.3, 0.5])
def test_the_share_of_prior_draws_in_regions_without_data_is_the_exact_one(scale: float) -> None:
    """r² / s² is χ² of two degrees: 1% of q(z) lie where it is above −2 log 0.01, and 0.01^(s²) of the prior."""
    found = study(normal(scale, 16_000), points=4000)
    exact = 0.01 ** (scale**2)
    # the 1% of n encodings are known to within √(0.01 n) of them: to s² times that relative error of the share
    error = math.hypot(found.empty_stderr, exact * scale**2 / math.sqrt(0.01 * len(found.encodings)))
    assert abs(found.empty - exact) < 4 * error
    assert found.empty_stderr == pytest.approx(math.sqrt(found.empty * (1 - found.empty) / len(found.prior)))


def test_no_prior_draw_in_such_a_region_has_an_error_all_the_same() -> None:
    """Two variances of q(z) for each of p(z): hardly a draw of the prior lies where data are rare."""
    found = study(normal(2.0))
    assert found.empty < 0.01
    assert found.empty_stderr >= 1 / len(found.prior)


@pytest.mark.parametrize("scales", [(0.5, 0.5), (0.5, 2.0)])
def test_the_gains_are_the_divergence_of_the_prior(scales: tuple[float, float]) -> None:
    """KL(N(0, s²) ‖ N(0, 1)) = ½ (s² − 1 − log s²), summed over latents, on held-out data."""
    found = study(normal(torch.tensor(scales)))
    exact = sum(0.5 * (s**2 - 1 - math.log(s**2)) for s in scales)
    for name in ("rescaled", "correlated", "mixture"):
        mean, stderr = mean_and_stderr(found.gains[name])
        assert found.gains[name].shape == (2000,)
        assert abs(mean - exact) < 4 * stderr + 0.01  # some thousandths of a nat for fitting it


def test_correlation_is_for_the_second_candidate_to_gain() -> None:
    r"""Unit variances and a correlation ρ: nothing for scale alone, :math:`-\tfrac12 \log(1 - \rho^2)` nats with it."""
    rho = 0.8
    root = torch.linalg.cholesky(torch.tensor([[1.0, rho], [rho, 1.0]]) - WIDTH**2 * torch.eye(2))
    x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(1)) @ root.T
    gains = study(x).gains
    alone, alone_error = mean_and_stderr(gains["rescaled"])
    both, both_error = mean_and_stderr(gains["correlated"])
    assert abs(alone) < 4 * alone_error + 0.01
    assert abs(both + 0.5 * math.log(1 - rho**2)) < 4 * both_error + 0.01


@pytest.mark.parametrize("scale", [0.6, 1.0])
def test_the_classifier_is_as_right_as_the_best_one_can_be(scale: float) -> None:
    r"""Two normals of two dimensions have equal densities at :math:`r^2 = -4 \log s / (s^{-2} - 1)`."""
    found = study(normal(scale)).test
    best = 0.5
    if scale != 1.0:
        square = -4 * math.log(scale) / (scale**-2 - 1)
        best += 0.5 * (math.exp(-square / 2) - math.exp(-square / (2 * scale**2)))
    assert abs(found.accuracy - best) < 4 * 1.5 * found.stderr  # folds share draws: see TwoSampleTest
    assert (found.z > 4) == (scale != 1.0)


def test_the_plane_is_the_one_in_which_clusters_lie_farthest_apart() -> None:
    r"""Four clusters at the corners of a rectangle; Fisher's plane is :math:`\Sigma^{-1}` times theirs."""
    generator = torch.Generator().manual_seed(3)
    turned = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    axes = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q[:, :2]
    corners = torch.tensor([[3.0, 2.0], [3.0, -2.0], [-3.0, 2.0], [-3.0, -2.0]]) @ axes.T
    spread = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    noise = (spread * torch.randn(4000, 6, generator=generator)) @ turned.T
    plane = study(corners[torch.randint(4, (4000,), generator=generator)] + noise).plane
    assert plane.shape == (6, 2)
    torch.testing.assert_close(plane.T @ plane, torch.eye(2).double())
    within = turned @ torch.diag(spread**2 + WIDTH**2) @ turned.T
    fishers = torch.linalg.qr(torch.linalg.solve(within, axes)).Q
    cosines = torch.linalg.svdvals(fishers.double().T @ plane)  # of the angles between the two planes
    assert cosines.min() > 0.98
    assert torch.linalg.svdvals(fishers.T @ axes).min() < 0.9  # it is not the plane of the centers


def test_a_single_latent_has_a_line() -> None:
    torch.testing.assert_close(study(normal(0.5, dim=1)).plane.abs(), torch.ones(1, 1).double())


def test_dead_latents_are_left_out_of_the_plane() -> None:
    """The third latent's posterior mean is the same for all data."""
    x = torch.cat([normal(0.5, dim=2), torch.zeros(4000, 1)], 1)
    plane = study(x).plane
    assert plane[2].abs().max() == 0
    torch.testing.assert_close(plane.T @ plane, torch.eye(2).double())


def test_held_out_data_are_what_is_looked_at() -> None:
    """Training data that are twice as wide are what the prior is learned from, and nothing else."""
    x = normal(0.5)
    data = load_data(x, test=0.5, support="reals")
    wide = x.clone()
    wide[data.splits["train"]] *= 2
    model = LinearGaussian(torch.eye(2), torch.zeros(2), scale=1.0)
    split = load_data(wide, test=0.5, support="reals").splits["test"]
    assert torch.equal(split, data.splits["test"])
    found = aggregate_study(DoctorInput(model, Told(), load_data(wide, test=0.5, support="reals"), points=1000))
    assert abs(z_score(found.encodings.square().flatten(), 0.25)) < 4
    mean, stderr = mean_and_stderr(found.gains["rescaled"])
    assert mean < 0.5 * (0.25 - 1 - math.log(0.25)) * 2 - 10 * stderr  # less than by its own


def test_without_a_guide_there_is_none() -> None:
    model = LinearGaussian(torch.eye(2), torch.zeros(2), scale=1.0)
    data = load_data(normal(1.0, 200), test=0.5, support="reals")
    for guide in (None, PriorGuide(model.prior)):
        with pytest.raises(ElbowroomError, match="no guide"):
            aggregate_study(DoctorInput(model, guide, data))
