"""Drawing: every state is kept, with what happened on the way to it, and the tuning is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.samplers.hmc import HMC, RandomWalk
from elbowroom.samplers.kernel import Kernel, Tuning, init
from elbowroom.samplers.metric import Metric
from elbowroom.samplers.nuts import NUTS
from elbowroom.samplers.sampling import sample
from elbowroom.samplers.target import Density

KERNELS: list[Kernel] = [HMC(3), RandomWalk(), NUTS()]


def half_line(z: Tensor) -> Tensor:
    """Exponential: −z where z > 0, and NaN elsewhere."""
    return torch.where(z > 0, -z, torch.nan).sum(-1)


def standard(z: Tensor) -> Tensor:
    return -0.5 * z.square().sum(-1)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_draws_are_the_kernels_states_in_order(kernel: Kernel) -> None:
    target, z = Density(standard), torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    tuning = Tuning(torch.full((3,), 1.2), Metric.identity(z))
    told: list[tuple[Any, ...]] = []
    found = sample(
        kernel,
        target,
        init(target, z),
        tuning,
        draws=5,
        generator=torch.Generator().manual_seed(1),
        announce=lambda *report: told.append(report),
    )
    state, generator = init(target, z), torch.Generator().manual_seed(1)
    for index in range(5):
        state, info = kernel.step(target, state, tuning, generator=generator)
        assert torch.equal(found.z[index], state.z)
        for kept, value in zip(found.info, info, strict=True):
            assert kept.shape == (5, 2, 3)
            assert torch.equal(kept[index], value)
    assert torch.equal(found.state.z, state.z)
    assert torch.equal(found.state.log_density, state.log_density)
    assert [report[:3] for report in told] == [("draws", done, 5) for done in range(1, 6)]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_drawing_goes_on_where_it_ended(kernel: Kernel) -> None:
    target, z = Density(standard), torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    tuning, generator = Tuning(torch.full((3,), 0.6), Metric.identity(z)), torch.Generator().manual_seed(1)
    first = sample(kernel, target, init(target, z), tuning, draws=3, generator=generator)
    second = sample(kernel, target, first.state, tuning, draws=2, generator=generator)
    whole = sample(kernel, target, init(target, z), tuning, draws=5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.cat([first.z, second.z]), whole.z)


def test_the_global_generator_is_left_alone(generator: torch.Generator) -> None:
    target, z = Density(standard), torch.zeros(2, 3, 4)
    before = torch.get_rng_state()
    for kernel in KERNELS:
        sample(kernel, target, init(target, z), Tuning(torch.ones(3), Metric.identity(z)), draws=3, generator=generator)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_divergences_are_kept_beside_the_draws(kernel: Kernel, generator: torch.Generator) -> None:
    target, z = Density(half_line), torch.full((2, 50, 1), 0.5)
    tuning = Tuning(torch.full((50,), 1.0), Metric.identity(z))
    found = sample(kernel, target, init(target, z), tuning, draws=20, generator=generator)
    assert int(found.info.divergent.sum()) > 50
    assert float(found.z.min()) > 0
    assert bool(torch.isfinite(found.info.acceptance).all())


@pytest.mark.parametrize("draws", [0, -3])
def test_no_draws(draws: int) -> None:
    target, z = Density(standard), torch.zeros(2, 3, 4)
    with pytest.raises(ElbowroomError, match=f"{draws} draws were asked for"):
        sample(HMC(), target, init(target, z), Tuning(torch.ones(3), Metric.identity(z)), draws=draws)


@pytest.mark.parametrize(("steps", "metric"), [(2, 2), (4, 3), (3, 4), (1, 3), (3, 1)])
def test_a_tuning_for_other_data(steps: int, metric: int) -> None:
    target, z = Density(standard), torch.zeros(2, 3, 4)
    tuning = Tuning(torch.ones(steps), Metric.identity(torch.zeros(1, metric, 4)))
    with pytest.raises(ElbowroomError, match="but the chains are of 3") as error:
        sample(HMC(), target, init(target, z), tuning, draws=2)
    assert "select()" in error.value.remedy
