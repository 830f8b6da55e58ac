"""The columns of a table that share a kind of distribution are computed together; this is what such a family offers.

A family has n columns. For each of its R parameters it is given a tensor of shape (\\*, n), one row of what the
likelihood's network returned. Values are in the data's units, and never NaN: missing ones are 0 here, and their log p
is left out afterwards. Of a value that is impossible, as that 0 can be, log p is −∞, and gradients are finite.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elbowroom.model.class_prior import ClassPrior, climb, pull
from elbowroom.model.noise import NoiseSource
from elbowroom.numerics import chunks

__all__ = ["CHUNK_ELEMENTS", "Family", "Rows", "as_matrix", "inverse_softplus", "log_share", "share", "summed"]

Rows = Sequence[Tensor]
"""R parameters, each of shape (\\*, n)."""

CHUNK_ELEMENTS = 2**20  #: classes × rows × columns at a time


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

    def maximise(self, rows: Rows, x: Tensor, weights: Tensor, prior: ClassPrior, centre: Rows | None) -> list[Tensor]:
        r"""The M step of a mixture: parameters of each class that make weighted values more probable.

        .. math:: Q(\theta) = \sum_{k, i} w_{ki} \log p(x_i | \theta_k) + \log p(\theta)

        Here it climbs by some steps of a quasi-Newton method, which makes EM a generalised one; families with a closed
        form have their own. What is learned beside the rows is set in place. Q never falls.

        Args:
            rows: of each class, R parameters of shape (K, n).
            x: values, shape (N, n), NaN where missing.
            weights: responsibilities, shape (K, N).
            prior: how strongly classes are drawn to the centre.
            centre: R parameters of shape (n,); None for no prior.
        Returns:
            R parameters of shape (K, n).
        Reference:
            Dempster, Laird & Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm.
        """
        leaves = [row.detach().clone(memory_format=torch.contiguous_format) for row in rows]

        def objective() -> Tensor:
            total = self.log_class_prior(leaves, prior, centre)
            for part in chunks(len(x), max(1, CHUNK_ELEMENTS // leaves[0].numel())):
                seen = ~x[part].isnan()
                log_p = self.log_prob([leaf.unsqueeze(1) for leaf in leaves], x[part].nan_to_num())
                total = total + (weights[:, part].unsqueeze(-1) * torch.where(seen, log_p, 0.0)).sum()
            return total

        climb(objective, [*leaves, *self.parameters()], unit=float(weights.sum()))
        return leaves

    def log_class_prior(self, rows: Rows, prior: ClassPrior, centre: Rows | None) -> Tensor:
        """log p(θ) of all classes' parameters up to a constant, a scalar: what EM adds to the log-likelihood."""
        return pull(rows, prior, centre)


def as_matrix(information: Tensor) -> Tensor:
    """Of families with one parameter: (\\*, n) as (\\*, 1, 1, n).

    Example:
        >>> as_matrix(torch.ones(5, 3)).shape
        torch.Size([5, 1, 1, 3])
    """
    return information.unsqueeze(-2).unsqueeze(-2)


def share(
    is_so: Tensor, x: Tensor, weights: Tensor | None = None, *, pseudo: float = 1.0, expected: Tensor | float = 0.5
) -> Tensor:
    r"""How often something is so among the values that are not NaN, never 0 or 1, shape (n,), float64.

    .. math:: \frac{c + a f}{m + a}

    With weights, c and m are sums of them; the share is then the mode under a beta prior, and so the M step of a
    mixture.

    Args:
        is_so: bool, shape (N, n).
        x: the values, shape (N, n).
        weights: of the values, shape (K, N); None for one each, and no axis of classes.
        pseudo: a, values that are added.
        expected: f, the share among these.
    Example:
        >>> share(torch.tensor([[True], [True], [False]]), torch.tensor([[1.0], [1.0], [torch.nan]]))
        tensor([0.8333], dtype=torch.float64)
    """
    seen = ~x.isnan()
    count, size = (summed(each & seen, weights) for each in (is_so, seen))
    return (count + pseudo * expected) / (size + pseudo)


def summed(values: Tensor, weights: Tensor | None) -> Tensor:
    """Sums over the first axis of values of shape (N, n), weighted by (K, N) if there are weights, float64.

    Example:
        >>> summed(torch.ones(3, 2), torch.tensor([[0.5, 0.5, 0.0]]))
        tensor([[1., 1.]], dtype=torch.float64)
    """
    return values.double().sum(0) if weights is None else weights.double() @ values.double()


def log_share(logit: Tensor, expected: Tensor) -> Tensor:
    r"""The log density :math:`\sum f \log p + (1 - f) \log (1 - p)` of shares p, whose mode under weighted values is
    :func:`share`; a scalar.

    Args:
        logit: of p, shape (K, n).
        expected: f, shape (n,).
    """
    return (expected * F.logsigmoid(logit) + (1 - expected) * F.logsigmoid(-logit)).sum()


def inverse_softplus(y: Tensor) -> Tensor:
    """The number whose softplus is y > 0.

    Example:
        >>> torch.nn.functional.softplus(inverse_softplus(torch.tensor([1e-3, 50.0])))
        tensor([1.0000e-03, 5.0000e+01])
    """
    return y + torch.log(-torch.expm1(-y))
