r"""Laplace's approximation: the posterior as a normal distribution around a mode.

.. math:: p(z | x) \approx N(\hat z, H^{-1}), \qquad \hat z = \arg\max_z \log p(x, z)

The mode is found by damped Newton steps from a starting point, the guide's mean say, with the Gauss–Newton precision
H (:mod:`elbowroom.inference.gaussian.curvature`) in place of minus the Hessian:

.. math:: z \leftarrow z + \alpha H^{-1} g, \qquad g = \nabla_z \log p(x, z)

Since H is positive definite, each step raises log p(x, z) if it is short enough: α = 1 is tried first and then halved,
for each example by itself. Near the mode a full step raises log p by about the Newton decrement, ½ gᵀH⁻¹g, which is in
nats and does not depend on the units of z. Once it is small there is nothing left to gain.

Reference:
    Nocedal & Wright (2006), Numerical Optimization, sections 3.1 and 10.3.
    Boyd & Vandenberghe (2004), Convex Optimization, section 9.5.1, on the Newton decrement.
    MacKay (2003), Information Theory, Inference, and Learning Algorithms, chapter 27.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from elbowroom.data.batch import Batch, as_batch
from elbowroom.errors import ElbowroomError, NotFiniteError
from elbowroom.inference.gaussian.curvature import gauss_newton, regularized_cholesky
from elbowroom.model.latent import LatentModel
from elbowroom.numerics import RowSlots, chunks

__all__ = ["Laplace", "laplace"]

_TRIALS = [[0.5**halvings for halvings in range(*ends)] for ends in ((0, 1), (1, 3), (3, 7), (7, 13), (13, 20))]
"""Shares of a step, by halves; where a millionth of it still raises nothing, rounding decides. The whole step is tried
alone, the others several at once: where a kink of the decoder stops a step, no share of it helps."""
_ROWS = 1024  # of all searches that go side by side; more of them would be no faster, but take memory
_SUFFICIENT_INCREASE = 0.25  # share of the predicted increase that a step must reach, or be halved (Armijo's rule)


class Laplace(NamedTuple):
    """A normal approximation of each posterior; of several searches with an axis for these in front of every shape.

    Attributes:
        mode: where the search ended, shape (batch, latent).
        precision: Gauss–Newton H there, shape (batch, latent, latent); it has a Cholesky factor.
        log_joint: log p(x, z) there, nats, shape (batch,); never below that of the start.
        converged: whether a further step would gain less than the tolerance, bool, shape (batch,).
        iterations: Newton steps taken, int64, shape (batch,).
    """

    mode: Tensor
    precision: Tensor
    log_joint: Tensor
    converged: Tensor
    iterations: Tensor


@torch.no_grad()
def laplace(
    model: LatentModel,
    start: Tensor,
    batch: Batch | Tensor,
    *,
    steps: int = 20,
    tolerance: float = 1e-3,
    slots: RowSlots | None = None,
    chunk_elements: int = 2**24,
) -> Laplace:
    r"""Find a mode of each posterior by Newton steps from ``start``, and the curvature there.

    An example is finished when :math:`\tfrac12 g^\top H^{-1} g` is at most the tolerance, or at most what the type of
    log p(x, z) resolves; or when no step along the Newton direction raises it, in which case ``converged`` is False.
    Only unfinished examples are computed. Of a posterior with several modes, one near the start is found.

    Args:
        model: p(x, z), in evaluation mode if its networks have batch normalisation or dropout.
        start: z, shape (batch, latent); or (searches, batch, latent), for several searches of each example, which
            are computed side by side unless ``slots`` are given.
        batch: data, ``x`` of shape (batch, \*event).
        steps: Newton steps at most; 0 gives the precision at the start itself.
        tolerance: nats that may be left to gain.
        slots: where given, no number of an example depends on the others, to the bit: unfinished examples are evaluated
            in these slots, by their positions in the batch.
        chunk_elements: of the curvature, as in :func:`~elbowroom.inference.gaussian.curvature.gauss_newton`.
    Returns:
        Mode, precision, log p(x, mode), and how the search went.
    Raises:
        NotFiniteError: log p(x, z), its gradient or its curvature is not finite at the start.
        ElbowroomError: shapes that do not fit; negative ``steps`` or ``tolerance``.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, _, x = oracles.ppca(dim=8, latent_dim=2, seed=0)
        >>> found = laplace(model, torch.zeros(64, 2).double(), x)
        >>> torch.allclose(found.mode, model.posterior(x).mean), int(found.iterations.max())
        (True, 1)
    """
    batch = as_batch(batch)
    if steps < 0 or not tolerance >= 0:
        raise ElbowroomError(
            f"steps is {steps} and tolerance {tolerance}, but neither can be negative.",
            "Give steps=0 for the curvature at the start itself.",
        )
    if start.dim() != 3:
        return _find(_ModeSearch(model, start.detach(), batch, slots, chunk_elements), steps, tolerance)
    at_once = 1 if slots is not None else max(1, _ROWS // max(1, len(batch)))
    rows, found = torch.arange(len(batch), device=start.device), []
    for some in chunks(len(start), at_once):
        z = start[some].detach()
        repeated = batch.rows(rows.repeat(len(z)))
        search = _ModeSearch(model, z.flatten(0, 1), repeated, slots, chunk_elements, examples=len(batch))
        found.append(
            Laplace(*(part.reshape(*z.shape[:2], *part.shape[1:]) for part in _find(search, steps, tolerance)))
        )
    return Laplace(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _find(search: _ModeSearch, steps: int, tolerance: float) -> Laplace:
    active = torch.arange(len(search.z), device=search.z.device)
    for taken in range(steps + 1):
        direction, slope = search.newton_direction(active)
        arrived = slope / 2 <= search.resolution(active).clamp(min=tolerance)  # the decrement is half the slope
        search.converged[active] = arrived
        active, direction, slope = active[~arrived], direction[~arrived], slope[~arrived]
        if taken == steps or not len(active):
            break
        active = search.step(active, direction, slope)
    return Laplace(search.z, search.precision, search.log_joint, search.converged, search.iterations)


class _ModeSearch:
    """The state of the search for each example: z, log p(x, z), its gradient, H and the factor of H."""

    def __init__(
        self,
        model: LatentModel,
        z: Tensor,
        batch: Batch,
        slots: RowSlots | None,
        chunk_elements: int,
        *,
        examples: int | None = None,  # of the batch, where it holds them several times
    ) -> None:
        self.model, self.batch, self.slots, self.chunk_elements = model, batch, slots, chunk_elements
        self.precision = self._curvature(z)
        self.z = z.clone()
        self.log_joint, self.gradient = self._value_and_gradient(z)
        finite = self.log_joint.isfinite() & self.gradient.isfinite().all(-1) & _finite(self.precision)
        if not bool(finite.all()):
            examples = len(z) if examples is None else examples
            places = sorted({place % examples for place in (~finite).nonzero().squeeze(1).tolist()})
            raise NotFiniteError(
                f"log p(x, z), its gradient or its curvature is not finite at the start for {len(places)} of "
                f"{examples} examples (the first is example {places[0]}).",
                "Check the data and the weights for NaN and infinity, or start where the prior has mass.",
                places,
            )
        self.precision, self.factor = regularized_cholesky(self.precision)
        self.converged = torch.zeros(len(z), dtype=torch.bool, device=z.device)
        self.iterations = torch.zeros(len(z), dtype=torch.int64, device=z.device)

    def resolution(self, active: Tensor) -> Tensor:
        """Nats below which a difference is rounding: log p is a sum of terms of about a nat, or of few large ones."""
        terms = self.batch.x.shape[1:].numel() + self.z.shape[1]
        return 8 * torch.finfo(self.log_joint.dtype).eps * self.log_joint[active].abs().clamp(min=terms)

    def newton_direction(self, active: Tensor) -> tuple[Tensor, Tensor]:
        """H⁻¹ g, shape (n, latent), and the slope along it, gᵀ H⁻¹ g, shape (n,)."""
        gradient = self.gradient[active]
        direction = torch.cholesky_solve(gradient.unsqueeze(-1), self.factor[active]).squeeze(-1)
        return direction, (gradient * direction).sum(-1)

    def step(self, active: Tensor, direction: Tensor, slope: Tensor) -> Tensor:
        """Move the examples whose log p(x, z) a step can raise, and return their positions."""
        moved, z, log_joint = self._search(active, direction, slope)
        if not len(moved):
            return moved
        gradient, precision = self._value_and_gradient(z, moved)[1], self._curvature(z, moved)
        # a step to where log p is finite, but its slope or curvature is not, leads nowhere
        sound = gradient.isfinite().all(-1) & _finite(precision)
        moved = moved[sound]
        self.z[moved], self.log_joint[moved], self.gradient[moved] = z[sound], log_joint[sound], gradient[sound]
        self.precision[moved], self.factor[moved] = regularized_cholesky(precision[sound])
        self.iterations[moved] += 1
        return moved

    def _search(self, active: Tensor, direction: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The examples that a step improves, their new z and log p; α is halved for the others."""
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for trials in _TRIALS:
            alpha = direction.new_tensor(trials).unsqueeze(1)
            z = self.z[active] + alpha.unsqueeze(2) * direction  # (trials, n, latent)
            log_joint = self._value(z, active)
            gain = log_joint - self.log_joint[active]
            enough = _SUFFICIENT_INCREASE * alpha * slope - self.resolution(active)
            better = log_joint.isfinite() & (gain >= enough.clamp(min=0))
            improved, largest = better.any(0), better.byte().argmax(0)  # of equal ones argmax gives the first
            best = largest[improved], improved.nonzero().squeeze(1)
            found.append((active[improved], z[best], log_joint[best]))
            active, direction, slope = active[~improved], direction[~improved], slope[~improved]
            if not len(active):
                break
        moved, z, log_joint = (torch.cat(parts) for parts in zip(*found, strict=True))
        return moved, z, log_joint

    def _value(self, z: Tensor, rows: Tensor) -> Tensor:
        """log p(x, z) of these examples, shape (trials, n), at z of shape (trials, n, latent)."""
        z, batch, places = self._placed(z, rows)
        log_joint = self.model.log_joint(batch.x, z, context=batch.context, mask=batch.mask)
        return log_joint if places is None else log_joint[:, places]

    def _value_and_gradient(self, z: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, batch, places = self._placed(z, rows)
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            log_joint = self.model.log_joint(batch.x, leaf, context=batch.context, mask=batch.mask)
            # examples are independent, so the gradient of the sum is that of each
            (gradient,) = torch.autograd.grad(log_joint.sum(), leaf)
        log_joint = log_joint.detach()
        return (log_joint, gradient) if places is None else (log_joint[places], gradient[places])

    def _curvature(self, z: Tensor, rows: Tensor | None = None) -> Tensor:
        z, batch, places = self._placed(z, rows)
        precision = gauss_newton(self.model, batch, z, chunk_elements=self.chunk_elements)
        return precision if places is None else precision[places]

    def _placed(self, z: Tensor, rows: Tensor | None) -> tuple[Tensor, Batch, Tensor | None]:
        """z and examples as they are evaluated, all unless given, and where to find the result of each."""
        if rows is None:  # the caller has put them into slots
            return z, self.batch, None
        if self.slots is None or not len(rows):
            return z, self.batch.rows(rows), None
        places, filled = self.slots.fill(rows)
        return z[..., filled, :], self.batch.rows(rows[filled]), places


def _finite(matrices: Tensor) -> Tensor:
    return matrices.isfinite().flatten(1).all(1)
