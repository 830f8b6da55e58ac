"""Persistent Markov chains: the state of every example's chains between two visits.

Stored for each example, by its position in the data set: the positions of its chains, their metric, the offset of its
step size from the common one, and its number of visits. In memory, or memory-mapped, one file for each tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.memory import require_memory
from elbowroom.samplers.metric import Metric

__all__ = ["BatchChains", "ChainStore", "no_positions"]


class BatchChains(NamedTuple):
    """State of the chains of a batch.

    Attributes:
        z: positions of the chains, shape (chains, batch, latent).
        metric: of the chains, one for each example.
        log_step: log ε of each example minus the common log ε, shape (batch,).
        visits: number of visits so far, int64, shape (batch,); where it is 0, the rest is not set.
    """

    z: Tensor
    metric: Metric
    log_step: Tensor
    visits: Tensor


class ChainStore:
    """The chains of all training examples.

    Args:
        positions: of the examples in the data set, ascending, int64, shape (examples,).
        chains: number of chains per example.
        like: a tensor with the dtype and device of the model; its last axis is the latent dimension.
        dense: whether metrics are matrices.
        folder: where to write memory-mapped files; None keeps everything in memory.
    Raises:
        ElbowroomError: the chains do not fit into memory.
    """

    def __init__(
        self, positions: Tensor, chains: int, like: Tensor, *, dense: bool, folder: Path | None = None
    ) -> None:
        num_data, dim = len(positions), like.shape[-1]
        self._positions = positions.to(like.device)
        self._like, self._folder = like, folder
        self._shapes: dict[str, tuple[int, ...]] = {
            "z": (num_data, chains, dim),
            "center": (num_data, dim),
            "factor": (num_data, dim, dim) if dense else (num_data, dim),
            "log_step": (num_data,),
            "visits": (num_data,),
        }
        if folder is None:
            require_memory(
                like.element_size() * sum(math.prod(shape) for shape in self._shapes.values()),
                f"To keep {chains:,} chains in {dim} dimensions for each of {num_data:,} examples, with their metrics,",
                "Keep them on disk with --mcem.storage disk, use --mcem.metric identity, or restart them with "
                "--mcem.start prior.",
                like.device,
            )

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        """The tensors by name, made when first needed, so that a run that cannot begin leaves no files."""
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        made: dict[str, Tensor] = {}
        for name, shape in self._shapes.items():
            dtype = torch.int32 if name == "visits" else self._like.dtype
            if self._folder is None:
                made[name] = torch.zeros(shape, dtype=dtype, device=self._like.device)
            else:
                file = str(self._folder / f"{name}.bin")
                Path(file).unlink(missing_ok=True)  # a new file is all zeros, and sparse
                made[name] = torch.from_file(file, shared=True, size=math.prod(shape), dtype=dtype).view(shape)
        return made

    def read(self, index: Tensor | None) -> BatchChains:
        """The chains of the examples at these positions."""
        rows = self._rows(index)
        kept = {name: tensor[rows.to(tensor.device)].to(rows.device) for name, tensor in self._tensors.items()}
        metric = Metric(kept["center"], kept["factor"], upper=kept["factor"].dim() == 3)
        return BatchChains(kept["z"].transpose(0, 1), metric, kept["log_step"], kept["visits"].long())

    def write(self, index: Tensor | None, found: BatchChains) -> None:
        """Stores the chains of the examples at these positions, for their next visit."""
        rows = self._rows(index)
        parts = {
            "z": found.z.transpose(0, 1),
            "center": found.metric.center,
            "factor": found.metric.factor,
            "log_step": found.log_step,
            "visits": found.visits,
        }
        for name, part in parts.items():
            tensor = self._tensors[name]
            tensor[rows.to(tensor.device)] = part.to(device=tensor.device, dtype=tensor.dtype)

    def tensors(self) -> Mapping[str, Tensor]:
        """All tensors, to be saved."""
        return self._tensors

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores what :meth:`tensors` returned."""
        for name, tensor in self._tensors.items():
            tensor.copy_(tensors[name])

    def _rows(self, index: Tensor | None) -> Tensor:
        if index is None:
            raise no_positions()
        index = index.to(self._positions.device)
        rows = torch.searchsorted(self._positions, index).clamp(max=len(self._positions) - 1)
        if not bool((self._positions[rows] == index).all()):
            raise ElbowroomError(
                "The batch has examples at positions that are not in the training set, so they have no chains.",
                "Train on the data set that the learner was built for.",
            )
        return rows


def no_positions() -> ElbowroomError:
    """The error for data without positions, whose examples cannot be recognised at a second visit."""
    return ElbowroomError(
        "Monte Carlo EM keeps the chains of each example between visits by its position in the data set, which data "
        "from a stream do not have.",
        "Start them anew at every visit, with --mcem.start prior (or guide), or give the data as an array or a file.",
    )
