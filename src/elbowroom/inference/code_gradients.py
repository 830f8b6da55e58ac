r"""Gradient estimators for categorical draws: a draw of codes that carries a gradient in the guide's logits.

A draw of codes cannot be reparameterised. The estimators here send the gradient that arrives at the draw through a
softmax instead, which makes them biased; ``score-function`` (:mod:`elbowroom.inference.objectives`) is not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from elbowroom.model.code_distributions import Codes
from elbowroom.model.draws import draw
from elbowroom.model.noise import NoiseSource

__all__ = ["CODE_ESTIMATORS", "draw_codes"]

#: name -> what it does, in a line
CODE_ESTIMATORS: dict[str, str] = {
    "straight-through": "biased: the gradient of the softmax at a hard draw (Bengio, Léonard & Courville 2013)",
}


def draw_codes(
    q: Codes, num_samples: int, estimator: str, *, temperature: float = 1.0, generator: NoiseSource | None = None
) -> Tensor:
    """One-hot draws, shape (num_samples, batch, L K), with the estimator's gradient in the logits of q."""
    hard = draw(q, (num_samples,), generator=generator)
    soft = (q.logits / temperature).softmax(-1).flatten(-2)
    return hard + (soft - soft.detach()) if torch.is_grad_enabled() else hard
