"""The roofline: seconds of the matrix products that a contender cannot do without, and of nothing else.

They write into memory that is there already, from operands that stay in the caches as far as they fit: what is left out
is reading the data, the nonlinearities, the likelihood and the optimiser. Shapes are those of 784-400-20.

========== ============================================================== ======================================
task       one unit                                                       products
========== ============================================================== ======================================
training   a batch of 128                                                 forward, gradient of the weights, gradient
                                                                          of the inputs but for the data: 11
importance a decode                                                       the decoder's two
ais        a gradient of log p(x, z) in z                                 the decoder's two, and both backwards
========== ============================================================== ======================================

For the last two the rows that are multiplied at once are chosen as the fastest of several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from bench.worker import fastest, serve, settings

__all__ = ["main"]

_DECODER = (20, 400, 784)
_ROWS = (200, 500, 1000, 2500, 5000)
Run = Callable[[], object]


def main() -> None:
    """Serves the task that the settings name: training (rows, batch_size), importance or ais (count)."""
    asked = settings()
    dtype = getattr(torch, asked["dtype"])
    if asked["task"] == "training":
        serve(_epoch(asked["rows"], asked["batch_size"], dtype))
    else:
        serve(_decodes(asked["count"], backwards=asked["task"] == "ais", dtype=dtype))


def _epoch(rows: int, batch_size: int, dtype: torch.dtype) -> Callable[[], Mapping[str, float]]:
    full, left = divmod(rows, batch_size)
    batch, last = _step(batch_size, dtype), _step(left, dtype) if left else None

    def turn() -> Mapping[str, float]:
        for _ in range(full):
            batch()
        if last is not None:
            last()
        return {}

    return turn


def _step(rows: int, dtype: torch.dtype) -> Run:
    """The eleven products of a step of training, encoder and decoder of 784-400-20."""
    products: list[Run] = []
    for inputs, outputs, needs_input in ((784, 400, False), (400, 40, True), (20, 400, True), (400, 784, True)):
        x, weight, gradient = (_random(shape, dtype) for shape in ((rows, inputs), (outputs, inputs), (rows, outputs)))
        products.append(partial(torch.mm, x, weight.T, out=torch.empty_like(gradient)))
        products.append(partial(torch.mm, gradient.T, x, out=torch.empty_like(weight)))
        if needs_input:
            products.append(partial(torch.mm, gradient, weight, out=torch.empty_like(x)))
    return partial(_all, products)


def _decodes(count: int, *, backwards: bool, dtype: torch.dtype) -> Callable[[], Mapping[str, float]]:
    def steps(rows: int) -> list[Run]:
        full, left = divmod(count, rows)
        last = [_decode(left, dtype, backwards=backwards)] if left else []
        return [_decode(rows, dtype, backwards=backwards)] * full + last

    # the operands of different numbers of rows share nothing, so that the choice does not favour the last one tried
    choices = {rows: steps(rows) for rows in _ROWS}
    rows = fastest(lambda one: _all(choices[one]), _ROWS)

    def turn() -> Mapping[str, float]:
        _all(choices[rows])
        return {}

    return turn


def _decode(rows: int, dtype: torch.dtype, *, backwards: bool) -> Run:
    latent, hidden, event = _DECODER
    z, h, o = (_random((rows, width), dtype) for width in _DECODER)
    first, last = _random((hidden, latent), dtype), _random((event, hidden), dtype)
    z_out, h_out, o_out = (torch.empty_like(operand) for operand in (z, h, o))
    products: list[Run] = [partial(torch.mm, z, first.T, out=h_out), partial(torch.mm, h, last.T, out=o_out)]
    if backwards:
        products += [partial(torch.mm, o, last, out=h_out), partial(torch.mm, h, first, out=z_out)]
    return partial(_all, products)


def _all(products: list[Run]) -> None:
    for product in products:
        product()


def _random(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape).to(dtype)


if __name__ == "__main__":
    with torch.no_grad():
        main()
