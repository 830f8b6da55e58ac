r"""Agreement of chains with importance weights: what shows a mode of the posterior that no chain has visited.

Chains that all stay about one mode agree with each other, so that R-hat is 1, and the energies they visit are
explored well, so that E-BFMI is high. Posteriors of several modes are common where a decoder gives each element a
standard deviation of its own: wherever it is small, near a value of x, there is a narrow mode. A mode with a
twentieth of the probability already makes means and standard deviations wrong by many standard errors.

So moments of the draws are compared with those of weighted draws that no chain has made. They come from Laplace
approximations around several modes and from the prior (:mod:`elbowroom.inference.importance.laplace_proposal`):

.. math:: \hat\mu_f = \sum_k \tilde w_k f(z_k), \qquad \tilde w_k \propto \frac{p(x, z_k)}{q_x(z_k)},
    \qquad z_k \sim q_x, \qquad f(z) \in \{z_j, \, (z_j - \bar z_j)^2\}

with :math:`\bar z` the mean of the chains' draws. The difference between both estimates of a moment is measured in
its standard error, which has a part of the chains (their variance over their effective sample size) and one of the
weights, :math:`\sum_k \tilde w_k^2 (f(z_k) - \hat\mu_f)^2`. Of squares only those count that are larger by the weights:
what the chains miss lies away from them, while weighted draws with few in the tails find squares too small, and do not
know it. Where the weights themselves cannot be trusted, by Pareto k̂, nothing is said.

Reference:
    Vehtari, Simpson, Gelman, Yao & Gabry (2024), Pareto smoothed importance sampling, JMLR 25, arXiv:1507.02646.
    Owen (2013), Monte Carlo theory, methods and examples, section 9.2, on the error of self-normalised weights.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from elbowroom.data.batch import Batch
from elbowroom.inference.importance.pareto import pareto_k, pareto_threshold
from elbowroom.inference.target import widest
from elbowroom.model.draws import draw
from elbowroom.model.latent import LatentModel
from elbowroom.numerics import chunks, effective_sample_size
from elbowroom.samplers.diagnostics import ess_mean

__all__ = ["DRAWS", "disagreement"]

DRAWS = 500
"""Weighted draws for each example, unless more are asked for."""
LEAST_ESS = 100
"""Effective draws from which the weights' own error is known well enough; with fewer it is often far too small."""
_CHUNK_ELEMENTS = 2**22  # of the largest tensor
_COMPONENTS = 10  # of a proposal, about


@torch.no_grad()
def disagreement(
    model: LatentModel,
    batch: Batch,
    z: Tensor,
    proposal: Distribution,
    *,
    draws: int = DRAWS,
    generator: Generator | None = None,
) -> Tensor:
    """How many standard errors apart the moments of chains and of weighted draws are, at most.

    Args:
        model: p(x, z), in evaluation mode.
        batch: data.
        z: draws of the chains, shape (draws, chains, data, latent).
        proposal: what the weighted draws are taken from, batch shape (data,).
        draws: how many of them, for each example.
        generator: the source of randomness.
    Returns:
        The largest absolute z-score over means and variances of all dimensions, float64, shape (data,), on the CPU; NaN
        where the weights are not reliable.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, _, x = oracles.ppca(dim=8, latent_dim=2, seed=0)
        >>> exact, generator = model.posterior(x), torch.Generator().manual_seed(0)
        >>> z = draw(exact, (100, 4), generator=generator)
        >>> [bool((disagreement(model, Batch(x), at, exact, generator=generator) < 5).all()) for at in (z, z + 0.2)]
        [True, False]
    """
    drawn = draw(proposal, (draws,), generator=generator)
    latent_dim = drawn.shape[-1]
    size = max(widest(model), _COMPONENTS * latent_dim) * len(batch)
    log_weights = torch.empty(draws, len(batch), dtype=torch.float64, device=drawn.device)
    for some in chunks(draws, max(1, _CHUNK_ELEMENTS // size)):
        log_p = model.log_joint(batch.x, drawn[some], context=batch.context, mask=batch.mask)
        log_weights[some] = log_p.double() - proposal.log_prob(drawn[some]).double()
    log_weights = log_weights.nan_to_num(nan=-torch.inf).cpu()
    weights, largest = log_weights.softmax(0), torch.zeros(len(batch), dtype=torch.float64)
    for j in range(latent_dim):
        chains, weighted = z[..., j].double().cpu(), drawn[..., j].double().cpu()
        center = chains.mean((0, 1))
        for power in (1, 2):
            of_chains, of_weights = (chains - center) ** power, (weighted - center) ** power
            average = (weights * of_weights).sum(0)
            error = (weights.square() * (of_weights - average).square()).sum(0)
            error += _squared_error(of_chains)
            difference = average - of_chains.mean((0, 1))
            difference = difference.abs() if power == 1 else difference.clamp(min=0)
            largest = torch.maximum(largest, difference / error.sqrt())
    reliable = (pareto_k(log_weights) <= pareto_threshold(draws)) & (effective_sample_size(log_weights) >= LEAST_ESS)
    return torch.where(reliable, largest, torch.nan)


def _squared_error(chains: Tensor) -> Tensor:
    """Of the mean of draws of shape (draws, chains, data): by the effective number of draws, or between half-chains.

    The larger of the two: of short chains an effective number is known badly, and half-chains are few.
    """
    draws, half = chains.shape[:2].numel(), len(chains) // 2
    effective = ess_mean(chains).clamp(max=draws)  # antithetic chains are worth more, but how much is not known well
    halves = torch.cat([chains[:half].mean(0), chains[-half:].mean(0)])
    return torch.maximum(chains.flatten(0, 1).var(0) / effective, halves.var(0) / len(halves))
