"""The check of the likelihood, on models that ignore z and data that are written down: its numbers are exact."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.data.support import Support
from elbowroom.evaluation.doctor.findings import Finding
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.evaluation.doctor.likelihood import likelihood_fits
from elbowroom.model.conditional import Likelihood
from elbowroom.model.guides import DiagonalNormal
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import (
    Bernoulli,
    CrossEntropy,
    Gaussian,
    Laplace,
    LocationScale,
    NegativeBinomial,
    Poisson,
    StudentT,
)
from elbowroom.model.oracles import LinearGaussian
from elbowroom.model.priors import StandardNormal
from exact_cases import Always

ROWS, DIM = 60, 20


def held_out(x: Tensor, support: Support, *, missing: str = "error") -> DataSet:
    """These rows, to train on and to test on."""
    data = load_data(torch.cat([x, x]), test=0.5, support=support, missing=missing)
    assert isinstance(data, DataSet)
    splits = {**data.splits, "train": torch.arange(len(x)), "test": torch.arange(len(x), 2 * len(x))}
    return replace(data, splits=splits).to(dtype=torch.float64)


def check(likelihood: Likelihood, x: Tensor, *, guided: bool = True, missing: str = "error") -> Finding | None:
    model = LatentModel(StandardNormal(1), likelihood).double().eval()
    guide = DiagonalNormal(Always(torch.zeros(2, 1)), 1).double() if guided else None
    found = likelihood_fits(DoctorInput(model, guide, held_out(x, likelihood.support, missing=missing), points=ROWS))
    assert len(found) < 2
    assert all((finding.check, bool(finding.remedy)) == ("likelihood_fits", True) for finding in found)
    return found[0] if found else None


def gaussian(scale: float | str, dim: int = DIM) -> Gaussian:
    return Gaussian(Always(torch.zeros(1, dim)), (dim,), scale=scale)


def signs(size: float, dim: int = DIM) -> Tensor:
    """Elements of ± this size: their mean square is known, and has no spread."""
    return size * torch.where(torch.rand(ROWS, dim, generator=torch.Generator().manual_seed(0)) < 0.5, -1.0, 1.0)


# --- the noise of a Gaussian -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "words"), [(3.0, "too small"), (0.3, "too large")])
def test_the_gain_of_a_scale_that_fits_is_the_exact_one(size: float, words: str) -> None:
    r"""With r the mean square over σ², :math:`\tfrac{D}{2} (r - 1 - \log r)` nats."""
    finding = check(gaussian(1.5), signs(size))
    assert finding is not None
    scale, residual, gain = finding.evidence
    ratio = (size / 1.5) ** 2
    assert scale.value == pytest.approx(1.5)
    assert residual.value == pytest.approx(size)
    assert gain.value == pytest.approx(DIM / 2 * (ratio - 1 - math.log(ratio)))
    assert gain.stderr == pytest.approx(0, abs=1e-6)
    assert f"{words} by a factor of {max(size / 1.5, 1.5 / size):.2g}" in finding.title


def test_the_gain_has_the_error_of_its_draws() -> None:
    """Normal noise of another size: the gain against its expectation, in its own standard errors."""
    x = 2.0 * torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    finding = check(gaussian(1.0), x)
    assert finding is not None
    _, residual, gain = finding.evidence
    assert gain.stderr is not None and 0 < gain.stderr < 0.1 * gain.value
    assert abs(gain.value - DIM / 2 * (4 - 1 - math.log(4))) < 4 * gain.stderr
    assert abs(residual.value - 2) < 4 * 2 / math.sqrt(2 * ROWS * DIM)
    assert check(gaussian(2.0), x) is None


def ratio_of(nats: float) -> float:
    """The r above 1 at which an element would gain so much."""
    low, high = 1.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (middle - 1 - math.log(middle)) / 2 < nats else (low, middle)
    return low


@pytest.mark.parametrize(
    ("dim", "per_element", "severity"),
    [(20, 0.11, "severe"), (20, 0.09, "warning"), (20, 0.051, "warning"), (20, 0.049, None), (5, 0.19, None)],
)
def test_severity_is_by_nats_per_element_and_a_nat_in_all(dim: int, per_element: float, severity: str | None) -> None:
    finding = check(gaussian(1.0, dim), signs(math.sqrt(ratio_of(per_element)), dim))
    assert (None if finding is None else finding.severity) == severity


@pytest.mark.parametrize("size", [0.0, 1e-16])
@pytest.mark.parametrize("scale", [1.5, "learned"])
def test_residuals_of_zero_are_a_finding(size: float, scale: float | str) -> None:
    """No σ fits them: the logarithm of their mean square over σ² is −∞."""
    finding = check(gaussian(scale), signs(size))
    assert finding is not None and finding.severity == "severe"
    assert finding.title.startswith("The residuals are zero")
    assert finding.evidence[1].value == 0.0
    assert all(math.isfinite(number.value) for number in finding.evidence)


def test_residuals_that_are_only_small_are_measured() -> None:
    finding = check(gaussian(1.0), signs(1e-9))
    assert finding is not None
    assert finding.title == "The noise σ is too large by a factor of 1e+09."


def unseen(x: Tensor, support: Support) -> DataSet:
    """Held-out rows of which nothing was observed."""
    data = load_data(torch.cat([x, torch.full_like(x, torch.nan)]), test=0.5, support=support, missing="mask")
    assert isinstance(data, DataSet)
    return replace(data, splits={**data.splits, "test": torch.arange(len(x), 2 * len(x))}).to(dtype=torch.float64)


@pytest.mark.parametrize(
    "likelihood",
    [
        gaussian(1.0),
        CrossEntropy(Always(torch.zeros(1, DIM)), (DIM,)),
        Poisson(Always(torch.zeros(1, DIM)), (DIM,)),
    ],
    ids=lambda likelihood: likelihood.name,
)
def test_rows_of_which_nothing_was_observed_say_nothing(likelihood: Likelihood) -> None:
    model = LatentModel(StandardNormal(1), likelihood).double().eval()
    guide = DiagonalNormal(Always(torch.zeros(2, 1)), 1).double()
    x = (signs(1.0) > 0).double()
    assert likelihood_fits(DoctorInput(model, guide, unseen(x, likelihood.support), points=ROWS)) == []


@pytest.mark.parametrize("kind", [CrossEntropy, Poisson])
def test_a_single_such_row_changes_no_finding_into_nan(kind: type[CrossEntropy | Poisson]) -> None:
    x = torch.full((ROWS, DIM), 0.5 if kind is CrossEntropy else 9.0)
    x[3] = torch.nan
    finding = check(kind(Always(torch.zeros(1, DIM)), (DIM,)), x, missing="mask")
    assert finding is not None
    assert all(math.isfinite(number.value) for number in finding.evidence)


def test_a_gain_that_may_be_chance_is_no_finding() -> None:
    """One row of sixty is far out: a gain of several nats on average, and as large an error."""
    x = signs(1.0)
    x[7] *= 8
    assert check(gaussian(1.0), x) is None
    assert check(gaussian(1.0), signs(3.0)) is not None


def test_missing_elements_are_no_residuals() -> None:
    """Half of the elements are three σ away, but these are missing: nothing is wrong, or half of what would be."""
    x = signs(1.0)
    x[:, : DIM // 2] = torch.nan
    assert check(gaussian(1.0), x, missing="mask") is None
    finding = check(gaussian(1.0), 3 * x, missing="mask")
    assert finding is not None
    assert finding.evidence[2].value == pytest.approx(DIM / 4 * (9 - 1 - math.log(9)))


def test_residuals_about_means_that_know_nothing_of_x_are_no_noise() -> None:
    assert check(gaussian(1.0), signs(3.0), guided=False) is None


def test_the_noise_of_an_exact_model_fits() -> None:
    """z ~ q(z | x) of the exact posterior: the residuals' mean square is σ²."""
    generator = torch.Generator().manual_seed(0)
    model = LinearGaussian(torch.randn(DIM, 3, generator=generator), torch.zeros(DIM), scale=0.6).double()
    x = model.sample(1000, generator=generator).x
    for scale, expected in ((0.6, None), (1.2, "too large"), (0.3, "too small")):
        other = LinearGaussian(model.weight.detach(), model.bias.detach(), scale).double()
        inputs = DoctorInput(other, model.exact_guide().double(), held_out(x, Support.REALS), points=1000)
        found = likelihood_fits(inputs)
        assert [expected in finding.title for finding in found] == ([] if expected is None else [True])


@pytest.mark.parametrize(("factor", "severe"), [(1.4, True), (1.6, False)])
def test_a_learned_scale_at_its_bound_is_severe(factor: float, severe: bool) -> None:
    """Within one and a half times the least σ that can be learned."""
    likelihood = gaussian("learned")
    assert likelihood.raw_scale is not None
    low, high = -30.0, 5.0
    for _ in range(60):  # the raw value of such a σ, however the one is made of the other
        middle = (low + high) / 2
        with torch.no_grad():
            likelihood.raw_scale.fill_(middle)
        scale = likelihood(torch.zeros(1, 1)).stddev.min().item() / float(torch.as_tensor(likelihood.unit).max())
        low, high = (middle, high) if scale < factor * likelihood.min_scale else (low, middle)
    size = likelihood(torch.zeros(1, 1)).stddev.min().item()
    finding = check(likelihood, signs(size))
    assert (finding is not None) == severe
    if finding is not None:
        least, bound, share = finding.evidence
        assert finding.severity == "severe"
        assert least.value == pytest.approx(factor * bound.value, rel=1e-3)
        assert share.value == 1.0


@pytest.mark.parametrize("kind", [Gaussian, Laplace, StudentT])
def test_elements_at_the_bound_are_counted_where_each_has_a_scale(kind: type[LocationScale]) -> None:
    outputs = torch.zeros(2, DIM)
    outputs[1] = 2.0
    outputs[1, :3] = -50.0
    finding = check(kind(Always(outputs), (DIM,), scale="per-element"), signs(1.0))
    assert finding is not None and finding.severity == "severe"
    assert finding.evidence[2].value == pytest.approx(3 / DIM)


# --- grey values under a Bernoulli -------------------------------------------------------------------------------


@pytest.mark.parametrize("logit", [-2.0, 0.7])
def test_the_constant_that_is_left_out_is_the_exact_one(logit: float) -> None:
    r"""Of each grey value: :math:`-\log \int_0^1 p^x (1-p)^{1-x} dx = \log \frac{\log p - \log (1 - p)}{2 p - 1}`."""
    likelihood = CrossEntropy(Always(torch.full((1, DIM), logit)), (DIM,))
    x = torch.full((ROWS, DIM), 0.5)
    x[:, :5] = 1.0
    finding = check(likelihood, x)
    assert finding is not None and finding.severity == "severe"
    share, constant = finding.evidence
    assert share.value == pytest.approx((DIM - 5) / DIM)
    grid = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    p = torch.sigmoid(torch.tensor(logit, dtype=torch.float64))
    mass = torch.trapezoid(p**grid * (1 - p) ** (1 - grid), grid)
    assert constant.value == pytest.approx(-DIM * mass.log().item())


def test_the_constant_is_that_of_the_elements_that_were_observed() -> None:
    x = torch.full((ROWS, DIM), 0.5)
    x[:, :10] = torch.nan
    whole, half = (
        check(CrossEntropy(Always(torch.ones(1, DIM)), (DIM,)), given, missing="mask")
        for given in (torch.full((ROWS, DIM), 0.5), x)
    )
    assert whole is not None and half is not None
    assert half.evidence[0].value == pytest.approx(1.0)
    assert half.evidence[1].value == pytest.approx(whole.evidence[1].value / 2)


@pytest.mark.parametrize("kind", [Bernoulli, CrossEntropy])
def test_black_and_white_are_nothing_to_complain_of(kind: type[Bernoulli | CrossEntropy]) -> None:
    assert check(kind(Always(torch.zeros(1, DIM)), (DIM,)), (signs(1.0) > 0).double()) is None


# --- counts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("far", "found"), [(39, False), (41, True)])
def test_counts_that_vary_more_than_poissons_are_found(far: int, found: bool) -> None:
    """Of a hundred elements about a mean of 4 so many are off by 3 and the others by 2: Pearson's χ² is exact."""
    x = torch.where(torch.arange(100) % 2 == 0, 2.0, 6.0).repeat(ROWS, 1)
    x[:, :far] = torch.where(torch.arange(far) % 2 == 0, 1.0, 7.0)
    finding = check(Poisson(Always(torch.full((1, 100), math.log(4.0))), (100,)), x)
    assert (finding is not None) == found
    if finding is not None:
        assert finding.severity == "warning"
        assert finding.evidence[0].value == pytest.approx((far * 9 / 4 + (100 - far)) / 100)


def test_counts_of_a_poisson_are_right() -> None:
    x = torch.poisson(torch.full((ROWS, DIM), 4.0), generator=torch.Generator().manual_seed(0))
    assert check(Poisson(Always(torch.full((1, DIM), math.log(4.0))), (DIM,)), x) is None


def test_one_wild_row_of_counts_is_no_proof() -> None:
    x = torch.full((ROWS, DIM), 4.0)
    x[7] = 40.0  # χ² of this row is 324, and 5.4 on average, as is its error
    assert check(Poisson(Always(torch.full((1, DIM), math.log(4.0))), (DIM,)), x) is None


def test_counts_are_not_judged_without_a_guide_nor_under_a_likelihood_with_a_dispersion() -> None:
    x = torch.where(torch.arange(DIM) % 2 == 0, 0.0, 9.0).repeat(ROWS, 1)
    poisson = Poisson(Always(torch.full((1, DIM), math.log(4.0))), (DIM,))
    assert check(poisson, x) is not None
    assert check(poisson, x, guided=False) is None
    assert check(NegativeBinomial(Always(torch.zeros(2, DIM)), (DIM,)), x) is None
