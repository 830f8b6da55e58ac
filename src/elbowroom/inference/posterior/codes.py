r"""Draws of p(z | x) where z is a row of codes and parts of x are missing: exact ones, or by importance resampling.

Where there are few codes, :math:`p(z | x_o)` is summed up and drawn from. Else weighted draws of a proposal r are drawn
from again in proportion to their weights,

.. math:: z_i \sim r(z), \qquad w_i = \frac{p(z_i) \, p(x_o | z_i)}{r(z_i)},
    \qquad P(z = z_i) = \frac{w_i}{\sum_j w_j}

The guide alone would be a poor proposal: it reads what stands in a missing place as an observation. So the missing
elements are filled in several times, by alternate draws of :math:`z \sim q(z | x)` and :math:`x_m \sim p(x_m | z)`
(Rezende, Mohamed & Wierstra 2014, appendix F), which leads to an approximation of :math:`p(x_m | x_o)`. The proposal is
the mixture of the guide at all of these, and of the prior, so that no weight is above J + 1 times :math:`p(x_o | z)`:

.. math:: r(z) = \frac{1}{J + 1} \Big[ p(z) + \sum_{j=1}^J q(z | x_o, x_m^{(j)}) \Big]

Each component gives the same number of draws, and each draw is weighed by the whole mixture, so that the weights are
unbiased however good the completions are.

Reference:
    Rubin (1988), Using the SIR algorithm to simulate posterior distributions.
    Rezende, Mohamed & Wierstra (2014), Stochastic Backpropagation, appendix F, arXiv:1401.4082.
    Owen & Zhou (2000), Safe and Effective Importance Sampling, section 4: a mixture as the proposal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from elbowroom.data.batch import Batch, as_batch
from elbowroom.errors import ElbowroomError, check_num_samples
from elbowroom.inference.enumeration import exact_posterior_draws
from elbowroom.inference.target import require_possible, widest
from elbowroom.model import noise
from elbowroom.model.code_distributions import Codes, CodeSpace
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import draw
from elbowroom.model.guides import guide_distribution
from elbowroom.model.latent import LatentModel
from elbowroom.model.top_down_codes import TopDownCodes
from elbowroom.numerics import chunks, effective_sample_size

__all__ = ["CodeDraws", "are_few", "posterior_codes"]

_FEW_CODES = 2**16  # that are summed up: fewer decodings than draws would take, since the rows share them
_ROWS_AT_ONCE = 64  # whose posterior over so many codes is held
_COMPLETIONS, _ROUNDS = 16, 10  # J, and the alternate draws that lead to each
_LEAST_WEIGHTED, _PER_DRAW = 5000, 5  # weighted draws: in all at least, and for each that is kept
_KEPT_ELEMENTS = 2**24  # of weighted draws


class CodeDraws(NamedTuple):
    """Draws of p(z | x).

    Attributes:
        z: one-hot, shape (draws, batch, L K).
        ess: effective number of the weighted draws that they were chosen from, float64, shape (batch,); None where
            they are exact and independent.
        weighted: how many weighted draws each example had; 0 where none was needed.
    """

    z: Tensor
    ess: Tensor | None
    weighted: int


def are_few(space: CodeSpace) -> bool:
    """Whether there are so few codes that draws sum over all of them, which makes them exact.

    Example:
        >>> are_few(CodeSpace(1, 24)), are_few(CodeSpace(24, 16))
        (True, False)
    """
    return space.size <= _FEW_CODES


@torch.no_grad()
def posterior_codes(
    model: LatentModel,
    guide: Conditional,
    batch: Batch | Tensor,
    num_samples: int,
    *,
    exact: bool | None = None,
    chunk_elements: int = 2**20,
    generator: torch.Generator | None = None,
) -> CodeDraws:
    r"""Draws z ~ p(z | x observed) of each example.

    Args:
        model: p(x, z) with codes as latents, in evaluation mode.
        guide: q(z | x) over codes.
        batch: data, ``mask`` True where an element was observed; what stands elsewhere does not matter, except for how
            soon the completions are likely ones.
        num_samples: draws of each example.
        exact: whether to sum over all codes; by default where they are 65,536 at most.
        chunk_elements: draws are weighed a chunk at a time, such that no layer of the networks has more elements.
        generator: the source of randomness.
    Raises:
        ElbowroomError: latents that are no codes; ``num_samples`` below 1; a guide whose slots are not independent.
        NotFiniteError: no draw of an example has a density.
    Example:
        >>> import elbowroom as er
        >>> from elbowroom.model.code_distributions import CodeSpace
        >>> from elbowroom.model.codes import CategoricalGuide, UniformCodes
        >>> space = CodeSpace(3, 4)
        >>> decoder, encoder = er.networks.MLP((12,), (1, 10)), er.networks.MLP((10,), (3, 4))
        >>> model = er.LatentModel(UniformCodes(space), er.likelihoods.Bernoulli(decoder, (10,)))
        >>> batch = Batch(torch.ones(5, 10), mask=torch.arange(10).expand(5, 10) < 6)
        >>> posterior_codes(model, CategoricalGuide(encoder, space), batch, 100).z.shape
        torch.Size([100, 5, 12])
    """
    check_num_samples(num_samples)
    batch, space = as_batch(batch), model.space
    if exact if exact is not None else are_few(space):
        parts = [batch.rows(part) for part in chunks(len(batch), _ROWS_AT_ONCE)]
        return CodeDraws(
            torch.cat([exact_posterior_draws(model, part, num_samples, generator=generator) for part in parts], 1),
            None,
            0,
        )
    each = math.ceil(max(_LEAST_WEIGHTED, _PER_DRAW * num_samples) / (_COMPLETIONS + 1))
    weighted = each * (_COMPLETIONS + 1)
    found, ess = [], []
    for rows in chunks(len(batch), max(1, _KEPT_ELEMENTS // (weighted * space.dim))):
        part = batch.rows(rows)
        z, log_weights = _weighted(
            model, _completed(model, guide, part, generator), part, each, chunk_elements, generator
        )
        require_possible(log_weights)
        kept = noise.category(log_weights.T, (num_samples, len(part)), generator)
        found.append(z.gather(0, kept.unsqueeze(-1).expand(-1, -1, space.dim)))
        ess.append(effective_sample_size(log_weights))
    return CodeDraws(torch.cat(found, 1), torch.cat(ess), weighted)


def _completed(
    model: LatentModel, guide: Conditional, batch: Batch, generator: torch.Generator | None
) -> Codes | TopDownCodes:
    """The guide at J completions of each example, batch shape (J × batch,), one completion of all examples first."""
    copies = batch.rows(torch.arange(len(batch), device=batch.x.device).repeat(_COMPLETIONS))
    for _ in range(0 if copies.mask is None else _ROUNDS):
        z = draw(guide_distribution(guide, copies), generator=generator)
        drawn = draw(model.likelihood(z, copies.context), generator=generator)
        assert copies.mask is not None
        copies = replace(copies, x=torch.where(copies.mask, copies.x, drawn.to(copies.x.dtype)))
    q = guide_distribution(guide, copies)
    if not isinstance(q, Codes | TopDownCodes):
        raise ElbowroomError(
            f"Draws of codes need a guide whose slots are independent, but this one returns a {type(q).__name__}.",
            "Use a guide over codes, categorical or nearest-code.",
        )
    return q


def _weighted(
    model: LatentModel,
    guides: Codes | TopDownCodes,
    batch: Batch,
    each: int,
    chunk_elements: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Draws of the mixture, shape (n, batch, L K), and their log weights, float64, shape (n, batch)."""
    prior, space = model.prior(None, batch.context), model.space
    of_prior = draw(prior, (each,) if prior.batch_shape else (each, len(batch)), generator=generator)
    of_guides = draw(guides, (each,), generator=generator).reshape(-1, len(batch), space.dim)
    z = torch.cat([of_guides, of_prior.to(of_guides.dtype)])
    densities = _each(guides, len(batch))
    inner = guides.widest if isinstance(guides, TopDownCodes) else 1
    elements = len(batch) * max(space.dim, batch.x[0].numel(), widest(model), inner)
    log_weights = []
    for part in chunks(len(z), max(1, chunk_elements // elements)):
        some = z[part]
        log_prior = prior.log_prob(some).double()
        log_guides = densities(some).double()
        log_mixture = torch.cat([log_prior.unsqueeze(0), log_guides]).logsumexp(0) - math.log(len(log_guides) + 1)
        log_likelihood = model.log_likelihood(batch.x, some, context=batch.context, mask=batch.mask).double()
        log_weights.append(log_prior + log_likelihood - log_mixture)
    return z, torch.cat(log_weights)


def _each(guides: Codes | TopDownCodes, rows: int) -> Callable[[Tensor], Tensor]:
    """log q of draws, shape (n, batch, L K), under the guide at each completion, shape (J, n, batch)."""
    if isinstance(guides, TopDownCodes):
        parts = [guides.rows(slice(start, start + rows)) for start in range(0, guides.batch_shape[0], rows)]
        return lambda z: torch.stack([part.log_prob(z) for part in parts])
    logits = guides.logits.flatten(-2).clamp(min=torch.finfo(guides.logits.dtype).min)  # 0 · (−∞) would be NaN
    return lambda z: torch.einsum("nbd,jbd->jnb", z, logits.reshape(-1, rows, logits.shape[-1]))
