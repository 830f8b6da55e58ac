"""Latents in use: what few data cannot say is not called severe."""

from __future__ import annotations

import pytest
import torch

from elbowroom.data.loading import load_data
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.evaluation.doctor.latents import _in_use, latents_in_use
from elbowroom.model.oracles import LinearGaussian


def _inputs(strength: float, points: int) -> DoctorInput:
    """An exact model and guide; z adds so much to elements of noise 1."""
    generator = torch.Generator().manual_seed(0)
    weight = strength * torch.randn(20, 2, generator=generator)
    model = LinearGaussian(weight, torch.zeros(20), scale=1.0)
    x = model.sample(2 * points, generator=generator).x
    return DoctorInput(model, model.exact_guide(), load_data(x, test=0.5, support="reals"), points=points)


@pytest.mark.parametrize(
    ("rate", "gain", "severity", "words"),
    [
        ((3.0, 0.1), (-0.21, 0.67), "note", "100 examples are too few"),
        ((3.0, 0.1), (-0.02, 0.05), "severe", "ignores z"),
        ((3.0, 0.1), (0.09, 0.2), "note", "are too few"),
        ((3.0, 0.1), (2.0, 0.6), "note", "All 3"),
        ((0.05, 0.3), (2.0, 0.1), "note", "are too few"),
        ((0.05, 0.01), (2.0, 0.1), "severe", "collapsed"),
    ],
)
def test_severity_needs_figures_beyond_doubt(
    rate: tuple[float, float], gain: tuple[float, float], severity: str, words: str
) -> None:
    found, title, remedy = _in_use(3, 3, rate, gain, 100)
    assert found == severity
    assert words in title
    assert remedy


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
