"""Columns of a table against a model that is right, and with planted faults of the column: each is found and named."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.data.dataset import DataSet
from elbowroom.data.storage import InMemory
from elbowroom.data.support import Support
from elbowroom.data.views import View
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.doctor import column_ranks
from elbowroom.evaluation.doctor.column_ranks import as_written, column_tests, smooth_test
from elbowroom.evaluation.doctor.columns import _tails_of_width, columns_fit
from elbowroom.evaluation.doctor.diagnose import default_checks
from elbowroom.evaluation.doctor.findings import Finding
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.evaluation.thresholds import COLUMN_P
from elbowroom.inference.importance.left_out import left_out_draws
from elbowroom.model.code_distributions import CodeSpace
from elbowroom.model.codes import UniformCodes
from elbowroom.model.composite_networks import ByComponent, WithLinear
from elbowroom.model.latent import LatentModel
from elbowroom.model.mixtures import Mixture
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import LinearGaussian
from elbowroom.model.priors import StandardNormal
from elbowroom.model.table.likelihood import Table
from mixture_cases import mixture_model, spread_out
from table_cases import COLUMNS, LEVELS, seeded

#: one of each family that draws and compares in its own way
NAMES = ("real", "positive-atom", "count", "cells", "category")
ROWS = 300


def classes(columns: list[Column], *, codes: int = 3, scale: float = 1.0, **options: Any) -> LatentModel:
    """A latent class model of these columns, whose conditionals are exact."""
    space = CodeSpace(1, codes)
    network = MLP((codes,), Table.parameter_shape((len(columns),), columns=columns), hidden=())
    model = LatentModel(UniformCodes(space), Table(network, columns, **options)).double().eval()
    spread_out(model, scale)
    return model


def inputs_of(model: LatentModel, x: Tensor, seed: int = 0) -> DoctorInput:
    splits = {"train": torch.arange(0), "validation": torch.arange(0), "test": torch.arange(len(x))}
    view = View(Support.TABLE, Support.TABLE)
    data = DataSet("a table", InMemory(x), splits, view, masked=True, dtype=x.dtype)
    return DoctorInput(model, None, data, seed=seed)


def examined(model: LatentModel, x: Tensor) -> list[Finding]:
    return columns_fit(inputs_of(model, x))


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of z: these models have a latent or three classes, so that few do."""
    monkeypatch.setattr(column_ranks, "_DRAWS", 150)


# --- draws given the rest of the row ---------------------------------------------------------------------------------


def test_draws_given_the_rest_have_the_moments_of_the_exact_conditional() -> None:
    """Of a linear-Gaussian model: normal, with the mean and variance that the covariance says."""
    weight = torch.tensor([[1.0, 0.5], [0.8, -1.0], [-0.6, 0.3], [0.2, 1.0]], dtype=torch.float64)
    model = LinearGaussian(weight, torch.zeros(4, dtype=torch.float64), 0.5)
    x = model.sample(40, generator=seeded(1)).x
    found = left_out_draws(
        model, None, DoctorInput(model, None, inputs_of(model, x).data).batch("test"), torch.zeros(()).double(),
        num_samples=3000, kept=200, generator=seeded(2),
    )  # fmt: skip
    precision = torch.linalg.inv(weight @ weight.T + 0.25 * torch.eye(4).double())
    variance = 1 / precision.diagonal()
    mean = x - (x @ precision) * variance
    z = (found - mean) / variance.sqrt()
    assert z.mean(0).square().mean() * 200 == pytest.approx(1.1, abs=0.4)  # 200 of some 1,500 effective ones
    assert z.square().mean() == pytest.approx(1, abs=0.05)


def test_draws_given_the_rest_are_of_the_component_that_the_rest_leaves_possible() -> None:
    """Each of a mixture's binary elements has the probability of p(x) at both of its values, by enumeration of z."""
    model = mixture_model()
    x = torch.tensor([[1.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    batch = inputs_of(model, x).batch("test")
    found = left_out_draws(
        model, None, batch, torch.zeros(()).double(), num_samples=4000, kept=4000, generator=seeded(2)
    )
    z = torch.linspace(-8, 8, 2001, dtype=torch.float64).reshape(-1, 1, 1)
    for place in range(4):
        both = x.repeat(2, 1)
        both[:, place] = torch.tensor([0.0, 1.0]).double()
        expected = float(model.log_joint(both, z.expand(-1, 2, -1)).logsumexp(0).softmax(0)[1].detach())
        assert found[:, 0, place].mean().item() == pytest.approx(expected, abs=0.045)


# --- a model that is right -------------------------------------------------------------------------------------------


def test_of_a_sound_model_p_values_are_uniform_and_nothing_is_found() -> None:
    """Over tables of five columns with holes: p of the shape falls below 0.1, 0.3 and 0.6 as often as it should."""
    columns = [COLUMNS[name] for name in NAMES]
    model, p, rows = classes(columns), [], 120
    for seed in range(12):
        x = model.sample(rows, generator=seeded(100 + seed)).x
        x[::11, seed % 5] = torch.nan
        inputs = inputs_of(model, x, seed)
        tests = column_tests(inputs)
        p += [test.p_shape for test in tests]
        assert min(min(test.p_shape, test.p_value, test.p_ties) for test in tests) > COLUMN_P / 15
        assert [test.rows for test in tests] == (~x.isnan()).sum(0).tolist()
    for level in (0.1, 0.3, 0.6):
        share = sum(value < level for value in p) / len(p)
        assert abs(share - level) < 4 * math.sqrt(level * (1 - level) / len(p))
    assert examined(model, model.sample(ROWS, generator=seeded(7)).x) == []


def test_a_sound_model_with_continuous_latents_and_components_has_no_finding() -> None:
    columns = [COLUMNS[name] for name in NAMES]
    out = Table.parameter_shape((5,), columns=columns)
    base = Table(torch.nn.Identity(), columns, components=2)
    likelihood = Mixture(ByComponent(WithLinear(MLP((3,), out, hidden=(4,))), 2), base)
    model = LatentModel(StandardNormal(1), likelihood).double().eval()
    spread_out(model, 0.7)
    assert examined(model, model.sample(120, generator=seeded(7)).x) == []


# --- planted faults --------------------------------------------------------------------------------------------------

REAL = Column("income", ColumnKind.REAL, shift=50.0, unit=10.0)
OTHER = Column("size", ColumnKind.REAL, shift=0.0, unit=1.0)
COUNT = Column("visits", ColumnKind.COUNT)


def heavy(x: Tensor) -> Tensor:
    """Student's t with two degrees of freedom, of which σ is too wide in the middle, as one that is fitted would be."""
    wider = torch.empty_like(x).exponential_(generator=seeded(3)).rsqrt()
    return x.mean() + 0.4 * wider * (x - x.mean())


def rounded(x: Tensor) -> Tensor:
    """Half of the values to the nearest five."""
    return torch.where(torch.arange(len(x)) % 2 == 0, (x / 5).round() * 5, x)


def zeros(x: Tensor) -> Tensor:
    return torch.where(torch.arange(len(x)) % 14 == 0, 0.0, x)


def nines(x: Tensor) -> Tensor:
    return torch.where(torch.arange(len(x)) % 5 == 0, 9.0, x)


def narrow(x: Tensor) -> Tensor:
    return x.mean() + 0.5 * (x - x.mean())


def skewed(x: Tensor) -> Tensor:
    return x.mean() + 12 * (torch.exp((x - x.mean()) / x.std() * 0.6) - 1.2)


@pytest.mark.parametrize(
    ("fault", "column", "options", "said", "remedy"),
    [
        (heavy, REAL, {"tails": "none"}, "'income' are heavier-tailed", "--model.tails wide"),
        (rounded, REAL, {}, "'income' are rounded", "Round 'income'"),
        (zeros, REAL, {}, "value 0 of column 'income' is more frequent", "income:positive"),
        (narrow, REAL, {}, "'income' are more often in the middle", "--model.latent-dim"),
        (skewed, REAL, {"tails": "none"}, "'income' are skewed more to the right", ":positive"),
        (nines, COUNT, {}, "value 9 of column 'visits'", "Split it in two"),
    ],
    ids=["heavy", "rounded", "zeros", "narrow", "skewed", "count"],
)  # fmt: skip
def test_planted_faults_are_found_in_their_column_alone(
    fault: Callable[[Tensor], Tensor], column: Column, options: dict[str, Any], said: str, remedy: str
) -> None:
    model = classes([OTHER, column, COLUMNS["category"]], scale=0.1, **options)
    x = model.sample(400, generator=seeded(9)).x
    assert examined(model, x) == []
    x[:, 1] = fault(x[:, 1])
    (finding,) = examined(model, x)
    assert said in finding.title
    assert remedy in finding.remedy
    assert finding.severity == "warning"
    assert all(math.isfinite(number.value) for number in finding.evidence)


@pytest.mark.parametrize("width", [0.25, 0.6, 1.15, 1.8])
def test_a_normal_of_another_width_is_not_taken_for_heavy_tails(width: float) -> None:
    u = (torch.arange(20_000).double() + 0.5) / 20_000
    z, *_ = smooth_test(torch.special.ndtr(width * torch.special.ndtri(u)))
    second, fourth = (z[[1, 3]] / len(u) ** 0.5).tolist()
    assert _tails_of_width(second) == pytest.approx(fourth, abs=0.02)


def test_many_columns_at_once_are_one_finding_about_the_model() -> None:
    columns = [replace(OTHER, name=name) for name in "abcde"]
    model = classes(columns, scale=0.5)
    x = 3 * model.sample(400, generator=seeded(9)).x
    (finding,) = examined(model, x)
    assert finding.title.startswith("5 of 5 columns are spread otherwise") and len(finding.evidence) == 5


def test_the_gain_is_what_recalibration_would_gain() -> None:
    """u with the density 1 + a h₂ has E log density = a² / 2 to second order."""
    u = torch.rand(400_000, generator=seeded(), dtype=torch.float64)
    a = 0.2
    keep = torch.rand(len(u), generator=seeded(1), dtype=torch.float64) * (1 + a * 5**0.5) < 1 + a * 5**0.5 * (
        (3 * (2 * u - 1) ** 2 - 1) / 2
    )
    z, gain, error, p = smooth_test(u[keep])
    assert int(z.abs().argmax()) == 1 and p < 1e-9
    assert abs(gain - a**2 / 2) < 4 * error


def test_a_value_and_draws_are_compared_as_they_are_written() -> None:
    column = Column("a", ColumnKind.POSITIVE, step=0.5)
    assert as_written(torch.tensor([0.1, 0.7, 10.2]), column).tolist() == [1.0, 1.0, 20.0]
    levels = Column("b", ColumnKind.CATEGORY, levels=LEVELS, step=2.0)
    assert as_written(torch.tensor([3.0]), levels).tolist() == [3.0]
    model = classes([replace(REAL, step=5.0), OTHER])
    x = model.sample(ROWS, generator=seeded(4)).x
    x[:, 0] = (x[:, 0] / 5).round() * 5  # rounded, and known to be
    assert examined(model, x) == []


def test_too_few_rows_and_other_models_are_not_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    model = classes([OTHER, REAL])
    assert "columns_fit" in default_checks(model)
    with pytest.raises(ElbowroomError, match="100"):
        examined(model, model.sample(99, generator=seeded()).x)
    x = model.sample(120, generator=seeded()).x
    x[:50, 0] = torch.nan
    assert [test.column.name for test in column_tests(inputs_of(model, x))] == ["income"]
    linear = LinearGaussian(torch.ones(3, 1), torch.zeros(3), 1.0)
    assert "columns_fit" not in default_checks(linear)
    with pytest.raises(ElbowroomError, match="no kinds"):
        examined(linear, torch.zeros(120, 3))
    monkeypatch.setattr(column_ranks, "why_no_columns", lambda model: "Too many codes.")
    with pytest.raises(ElbowroomError, match="Too many codes"):
        examined(model, x)
