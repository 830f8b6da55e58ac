r"""Models of codes by enumeration: log p(x), the posterior and the ELBO, exactly; and sums over distinct codes.

A latent of L slots with K codes each has :math:`K^L` values. Where these are few enough to be listed, nothing has to be
estimated:

.. math:: \log p(x) = \log \sum_z p(z) \, p(x | z), \qquad p(z | x) = \frac{p(x, z)}{p(x)}, \qquad
    \mathcal{L}(x) = \sum_z q(z | x) \log p(x, z) + H[q]

Codes are numbered 0 … :math:`K^L - 1`, the first slot being the most significant digit. All functions here are
differentiable unless they say otherwise; the gradient is the exact one, and chunks of codes are computed a second time
for it, so that memory does not hold the networks' activations for all codes.

Where there are too many codes, the same sum over some of them is a lower bound. It has no need of weights:

.. math:: \log \sum_{z \in S} p(x, z) \le \log p(x) \qquad \text{for every set } S \text{ of distinct codes}

It is below log p(x) for the very codes that were drawn, and not in expectation only, and it is log p(x) where S is all
of them. A code that is drawn twice counts once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from elbowroom.data.batch import Batch, as_batch
from elbowroom.errors import ElbowroomError, check_num_samples
from elbowroom.inference.target import widest
from elbowroom.memory import require_memory
from elbowroom.model import noise
from elbowroom.model.code_distributions import Codes, CodeSpace
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import draw
from elbowroom.model.guides import guide_distribution
from elbowroom.model.latent import LatentModel
from elbowroom.model.noise import NoiseSource
from elbowroom.model.top_down_codes import TopDownCodes
from elbowroom.numerics import chunks

__all__ = [
    "LARGEST_COUNT",
    "DistinctSum",
    "Enumerated",
    "all_codes",
    "check_enumerable",
    "code_numbers",
    "distinct_bound",
    "enumerated",
    "enumerated_elbo",
    "exact_posterior_draws",
    "packed",
    "sum_of_distinct",
]

LARGEST_COUNT = 10**6
"""The most values of z that are enumerated."""
_CHUNK_ELEMENTS = 2**21  # of the largest tensor in a chunk
_WORD_BITS = 62  # of a whole number that slots are packed into


class Enumerated(NamedTuple):
    """What enumeration finds of each example; float64.

    Attributes:
        log_evidence: log p(x), nats, shape (batch,).
        log_posterior: log p(z | x) of every z in the order of :func:`all_codes`, shape (K^L, batch).
    """

    log_evidence: Tensor
    log_posterior: Tensor


class DistinctSum(NamedTuple):
    """The sum of p(x, z) over distinct codes.

    Attributes:
        log_sum: its logarithm, a lower bound on log p(x), nats, float64, shape (batch,).
        number: how many codes were distinct, int64, shape (batch,).
    """

    log_sum: Tensor
    number: Tensor


def check_enumerable(space: CodeSpace, what: str = "enumeration") -> int:
    """The number of values of z.

    Args:
        space: L and K.
        what: needs them all, for the message.
    Raises:
        ElbowroomError: they are more than ``LARGEST_COUNT``.
    Example:
        >>> check_enumerable(CodeSpace(3, 4))
        64
    """
    if space.size > LARGEST_COUNT:
        number = f"{space.codes}^{space.slots} ≈ {Decimal(space.size):.1e}"
        raise ElbowroomError(
            f"{what} goes through every code, but {space} have {number} of them, more than {LARGEST_COUNT:,}.",
            "Draw codes instead: --methods codes,iwae,ais.",
        )
    return space.size


def all_codes(space: CodeSpace, *, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Tensor:
    """Every value of z, one-hot, shape (K^L, L K); the last slot changes first.

    Raises:
        ElbowroomError: there are more than ``LARGEST_COUNT``.
    Example:
        >>> all_codes(CodeSpace(2, 2))
        tensor([[1., 0., 1., 0.],
                [1., 0., 0., 1.],
                [0., 1., 1., 0.],
                [0., 1., 0., 1.]])
    """
    return _codes_at(space, torch.arange(check_enumerable(space), device=device), dtype)


def code_numbers(space: CodeSpace, z: Tensor) -> Tensor:
    """The place of each z in :func:`all_codes`, int64: shape (\\*, L K) gives (\\*,).

    Raises:
        ElbowroomError: there are more than ``LARGEST_COUNT`` codes.
    Example:
        >>> space = CodeSpace(3, 4)
        >>> bool((code_numbers(space, all_codes(space)) == torch.arange(64)).all())
        True
    """
    check_enumerable(space)
    return (space.numbers(z) * _digits(space, z.device)).sum(-1)


def enumerated(model: LatentModel, batch: Batch | Tensor, *, chunk_elements: int = _CHUNK_ELEMENTS) -> Enumerated:
    r"""log p(x) of each example and its posterior over all codes, exactly.

    .. math:: \log p(x) = \log \sum_z p(x, z), \qquad \log p(z | x) = \log p(x, z) - \log p(x)

    Args:
        model: p(x, z) with codes as latents.
        batch: data, ``x`` of shape (batch, \*event).
        chunk_elements: codes are taken a chunk at a time, such that neither data nor latents of a chunk, nor a layer of
            the networks, have more elements than this.
    Returns:
        Nats, float64; differentiable in the model's parameters.
    Raises:
        ElbowroomError: latents that are no codes, or more codes than ``LARGEST_COUNT``; a posterior that does not fit
            into memory.
    Example:
        >>> import elbowroom as er
        >>> from elbowroom.model.codes import UniformCodes
        >>> space = CodeSpace(3, 4)
        >>> network = er.networks.MLP((space.dim,), (1, 10))
        >>> model = er.LatentModel(UniformCodes(space), er.likelihoods.Bernoulli(network, (10,)))
        >>> found = enumerated(model, torch.ones(5, 10))
        >>> found.log_posterior.shape, torch.allclose(found.log_posterior.exp().sum(0), torch.ones(5).double())
        (torch.Size([64, 5]), True)
    """
    log_joint = _log_joint(model, as_batch(batch), chunk_elements)
    log_evidence = log_joint.logsumexp(0)
    return Enumerated(log_evidence, log_joint - log_evidence)


def enumerated_elbo(
    model: LatentModel,
    guide: Conditional,
    batch: Batch | Tensor,
    *,
    known: Enumerated | None = None,
    chunk_elements: int = _CHUNK_ELEMENTS,
) -> Tensor:
    r"""The evidence lower bound of each example, exactly.

    .. math:: \mathcal{L}(x) = \sum_z q(z | x) \log \frac{p(x, z)}{q(z | x)}

    Args:
        model: p(x, z) with codes as latents.
        guide: q(z | x).
        batch: data, ``x`` of shape (batch, \*event).
        known: what :func:`enumerated` gave for the same model and batch, where it was called already.
        chunk_elements: as in :func:`enumerated`.
    Returns:
        Nats, float64, shape (batch,); differentiable in the parameters of both, so that gradient estimators can be
        compared with its gradient.
    Raises:
        ElbowroomError: as :func:`enumerated`.
    """
    batch = as_batch(batch)
    q = guide_distribution(guide, batch)
    log_joint = _log_joint(model, batch, chunk_elements) if known is None else known.log_posterior + known.log_evidence
    at_once = _at_once(model, batch, chunk_elements, shared=False)
    log_q = _over_codes(model, batch, lambda z: q.log_prob(_for_each(z, batch)), at_once)
    probability = log_q.exp()
    drawn = probability > 0  # a code that q rules out adds nothing, whatever its density is
    # −∞ is taken out before the product, since its gradient would be 0 · (−∞)
    return torch.where(drawn, probability * (log_joint - log_q.masked_fill(~drawn, 0.0)), 0.0).sum(0)


@torch.no_grad()
def exact_posterior_draws(
    model: LatentModel, batch: Batch | Tensor, num_samples: int, *, generator: NoiseSource | None = None
) -> Tensor:
    """Independent draws from p(z | x) itself, without a gradient.

    Args:
        model: p(x, z) with codes as latents.
        batch: data, ``x`` of shape (batch, \\*event).
        num_samples: draws per example.
        generator: the source of randomness.
    Returns:
        One-hot, shape (num_samples, batch, L K).
    Raises:
        ElbowroomError: ``num_samples`` below 1, and as :func:`enumerated`.
    """
    check_num_samples(num_samples)
    batch = as_batch(batch)
    logits = enumerated(model, batch).log_posterior.T  # (batch, K^L)
    numbers = noise.category(logits, (num_samples, len(batch)), generator)
    return _codes_at(model.space, numbers, _dtype(model))


@torch.no_grad()
def distinct_bound(
    model: LatentModel,
    guide: Conditional,
    batch: Batch | Tensor,
    *,
    num_samples: int,
    chunk_elements: int = _CHUNK_ELEMENTS,
    generator: NoiseSource | None = None,
) -> Tensor:
    r"""Lower bound on log p(x) of each example: the sum over the distinct codes among draws of the guide.

    .. math:: \log \sum_{z \in S} p(x, z) \;\le\; \log p(x), \qquad S = \{\hat z\} \cup \{z_1, \dots, z_k\}, \qquad
        z_i \sim q(z | x)

    It is below log p(x) whatever was drawn. The most likely code of each slot, :math:`\hat z`, is always in the set
    where q factorises or has levels, so that the bound is never below log p(x, ẑ), which papers on vector quantisation
    quote. It is close where the posterior is concentrated on a few codes that the guide finds.

    Args:
        model: p(x, z) with codes as latents.
        guide: q(z | x).
        batch: data, ``x`` of shape (batch, \*event).
        num_samples: k, draws of z per example.
        chunk_elements: draws are weighed a chunk at a time, as the codes of :func:`enumerated`.
        generator: the source of randomness.
    Returns:
        Nats, float64, shape (batch,), without a gradient.
    Raises:
        ElbowroomError: latents that are no codes; ``num_samples`` below 1.
    """
    check_num_samples(num_samples)
    batch, space = as_batch(batch), model.space
    q = guide_distribution(guide, batch)
    z = draw(q, (num_samples,), generator=generator)  # (samples, batch, L K)
    if isinstance(q, Codes | TopDownCodes):
        z = torch.cat([q.mode.unsqueeze(0), z])
    parts = chunks(len(z), _at_once(model, batch, chunk_elements, shared=False))
    log_joint = torch.cat([model.log_joint(batch.x, z[part], context=batch.context, mask=batch.mask) for part in parts])
    return sum_of_distinct(packed(space, space.numbers(z)), log_joint).log_sum


def packed(space: CodeSpace, numbers: Tensor) -> Tensor:
    """Slots in as few whole numbers as hold them, which are equal where the codes are.

    Args:
        space: L and K.
        numbers: code numbers of the slots, int64, shape (\\*, L).
    Returns:
        int64, shape (\\*, W): 24 slots of 16 codes need W = 2 words, 200 of 2 codes 4.
    Example:
        >>> packed(CodeSpace(3, 10), torch.tensor([[1, 2, 3]]))
        tensor([[321]])
    """
    per_word = max(1, int(_WORD_BITS / math.log2(space.codes)))
    words = []
    for part in chunks(space.slots, per_word):
        powers = space.codes ** torch.arange(part.stop - part.start, device=numbers.device)
        words.append((numbers[..., part] * powers).sum(-1))
    return torch.stack(words, -1)


def sum_of_distinct(words: Tensor, log_joint: Tensor) -> DistinctSum:
    r"""The sum of p(x, z) over distinct codes: of equal ones the first counts, and no other.

    .. math:: \log \sum_{z \in S} p(x, z)

    Args:
        words: codes as :func:`packed` gives them, int64, shape (n, batch, W).
        log_joint: log p(x, z), nats, shape (n, batch).
    Example:
        >>> numbers = torch.tensor([[[0, 2]], [[1, 2]], [[0, 2]]])  # the third is the first again
        >>> found = sum_of_distinct(packed(CodeSpace(2, 3), numbers), torch.zeros(3, 1))
        >>> found.log_sum.exp(), found.number
        (tensor([2.], dtype=torch.float64), tensor([2]))
    """
    first = _first_of_equals(words)
    return DistinctSum(log_joint.double().masked_fill(~first, -math.inf).logsumexp(0), first.sum(0))


def _first_of_equals(words: Tensor) -> Tensor:
    """Whether a code is the first of its equals among n: (n, batch, W) gives bool, (n, batch).

    Codes are sorted by their words, so that equal ones are neighbours.
    """
    order = torch.arange(len(words), device=words.device).unsqueeze(1).expand(words.shape[:-1])
    for word in words.unbind(-1):
        order = order.gather(0, word.gather(0, order).argsort(dim=0, stable=True))
    changes = torch.stack([word.gather(0, order).diff(dim=0) != 0 for word in words.unbind(-1)]).any(0)
    first = torch.cat([torch.ones_like(order[:1], dtype=torch.bool), changes])
    return torch.zeros_like(first).scatter(0, order, first)


def _log_joint(model: LatentModel, batch: Batch, chunk_elements: int) -> Tensor:
    """log p(x, z) of every code and example, float64, shape (K^L, batch)."""

    shared = batch.context is None  # a code is then decoded once for all examples

    def log_joint(z: Tensor) -> Tensor:
        z = z.unsqueeze(1) if shared else _for_each(z, batch)
        return model.log_joint(batch.x, z, context=batch.context, mask=batch.mask)

    return _over_codes(model, batch, log_joint, _at_once(model, batch, chunk_elements, shared=shared))


def _over_codes(model: LatentModel, batch: Batch, function: Callable[[Tensor], Tensor], at_once: int) -> Tensor:
    """A function of codes (n, L K) to (n, batch) for all codes, float64, shape (K^L, batch)."""
    space, device = model.space, batch.x.device
    count = check_enumerable(space)
    require_memory(
        4 * 8 * count * len(batch),  # the joint, the posterior and what is between
        f"The posterior of {len(batch):,} examples over {count:,} codes",
        "Give fewer examples at a time.",
        device,
    )
    dtype, found = _dtype(model), []
    for part in chunks(count, at_once):
        z = _codes_at(space, torch.arange(part.start, part.stop, device=device), dtype)
        again = torch.is_grad_enabled() and count > at_once
        value: Tensor = checkpoint(function, z, use_reentrant=False) if again else function(z)
        found.append(value.double())
    return torch.cat(found)


def _at_once(model: LatentModel, batch: Batch, chunk_elements: int, *, shared: bool) -> int:
    """Codes of a chunk; ``shared`` if a code is the same for all examples."""
    decoded = max(model.space.dim, widest(model)) * (1 if shared else len(batch))
    return max(1, chunk_elements // max(batch.x.numel(), decoded))


def _for_each(z: Tensor, batch: Batch) -> Tensor:
    """(n, L K) as (n, batch, L K)."""
    return z.unsqueeze(1).expand(-1, len(batch), -1)


def _codes_at(space: CodeSpace, numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """The codes of these places in :func:`all_codes`, shape (\\*,): one-hot, shape (\\*, L K)."""
    return space.one_hot(numbers.unsqueeze(-1) // _digits(space, numbers.device) % space.codes, dtype)


def _digits(space: CodeSpace, device: torch.device) -> Tensor:
    """K^(L−1), …, K, 1: what a step in each slot adds to the place, int64, shape (L,)."""
    return space.codes ** torch.arange(space.slots - 1, -1, -1, device=device)


def _dtype(model: LatentModel) -> torch.dtype:
    """The floating-point type of the model, in which its latents are."""
    types = (part.dtype for part in model.parameters() if part.is_floating_point())
    return next(types, torch.get_default_dtype())
