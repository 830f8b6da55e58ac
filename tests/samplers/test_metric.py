"""Metrics: z = m + C w and back, the gradient by the chain rule, and matrices that are none refused."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.samplers.metric import Metric

DATA, DIM = 4, 3


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance() -> Tensor:
    noise = normal(DATA, DIM, DIM, seed=0)
    return noise @ noise.mT + 0.1 * torch.eye(DIM, dtype=torch.float64)


def center() -> Tensor:
    return normal(DATA, DIM, seed=1)


MAKERS: dict[str, Callable[[], tuple[Metric, Tensor]]] = {
    "identity": lambda: (
        Metric.identity(normal(2, DATA, DIM, seed=2)),
        torch.eye(DIM, dtype=torch.float64).expand(DATA, DIM, DIM),
    ),
    "diagonal": lambda: (
        Metric.diagonal(covariance().diagonal(dim1=1, dim2=2).sqrt(), center()),
        torch.diag_embed(covariance().diagonal(dim1=1, dim2=2)),
    ),
    "dense": lambda: (Metric.dense(covariance(), center()), covariance()),
    "precision": lambda: (Metric.from_precision(torch.linalg.inv(covariance()), center()), covariance()),
}


@pytest.mark.parametrize("name", MAKERS)
def test_the_map_and_its_inverse(name: str) -> None:
    metric, expected = MAKERS[name]()
    w = normal(5, DATA, DIM, seed=3)
    torch.testing.assert_close(metric.covariance(), expected)
    torch.testing.assert_close(metric.to_w(metric.to_z(w)), w)
    torch.testing.assert_close(metric.log_scale(), torch.logdet(expected) / (2 * DIM))
    torch.testing.assert_close(metric.to_z(w), metric.center + metric.spread(w))
    # each replica by itself, with the matrix written out
    factor = metric.factor if metric.is_dense else torch.diag_embed(metric.factor)
    torch.testing.assert_close(metric.spread(w), torch.einsum("nij,rnj->rni", factor, w))
    torch.testing.assert_close(metric.pull(w), torch.einsum("nji,rnj->rni", factor, w))


@pytest.mark.parametrize("name", MAKERS)
def test_pulling_is_the_chain_rule(name: str) -> None:
    metric, _ = MAKERS[name]()
    w = normal(2, DATA, DIM, seed=4).requires_grad_()
    z = metric.to_z(w)
    log_density = -(z - 0.3).pow(4).sum(-1) + z.prod(-1)
    (by_z,) = torch.autograd.grad(log_density.sum(), z, retain_graph=True)
    (by_w,) = torch.autograd.grad(log_density.sum(), w)
    torch.testing.assert_close(metric.pull(by_z), by_w)


@pytest.mark.parametrize("name", MAKERS)
def test_whitened_draws_have_the_covariance(name: str) -> None:
    metric, expected = MAKERS[name]()
    z = metric.to_z(normal(20_000, DATA, DIM, seed=5)) - metric.center
    products = z.unsqueeze(-1) * z.unsqueeze(-2)
    scores = (products.mean(0) - expected) / (products.std(0) / math.sqrt(len(z)))
    assert float(scores.abs().max()) < 4


@pytest.mark.parametrize("name", MAKERS)
def test_selection(name: str) -> None:
    metric, _ = MAKERS[name]()
    index = torch.tensor([2, 2, 0])
    w = normal(2, DATA, DIM, seed=6)
    torch.testing.assert_close(metric.select(index).to_z(w[:, index]), metric.to_z(w)[:, index])
    torch.testing.assert_close(metric.select(index).to_w(w[:, index]), metric.to_w(w)[:, index])


def spoilt(value: float) -> Tensor:
    matrices = covariance()
    matrices[2] = value * torch.eye(DIM, dtype=torch.float64)
    return matrices


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("make", [Metric.dense, Metric.from_precision])
def test_a_matrix_that_is_not_positive_definite_is_refused(make: Callable[[Tensor], Metric], value: float) -> None:
    with pytest.raises(
        ElbowroomError, match=r"not positive definite for 1 of 4 examples \(the first is example 2\)"
    ) as error:
        make(spoilt(value))
    assert "multiple of the identity" in error.value.remedy


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_standard_deviation_that_is_none_is_refused(value: float) -> None:
    stddev = torch.ones(DATA, DIM)
    stddev[1:3, 2] = value
    with pytest.raises(ElbowroomError, match=r"positive and finite for 2 of 4 examples \(the first is example 1\)"):
        Metric.diagonal(stddev)
