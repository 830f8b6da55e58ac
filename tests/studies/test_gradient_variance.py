"""The study must find the faults it claims to find: bias where there is one, none where there is none."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import exact_cases as exact
import exact_codes
from elbowroom.errors import ElbowroomError
from elbowroom.inference.code_gradients import CODE_ESTIMATORS
from elbowroom.inference.objectives import OBJECTIVES, elbo
from elbowroom.model.noise import Prepared
from elbowroom.studies.gradient_variance import GradientMoments, GradientStatistics, gradient_study


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def study(case: SimpleNamespace, **options: Any) -> dict[tuple[str, str], GradientStatistics]:
    found = gradient_study(case.model, case.guide, case.x, generator=seeded(2), **options)
    return {(s.estimator, s.wrt): s for s in found}


def test_moments_are_welford() -> None:
    vectors = 1e6 + torch.randn(40, 7, dtype=torch.float64, generator=seeded())
    moments = GradientMoments()
    for vector in vectors:
        moments.add(vector)
    torch.testing.assert_close(moments.mean, vectors.mean(0))
    assert math.isclose(moments.variance, vectors.var(0).sum().item(), rel_tol=1e-8)


def test_naive_is_found_biased_and_the_others_not() -> None:
    found = study(exact.linear_gaussian(4, 2), num_samples=16, draws=60)
    assert abs(found["naive", "guide"].bias_z) > 6
    for name in ("stl", "score-function"):
        assert abs(found[name, "guide"].bias_z) < 4
    for name in ("stl", "score-function", "naive"):
        assert abs(found[name, "model"].bias_z) < 4
    assert found["pathwise", "guide"].bias == found["pathwise", "guide"].bias_z == 0


def test_naive_gradient_of_the_guide_is_nothing_but_noise() -> None:
    case = exact.linear_gaussian(4, 2)
    found = study(case, estimators=["pathwise", "naive"], num_samples=4, draws=100)
    parameters = exact.parameters_of(case.guide)
    truth = exact.flat_gradient(exact.closed_form_elbo(case.model, case.guide, case.x).mean(), parameters).norm()
    assert found["naive", "guide"].norm < 0.25 * truth
    assert abs(found["naive", "guide"].bias) > 0.75 * truth
    assert math.isclose(found["pathwise", "guide"].norm, truth, rel_tol=0.1)


def test_bias_of_stl_under_iwae_is_found_and_none_in_dreg() -> None:
    case = exact.linear_gaussian(4, 2)
    case.x = case.x.repeat(100, 1)  # rows cost less than draws
    found = study(case, objective="iwae", num_samples=5, estimators=["stl", "dreg", "score-function"], draws=60)
    assert abs(found["stl", "guide"].bias_z) > 4
    assert abs(found["dreg", "guide"].bias_z) < 4
    assert abs(found["score-function", "guide"].bias_z) < 4
    assert all(abs(found[name, "model"].bias_z) < 4 for name in ("stl", "dreg", "score-function"))
    assert ("pathwise", "guide") not in found  # the reference is drawn, but not reported unless asked for


def test_statistics_are_those_of_the_gradients() -> None:
    """Against the same gradients kept in a list; the closed form of the mean, and of a case without noise."""
    case = exact.linear_gaussian(4, 2)
    case.guide = exact.affine_posterior(case.model, 4)
    found = study(case, estimators=["pathwise", "stl"], kl="monte-carlo", draws=100)
    assert found["stl", "guide"].variance < 1e-18
    assert found["pathwise", "guide"].variance > 1e-2
    assert found["pathwise", "guide"].norm < 0.2 * math.sqrt(found["pathwise", "guide"].variance)
    model = found["stl", "model"]
    assert math.isclose(model.snr, model.norm / math.sqrt(model.variance))
    assert model.draws == 100


@pytest.mark.parametrize("objective", ["elbo", "iwae"])
def test_variance_of_the_study_is_the_sample_variance(objective: str) -> None:
    case = exact.linear_gaussian(4, 2)
    found = study(case, estimators=["pathwise"], objective=objective, draws=30, num_samples=3)
    generator, parameters = seeded(2), exact.parameters_of(case.guide)
    drawn = torch.stack(
        [
            exact.flat_gradient(
                OBJECTIVES[objective](case.model, case.guide, case.x, num_samples=3, generator=generator).value.mean(),
                parameters,
            )
            for _ in range(30)
        ]
    )
    variance = drawn.var(0).sum().item()
    assert math.isclose(found["pathwise", "guide"].variance, variance, rel_tol=1e-9)
    norm = math.sqrt(max(0.0, drawn.mean(0).square().sum().item() - variance / 30))
    assert math.isclose(found["pathwise", "guide"].norm, norm, rel_tol=1e-9)


def test_bias_z_is_a_standard_normal_number_without_bias() -> None:
    """The direction is fixed by draws that the z-score does not use; reusing them would make it large."""
    case = exact.linear_gaussian(4, 2)
    scores = []
    for seed in range(16):
        found = gradient_study(
            case.model, case.guide, case.x, estimators=["stl"], kl="auto", draws=24, generator=seeded(seed)
        )
        scores.append(next(s.bias_z for s in found if s.wrt == "guide"))
    values: Tensor = torch.tensor(scores)
    assert abs(values.mean()) < 4 / math.sqrt(16)
    assert abs(values.square().mean() - 1) < 4 * math.sqrt(2 / 16)


def test_frozen_side_is_left_out_and_gradients_are_not_kept() -> None:
    case = exact.linear_gaussian(4, 2)
    case.model.requires_grad_(False)
    found = study(case, estimators=["pathwise"], draws=4)
    assert set(found) == {("pathwise", "guide")}
    assert all(p.grad is None for p in case.guide.parameters())
    case.guide.requires_grad_(False)
    with pytest.raises(ElbowroomError, match="requires_grad_"):
        study(case, draws=4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"estimators": ["pathwize"]}, "'pathwise'"),
        ({"objective": "elboo"}, "'elbo'"),
        ({"draws": 3}, "draws=4"),
        ({"estimators": ["dreg"]}, "iwae"),
    ],
)
def test_refusals(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ElbowroomError) as caught:
        study(exact.linear_gaussian(4, 2), **options)
    assert said in caught.value.remedy


# ------------------------------------------------------------------------------------------------------------- codes


def gradient_of_elbo(case: SimpleNamespace) -> Tensor:
    """The exact gradient in the guide's parameters."""
    value = exact_codes.elbo(case.model, case.guide, case.x).mean()
    found: Tensor = exact.flat_gradient(value, exact.parameters_of(case.guide))
    return found


def relative_bias(case: SimpleNamespace, estimator: Any) -> float:
    """Of an estimator whose only chance is the code: exactly, by forcing every code in turn."""
    every, rows = exact_codes.all_codes(case.space), len(case.x)
    z, x = every.repeat_interleave(rows, 0), case.x.repeat(len(every), 1)
    noise = Prepared([torch.where(z > 0, 1 - 1e-15, 1e-300)[None]])
    value = elbo(case.model, case.guide, x, kl="auto", estimator=estimator, generator=noise)
    probability = case.guide(x).log_prob(z).exp().detach()
    expected = exact.flat_gradient((probability * value).sum() / rows, exact.parameters_of(case.guide))
    true = gradient_of_elbo(case)
    return float((expected - true).norm() / true.norm())


def test_of_codes_the_biased_are_found_and_the_others_not() -> None:
    case = exact_codes.case(2, 3, sharpness=2.0)
    found = study(case, draws=40, num_samples=48)
    assert {name for name, _ in found} == {*CODE_ESTIMATORS, "score-function", "naive"}
    for name in (*CODE_ESTIMATORS, "naive"):
        assert abs(found[name, "guide"].bias_z) > 5, name
    assert abs(found["score-function", "guide"].bias_z) < 4
    for (_, wrt), one in found.items():
        assert wrt == "guide" or abs(one.bias_z) < 4


@pytest.mark.parametrize("estimator", ["straight-through", "reinmax"])
def test_relative_bias_is_that_of_the_enumeration(estimator: str) -> None:
    case = exact_codes.case(2, 3, sharpness=2.0)
    found = study(case, estimators=[estimator], draws=250, num_samples=64)
    assert math.isclose(found[estimator, "guide"].relative_bias, relative_bias(case, estimator), rel_tol=0.15)


def test_the_exact_gradient_has_no_variance() -> None:
    case = exact_codes.case(3, 4)
    found = study(case, estimators=["exact", "score-function"], draws=4)
    one = found["exact", "guide"]
    assert math.isclose(one.norm, float(gradient_of_elbo(case).norm()), rel_tol=1e-9)
    assert (one.variance, one.snr, one.bias, one.bias_z, one.relative_bias) == (0, math.inf, 0, 0, 0)


def test_the_importance_weighted_bound_of_codes_is_measured_against_the_score_function() -> None:
    case = exact_codes.case(2, 3, sharpness=2.0)
    case.x = case.x.repeat(20, 1)
    names = ["score-function", "straight-through"]
    found = study(case, objective="iwae", num_samples=3, estimators=names, draws=150)
    one = found["score-function", "guide"]
    assert (one.bias, one.bias_z, one.relative_bias) == (0, 0, 0)
    assert abs(found["straight-through", "guide"].bias_z) > 4
    with pytest.raises(ElbowroomError, match="'exact' is not known"):
        study(case, objective="iwae", estimators=["exact"])


def test_the_temperature_is_that_of_the_estimators() -> None:
    case = exact_codes.case(2, 3)
    hot, cold = (
        study(case, estimators=["gumbel-softmax"], temperature=t, draws=60)["gumbel-softmax", "guide"]
        for t in (1.0, 0.1)
    )
    assert cold.variance > 2 * hot.variance


def test_what_cannot_be_studied_over_codes_is_refused() -> None:
    case = exact_codes.case(2, 3)
    with pytest.raises(ElbowroomError, match="not reparameterised"):
        study(case, estimators=["pathwise"], draws=4)
    with pytest.raises(ElbowroomError, match=r"goes through every code, but .* 16\^24"):
        study(exact_codes.case(24, 16), estimators=["reinmax"], draws=4)
    with pytest.raises(ElbowroomError, match="'exact' is not known"):
        study(exact.linear_gaussian(4, 2), estimators=["exact"])
    with pytest.raises(ElbowroomError, match="is for draws of codes"):
        study(exact.linear_gaussian(4, 2), estimators=["reinmax"])
