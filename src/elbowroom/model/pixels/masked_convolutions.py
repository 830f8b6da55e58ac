r"""Masked convolutions: parameters of every pixel from the pixels before it, in the order of reading.

.. math:: \theta_i = f_i(x_1, \dots, x_{i-1}, v), \qquad i = 1, \dots, H W

row by row, with features v that a decoder computes from z. All :math:`\theta_i` of a given x take one pass:

.. math:: h_1 = W_1 * x + V v

.. math:: h_l = h_{l-1} + W_l * \mathrm{silu}(h_{l-1}), \qquad l = 2, \dots, L

.. math:: \theta = U \, \mathrm{silu}(h_L) + S v + b

where U, V and S act on one pixel at a time, and b is a constant for every parameter of every element. :math:`W_1` sees
only what came before a pixel, the other W also the pixel itself, of which :math:`h_{l-1}` knows nothing more. The
channels of a pixel belong together: each sees those of earlier pixels, and none of its own.

A draw of x takes H W steps, one for each pixel. :class:`Cache` keeps every h of the pixels before, so that a step costs
one window of each layer and not one pass over the picture.

Reference:
    van den Oord, Kalchbrenner & Kavukcuoglu (2016), Pixel Recurrent Neural Networks, section 3.4, arXiv:1601.06759.
    Gulrajani et al. (2017), PixelVAE: A Latent Variable Model for Natural Images, arXiv:1611.05013.
    Chen et al. (2017), Variational Lossy Autoencoder, arXiv:1611.02731, on a small receptive field.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elbowroom.errors import ElbowroomError
from elbowroom.model.guides import InputTransform
from elbowroom.model.networks import NetworkPart, channels_last

__all__ = ["LEAST_FIELD", "Cache", "MaskedConv2d", "MaskedPixels", "Window", "of_pixel"]

_Part = TypeVar("_Part", bound=nn.Module)

LEAST_FIELD = 7  #: side of the kernel of the first convolution, and of the field of a network with no other
_SMALL = 0.1  # of U's initial weights, so that training starts near independent pixels


class MaskedConv2d(nn.Conv2d):
    """A convolution of stride 1 that sees the rows above a pixel and what is left of it.

    Its kernel has the rows that it sees, the upper half and the middle one, so that the mask is only that of the last.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel: side of the square whose first half is seen, odd.
        sees_itself: whether the pixel itself is seen, too.
    Attributes:
        reach: rows above and columns to either side.
        mask: of the weights, 1 where they count, shape (reach + 1, kernel).
    Raises:
        ElbowroomError: an even or non-positive kernel.
    Example:
        >>> MaskedConv2d(1, 1, 3, sees_itself=False).mask
        tensor([[1., 1., 1.],
                [1., 0., 0.]])
    """

    mask: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, sees_itself: bool) -> None:
        if kernel < 1 or kernel % 2 == 0:
            raise ElbowroomError(
                f"A masked convolution was given a kernel of side {kernel}, which has no pixel in its middle.",
                "Give an odd number, such as 5.",
            )
        self.reach = kernel // 2
        super().__init__(in_channels, out_channels, (self.reach + 1, kernel), padding=(0, self.reach))
        mask = torch.ones(self.reach + 1, kernel)
        mask[-1, self.reach + sees_itself :] = 0
        self.register_buffer("mask", mask)

    @property
    def masked_weight(self) -> Tensor:
        """The weights that count, shape (out, in, reach + 1, kernel)."""
        return self.weight * self.mask

    def forward(self, maps: Tensor) -> Tensor:
        """Maps of shape (n, in, H, W) to (n, out, H, W)."""
        nothing = maps.new_zeros(*maps.shape[:2], self.reach, maps.shape[3])
        # compiled, a concatenation is a few quick loops and F.pad a slow one, which asks for each number where it lies
        above = channels_last(torch.cat([channels_last(nothing), maps], 2))
        return F.conv2d(above, self.masked_weight, self.bias, padding=self.padding)


class Window:
    """A masked convolution at one pixel after another, over the part of its input that is known by then.

    Args:
        layer: the convolution.
        size: (n, H, W), of the maps.
        like: a tensor of the dtype and device to compute in.
    Example:
        >>> window = Window(MaskedConv2d(1, 4, 3, sees_itself=False), (5, 2, 2), torch.zeros(()))
        >>> window.put(0, 0, torch.ones(5, 1))
        >>> window.at(0, 1).shape
        torch.Size([5, 4])
    """

    def __init__(self, layer: MaskedConv2d, size: tuple[int, int, int], like: Tensor) -> None:
        number, height, columns = size
        self.layer, self.reach = layer, layer.reach
        padded = (number, height + layer.reach, columns + 2 * layer.reach, layer.in_channels)  # as the input is padded
        self._seen = like.new_zeros(padded)
        self._weight = layer.masked_weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()

    def put(self, row: int, column: int, values: Tensor) -> None:
        """Sets the input at a pixel, shape (n, in)."""
        self._seen[:, row + self.reach, column + self.reach] = values

    def at(self, row: int, column: int) -> Tensor:
        """The output at a pixel, shape (n, out)."""
        window = self._seen[:, row : row + self.reach + 1, column : column + 2 * self.reach + 1]
        assert self.layer.bias is not None
        return torch.addmm(self.layer.bias, window.flatten(1), self._weight)


class MaskedPixels(NetworkPart):
    r"""A network x, v -> θ in which the parameters of a pixel depend on earlier pixels and on the features.

    Args:
        out_shape: (P, \*event), what it returns for one picture: P parameters for each element.
        features: D, for each element.
        transform: of x, before the convolutions; its ``out_shape`` is (\*event), or (K, \*event) for categories.
        layers: L, the first of which is 7 × 7.
        width: channels of h.
        kernel: side of the other convolutions, odd.
    Attributes:
        in_shape: (D, \*event), the features of one picture.
        out_shape: (P, \*event).
    Raises:
        ElbowroomError: x is no picture; a number below 1; an even kernel.
    Example:
        >>> from elbowroom.data.support import Support
        >>> network = MaskedPixels((1, 8, 8), features=2, transform=InputTransform(Support.BINARY, (8, 8)))
        >>> network(torch.zeros(5, 8, 8), torch.zeros(3, 5, 2, 8, 8)).shape
        torch.Size([3, 5, 1, 8, 8])
    """

    def __init__(
        self,
        out_shape: Sequence[int],
        *,
        features: int,
        transform: InputTransform,
        layers: int = 3,
        width: int = 16,
        kernel: int = 5,
    ) -> None:
        super().__init__()
        self.out_shape = tuple(out_shape)
        self.event_shape = self.out_shape[1:]
        if len(self.event_shape) not in (2, 3):
            raise ElbowroomError(
                "Masked convolutions go over the pixels of a picture, (H, W) or (C, H, W), but an example has shape "
                f"{self.event_shape}.",
                "Take independent elements: --model.masked-layers 0.",
            )
        if min(features, layers, width) < 1:
            raise ElbowroomError(
                f"Masked convolutions were given {layers} layers of width {width} and {features} features, but each "
                "starts at 1.",
                "Give positive numbers.",
            )
        self.in_shape = (features, *self.event_shape)
        self.transform = transform
        *_, height, columns = self.event_shape
        seen, given, made = (
            math.prod(shape) // (height * columns) for shape in (transform.out_shape, self.in_shape, self.out_shape)
        )
        self.first = MaskedConv2d(seen, width, LEAST_FIELD, sees_itself=False)
        self.context = nn.Conv2d(given, width, 1, bias=False)  # V
        self.middle = nn.ModuleList(MaskedConv2d(width, width, kernel, sees_itself=True) for _ in range(layers - 1))
        self.last = nn.Conv2d(width, made, 1, bias=False)  # U
        self.skip = nn.Conv2d(given, made, 1, bias=False)  # S
        self.bias = nn.Parameter(torch.zeros(self.out_shape))
        self.widest = max(seen, given, made, width) * height * columns
        with torch.no_grad():
            self.last.weight.mul_(_SMALL)
            # S starts with parameter p being feature p, in turn where there are more parameters
            repeated = torch.arange(made) % given
            self.skip.weight.zero_()[torch.arange(made), repeated] = 1.0

    @property
    def receptive_field(self) -> int:
        """Side of the square around a pixel in whose first half everything lies that the pixel depends on."""
        return 1 + 2 * sum(layer.reach for layer in self.convolutions)

    @property
    def convolutions(self) -> list[MaskedConv2d]:
        """The masked convolutions, the first of which sees x."""
        return [self.first, *(layer for layer in self.middle if isinstance(layer, MaskedConv2d))]

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """Parameters of every element of x; the axes before the event broadcast.

        Args:
            x: pictures, shape (\\*, \\*event).
            features: v, shape (\\*, D, \\*event).
        Returns:
            θ, shape (\\*, P, \\*event), of the features' type.
        Raises:
            ElbowroomError: an input of another shape.
        """
        self._check(x, features)
        with self.lowered(features):
            return self._compute(x, features).to(features.dtype)

    @torch.no_grad()
    def set_output_bias(self, values: Tensor) -> None:
        """Start the output near ``values``, shape ``out_shape``."""
        self.bias.copy_(values.expand(self.out_shape))

    def _compute(self, x: Tensor, features: Tensor) -> Tensor:
        of_x, of_features = x.shape[: x.dim() - len(self.event_shape)], features.shape[: -len(self.in_shape)]
        lead = torch.broadcast_shapes(of_x, of_features)  # type: ignore[no-untyped-call]
        v = _maps(features, self.in_shape)
        h = _aligned(self.first(_maps(self.transform(x), self.transform.out_shape)), of_x, lead)
        h = h + _aligned(self.context(v), of_features, lead)
        for layer in self.middle:
            h = h + layer(F.silu(h))
        of_h: Tensor = self.last(F.silu(h)).reshape(*lead, *self.out_shape).to(features.dtype)
        of_v: Tensor = self.skip(v).reshape(*of_features, *self.out_shape).to(features.dtype)
        return of_h + of_v + self.bias

    def _check(self, x: Tensor, features: Tensor) -> None:
        if (x.shape[-len(self.event_shape) :], features.shape[-len(self.in_shape) :]) != (
            self.event_shape,
            self.in_shape,
        ):
            raise ElbowroomError(
                f"Masked convolutions over pictures of shape {self.event_shape} with features of shape {self.in_shape} "
                f"were given pictures of shape {tuple(x.shape)} and features of shape {tuple(features.shape)}.",
                "Give a picture and features for each example; the axes before them broadcast.",
            )


class Cache:
    """What the pixels so far have led to in a :class:`MaskedPixels`, for one pixel after another.

    Pixels are asked for in the order of reading, each before its value is put in.

    Args:
        network: x, v -> θ; its gradient is not recorded.
        features: v, shape (n, D, \\*event).
    Example:
        >>> from elbowroom.data.support import Support
        >>> network = MaskedPixels((1, 2, 2), features=1, transform=InputTransform(Support.BINARY, (2, 2)))
        >>> cache = Cache(network, torch.zeros(5, 1, 2, 2))
        >>> cache.parameters(0, 0).shape
        torch.Size([5, 1, 1, 1])
        >>> cache.put(0, 0, torch.ones(5, 1, 1))
    """

    @torch.no_grad()
    def __init__(self, network: MaskedPixels, features: Tensor) -> None:
        self._network, self._like = network, features
        v = _maps(features, network.in_shape)
        self._of_v = network.context(v).movedim(1, -1)  # (n, H, W, width)
        self._skip = network.skip(v).reshape(-1, *network.out_shape) + network.bias
        height, columns = network.event_shape[-2:]
        self._windows = [Window(layer, (len(features), height, columns), features) for layer in network.convolutions]

    @torch.no_grad()
    def parameters(self, row: int, column: int) -> Tensor:
        """θ of a pixel, shape (n, P, 1, 1), or (n, P, C, 1, 1) of pictures in colour."""
        h = self._of_v[:, row, column]
        for number, window in enumerate(self._windows):
            if number > 0:
                window.put(row, column, F.silu(h))
            h = h + window.at(row, column)
        here: Tensor = self._skip[..., row : row + 1, column : column + 1]
        return here + (F.silu(h) @ self._network.last.weight.flatten(1).T).reshape(here.shape)

    @torch.no_grad()
    def put(self, row: int, column: int, values: Tensor) -> None:
        """Sets a pixel: shape (n, 1, 1), or (n, C, 1, 1)."""
        seen = of_pixel(self._network.transform, self._network.event_shape, row, column)(values)
        self._windows[0].put(row, column, seen.flatten(1).to(self._like.dtype))


def of_pixel(part: _Part, event_shape: tuple[int, ...], row: int, column: int) -> _Part:
    """A likelihood or a transform of pictures as that of a single pixel, a picture of height and width 1.

    Its own tensors of the event's shape, such as a unit for every element, are those of the pixel; the others are
    shared.
    """

    def of_tensors(tensors: dict[str, Any]) -> dict[str, Any]:
        return {name: here(value) for name, value in tensors.items()}

    def here(value: Tensor | None) -> Tensor | None:
        if value is None or value.shape != event_shape:
            return value
        return value.detach()[..., row : row + 1, column : column + 1]

    single = copy.copy(part)
    single._buffers, single._parameters = of_tensors(part._buffers), of_tensors(part._parameters)
    return single


def _maps(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(\\*, \\*channels, H, W), the last of which are ``shape``, as (n, channels, H, W)."""
    return channels_last(values.reshape(-1, math.prod(shape[:-2]), *shape[-2:]))


def _aligned(maps: Tensor, lead: Sequence[int], wanted: Sequence[int]) -> Tensor:
    """Maps of (\\*lead) examples, repeated for those of (\\*wanted)."""
    if math.prod(lead) == math.prod(wanted):  # axes of one element aside, the same examples
        return maps
    some = maps.reshape(*lead, *maps.shape[1:])
    return channels_last(some.expand(*wanted, *maps.shape[1:]).reshape(-1, *maps.shape[1:]))
