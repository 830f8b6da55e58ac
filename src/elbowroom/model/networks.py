"""Networks: deterministic functions of tensors, without any probability.

A network knows the shapes of its input and its output. Axes before these are folded into one batch
axis and unfolded afterwards, so that latents of shape (samples, batch, latent) work everywhere, and batch
normalisation and convolutions get the axes they expect.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise

import torch
from torch import Tensor, nn

from elbowroom.errors import ElbowroomError, did_you_mean

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "ConvDecoder",
    "ConvEncoder",
    "Network",
    "NetworkPart",
    "ResidualMLP",
    "channels_last",
    "running_statistics_kept",
]

#: name -> a new module
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky-relu": nn.LeakyReLU,
    "softplus": nn.Softplus,
    "identity": nn.Identity,
}


class NetworkPart(nn.Module):
    """Layers whose precision and size others ask for.

    Attributes:
        autocast: a lower precision inside while it trains, say ``torch.bfloat16``; None for that of the weights. The
            output has the input's precision either way, so that draws and densities keep it.
        widest: elements of the largest tensor inside, for one input.
    """

    autocast: torch.dtype | None = None
    widest: int = 0

    @property
    def lowers(self) -> bool:
        """Whether the layers now work in a lower precision."""
        return self.autocast is not None and self.training and torch.is_grad_enabled()

    def lowered(self, given: Tensor) -> AbstractContextManager[object]:
        """A context with the lower precision, where the layers work in one."""
        return torch.autocast(given.device.type, self.autocast) if self.lowers else nullcontext()


class Network(NetworkPart, ABC):
    """A function (\\*, \\*in_shape) -> (\\*, \\*out_shape), with an optional context.

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
        context_dim: C, length of the context vector of each example; 0 ignores any context.
    """

    def __init__(self, in_shape: Sequence[int], out_shape: Sequence[int], *, context_dim: int = 0) -> None:
        super().__init__()
        self.in_shape = tuple(in_shape)
        self.out_shape = tuple(out_shape)
        self.context_dim = context_dim
        self.widest = max(math.prod(self.in_shape) + context_dim, math.prod(self.out_shape))
        for shape in (self.in_shape, self.out_shape):
            if any(size < 1 for size in shape):
                raise ElbowroomError(
                    f"A network was asked to map {self.in_shape} to {self.out_shape}, but sizes start at 1.",
                    "Give positive sizes.",
                )

    @property
    @abstractmethod
    def output_layer(self) -> nn.Linear | nn.Conv2d | nn.ConvTranspose2d:
        """The last layer, whose bias is the output's starting value."""

    @abstractmethod
    def compute(self, given: Tensor, context: Tensor | None) -> Tensor:
        """The function on (n, \\*in_shape) and (n, context_dim), up to the output's shape."""

    def forward(self, given: Tensor, context: Tensor | None = None) -> Tensor:
        """Apply the network to every example and every draw.

        Args:
            given: shape (\\*, \\*in_shape).
            context: shape (batch, context_dim), repeated along the axes of ``given`` before the batch.
        Returns:
            Shape (\\*, \\*out_shape).
        Raises:
            ElbowroomError: an input of another shape; a context that is missing or of another length; batch
                normalisation of a single row in training.
        """
        lead = given.shape[: given.dim() - len(self.in_shape)]
        if given.dim() < len(self.in_shape) or given.shape[len(lead) :] != self.in_shape:
            raise ElbowroomError(
                f"A network for inputs of shape (*, {_commas(self.in_shape)}) was given {tuple(given.shape)}.",
                "Reshape the data, or build the network for this shape.",
            )
        flat = given.reshape(-1, *self.in_shape)
        folded = self.folded_context(context, lead)
        with self.lowered(given):
            out = self.compute(flat, folded)
        if self.lowers:  # under an autocast from outside, its precision is wanted
            out = out.to(flat.dtype)
        return out.reshape(*lead, *self.out_shape)

    @torch.no_grad()
    def set_output_bias(self, values: Tensor) -> None:
        """Start the output at ``values``, shape ``out_shape``; a convolution averages them over space."""
        bias = self.output_layer.bias
        assert bias is not None  # every layer here is built with one
        bias.copy_(values.expand(self.out_shape).reshape(bias.numel(), -1).mean(1))

    def folded_context(self, context: Tensor | None, lead: Sequence[int]) -> Tensor | None:
        """The context of every draw, shape (n, context_dim), for inputs with these axes; None where none is read."""
        if not self.context_dim:
            return None
        if context is None or context.shape[-1] != self.context_dim:
            was = "none was" if context is None else f"one of length {context.shape[-1]} was"
            raise ElbowroomError(
                f"A network needs a context of length {self.context_dim} for each example, but {was} given.",
                "Pass the context that the model was built with.",
            )
        return context.expand(*lead, self.context_dim).reshape(-1, self.context_dim)


class MLP(Network):
    r"""Multi-layer perceptron.

    .. math:: h_0 = [x, c], \quad h_i = \phi(\mathrm{BN}(W_i h_{i-1} + b_i)), \quad y = W h_n + b

    Args:
        in_shape: shape of one input; it is flattened.
        out_shape: shape of one output.
        hidden: widths of the hidden layers; () is an affine map.
        activation: :math:`\phi`, a name in ``ACTIVATIONS``.
        batch_norm: normalise before every activation.
        context_dim: length of the context c, which joins the input; 0 for none.
    Raises:
        ElbowroomError: an unknown activation; a size below 1.
    Example:
        >>> network = MLP((28, 28), (2, 20), hidden=(400,))
        >>> network(torch.zeros(5, 28, 28)).shape
        torch.Size([5, 2, 20])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        hidden: Sequence[int] = (400,),
        activation: str = "relu",
        batch_norm: bool = False,
        context_dim: int = 0,
    ) -> None:
        super().__init__(in_shape, out_shape, context_dim=context_dim)
        new_activation = _activation(activation)
        widths = [math.prod(self.in_shape) + context_dim, *_positive("hidden width", hidden)]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers.append(nn.Linear(before, after))
            if batch_norm:
                layers.append(_BatchNorm1d(after))
            layers.append(new_activation())
        self.hidden_layers = nn.Sequential(*layers)
        self.widest = max(self.widest, *widths)
        self.output = nn.Linear(widths[-1], math.prod(self.out_shape))

    @property
    def output_layer(self) -> nn.Linear:
        return self.output

    @property
    def layers(self) -> list[nn.Linear]:
        """The linear maps, the output's last."""
        return [*(part for part in self.hidden_layers if isinstance(part, nn.Linear)), self.output]

    def compute(self, given: Tensor, context: Tensor | None) -> Tensor:
        out: Tensor = self.output(self.hidden_layers(_joined(given, context)))
        return out


class ResidualMLP(Network):
    r"""MLP of residual blocks, with the activation before each linear map.

    .. math:: h_0 = W_0 [x, c], \quad h_i = h_{i-1} + W_i' \phi(W_i \phi(h_{i-1})), \quad y = W \phi(h_n) + b

    Args:
        in_shape: shape of one input; it is flattened.
        out_shape: shape of one output.
        width: of every block.
        blocks: n.
        activation: :math:`\phi`, a name in ``ACTIVATIONS``.
        batch_norm: normalise before every activation inside the blocks.
        context_dim: length of the context c, which joins the input; 0 for none.
    Raises:
        ElbowroomError: an unknown activation; a size below 1.
    Reference:
        He et al. (2016), Identity Mappings in Deep Residual Networks, arXiv:1603.05027.
    Example:
        >>> ResidualMLP((3,), (1, 8), width=16)(torch.zeros(5, 3)).shape
        torch.Size([5, 1, 8])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        width: int = 400,
        blocks: int = 2,
        activation: str = "relu",
        batch_norm: bool = False,
        context_dim: int = 0,
    ) -> None:
        super().__init__(in_shape, out_shape, context_dim=context_dim)
        new_activation = _activation(activation)
        _positive("width", [width])

        def half() -> list[nn.Module]:
            norm = [_BatchNorm1d(width)] if batch_norm else []
            return [*norm, new_activation(), nn.Linear(width, width)]

        self.input = nn.Linear(math.prod(self.in_shape) + context_dim, width)
        self.widest = max(self.widest, width)
        self.blocks = nn.ModuleList(nn.Sequential(*half(), *half()) for _ in range(blocks))
        self.activation = new_activation()
        self.output = nn.Linear(width, math.prod(self.out_shape))

    @property
    def output_layer(self) -> nn.Linear:
        return self.output

    def compute(self, given: Tensor, context: Tensor | None) -> Tensor:
        h = self.input(_joined(given, context))
        for block in self.blocks:
            h = h + block(h)
        out: Tensor = self.output(self.activation(h))
        return out


class ConvEncoder(Network):
    """Convolutional encoder: convolutions of stride 2, each halving height and width (rounded up), then a linear map.

    Args:
        in_shape: an image, (H, W) or (C, H, W), of any size.
        out_shape: shape of one output.
        channels: of the convolutions, nearest the data first.
        activation: a name in ``ACTIVATIONS``.
        batch_norm: normalise before every activation.
        context_dim: length of the context, which joins the flattened features; 0 for none.
    Raises:
        ElbowroomError: ``in_shape`` is not an image's; an unknown activation; a size below 1.
    Example:
        >>> ConvEncoder((28, 28), (2, 20))(torch.zeros(5, 28, 28)).shape
        torch.Size([5, 2, 20])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        channels: Sequence[int] = (32, 64),
        activation: str = "relu",
        batch_norm: bool = False,
        context_dim: int = 0,
    ) -> None:
        super().__init__(in_shape, out_shape, context_dim=context_dim)
        if len(self.in_shape) not in (2, 3):
            raise _not_an_image(self.in_shape)
        new_activation = _activation(activation)
        *colours, height, width = self.in_shape
        widths = [math.prod(colours), *_positive("number of channels", channels)]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers.append(nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1))
            if batch_norm:
                layers.append(_BatchNorm2d(after))
            layers.append(new_activation())
            height, width = _halved(height), _halved(width)
            self.widest = max(self.widest, after * height * width)
        self.convolutions = nn.Sequential(*layers)
        self.output = nn.Linear(widths[-1] * height * width + context_dim, math.prod(self.out_shape))

    @property
    def output_layer(self) -> nn.Linear:
        return self.output

    def compute(self, given: Tensor, context: Tensor | None) -> Tensor:
        image = given.unsqueeze(1) if len(self.in_shape) == 2 else given
        out: Tensor = self.output(_joined(self.convolutions(image), context))
        return out


class ConvDecoder(Network):
    """Convolutional decoder: a linear map to a small image, then transposed convolutions that double its size.

    Args:
        in_shape: shape of one input; it is flattened.
        out_shape: (P, H, W) or (P, C, H, W): P parameters for every element of an image of any size.
        channels: of the images in between, smallest image first.
        activation: a name in ``ACTIVATIONS``.
        batch_norm: normalise before every activation.
        context_dim: length of the context, which joins the input; 0 for none.
    Raises:
        ElbowroomError: ``out_shape`` is not that of parameters of an image; an unknown activation; a size below 1.
    Example:
        >>> ConvDecoder((20,), (1, 5, 7))(torch.zeros(3, 20)).shape
        torch.Size([3, 1, 5, 7])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        channels: Sequence[int] = (64, 32),
        activation: str = "relu",
        batch_norm: bool = False,
        context_dim: int = 0,
    ) -> None:
        super().__init__(in_shape, out_shape, context_dim=context_dim)
        if len(self.out_shape) not in (3, 4):
            raise _not_an_image(self.out_shape[1:])
        channels = _positive("number of channels", channels)
        if not channels:
            raise ElbowroomError("A ConvDecoder was given no channels, but needs one number at least.", "Give some.")
        new_activation = _activation(activation)
        *parameters, height, width = self.out_shape
        sizes = [(height, width)]
        for _ in channels:
            sizes.append((_halved(sizes[-1][0]), _halved(sizes[-1][1])))
        sizes.reverse()  # smallest first

        def normalised(count: int) -> list[nn.Module]:
            return [*([_BatchNorm2d(count)] if batch_norm else []), new_activation()]

        layers: list[nn.Module] = normalised(channels[0])
        outputs = [*channels[1:], math.prod(parameters)]
        for i, (before, after) in enumerate(zip(channels, outputs, strict=True)):
            # kernel 3, stride 2, padding 1: n -> 2n − 1, and one more where the target is even
            extra = (sizes[i + 1][0] - 2 * sizes[i][0] + 1, sizes[i + 1][1] - 2 * sizes[i][1] + 1)
            layers.append(nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=extra))
            self.widest = max(self.widest, before * math.prod(sizes[i]))
            if i < len(channels) - 1:
                layers.extend(normalised(after))
        self._small = (channels[0], *sizes[0])
        self.input = nn.Linear(math.prod(self.in_shape) + context_dim, math.prod(self._small))
        self.convolutions = nn.Sequential(*layers)

    @property
    def output_layer(self) -> nn.ConvTranspose2d:
        layer = self.convolutions[-1]
        assert isinstance(layer, nn.ConvTranspose2d)
        return layer

    def compute(self, given: Tensor, context: Tensor | None) -> Tensor:
        out: Tensor = self.convolutions(self.input(_joined(given, context)).unflatten(1, self._small))
        return out


def channels_last(maps: Tensor) -> Tensor:
    """Maps (n, channels, H, W) with the channels next to each other in memory, in which convolutions are fastest.

    Under a transform of ``torch.func``, which has no such layout, they stay as they are.
    """
    if torch._C._are_functorch_transforms_active():
        return maps
    return maps.contiguous(memory_format=torch.channels_last)


class _BatchNorm1d(nn.BatchNorm1d):
    def forward(self, given: Tensor) -> Tensor:
        _check_rows(self, given)
        return super().forward(given)


class _BatchNorm2d(nn.BatchNorm2d):
    def forward(self, given: Tensor) -> Tensor:
        _check_rows(self, given)
        return super().forward(given)


@contextmanager
def running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """A context in which batch normalisation uses the statistics of its batch in training, but does not keep them.

    So a batch that goes through a network twice in a step is counted once.

    Args:
        module: all of whose normalisations are meant.
    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> with running_statistics_kept(norm):
        ...     _ = norm(torch.randn(5, 2))
        >>> norm.num_batches_tracked
        tensor(0)
    """
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    tracked = [norm.track_running_stats for norm in norms]
    try:
        for norm in norms:
            if norm.training:  # in evaluation they are what it normalises by
                norm.track_running_stats = False
        yield
    finally:
        for norm, was in zip(norms, tracked, strict=True):
            norm.track_running_stats = was


def _check_rows(norm: nn.Module, given: Tensor) -> None:
    if norm.training and given.numel() == given.shape[1]:
        raise ElbowroomError(
            "Batch normalisation was given a batch of one row in training, but a single row has no variance.",
            "Choose --train.batch-size so that the last batch has 2 rows or more, or switch batch normalisation off.",
        )


def _joined(given: Tensor, context: Tensor | None) -> Tensor:
    flat = given.flatten(1)
    return flat if context is None else torch.cat([flat, context.to(flat.dtype)], 1)


def _halved(size: int) -> int:
    return (size + 1) // 2


def _commas(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))


def _activation(name: str) -> Callable[[], nn.Module]:
    if name not in ACTIVATIONS:
        raise ElbowroomError(f"There is no activation '{name}'.", did_you_mean(name, ACTIVATIONS))
    return ACTIVATIONS[name]


def _positive(what: str, sizes: Sequence[int]) -> Sequence[int]:
    for size in sizes:
        if size < 1:
            raise ElbowroomError(f"A {what} of {size} was given, but it starts at 1.", "Give positive numbers.")
    return sizes


def _not_an_image(shape: Sequence[int]) -> ElbowroomError:
    return ElbowroomError(
        f"Convolutions need an image, (H, W) or (C, H, W), but an example has shape ({_commas(shape)}).",
        "Use an MLP (kind = mlp or residual), or reshape the data into images.",
    )
