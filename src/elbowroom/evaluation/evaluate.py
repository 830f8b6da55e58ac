r"""What a model is worth, in nats per datum, each figure with its standard error.

============= ============================================================================== ===========
method        estimates                                                                      bounds log p
============= ============================================================================== ===========
elbo          :math:`E_q[\log p(x|z)] - KL(q(z|x) \| p(z))`, and the two terms                from below
iwae          :math:`E \log \frac1K \sum_k p(x, z_k) / q(z_k|x)`                              from below
laplace-is    the same, with q made of Laplace approximations around the posterior's modes    from below
active-units  the number of latent dimensions whose posterior mean varies with the data      —
============= ============================================================================== ===========

The standard error is that of the mean over data, :math:`s / \sqrt{n}`; it holds the noise of the draws of z too.
Evaluation data are in a fixed order with a fixed binarisation, draws come from a seeded generator, networks are in
evaluation mode: the same call gives the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from elbowroom.data.batch import Batch
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError, did_you_mean
from elbowroom.inference.importance import importance_estimate
from elbowroom.inference.laplace_importance import laplace_evidence
from elbowroom.inference.objectives import elbo_terms
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import PriorGuide
from elbowroom.model.latent import LatentModel
from elbowroom.numerics import mean_and_stderr

__all__ = ["FOUND", "METHODS", "EvaluationData", "Result", "evaluate", "evaluation_mode", "score"]

_IN_BITS = {Support.BYTES, Support.COUNTS, Support.CATEGORIES}
_ACTIVE_ABOVE = 0.01  # variance over data of the posterior mean, Burda et al. (2016)
_DRAWS = {"iwae": 5000, "laplace-is": 100}  # k unless given
_FEW = 0.1  # of the draws: what an effective sample size below is called

#: Among a result's settings, those that were found and not asked for.
FOUND = ("median_ess", "low_ess", "num_modes", "unconverged", "evaluations")

Announce = Callable[[str, int, int], None]
"""(method, data done, data in all)"""
PerBatch = Callable[[Batch, torch.Generator], dict[str, Tensor]]
"""Figures of every datum of a batch, by name, each of shape (batch, …)."""


class EvaluationData(Protocol):
    """What evaluation needs of a data set; :class:`elbowroom.data.dataset.DataSet` is one."""

    def size(self, split: str) -> int: ...

    def batches(self, split: str, batch_size: int, *, points: int | None = None) -> Iterator[Batch]: ...

    def protocol(self) -> dict[str, Any]: ...


class Result(BaseModel):
    """A figure that carries its meaning."""

    model_config = ConfigDict(frozen=True)

    name: str
    value: float
    stderr: float | None
    unit: str
    points: int
    split: str
    bound: Literal["lower", "upper"] | None
    settings: dict[str, Any]
    protocol: dict[str, Any]


def _draws(device: torch.device, seed: int) -> torch.Generator:
    # data that were themselves drawn with this seed hold its first numbers: the draws of z must not be those again
    return torch.Generator(device).manual_seed((seed + 0x9E3779B97F4A7C15) % 2**63)


@contextmanager
def evaluation_mode(*modules: nn.Module) -> Iterator[None]:
    """Networks in evaluation mode and no gradients, for a while."""
    modes = [(module, module.training) for root in modules for module in root.modules()]
    for root in modules:
        root.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


@dataclass(frozen=True, slots=True)
class _Study:
    """What the methods share: the model, the data, the settings and the making of results."""

    model: LatentModel
    guide: Conditional
    data: EvaluationData
    split: str
    points: int | None
    k: int | None
    starts: int
    num_samples: int
    seed: int
    announce: Announce

    def draws(self, method: str) -> int:
        """k, per datum."""
        return _DRAWS[method] if self.k is None else self.k

    def over_data(self, method: str, per_batch: PerBatch, *, batch_size: int, points: int | None) -> dict[str, Tensor]:
        """Per-datum values by name, concatenated over the split: every datum weighs the same, whatever its batch."""
        total = self.data.size(self.split) if points is None else min(points, self.data.size(self.split))
        values: dict[str, list[Tensor]] = {}
        generator, done = None, 0
        for batch in self.data.batches(self.split, batch_size, points=points):
            if generator is None:  # on the data's device
                generator = _draws(batch.x.device, self.seed)
            for name, value in per_batch(batch, generator).items():
                values.setdefault(name, []).append(value.double().cpu())
            done += len(batch)
            self.announce(method, done, total)
        return {name: torch.cat(parts) for name, parts in values.items()}

    def average(self, name: str, values: Tensor, *, bound: Literal["lower"] | None, **settings: Any) -> Result:
        """The mean over data, with the standard error of that mean."""
        value, stderr = mean_and_stderr(values)
        known = stderr if math.isfinite(stderr) else None  # that of a single datum is not
        return self.result(name, value, known, "nats", len(values), bound, settings)

    def result(
        self,
        name: str,
        value: float,
        stderr: float | None,
        unit: str,
        points: int,
        bound: Literal["lower"] | None,
        settings: dict[str, Any],
    ) -> Result:
        return Result(
            name=name,
            value=value,
            stderr=stderr,
            unit=unit,
            points=points,
            split=self.split,
            bound=bound,
            settings={**settings, "seed": self.seed},
            protocol=self.data.protocol(),
        )

    def with_bits(self, result: Result, values: Tensor, observed: Tensor) -> list[Result]:
        r"""The result, and beside it bits per dimension where the data are bytes, counts or categories.

        .. math:: b = -\frac{\sum_n v_n}{\log 2 \, \sum_n d_n}, \qquad
            \mathrm{stderr} = \frac{1}{\bar{d}} \, \mathrm{stderr}\Big(\frac{v_n}{\log 2} + b \, d_n\Big)

        with :math:`v_n` the bound of datum n and :math:`d_n` the number of its elements that were observed. Binary
        data are left out: their bound is quoted in nats.
        """
        if self.model.likelihood.support not in _IN_BITS:
            return [result]
        value_in_bits, dimensions = values / math.log(2), float(observed.mean())
        bits_per_dim = -float(value_in_bits.mean()) / dimensions
        stderr = mean_and_stderr(value_in_bits + bits_per_dim * observed)[1] / dimensions
        bits = {
            "name": f"{result.name}, bits per dimension",
            "value": bits_per_dim,
            "stderr": stderr if math.isfinite(stderr) else None,
            "unit": "bits/dim",
            "bound": "upper",
        }
        return [result, result.model_copy(update=bits)]


def _observed(batch: Batch) -> Tensor:
    """How many elements of each datum were observed, shape (batch,)."""
    if batch.mask is None:
        return torch.full((len(batch),), batch.x[0].numel())
    return batch.mask.flatten(1).sum(1)


def _elbo_values(study: _Study, points: int | None) -> dict[str, Tensor]:
    def per_batch(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        terms = elbo_terms(
            study.model, study.guide, batch, num_samples=study.num_samples, kl="auto", generator=generator
        )
        return {"elbo": terms.value, **terms.parts, "observed": _observed(batch)}

    return study.over_data("elbo", per_batch, batch_size=max(1, 1000 // study.num_samples), points=points)


def _elbo(study: _Study) -> list[Result]:
    values, settings = _elbo_values(study, study.points), {"num_samples": study.num_samples}
    likelihood = study.model.likelihood
    remark = "" if likelihood.normalized else f" ({likelihood.name}: not a log-likelihood)"
    bound = study.average(f"elbo{remark}", values["elbo"], bound=None if remark else "lower", **settings)
    return [
        *([bound] if remark else study.with_bits(bound, values["elbo"], values["observed"])),
        study.average(f"reconstruction{remark}", values["reconstruction"], bound=None, **settings),
        study.average(f"kl{remark}", values["kl"], bound=None, **settings),
    ]


def _iwae(study: _Study) -> list[Result]:
    require_normalized(study.model, "iwae")
    k = study.draws("iwae")

    def per_batch(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        estimate = importance_estimate(study.model, study.guide, batch, num_samples=k, generator=generator)
        return {"iwae": estimate.log_evidence, "ess": estimate.ess, "observed": _observed(batch)}

    points = study.points if study.points is not None else 1000
    values = study.over_data("iwae", per_batch, batch_size=100, points=points)
    lower = study.average("iwae", values["iwae"], bound="lower", k=k, median_ess=float(values["ess"].median()))
    results = study.with_bits(lower, values["iwae"], values["observed"])
    if isinstance(study.guide, PriorGuide):  # no posterior was guessed, so no guess has a room
        return results
    room = values["iwae"] - _elbo_values(study, points)["elbo"]
    return [*results, study.average("elbow room", room, bound="lower", k=k)]


def _laplace_is(study: _Study) -> list[Result]:
    require_normalized(study.model, "laplace-is")
    k = study.draws("laplace-is")

    def per_batch(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        found = laplace_evidence(study.model, study.guide, batch, k=k, starts=study.starts, generator=generator)
        return {**found._asdict(), "observed": _observed(batch)}

    points = study.points if study.points is not None else 1000
    values = study.over_data("laplace-is", per_batch, batch_size=100, points=points)
    found = {
        "median_ess": values["ess"].median(),
        "low_ess": (values["ess"] < _FEW * k).double().mean(),
        "num_modes": values["num_modes"].mean(),
        "unconverged": 1 - values["converged"].mean(),
        "evaluations": values["evaluations"].mean(),
    }
    settings = {"k": k, "starts": study.starts, **{name: float(value) for name, value in found.items()}}
    lower = study.average("laplace-is", values["log_evidence"], bound="lower", **settings)
    return study.with_bits(lower, values["log_evidence"], values["observed"])


def _active_units(study: _Study) -> list[Result]:
    if isinstance(study.guide, PriorGuide):
        raise ElbowroomError(
            "active-units counts latents whose mean under the guide varies with the data, and there is no guide.",
            "Measure with --methods laplace-is.",
        )

    def per_batch(batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        return {"mean": study.guide(batch.x, batch.context).mean}

    means = study.over_data("active-units", per_batch, batch_size=1000, points=study.points)["mean"]
    if len(means) < 2:
        raise ElbowroomError(
            "Active units need a variance over data, but there is one point.", "Give --points 2 or more."
        )
    active = int((means.var(0) > _ACTIVE_ABOVE).sum())
    settings = {"of": means.shape[1], "threshold": _ACTIVE_ABOVE}
    return [study.result("active units", active, None, "units", len(means), None, settings)]


METHODS: dict[str, Callable[[_Study], list[Result]]] = {
    "elbo": _elbo,
    "iwae": _iwae,
    "laplace-is": _laplace_is,
    "active-units": _active_units,
}


def require_normalized(model: LatentModel, method: str) -> None:
    """Refuses to call something a likelihood that is none.

    Raises:
        ElbowroomError: the likelihood is not normalised.
    """
    if not model.likelihood.normalized:
        raise ElbowroomError(
            f"{method} estimates log p(x), but {model.likelihood.name} does not integrate to one, so there is none.",
            "Train with --data.binarization dynamic, or with --model.likelihood continuous-bernoulli; "
            "--methods elbo,active-units works as it is.",
        )


def evaluate(
    model: LatentModel,
    guide: Conditional,
    data: EvaluationData,
    *,
    methods: Sequence[str] = ("elbo", "iwae", "active-units"),
    split: str = "test",
    points: int | None = None,
    k: int | None = None,
    starts: int = 4,
    num_samples: int = 1,
    seed: int = 0,
    announce: Announce = lambda method, done, total: None,
) -> list[Result]:
    r"""Measures a model by the named methods.

    Args:
        model: p(x, z).
        guide: q(z | x); of it laplace-is takes no more than a place to start from.
        data: the data set, delivered in the likelihood's support.
        methods: names from ``METHODS``.
        split: "test", "validation" or "train".
        points: measure on that many data of the split, chosen by seed; all of them unless given, but 1,000 for iwae
            and laplace-is.
        k: draws per datum of the importance-weighted bounds; unless given, 5,000 for iwae and 100 for laplace-is.
        starts: climbs per datum to modes of the posterior, for laplace-is.
        num_samples: draws per datum of the ELBO.
        seed: of the draws of z.
        announce: called with (method, data done, data in all).
    Returns:
        Results; ``elbo`` comes with its two terms, ``iwae`` with the elbow room, iwae − elbo on the same data. The
        settings of ``laplace-is`` also hold what was found: the median effective sample size, the share of data where
        it is below a tenth of k (there the bound is loose), the mean number of modes, the share of data whose largest
        one no climb arrived at, and the mean number of decoder evaluations.
    Raises:
        ElbowroomError: an unknown method or split, a likelihood that is none, a number below one.
    Reference:
        Burda, Grosse & Salakhutdinov (2016), Importance Weighted Autoencoders, eq. 8 and section 5.2 (active units:
        :math:`\mathrm{Var}_x(E_q[z|x]) > 0.01`), arXiv:1509.00519.
    """
    for method in methods:
        if method not in METHODS:
            raise ElbowroomError(f"There is no method '{method}'.", did_you_mean(method, METHODS))
    for name, number in (("k", k), ("starts", starts), ("num_samples", num_samples), ("points", points)):
        if number is not None and number < 1:
            raise ElbowroomError(
                f"{name} is {number}, but must be 1 or more.", f"Give --{name.replace('_', '-')} 1 or more."
            )
    study = _Study(model, guide, data, split, points, k, starts, num_samples, seed, announce)
    with evaluation_mode(model, guide):
        return [result for method in methods for result in METHODS[method](study)]


def score(
    model: LatentModel, guide: Conditional, batches: Iterable[Batch], *, k: int = 1000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """log p(x) of every datum, as the importance-weighted bound, with its standard error.

    Args:
        model: p(x, z).
        guide: q(z | x).
        batches: the data, in order.
        k: draws per datum.
        seed: of the draws.
    Returns:
        (n,) nats and (n,) standard errors (of the Monte Carlo average, by the delta method), float64.
    Raises:
        ElbowroomError: the likelihood is not normalised; there are no data.
    """
    require_normalized(model, "score")
    values, errors, generator = [], [], None
    with evaluation_mode(model, guide):
        for batch in batches:
            generator = generator or _draws(batch.x.device, seed)
            estimate = importance_estimate(model, guide, batch, num_samples=k, generator=generator)
            values.append(estimate.log_evidence.double().cpu())
            errors.append(estimate.stderr.double().cpu())
    if not values:
        raise ElbowroomError("There are no data to score.", "Give one datum or more.")
    return torch.cat(values), torch.cat(errors)
