r"""Pyramids: convolutional networks of residual blocks at every size of a picture that is halved again and again.

.. math:: h' = h + \mathrm{SE}\big(W_2 * \phi(\mathrm{N}(W_1 * \phi(\mathrm{N}(h))))\big), \qquad
    \mathrm{SE}(u) = u \cdot \sigma\big(V_2 \max(0, V_1 \bar{u})\big)

The convolutions W are 3 × 3, and N normalises groups of channels. SE, squeeze and excitation, multiplies every channel
by a gate that is computed from the means :math:`\bar u` over the picture. Instead of N, the weights can be normalised,
:math:`W = g \, V / \|V\|` for every channel of the output. The second convolution starts at a tenth of its usual size,
so that a deep pyramid starts near a shallow one.

Reference:
    Hu, Shen & Sun (2018), Squeeze-and-Excitation Networks, arXiv:1709.01507; Wu & He (2018), Group Normalization,
    arXiv:1803.08494; Salimans & Kingma (2016), Weight Normalization, arXiv:1602.07868; in autoencoders Vahdat & Kautz
    (2020), NVAE, section 3.2, arXiv:2007.03898.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elbowroom.errors import ElbowroomError, check_name
from elbowroom.model.networks import ACTIVATIONS, Network, channels_last

__all__ = ["Normalization", "PyramidDecoder", "PyramidEncoder", "WeightNormalized"]

Normalization = Literal["group", "weight", "none"]
"""What keeps the sizes of activations apart from those of weights."""

_GROUPS = 8  # at most, of four channels at least: one alone could not be normalised in a picture of one pixel
_LEAST_OF_GROUP = 4
_LEAST_SQUEEZED = 4  # units of a gate's hidden layer, a quarter of the channels where that is more


class PyramidEncoder(Network):
    """Residual blocks on ever smaller pictures, then a linear map.

    Each entry of ``channels`` is one level: a convolution of stride 2, which halves height and width, then ``blocks``
    residual blocks.

    Args:
        in_shape: a picture, (H, W) or (C, H, W); H and W are multiples of 2ⁿ for n levels.
        out_shape: shape of one output.
        channels: of the levels, the largest picture first.
        blocks: residual blocks of each level; 0 leaves the convolutions of stride 2.
        activation: a name in ``ACTIVATIONS``.
        normalization: of groups of channels ("group"), of the weights ("weight"), or none.
        context_dim: length of the context, which joins the flattened features; 0 for none.
    Raises:
        ElbowroomError: ``in_shape`` is not a picture's, or cannot be halved so often; an unknown name; no channels.
    Example:
        >>> PyramidEncoder((3, 32, 32), (2, 20), channels=(8, 16))(torch.zeros(5, 3, 32, 32)).shape
        torch.Size([5, 2, 20])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        channels: Sequence[int] = (32, 64, 64),
        blocks: int = 1,
        activation: str = "silu",
        normalization: Normalization = "group",
        context_dim: int = 0,
    ) -> None:
        super().__init__(in_shape, out_shape, context_dim=context_dim)
        small = _smallest(self.in_shape, self.in_shape, channels)
        _check(channels, blocks, activation, normalization)
        *colours, height, width = self.in_shape
        layers: list[nn.Module] = []
        for level, (before, after) in enumerate(pairwise([math.prod(colours), *channels]), 1):
            layers.append(_convolution(before, after, normalization, stride=2))
            layers.extend(_Block(after, activation, normalization) for _ in range(blocks))
            self.widest = max(self.widest, after * height * width // 4**level)
        self.levels = nn.Sequential(*layers, _normalized(channels[-1], normalization), ACTIVATIONS[activation]())
        self.output = nn.Linear(channels[-1] * math.prod(small) + context_dim, math.prod(self.out_shape))

    @property
    def output_layer(self) -> nn.Linear:
        return self.output

    def compute(self, given: Tensor, context: Tensor | None) -> Tensor:
        picture = given.unsqueeze(1) if len(self.in_shape) == 2 else given
        features = self.levels(channels_last(picture)).flatten(1)
        if context is not None:
            features = torch.cat([features, context.to(features.dtype)], 1)
        out: Tensor = self.output(features)
        return out


class PyramidDecoder(Network):
    """A linear map to a small picture, then residual blocks on ever larger ones.

    Each entry of ``channels`` is one level: ``blocks`` residual blocks, then nearest-neighbour up-sampling, which
    doubles height and width, and a convolution to the next level's channels, or to the output.

    Args:
        in_shape: shape of one input; it is flattened.
        out_shape: (P, H, W) or (P, C, H, W): P parameters for every element of a picture; H and W are multiples of 2ⁿ
            for n levels.
        channels: of the levels, the smallest picture first.
        blocks: residual blocks of each level.
        activation: a name in ``ACTIVATIONS``.
        normalization: of groups of channels ("group"), of the weights ("weight"), or none.
        context_dim: length of the context, which joins the input; 0 for none.
    Raises:
        ElbowroomError: ``out_shape`` is not that of parameters of a picture, or cannot be halved so often; an unknown
            name; no channels.
    Example:
        >>> PyramidDecoder((20,), (4, 3, 32, 32), channels=(16, 8))(torch.zeros(5, 20)).shape
        torch.Size([5, 4, 3, 32, 32])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        channels: Sequence[int] = (64, 64, 32),
        blocks: int = 1,
        activation: str = "silu",
        normalization: Normalization = "group",
        context_dim: int = 0,
    ) -> None:
        super().__init__(in_shape, out_shape, context_dim=context_dim)
        small = _smallest(self.out_shape[1:], self.out_shape, channels)
        _check(channels, blocks, activation, normalization)
        *parameters, _, _ = self.out_shape
        size = math.prod(small)
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers.extend(_Block(before, activation, normalization) for _ in range(blocks))
            size *= 4
            layers.extend([nn.Upsample(scale_factor=2, mode="nearest"), _convolution(before, after, normalization)])
            self.widest = max(self.widest, before * size)
        last = channels[-1]
        layers.extend(_Block(last, activation, normalization) for _ in range(blocks))
        layers.extend([_normalized(last, normalization), ACTIVATIONS[activation]()])
        layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
        self.widest = max(self.widest, last * size * 4)
        self._small = (channels[0], *small)
        self.input = nn.Linear(math.prod(self.in_shape) + context_dim, math.prod(self._small))
        self.levels = nn.Sequential(*layers)
        self.output = nn.Conv2d(last, math.prod(parameters), 3, padding=1)

    @property
    def output_layer(self) -> nn.Conv2d:
        return self.output

    def compute(self, given: Tensor, context: Tensor | None) -> Tensor:
        flat = given.flatten(1)
        if context is not None:
            flat = torch.cat([flat, context.to(flat.dtype)], 1)
        small = self.input(flat).unflatten(1, self._small)
        out: Tensor = self.output(self.levels(channels_last(small)))
        return out


class _Block(nn.Module):
    """A residual block: two convolutions and a gate for every channel."""

    def __init__(self, channels: int, activation: str, normalization: Normalization) -> None:
        super().__init__()
        squeezed = max(_LEAST_SQUEEZED, channels // 4)
        last = _convolution(channels, channels, normalization)
        with torch.no_grad():
            scaled = last.gain if isinstance(last, WeightNormalized) else last.weight
            scaled.mul_(0.1)
        self.convolutions = nn.Sequential(
            _normalized(channels, normalization),
            ACTIVATIONS[activation](),
            _convolution(channels, channels, normalization),
            _normalized(channels, normalization),
            ACTIVATIONS[activation](),
            last,
        )
        self.gate = nn.Sequential(nn.Linear(channels, squeezed), nn.ReLU(), nn.Linear(squeezed, channels), nn.Sigmoid())

    def forward(self, given: Tensor) -> Tensor:
        change = self.convolutions(given)
        gate = self.gate(change.mean((2, 3))).unsqueeze(-1).unsqueeze(-1)
        out: Tensor = given + gate * change
        return out


class WeightNormalized(nn.Conv2d):
    """A convolution by g V / ‖V‖, with a length g for each channel of the output; it starts as the usual one."""

    def __init__(self, *args: int, **options: int) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.gain = nn.Parameter(self._length().detach().clone())

    @torch.no_grad()
    def reset_gain(self) -> None:
        """Makes V itself the weight."""
        self.gain.copy_(self._length())

    def forward(self, given: Tensor) -> Tensor:
        weight = self.weight * (self.gain / self._length())
        return F.conv2d(given, weight, self.bias, self.stride, self.padding)

    def _length(self) -> Tensor:
        return self.weight.square().sum((1, 2, 3), keepdim=True).sqrt()


def _convolution(before: int, after: int, normalization: Normalization, *, stride: int = 1) -> nn.Conv2d:
    kind = WeightNormalized if normalization == "weight" else nn.Conv2d
    return kind(before, after, 3, stride=stride, padding=1)


def _normalized(channels: int, normalization: Normalization) -> nn.Module:
    if normalization != "group":
        return nn.Identity()
    most = min(_GROUPS, max(1, channels // _LEAST_OF_GROUP))
    return nn.GroupNorm(next(groups for groups in range(most, 0, -1) if channels % groups == 0), channels)


def _smallest(event_shape: Sequence[int], shape: Sequence[int], channels: Sequence[int]) -> tuple[int, int]:
    """Height and width after one halving for every level.

    Raises:
        ElbowroomError: the event is no picture, or one of the sizes is odd before the last halving.
    """
    if len(event_shape) not in (2, 3):
        raise ElbowroomError(
            f"A pyramid needs pictures, (H, W) or (C, H, W), but was built for shape {tuple(shape)}.",
            "Use an MLP (kind = mlp or residual), or reshape the data into pictures.",
        )
    height, width = event_shape[-2:]
    whole = 0
    while height % 2 ** (whole + 1) == width % 2 ** (whole + 1) == 0:
        whole += 1
    if len(channels) > whole:
        allowed = f"Give at most {whole} numbers of channels, or pictures" if whole else "Give pictures"
        raise ElbowroomError(
            f"A pyramid halves a picture once for each of its channels, here {list(channels)}, but {height} × {width} "
            f"pixels cannot be halved evenly{f' more often than {whole} times' if whole else ''}.",
            f"{allowed} whose height and width are multiples of {2 ** len(channels)}, for instance by "
            "--data.image-size; kind = conv takes any size.",
        )
    return height // 2 ** len(channels), width // 2 ** len(channels)


def _check(channels: Sequence[int], blocks: int, activation: str, normalization: str) -> None:
    check_name("activation", activation, ACTIVATIONS)
    check_name("normalization", normalization, get_args(Normalization))
    if not channels or min(channels) < 1 or blocks < 0:
        raise ElbowroomError(
            f"A pyramid was given channels {tuple(channels)} and {blocks} blocks, but needs one level at least, of one "
            "channel or more.",
            "Give numbers such as 32,64,64.",
        )
