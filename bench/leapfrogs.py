"""Leapfrog steps per second, against what the machine can do: the four products of a gradient, and nothing else.

A gradient of log p(x, z) for a decoder of one hidden layer is four matrix products, two forwards and two backwards:
1.286 million floating-point operations for 20-400-784. The products are timed alone, into memory that is there already
and at several numbers of rows, the best of which is the machine's rate; the contenders take turns with them, round
after round, so that a busy moment falls on all, and a fraction is formed within a round.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from bench.outside import Rivals
from elbowroom.data.batch import Batch
from elbowroom.data.dataset import DataSet
from elbowroom.inference.posterior.sample import start_metric
from elbowroom.inference.target import Precision, posterior_target
from elbowroom.model.conditional import Conditional
from elbowroom.model.latent import LatentModel
from elbowroom.model.networks import MLP
from elbowroom.samplers.hmc import HMC
from elbowroom.samplers.kernel import Tuning, init
from elbowroom.samplers.metric import Metric
from elbowroom.samplers.target import Density, Target

__all__ = ["BLACKJAX", "OURS", "SGEMM", "Visit", "e_step", "throughput"]

SGEMM, OURS, BLACKJAX = "sgemm: the products alone, fp32", "elbowroom HMC, fp32", "BlackJAX HMC, vmapped, fp32"
NUM_STEPS = 10
STEP_SIZE = 0.2  # in units of the guide's standard deviations, for everybody: it is accepted, and costs what any does
ROWS = (256, 512, 1024)
LEAST_SECONDS = 0.5  # of one measurement
_PRECISIONS: dict[str, Precision] = {"fp32": "full", "bf16": "bf16"}


def throughput(
    model: LatentModel, guide: Conditional, batch: Batch, *, chains: int, rounds: int, rivals: Rivals | None
) -> dict[str, list[float]]:
    """Gradients per second of every contender, one entry for each round; BlackJAX has one turn for every two rounds.

    Args:
        model: p(x, z), a Bernoulli perceptron with one hidden layer.
        guide: q(z | x), for starting points and the diagonal metric.
        batch: data; all of their chains are stepped at once.
        chains: of each example.
        rounds: of measurements.
        rivals: BlackJAX; None leaves it out.
    """
    found: dict[str, list[float]] = {}
    jobs = _jobs(model, guide, batch, chains)
    for job in jobs.values():
        job.run()
    for turn in range(rounds):
        for name, job in jobs.items():
            found.setdefault(name, []).append(_rate(job))
        found.setdefault(SGEMM, []).append(max(_rate(_products(model, rows, torch.float32)) for rows in ROWS))
        name = SGEMM.replace("fp32", "bf16")
        found.setdefault(name, []).append(max(_rate(_products(model, rows, torch.bfloat16)) for rows in ROWS))
        if rivals is not None and turn % 2 == 1:
            rates = rivals.run(
                "blackjax_nuts", task="hmc", chains=chains, num_steps=NUM_STEPS, transitions=10, repeats=5
            )["rates"]
            found.setdefault(BLACKJAX, []).append(float(torch.from_numpy(rates).median()))
    for name, rates_of in found.items():
        print(f"  {name}: {', '.join(f'{rate:,.0f}' for rate in rates_of)} gradients/s", flush=True)
    return found


class _Job(NamedTuple):
    """Something to be timed, and how many gradients it takes."""

    run: Callable[[], object]
    gradients: int


def _rate(job: _Job) -> float:
    times, begin = 0, time.perf_counter()
    while (spent := time.perf_counter() - begin) < LEAST_SECONDS:
        job.run()
        times += 1
    return times * job.gradients / spent


@torch.no_grad()
def _jobs(model: LatentModel, guide: Conditional, batch: Batch, chains: int) -> dict[str, _Job]:
    generator = torch.Generator().manual_seed(0)
    by_hand, half = (posterior_target(model, batch, precision=precision) for precision in ("full", "bf16"))
    by_autograd = Density(lambda z, x: model.log_joint(x, z), batch.x)
    diagonal = start_metric(model, guide, batch, "guide")
    z = diagonal.to_z(torch.randn(chains, *diagonal.center.shape, generator=generator))
    count = chains * len(batch)

    def transition(target: Target, kernel: HMC, metric: Metric) -> _Job:
        state, tuning = init(target, z), Tuning(torch.full((len(batch),), STEP_SIZE), metric)
        return _Job(partial(kernel.step, target, state, tuning, generator=generator), count * NUM_STEPS)

    straight, turning = HMC(NUM_STEPS), HMC(NUM_STEPS, integrator="rotation")
    curved = start_metric(model, guide, batch, "gauss-newton")
    return {
        "elbowroom gradient, fp32": _Job(partial(by_hand.gradient, z), count),
        "elbowroom gradient, bf16": _Job(partial(half.gradient, z), count),
        "elbowroom gradient, autograd, fp32": _Job(partial(by_autograd.gradient, z), count),
        OURS: transition(by_hand, straight, diagonal),
        "elbowroom HMC, bf16": transition(half, straight, diagonal),
        "elbowroom HMC, autograd, fp32": transition(by_autograd, straight, diagonal),
        "elbowroom HMC, gauss-newton metric, fp32": transition(by_hand, turning, curved),
        "elbowroom HMC, gauss-newton metric, bf16": transition(half, turning, curved),
    }


@torch.no_grad()
def _products(model: LatentModel, rows: int, dtype: torch.dtype) -> _Job:
    """The four products of so many gradients, into memory that is there already."""
    network = model.likelihood.network
    assert isinstance(network, MLP)  # the rivals' problem has been exported, which asks for it
    layers = [part for part in network.hidden_layers if isinstance(part, torch.nn.Linear)]
    first, last = (layer.weight.detach().to(dtype) for layer in (layers[0], network.output))
    widths = (first.shape[1], *last.shape[::-1])
    z, h, o = (torch.randn(rows, width).to(dtype) for width in widths)
    # not one into the next: numbers that grow or vanish from turn to turn would be slower
    z_out, h_out, o_out = (torch.empty(rows, width, dtype=dtype) for width in widths)

    def run() -> None:
        torch.mm(z, first.T, out=h_out)
        torch.mm(h, last.T, out=o_out)
        torch.mm(o, last, out=h_out)
        torch.mm(h, first, out=z_out)

    return _Job(run, rows)


class Visit(NamedTuple):
    """An E-step: every example's chain moved on by one transition.

    Attributes:
        data: how many, with a chain each.
        acceptance: of the transitions, on average.
        seconds: of each round, data in memory.
    """

    data: int
    acceptance: float
    seconds: list[float]


@torch.no_grad()
def e_step(
    model: LatentModel, guide: Conditional, dataset: DataSet, *, points: int, rounds: int, block: int = 1024
) -> dict[str, Visit]:
    """Seconds to visit all training and validation data as Monte Carlo EM does: refresh the caches, then move.

    A chain keeps its place from visit to visit, but the weights have changed since, so that its log density and
    gradient are evaluated anew before the trajectory: 11 gradients for 10 steps.

    Args:
        model: p(x, z), in evaluation mode.
        guide: q(z | x): where the chains are, and their metric.
        dataset: whose data are visited.
        points: data at most.
        rounds: visits.
        block: data at a time.
    Returns:
        The visits in fp32 and with gradients in bf16.
    """
    kernel, generator = HMC(NUM_STEPS), torch.Generator().manual_seed(0)
    batches: list[Batch] = []
    for split in ("train", "validation"):
        for batch in dataset.batches(split, block) if dataset.size(split) else ():
            batches.append(batch.rows(slice(max(0, points - sum(map(len, batches))))))
    batches = [batch for batch in batches if len(batch)]
    tunings = [Tuning(torch.full((len(b),), STEP_SIZE), start_metric(model, guide, b, "guide")) for b in batches]
    places = [t.metric.to_z(torch.randn(1, *t.metric.center.shape, generator=generator)) for t in tunings]
    seconds: dict[str, list[float]] = {"fp32": [], "bf16": []}
    accepted: dict[str, list[Tensor]] = {"fp32": [], "bf16": []}
    for _ in range(rounds):
        for name, precision in _PRECISIONS.items():
            begin = time.perf_counter()
            for index, (batch, tuning) in enumerate(zip(batches, tunings, strict=True)):
                target = posterior_target(model, batch, precision=precision)
                state, info = kernel.step(target, init(target, places[index]), tuning, generator=generator)
                places[index] = state.z
                accepted[name].append(info.acceptance.flatten())
            seconds[name].append(time.perf_counter() - begin)
            print(f"  {name}: {seconds[name][-1]:.2f} s", flush=True)
    return {
        name: Visit(sum(map(len, batches)), float(torch.cat(accepted[name]).mean()), seconds[name]) for name in seconds
    }
