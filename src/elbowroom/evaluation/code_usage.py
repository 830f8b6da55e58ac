r"""How many codes a model uses, and how evenly: perplexity, pooled over all examples of a split.

The perplexity of a slot is the number of equally frequent codes that have the same entropy,

.. math:: \exp H_l, \qquad H_l = -\sum_k \hat p_{lk} \log \hat p_{lk}, \qquad \hat p_{lk} = n_{lk} / N,

with :math:`n_{lk}` the number of examples whose code in slot l is k. It lies between 1 and K. The entropy of observed
frequencies is too low by about :math:`(K - 1) / 2N` nats (Miller 1955), so that a perplexity of batches grows with the
batch; here all N examples are pooled, and what bias is left is removed by the jackknife. With θ the mean perplexity of
the slots, and :math:`\theta_{-i}` the same without example i,

.. math:: \theta_J = N \theta - (N - 1) \bar\theta_{-}, \qquad
    \mathrm{stderr}^2 = \frac{N - 1}{N} \sum_i (\theta_{-i} - \bar\theta_{-})^2.

Examples are left out whole, with the codes of all their slots, which depend on each other.

Reference:
    Miller (1955), Note on the bias of information estimates.
    Efron & Stein (1981), The jackknife estimate of variance, Annals of Statistics 9.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from elbowroom.model.code_distributions import CodeSpace

__all__ = ["CodeUsage", "code_usage"]


class CodeUsage(NamedTuple):
    """The use of codes by N examples.

    Attributes:
        used: number of codes that any example has, of L K.
        fewest: the same in the slot that uses fewest, of K.
        perplexity: mean over slots, without the bias of few examples; for a few it can be slightly above K.
        stderr: its standard error; NaN for a single example.
        plug_in: the mean perplexity of the observed frequencies, which is too low.
    """

    used: int
    fewest: int
    perplexity: float
    stderr: float
    plug_in: float


def code_usage(space: CodeSpace, numbers: Tensor) -> CodeUsage:
    """The use of codes.

    Args:
        space: L and K.
        numbers: code numbers of every example, int64, shape (N, L).
    Example:
        >>> numbers = torch.tensor([[0, 0], [1, 0], [0, 0], [1, 0]])  # two codes in the first slot, one in the second
        >>> code_usage(CodeSpace(2, 3), numbers)[:2], round(code_usage(CodeSpace(2, 3), numbers).plug_in, 6)
        ((3, 1), 1.5)
    """
    examples, offsets = len(numbers), space.codes * torch.arange(space.slots, device=numbers.device)
    counts = (numbers + offsets).flatten().bincount(minlength=space.dim).reshape(space).double()  # (L, K)
    used = counts > 0
    terms = counts.xlogy(counts)  # n log n
    plug_in = float(_perplexity(terms.sum(-1), examples).mean())
    perplexity, stderr = plug_in, math.nan
    if examples > 1:
        fewer = (counts - 1).clamp(min=0)
        without = _perplexity(terms.sum(-1, keepdim=True) - terms + fewer.xlogy(fewer), examples - 1)  # (L, K)
        left_out = without.flatten()[numbers + offsets].mean(-1)  # θ₋ᵢ, (N,)
        mean = left_out.mean()
        perplexity = float(examples * plug_in - (examples - 1) * mean)
        stderr = float(((examples - 1) / examples * (left_out - mean).square().sum()).sqrt())
    return CodeUsage(int(used.sum()), int(used.sum(-1).min()), perplexity, stderr, plug_in)


def _perplexity(terms: Tensor, examples: int) -> Tensor:
    """exp H of counts n that sum to N, from Σ n log n: H = log N − Σ n log n / N."""
    return (math.log(examples) - terms / examples).exp()
