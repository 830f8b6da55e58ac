"""`Conditional`: a distribution that depends on something. Prior, likelihood and guide are all this one thing.

    prior        p(z | c)       given = None
    likelihood   p(x | z, c)    given = z,  shape (*, latent)
    guide        q(z | x, c)    given = x,  shape (*, *event)

where c is the optional context (covariates, labels) of each datum.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.distributions import Distribution

__all__ = ["Conditional"]


class Conditional(nn.Module, ABC):
    """An ``nn.Module`` whose ``forward`` returns a distribution.

    A prior or a guide returns one over the latent vector: ``event_shape`` is (latent,), ``batch_shape`` is (batch,),
    or () for a prior that is the same for every datum. A likelihood returns *elementwise* densities:
    ``event_shape`` is (), ``batch_shape`` is (\\*, \\*event); the sum over the event, masked or not, is taken in
    :meth:`elbowroom.model.latent.LatentModel.log_likelihood` and nowhere else.
    """

    @abstractmethod
    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        """The distribution, given what it depends on and the optional context of shape (batch, context_dim)."""
