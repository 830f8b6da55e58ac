r"""The posterior of an MLP decoder with its gradient written by hand: little more than its matrix products.

For :math:`h_i = \phi(W_i h_{i-1} + b_i)`, :math:`o = W h_n + b` and a Bernoulli or Gaussian likelihood, the gradient of
log p(x | z) with respect to the output is a residual,

.. math:: δ = x - \sigma(o) \quad \text{(Bernoulli)}, \qquad
    δ = \frac{u \, (x - a - u o)}{\sigma^2} \quad \text{(Gaussian with shift a, unit u)},

and :math:`\nabla_z \log p(x | z) = J^\top δ` is the backward pass through the layers. Interior points of a trajectory
need no more than that: no log density, no graph, no temporaries but those of the two large products. Tests hold it to
the gradient that autograd computes through ``LatentModel.log_joint``.

Importance weights need the decoder alone, log p(x | z), under any prior.

Gradients may be taken in bfloat16, about twice as fast where the processor has it. The log density never is. With any
deterministic gradient a leapfrog step is reversible and preserves volume, so that energies that are exact at the ends
of a trajectory keep the draws exact; only the acceptance can drop.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.model.affine import Affine
from elbowroom.model.fused import BACKWARD, Workspace, activate, bernoulli_log_prob_, bernoulli_total
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli, CrossEntropy, Gaussian, Likelihood
from elbowroom.model.networks import MLP
from elbowroom.model.priors import StandardNormal
from elbowroom.numerics import chunks
from elbowroom.samplers.target import Target

__all__ = ["PerceptronLikelihood", "PerceptronPosterior"]


class _Layer(NamedTuple):
    """h -> φ(W h + b)."""

    weight: Tensor  #: W, (out, in)
    bias: Tensor  #: b, (out,)
    activation: nn.Module
    ahead: Affine  #: h -> W h + b
    back: Affine  #: g -> Wᵀ g

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, activation: nn.Module) -> _Layer:
        """The layer, with its two products."""
        return cls(weight, bias, activation, Affine(weight, bias), Affine(weight.T))

    def half(self) -> _Layer:
        """The same in bfloat16."""
        return self.of(self.weight.to(torch.bfloat16), self.bias.to(torch.bfloat16), self.activation)


class _Head(NamedTuple):
    """Residual and log-likelihood of the output o = W h + b; x has shape (data, E), o (replicas, data, E)."""

    sigmoid: bool  #: whether the mean is m = σ(o); m = o otherwise
    residual: Callable[[Tensor, Tensor], Tensor]  #: (m, x) -> δ, the gradient of log p(x | o) in o, in the place of m
    elementwise: Callable[[Tensor, Tensor, Tensor], Tensor]  #: (o, x, place) -> log p(x | o), in place
    total: Callable[[Tensor, Tensor, Tensor], Tensor]  #: (o, x, place) -> its sum over E, shape (replicas, data)


class PerceptronLikelihood(Target):
    """log p(x | z) as a function of z, for an :class:`~elbowroom.model.networks.MLP` decoder.

    Args:
        likelihood: p(x | z), one that :meth:`fits`; in evaluation mode. Its weights are shared or copied (batch
            normalisation is folded into the layer before; see also :mod:`elbowroom.model.affine`): after an update of
            the weights, make it anew.
        batch: data, x of shape (batch, \\*event), with their context and mask.
        half: whether gradients are taken in bfloat16.
        chunk_elements: no tensor has more elements than this, unless the replicas of a single example do.
    Attributes:
        widest: elements of the largest tensor inside, for one z.
    """

    @torch.no_grad()
    def __init__(
        self, likelihood: Likelihood, batch: Batch, *, half: bool = False, chunk_elements: int = 2**20
    ) -> None:
        network, head = likelihood.network, _head(likelihood)
        assert head is not None and isinstance(network, MLP)  # see fits()
        self._head, self.widest, self._chunk_elements = head, network.widest, chunk_elements
        layers = _layers(network)
        weight = layers[0].weight
        self._x = batch.x.flatten(1).to(weight.dtype)
        self._mask = None if batch.mask is None else batch.mask.flatten(1)
        self._first_bias: Tensor | None = None  # of each example, where it is not that of all
        if network.context_dim:  # a context adds to the first layer's input, whatever z is
            latent_dim = math.prod(network.in_shape)
            assert batch.context is not None  # a network with a context refuses to be called without
            self._first_bias = layers[0].bias + batch.context.to(weight.dtype) @ weight[:, latent_dim:].T
            layers[0] = _Layer.of(weight[:, :latent_dim].contiguous(), layers[0].bias, layers[0].activation)
        self._layers, self._workspace = layers, Workspace()
        # all but the first layer, which is narrow, take part in the large products
        self._halves = [layer.half() for layer in layers] if half else None

    @staticmethod
    def fits(likelihood: Likelihood) -> bool:
        """Whether this module supports the likelihood: an MLP decoder, Bernoulli or Gaussian with one σ."""
        network = likelihood.network
        return (
            type(network) is MLP
            and _head(likelihood) is not None
            and all(_is_known(part) for part in [*network.hidden_layers, network.output])
        )

    @torch.no_grad()
    def log_density(self, z: Tensor) -> Tensor:
        values = [self._value(z[:, rows], self._forward(z[:, rows], rows)[-1], rows) for rows in self._chunks(z)]
        return torch.cat(values, 1)

    @torch.no_grad()
    def gradient(self, z: Tensor) -> Tensor:
        half, parts = self._halves is not None, []
        for rows in self._chunks(z):
            steps = self._forward(z[:, rows], rows, half=half, mean=True)
            parts.append(self._backward(z[:, rows], steps, rows, half=half))
        return torch.cat(parts, 1)

    @torch.no_grad()
    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        if self._halves is not None:  # the gradient has to be that of gradient(), which rounds on the way
            return self.log_density(z), self.gradient(z)
        values, gradients = [], []
        for rows in self._chunks(z):
            steps = self._forward(z[:, rows], rows)
            values.append(self._value(z[:, rows], steps[-1], rows))
            if self._head.sigmoid:
                steps[-1].sigmoid_()
            gradients.append(self._backward(z[:, rows], steps, rows))
        return torch.cat(values, 1), torch.cat(gradients, 1)

    def select(self, index: Tensor) -> Self:
        chosen = copy.copy(self)
        chosen._x = self._x[index]
        chosen._first_bias = None if self._first_bias is None else self._first_bias[index]
        chosen._mask = None if self._mask is None else self._mask[index]
        return chosen

    def _chunks(self, z: Tensor) -> Iterator[slice]:
        if z.shape[1] != len(self._x):  # slices would take the first of the data for others
            raise ElbowroomError(
                f"Positions for {z.shape[1]} examples were given to a posterior of {len(self._x)}.",
                "Give positions of shape (replicas, data, latent), or select() the examples.",
            )
        return chunks(z.shape[1], max(1, self._chunk_elements // (len(z) * self.widest)))

    def _forward(self, z: Tensor, rows: slice, *, half: bool = False, mean: bool = False) -> list[Tensor]:
        """Pre-activation and activation of each hidden layer in turn, then o, or m; shapes (replicas · data, width)."""
        first, *others = self._halves if half and self._halves is not None else self._layers
        flat, take = z.reshape(-1, z.shape[-1]), self._workspace.take
        width = len(first.weight)
        # the first layer is narrow: nothing is won by rounding it before its sum
        pre, weight = take("0", len(flat), width, flat), self._layers[0].weight.T
        if self._first_bias is None:
            torch.addmm(self._layers[0].bias, flat, weight, out=pre)
        else:
            torch.mm(flat, weight, out=pre).view(len(z), -1, width).add_(self._first_bias[rows])
        steps = [take("0 in half", len(flat), width, first.weight).copy_(pre) if half else pre]
        for depth, (before, layer) in enumerate(pairwise([first, *others]), start=1):
            steps.append(activate(before.activation, steps[-1]))
            place = partial(take, f"{depth}", len(flat), len(layer.weight), layer.weight)
            last = depth == len(others)
            steps.append(layer.ahead(steps[-1], place, sigmoid=mean and last and self._head.sigmoid))
        if mean and not others and self._head.sigmoid:
            steps[-1].sigmoid_()
        return steps

    def _backward(self, z: Tensor, steps: list[Tensor], rows: slice, *, half: bool = False) -> Tensor:
        """∇ log p(x | z) = Jᵀ δ; the last of the steps is m, which is overwritten."""
        layers = self._halves if half and self._halves is not None else self._layers
        output = steps[-1].view(*z.shape[:2], -1)
        self._head.residual(output, self._x[rows])
        if self._mask is not None:
            output.mul_(self._mask[rows])
        gradient = steps[-1]
        for depth in range(len(layers) - 1, 0, -1):
            layer, activation = layers[depth], layers[depth - 1].activation
            place = partial(self._workspace.take, f"back {depth}", len(gradient), layer.weight.shape[1], layer.weight)
            gradient = layer.back(gradient, place)
            gradient = BACKWARD[type(activation)](activation, gradient, steps[2 * depth - 2], steps[2 * depth - 1])
        return (gradient @ layers[0].weight).to(z.dtype).view(z.shape)

    def _value(self, z: Tensor, output: Tensor, rows: slice) -> Tensor:
        """log p(x | z), shape (replicas, data)."""
        output = output.view(*z.shape[:2], -1)
        place = self._workspace.take("value", z.shape[:2].numel(), output.shape[-1], output).view_as(output)
        if self._mask is None:
            return self._head.total(output, self._x[rows], place)
        return torch.where(self._mask[rows], self._head.elementwise(output, self._x[rows], place), 0.0).sum(-1)


class PerceptronPosterior(PerceptronLikelihood):
    """log p(x, z) as a function of z, for such a decoder and the prior N(0, I).

    Args:
        model: p(x, z), one that :meth:`fits`.
        batch: data.
        half: whether gradients are taken in bfloat16.
        chunk_elements: all as in :class:`PerceptronLikelihood`.
    """

    def __init__(self, model: LatentModel, batch: Batch, *, half: bool = False, chunk_elements: int = 2**20) -> None:
        super().__init__(model.likelihood, batch, half=half, chunk_elements=chunk_elements)

    @staticmethod
    def fits(model: LatentModel) -> bool:  # type: ignore[override]
        """Whether this module supports the model: such a decoder, and the prior N(0, I)."""
        return type(model.prior) is StandardNormal and PerceptronLikelihood.fits(model.likelihood)

    def _backward(self, z: Tensor, steps: list[Tensor], rows: slice, *, half: bool = False) -> Tensor:
        """∇ log p(x, z) = Jᵀ δ − z."""
        return super()._backward(z, steps, rows, half=half) - z

    def _value(self, z: Tensor, output: Tensor, rows: slice) -> Tensor:
        """log p(x, z), shape (replicas, data)."""
        log_prior = -0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi))
        return super()._value(z, output, rows) + log_prior


def _is_known(part: nn.Module) -> bool:
    """Whether this module supports the layer; a subclass of a known layer may compute something else."""
    if isinstance(part, nn.Linear):
        return type(part).forward is nn.Linear.forward and part.bias is not None
    return isinstance(part, nn.BatchNorm1d) or type(part) in BACKWARD


def _layers(network: MLP) -> list[_Layer]:
    """The network as layers, batch normalisation folded in; the last is the output, without an activation."""
    layers: list[_Layer] = []
    for part in [*network.hidden_layers, network.output]:
        if isinstance(part, nn.Linear):
            layers.append(_Layer.of(part.weight.detach(), part.bias.detach(), nn.Identity()))
        elif isinstance(part, nn.BatchNorm1d):
            layers[-1] = _folded(layers[-1], part)
        else:
            layers[-1] = _Layer.of(layers[-1].weight, layers[-1].bias, part)
    return layers


def _folded(layer: _Layer, norm: nn.BatchNorm1d) -> _Layer:
    """γ (W h + b − μ) / √(v + ε) + β as one affine map."""
    assert norm.running_mean is not None and norm.running_var is not None  # those of networks.MLP keep them
    scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
    bias = (layer.bias - norm.running_mean) * scale + norm.bias.detach()
    return _Layer.of(layer.weight * scale.unsqueeze(1), bias, layer.activation)


def _head(likelihood: Likelihood) -> _Head | None:
    """The residual and log-likelihood of an output; None for a likelihood that this module does not support."""
    if type(likelihood) in (Bernoulli, CrossEntropy):  # a subclass may be another likelihood
        return _Head(
            True,
            lambda mean, x: torch.sub(x.to(mean.dtype), mean, out=mean),
            bernoulli_log_prob_,
            bernoulli_total,
        )
    if type(likelihood) is Gaussian and likelihood.num_parameters == 1 and likelihood.mean_activation == "identity":
        shift, unit, raw = likelihood.shift.flatten(), likelihood.unit.flatten(), likelihood.raw_scale
        if raw is None:
            scale = unit.new_tensor(float(likelihood.scale))
        else:
            scale = unit * (likelihood.min_scale + F.softplus(raw.detach()))
        log_scale = scale.log() + 0.5 * math.log(2 * math.pi)

        def residual(o: Tensor, x: Tensor) -> Tensor:
            return torch.sub(x - shift, o.mul_(unit), out=o).mul_(unit / scale.square())

        def elementwise(o: Tensor, x: Tensor, place: Tensor) -> Tensor:
            away = torch.sub(x - shift, torch.mul(unit, o, out=place), out=place).div_(scale)
            return away.square_().mul_(-0.5).sub_(log_scale)

        return _Head(False, residual, elementwise, lambda o, x, place: elementwise(o, x, place).sum(-1))
    return None
