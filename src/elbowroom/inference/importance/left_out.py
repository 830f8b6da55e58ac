r"""log p of each element of x given all others, by importance sampling.

.. math:: \log p(x_d | x_{-d}) = \log p(x) - \log p(x_{-d}), \qquad
    \hat{p}(x_{-d}) = \frac{1}{k} \sum_{i=1}^k \frac{p(z_i) \, p(x_{-d} | z_i)}{q(z_i)}, \qquad z_i \sim q

The same draws serve all elements, so that D conditionals cost about as much as log p(x). Of the proposal this asks
more: where q is made for the posterior of the whole x, the ratio is the harmonic mean of :math:`p(x_d | z)`, which is
nats off for those elements that are of interest. An unlikely :math:`x_d` draws the posterior to where the posterior
without it has no mass, and q misses the latter. So q is a mixture that covers all D + 1 of them
(:func:`left_out_proposal`), and weights have the density of the whole mixture. Pareto k̂ of the weights without each
element says where that was not enough.

Reference:
    Gelfand (1996), Model determination using sampling-based methods, in Markov Chain Monte Carlo in Practice.
    Veach & Guibas (1995), Optimally combining sampling techniques for Monte Carlo rendering: the balance heuristic.
    Vehtari, Gelman & Gabry (2017), Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC,
    Statistics and Computing 27, arXiv:1507.04544: k̂ of weights without an observation.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, MultivariateNormal

from elbowroom.data.batch import Batch
from elbowroom.errors import check_num_samples
from elbowroom.inference.enumeration import all_codes
from elbowroom.inference.gaussian.curvature import covariance_factor
from elbowroom.inference.gaussian.laplace import laplace
from elbowroom.inference.importance.laplace_proposal import default_widening, laplace_proposal
from elbowroom.inference.importance.pareto import LargestWeights
from elbowroom.inference.target import widest
from elbowroom.model import noise
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import draw
from elbowroom.model.latent import LatentModel
from elbowroom.model.left_out import draw_left_out, left_out
from elbowroom.model.noise import NoiseSource
from elbowroom.numerics import RowSlots, chunks, draws_last

__all__ = [
    "LeftOutEstimate",
    "draws_in_all",
    "left_out_draws",
    "left_out_estimate",
    "left_out_exactly",
    "left_out_proposal",
]

_PER_ELEMENT = 0.1  # draws for the posterior without an element, for each draw for that of the whole
_STEPS = 8  # Newton steps from the mode of the whole to one without an element; most need one or none
_ELEMENTS = 2**20  # of the largest tensor of a chunk of draws
_TOLERANCE = 0.05  # nats that a further step may still gain


class LeftOutEstimate(NamedTuple):
    """What is estimated of each example and element; float64.

    Attributes:
        log_evidence: log p(x), nats, shape (batch,).
        log_conditional: ``log p(x_d | x_-d)``, nats, shape (batch, D).
        stderr: its standard error, by the delta method: both averages are of the same draws, shape (batch, D).
        ess: effective number of draws, for p(x) or for ``p(x_-d)``, whichever are fewer, shape (batch, D).
        pareto_k: k̂ of the weights, for p(x) or for ``p(x_-d)``, whichever is larger, shape (batch, D).
    """

    log_evidence: Tensor
    log_conditional: Tensor
    stderr: Tensor
    ess: Tensor
    pareto_k: Tensor


@torch.no_grad()
def left_out_proposal(
    model: LatentModel,
    guide: Conditional | None,
    batch: Batch,
    filler: Tensor,
    *,
    starts: int = 4,
    slots: RowSlots | None = None,
    generator: NoiseSource | None = None,
) -> Distribution:
    """A proposal for p(z | x), and for ``p(z | x_-d)`` for every d.

    For every ten draws of :func:`~elbowroom.inference.importance.laplace_proposal.laplace_proposal` there is one of a
    Laplace approximation of each posterior without an element, which is found from the highest mode of the whole.

    Args:
        model, guide, starts, slots, generator: as there.
        batch: data, ``x`` of shape (batch, D).
        filler: what stands in x for an element that was not observed, of a shape that expands to (D,).
    """
    whole = laplace_proposal(model, guide, batch, starts=starts, slots=slots, generator=generator)
    assert isinstance(whole.q, MixtureSameFamily)
    components = whole.q.component_distribution
    assert isinstance(components, MultivariateNormal)
    rows, columns = batch.x.shape
    mode = components.loc[:, 0]
    others = []
    for column in range(columns):
        found = laplace(model, mode, _without(batch, column, filler), steps=_STEPS, tolerance=_TOLERANCE, slots=slots)
        others.append((found.mode, covariance_factor(found.precision)))
    widening = math.sqrt(default_widening(mode.shape[-1]))
    loc = torch.cat([components.loc, torch.stack([mode for mode, _ in others], 1)], 1)
    tril = torch.cat([components.scale_tril, widening * torch.stack([factor for _, factor in others], 1).to(loc)], 1)
    logits = whole.q.mixture_distribution.logits
    logits = torch.cat([logits, logits.new_full((rows, columns), math.log(_PER_ELEMENT))], 1)
    normals = MultivariateNormal(loc, scale_tril=tril, validate_args=False)
    return MixtureSameFamily(Categorical(logits=logits, validate_args=False), normals, validate_args=False)


def draws_in_all(num_samples: int, elements: int) -> int:
    """k draws for p(x), and k / 10 more for each element.

    Example:
        >>> draws_in_all(1000, 8)
        1800
    """
    return num_samples + math.ceil(_PER_ELEMENT * num_samples) * elements


def _without(batch: Batch, column: int, filler: Tensor) -> Batch:
    """The batch as if an element had not been observed."""
    mask = torch.ones_like(batch.x, dtype=torch.bool) if batch.mask is None else batch.mask.clone()
    x = batch.x.clone()
    x[:, column] = filler.expand(x.shape[1:])[column].to(x)
    mask[:, column] = False
    return replace(batch, x=x, mask=mask)


@torch.no_grad()
def left_out_estimate(
    model: LatentModel,
    q: Distribution,
    batch: Batch,
    *,
    num_samples: int,
    chunk_elements: int = 2**20,
    generator: NoiseSource | None = None,
) -> LeftOutEstimate:
    """Estimate ``log p(x_d | x_-d)`` of each element of each example from draws of a proposal.

    Args:
        model: p(x, z), in evaluation mode.
        q: one proposal for each example, batch shape (batch,), event shape (latent,).
        batch: data, ``x`` of shape (batch, D). Of an element that was not observed nothing is to be said: 0.
        num_samples: k, draws of z per example for p(x), to which come k / 10 for each element.
        chunk_elements: of the draws, as in :func:`~elbowroom.inference.importance.estimate.importance_estimate`.
        generator: the source of randomness.
    Raises:
        ElbowroomError: ``num_samples`` below 1.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, _, x = oracles.ppca(dim=4, latent_dim=1, seed=0)
        >>> generator = torch.Generator().manual_seed(0)
        >>> q = left_out_proposal(model, None, Batch(x), torch.tensor(0.0), generator=generator)
        >>> found = left_out_estimate(model, q, Batch(x), num_samples=500, generator=generator)
        >>> without = torch.tensor([[False, True, True, True]]).expand_as(x)
        >>> exact = model.log_evidence(x) - model.log_evidence(x, without)
        >>> bool(((found.log_conditional[:, 0] - exact).abs() < 5 * found.stderr[:, 0]).all())
        True
    """
    check_num_samples(num_samples)
    prior = model.prior(None, batch.context)
    per_draw = max(1, len(batch) * widest(model))
    whole, rest = [], []
    for chunk in chunks(draws_in_all(num_samples, batch.x.shape[1]), max(1, chunk_elements // per_draw)):
        z = draw(q, (chunk.stop - chunk.start,), generator=generator)
        log_base = (prior.log_prob(z) - q.log_prob(z)).double()
        found = left_out(model.likelihood(z, batch.context), batch.x, batch.mask)
        whole.append(log_base + found.whole)
        rest.append(log_base.unsqueeze(-1) + found.rest)
    return _estimate(torch.cat(whole), torch.cat(rest))


@torch.no_grad()
def left_out_exactly(model: LatentModel, batch: Batch) -> LeftOutEstimate:
    """``log p(x_d | x_-d)`` of a model of codes, by the sum over all of them; nothing is estimated.

    Raises:
        ElbowroomError: z is continuous, or has too many codes.
    """
    z = all_codes(model.space, dtype=next(model.parameters()).dtype, device=batch.x.device).unsqueeze(1)
    z = z.expand(-1, len(batch), -1)
    log_base = model.log_prior(z, batch.context).double()
    found = left_out(model.likelihood(z, batch.context), batch.x, batch.mask)
    log_evidence = draws_last(log_base + found.whole).logsumexp(-1)
    log_rest = draws_last(log_base.unsqueeze(-1) + found.rest).logsumexp(-1)
    none = torch.zeros_like(log_rest)
    log_conditional = log_evidence.unsqueeze(-1) - log_rest
    return LeftOutEstimate(log_evidence, log_conditional, none, none + math.inf, none - math.inf)


@torch.no_grad()
def left_out_draws(
    model: LatentModel,
    guide: Conditional | None,
    batch: Batch,
    filler: Tensor,
    *,
    num_samples: int,
    kept: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draws of each element of x given all others, ``x_d ~ p(x_d | x_-d)``, by resampling.

    Args:
        model, guide, batch, filler: as of :func:`left_out_proposal`; codes are gone through in the place of draws.
        num_samples: k, draws of z per example for p(x), to which come k / 10 for each element.
        kept: draws of each element, of those with which the draws of z come.
        generator: the source of randomness.
    Returns:
        Shape (kept, batch, D). Draws are independent as far as the effective draws of z are many more than ``kept``.
    """
    draws = draws_in_all(num_samples, batch.x.shape[1])
    if model.latent_support == "codes":
        codes = all_codes(model.space, dtype=next(model.parameters()).dtype, device=batch.x.device)
        z = codes.repeat(-(-draws // len(codes)), 1).unsqueeze(1).expand(-1, len(batch), -1)
        log_base = model.log_prior(z, batch.context)
    else:
        q = left_out_proposal(model, guide, batch, filler, starts=1, generator=generator)
        z = draw(q, (draws,), generator=generator)
        log_base = model.log_prior(z, batch.context) - q.log_prob(z)
    rest, x = [], []
    for some in chunks(len(z), max(1, _ELEMENTS // max(1, len(batch) * widest(model)))):
        p_x = model.likelihood(z[some], batch.context)
        rest.append(left_out(p_x, batch.x, batch.mask).rest)
        x.append(draw_left_out(p_x, batch.x, batch.mask, generator=generator))
    log_weights = (log_base.double().unsqueeze(-1) + torch.cat(rest)).movedim(0, -1)  # (batch, D, draws)
    which = noise.category(log_weights, (kept, *log_weights.shape[:-1]), generator)
    return torch.cat(x).gather(0, which)


def _estimate(whole: Tensor, rest: Tensor) -> LeftOutEstimate:
    """From log weights of shape (k, batch) and (k, batch, D)."""
    k, rows, columns = rest.shape
    tail, tails = (
        LargestWeights.empty(k, part[0].numel()).add(part.reshape(k, -1)).pareto_k() for part in (whole, rest)
    )
    whole, rest = draws_last(whole), draws_last(rest)
    log_total, log_rest = whole.logsumexp(-1), rest.logsumexp(-1)
    share, shares = whole.softmax(-1), rest.softmax(-1)
    scatter = (share.unsqueeze(-2) - shares).square().sum(-1)
    return LeftOutEstimate(
        log_total - math.log(k),
        log_total.unsqueeze(-1) - log_rest,
        (scatter * k / max(1, k - 1)).sqrt(),
        torch.minimum(1 / share.square().sum(-1, keepdim=True), 1 / shares.square().sum(-1)),
        torch.maximum(tail.unsqueeze(-1), tails.reshape(rows, columns)),
    )
