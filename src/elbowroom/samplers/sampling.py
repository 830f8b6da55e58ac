"""Sampling: a kernel applied repeatedly with a frozen tuning, whose draws and statistics are kept."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.progress import Progress
from elbowroom.samplers.kernel import Info, Kernel, State, Tuning
from elbowroom.samplers.target import Target

__all__ = ["Chains", "sample"]


class Chains(NamedTuple):
    """Draws, with the statistics of the transitions that led to them.

    Attributes:
        z: draws, shape (draws, replicas, data, dim).
        info: of the transition that led to each draw; every tensor has shape (draws, replicas, data).
        state: the last state of the chains, from which sampling can continue.
    """

    z: Tensor
    info: Info
    state: State


def sample(
    kernel: Kernel,
    target: Target,
    state: State,
    tuning: Tuning,
    *,
    draws: int,
    generator: torch.Generator | None = None,
    announce: Progress | None = None,
) -> Chains:
    """Keep every state of the chains; nothing is adapted.

    Args:
        kernel: the transition.
        target: what to draw from.
        state: of the chains, made for this target by :func:`elbowroom.samplers.kernel.init` or a warm-up.
        tuning: step sizes and metric, frozen.
        draws: of each replica.
        generator: the source of randomness.
        announce: called after every transition.
    Raises:
        ElbowroomError: no draws asked for; a tuning for another number of examples.
    Example:
        >>> from elbowroom.samplers.hmc import HMC
        >>> from elbowroom.samplers.kernel import init
        >>> from elbowroom.samplers.metric import Metric
        >>> from elbowroom.samplers.target import Density
        >>> normal = Density(lambda z: -0.5 * z.square().sum(-1))
        >>> state = init(normal, torch.zeros(4, 2, 3))
        >>> tuning = Tuning(torch.full((2,), 0.5), Metric.identity(state.z))
        >>> sample(HMC(), normal, state, tuning, draws=10, generator=torch.Generator().manual_seed(0)).z.shape
        torch.Size([10, 4, 2, 3])
    """
    if draws < 1:
        raise ElbowroomError(f"{draws} draws were asked for.", "Give draws=1 or more.")
    num_data = state.z.shape[1]
    if not len(tuning.step_size) == len(tuning.metric.center) == num_data:
        raise ElbowroomError(
            f"The tuning has step sizes for {len(tuning.step_size)} examples and a metric for "
            f"{len(tuning.metric.center)}, but the chains are of {num_data}.",
            "Warm up with the same examples, or select() those of the tuning.",
        )
    positions = state.z.new_empty(draws, *state.z.shape)  # filled in place: a list and its stack would be twice as much
    happened: list[Info] = []
    for index in range(draws):
        state, info = kernel.step(target, state, tuning, generator=generator)
        positions[index] = state.z
        happened.append(info)
        if announce is not None:
            announce("draws", index + 1, draws, info)
    return Chains(positions, Info(*(torch.stack(values) for values in zip(*happened, strict=True))), state)
