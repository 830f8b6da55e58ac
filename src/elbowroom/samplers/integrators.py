r"""Integrators: one step of Hamiltonian dynamics in whitened coordinates, H(w, r) = −log p(m + C w) + |r|²/2.

A step is kick, drift, kick. Both integrators are reversible, preserve volume and err by O(ε²) in energy; they differ
in what the drift solves exactly.

=============== ================================================= ==========================================
integrator      drift by ε                                        force of the kick, r ← r + (ε/2) force
=============== ================================================= ==========================================
``leapfrog``    w ← w + ε r (free motion)                         :math:`C^\top \nabla \log p(z)`
``rotation``    (w, r) turned by the angle ε (motion in a         :math:`C^\top \nabla \log p(z) + w`
                standard normal potential)
=============== ================================================= ==========================================

Where the target is nearly normal and the metric nearly its covariance around its centre, as it is after a Laplace
approximation, the ``rotation``'s force is nearly zero, and steps may be long: their error comes from what is *not*
normal about the target, and not from how many dimensions it has. After a quarter of a period, ε L = π/2, the position
is independent of where it started, if the target is normal.

Reference:
    Duane et al. (1987), Hybrid Monte Carlo. Leimkuhler & Reich (2004), Simulating Hamiltonian Dynamics, ch. 4.
    Shahbaba, Lan, Johnson & Neal (2014), Split Hamiltonian Monte Carlo, section 3.1, arXiv:1106.5941.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from elbowroom.samplers.metric import Metric
from elbowroom.samplers.target import Target

__all__ = ["INTEGRATORS", "LONGEST_STEP", "Integrator", "Point", "advance", "force", "trajectory"]

Integrator = Literal["leapfrog", "rotation"]
INTEGRATORS: tuple[Integrator, ...] = ("leapfrog", "rotation")
#: the longest useful step of a rotation, a quarter of a turn
LONGEST_STEP: dict[Integrator, float] = {"leapfrog": math.inf, "rotation": math.pi / 2}


class Point(NamedTuple):
    """A point of phase space; every tensor has shape (replicas, data, dim).

    Attributes:
        w: whitened position.
        r: whitened momentum.
        force: what a kick adds to r, per unit of time.
    """

    w: Tensor
    r: Tensor
    force: Tensor


def force(integrator: Integrator, metric: Metric, gradient: Tensor, w: Tensor) -> Tensor:
    """What a kick adds to the momentum per unit of time, the shape of w; ``gradient`` is with respect to z."""
    pulled = metric.pull(gradient)
    return pulled if integrator == "leapfrog" else pulled + w


def advance(integrator: Integrator, w: Tensor, r: Tensor, step_size: Tensor) -> tuple[Tensor, Tensor]:
    """The drift: w and r after the time ``step_size``, which broadcasts against them."""
    if integrator == "leapfrog":
        return w + step_size * r, r
    cos, sin = torch.cos(step_size), torch.sin(step_size)
    return cos * w + sin * r, cos * r - sin * w


def trajectory(
    integrator: Integrator, target: Target, metric: Metric, point: Point, step_size: Tensor, num_steps: int
) -> tuple[Point, Tensor, Tensor, Tensor]:
    """Several steps; the log density is evaluated at the last point alone.

    Args:
        integrator: a name in ``INTEGRATORS``.
        target: whose gradient moves the point.
        metric: z = m + C w.
        point: the start.
        step_size: ε, broadcasts against w; negative goes backwards in time.
        num_steps: L ≥ 1; as many gradients are evaluated.
    Returns:
        The end, its z, log density (replicas, data) and gradient with respect to z.
    """
    w, r = point.w, point.r + 0.5 * step_size * point.force
    for step in range(num_steps):
        w, r = advance(integrator, w, r, step_size)
        z = metric.to_z(w)
        if step < num_steps - 1:  # two half kicks in one
            r = r + step_size * force(integrator, metric, target.gradient(z), w)
    log_density, gradient = target.evaluate(z)
    last = force(integrator, metric, gradient, w)
    return Point(w, r + 0.5 * step_size * last, last), z, log_density, gradient
