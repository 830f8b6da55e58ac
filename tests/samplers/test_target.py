"""A density of the user's as a target: values, gradients, selections, and what is wrong with it said at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.samplers.kernel import init
from elbowroom.samplers.target import Density


def quartic(z: Tensor, center: Tensor) -> Tensor:
    return -(z - center).pow(4).sum(-1)


@pytest.fixture
def target() -> Density:
    return Density(quartic, torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3))


def points(generator: torch.Generator) -> Tensor:
    return torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)


def test_value_and_gradient(target: Density, generator: torch.Generator) -> None:
    z, center = points(generator), target.data[0]
    torch.testing.assert_close(target.log_density(z), -(z - center).pow(4).sum(-1))
    torch.testing.assert_close(target.gradient(z), -4 * (z - center).pow(3))
    value, gradient = target.evaluate(z)
    assert torch.equal(value, target.log_density(z))
    assert torch.equal(gradient, target.gradient(z))


def test_nothing_is_recorded_and_z_is_left_alone(target: Density, generator: torch.Generator) -> None:
    z = points(generator).requires_grad_()
    with torch.no_grad():  # as inside a sampler
        value, gradient = target.evaluate(z)
    assert not (value.requires_grad or gradient.requires_grad or target.log_density(z).requires_grad)
    assert z.grad is None


def test_parameters_in_the_function_get_no_gradient() -> None:
    weight = torch.tensor(2.0, requires_grad=True)
    target = Density(lambda z: -(weight * z).square().sum(-1))
    torch.testing.assert_close(target.gradient(torch.ones(1, 2, 1)), torch.full((1, 2, 1), -8.0))
    assert weight.grad is None


def test_selection_repeats_and_reorders(target: Density, generator: torch.Generator) -> None:
    index = torch.tensor([3, 0, 0, 2, 1, 3])
    z = points(generator)
    torch.testing.assert_close(target.select(index).log_density(z[:, index]), target.log_density(z)[:, index])
    torch.testing.assert_close(target.select(index).gradient(z[:, index]), target.gradient(z)[:, index])
    assert torch.equal(target.select(index).select(torch.tensor([3])).data[0], target.data[0][[2]])


WRONG: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "summed over everything": (lambda z: -z.square().sum(), r"shape \(\)"),
    "not summed": (lambda z: -z.square(), r"shape \(2, 4, 3\)"),
    "summed over the data": (lambda z: -z.square().sum((1, 2)), r"shape \(2,\)"),
    "kept axis": (lambda z: -z.square().sum(-1, keepdim=True), r"shape \(2, 4, 1\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_shape_is_refused(name: str) -> None:
    function, shape = WRONG[name]
    z = torch.zeros(2, 4, 3)
    for use in (Density(function).log_density, Density(function).evaluate, Density(function).gradient):
        with pytest.raises(ElbowroomError, match=shape) as error:
            use(z)
        assert "one value for each replica and example" in error.value.problem
        assert error.value.remedy == "Sum over the last axis of z only."


@pytest.mark.parametrize("weighted", [False, True], ids=["detached", "detached, times a parameter"])
def test_a_density_without_a_gradient_is_refused(weighted: bool) -> None:
    weight = torch.ones((), requires_grad=weighted)
    target = Density(lambda z: -weight * z.detach().square().sum(-1))
    with pytest.raises(ElbowroomError, match="no gradient with respect to z") as error:
        init(target, torch.zeros(2, 4, 3))
    assert "detach()" in error.value.remedy


def test_chunks_change_nothing() -> None:
    centers = torch.arange(7.0).unsqueeze(-1)
    whole = Density(lambda z, center: -0.5 * (z - center).square().sum(-1), centers)
    z = torch.randn(3, 7, 2, generator=torch.Generator().manual_seed(0))
    for points in (1, 5, 6, 100):
        parts = Density(whole.function, centers, chunk_points=points)
        assert torch.equal(parts.log_density(z), whole.log_density(z))
        for one, other in zip(parts.evaluate(z), whole.evaluate(z), strict=True):
            assert torch.equal(one, other)
        some = torch.tensor([6, 0, 0])
        assert torch.equal(parts.select(some).gradient(z[:, some]), whole.gradient(z)[:, some])


def test_no_more_points_at_once_than_asked_for() -> None:
    seen: list[int] = []

    def function(z: torch.Tensor) -> torch.Tensor:
        seen.append(z.shape[0] * z.shape[1])
        return -z.square().sum(-1)

    Density(function, chunk_points=6).evaluate(torch.zeros(3, 7, 2))
    assert seen == [6, 6, 6, 3]
