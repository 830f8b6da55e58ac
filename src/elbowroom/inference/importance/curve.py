r"""The importance-weighted bound as a function of the number of draws, from one set of draws.

.. math:: \mathcal{L}_k(x) = \frac{k}{K} \sum_{b=1}^{K/k} \log \frac1k \sum_{i \in \text{block } b} w_i

For each k the K draws are cut into K / k blocks, so that every draw is used for every k. The average over blocks of the
log of the average weight is unbiased for the bound of k draws. Blocks of a larger k are made of whole blocks of a
smaller one. By Jensen's inequality the curve then rises on every sample, not in expectation alone.

A curve that still rises at its end has not reached log p(x); the tail of the weights says so too, in one number
(:mod:`elbowroom.inference.importance.pareto`).

Reference:
    Burda, Grosse & Salakhutdinov (2016), Importance Weighted Autoencoders, arXiv:1509.00519, theorem 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from elbowroom.data.batch import Batch, as_batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.importance.estimate import ImportanceEstimate, WeightSums, weights_in_chunks
from elbowroom.inference.importance.pareto import LargestWeights
from elbowroom.model.latent import LatentModel
from elbowroom.model.noise import NoiseSource
from elbowroom.numerics import draws_last, log_mean_exp

__all__ = ["ImportanceCurve", "importance_curve"]


class ImportanceCurve(NamedTuple):
    """The bound for several numbers of draws; float64.

    Attributes:
        ks: numbers of draws, rising.
        log_evidence: nats, shape (len(ks), batch); rises along the first axis.
        estimate: of all K draws together.
    """

    ks: tuple[int, ...]
    log_evidence: Tensor
    estimate: ImportanceEstimate


@torch.no_grad()
def importance_curve(
    model: LatentModel,
    q: Distribution,
    batch: Batch | Tensor,
    *,
    ks: Sequence[int] = (1, 10, 100, 1000, 5000),
    chunk_elements: int = 2**20,
    generator: NoiseSource | None = None,
) -> ImportanceCurve:
    r"""The importance-weighted bound of each example for every k.

    Args:
        model: p(x, z), in evaluation mode if its networks have batch normalisation or dropout.
        q: one proposal for each example, as in
            :func:`~elbowroom.inference.importance.estimate.importance_estimate_from`.
        batch: data, ``x`` of shape (batch, \*event).
        ks: numbers of draws, each of which divides the next; as many draws are made as the last says.
        chunk_elements: as in :func:`~elbowroom.inference.importance.estimate.importance_estimate`.
        generator: the source of randomness.
    Raises:
        ElbowroomError: a k below 1, or one that does not divide the next.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, guide, x = oracles.ppca(dim=8, latent_dim=2, seed=0)
        >>> found = importance_curve(model, guide(x), x, ks=(1, 10, 100))
        >>> bool((found.log_evidence.diff(dim=0) >= 0).all())
        True
    """
    batch = as_batch(batch)
    ks = tuple(ks)
    if not ks or ks[0] < 1 or any(b <= a or b % a for a, b in pairwise(ks)):
        raise ElbowroomError(
            f"ks are {', '.join(map(str, ks)) or 'none'}, but the numbers of draws of a curve are 1 or more and each "
            "divides the next.",
            "Give ks=(1, 10, 100, 1000, 5000), say.",
        )
    size, device = len(batch), batch.x.device
    levels = [_Level(b // a, size, device) for a, b in pairwise((1, *ks))]
    sums, largest = WeightSums.empty(size, device), LargestWeights.empty(ks[-1], size, device)
    for log_weights in weights_in_chunks(
        model, q, batch, num_samples=ks[-1], chunk_elements=chunk_elements, generator=generator
    ):
        sums, largest = sums.add(log_weights), largest.add(log_weights)
        parts = log_weights.double()
        for level in levels:
            parts = level.add(parts)
    curve = torch.stack([level.total / level.blocks for level in levels])
    return ImportanceCurve(ks, curve, ImportanceEstimate(*sums.estimate(), largest.pareto_k()))


class _Level:
    """Blocks made of a fixed number of smaller blocks; incomplete ones wait for more draws."""

    def __init__(self, ratio: int, size: int, device: torch.device) -> None:
        self._ratio = ratio
        self._waiting = torch.empty(0, size, dtype=torch.float64, device=device)
        self.total, self.blocks = torch.zeros(size, dtype=torch.float64, device=device), 0

    def add(self, parts: Tensor) -> Tensor:
        """Log averages of the blocks that these parts, shape (n, batch), fill."""
        known = torch.cat([self._waiting, parts])
        full = len(known) // self._ratio
        filled = draws_last(known[: full * self._ratio]).reshape(known.shape[1], full, self._ratio)
        self._waiting = known[full * self._ratio :]
        found = log_mean_exp(filled, -1)
        self.total, self.blocks = self.total + found.sum(-1), self.blocks + full
        return found.T
