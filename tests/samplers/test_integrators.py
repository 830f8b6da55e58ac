"""Integrators: reversible, volume-preserving, of second order, and no more gradients than steps."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from elbowroom.samplers.hmc import HMC
from elbowroom.samplers.integrators import INTEGRATORS, LONGEST_STEP, Integrator, Point, advance, force, trajectory
from elbowroom.samplers.kernel import State, Tuning, init
from elbowroom.samplers.metric import Metric
from elbowroom.samplers.target import Density, Target

REPLICAS, DATA, DIM = 2, 3, 3


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bent(z: Tensor) -> Tensor:
    """Neither normal nor symmetric, with all of its dimensions coupled."""
    return -torch.exp(0.5 * z).sum(-1) + z.sum(-1) - 0.1 * (z[..., 0] * z[..., 1] - z[..., 2]).square()


class Wrong(Density):
    """Moved by something that is no gradient at all, but a function of z."""

    def gradient(self, z: Tensor) -> Tensor:
        return super().evaluate(z)[1].bfloat16().double() + torch.sin(3 * z.roll(1, -1))

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.log_density(z), self.gradient(z)


class Smooth(Density):
    """Approximate and differentiable: a rotated and damped gradient."""

    def gradient(self, z: Tensor) -> Tensor:
        return -0.8 * z.roll(1, -1) - 0.3 * torch.tanh(z) + 0.2 * torch.sin(z.sum(-1, keepdim=True))

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.function(z), self.gradient(z)


class Counting(Target):
    """Counts what it is asked."""

    def __init__(self, inner: Target) -> None:
        self.inner = inner
        self.asked: list[str] = []

    def log_density(self, z: Tensor) -> Tensor:
        self.asked.append("log density")
        return self.inner.log_density(z)

    def gradient(self, z: Tensor) -> Tensor:
        self.asked.append("gradient")
        return self.inner.gradient(z)

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        self.asked.append("both")
        return self.inner.evaluate(z)

    def select(self, index: Tensor) -> Counting:
        raise NotImplementedError


def metrics(name: str) -> Metric:
    if name == "diagonal":
        return Metric.diagonal(normal(DATA, DIM, seed=1).exp(), normal(DATA, DIM, seed=2))
    noise = normal(DATA, DIM, DIM, seed=3)
    return Metric.dense(noise @ noise.mT + 0.2 * torch.eye(DIM, dtype=torch.float64), normal(DATA, DIM, seed=4))


def starting_point(integrator: Integrator, target: Target, metric: Metric, w: Tensor, r: Tensor) -> Point:
    return Point(w, r, force(integrator, metric, target.gradient(metric.to_z(w)), w))


def start() -> tuple[Tensor, Tensor]:
    return normal(REPLICAS, DATA, DIM, seed=5), normal(REPLICAS, DATA, DIM, seed=6)


STEP = torch.tensor([0.1, 0.2, 0.15], dtype=torch.float64).unsqueeze(-1)  # (data, 1)


@pytest.mark.parametrize("target", [Density(bent), Wrong(bent)], ids=["exact", "approximate"])
@pytest.mark.parametrize("metric", ["diagonal", "dense"])
@pytest.mark.parametrize("integrator", INTEGRATORS)
@pytest.mark.parametrize("backwards", ["momentum", "time"])
def test_back_to_the_start(integrator: Integrator, metric: str, target: Density, backwards: str) -> None:
    chart, (w, r) = metrics(metric), start()
    end, *_ = trajectory(integrator, target, chart, starting_point(integrator, target, chart, w, r), STEP, 20)
    assert float((end.w - w).abs().min()) > 1e-3
    if backwards == "momentum":
        back, *_ = trajectory(integrator, target, chart, end._replace(r=-end.r), STEP, 20)
        back = back._replace(r=-back.r)
    else:
        back, *_ = trajectory(integrator, target, chart, end, -STEP, 20)
    assert float((back.w - w).abs().max()) < 1e-10
    assert float((back.r - r).abs().max()) < 1e-10


@pytest.mark.parametrize("approximate", [False, True])
@pytest.mark.parametrize("metric", ["diagonal", "dense"])
@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_volume_is_preserved(integrator: Integrator, metric: str, approximate: bool) -> None:
    """The determinant of the whole map (w, r) -> (w', r'), by central differences of fourth order."""
    target = Smooth(bent) if approximate else Density(bent)
    chart = metrics(metric).select(torch.tensor([0]))

    def flow(phase: Tensor) -> Tensor:
        """(points, 2 dim) to the same, each point a replica."""
        w, r = phase.unsqueeze(1).chunk(2, -1)
        point = starting_point(integrator, target, chart, w, r)
        end, *_ = trajectory(integrator, target, chart, point, STEP[:1], 8)
        return torch.cat([end.w, end.r], -1).squeeze(1)

    at, h = normal(2 * DIM, seed=7), 1e-3
    steps = h * torch.eye(2 * DIM, dtype=torch.float64)
    near = flow(at + steps) - flow(at - steps)
    far = flow(at + 2 * steps) - flow(at - 2 * steps)
    jacobian = (8 * near - far) / (12 * h)
    assert float((jacobian - torch.eye(2 * DIM, dtype=torch.float64)).abs().max()) > 0.1
    assert abs(float(torch.linalg.det(jacobian)) - 1) < 1e-8


def energy_error(integrator: Integrator, chart: Metric, step_size: float, num_steps: int) -> Tensor:
    target, (w, r) = Density(bent), start()
    point = starting_point(integrator, target, chart, w, r)
    end, _, log_density, _ = trajectory(
        integrator, target, chart, point, torch.tensor(step_size, dtype=torch.float64), num_steps
    )
    before = 0.5 * r.square().sum(-1) - target.log_density(chart.to_z(w))
    return (0.5 * end.r.square().sum(-1) - log_density - before).abs().mean()


@pytest.mark.parametrize(("fixed_length", "order"), [(True, 2), (False, 3)], ids=["trajectory", "single step"])
@pytest.mark.parametrize("metric", ["diagonal", "dense"])
@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_order_of_the_energy_error(integrator: Integrator, metric: str, fixed_length: bool, order: int) -> None:
    chart, length = metrics(metric), 0.5
    counts = [64, 128, 256]
    errors = [energy_error(integrator, chart, length / count, count if fixed_length else 1) for count in counts]
    slopes = [math.log2(float(a / b)) for a, b in pairwise(errors)]
    assert all(abs(slope - order) < 0.1 for slope in slopes), slopes


@pytest.mark.parametrize("step_size", [0.3, math.pi / 2])
def test_rotation_is_exact_for_the_metrics_own_normal(step_size: float) -> None:
    chart = metrics("dense")
    precision = torch.linalg.inv(chart.covariance())
    away = chart.center
    target = Density(
        lambda z: -0.5 * torch.einsum("rni,nij,rnj->rn", z - away, precision, z - away),
    )
    w, r = start()
    point = starting_point("rotation", target, chart, w, r)
    assert float(point.force.abs().max()) < 1e-10
    end, z, log_density, _ = trajectory(
        "rotation", target, chart, point, torch.tensor(step_size, dtype=torch.float64), 5
    )
    before = 0.5 * (w.square() + r.square()).sum(-1)
    torch.testing.assert_close(0.5 * end.r.square().sum(-1) - log_density, before, rtol=0, atol=1e-10)
    torch.testing.assert_close(end.w, math.cos(5 * step_size) * w + math.sin(5 * step_size) * r)
    torch.testing.assert_close(z, chart.to_z(end.w))


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_a_step_is_kick_drift_kick(integrator: Integrator) -> None:
    """One step, written out."""
    chart, target, (w, r) = metrics("dense"), Density(bent), start()
    point = starting_point(integrator, target, chart, w, r)
    end, z, log_density, gradient = trajectory(integrator, target, chart, point, STEP, 1)

    def kick(at: Tensor) -> Tensor:
        pulled = torch.einsum("nji,rnj->rni", chart.factor, target.gradient(chart.to_z(at)))
        return pulled + (at if integrator == "rotation" else 0)

    half = r + 0.5 * STEP * kick(w)
    if integrator == "leapfrog":
        there, turned = w + STEP * half, half
    else:
        there = STEP.cos() * w + STEP.sin() * half
        turned = STEP.cos() * half - STEP.sin() * w
    torch.testing.assert_close(end.w, there)
    torch.testing.assert_close(end.r, turned + 0.5 * STEP * kick(there))
    torch.testing.assert_close(end.force, kick(there))
    torch.testing.assert_close(z, chart.to_z(there))
    torch.testing.assert_close(log_density, target.log_density(z))
    torch.testing.assert_close(gradient, target.gradient(z))


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_drifts_add_up(integrator: Integrator) -> None:
    w, r = start()
    halfway = advance(integrator, w, r, STEP / 2)
    for once, twice in zip(advance(integrator, w, r, STEP), advance(integrator, *halfway, STEP / 2), strict=True):
        torch.testing.assert_close(once, twice)
    assert LONGEST_STEP["rotation"] == math.pi / 2


@pytest.mark.parametrize("num_steps", [1, 4])
@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_as_many_gradients_as_steps_and_one_log_density(integrator: Integrator, num_steps: int) -> None:
    target, chart = Counting(Density(bent)), metrics("dense")
    state: State = init(target, chart.to_z(start()[0]))
    assert target.asked == ["both"]
    kernel, tuning = HMC(num_steps, integrator=integrator), Tuning(STEP.squeeze(-1), chart)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        target.asked.clear()
        state, info = kernel.step(target, state, tuning, generator=generator)
        assert target.asked == ["gradient"] * (num_steps - 1) + ["both"]
        assert info.num_gradients.tolist() == [[num_steps] * DATA] * REPLICAS
