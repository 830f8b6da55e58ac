r"""Codebooks that follow the encoder: k-means at the start, moving averages from then on, new places for dead codes.

For the encoder's outputs :math:`e_{bl}` of a batch, of which :math:`n_{lk}` in slot l have code k as their nearest (of
slots that share a table of vectors, all together),

.. math:: N_{lk} \leftarrow \gamma N_{lk} + (1 - \gamma) \, n_{lk}, \qquad
    m_{lk} \leftarrow \gamma m_{lk} + (1 - \gamma) \sum_{b: k_{bl} = k} e_{bl}, \qquad
    c_{lk} = m_{lk} \Big/ \frac{N_{lk} + \epsilon}{\sum_j (N_{lj} + \epsilon)} \sum_j N_{lj}

With :math:`\gamma = 0` one update is one iteration of k-means. N and m start from the first batch, at whose k-means the
codes are put. Averages that start from zero divide what little they have seen: the first update throws every code that
the batch did not use to the origin.

A code whose share of the usage has become a small part of an equal one is dead, and is put at an output of the current
batch. All this is the training method's state; nothing of it happens in a forward pass, so evaluation changes nothing.

Reference:
    van den Oord, Vinyals & Kavukcuoglu (2017), Neural Discrete Representation Learning, appendix A.1, arXiv:1711.00937.
    Razavi, van den Oord & Vinyals (2019), VQ-VAE-2, section 2.1, arXiv:1906.00446.
    Dhariwal et al. (2020), Jukebox, appendix B.1, restarts of codes, arXiv:2005.00341.
    Arthur & Vassilvitskii (2007), k-means++: The Advantages of Careful Seeding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.model import noise
from elbowroom.model.code_distributions import CodeSpace
from elbowroom.model.noise import NoiseSource
from elbowroom.model.quantizer import Codebook, squared_distances

__all__ = ["CodebookAverages", "k_means", "read_by_table"]

_EPSILON = 1e-5  # of the smoothing, in examples of a batch
_FORGOTTEN = 1e-2  # usage, in examples of a batch, below which a code stays where it is: 1,000 times the smoothing
_FRESH = 10.0  # usage of a restarted code, in thresholds, but an equal share at most


@dataclass(slots=True)
class CodebookAverages:
    """Moving averages over the batches of training.

    Attributes:
        counts: N, vectors of a batch that have a code as their nearest, shape (T, K).
        sums: m, the sum of these vectors, shape (T, K, d).
        distances: squared distance of a vector from its nearest code, the mean over a batch, shape (T, 1).
    """

    counts: Tensor
    sums: Tensor
    distances: Tensor

    @classmethod
    def empty(cls, codebook: Codebook) -> CodebookAverages:
        """Averages over no batch, to be started by an update without memory, γ = 0, or by :meth:`load`."""
        zeros = torch.zeros_like(codebook.vectors.detach())
        return cls(zeros[..., 0].clone(), zeros, zeros[:, :1, 0].clone())

    @torch.no_grad()
    def update(self, vectors: Tensor, z: Tensor, codebook: Codebook, *, decay: float) -> None:
        """Takes a batch in.

        Args:
            vectors: e, shape (batch, L, d).
            z: their nearest codes, one-hot, shape (batch, L K).
            codebook: from which they were chosen.
            decay: γ.
        """
        chosen, vectors = read_by_table(codebook.space.split(z), codebook), read_by_table(vectors, codebook)
        distances = (squared_distances(vectors, codebook.vectors) * chosen).sum(-1).clamp(min=0).mean(0)
        for average, new in (
            (self.counts, chosen.sum(0)),
            (self.sums, _sums(vectors, chosen)),
            (self.distances, distances.unsqueeze(-1)),
        ):
            average.mul_(decay).add_(new, alpha=1 - decay)

    def centres(self, table: Tensor) -> Tensor:
        """c, shape (T, K, d). A code that nobody has used for so long that the smoothing would shorten it stays in its
        place in the table."""
        total, codes = self.counts.sum(-1, keepdim=True), self.counts.shape[-1]
        smoothed = (self.counts + _EPSILON) / (total + codes * _EPSILON) * total
        used = (self.counts > _FORGOTTEN).unsqueeze(-1)
        return torch.where(used, self.sums / smoothed.unsqueeze(-1), table)

    @torch.no_grad()
    def restart(self, table: Tensor, vectors: Tensor, *, below: float, generator: NoiseSource) -> Tensor:
        """The table with dead codes at vectors of the current batch, chosen at random.

        Args:
            table: c, shape (T, K, d).
            vectors: e, as `read_by_table` gives them, shape (n, T, d).
            below: the part of an equal share of the usage below which a code is dead.
            generator: the source of randomness; as many numbers are drawn whether codes are dead or not.
        """
        equal = self.counts.mean(-1, keepdim=True)
        dead = self.counts < below * equal  # (T, K)
        u = noise.uniform(self.counts.shape, self.counts, generator)
        rows = (u * len(vectors)).long().clamp(max=len(vectors) - 1)
        places = vectors[rows, torch.arange(len(rows), device=rows.device).unsqueeze(-1)]  # (T, K, d)
        self.counts = torch.where(dead, min(1.0, _FRESH * below) * equal, self.counts)
        self.sums = torch.where(dead.unsqueeze(-1), places * self.counts.unsqueeze(-1), self.sums)
        return torch.where(dead.unsqueeze(-1), places, table)

    def tensors(self) -> dict[str, Tensor]:
        """All averages, by name, to be saved."""
        return {"counts": self.counts, "sums": self.sums, "distances": self.distances}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores what :meth:`tensors` returned."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])


def read_by_table(values: Tensor, codebook: Codebook) -> Tensor:
    """What each table of a codebook gets, (batch, L, m) as (batch × P, T, m): every place of every example is a row."""
    return codebook.by_place(values).flatten(0, 1)


@torch.no_grad()
def k_means(vectors: Tensor, codes: int, generator: NoiseSource, *, iterations: int = 10) -> Tensor:
    """Centres of K clusters for each slot: k-means++, then Lloyd's iterations.

    Args:
        vectors: shape (n, L, d).
        codes: K; where a slot has fewer distinct vectors, some centres are equal.
        generator: the source of randomness.
        iterations: of Lloyd's algorithm; a cluster that has lost all its vectors stays where it is.
    Returns:
        Shape (L, K, d).
    Reference:
        Arthur & Vassilvitskii (2007), k-means++: the advantages of careful seeding.
    Example:
        >>> two = torch.tensor([0.0, 0.1, 5.0, 5.1]).reshape(4, 1, 1)
        >>> k_means(two, 2, torch.Generator().manual_seed(0)).flatten().sort().values
        tensor([0.0500, 5.0500])
    """
    n, slots, dim = vectors.shape
    centres = vectors.new_empty(slots, codes, dim)
    u = noise.uniform((codes, slots, 1), vectors, generator)
    far = vectors.new_ones(n, slots)  # squared distance from the nearest centre so far
    for k in range(codes):
        cumulative = far.T.cumsum(-1)  # (L, n)
        # the first row whose cumulative weight lies above the number: never one of weight 0
        row = torch.searchsorted(cumulative, u[k] * cumulative[:, -1:], right=True).clamp(max=n - 1).squeeze(-1)
        centres[:, k] = vectors[row, torch.arange(slots, device=row.device)]
        distance = squared_distances(vectors, centres[:, k : k + 1]).squeeze(-1).clamp(min=0)
        far = distance if k == 0 else torch.minimum(far, distance)
    for _ in range(iterations):
        chosen = _assigned(vectors, centres)
        counts = chosen.sum(0).unsqueeze(-1)  # (L, K, 1)
        centres = torch.where(counts > 0, _sums(vectors, chosen) / counts.clamp(min=1), centres)
    return centres


def _assigned(vectors: Tensor, centres: Tensor) -> Tensor:
    """The nearest centre of each slot, one-hot, shape (n, L, K)."""
    slots, codes, _ = centres.shape
    space = CodeSpace(slots, codes)
    return space.split(space.one_hot(squared_distances(vectors, centres).argmin(-1), vectors.dtype))


def _sums(vectors: Tensor, chosen: Tensor) -> Tensor:
    """The sum of the vectors of every code, shape (L, K, d)."""
    return torch.einsum("nlk,nld->lkd", chosen, vectors)
