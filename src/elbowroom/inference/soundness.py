r"""Guides that are no distributions: a log-variance taken for a scale, found before it costs a night.

A network's output is any real number; a standard deviation is positive. Where one is passed for the other,

.. math:: z = \mu + s \, \epsilon \quad \text{with} \quad s = \log \sigma^2 \text{ in place of } \sigma,

nothing need fail: draws and gradients stay finite, since :math:`\partial_s \log |s| = 1 / s` for either sign, and only
the density, log q(z) with a term −log s, is NaN or, where s happens to be positive everywhere, finite and wrong. A run
with argument checks switched off goes on to the end.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    TransformedDistribution,
)

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import DiagonalNormal, FullNormal, PriorGuide
from elbowroom.model.priors import MixtureOfGaussians, StandardNormal

__all__ = ["check_guide", "guide_distribution"]

#: whose scale is one, or an exponential; a subclass may change that, so only these very classes
_POSITIVE_BY_CONSTRUCTION = (DiagonalNormal, FullNormal, StandardNormal, MixtureOfGaussians)


def guide_distribution(guide: Conditional, batch: Batch) -> Distribution:
    """q(z | x) of a batch, whatever guide a user brings, once :func:`check_guide` has found it sound."""
    q: Distribution = guide(batch.x, batch.context)
    check_guide(q, guide)
    return q


def check_guide(q: Distribution, guide: Conditional) -> None:
    r"""Refuse a q(z | x) whose scale is not positive everywhere.

    .. math:: \sigma > 0; \qquad \text{for a full covariance, } L_{jj} > 0 \text{ on the Cholesky factor's diagonal}

    The guides of :mod:`elbowroom.model.guides`, and priors in a guide's place, are positive by construction and cost
    nothing here; any other costs a comparison. A distribution that has no scale passes, and so does one whose scale is
    NaN: that is not this mistake, and the learners' own check names it.

    Args:
        q: what the guide returned, q(z | x).
        guide: the guide, for the message.
    Raises:
        ElbowroomError: a scale below or at zero; says how many elements, and how a log-variance becomes a scale.
    Example:
        >>> from torch.distributions import Normal
        >>> class Mistaken(Conditional):
        ...     def forward(self, given, context=None):
        ...         return Independent(Normal(given, given.log(), validate_args=False), 1)
        >>> guide = Mistaken()
        >>> check_guide(guide(torch.tensor([[0.5, 2.0]])), guide)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        elbowroom.errors.ElbowroomError: The scale of the guide Mistaken is negative for 50% of its elements ...
    """
    asked = guide.prior if type(guide) is PriorGuide else guide
    if type(asked) in _POSITIVE_BY_CONSTRUCTION:
        return
    scale = _scale(q)
    if scale is None:
        return
    wrong = scale <= 0  # not `~(scale > 0)`, which would blame NaN on the sign
    if not bool(wrong.any()):
        return
    lowest = float(scale.nan_to_num(nan=torch.inf).min())
    share = _percent(float(wrong.double().mean()))
    name = type(guide).__name__
    if lowest < 0:
        raise ElbowroomError(
            f"The scale of the guide {name} is negative for {share} of its elements (down to {lowest:.3g}), but a "
            "standard deviation is positive.",
            "If the network returns a log-variance v, the scale is torch.exp(0.5 * v); if it returns any real number, "
            "torch.nn.functional.softplus makes it positive.",
        )
    raise ElbowroomError(
        f"The scale of the guide {name} is zero for {share} of its elements, so that q(z | x) has no density there.",
        "Keep it above zero: clamp the log-variance before the exponential, or lower the learning rate.",
    )


def _scale(q: Distribution) -> Tensor | None:
    """Standard deviations, or what else a distribution calls its scale; None where it has none."""
    match q:
        case Independent() | TransformedDistribution():
            return _scale(q.base_dist)
        case MixtureSameFamily():
            return _scale(q.component_distribution)
        case MultivariateNormal():
            return q.scale_tril.detach().diagonal(dim1=-2, dim2=-1)
        case _:
            scale = getattr(q, "scale", None)
            return scale.detach() if isinstance(scale, Tensor) else None


def _percent(share: float) -> str:
    """A share that is not 0 is not called 0%."""
    return "less than 1%" if share < 0.01 else f"{share:.0%}"
