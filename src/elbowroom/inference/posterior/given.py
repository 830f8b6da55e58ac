r"""Draws of the elements of x that are left, given others: of rows of a table, given some of their columns.

.. math:: p(x_r | x_g) = \int p(z | x_g) \, p(x_r | z, x_g) \, dz

Many draws are wanted for one :math:`x_g`, where :mod:`elbowroom.inference.posterior.imputation` wants some for each of
many rows. So a proposal is fitted to :math:`p(z | x_g)` (:mod:`elbowroom.inference.importance.adaptive`), and of its
weighted draws z are chosen by their weights (sampling importance resampling),

.. math:: z_i \sim r(z), \qquad w_i = \frac{p(z_i) \, p(x_g | z_i)}{r(z_i)}, \qquad
    P(z = z_i) = \frac{w_i}{\sum_j w_j}, \qquad x_r \sim p(x_r | z, x_g)

as many of them that five are effective for each one that is chosen. The guide by itself would be wrong: it is an
approximation, and may have never seen such an :math:`x_g`. Where p(x | z) is a mixture, its component is summed out in
the weights, and drawn given :math:`x_g` and z. Codes are those of :mod:`elbowroom.inference.posterior.codes`: where
they are few, of a latent class model say, every draw is exact.

The average weight estimates the density of what is given, :math:`p(x_g)`.

Reference:
    Rubin (1988), Using the SIR algorithm to simulate posterior distributions.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError, check_num_samples
from elbowroom.inference.enumeration import enumerated
from elbowroom.inference.importance.adaptive import adapted_proposal, weighted_draws
from elbowroom.inference.importance.estimate import WeightSums
from elbowroom.inference.importance.pareto import pareto_k
from elbowroom.inference.posterior.codes import are_few, posterior_codes
from elbowroom.inference.posterior.imputation import check_normalized
from elbowroom.inference.target import require_possible
from elbowroom.memory import require_memory
from elbowroom.model import noise
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import completions, draw, mean
from elbowroom.model.latent import LatentModel
from elbowroom.numerics import chunks

__all__ = ["GivenDraws", "sample_given"]

_EFFECTIVE_PER_DRAW = 5  # weighted draws
_LEAST_EFFECTIVE = 1000
_MOST = 200_000  # weighted draws, unless so many draws are wanted that these need more
_MARGIN = 1.2  # on how many weighted draws that takes, by the proposal's share
_LARGEST = 2**24  # categories of a multinomial draw of torch


class GivenDraws(NamedTuple):
    """Draws given some elements of x.

    Attributes:
        z: shape (draws, batch, latent).
        x: shape (draws, batch, \\*event); what was given stands in it unchanged.
        mean: E[x | z, what was given], the same shape.
        ess: effective number of the weighted draws that z was chosen from, float64, shape (batch,); None where draws
            are exact and independent.
        weighted: how many weighted draws each example had; 0 where none was needed.
        pareto_k: k̂ of their weights' tail, float64, shape (batch,); None for codes.
        log_evidence: log p(what was given), nats, float64, shape (batch,); None for codes too many to sum over.
        stderr: its standard error; 0 where it is exact.
    """

    z: Tensor
    x: Tensor
    mean: Tensor
    ess: Tensor | None
    weighted: int
    pareto_k: Tensor | None
    log_evidence: Tensor | None
    stderr: Tensor | None


@torch.no_grad()
def sample_given(
    model: LatentModel,
    guide: Conditional,
    batch: Batch,
    num_samples: int,
    *,
    draws: int | None = None,
    chunk_elements: int = 2**20,
    generator: torch.Generator | None = None,
) -> GivenDraws:
    r"""Draws of z and of the unobserved elements of x, given the observed ones, for each example.

    .. math:: z \sim p(z | x_g), \qquad x_r \sim p(x_r | z, x_g)

    Args:
        model: p(x, z), in evaluation mode.
        guide: q(z | x), which gives the first proposal.
        batch: what is given, ``mask`` True where it is.
        num_samples: draws of each example.
        draws: weighted ones that z is chosen from; by default as many as have 1,000 effective ones, and five for each
            sample, but no more than 200,000 or twenty for each sample. Of codes the sampler decides.
        chunk_elements: draws are decoded a chunk at a time, such that no tensor of a chunk has more elements.
        generator: the source of randomness.
    Raises:
        ElbowroomError: a likelihood that is not normalised, or that cannot sum out what is not given; numbers below
            one; no room in memory.
        NotFiniteError: p(x_g | z) is 0, or not finite, for all draws of an example.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, guide, x = oracles.ppca(dim=8, latent_dim=2, seed=0, num_data=1)
        >>> batch = Batch(x, mask=torch.arange(8).unsqueeze(0) < 3)  # the first three are given
        >>> found = sample_given(model, guide, batch, 100, generator=torch.Generator().manual_seed(0))
        >>> found.x.shape, bool((found.x[..., :3] == x[..., :3]).all()), bool((found.ess > 1000).all())
        (torch.Size([100, 1, 8]), True, True)
    """
    check_num_samples(num_samples)
    check_normalized(model.likelihood)
    if draws is not None and not num_samples <= draws <= _LARGEST:
        raise ElbowroomError(
            f"--draws is {draws:,}, but {num_samples:,} samples are chosen from as many weighted draws at least, and "
            f"from {_LARGEST:,} at most.",
            "Leave it out, or give a number between these.",
        )
    if not batch.x.is_floating_point():
        batch = replace(batch, x=batch.x.to(torch.get_default_dtype()))
    elements = num_samples * len(batch) * math.prod(batch.x.shape[1:])
    require_memory(3 * elements * batch.x.element_size(), f"{num_samples:,} samples", "Ask for fewer at a time.")
    if model.latent_support == "codes":
        latents = _codes(model, guide, batch, num_samples, generator)
    else:
        latents = _resampled(model, guide, batch, num_samples, draws, chunk_elements, generator)
    x, means = _completed(model, batch, latents.z, chunk_elements, generator)
    return GivenDraws(latents.z, x, means, *latents[1:])


class _Latents(NamedTuple):
    """Draws of p(z | x_g), and what is known of them, as in :class:`GivenDraws`."""

    z: Tensor
    ess: Tensor | None
    weighted: int
    pareto_k: Tensor | None
    log_evidence: Tensor | None
    stderr: Tensor | None


def _codes(
    model: LatentModel, guide: Conditional, batch: Batch, num_samples: int, generator: torch.Generator | None
) -> _Latents:
    log_evidence = None
    if are_few(model.space):
        log_evidence = enumerated(model, batch).log_evidence
        require_possible(log_evidence.unsqueeze(0))
    found = posterior_codes(model, guide, batch, num_samples, generator=generator)
    exact = None if log_evidence is None else torch.zeros_like(log_evidence)
    return _Latents(found.z, found.ess, found.weighted, None, log_evidence, exact)


def _resampled(
    model: LatentModel,
    guide: Conditional,
    batch: Batch,
    num_samples: int,
    draws: int | None,
    chunk_elements: int,
    generator: torch.Generator | None,
) -> _Latents:
    fitted = adapted_proposal(model, guide, batch, chunk_elements=chunk_elements, generator=generator)
    if draws is None:
        wanted = max(_LEAST_EFFECTIVE, _EFFECTIVE_PER_DRAW * num_samples)
        most = min(_LARGEST, max(_MOST, 4 * _EFFECTIVE_PER_DRAW * num_samples))
        draws = min(most, math.ceil(_MARGIN * wanted / float(fitted.share.min())))
    found = weighted_draws(model, fitted.proposal, batch, draws, chunk_elements=chunk_elements, generator=generator)
    kept = noise.category(found.log_weights.T, (num_samples, len(batch)), generator)
    z = found.z.gather(0, kept.unsqueeze(-1).expand(-1, -1, found.z.shape[-1]))
    average = WeightSums.empty(len(batch), batch.x.device).add(found.log_weights).estimate()
    return _Latents(z, average.ess, draws, pareto_k(found.log_weights), average.log_evidence, average.stderr)


def _completed(
    model: LatentModel, batch: Batch, z: Tensor, chunk_elements: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Draws of x and their means given z, with what was observed unchanged."""
    likelihood, shape = model.likelihood, batch.x.shape
    x, means = (batch.x.new_empty(len(z), *shape) for _ in range(2))
    for some in chunks(len(z), max(1, chunk_elements // (shape.numel() * likelihood.num_parameters))):
        p_x = completions(likelihood(z[some], batch.context), batch.x, batch.mask)
        x[some], means[some] = draw(p_x, generator=generator).to(x), mean(p_x).to(x)
    if batch.mask is None:
        return batch.x.expand_as(x).clone(), batch.x.expand_as(x).clone()
    return torch.where(batch.mask, batch.x, x), torch.where(batch.mask, batch.x, means)
