"""Likelihoods of category numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributions as D
from torch import Tensor, nn

from elbowroom.data.support import Support
from elbowroom.model.conditional import Likelihood

__all__ = ["Categorical"]


class Categorical(Likelihood):
    r"""Elements that are category numbers 0..C−1.

    .. math:: \log p(x) = \log \mathrm{softmax}(\mathrm{network}(z))_x

    Args:
        network: z -> logits of shape (C, \*event).
        event_shape: shape of one example.
        num_categories: C.
    """

    name = "categorical"
    support = Support.CATEGORIES

    def __init__(self, network: nn.Module, event_shape: Sequence[int], *, num_categories: int) -> None:
        super().__init__(network, event_shape, num_parameters=num_categories)
        self.num_categories = num_categories

    @classmethod
    def parameter_shape(  # type: ignore[override]  # there is no sensible default
        cls, event_shape: Sequence[int], *, num_categories: int
    ) -> tuple[int, ...]:
        """(C, \\*event)."""
        return (num_categories, *event_shape)

    def distribution(self, *parameters: Tensor) -> D.Distribution:
        return D.Categorical(logits=torch.stack(parameters, -1), validate_args=False)

    def fisher_information(self, output: Tensor) -> Tensor:
        axis = -len(self._parameter_shape)
        p = output.softmax(axis).movedim(axis, -1)
        found = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
        return found.movedim((-2, -1), (axis - 1, axis))
