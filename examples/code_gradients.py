"""Gradient estimators for codes against the exact gradient: bias and standard deviation, of a broad and of a sharp q.

    python examples/code_gradients.py                     # a minute
    python examples/code_gradients.py --activation relu   # networks with kinks
    python examples/code_gradients.py --draws 50          # rougher

A discrete variational autoencoder of the 8 x 8 digits of scikit-learn, binarised, with 4 slots of 4 codes: z has 256
values, so the gradient of the ELBO is known. It is taken in the logits of q for 24 digits, early in the training, when
q is broad, and late, when it is sharp.

Bias is the length of the expected difference from the exact gradient, and sd the standard deviation of one gradient,
both over the length of the exact gradient. A pass is an evaluation of the decoder for each of the digits. The score
function has no bias; for the others it is the mean of 30 times as many draws of z as gradients of the score function.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import elbowroom as er
from elbowroom.inference.code_gradients import is_biased
from elbowroom.model.code_distributions import Codes, CodeSpace
from elbowroom.model.codes import CategoricalGuide, UnigramCodes

SPACE, PIXELS, DIGITS = CodeSpace(4, 4), 64, 24
AVERAGED = 30  # draws of z of which a biased estimator's gradient is the mean, so that bias stands out from noise
#: estimator, temperature, draws of z in a gradient
LINES: list[tuple[str, float, int]] = [
    ("straight-through", 1.0, 1),
    ("st-gumbel", 1.0, 1),
    ("st-gumbel", 0.5, 1),
    ("gumbel-softmax", 1.0, 1),
    ("gumbel-softmax", 0.5, 1),
    ("reinmax", 1.0, 1),
    ("score-function", 1.0, 1),
    ("score-function", 1.0, 2),
    ("score-function", 1.0, 4),
]


class OwnLogits(er.Conditional):
    """q(z | x) with logits of its own for each of the digits, so that gradients are those in the logits."""

    latent_support = "codes"

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Codes:
        return Codes(self.logits)


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, measures twice and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=600, help="gradients of each estimator")
    parser.add_argument("--steps", type=int, nargs=2, default=(30, 3000), help="of training: broad q, sharp q")
    parser.add_argument("--activation", default="silu", help="of both networks")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    data = er.load_data("digits", binarization="dynamic", test=0, validation=0)
    x = next(data.batches("train", data.size("train"))).x.flatten(1)
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    network = er.networks.MLP((SPACE.dim,), (1, PIXELS), hidden=(64, 64), activation=options.activation)
    model = er.LatentModel(UnigramCodes(SPACE), er.likelihoods.Bernoulli(network, (PIXELS,)))
    guide = CategoricalGuide(er.networks.MLP((PIXELS,), SPACE, hidden=(64, 64), activation=options.activation), SPACE)
    tables, step = [], 0
    for until in options.steps:
        train(model, guide, x, until - step, generator)
        tables.append(measured(model, guide, x[:DIGITS], options.draws))
        step = until
    (broad, rows), (sharp, others) = tables
    print(f"| estimator | τ | passes | H {broad:.2f} nats per slot: bias | sd | H {sharp:.2f}: bias | sd |")
    print("|---" * 7 + "|")
    for (name, temperature, num_samples), *figures in zip(LINES, rows, others, strict=True):
        said = f"`{name}`" + (f", {num_samples} draws" if num_samples > 1 else "")
        passes = 2 if name == "gumbel-softmax" else num_samples
        cells = [f"{f'{bias:.3f}' if is_biased(name) else '0'} | {sd:.2f}" for bias, sd in figures]
        print(f"| {said} | {temperature:g} | {passes} | {' | '.join(cells)} |")


def train(model: Any, guide: Any, x: Tensor, steps: int, generator: torch.Generator) -> None:
    """Ascends the ELBO with ReinMax."""
    optimizer = torch.optim.Adam([*model.parameters(), *guide.parameters()], 3e-3)
    for _ in range(steps):
        rows = x[torch.randint(len(x), (100,), generator=generator)]
        bound = er.objectives.elbo(model, guide, rows, kl="auto", estimator="reinmax", generator=generator)
        optimizer.zero_grad()
        (-bound.mean()).backward()
        optimizer.step()


def measured(model: Any, guide: Any, x: Tensor, draws: int) -> tuple[float, list[tuple[float, float]]]:
    """Entropy of q in nats per slot, and for each line of the table relative bias and standard deviation."""
    logits = guide(x).logits.detach()
    own, found = OwnLogits(logits), []
    model.requires_grad_(False)
    for estimator, temperature, num_samples in LINES:
        averaged = AVERAGED if is_biased(estimator) else 1
        exact, one = er.gradient_study(
            model,
            own,
            x,
            estimators=["exact", estimator],
            temperature=temperature,
            num_samples=num_samples * averaged,
            draws=draws,
            generator=torch.Generator().manual_seed(0),
        )
        found.append((one.relative_bias, (one.variance * averaged) ** 0.5 / exact.norm))
    model.requires_grad_(True)
    return float(Codes(logits).entropy().mean()) / SPACE.slots, found


if __name__ == "__main__":
    main()
