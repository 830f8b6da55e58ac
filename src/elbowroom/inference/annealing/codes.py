r"""Annealing over codes: what is different where z is a flat one-hot vector of L slots with K codes.

The path, the weights and both bounds are those of :mod:`elbowroom.inference.annealing.chains`,

.. math:: \log f_\beta(z) = (1 - \beta) \log q_0(z) + \beta \log p(x, z), \qquad
    q_0(z) = \prod_{l=1}^L \pi_l(z_l)

because a transition there may be any that leaves :math:`f_\beta` invariant and is reversible. Over codes it is the
informed move of :mod:`elbowroom.samplers.informed`, which draws many slots anew from a reference that the gradient of
the density tilts. The reference is the start, blended with the uniform distribution,

.. math:: m_l(k) = (1 - δ) \, \pi_l(k) + δ / K

since a guide that is too sure of a slot would hardly propose what the posterior needs there. For β near 0 such a
proposal is nearly a draw of q₀ itself and is accepted as such; on the way to the posterior, a pilot run finds how many
slots can be drawn at once.

Chains start from the guide, softened to :math:`\pi_l(k) \propto q_l(k | x)^\tau`, since a start that is too wide costs
less than one that misses a part of the posterior: there, forward chains arrive late, and reverse chains from there have
heavy tails. Importance sampling, which is annealing with one temperature, takes the guide as it is.

Chains from the prior give a lower bound too, but no upper one: the weights of the reverse chains that should come back
to it were found to have tails too heavy for a bound.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution

from elbowroom.errors import ElbowroomError
from elbowroom.model.code_distributions import AutoregressiveCodes, Codes, CodeSpace
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import PriorGuide
from elbowroom.model.latent import LatentModel
from elbowroom.model.top_down_codes import TopDownCodes
from elbowroom.samplers.informed import InformedMoves, SingleSiteMoves
from elbowroom.samplers.kernel import Kernel
from elbowroom.samplers.target import Target

__all__ = ["CODE_ACCEPTANCE", "CodesDensity", "code_kernel", "refuse_prior_start", "softened"]

CODE_ACCEPTANCE = 0.4
"""What pilot runs aim at, as a harmonic mean over chains: proposals that change no slot count as accepted."""

_SOFTENING = 0.65  # τ
_UNIFORM_SHARE = 0.1  # δ
_JITTER = math.log(4)  # ε varies by a factor of 4 to either side: chains take few and many slots in turn


class CodesDensity(Target):
    r"""log q₀ of independent slots as a target, with the gradient written out: both are linear in the logits.

    .. math:: \log q_0(z) = \sum_{l,k} z_{lk} \log \pi_{lk}, \qquad \nabla \log q_0(z) = \log \pi

    Args:
        q: batch shape (data,) or ().
    Example:
        >>> q = Codes(torch.zeros(3, 2, 4))  # of 3 examples, 2 slots with 4 codes
        >>> CodesDensity(q).log_density(q.sample((5,))).exp().unique()
        tensor([0.0625])
    """

    def __init__(self, q: Codes) -> None:
        self.q = q

    def log_density(self, z: Tensor) -> Tensor:
        return self.q.log_prob(z)

    def gradient(self, z: Tensor) -> Tensor:
        return self.q.logits.clamp(min=torch.finfo(z.dtype).min).flatten(-2).expand_as(z)

    def select(self, index: Tensor) -> CodesDensity:
        return self if not self.q.batch_shape else CodesDensity(Codes(self.q.logits[index]))


def softened(q: Distribution) -> Distribution:
    r"""The start that a guide over codes gives, :math:`\prod_l q_l^\tau / Z_l`; any other distribution as it is."""
    return q.tempered(1 / _SOFTENING) if isinstance(q, Codes | TopDownCodes) else q


def code_kernel(model: LatentModel, q: Distribution, kernel: Kernel | None = None) -> Kernel:
    """The transition for a model with codes: the one given, or informed moves about the start's own slots.

    Args:
        model: p(x, z), over codes.
        q: q₀, batch shape (batch,) or ().
        kernel: None for the default.
    Raises:
        ElbowroomError: a kernel that moves real vectors; a start over anything but the model's codes.
    """
    if not isinstance(q, Codes | TopDownCodes | AutoregressiveCodes) or q.space != model.space:
        found = str(getattr(q, "space", f"a {type(q).__name__}"))
        raise ElbowroomError(
            f"The start of annealing is over {found}, but the latents of this model are codes ({model.space}).",
            "Start from a guide over codes, or leave the start to the default.",
        )
    if kernel is None:
        return InformedMoves(_reference(q, model.space), jitter=_JITTER)
    if not isinstance(kernel, InformedMoves | SingleSiteMoves):
        model.require_real(f"The kernel {kernel.name}", "Leave the kernel out: informed moves are for codes.")
    return kernel


def _reference(q: Codes | TopDownCodes | AutoregressiveCodes, space: CodeSpace) -> Tensor:
    """log m, shape (data or 1, L, K): of levels, given the most likely codes above; uniform where every slot of the
    start depends on those before it.
    """
    if isinstance(q, AutoregressiveCodes):
        return torch.full((1, *space), -math.log(space.codes))
    probabilities = (1 - _UNIFORM_SHARE) * q.probs + _UNIFORM_SHARE / space.codes
    return probabilities.log().reshape(-1, *space)


def refuse_prior_start(model: LatentModel, guide: Conditional | None, start: Conditional | Distribution | str) -> None:
    """Refuses the prior of a model with codes as the start of an upper bound.

    Args:
        model: p(x, z), over codes.
        guide: q(z | x), for the start "guide".
        start: as for :func:`~elbowroom.inference.annealing.ais.ais`.
    Raises:
        ElbowroomError: the start is the prior, by its name, itself, or in a guide's place.
    """
    from_where = guide if start == "guide" else start
    if from_where == "prior" or from_where is model.prior or isinstance(from_where, PriorGuide):
        raise ElbowroomError(
            "An upper bound on log p(x) was to be annealed from the prior of a model with codes, but the weights of "
            "its reverse chains have tails too heavy for a bound.",
            "Start from the guide. A lower bound alone can start from the prior: --methods ais --start prior with a "
            "given --temperatures.",
        )
