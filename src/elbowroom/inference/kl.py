r"""KL(q(z | x) ‖ p(z)) in closed form, where there is one.

.. math:: \mathrm{KL}(q \,\|\, p) = \mathbb{E}_q[\log q(z) - \log p(z)]

torch's registry of closed forms comes first. It lacks one pair that matters here, a Gaussian with full covariance
against a factorised one; this module adds it without changing torch. Where there is no closed form, as for a mixture
prior, the objective estimates the expectation from draws.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, kl_divergence

from elbowroom.model.code_distributions import AutoregressiveCodes, Codes
from elbowroom.model.sequential_normal import SequentialNormal, blocks_of
from elbowroom.model.top_down_codes import TopDownCodes

__all__ = [
    "ClosedForm",
    "closed_form_kl",
    "exact_entropy",
    "factorised_kl",
    "group_kl",
    "has_analytic_kl",
    "has_group_kl",
]


class ClosedForm(NamedTuple):
    """A KL divergence and the penalty in the objective; the two differ under free bits.

    Attributes:
        kl: KL(q ‖ p), nats, shape (batch,).
        penalty: the same, or the sum over latent dimensions of max(λ, KL_j).
    """

    kl: Tensor
    penalty: Tensor


def factorised_kl(q: Distribution, p: Distribution) -> Tensor | None:
    r"""KL of each latent dimension, of codes of each slot, shape (batch, latent), where both factorise; else None.

    .. math:: \mathrm{KL}_j = \mathrm{KL}(q(z_j | x) \,\|\, p(z_j))

    Example:
        >>> q = Independent(Normal(torch.zeros(3, 2), torch.ones(2)), 1)
        >>> factorised_kl(q, q).shape
        torch.Size([3, 2])
    """
    if isinstance(q, Codes) and isinstance(p, Codes):
        # a code of probability 0 adds nothing, where 0 · (−∞) would be NaN
        ratio = torch.where(q.probs > 0, q.logits - p.logits, 0.0)
        return (q.probs * ratio).sum(-1)
    if not (isinstance(q, Independent) and isinstance(p, Independent)):
        return None
    if q.base_dist.event_shape or p.base_dist.event_shape or q.event_shape != p.event_shape or len(q.event_shape) != 1:
        return None
    return _registered_kl(q.base_dist, p.base_dist)


def closed_form_kl(q: Distribution, p: Distribution, free_bits: float = 0.0) -> ClosedForm | None:
    r"""KL(q ‖ p) in closed form, with the penalty under free bits; None where there is none.

    .. math:: \mathrm{penalty} = \sum_j \max(\lambda, \mathrm{KL}_j)

    Args:
        q: q(z | x), batch_shape (batch,), event_shape (latent,).
        p: p(z), batch_shape () or (batch,), event_shape (latent,).
        free_bits: λ, nats per latent dimension; above 0 both must factorise.
    """
    per_dimension = factorised_kl(q, p)
    if per_dimension is not None:
        kl = per_dimension.sum(-1)
        return ClosedForm(kl, per_dimension.clamp(min=free_bits).sum(-1) if free_bits > 0 else kl)
    if free_bits > 0:
        return None
    joint = _full_against_factorised(q, p) if isinstance(q, MultivariateNormal) else None
    if joint is None:
        joint = _registered_kl(q, p)
    return None if joint is None else ClosedForm(joint, joint)


def exact_entropy(q: Distribution) -> Tensor | None:
    r""":math:`-\mathbb{E}_q \log q(z)` in nats, shape (batch,), for codes; None for other distributions.

    Against a prior in which the slots depend on each other, this is the half of the KL that is known.
    """
    return q.entropy() if isinstance(q, Codes) else None


def has_group_kl(q: Distribution, p: Distribution) -> bool:
    """Whether :func:`group_kl` serves: q has groups, and p is made of independent blocks, one for each; or q has levels
    of codes, and p is over codes.
    """
    if isinstance(q, TopDownCodes):
        return isinstance(p, Codes | AutoregressiveCodes)
    return isinstance(q, SequentialNormal) and blocks_of(p, q.sizes) is not None


def group_kl(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    r"""KL of each group of a hierarchy given the groups before, at draws of q.

    .. math:: \mathrm{KL}(q \,\|\, p) = \sum_l \mathbb{E}_q\big[\mathrm{KL}_l(z_{<l})\big], \qquad
        \mathrm{KL}_l(z_{<l}) = \mathrm{KL}\big(q(z_l | z_{<l}, x) \,\|\, p(z_l | z_{<l})\big)

    Unbiased; where a group has a closed form, with less noise than log q − log p. Where it has none, as under a
    mixture, its entropy is exact and its log p(z_l) is that of the draw. So it is with levels of codes, unless the
    slots of p are independent.

    Args:
        q: of groups one after the other, or of levels of codes.
        p: of independent blocks, one for each group; over codes any, whose slots then are in the order of q's levels.
        z: draws of q, (samples, batch, latent).
    Returns:
        Nats, shape (groups, samples, batch).
    """
    if isinstance(q, TopDownCodes):
        return _level_kl(q, p, z)
    assert isinstance(q, SequentialNormal)  # see has_group_kl
    blocks = blocks_of(p, q.sizes)
    assert blocks is not None
    found = []
    for given, block, part in zip(q.groups(z), blocks, z.split_with_sizes(q.sizes, -1), strict=True):
        closed = factorised_kl(given, block)
        kl = -_entropy(given) - block.log_prob(part) if closed is None else closed.sum(-1)
        found.append(kl.expand(z.shape[:-1]))
    return torch.stack(found)


def _level_kl(q: TopDownCodes, p: Distribution, z: Tensor) -> Tensor:
    assert isinstance(p, Codes | AutoregressiveCodes)  # see has_group_kl
    sizes = [level.slots for level in q.levels]
    given = q.conditionals(z)
    if isinstance(p, Codes):
        parts = zip(given, p.logits.split_with_sizes(sizes, -2), strict=True)
        ratios = [factorised_kl(own, Codes(logits)) for own, logits in parts]
        found = [ratio.sum(-1) for ratio in ratios if ratio is not None]
    else:
        parts = zip(given, p.log_probs(z).split_with_sizes(sizes, -1), strict=True)
        found = [-own.entropy() - log_p.sum(-1) for own, log_p in parts]
    return torch.stack([each.expand(z.shape[:-1]) for each in found])


def has_analytic_kl(q: Distribution, p: Distribution) -> bool:
    """Whether KL(q ‖ p) has a closed form here.

    Example:
        >>> q = Independent(Normal(torch.zeros(3, 2), torch.ones(2)), 1)
        >>> has_analytic_kl(q, Independent(Normal(torch.zeros(2), torch.ones(2)), 1))
        True
    """
    with torch.no_grad():
        return closed_form_kl(q, p) is not None


def _registered_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """The closed form in torch's registry; None for a pair that the registry lacks."""
    try:
        kl: Tensor = kl_divergence(q, p)
    except NotImplementedError:
        return None
    return kl


def _full_against_factorised(q: MultivariateNormal, p: Distribution) -> Tensor | None:
    """KL(N(μ, LLᵀ) ‖ N(m, diag s²)), nats; None where p is not that."""
    if not (isinstance(p, Independent) and isinstance(p.base_dist, Normal) and len(p.event_shape) == 1):
        return None
    m, s = p.base_dist.loc, p.base_dist.scale
    variance = q.scale_tril.square().sum(-1)  # the diagonal of LLᵀ
    log_det_ratio = (s.log() - q.scale_tril.diagonal(dim1=-2, dim2=-1).log()).sum(-1)
    return log_det_ratio + 0.5 * ((variance + (q.loc - m).square()) / s.square() - 1.0).sum(-1)


def _entropy(q: Distribution) -> Tensor:
    entropy: Tensor = q.entropy()
    return entropy
