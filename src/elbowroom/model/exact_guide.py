r"""The posterior over the classes of a mixture, as a guide: it is exact, and has no parameters of its own.

.. math:: q(k | x) = p(k | x) = \frac{\pi_k \, p(x | \theta_k)}{\sum_j \pi_j \, p(x | \theta_j)}
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from elbowroom.errors import ElbowroomError
from elbowroom.model.code_distributions import Codes
from elbowroom.model.conditional import Conditional, LatentSupport
from elbowroom.model.latent import LatentModel

__all__ = ["ExactGuide"]


class ExactGuide(Conditional):
    """p(z | x) of a model whose z is one slot of codes, by the sum over its codes.

    A missing element of a table, NaN, is left out of the sum; that of other data counts as its filler, as for every
    guide.

    Args:
        model: p(x, z).
    Raises:
        ElbowroomError: more slots than one.
    Example:
        >>> from elbowroom.model.codes import CodeSpace, UnigramCodes
        >>> from elbowroom.model.likelihoods import Bernoulli
        >>> from elbowroom.model.networks import MLP
        >>> model = LatentModel(UnigramCodes(CodeSpace(1, 3)), Bernoulli(MLP((3,), (1, 8), hidden=()), (8,)))
        >>> ExactGuide(model)(torch.ones(5, 8)).probs.shape
        torch.Size([5, 1, 3])
    """

    latent_support: LatentSupport = "codes"

    def __init__(self, model: LatentModel) -> None:
        super().__init__()
        if model.space.slots != 1:
            raise ElbowroomError(
                f"The guide exact goes through the codes of a single slot, but z has {model.space}.",
                "Give --model.slots 1, or --model.guide categorical.",
            )
        self.model = model
        self.space = model.space

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        if given is None:
            raise ElbowroomError("A guide was called without x, but it is q(z | x).", "Pass x.")
        codes = torch.eye(self.space.codes, dtype=next(self.model.parameters()).dtype, device=given.device)
        z = codes.unsqueeze(1)
        if context is not None:  # as many contexts as rows
            z = z.expand(-1, len(given), -1)
        return Codes(self.model.log_joint(given, z, context=context).T.unsqueeze(1))
