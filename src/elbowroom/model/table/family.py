"""The columns of a table that share a kind of distribution are computed together; this is what such a family offers.

A family has n columns. For each of its R parameters it is given a tensor of shape (\\*, n), one row of what the
likelihood's network returned. Values are in the data's units, and never NaN: missing ones are 0 here, and their log p
is left out afterwards. Of a value that is impossible, as that 0 can be, log p is −∞, and gradients are finite.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from elbowroom.model.noise import NoiseSource

__all__ = ["Family", "Rows", "as_matrix", "inverse_softplus", "share"]

Rows = Sequence[Tensor]
"""R parameters, each of shape (\\*, n)."""


class Family(nn.Module, ABC):
    """n columns that have the same kind of distribution, and what is learned of each beside the network.

    Attributes:
        num_rows: R, parameters of a column that come from the network.
    """

    num_rows: int

    @torch.no_grad()
    def repeat_scales(self, components: int) -> None:
        """Gives every component of a mixture scales of its own.

        Parameters of shape (n,) that modules name in ``scales`` become (K, n), for rows of shape (\\*, K, n).

        Args:
            components: K.
        """
        for module in self.modules():
            for name in getattr(module, "scales", ()):
                repeated = module.get_parameter(name).repeat(components, 1)
                setattr(module, name, nn.Parameter(repeated))

    def constant(self, name: str, values: Sequence[float] | Tensor) -> None:
        """Registers numbers that follow from the columns, in float64, so that 0.1 stays 0.1 in a model that is."""
        values = torch.as_tensor(values, dtype=torch.float64)
        self.register_buffer(name, values, persistent=False)

    @abstractmethod
    def log_prob(self, rows: Rows, x: Tensor) -> Tensor:
        """log p of every value, nats, in the data's units; −∞ for what is impossible.

        Args:
            rows: R parameters, shape (\\*, n).
            x: values, of a shape that broadcasts.
        """

    @abstractmethod
    def sample(self, rows: Rows, shape: tuple[int, ...], generator: NoiseSource | None) -> Tensor:
        """Draws of this shape, (\\*samples, \\*, n)."""

    @abstractmethod
    def mean(self, rows: Rows) -> Tensor:
        """E[x], shape (\\*, n); of levels, the expected number."""

    @abstractmethod
    def information(self, rows: Rows) -> Tensor:
        """Fisher information of the R parameters of each column, shape (\\*, R, R, n)."""

    @abstractmethod
    def start(self, x: Tensor) -> Tensor:
        """Sets what is learned beside the network to suit the training values.

        Args:
            x: shape (N, n), NaN where missing.
        Returns:
            Where the network's output should start, shape (R, n).
        """


def as_matrix(information: Tensor) -> Tensor:
    """Of families with one parameter: (\\*, n) as (\\*, 1, 1, n).

    Example:
        >>> as_matrix(torch.ones(5, 3)).shape
        torch.Size([5, 1, 1, 3])
    """
    return information.unsqueeze(-2).unsqueeze(-2)


def share(is_so: Tensor, x: Tensor) -> Tensor:
    r"""How often something is so among the values that are not NaN, never 0 or 1, shape (n,).

    .. math:: \frac{c + 1/2}{m + 1}

    Args:
        is_so: bool, shape (N, n).
        x: the values, shape (N, n).
    Example:
        >>> share(torch.tensor([[True], [True], [False]]), torch.tensor([[1.0], [1.0], [torch.nan]]))
        tensor([0.8333], dtype=torch.float64)
    """
    seen = ~x.isnan()
    return ((is_so & seen).double().sum(0) + 0.5) / (seen.double().sum(0) + 1)


def inverse_softplus(y: Tensor) -> Tensor:
    """The number whose softplus is y > 0.

    Example:
        >>> torch.nn.functional.softplus(inverse_softplus(torch.tensor([1e-3, 50.0])))
        tensor([1.0000e-03, 5.0000e+01])
    """
    return y + torch.log(-torch.expm1(-y))
