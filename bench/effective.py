"""Effective samples per second from the posteriors of a trained model: elbowroom's samplers, BlackJAX's and Pyro's.

Every contender draws from p(z | x) of the same data, and the same function measures what its draws are worth. For each
example the effective sample size is the least over the dimensions of z; the rate is that of the median example, times
the number of data, by the seconds of drawing. A contender whose draws are not from the posterior could have any rate:
so the means and variances of each are held against those of the first, by a z-score for every example and dimension.
Their root mean square is 1 where both draw from the same distribution.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor

from bench.outside import Rivals
from elbowroom.data.batch import Batch
from elbowroom.inference.posterior.sample import posterior
from elbowroom.model.conditional import Conditional
from elbowroom.model.latent import LatentModel
from elbowroom.progress import Detail
from elbowroom.samplers.diagnostics import diagnose, ess_mean

__all__ = ["BLACKJAX", "HALF", "OURS", "PYRO", "Plan", "Result", "race"]

OURS, HALF = "elbowroom HMC, gauss-newton", "elbowroom HMC, gauss-newton, bf16"
BLACKJAX, PYRO = "BlackJAX NUTS, window adaptation, vmapped", "Pyro NUTS, one example after another"
METHODS: dict[str, dict[str, Any]] = {
    OURS: {"method": "hmc", "metric": "gauss-newton"},
    HALF: {"method": "hmc", "metric": "gauss-newton", "precision": "bf16"},
    "elbowroom NUTS, gauss-newton": {"method": "nuts", "metric": "gauss-newton"},
    "elbowroom HMC, guide": {"method": "hmc", "metric": "guide"},
    "elbowroom HMC, diagonal": {"method": "hmc", "metric": "diagonal"},
    "elbowroom HMC, dense": {"method": "hmc", "metric": "dense"},
    "elbowroom HMC, identity": {"method": "hmc", "metric": "identity"},
}


@dataclass(frozen=True)
class Plan:
    """How much each draws.

    Attributes:
        draws: of each chain.
        chains: of each example.
        warmup: elbowroom's transitions before the first draw.
        rounds: of the headline contenders; the others have one turn.
        metrics_data: the first so many data, for HMC with the other metrics.
        blackjax_data: the first so many data.
        blackjax_warmup: steps of its window adaptation.
        pyro_data: the first so many data.
        pyro_draws: of its one chain, and as many to warm up.
    """

    draws: int
    chains: int
    warmup: int
    rounds: int
    metrics_data: int
    blackjax_data: int
    blackjax_warmup: int
    pyro_data: int
    pyro_draws: int


class Draws(NamedTuple):
    """What a contender hands in: z (draws, chains, data, dim); gradients of each draw, (draws, chains, data)."""

    z: Tensor
    num_gradients: Tensor
    divergent: float
    warmup_seconds: float
    seconds: float
    acceptance: float | None = None
    compile_seconds: float = 0.0


class Result(NamedTuple):
    """What the draws of one turn are worth.

    Attributes:
        data: how many.
        draws: of each example, all chains together.
        ess_bulk: of the median example, least over the dimensions.
        ess_tail: likewise.
        rate: ess_bulk × data / seconds.
        tail_rate: ess_tail × data / seconds.
        rate_with_warmup: ess_bulk × data / (seconds + warmup_seconds).
        gradients_per_sample: gradients of drawing by bulk effective samples, of the median example.
        acceptance: probability of it, on average; None where it is not told.
        divergent: share of the transitions.
        disagreement: root mean square z-score of means and variances against the first contender's first turn; None
            for that turn.
        seconds: of drawing.
        warmup_seconds: from the model and the data to the first draw.
        compile_seconds: before that, in none of the rates.
    """

    data: int
    draws: int
    ess_bulk: float
    ess_tail: float
    rate: float
    tail_rate: float
    rate_with_warmup: float
    gradients_per_sample: float
    acceptance: float | None
    divergent: float
    disagreement: float | None
    seconds: float
    warmup_seconds: float
    compile_seconds: float


def race(
    model: LatentModel, guide: Conditional, batch: Batch, plan: Plan, rivals: Rivals | None
) -> dict[str, list[Result]]:
    """Lets all contenders take turns, one process at a time.

    Args:
        model: p(x, z), in evaluation mode.
        guide: q(z | x), for elbowroom's metrics and everybody's starting points.
        batch: the data.
        plan: how much each draws.
        rivals: BlackJAX and Pyro; None leaves them out.
    Returns:
        A list of turns for each contender.
    """
    contenders: dict[str, Callable[[int], Draws]] = {
        name: partial(_elbowroom, model, guide, _share(batch, settings, plan), plan, settings)
        for name, settings in METHODS.items()
    }
    for name in (OURS, HALF):  # what a process does only once is not what is measured
        _elbowroom(model, guide, batch.rows(slice(8)), replace(plan, draws=4, warmup=4), METHODS[name], 0)
    if rivals is not None:
        contenders |= {BLACKJAX: partial(_blackjax, rivals, plan), PYRO: partial(_pyro, rivals, plan)}
    found: dict[str, list[Result]] = {name: [] for name in contenders}
    first: Tensor | None = None
    for turn in range(plan.rounds):
        for index, (name, contender) in enumerate(contenders.items()):
            if turn and name not in (OURS, HALF, BLACKJAX):
                continue
            drawn = contender(len(contenders) * turn + index)  # seeds of their own, so that no two share their noise
            result = _worth(drawn, first)
            first = drawn.z if first is None else first
            found[name].append(result)
            print(
                f"  {name}: {result.rate:,.0f} effective samples/s, {result.gradients_per_sample:.1f} gradients each, "
                f"{result.warmup_seconds:.1f} + {result.seconds:.1f} s",
                flush=True,
            )
    return found


def _share(batch: Batch, settings: dict[str, Any], plan: Plan) -> Batch:
    return batch if settings["metric"] == "gauss-newton" else batch.rows(slice(plan.metrics_data))


def _elbowroom(
    model: LatentModel, guide: Conditional, batch: Batch, plan: Plan, settings: dict[str, Any], seed: int
) -> Draws:
    """By the public function, whose announcements tell when the warm-up ended and when the last draw was made."""
    times: dict[int, float] = {}

    def announce(what: str, done: int, total: int, detail: Detail | None = None, /) -> None:
        times[done // len(batch)] = time.perf_counter()

    begin = time.perf_counter()
    found = posterior(
        model,
        guide,
        batch,
        draws=plan.draws,
        chains=plan.chains,
        warmup=plan.warmup,
        block=len(batch),
        generator=torch.Generator().manual_seed(seed),
        announce=announce,
        **settings,
    )
    warm, end = times[plan.warmup], times[plan.warmup + plan.draws]
    info = found.info
    acceptance, divergent = (float(tensor.double().mean()) for tensor in (info.acceptance, info.divergent))
    return Draws(found.z, info.num_gradients, divergent, warm - begin, end - warm, acceptance)


def _blackjax(rivals: Rivals, plan: Plan, seed: int) -> Draws:
    return _from_arrays(
        rivals.run(
            "blackjax_nuts",
            task="nuts",
            data=plan.blackjax_data,
            chains=plan.chains,
            draws=plan.draws,
            warmup=plan.blackjax_warmup,
            seed=seed,
        )
    )


def _pyro(rivals: Rivals, plan: Plan, seed: int) -> Draws:
    return _from_arrays(
        rivals.run("pyro_nuts", data=plan.pyro_data, draws=plan.pyro_draws, warmup=plan.pyro_draws, seed=seed)
    )


def _from_arrays(found: dict[str, npt.NDArray[Any]]) -> Draws:
    numbers = {name: float(array) for name, array in found.items() if name in Draws._fields and not array.ndim}
    return Draws(torch.from_numpy(found["z"]), torch.from_numpy(found["num_gradients"]), **numbers)


def _worth(drawn: Draws, first: Tensor | None) -> Result:
    z = drawn.z
    draws, chains, data, _ = z.shape
    convergence = diagnose(z)
    least_bulk, least_tail = convergence.ess_bulk.amin(-1), convergence.ess_tail.amin(-1)  # (data,)
    bulk, tail = float(least_bulk.quantile(0.5)), float(least_tail.quantile(0.5))
    gradients = drawn.num_gradients.sum((0, 1)).double()
    return Result(
        data=data,
        draws=draws * chains,
        ess_bulk=bulk,
        ess_tail=tail,
        rate=bulk * data / drawn.seconds,
        tail_rate=tail * data / drawn.seconds,
        rate_with_warmup=bulk * data / (drawn.seconds + drawn.warmup_seconds),
        gradients_per_sample=float((gradients / least_bulk).quantile(0.5)),
        acceptance=drawn.acceptance,
        divergent=drawn.divergent,
        disagreement=None if first is None else _disagreement(z, first[:, :, :data]),
        seconds=drawn.seconds,
        warmup_seconds=drawn.warmup_seconds,
        compile_seconds=drawn.compile_seconds,
    )


def _disagreement(z: Tensor, first: Tensor) -> float:
    """Root mean square, over data, dimensions and two moments, of the difference in units of its standard error."""
    z, first = z.double(), first.double()
    center = first.mean((0, 1))
    total = torch.zeros((), dtype=torch.float64)
    for mine_of, theirs_of in ((z, first), ((z - center).square(), (first - center).square())):
        (mine, my_error), (theirs, their_error) = _moment(mine_of), _moment(theirs_of)
        total += ((mine - theirs).square() / (my_error + their_error)).mean()
    return float((total / 2).sqrt())


def _moment(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and squared standard error, of draws that depend on each other; shape (data, dim)."""
    return values.mean((0, 1)), values.flatten(0, 1).var(0) / ess_mean(values)
