r"""Tempered densities: the geometric bridge between an initial distribution and the posterior.

.. math:: \log f_\beta(z) = (1 - \beta) \log q_0(z) + \beta \log p(x, z), \qquad 0 \le \beta \le 1

At β = 0 this is the start q₀, normalised and easy to draw from; at β = 1 it is the posterior, up to the constant
log p(x) that annealing estimates. Where q₀ is the prior, β multiplies the likelihood alone.

The two ends are evaluated and cached separately (:class:`Ends`). At a new temperature, the log density and its gradient
are weighted sums of cached values, with no evaluation of the model. At every temperature a new state is made from the
ends, so that no state keeps the density or the gradient of the temperature before.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError, check_name
from elbowroom.samplers.kernel import State
from elbowroom.samplers.target import Target

__all__ = [
    "SCHEDULES",
    "Ends",
    "Schedule",
    "TemperedTarget",
    "adapted_schedule",
    "inverse_temperatures",
    "temperature_schedule",
]

Schedule = Literal["linear", "sigmoid"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)

_STEEPNESS = 4.0  # δ of Wu et al. (2017)


def temperature_schedule(temperatures: int, schedule: Schedule = "sigmoid") -> Tensor:
    r"""Inverse temperatures 0 = β₀ < β₁ < … < β_T = 1.

    .. math:: \beta_t = \frac{t}{T} \quad \text{(linear)}, \qquad
        \beta_t = \frac{b_t - b_0}{b_T - b_0}, \; b_t = \sigma\big(4 (2t/T - 1)\big) \quad \text{(sigmoid)}

    The sigmoid takes shorter steps at both ends, where a step changes most.

    Args:
        temperatures: T, factors that a weight is made of.
        schedule: a name in ``SCHEDULES``.
    Returns:
        Float64, shape (T + 1,).
    Raises:
        ElbowroomError: T below 1; an unknown name.
    Reference:
        Wu, Burda, Salakhutdinov & Grosse (2017), On the quantitative analysis of decoder-based generative models,
        arXiv:1611.04273.
    Example:
        >>> temperature_schedule(4, "linear")
        tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000], dtype=torch.float64)
    """
    check_name("schedule", schedule, SCHEDULES)
    if temperatures < 1:
        raise ElbowroomError(
            f"The number of temperatures is {temperatures}, but the way from the start to the posterior takes 1 step "
            "at least.",
            "Give temperatures=1 or more; 1 is importance sampling.",
        )
    even = torch.linspace(0, 1, temperatures + 1, dtype=torch.float64)
    if schedule == "linear":
        return even
    curve = torch.sigmoid(_STEEPNESS * (2 * even - 1))
    curve = (curve - curve[0]) / (curve[-1] - curve[0])
    curve[-1] = 1.0  # the division may round
    return curve


def adapted_schedule(at: Tensor, spread: Tensor, temperatures: int) -> Tensor:
    r"""Inverse temperatures such that the integral of the spread over β is the same between any two neighbours.

    Args:
        at: β at which the spread is known, rising, between 0 and 1, shape (m,).
        spread: standard deviation of log p(x, z) − log q₀(z) under f_β, shape (m,); linear in between, constant beyond.
        temperatures: T.
    Returns:
        Float64, shape (T + 1,); where the spread is 0 or unknown, as much as a hundredth of the whole is left to it.
    Example:
        >>> adapted_schedule(torch.tensor([0.2, 0.5]), torch.tensor([1.0, 1.0]), 4)
        tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000], dtype=torch.float64)
    """
    grid = torch.linspace(0, 1, 4001, dtype=torch.float64)
    at, spread = at.double().cpu(), spread.double().cpu().nan_to_num(0.0, posinf=0.0)
    density = torch.as_tensor(np.interp(grid.numpy(), at.numpy(), spread.numpy()))
    density = density + (0.01 * density.mean() if float(density.mean()) > 0 else 1.0)
    area = torch.cat([density.new_zeros(1), ((density[1:] + density[:-1]) / 2).cumsum(0)])
    wanted = torch.linspace(0, 1, temperatures + 1, dtype=torch.float64)
    chosen = torch.as_tensor(np.interp(wanted.numpy(), (area / area[-1]).numpy(), grid.numpy()))
    chosen[0], chosen[-1] = 0.0, 1.0
    return chosen


def inverse_temperatures(temperatures: int | Tensor, schedule: Schedule, num_data: int) -> Tensor:
    """Inverse temperatures for each example.

    Args:
        temperatures: T, or the inverse temperatures themselves, of shape (T + 1,) or (T + 1, data).
        schedule: for a T that is a number, as in :func:`temperature_schedule`.
        num_data: number of examples.
    Returns:
        Float64, shape (T + 1, data).
    Raises:
        ElbowroomError: inverse temperatures that do not rise from 0 to 1, or of another shape.
    """
    if not isinstance(temperatures, Tensor):
        return temperature_schedule(temperatures, schedule).unsqueeze(1).expand(-1, num_data)
    betas = temperatures.detach().double()
    betas = betas.unsqueeze(1).expand(-1, num_data) if betas.dim() == 1 else betas
    fits = betas.dim() == 2 and betas.shape[1] == num_data and len(betas) > 1
    if not fits or not bool(((betas[0] == 0) & (betas[-1] == 1) & (betas.diff(dim=0) > 0).all(0)).all()):
        raise ElbowroomError(
            f"The inverse temperatures, of shape {tuple(temperatures.shape)}, do not rise from 0 to 1, for all "
            f"examples or for each of the {num_data}.",
            "Give a tensor of shape (T + 1,) or (T + 1, batch) that starts with 0, ends with 1 and increases.",
        )
    return betas


class Ends(NamedTuple):
    """Positions, with both ends of the bridge evaluated there.

    Attributes:
        z: shape (replicas, data, dim).
        log_start: log q₀(z), nats, shape (replicas, data).
        log_joint: log p(x, z), nats, shape (replicas, data).
        start_gradient: of log q₀ at z, the shape of z.
        joint_gradient: of log p(x, z) at z, the shape of z.
    """

    z: Tensor
    log_start: Tensor
    log_joint: Tensor
    start_gradient: Tensor
    joint_gradient: Tensor

    def state(self, beta: Tensor) -> State:
        """A kernel's state at the inverse temperature β, shape (data,), in (0, 1]; no density is evaluated."""
        by_row = beta.unsqueeze(-1)
        return State(
            self.z,
            (1 - beta) * self.log_start + beta * self.log_joint,
            (1 - by_row) * self.start_gradient + by_row * self.joint_gradient,
        )

    def where(self, mask: Tensor, other: Ends) -> Ends:
        """These where the mask, shape (replicas, data), is True, and the others elsewhere."""
        by_row = mask.unsqueeze(-1)
        return Ends(*(torch.where(mask if a.dim() == 2 else by_row, a, b) for a, b in zip(self, other, strict=True)))


class TemperedTarget(Target):
    r"""log f_β at a fixed β, as a sampler's target; :meth:`at` gives the same bridge at another β.

    Args:
        start: log q₀ as a target.
        joint: log p(x, z) as a target, the expensive one.
        beta: inverse temperatures, shape (data,).
    Example:
        >>> from elbowroom.samplers.target import Density
        >>> start, joint = (Density(lambda z, s=s: -0.5 * (z / s).square().sum(-1)) for s in (1.0, 0.5))
        >>> TemperedTarget(start, joint, torch.tensor([0.5])).gradient(torch.ones(1, 1, 2))
        tensor([[[-2.5000, -2.5000]]])
    """

    def __init__(self, start: Target, joint: Target, beta: Tensor) -> None:
        self.start, self.joint, self.beta = start, joint, beta
        self._last: Ends | None = None

    def at(self, beta: Tensor) -> TemperedTarget:
        """The same bridge at β, shape (data,)."""
        return TemperedTarget(self.start, self.joint, beta)

    def ends(self, z: Tensor) -> Ends:
        """Both ends at z, shape (replicas, data, dim); one evaluation of the joint density with its gradient."""
        (log_start, start_gradient), (log_joint, joint_gradient) = self.start.evaluate(z), self.joint.evaluate(z)
        return Ends(z, log_start, log_joint, start_gradient, joint_gradient)

    def values(self, z: Tensor) -> Ends:
        """Both log densities at z, without their gradients, for chains that do not move."""
        nowhere = torch.zeros_like(z)
        return Ends(z, self.start.log_density(z), self.joint.log_density(z), nowhere, nowhere)

    def log_density(self, z: Tensor) -> Tensor:
        return (1 - self.beta) * self.start.log_density(z) + self.beta * self.joint.log_density(z)

    def gradient(self, z: Tensor) -> Tensor:
        beta = self.beta.unsqueeze(-1)
        return (1 - beta) * self.start.gradient(z) + beta * self.joint.gradient(z)

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        self._last = self.ends(z)
        _, log_density, gradient = self._last.state(self.beta)
        return log_density, gradient

    def ends_after(self, state: State, before: Ends) -> Ends:
        """Both ends at the state that a transition led to.

        A chain of HMC either stays or ends at the point that was evaluated last, so that both are known and nothing is
        evaluated. A kernel that returns any other point costs one evaluation more.

        Args:
            state: after the transition.
            before: where the chains were.
        """
        known = before
        if self._last is not None:
            moved = (state.z == self._last.z).all(-1)
            known = self._last.where(moved, before)
        found = (state.z == known.z).all(-1)
        return known if bool(found.all()) else known.where(found, self.ends(state.z))

    def select(self, index: Tensor) -> TemperedTarget:
        return TemperedTarget(self.start.select(index), self.joint.select(index), self.beta[index])
