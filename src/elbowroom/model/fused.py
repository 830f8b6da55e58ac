r"""Perceptrons and Bernoulli densities with their derivatives written out: what autograd would do, in fewer passes.

On a CPU a training step of small networks is half matrix products and half everything else: a node of the graph for
every operation, temporaries for every elementwise function, a copy for every cast. Here a whole perceptron is one
node, and so is the log-probability of an event of Bernoulli elements. For :math:`h_i = \phi(a_i)`,
:math:`a_i = W_i h_{i-1} + b_i` and the gradient :math:`g_i` of :math:`a_i`,

.. math:: \nabla_{W_i} = g_i^\top h_{i-1}, \qquad \nabla_{b_i} = \sum g_i, \qquad
    g_{i-1} = (g_i W_i) \, \phi'(a_{i-1}),

and for logits :math:`\ell`

.. math:: \log p(x | \ell) = \sum_j x_j \ell_j - \log(1 + e^{\ell_j}), \qquad
    \nabla_\ell \log p(x | \ell) = x - \sigma(\ell).

The functions are those of :class:`~elbowroom.model.networks.MLP` and of torch's Bernoulli, and tests hold them to
these. Second derivatives take the plain road, and so does all that happens under ``torch.func``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

__all__ = [
    "BACKWARD",
    "Workspace",
    "activate",
    "bernoulli_log_prob",
    "bernoulli_log_prob_",
    "is_possible",
    "perceptron",
]

_FACTORS = 112  # of a product, each one half at least: above float32's least normal number, 2⁻¹²⁶

_Slope = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]

#: activation -> its backward pass: (module, gradient of the output, input a, output h) to the gradient of a, which may
#: take the place of the output's
BACKWARD: dict[type[nn.Module], _Slope] = {
    nn.ReLU: lambda m, g, a, h: torch.ops.aten.threshold_backward.grad_input(g, h, 0, grad_input=g),
    nn.Tanh: lambda m, g, a, h: torch.ops.aten.tanh_backward.grad_input(g, h, grad_input=g),
    nn.ELU: lambda m, g, a, h: torch.ops.aten.elu_backward(g, m.alpha, 1, 1, False, a),
    nn.GELU: lambda m, g, a, h: torch.ops.aten.gelu_backward(g, a, approximate=m.approximate),
    nn.SiLU: lambda m, g, a, h: torch.ops.aten.silu_backward(g, a),
    nn.LeakyReLU: lambda m, g, a, h: torch.ops.aten.leaky_relu_backward(g, a, m.negative_slope, False),
    nn.Softplus: lambda m, g, a, h: torch.ops.aten.softplus_backward(g, a, m.beta, m.threshold),
    nn.Identity: lambda m, g, a, h: g,
}


def activate(activation: nn.Module, pre: Tensor) -> Tensor:
    """φ(a), in the place of a where the backward pass asks for φ(a) alone."""
    if type(activation) is nn.ReLU:
        return pre.relu_()
    if type(activation) is nn.Tanh:
        return pre.tanh_()
    out: Tensor = activation(pre)
    return out


class Workspace:
    """Memory that is used again and again: fresh pages of the system for every product would cost a tenth of it."""

    def __init__(self) -> None:
        self._memory: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, rows: int, width: int, like: Tensor) -> Tensor:
        """An uninitialised matrix (rows, width); what was taken under the same name before is overwritten."""
        memory = self._memory.get((name, like.dtype))
        if memory is None or memory.numel() < rows * width:
            memory = like.new_empty(rows * width)
            self._memory[name, like.dtype] = memory
        return memory[: rows * width].view(rows, width)


def is_possible(*tensors: Tensor) -> bool:
    """Whether hand-written derivatives are understood here, and the tensors of one full precision.

    Not under a transform of ``torch.func``, and not in forward mode; sums of hundreds of terms want 32 bits.
    """
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return False
    return tensors[0].dtype in (torch.float32, torch.float64) and len({tensor.dtype for tensor in tensors}) == 1


def _wants_a_graph(gradient: Tensor) -> bool:
    """Whether the gradient is to be differentiated again, or is many at once (``is_grads_batched``).

    Operations in place are no good then.
    """
    return torch.is_grad_enabled() or torch._C._dispatch_keys(gradient).has("Batched")


# --- perceptrons -------------------------------------------------------------------------------------------------


def perceptron(
    given: Tensor, layers: Sequence[nn.Linear], activations: Sequence[nn.Module], dtype: torch.dtype | None = None
) -> Tensor:
    """Linear layers with activations between them, as one node of the graph.

    Args:
        given: shape (n, in).
        layers: the last is the output's, without an activation.
        activations: one for each layer but the last, of the types in ``BACKWARD``.
        dtype: of the products and of what lies between them, ``torch.bfloat16`` say; sums inside a product, the output
            and the gradients that reach the weights have the weights' own. None: the weights'.
    Returns:
        Shape (n, out).
    Example:
        >>> layers, x = [nn.Linear(3, 4), nn.Linear(4, 2)], torch.randn(5, 3)
        >>> plain = layers[1](layers[0](x).tanh())
        >>> torch.allclose(perceptron(x, layers, [nn.Tanh()]), plain)
        True
    """
    weights = [weight for layer in layers for weight in (layer.weight, layer.bias)]
    out: Tensor = _Perceptron.apply(given, tuple(activations), dtype, *weights)  # type: ignore[no-untyped-call]
    return out


class _Perceptron(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, given: Tensor, activations: tuple[nn.Module, ...], dtype: torch.dtype | None, *weights: Tensor
    ) -> Tensor:
        dtype = dtype or given.dtype
        matrices, h = [weight.to(dtype) for weight in weights[::2]], given.to(dtype)
        steps = [h]
        for matrix, bias, activation in zip(matrices, weights[1::2], activations, strict=False):
            pre = torch.addmm(bias.to(dtype), h, matrix.t())
            h = activate(activation, pre)
            steps += [pre, h]
        out = torch.addmm(weights[-1].to(dtype), h, matrices[-1].t())
        ctx.save_for_backward(given, *weights, *matrices, *steps)
        ctx.activations, ctx.given_dtype, ctx.weight_dtype = activations, given.dtype, weights[0].dtype
        return out.to(given.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        depth = len(ctx.activations) + 1
        inputs, rest = ctx.saved_tensors[: 1 + 2 * depth], ctx.saved_tensors[1 + 2 * depth :]
        if _wants_a_graph(gradient):
            given, *through = _plain_gradients(inputs, ctx.activations, gradient)
            return given, None, None, *through
        matrices, steps = rest[:depth], rest[depth:]
        gradients: list[Tensor | None] = [None] * (2 * depth)
        g = gradient.to(matrices[0].dtype)
        for layer in range(depth - 1, -1, -1):
            gradients[2 * layer] = torch.mm(g.t(), steps[2 * layer]).to(ctx.weight_dtype)
            gradients[2 * layer + 1] = g.sum(0, dtype=ctx.weight_dtype)
            if layer:
                activation = ctx.activations[layer - 1]
                g = torch.mm(g, matrices[layer])
                g = BACKWARD[type(activation)](activation, g, steps[2 * layer - 1], steps[2 * layer])
        given = torch.mm(g, matrices[0]).to(ctx.given_dtype) if ctx.needs_input_grad[0] else None
        return given, None, None, *gradients


def _plain_gradients(
    inputs: Sequence[Tensor], activations: Sequence[nn.Module], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """The same gradients by autograd, which can be differentiated again."""
    # views, so that the walk back ends here and not where these came from
    with torch.enable_grad(), torch.autocast(gradient.device.type, enabled=False):
        inputs = [tensor.view_as(tensor) for tensor in inputs]
        h = _plain(inputs, activations)
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    found = iter(torch.autograd.grad(h, wanted, gradient, create_graph=torch.is_grad_enabled()))
    return tuple(next(found) if tensor.requires_grad else None for tensor in inputs)


def _plain(inputs: Sequence[Tensor], activations: Sequence[nn.Module]) -> Tensor:
    h, *weights = inputs
    for layer in range(len(weights) // 2):
        h = F.linear(h, weights[2 * layer], weights[2 * layer + 1])
        h = activations[layer](h) if layer < len(activations) else h
    return h


# --- Bernoulli ---------------------------------------------------------------------------------------------------


def bernoulli_log_prob_(logits: Tensor, x: Tensor, place: Tensor) -> Tensor:
    """Elementwise x ℓ − log(1 + e^ℓ), in ``place``; x broadcasts to the logits' shape."""
    # a threshold of 40 loses e⁻⁴⁰, which no floating-point number here would notice
    return torch.ops.aten.softplus.out(logits, 1, 40, out=place).neg_().addcmul_(x, logits)  # type: ignore[no-any-return]


def bernoulli_total(logits: Tensor, x: Tensor, place: Tensor) -> Tensor:
    r"""The sum of the same over the last axis, with a logarithm for 112 elements instead of one for each.

    .. math:: \sum_j x_j \ell_j - \log(1 + e^{\ell_j}) = \log \prod_j \sigma(|\ell_j|)
        - \sum_j \big( \max(\ell_j, 0) - x_j \ell_j \big)

    The factors lie between one half and one, so that a product of 112 is far from zero.

    Args:
        logits: ℓ, shape (\\*, elements).
        x: values that broadcast to the logits' shape.
        place: memory of the logits' shape and type, which is overwritten.
    """
    torch.abs(logits, out=place).sigmoid_()
    groups = place.shape[-1] // _FACTORS
    whole = place[..., : groups * _FACTORS].view(*place.shape[:-1], groups, _FACTORS)
    total = whole.prod(-1).log_().sum(-1)
    if place.shape[-1] % _FACTORS:
        total += place[..., groups * _FACTORS :].prod(-1).log_()
    return total.sub_(torch.clamp_min(logits, 0, out=place).addcmul_(x, logits, value=-1).sum(-1))


def bernoulli_log_prob(logits: Tensor, x: Tensor) -> Tensor:
    """log p(x | ℓ) of an event of Bernoulli elements, in nats, as one node of the graph.

    Args:
        logits: ℓ, shape (\\*, batch, elements).
        x: values in [0, 1], of the same type, shape (batch, elements); it gets no gradient.
    Returns:
        Shape (\\*, batch).
    Example:
        >>> logits, x = torch.randn(3, 5, 7), torch.ones(5, 7)
        >>> plain = torch.distributions.Bernoulli(logits=logits).log_prob(x.expand(3, 5, 7)).sum(-1)
        >>> torch.allclose(bernoulli_log_prob(logits, x), plain)
        True
    """
    out: Tensor = _BernoulliLogProb.apply(logits, x)  # type: ignore[no-untyped-call]
    return out


class _BernoulliLogProb(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(logits, x)
        return bernoulli_total(logits, x, torch.empty_like(logits))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        logits, x = ctx.saved_tensors
        if _wants_a_graph(gradient):
            return (x - torch.sigmoid(logits)) * gradient.unsqueeze(-1), None
        slope = torch.sigmoid(logits)
        torch.sub(x, slope, out=slope)
        return slope.mul_(gradient.unsqueeze(-1)), None
