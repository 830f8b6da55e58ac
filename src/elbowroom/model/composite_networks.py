"""Networks around another network: with a linear part beside it, and once for each component of a mixture."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from elbowroom.errors import ElbowroomError
from elbowroom.model.networks import Network

__all__ = ["ByComponent", "WithLinear"]


class WithLinear(Network):
    r"""A linear part beside a network whose last layer starts at zero.

    .. math:: y = W [x, c] + b + \mathrm{network}(x, c)

    Training starts at the linear model, factor analysis say, and the network adds what is not linear.

    Args:
        network: what is beside the linear part; its last layer is set to zero.
    Example:
        >>> from elbowroom.model.networks import MLP
        >>> network = WithLinear(MLP((3,), (2, 5)))
        >>> x = torch.randn(4, 3)
        >>> torch.equal(network(x).flatten(1), network.linear(x))
        True
    """

    def __init__(self, network: Network) -> None:
        super().__init__(network.in_shape, network.out_shape, context_dim=network.context_dim)
        self.linear = nn.Linear(math.prod(self.in_shape) + self.context_dim, math.prod(self.out_shape))
        self.network = network
        self.start_linear()

    @torch.no_grad()
    def start_linear(self) -> None:
        """Sets the last layer of the network beside the linear part to zero."""
        for parameter in self.network.output_layer.parameters():
            parameter.zero_()

    @property
    def output_layer(self) -> nn.Linear:
        return self.linear

    def compute(self, given: Tensor, context: Tensor | None) -> Tensor:
        flat = given.flatten(1)
        joined = flat if context is None else torch.cat([flat, context.to(flat.dtype)], 1)
        linear, beside = self.linear(joined), self.network(given, context)
        out: Tensor = linear.reshape(-1, *self.out_shape) + beside
        return out


class ByComponent(Network):
    r"""A network's outputs for every component of a mixture, which it is told as a second input.

    .. math:: y_c = \mathrm{network}([z, e_c]), \qquad c = 1, \dots, K

    with :math:`e_c` the unit vector. A network that is affine in its input has an offset of its own for each component.

    Args:
        network: [z, e_c], of length D + K, -> (P, \*event).
        components: K.
    Attributes:
        out_shape: (K P, \*event), the outputs of one component after the other.
    Raises:
        ElbowroomError: an input that is no vector, or that leaves no room for z.
    Example:
        >>> from elbowroom.model.networks import MLP
        >>> ByComponent(MLP((2 + 4,), (1, 5)), 4)(torch.zeros(3, 2)).shape
        torch.Size([3, 4, 5])
    """

    def __init__(self, network: Network, components: int) -> None:
        if len(network.in_shape) != 1 or network.in_shape[0] <= components or components < 1:
            raise ElbowroomError(
                f"A network of {components} components was given one for inputs of shape {network.in_shape}, but these "
                "should be vectors, z and a number for each component.",
                f"Build it with in_shape=(latent_dim + {components},).",
            )
        parameters, *event = network.out_shape
        super().__init__(
            (network.in_shape[0] - components,), (components * parameters, *event), context_dim=network.context_dim
        )
        self.network = network
        self.components = components
        self.widest = components * network.widest

    @property
    def output_layer(self) -> nn.Linear | nn.Conv2d | nn.ConvTranspose2d:
        return self.network.output_layer

    def set_output_bias(self, values: Tensor) -> None:
        """Start the output at ``values``, shape (K P, \\*event), averaged over the components."""
        each = values.expand(self.out_shape).reshape(self.components, *self.network.out_shape)
        self.network.set_output_bias(each.mean(0))

    def compute(self, given: Tensor, context: Tensor | None) -> Tensor:
        z = given.unsqueeze(1).expand(-1, self.components, -1)
        which = torch.eye(self.components, dtype=given.dtype, device=given.device).expand(len(given), -1, -1)
        of_each: Tensor = self.network(torch.cat([z, which], -1), None if context is None else context.unsqueeze(1))
        return of_each.flatten(1, 2)
