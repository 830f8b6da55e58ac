"""A log-variance taken for a scale: what happens when nobody checks, and what elbowroom says.

A tutorial trains a variational autoencoder on MNIST in plain PyTorch and then in Pyro, where it hands the
encoder's log-variance to a normal distribution as its *scale*, with the validation of arguments switched off.

    python examples/tutorial_guide.py                 # MNIST, 2 epochs, half a minute
    python examples/tutorial_guide.py --data digits   # the 8 x 8 digits of scikit-learn, no files

Half of the scales start negative, so that log q(z | x), with its term -log s, is NaN, and with it every loss. But the
draws z = mu + s * epsilon are finite, and so is every gradient, since log s and log |s| have the same derivative, 1/s.
Nothing stops. What was learned can still be measured: mu + s * epsilon is distributed as N(mu, s^2) whatever the sign
of s, so the guide that was really drawn from has the standard deviation |s|. Its evidence lower bound is the "true
bound" of the table, in nats per image of the test set. It differs much between seeds (on MNIST, -131 to -218 for seeds
0 to 3, against -117 with the scale corrected), since a scale near zero meets gradients of 1/s. (Grey
pixels under cross-entropy, as in the tutorial: no log-likelihood, but the two lines can be compared.)
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

import elbowroom as er

LATENT, HIDDEN, BATCH = 20, 400, 128


class PrintedGuide(er.Conditional):
    """q(z | x) as the tutorial has it: the second output is a log-variance, and is used as a scale."""

    def __init__(self, encoder: nn.Module, *, absolute: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.absolute = absolute  # for measuring: the standard deviation of what is drawn

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        mean, log_variance = self.encoder(given).unbind(-2)
        scale = log_variance.abs() if self.absolute else log_variance
        return Independent(Normal(mean, scale), 1)


def train(data: Any, model: Callable[..., Any], guide: Callable[..., Any], epochs: int) -> tuple[int, int]:
    """Plain Pyro; how many steps there were, and how many had a loss that is NaN."""
    pyro.clear_param_store()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), loss=Trace_ELBO())
    steps = nans = 0
    for epoch in range(epochs):
        for batch in data.training_batches(BATCH, seed=0, epoch=epoch, generator=torch.Generator()):
            nans += math.isnan(svi.step(batch.x))
            steps += 1
    return steps, nans


@torch.no_grad()
def report(name: str, data: Any, counts: tuple[int, int], model: er.LatentModel, guide: er.Conditional) -> None:
    """A line of the table; `counts` are steps and losses that are NaN."""
    steps, nans = counts
    measured = PrintedGuide(guide.encoder, absolute=True) if isinstance(guide, PrintedGuide) else guide
    scales = torch.cat([guide(batch.x).base_dist.scale for batch in data.batches("test", 1000)])
    finite = all(bool(weight.isfinite().all()) for weight in [*model.parameters(), *guide.parameters()])
    generator = torch.Generator().manual_seed(0)
    bounds = [er.objectives.elbo(model, measured, batch, generator=generator) for batch in data.batches("test", 1000)]
    bound, stderr = er.mean_and_stderr(torch.cat(bounds))
    print(
        f"{name:10}  NaN losses {nans:4} of {steps}   weights finite: {'yes' if finite else 'no':3}"
        f"   negative scales {(scales < 0).float().mean():4.0%}   true bound {bound:8.2f} ± {stderr:.2f}"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A log-variance taken for a scale.")
    parser.add_argument("--data", default="mnist", help="mnist or digits")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    data = er.load_data(options.data, support="unit-interval")
    shape = data.event_shape
    print(f"{options.data}, {options.epochs} epochs, seed {options.seed}")

    def encoder() -> nn.Module:  # linear, as printed: the nonlinearity between its layers is missing
        return er.networks.MLP(shape, (2, LATENT), hidden=(HIDDEN,), activation="identity")

    def decoder() -> er.LatentModel:
        likelihood = er.likelihoods.CrossEntropy(er.networks.MLP((LATENT,), (1, *shape), hidden=(HIDDEN,)), shape)
        return er.LatentModel(er.priors.StandardNormal(LATENT), likelihood)

    pyro.distributions.enable_validation(False)  # the tutorial's line that hides what follows
    warnings.filterwarnings("ignore", message="Encountered NaN")  # and what Pyro would still say, once
    pyro.set_rng_seed(options.seed)
    model, printed = decoder(), PrintedGuide(encoder())

    def tutorial_guide(x: Tensor) -> None:  # elbowroom's own would refuse, see below
        pyro.module("encoder", printed)
        with pyro.plate("data", len(x)):
            mean, log_variance = printed.encoder(x).unbind(-2)
            pyro.sample("z", dist.Normal(mean, log_variance).to_event(1))

    counts = train(data, er.to_pyro(model, printed).model, tutorial_guide, options.epochs)
    report("printed", data, counts, model, printed)

    pyro.set_rng_seed(options.seed)
    model, corrected = decoder(), er.guides.DiagonalNormal(encoder(), LATENT)  # exp(v / 2), v the log-variance
    counts = train(data, *er.to_pyro(model, corrected), options.epochs)
    report("corrected", data, counts, model, corrected)

    print("\nThe printed guide, handed to elbowroom:")
    pyro.clear_param_store()
    try:
        er.to_pyro(model, printed).guide(next(iter(data.batches("test", BATCH))))
    except er.ElbowroomError as error:
        print(f"elbowroom: {error}")


if __name__ == "__main__":
    main()
