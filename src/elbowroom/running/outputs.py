"""What a run gives back for each example: encodings, reconstructions, scores."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from elbowroom.evaluation.scores import Scores

__all__ = ["Encoded", "Reconstruction", "Scores"]


class Reconstruction(NamedTuple):
    """Examples x and their reconstructions from z ~ q(z | x)."""

    x: Tensor  #: (n, *event)
    mean: Tensor  #: (n, *event), the mean of p(x | z)
    sample: Tensor  #: (n, *event), a draw of p(x | z)


class Encoded(NamedTuple):
    """The guide's q(z | x) for each example."""

    mean: Tensor  #: (n, latent)
    stddev: Tensor  #: (n, latent)
    labels: Tensor | None  #: (n,) class labels, where the data have any
