r"""Affine maps h Wᵀ + b with constant weights, which are applied many times.

Where the same matrix is used thousands of times (in every leapfrog step, for every importance weight), it is worth
packing it once into the memory layout that the processor's kernels read. oneDNN has such a layout; its product is a
tenth faster than a plain one, on some processors more, and adds the bias in the same pass. The order of summation
differs, the accuracy does not. Elsewhere (double precision, other devices, other builds of torch) the product is plain.
"""

from __future__ import annotations

import platform
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Affine"]

_LEAST_ELEMENTS = 2**14  # of a matrix that is worth packing
_TYPICAL_ROWS = 512  # number of rows that the layout is chosen for
_X86 = platform.machine().lower() in ("x86_64", "amd64")


class Affine:
    """h -> h Wᵀ + b, without a gradient.

    Args:
        weight: W, shape (out, in); it may be copied at the first use; later changes of it are then ignored.
        bias: b, shape (out,); None adds nothing.
    Example:
        >>> weight, bias, h = torch.randn(3, 4), torch.randn(3), torch.randn(5, 4)
        >>> torch.allclose(Affine(weight, bias)(h), torch.nn.functional.linear(h, weight, bias), atol=1e-6)
        True
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight, bias
        self._packed: Tensor | None = None

    def __call__(self, h: Tensor, place: Callable[[], Tensor] | None = None, *, sigmoid: bool = False) -> Tensor:
        """Of shape (rows, out), for h of shape (rows, in).

        Args:
            h: of the weights' type.
            place: memory for the result, asked for where it is of use; the result may lie elsewhere.
            sigmoid: whether σ of it is wanted, which a low precision rounds once instead of twice.
        """
        if self._packed is None and _is_packable(self.weight):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.contiguous(), _TYPICAL_ROWS)
        if self._packed is not None and h.dtype == self.weight.dtype:
            link = "sigmoid" if sigmoid else "none"
            out: Tensor = torch.ops.mkldnn._linear_pointwise(h, self._packed, self.bias, link, [], "")
            return out
        out = h.new_empty(len(h), len(self.weight)) if place is None else place()
        if self.bias is None:
            torch.mm(h, self.weight.T, out=out)
        else:
            torch.addmm(self.bias, h, self.weight.T, out=out)
        return out.sigmoid_() if sigmoid else out


def _is_packable(weight: Tensor) -> bool:
    return (
        _X86
        and weight.numel() >= _LEAST_ELEMENTS
        and weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16)
        and bool(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled)  # type: ignore[no-untyped-call]
        and all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
        and (weight.dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))
    )
