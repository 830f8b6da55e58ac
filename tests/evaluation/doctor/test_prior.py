"""Holes and sample quality: nothing where nothing is wrong, and the right culprit where something is."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, Normal

from elbowroom.data.loading import load_data
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.doctor import examination
from elbowroom.evaluation.doctor.aggregate_posterior import aggregate_study
from elbowroom.evaluation.doctor.diagnose import diagnose
from elbowroom.evaluation.doctor.examination import Examination
from elbowroom.evaluation.doctor.findings import Finding
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.evaluation.doctor.prior import holes, sample_quality
from elbowroom.evaluation.doctor.sample_quality import sample_study, share_of_prior
from elbowroom.model.guides import PriorGuide
from elbowroom.model.oracles import LinearGaussian
from elbowroom.numerics import mean_and_stderr


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _inputs(model, guide, x, *, points=800, **options) -> Examination:
    return Examination(model, guide, load_data(x, test=0.5, **options), points=points)


def _linear(dim=6, latent_dim=2, scale=0.5, seed=0) -> LinearGaussian:
    weight = torch.randn(dim, latent_dim, generator=_generator(seed))
    return LinearGaussian(weight, torch.zeros(dim), scale=scale)


def _healthy(points=800) -> Examination:
    model = _linear()
    return _inputs(model, model.exact_guide(), model.sample(4000, generator=_generator(1)).x, points=points)


def _clustered() -> tuple[Examination, float]:
    """Data whose z lie at ±2.5, under a model that says N(0, 1); and KL(q(z) ‖ p(z)), by quadrature."""
    model, generator = LinearGaussian(torch.tensor([[1.0], [0.5], [0.0]]), torch.zeros(3), scale=0.4), _generator(2)
    sign = torch.where(torch.rand(6000, 1, generator=generator) < 0.5, -1.0, 1.0)
    z = 2.5 * sign + 0.3 * torch.randn(6000, 1, generator=generator)
    x = z @ model.weight.detach().T + 0.4 * torch.randn(6000, 3, generator=generator)
    # q(z | x) = N(g·x, v), so q(z) has clusters at ±2.5 r, r = g·w
    w, s2 = 1.25, 0.16  # |w|², σ²
    v, r = 1 / (1 + w / s2), (w / s2) / (1 + w / s2)
    width = math.sqrt(r**2 * 0.09 + (r**2 / w) * s2 + v)
    at = torch.linspace(-9, 9, 6001, dtype=torch.float64)
    centers = torch.tensor([-2.5 * r, 2.5 * r], dtype=torch.float64)
    log_q = MixtureSameFamily(Categorical(torch.ones(2, dtype=torch.float64)), Normal(centers, width)).log_prob(at)
    exact = float((log_q.exp() * (log_q - Normal(0.0, 1.0).log_prob(at))).sum() * (at[1] - at[0]))
    return _inputs(model, model.exact_guide(), x), exact


def _number(finding: Finding, name: str) -> tuple[float, float | None]:
    (found,) = [evidence for evidence in finding.evidence if evidence.name == name]
    return found.value, found.stderr


def test_an_exact_model_has_no_holes():
    inputs = _healthy()
    (finding,) = holes(inputs)
    assert finding.severity == "note"
    found = inputs.aggregate
    assert abs(found.test.z) < 4
    for name in found.gains:
        value, stderr = mean_and_stderr(found.gains[name])
        assert -0.05 < value < 4 * stderr + 0.02
    assert abs(found.empty - 0.01) < 4 * math.sqrt(0.01 * 0.99 / len(found.prior)) + 0.01
    assert found.variance == pytest.approx([1.0, 1.0], abs=4 * math.sqrt(2 / 1600) * 1.5)


def test_samples_of_an_exact_model_are_data():
    inputs = _healthy()
    (finding,) = sample_quality(inputs)
    assert finding.severity == "note"
    tests = inputs.samples.tests
    assert list(tests) == ["encodings", "learned", "prior"]
    for test in tests.values():
        assert abs(test.z) < 4


def test_holes_cost_what_quadrature_says():
    inputs, exact = _clustered()
    (finding,) = holes(inputs)
    assert finding.severity in ("warning", "severe")
    value, stderr = _number(finding, "gain of a learned prior")
    assert abs(value - exact) < 4 * stderr + 0.03
    parts = [
        _number(finding, evidence.name)[0] for evidence in finding.evidence if evidence.name.startswith("of which")
    ]
    assert sum(parts) == pytest.approx(value)
    assert parts[2] > 0.5  # clusters, beyond scale
    assert _number(finding, "prior draws in regions without data (1% by chance)")[0] > 0.3
    found = inputs.aggregate
    assert found.test.z > 4
    assert float(found.variance) == pytest.approx(2.5**2 * 0.785 + 0.2, rel=0.15)  # of q(z); that of p(z) is 1


def test_the_prior_is_blamed_for_holes():
    inputs, _ = _clustered()
    (finding,) = sample_quality(inputs)
    assert finding.severity in ("warning", "severe")
    assert "the prior is the main reason" in finding.title
    found = inputs.samples
    assert share_of_prior(found.tests) > 0.8
    assert found.holes.z > 4
    assert found.tests["learned"].accuracy < found.tests["prior"].accuracy - 0.2


def test_the_decoder_is_blamed_for_its_noise():
    generator = _generator(3)
    x = _linear(scale=0.3).sample(4000, generator=generator).x
    model = _linear(scale=1.2)
    (finding,) = sample_quality(_inputs(model, model.exact_guide(), x))
    assert finding.severity in ("warning", "severe")
    assert "the decoder with its likelihood is the main reason" in finding.title


def test_without_a_guide_nothing_is_attributed():
    model = _linear()
    x = model.sample(2000, generator=_generator(4)).x
    for guide in (None, PriorGuide(model.prior)):
        inputs = _inputs(model, guide, x)
        assert holes(inputs) == []
        (finding,) = sample_quality(inputs)
        assert finding.severity == "note"
        assert list(inputs.samples.tests) == ["prior"]
    (finding,) = sample_quality(_inputs(model, None, 3 * x))
    assert finding.severity in ("warning", "severe")
    assert "prior" not in finding.title


def test_a_model_is_studied_once_and_another_alike_gives_the_same(monkeypatch):
    first, second = _healthy(200), _healthy(200)
    assert sample_study(first).tests == sample_study(second, aggregate_study(second)).tests
    asked = []
    for name, study in (("aggregate", aggregate_study), ("sample", sample_study)):
        monkeypatch.setattr(
            examination, f"{name}_study", lambda *given, name=name, study=study: asked.append(name) or study(*given)
        )
    found = diagnose(first, checks=["holes", "sample_quality", "holes", "sample_quality"])
    assert asked == ["aggregate", "sample"]
    assert found.studies.samples.tests == sample_study(second).tests
    assert found.studies.aggregate.empty == aggregate_study(second).empty


def test_a_diagnosis_has_the_studies_that_its_checks_asked_for():
    assert diagnose(_healthy(200), checks=["sound"]).studies == examination.Studies()
    of_z = diagnose(_healthy(200), checks=["holes"]).studies  # nothing is wrong, so that no samples were looked at
    assert of_z.aggregate is not None and of_z.samples is None
    model = _linear()
    alone = _inputs(model, None, model.sample(2000, generator=_generator(4)).x)
    without_guide = diagnose(alone, checks=["holes", "sample_quality"]).studies
    assert without_guide.aggregate is None and list(without_guide.samples.tests) == ["prior"]


def test_networks_are_left_in_the_mode_they_were_in():
    inputs = _healthy(200)
    inputs.model.train()
    sample_quality(inputs)
    assert inputs.model.training


def test_too_few_data_are_said_to_be_too_few():
    model = _linear()
    data = load_data(model.sample(60, generator=_generator(11)).x, test=20)
    with pytest.raises(ElbowroomError, match="neither the test nor the validation split has 50 rows"):
        holes(Examination(model, model.exact_guide(), data))
    assert DoctorInput(model, None, data).held_out() == "test"
