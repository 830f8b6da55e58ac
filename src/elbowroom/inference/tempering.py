r"""Between a distribution that is known and a posterior that is not: the bridge that annealing walks over.

.. math:: \log f_\beta(z) = (1 - \beta) \log q_0(z) + \beta \log p(x, z), \qquad 0 \le \beta \le 1

At β = 0 this is the start q₀, normalised and easy to draw from; at β = 1 it is the posterior, up to the constant
log p(x) that is looked for. Where q₀ is the prior, β multiplies the likelihood alone.

The two ends are evaluated apart and remembered apart (:class:`Ends`). At a new temperature the log density and its
gradient are then two sums of what is known, with no evaluation of the model; and a state is made from the ends anew at
every temperature, so that none can carry the density or the gradient of the temperature before.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from elbowroom.errors import ElbowroomError
from elbowroom.inference.weights import check_name
from elbowroom.samplers.kernel import State
from elbowroom.samplers.metric import Metric
from elbowroom.samplers.target import Density, Target

__all__ = [
    "SCHEDULES",
    "Ends",
    "Schedule",
    "StartDensity",
    "TemperedTarget",
    "inverse_temperatures",
    "metric_of",
    "rows_of",
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


def inverse_temperatures(temperatures: int | Tensor, schedule: Schedule, num_data: int) -> Tensor:
    """A schedule for each datum.

    Args:
        temperatures: T, or the inverse temperatures themselves, of shape (T + 1,) or (T + 1, data).
        schedule: for a T that is a number, as in :func:`temperature_schedule`.
        num_data: number of data.
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
            f"The inverse temperatures, of shape {tuple(temperatures.shape)}, do not rise from 0 to 1, for all data or "
            f"for each of the {num_data}.",
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
    r"""log f_β for a kernel; β is fixed, and :meth:`at` gives the same bridge at another β.

    Args:
        start: log q₀ as a target.
        joint: log p(x, z) as a target; what costs.
        beta: inverse temperatures, shape (data,).
    Example:
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


class StartDensity(Density):
    """log q₀ as a target: one distribution for each datum, or one for all.

    Args:
        q: event shape (latent,), batch shape (data,) or ().
    """

    def __init__(self, q: Distribution) -> None:
        super().__init__(q.log_prob)
        self.q = q

    def select(self, index: Tensor) -> StartDensity:
        return StartDensity(rows_of(self.q, index))


def rows_of(q: Distribution, index: Tensor | slice) -> Distribution:
    """The distributions of some of the data; one that all data share is returned as it is.

    Args:
        q: batch shape (data, …) or ().
        index: positions of the data.
    Raises:
        ElbowroomError: a type whose parameters are not known here.
    Example:
        >>> q = Independent(Normal(torch.arange(6.0).view(3, 2), 1.0), 1)
        >>> rows_of(q, torch.tensor([2])).mean
        tensor([[4., 5.]])
    """
    if not q.batch_shape:
        return q
    match q:
        case Normal():
            return Normal(q.loc[index], q.scale[index], validate_args=False)
        case Independent():
            return Independent(rows_of(q.base_dist, index), q.reinterpreted_batch_ndims, validate_args=False)
        case MultivariateNormal():
            return MultivariateNormal(q.loc[index], scale_tril=q.scale_tril[index], validate_args=False)
        case Categorical():
            return Categorical(logits=q.logits[index], validate_args=False)
        case MixtureSameFamily():
            weights = rows_of(q.mixture_distribution, index)
            assert isinstance(weights, Categorical)  # that of a mixture always is
            parts = q.component_distribution
            # components that all data share have no axis of data: their batch shape is (K,)
            parts = parts if len(parts.batch_shape) == 1 else rows_of(parts, index)
            return MixtureSameFamily(weights, parts, validate_args=False)
    raise ElbowroomError(
        f"The start is a {type(q).__name__}, of which a part of the data cannot be taken.",
        "Start from normal distributions or a mixture of them, or give the guide itself in the place of its output.",
    )


def metric_of(q: Distribution, z: Tensor) -> Metric:
    """The metric in which q is round: its covariance where q is made of full normals, else its standard deviations.

    Args:
        q: as for :class:`StartDensity`.
        z: positions, shape (replicas, data, dim), for the shape and the type.
    Raises:
        ElbowroomError: a distribution without finite standard deviations.
    """
    center = q.mean.expand_as(z[0]).to(z)
    covariance = _covariance(q)
    if covariance is None:
        return Metric.diagonal(q.stddev.expand_as(center).to(z).contiguous(), center)
    return Metric.dense(covariance.expand(*center.shape, z.shape[-1]), center)


def _covariance(q: Distribution) -> Tensor | None:
    """Of a full normal or a mixture of such; None for any other."""
    match q:
        case MultivariateNormal():
            return q.covariance_matrix
        case MixtureSameFamily(component_distribution=MultivariateNormal() as parts):
            weights = q.mixture_distribution.probs.unsqueeze(-1).unsqueeze(-1)  # (*, K, 1, 1)
            away = (parts.mean - q.mean.unsqueeze(-2)).unsqueeze(-1)
            return (weights * (parts.covariance_matrix + away @ away.mT)).sum(-3)
    return None
