r"""Fused operations without a gradient, in few passes over memory: sums of Bernoulli densities, parts of hand-written
gradients.

For logits :math:`\ell`

.. math:: \log p(x | \ell) = \sum_j x_j \ell_j - \log(1 + e^{\ell_j}).

The function is that of torch's Bernoulli, and tests compare the two. Where a gradient is needed, torch's own function
is used: a fused one would not be measurably faster, with or without the compiler.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

__all__ = [
    "BACKWARD",
    "Workspace",
    "activate",
    "bernoulli_log_prob_",
    "bernoulli_total",
    "is_possible",
]

_FACTORS_PER_LOG = 112  # factors of at least ½ whose product stays above float32's least normal number, 2⁻¹²⁶

_Slope = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]

#: activation -> its backward pass: (module, gradient of the output, input a, output h) to the gradient of a, which may
#: overwrite that of the output
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
    """Memory that is reused: new pages from the system for every product would cost a tenth of its time."""

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
    """Whether tensors may be overwritten in place, and all have the same full precision.

    Not where a gradient is wanted, by autograd, by a transform of ``torch.func`` or in forward mode; sums of hundreds
    of terms want 32 bits.
    """
    if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return False
    return tensors[0].dtype in (torch.float32, torch.float64) and len({tensor.dtype for tensor in tensors}) == 1


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
    groups = place.shape[-1] // _FACTORS_PER_LOG
    whole = place[..., : groups * _FACTORS_PER_LOG].view(*place.shape[:-1], groups, _FACTORS_PER_LOG)
    total = whole.prod(-1).log_().sum(-1)
    if place.shape[-1] % _FACTORS_PER_LOG:
        total += place[..., groups * _FACTORS_PER_LOG :].prod(-1).log_()
    return total.sub_(torch.clamp_min(logits, 0, out=place).addcmul_(x, logits, value=-1).sum(-1))
