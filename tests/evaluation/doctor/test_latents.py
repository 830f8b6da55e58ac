"""Latents in use: what few data cannot say is not called severe."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from elbowroom.data.loading import load_data
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.evaluation.doctor.latents import latents_in_use
from elbowroom.model.conditional import Conditional
from elbowroom.model.latent import LatentModel
from elbowroom.model.oracles import LinearGaussian
from elbowroom.model.priors import MixtureOfGaussians, StandardNormal
from pixel_cases import QuadratureGuide, pixel_model


def _inputs(strength: float, points: int) -> DoctorInput:
    """An exact model and guide; z adds so much to elements of noise 1."""
    generator = torch.Generator().manual_seed(0)
    weight = strength * torch.randn(20, 2, generator=generator)
    model = LinearGaussian(weight, torch.zeros(20), scale=1.0)
    x = model.sample(2 * points, generator=generator).x
    return DoctorInput(model, model.exact_guide(), load_data(x, test=0.5, support="reals"), points=points)


class Told(Conditional):
    """q(z | x) = N(x₁, scale²): a datum says itself what is said of it."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        assert given is not None
        return Independent(Normal(given[:, :1], torch.full_like(given[:, :1], self.scale)), 1)


def _told(x: Tensor, scale: float) -> DoctorInput:
    """p(x | z) = N((z, z), I), and these rows held out in this order."""
    model = LinearGaussian(torch.ones(2, 1), torch.zeros(2), scale=1.0).double()
    data = load_data(x, test=0.5, support="reals")
    data = replace(data, splits={**data.splits, "test": torch.arange(len(x))}).to(dtype=torch.float64)
    return DoctorInput(model, Told(scale), data, points=len(x))


@pytest.mark.parametrize(
    ("gain", "stderr", "severity", "words"),
    [
        (-0.21, 0.67, "note", "100 examples are too few"),
        (-0.02, 0.05, "severe", "ignores z"),
        (0.09, 0.2, "note", "are too few"),
        (0.09, 0.104, "note", "are too few"),
        (0.09, 0.1, "severe", "ignores z"),
        (0.11, 0.0, "note", "All 1"),
        (2.0, 0.6, "note", "All 1"),
    ],
)
def test_severity_needs_figures_beyond_doubt(gain: float, stderr: float, severity: str, words: str) -> None:
    """z is ±0.3, so that being told of the other sign costs 0.18 nats in x₁, and in x₂ what that is chosen to cost."""
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(50)
    wanted = gain + stderr * math.sqrt(99) * torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64).repeat(25)
    x = torch.stack([0.3 * sign, (wanted - 0.18) / (0.6 * sign)], 1)
    (finding,) = latents_in_use(_told(x, scale=1e-4))
    _, _, found = finding.evidence
    assert (found.value, found.stderr) == (pytest.approx(gain, abs=2e-3), pytest.approx(stderr, abs=2e-3))
    assert finding.severity == severity
    assert words in finding.title
    assert finding.remedy


@pytest.mark.parametrize(("rate", "collapsed"), [(0.09, True), (0.11, False)])
def test_an_encoder_that_says_next_to_nothing_has_collapsed(rate: float, collapsed: bool) -> None:
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(1000)
    (finding,) = latents_in_use(_told(torch.stack([math.sqrt(2 * rate) * sign] * 2, 1), scale=1.0))
    _, found, _ = finding.evidence
    assert found.value == pytest.approx(rate)
    assert (finding.severity == "severe") == ("collapsed" in finding.title) == collapsed


def test_few_data_of_a_model_that_uses_z_are_no_proof_against_it() -> None:
    """z is worth a fraction of a nat: with 20 data its gain is as often below 0.1 as above."""
    for points in (20, 40):
        (finding,) = latents_in_use(_inputs(0.25, points))
        assert finding.severity == "note"


def test_a_decoder_that_is_deaf_stays_severe() -> None:
    inputs = _inputs(1.0, 400)
    deaf = LinearGaussian(torch.zeros(20, 2), torch.zeros(20), scale=1.0)
    (finding,) = latents_in_use(DoctorInput(deaf, inputs.guide, inputs.data, points=400))
    assert finding.severity == "severe" and "ignores z" in finding.title


def _pixels(neighbours: float, features: float) -> DoctorInput:
    """Pixels that depend on those before them and on z, each as strongly as said; q has the posterior's moments."""
    model = pixel_model((4, 4))
    pixels = model.likelihood.base.network
    with torch.no_grad():
        pixels.last.weight.mul_(0)
        pixels.last.weight[:, 0] = 1
        pixels.context.weight.mul_(0)
        pixels.bias.mul_(0)
        pixels.first.weight.mul_(0)[0, 0, -1, 2] = neighbours  # what is left of a pixel
        pixels.first.bias.fill_(-neighbours / 2)
        pixels.skip.weight.mul_(features)
    x = model.sample(400, generator=torch.Generator().manual_seed(0)).x
    data = load_data(x, test=0.5, support="binary").to(dtype=torch.float64)
    return DoctorInput(model, QuadratureGuide(model), data, points=200)


@pytest.mark.parametrize(
    ("neighbours", "features", "severity", "title"),
    [
        (6.0, 3.0, "note", r"A local decoder: pixels are modelled by their neighbours, z carries 0\.\d nats"),
        (6.0, 0.0, "severe", r"collapsed.*; pixels are modelled by their neighbours alone\."),
        (0.0, 3.0, "note", r"All 1 latents are in use"),
        (0.0, 0.0, "severe", r"carries no information about x\.$"),
    ],
)
def test_a_local_decoder_is_told_from_a_collapsed_posterior(neighbours, features, severity, title) -> None:
    (finding,) = latents_in_use(_pixels(neighbours, features))
    assert finding.severity == severity
    assert re.search(title, finding.title)
    assert ("masked-layers" in finding.remedy) == (neighbours > 0 or features == 0)
    assert ("local" in finding.title or "two sources" in finding.explanation) == (neighbours > 0)
    rate, of_z, of_neighbours = (evidence.value for evidence in finding.evidence[1:])
    assert (of_neighbours > 1) == (neighbours > 0)
    assert (rate > 0.1) == (of_z > 0.1) == (features > 0)


def test_the_remedy_for_a_local_decoder_lets_a_pixel_see_less_than_it_does() -> None:
    inputs = _pixels(6.0, 0.0)
    likelihood = inputs.model.likelihood
    assert (likelihood.receptive_field > 7) == ("masked-layers 1" in latents_in_use(inputs)[0].remedy)
    likelihood.base.network.middle = torch.nn.ModuleList()
    assert likelihood.receptive_field == 7
    assert "masked-width" in latents_in_use(inputs)[0].remedy


@pytest.mark.parametrize("factorised", [True, False])
def test_free_bits_are_a_remedy_only_where_the_kl_has_parts(factorised) -> None:
    inputs = _told(torch.zeros(400, 2, dtype=torch.float64), scale=1.0)
    prior = StandardNormal(1) if factorised else MixtureOfGaussians(1, 3, generator=torch.Generator().manual_seed(0))
    model = LatentModel(prior, inputs.model.likelihood).double()
    (finding,) = latents_in_use(replace(inputs, model=model))
    assert finding.severity == "severe"
    assert ("free-bits" in finding.remedy) == factorised
