"""Overfitting is as bad in one unit of the data as in another."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.loading import load_data
from elbowroom.evaluation.doctor.findings import Finding
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.evaluation.doctor.training import _is_bad, generalises
from elbowroom.model.conditional import Likelihood
from elbowroom.model.likelihoods import LIKELIHOODS
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import LinearGaussian

DIM = 20


def _likelihood(name: str) -> Likelihood:
    kind = LIKELIHOODS[name]
    return kind(MLP((2,), kind.parameter_shape((DIM,))), (DIM,))


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


@pytest.mark.parametrize("name", ["gaussian", "continuous-bernoulli"])
@pytest.mark.parametrize("level", [-1e3, 0.0, 1e3])
def test_a_density_is_judged_by_nats_per_element(name: str, level: float) -> None:
    batch, bound, likelihood = Batch(torch.zeros(5, DIM)), torch.full((5,), level), _likelihood(name)
    assert not _is_bad(0.09 * DIM, bound, batch, likelihood)
    assert _is_bad(0.11 * DIM, bound, batch, likelihood)
    mask: Tensor = (torch.arange(DIM) < DIM // 2).expand(5, -1)
    assert _is_bad(0.06 * DIM, bound, Batch(batch.x, mask=mask), likelihood)


@pytest.mark.parametrize("name", ["bernoulli", "poisson", "cross-entropy"])
def test_discrete_data_are_judged_by_their_own_level(name: str) -> None:
    batch, bound, likelihood = Batch(torch.zeros(5, DIM)), torch.full((5,), -30.0), _likelihood(name)
    assert not _is_bad(2.9, bound, batch, likelihood)
    assert _is_bad(3.1, bound, batch, likelihood)
