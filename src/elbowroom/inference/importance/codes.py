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
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from elbowroom.data.batch import Batch, as_batch
from elbowroom.inference.enumeration import packed, sum_of_distinct
from elbowroom.inference.importance.estimate import WeightSums, weighted_in_chunks
from elbowroom.inference.importance.pareto import LargestWeights
from elbowroom.inference.kl import closed_form_kl
from elbowroom.model.code_distributions import Codes
from elbowroom.model.latent import LatentModel
from elbowroom.model.noise import NoiseSource

__all__ = ["CodeBounds", "code_bounds"]


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


@torch.no_grad()
def code_bounds(
    model: LatentModel,
    q: Codes,
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
    parts, drawn = [], None
    for weighted in weighted_in_chunks(
        model, q, batch, num_samples=num_samples, chunk_elements=chunk_elements, generator=generator
    ):
        sums, largest = sums.add(weighted.log_weights), largest.add(weighted.log_weights)
        numbers = space.numbers(weighted.z)  # (draws of a chunk, batch, L); of all draws they would be large
        drawn = numbers[0].clone() if drawn is None else drawn
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
    if closed is not None:
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
    )


def _stderr(values: Tensor) -> Tensor:
    """Standard error of the mean over draws, (draws, batch) to (batch,); NaN for a single draw."""
    if len(values) == 1:
        return torch.full_like(values[0], math.nan)
    return values.std(0) / math.sqrt(len(values))
