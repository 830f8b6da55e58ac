"""Overfitting is as bad in one unit of the data as in another."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from elbowroom.data.loading import load_data
from elbowroom.evaluation.doctor.findings import Finding
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.evaluation.doctor.training import generalises
from elbowroom.model.guides import DiagonalNormal
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import LIKELIHOODS
from elbowroom.model.oracles import LinearGaussian
from elbowroom.model.priors import StandardNormal
from exact_cases import Always

DIM = 20


def _told(name: str, level: float, train: Tensor, test: Tensor, **options: Any) -> tuple[str | None, float, float]:
    """Severity, nats by which training rows are better known, log p of a test row: exact, since z tells nothing."""
    kind = LIKELIHOODS[name]
    likelihood = kind(Always(torch.full(kind.parameter_shape((DIM,)), level)), (DIM,), **options)
    model = LatentModel(StandardNormal(1), likelihood)
    guide = DiagonalNormal(Always(torch.zeros(2, 1)), 1)
    missing = "mask" if bool(test.isnan().any()) else "error"
    data = load_data(torch.stack([*[train] * 60, *[test] * 60]), test=0.5, support=kind.support, missing=missing)
    data = replace(data, splits={**data.splits, "train": torch.arange(60), "test": torch.arange(60, 120)})
    found = generalises(DoctorInput(model, guide, data, points=60))
    means = {row.name: row.value for finding in found for row in finding.evidence}
    severity = found[0].severity if found else None
    return severity, means.get("difference", 0.0), next((v for k, v in means.items() if "held-out" in k), 0.0)


def _overfitted(unit: float, moved: float) -> Finding:
    """A model that is exact for its training data; held-out data have their elements moved by so much of the noise."""
    generator = torch.Generator().manual_seed(0)
    weight = 0.1 * torch.randn(DIM, 2, generator=generator)
    model = LinearGaussian(unit * weight, torch.zeros(DIM), scale=unit)
    x = model.sample(1000, generator=generator).x
    data = load_data(x, test=0.5, support="reals")
    x = x.clone()
    x[data.splits["test"]] += unit * moved * torch.tensor([1.0, -1.0]).repeat(DIM // 2)
    moved_data = replace(load_data(x, test=0.5, support="reals"), splits=data.splits)
    (finding,) = generalises(DoctorInput(model, model.exact_guide(), moved_data, points=500))
    return finding


@pytest.mark.parametrize(("moved", "severity"), [(0.4, "warning"), (1.0, "severe")])
def test_the_unit_of_real_data_does_not_matter(moved: float, severity: str) -> None:
    found = [_overfitted(unit, moved) for unit in (1.0, 0.2459, 1e-3, 1e3)]  # with the second, log p(x) is nearly 0
    assert [finding.severity for finding in found] == [severity] * 4
    gaps = [next(e.value for e in finding.evidence if e.name == "difference") for finding in found]
    assert max(gaps) - min(gaps) < 0.05


@pytest.mark.parametrize(("per_element", "severity"), [(0.09, "warning"), (0.11, "severe")])
@pytest.mark.parametrize("sigma", [1e-4, 0.2420, 1e4])  # log p(x) of a test row is far above 0, about 0, far below it
def test_a_density_is_judged_by_nats_per_element(sigma: float, per_element: float, severity: str) -> None:
    moved = torch.full((DIM,), sigma * math.sqrt(2 * per_element))
    found, gap, _ = _told("gaussian", 0.0, torch.zeros(DIM), moved, scale=sigma)
    assert gap == pytest.approx(DIM * per_element, rel=1e-4)
    assert found == severity


def test_an_element_that_is_missing_bears_no_part_of_it() -> None:
    """0.12 nats for each of the ten that are there, 0.06 for each of all twenty."""
    train = torch.where(torch.arange(DIM) < DIM // 2, 0.0, torch.nan)
    assert _told("gaussian", 0.0, train, train + math.sqrt(2 * 0.12), scale=1.0)[0] == "severe"
    assert _told("gaussian", 0.0, torch.zeros(DIM), torch.full((DIM,), math.sqrt(2 * 0.06)), scale=1.0)[0] == "warning"


@pytest.mark.parametrize(("value", "severity"), [(0.45, "warning"), (0.42, "severe")])
def test_so_is_one_on_the_unit_interval(value: float, severity: str) -> None:
    found, gap, _ = _told("continuous-bernoulli", 1.25, torch.full((DIM,), 0.52), torch.full((DIM,), value))
    assert gap == pytest.approx(1.25 * (0.52 - value) * DIM, rel=1e-4)
    assert found == severity


@pytest.mark.parametrize(("name", "few", "many"), [("bernoulli", 4, 5), ("poisson", 5, 6), ("cross-entropy", 4, 5)])
def test_discrete_data_are_judged_by_their_own_level(name: str, few: int, many: int) -> None:
    """Ones that are rarer among training data: 0.3 nats each, to be less or more than a tenth of log p."""
    for number, severity in ((few, "warning"), (many, "severe")):
        ones = (torch.arange(DIM) < number).float()
        found, gap, log_p = _told(name, -0.3, torch.zeros(DIM), ones)
        assert gap == pytest.approx(0.3 * number, rel=1e-5)
        assert (gap > 0.1 * abs(log_p)) == (severity == "severe")
        assert found == severity
