"""Amortisation and calibration: exact guides pass, and each planted fault is found and measured."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binom, chi2, norm
from torch import nn
from torch.distributions import MultivariateNormal

import hierarchy_cases as cases
from elbowroom.data.batch import Batch
from elbowroom.data.loading import load_data
from elbowroom.data.support import Support
from elbowroom.evaluation.doctor.findings import Finding
from elbowroom.evaluation.doctor.guide import (
    Ranks,
    amortisation,
    calibration,
    is_affine,
    simulated_ranks,
    weighted_coverage,
)
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import DiagonalNormal, FullNormal, InputTransform, PriorGuide
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Gaussian
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import LinearGaussian
from elbowroom.model.priors import StandardNormal
from elbowroom.numerics import mean_and_stderr


class _Distorted(Conditional):
    """The exact posterior with its standard deviations multiplied and its mean moved by so many of them."""

    def __init__(self, model: LinearGaussian, width: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.exact, self.width, self.shift = model.exact_guide(), width, shift

    def forward(self, given, context=None):
        q = self.exact(given)
        return MultivariateNormal(q.mean + self.shift * q.stddev, scale_tril=self.width * q.scale_tril)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _linear(dim=5, latent_dim=2, scale=0.7) -> LinearGaussian:
    return LinearGaussian(torch.randn(dim, latent_dim, generator=_generator(0)), torch.zeros(dim), scale=scale)


def _inputs(model, guide, points=600) -> DoctorInput:
    x = model.sample(1200, generator=_generator(1)).x.detach()
    return DoctorInput(model, guide, load_data(x, test=0.5, support="reals"), points=points)


def _number(finding: Finding, name: str) -> tuple[float, float | None]:
    (found,) = [evidence for evidence in finding.evidence if evidence.name.startswith(name)]
    return found.value, found.stderr


def _covered(width: float, shift: float = 0.0, level: float = 0.8, draws: int = 199) -> float:
    """How often the rank of z* ~ N(0, 1) among ``draws`` of N(shift, width²) is central, by quadrature."""
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    below = norm.cdf((z - shift) / width)
    tail = round((1 - level) / 2 * (draws + 1))
    central = binom.cdf(draws - tail, draws, below) - binom.cdf(tail - 1, draws, below)
    return float((torch.from_numpy(central) * torch.exp(-0.5 * z**2)).sum() * (z[1] - z[0]) / math.sqrt(2 * math.pi))


# --- calibration ---


def test_an_exact_guide_is_calibrated():
    model = _linear()
    (finding,) = calibration(_inputs(model, model.exact_guide()))
    assert finding.severity == "note"
    assert "calibrated as far as can be seen" in finding.title
    for name in ("z* in the central 80%", "posterior in the central 80%", "worst latent"):
        value, stderr = _number(finding, name)
        assert abs(value - 0.8) < 4 * stderr + 1e-3
    assert _number(finding, "χ² test of uniform ranks")[0] > 1e-3
    assert abs(_number(finding, "z* above q's median")[0] - 0.5) < 4 * 0.5 / math.sqrt(600)


@pytest.mark.parametrize("width", [0.4, math.sqrt(0.5), math.sqrt(2), 4.0])
def test_a_wrong_width_has_the_coverage_it_must_have(width):
    model = _linear()
    (finding,) = calibration(_inputs(model, _Distorted(model, width)))
    exact = _covered(width)
    for name in ("z* in the central 80%", "posterior in the central 80%"):
        value, stderr = _number(finding, name)
        assert abs(value - exact) < 4 * stderr + 5e-3
    assert ("over-confident" if width < 1 else "under-confident") in finding.title
    assert _number(finding, "χ² test of uniform ranks")[0] < 1e-4
    assert _number(finding, "distance of z*")[0] == pytest.approx(1 / width, rel=0.15)
    if width < 0.5:
        assert finding.severity == "severe"


def test_a_shifted_mean_is_found():
    model = _linear()
    (finding,) = calibration(_inputs(model, _Distorted(model, shift=0.8)))
    assert finding.severity == "warning"
    assert "off to one side" in finding.title
    value, stderr = _number(finding, "z* above q's median")
    assert abs(value - norm.cdf(-0.8)) < 4 * stderr  # q's mean is too high, so that z* lies below


def test_ranks_are_uniform_and_their_test_is_pearsons():
    model = _linear()
    like = Batch(torch.zeros(4000, 5))
    found = simulated_ranks(model, model.exact_guide(), like, draws=19, generator=_generator(2))
    assert (int(found.ranks.min()), int(found.ranks.max())) == (0, 19)
    counts = torch.bincount(found.ranks[:, 0], minlength=20).double()
    statistic = float(((counts - 200) ** 2 / 200).sum())
    assert float(found.p_values()[0]) == pytest.approx(chi2.sf(statistic, 19), rel=1e-6)
    assert bool((found.p_values() > 1e-4).all())
    value, stderr = mean_and_stderr(found.errors[:, 1] ** 2)
    assert abs(value - 1) < 4 * stderr


@pytest.mark.parametrize(("draws", "level"), [(199, 0.8), (199, 0.5), (19, 0.8), (9, 0.6)])
def test_central_ranks_are_as_many_as_the_level_says(draws, level):
    ranks = torch.arange(draws + 1)[:, None]
    found = Ranks(ranks, torch.zeros(draws + 1, 1), torch.tensor([True]), draws)
    assert float(found.coverage(level).mean()) == pytest.approx(level)


def test_weighted_draws_give_the_posterior_probability_of_an_interval():
    model = _linear()
    x = model.sample(50, generator=_generator(3)).x
    guide = _Distorted(model, 0.5, shift=0.3)
    found = weighted_coverage(model, guide, Batch(x), generator=_generator(4))
    z = norm.ppf(0.9)
    exact = norm.cdf(0.3 + 0.5 * z) - norm.cdf(0.3 - 0.5 * z)
    value, stderr = mean_and_stderr(found.mean(1))
    assert abs(value - exact) < 4 * stderr + 2e-3


def test_latents_out_of_use_do_not_hide_the_others():
    weight = torch.randn(5, 4, generator=_generator(0))
    weight[:, 1:] = 0
    model = LinearGaussian(weight, torch.zeros(5), scale=0.7)
    guide = _Distorted(model, math.sqrt(0.5))
    (finding,) = calibration(_inputs(model, guide))
    value, stderr = _number(finding, "z* in the central 80%")
    assert abs(value - _covered(math.sqrt(0.5))) < 4 * stderr + 5e-3


def test_a_model_that_uses_no_latent_has_nothing_to_calibrate():
    model = LinearGaussian(torch.zeros(5, 2), torch.zeros(5), scale=0.7)
    assert calibration(_inputs(model, model.exact_guide())) == []


def test_without_a_guide_there_is_nothing_to_say():
    model = _linear()
    for guide in (None, PriorGuide(model.prior)):
        inputs = _inputs(model, guide)
        assert calibration(inputs) == []
        assert amortisation(inputs) == []


@pytest.mark.parametrize("name", cases.GUIDES)
def test_errors_under_the_exact_guide_of_a_hierarchy_are_its_standard_deviations(name):
    """Not those given the groups before, in which errors would be half as large again."""
    case, draws = cases.linear((1, 1, 1)), 199
    like = Batch(case.x.repeat(700, 1))
    squares = simulated_ranks(
        case.model, case.guides[name], like, draws=draws, generator=cases.seeded()
    ).errors.square()
    # of a normal number in units of a sample's mean and deviation: (1 + 1/L) t², t with L − 1 degrees of freedom
    expected = (1 + 1 / draws) * (draws - 1) / (draws - 3)
    z = (squares.mean(0) - expected) / (squares.std(0) / math.sqrt(len(squares)))
    assert z.abs().max() < 4


def test_missing_elements_are_missing_in_what_is_simulated():
    model = _linear()
    seen = []

    class _Spy(Conditional):
        def __init__(self) -> None:
            super().__init__()
            self.exact = model.exact_guide()

        def forward(self, given, context=None):
            seen.append(given)
            return self.exact(given)

    x, mask = torch.full((300, 5), -99.0), torch.rand(300, 5, generator=_generator(5)) < 0.5
    simulated_ranks(model, _Spy(), Batch(x, mask=mask), generator=_generator(6))
    given = torch.cat(seen)
    assert bool((given[~mask] == -99).all())
    assert bool((given[mask] != -99).all())


# --- amortisation ---


def _curved() -> LatentModel:
    """z in one dimension bent to a parabola, which no affine map can undo."""

    class _Parabola(nn.Module):
        def forward(self, z, context=None):
            return torch.cat([z**2, 0.3 * z], -1).unsqueeze(-2)

    return LatentModel(StandardNormal(1), Gaussian(_Parabola(), (2,), scale=0.2))


def _regressed(model: LatentModel, activation: str) -> DiagonalNormal:
    """An encoder that has learned z from x by least squares, with the residual as its width."""
    sample = model.sample(4000, generator=_generator(7))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MLP((2,), (2, 1), hidden=(32,), activation=activation)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (network(sample.x)[:, 0] - sample.z).square().mean()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        network.output.weight[1:] = 0
        network.output.bias[1:] = 2 * math.log(0.15)
    return DiagonalNormal(network, 1)


def test_an_exact_linear_encoder_of_a_linear_model_loses_nothing():
    model = _linear()
    (finding,) = amortisation(_inputs(model, model.exact_guide(), points=100))
    assert finding.severity == "note"
    assert _number(finding, "lost to the encoder")[0] == pytest.approx(0, abs=1e-3)


def test_a_linear_encoder_of_a_curved_model_is_named():
    model = _curved()
    (finding,) = amortisation(_inputs(model, _regressed(model, "identity"), points=100))
    assert finding.severity == "severe"
    assert "linear" in finding.title and "activation" in finding.remedy
    lost, room = _number(finding, "lost to the encoder")[0], _number(finding, "elbow room")[0]
    assert 0.5 < lost < room + 0.1


def test_what_is_lost_is_the_divergence_that_refitting_removes():
    model = _linear()
    guide = _Distorted(model, width=1.0, shift=1.5)
    (finding,) = amortisation(_inputs(model, guide, points=100))
    covariance = model.posterior(torch.zeros(1, 5)).covariance_matrix[0].detach()
    moved = 1.5 * covariance.diagonal().sqrt()
    exact = 0.5 * float(moved @ torch.linalg.solve(covariance, moved))  # KL(q ‖ posterior) of equal covariances
    assert _number(finding, "lost to the encoder")[0] == pytest.approx(exact, abs=0.01)
    assert _number(finding, "share of the elbow room")[0] == pytest.approx(1.0, abs=0.05)


def test_a_curved_encoder_that_is_poor_is_a_warning():
    model = _curved()
    guide = _regressed(model, "relu")
    with torch.no_grad():
        guide.network.output.bias[0] += 1.0
    (finding,) = amortisation(_inputs(model, guide, points=100))
    assert finding.severity == "warning"
    assert "linear" not in finding.title


def _encoder(activation: str, **options) -> DiagonalNormal:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return DiagonalNormal(MLP((4,), (2, 3), hidden=(16, 16), activation=activation, **options), 3)


@pytest.mark.parametrize("activation", ["relu", "tanh", "elu", "gelu", "silu", "leaky-relu", "softplus"])
def test_an_activation_is_seen(activation):
    x = torch.rand(64, 4, generator=_generator(8))
    assert not is_affine(_encoder(activation), Batch(x))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_depth_without_activations_is_seen_through(scale):
    x = scale * torch.rand(64, 4, generator=_generator(9))
    assert is_affine(_encoder("identity"), Batch(x))


def test_a_context_and_batch_normalisation_are_affine_too():
    guide = _encoder("identity", context_dim=2, batch_norm=True).eval()
    generator = _generator(10)
    batch = Batch(torch.rand(64, 4, generator=generator), context=torch.rand(64, 2, generator=generator))
    assert is_affine(guide, batch)


@pytest.mark.parametrize("support", [Support.COUNTS, Support.BYTES, Support.CATEGORIES])
def test_the_transform_of_data_is_no_part_of_the_encoder(support):
    transform = InputTransform(support, (4,), num_categories=3 if support is Support.CATEGORIES else None)
    network = MLP(transform.out_shape, FullNormal.parameter_shape(2), hidden=(8,), activation="identity")
    x = torch.randint(0, 3, (64, 4), generator=_generator(11))
    assert is_affine(FullNormal(network, 2, transform), Batch(x))


def test_a_constant_mean_is_called_neither():
    guide = _encoder("identity")
    with torch.no_grad():
        guide.network.output.weight.zero_()
    assert not is_affine(guide, Batch(torch.rand(64, 4, generator=_generator(12))))
