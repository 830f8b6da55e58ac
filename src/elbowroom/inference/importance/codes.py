r"""Bounds on log p(x) of a model with codes, all from one set of draws of its guide.

A guide of a vector-quantised model names one code :math:`\hat z`, and papers quote :math:`\log p(x, \hat z)`. What it
leaves out is known exactly,

.. math:: \log p(x) - \log p(x, \hat z) = -\log p(\hat z | x),

so it is loose by how unsure the true posterior is. The other bounds take draws of the softened guide
:math:`q(z | x)`. With them the log-likelihood divides into three parts,

.. math:: -\log p(x) = \underbrace{-\mathbb{E}_q \log p(x | z)}_{\text{distortion}}
    + \underbrace{\mathrm{KL}(q(z | x) \,\|\, p(z))}_{\text{rate}}
    - \underbrace{\mathrm{KL}(q(z | x) \,\|\, p(z | x))}_{\text{elbow room}}

of which the first two are minus the ELBO.

A guide that is too sharp never draws codes that the posterior holds likely. Their weights would be large, but no draw
shows it: the estimate is too low, and its standard error and Pareto k̂ say nothing. Codes can be looked at without
being drawn, and :func:`missed_share` looks at those that differ from ẑ in one slot.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from elbowroom.data.batch import Batch, as_batch
from elbowroom.inference.enumeration import packed, sum_of_distinct
from elbowroom.inference.importance.estimate import WeightSums, weighted_in_chunks
from elbowroom.inference.importance.pareto import LargestWeights
from elbowroom.inference.kl import closed_form_kl, group_kl
from elbowroom.inference.target import widest
from elbowroom.model.code_distributions import AutoregressiveCodes, Codes
from elbowroom.model.latent import LatentModel
from elbowroom.model.noise import NoiseSource
from elbowroom.model.top_down_codes import TopDownCodes
from elbowroom.numerics import chunks

__all__ = ["CodeBounds", "code_bounds", "missed_share"]

_ALONE = 20  # draws, at most, whose lower levels are drawn anew


class CodeBounds(NamedTuple):
    """Bounds on log p(x) of each example, and what they are made of; nats, float64, shape (batch,) unless said.

    Attributes:
        log_evidence: importance-weighted, as in :class:`~elbowroom.inference.importance.estimate.ImportanceEstimate`.
        stderr: its standard error.
        ess: effective number of draws.
        pareto_k: k̂ of the weights' tail.
        distortion: −E log p(x | z).
        distortion_stderr: its standard error.
        rate: KL(q(z | x) ‖ p(z)); in closed form, or with the exact entropy of q.
        rate_stderr: its standard error; 0 in closed form.
        elbo: −(distortion + rate).
        elbo_stderr: its standard error.
        deterministic: log p(x, ẑ), with ẑ the most likely code of each slot.
        deterministic_rate: −log p(ẑ), the length of the code that is sent.
        distinct: log of the sum of p(x, z) over ẑ and the distinct draws.
        num_distinct: how many these are.
        mode: code numbers of ẑ, int64, shape (batch, L).
        drawn: code numbers of one draw, int64, shape (batch, L).
        level_rates: of several levels, the rate of each given those above, whose sum is ``rate``, shape (batch, M); of
            one level None, as all that follows.
        level_rates_stderr: their standard errors.
        level_distortions: distortion from the first 1, …, M − 1 levels, where the others are drawn from the prior given
            these, shape (batch, M − 1). With the rates of the same levels it is minus the ELBO of such a guide.
        level_distortions_stderr: their standard errors.
    """

    log_evidence: Tensor
    stderr: Tensor
    ess: Tensor
    pareto_k: Tensor
    distortion: Tensor
    distortion_stderr: Tensor
    rate: Tensor
    rate_stderr: Tensor
    elbo: Tensor
    elbo_stderr: Tensor
    deterministic: Tensor
    deterministic_rate: Tensor
    distinct: Tensor
    num_distinct: Tensor
    mode: Tensor
    drawn: Tensor
    level_rates: Tensor | None = None
    level_rates_stderr: Tensor | None = None
    level_distortions: Tensor | None = None
    level_distortions_stderr: Tensor | None = None


@torch.no_grad()
def code_bounds(
    model: LatentModel,
    q: Codes | TopDownCodes,
    batch: Batch | Tensor,
    *,
    num_samples: int,
    chunk_elements: int = 2**20,
    generator: NoiseSource | None = None,
) -> CodeBounds:
    r"""Bounds on log p(x) of each example from k draws of a guide over codes, without a gradient.

    .. math:: \log p(x, \hat z) \;\le\; \log \sum_{z \in S} p(x, z) \;\le\; \log p(x), \qquad
        \mathbb{E}\Big[\log \frac1k \sum_{i=1}^k \frac{p(x, z_i)}{q(z_i | x)}\Big] \;\le\; \log p(x)

    Args:
        model: p(x, z) with codes as latents.
        q: q(z | x), batch shape (batch,).
        batch: data, ``x`` of shape (batch, \*event).
        num_samples: k, draws of z per example.
        chunk_elements: as in :func:`~elbowroom.inference.importance.estimate.importance_estimate`, whose estimate is
            the same for the same draws.
        generator: the source of randomness.
    Returns:
        Bounds and their parts, float64, and the codes themselves.
    Raises:
        ElbowroomError: a continuous z; ``num_samples`` below 1; a guide of another shape.
    Reference:
        van den Oord, Vinyals & Kavukcuoglu (2017), Neural Discrete Representation Learning, section 3.2,
        arXiv:1711.00937: log p(x) "≥ log p(x | ẑ) p(ẑ)".
        Alemi et al. (2018), Fixing a Broken ELBO, arXiv:1711.00464: rate and distortion.
    Example:
        >>> import elbowroom as er
        >>> from elbowroom.model.code_distributions import CodeSpace
        >>> from elbowroom.model.codes import UniformCodes
        >>> space = CodeSpace(3, 4)
        >>> network = er.networks.MLP((space.dim,), (1, 10))
        >>> model = er.LatentModel(UniformCodes(space), er.likelihoods.Bernoulli(network, (10,)))
        >>> found = code_bounds(model, Codes(torch.randn(5, 3, 4)), torch.ones(5, 10), num_samples=20)
        >>> bool((found.deterministic <= found.distinct).all())
        True
    """
    batch, space = as_batch(batch), model.space
    prior = model.prior(None, batch.context)
    sums = WeightSums.empty(len(batch), batch.x.device)
    largest = LargestWeights.empty(num_samples, len(batch), batch.x.device)
    parts, kls, drawn, some = [], [], None, None
    for weighted in weighted_in_chunks(
        model, q, batch, num_samples=num_samples, chunk_elements=chunk_elements, generator=generator
    ):
        sums, largest = sums.add(weighted.log_weights), largest.add(weighted.log_weights)
        numbers = space.numbers(weighted.z)  # (draws of a chunk, batch, L); of all draws they would be large
        drawn = numbers[0].clone() if drawn is None else drawn
        if isinstance(q, TopDownCodes):
            some = weighted.z[:_ALONE].clone() if some is None else some
            kls.append(group_kl(q, prior, weighted.z).double())  # (levels, draws of a chunk, batch)
        parts.append((weighted.log_likelihood.double(), weighted.log_prior.double(), packed(space, numbers)))
    assert drawn is not None  # there is one draw at least
    log_likelihood, log_prior, words = (torch.cat(part) for part in zip(*parts, strict=True))  # (draws, batch, …)

    z, mode = q.mode, space.numbers(q.mode)
    mode_log_prior = prior.log_prob(z).double().expand(len(batch))
    mode_log_likelihood = model.log_likelihood(batch.x, z, context=batch.context, mask=batch.mask).double()
    deterministic = mode_log_likelihood + mode_log_prior
    words = torch.cat([packed(space, mode).unsqueeze(0), words])
    log_joint = torch.cat([deterministic.unsqueeze(0), log_likelihood + log_prior])

    closed = closed_form_kl(q, prior)
    levels: tuple[Tensor, ...] = ()
    if isinstance(q, TopDownCodes):
        assert some is not None
        by_level = torch.cat(kls, 1)
        alone = _from_upper_levels(model, q, batch, prior, some, chunk_elements, generator)
        levels = (*_mean_of_draws(by_level), *_mean_of_draws(alone))
        rate, sampled = by_level.sum(0).mean(0), log_likelihood - by_level.sum(0)
        rate_stderr = _stderr(by_level.sum(0))
    elif closed is not None:
        rate, sampled, rate_stderr = closed.kl.double(), log_likelihood, torch.zeros_like(deterministic)
    else:
        rate, sampled = -q.entropy().double() - log_prior.mean(0), log_likelihood + log_prior
        rate_stderr = _stderr(log_prior)
    distortion = -log_likelihood.mean(0)
    return CodeBounds(
        *sums.estimate(),
        largest.pareto_k(),
        distortion,
        _stderr(log_likelihood),
        rate,
        rate_stderr,
        -(distortion + rate),
        _stderr(sampled),
        deterministic,
        -mode_log_prior,
        *sum_of_distinct(words, log_joint),
        mode,
        drawn,
        *levels,
    )


def _from_upper_levels(
    model: LatentModel,
    q: TopDownCodes,
    batch: Batch,
    prior: Distribution,
    z: Tensor,
    chunk_elements: int,
    generator: NoiseSource | None,
) -> Tensor:
    """−log p(x | z) where the levels of z after the first 1, …, M − 1 are drawn from the prior given these, float64,
    shape (M − 1, draws, batch).
    """
    assert isinstance(prior, Codes | AutoregressiveCodes)  # see `group_kl`
    elements = len(batch) * max(q.space.dim, batch.x[0].numel(), widest(model))
    found = []
    for known in list(accumulate(level.slots for level in q.levels))[:-1]:
        redrawn = prior.sample_after(z, known, generator=generator)
        parts = [redrawn[part] for part in chunks(len(z), max(1, chunk_elements // elements))]
        of_parts = [model.log_likelihood(batch.x, part, context=batch.context, mask=batch.mask) for part in parts]
        found.append(-torch.cat(of_parts).double())
    return torch.stack(found)


def _mean_of_draws(values: Tensor) -> tuple[Tensor, Tensor]:
    """Means over draws and their standard errors, (levels, draws, batch) to (batch, levels)."""
    return values.mean(1).T, torch.stack([_stderr(value) for value in values], -1)


@torch.no_grad()
def missed_share(
    model: LatentModel,
    q: Codes | TopDownCodes,
    batch: Batch | Tensor,
    log_evidence: Tensor,
    *,
    num_samples: int,
    chunk_elements: int = 2**20,
) -> Tensor:
    r"""The part of p(x) that k draws of q are expected to miss, among codes that differ from ẑ in one slot.

    .. math:: m(x) = \frac{1}{\hat p(x)} \sum_{z \in N(\hat z)} p(x, z) \, (1 - q(z | x))^k

    N(ẑ) has L (K − 1) codes. Where these are more than k, it has the ⌈k / L⌉ likeliest of each slot: a guide that is
    too sharp has its codes in the right order, so that most of what it misses is among them. On several levels, the
    codes below one that is exchanged stay as they are.

    Args:
        model: p(x, z) with codes as latents.
        q: q(z | x), batch shape (batch,).
        batch: data, ``x`` of shape (batch, \*event).
        log_evidence: the estimate from the draws, log p̂(x), nats, shape (batch,).
        num_samples: k, draws of z per example.
        chunk_elements: codes are taken a chunk at a time, such that no layer of the networks has more elements.
    Returns:
        Float64, shape (batch,): near 0 where q covers the posterior; above 1 where the estimate is worthless.
    Example:
        >>> import elbowroom as er
        >>> from elbowroom.inference.enumeration import enumerated
        >>> from elbowroom.model.code_distributions import CodeSpace
        >>> from elbowroom.model.codes import UniformCodes
        >>> space = CodeSpace(3, 4)
        >>> network = er.networks.MLP((space.dim,), (1, 10))
        >>> model, x = er.LatentModel(UniformCodes(space), er.likelihoods.Bernoulli(network, (10,))), torch.ones(5, 10)
        >>> exact = enumerated(model, x).log_evidence
        >>> sharp = Codes(torch.tensor([0.0, -99.0, -99.0, -99.0]).expand(5, 3, 4))
        >>> bool((missed_share(model, sharp, x, exact, num_samples=1000) > 0.1).all())
        True
        >>> bool((missed_share(model, Codes(torch.zeros(5, 3, 4)), x, exact, num_samples=1000) < 1e-3).all())
        True
    """
    batch, (slots, codes) = as_batch(batch), q.space
    each = min(codes - 1, math.ceil(num_samples / slots))  # codes of a slot
    logits = q.logits
    others = logits.argsort(-1, descending=True)[..., 1 : each + 1]  # (batch, L, each)
    mode = q.space.numbers(q.mode)  # (batch, L)
    inner = q.widest if isinstance(q, TopDownCodes) else 1
    elements = max(q.space.dim, batch.x[0].numel(), widest(model), inner) * max(1, len(batch))
    found = []
    for part in chunks(slots * each, max(1, chunk_elements // elements)):
        at = torch.arange(part.start, part.stop, device=mode.device)
        slot, rank = at // each, at % each
        numbers = mode.repeat(len(at), 1, 1)  # (codes of the chunk, batch, L)
        numbers[torch.arange(len(at)), :, slot] = others[:, slot, rank].T
        z = q.space.one_hot(numbers, logits.dtype)
        log_joint = model.log_joint(batch.x, z, context=batch.context, mask=batch.mask).double()
        found.append(log_joint + num_samples * torch.log1p(-q.log_prob(z).double().exp()))
    return (torch.cat(found).logsumexp(0) - log_evidence).exp()


def _stderr(values: Tensor) -> Tensor:
    """Standard error of the mean over draws, (draws, batch) to (batch,); NaN for a single draw."""
    if len(values) == 1:
        return torch.full_like(values[0], math.nan)
    return values.std(0) / math.sqrt(len(values))
