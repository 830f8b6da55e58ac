"""The state that chains start from: caches of this very target, and starts at which nothing can begin refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.samplers.kernel import Tuning, init
from elbowroom.samplers.metric import Metric
from elbowroom.samplers.target import Density, Target


def half_line(z: Tensor) -> Tensor:
    """−∞ where z ≤ 0, NaN where z > 9."""
    log_density = torch.where(z > 0, -z, -math.inf)
    return torch.where(z > 9, math.nan, log_density).sum(-1)


def test_the_caches_are_those_of_the_target(generator: torch.Generator) -> None:
    z = torch.randn(2, 3, 4, generator=generator)
    state = init(Density(lambda z: -0.5 * z.square().sum(-1)), z.requires_grad_())
    torch.testing.assert_close(state.log_density, -0.5 * z.square().sum(-1))
    torch.testing.assert_close(state.gradient, -z)
    assert not state.z.requires_grad


def test_a_tuning_is_selected_with_its_metric() -> None:
    tuning = Tuning(torch.tensor([1.0, 2.0, 3.0]), Metric.diagonal(torch.tensor([[1.0], [2.0], [3.0]])))
    chosen = tuning.select(torch.tensor([2, 0, 0]))
    assert chosen.step_size.tolist() == [3.0, 1.0, 1.0]
    assert chosen.metric.factor.flatten().tolist() == [3.0, 1.0, 1.0]


@pytest.mark.parametrize(("start", "shown"), [(-1.0, "-inf"), (10.0, "nan")])
def test_a_start_without_density_is_refused(start: float, shown: str) -> None:
    z = torch.ones(2, 4, 1)
    z[1, 2] = start  # one replica is enough
    with pytest.raises(ElbowroomError, match=f"1 of 4 examples \\(example 2: -1, {shown}\\)") as error:
        init(Density(half_line), z)
    assert "Start where the density is positive" in error.value.remedy


def test_a_start_without_finite_gradient_is_refused() -> None:
    cusp = Density(lambda z: z.abs().sqrt().sum(-1))
    with pytest.raises(ElbowroomError, match="gradient is not finite at the starting points of 3 of 3 examples"):
        init(cusp, torch.zeros(2, 3, 1))


@pytest.mark.parametrize("shape", [(3, 2), (3,), (1, 2, 3, 4)])
def test_positions_of_other_axes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ElbowroomError, match=r"should be \(replicas, data, dim\)"):
        init(Density(lambda z: -z.square().sum(-1)), torch.zeros(shape))


@pytest.mark.parametrize("shape", [(0, 2, 3), (2, 0, 3), (2, 3, 0)])
def test_positions_of_nothing_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ElbowroomError, match="one position for each replica"):
        init(Density(lambda z: -z.square().sum(-1)), torch.zeros(shape))


class Misshapen(Target):
    """A target of someone's own, that returns what is left over."""

    def __init__(self, value: tuple[int, ...], gradient: tuple[int, ...]) -> None:
        self.value, self.slope = torch.zeros(value), torch.zeros(gradient)

    def log_density(self, z: Tensor) -> Tensor:
        return self.value

    def gradient(self, z: Tensor) -> Tensor:
        return self.slope

    def select(self, index: Tensor) -> Misshapen:
        return self


@pytest.mark.parametrize(
    ("value", "gradient"), [((3,), (2, 3, 1)), ((2, 3, 1), (2, 3, 1)), ((2, 3), (2, 3)), ((2, 3), (3, 1))]
)
def test_a_target_of_other_shapes_is_refused(value: tuple[int, ...], gradient: tuple[int, ...]) -> None:
    with pytest.raises(ElbowroomError, match=r"of shape \(2, 3, 1\)") as error:
        init(Misshapen(value, gradient), torch.zeros(2, 3, 1))
    assert "Sum over the last axis" in error.value.remedy
