r"""The cost of estimating log p(x) by sampling from the prior, as a function of the latent dimension d.

.. math:: \hat p_K(x) = \frac1K \sum_{k=1}^K p(x | z_k), \qquad z_k \sim p(z)

is unbiased, and useless in high dimensions: nearly all draws explain x badly, and it takes about exp(KL(p(z|x) ‖ p(z)))
of them for one to fall where the posterior is. Averaged over data, that exponent is the mutual information of x and z.
In this study it is chosen: the model is linear-Gaussian,

.. math:: z \sim N(0, I_d), \quad x | z \sim N(\sqrt{s} \, z, I_d), \qquad
    I(x; z) = \tfrac{d}{2} \log(1 + s),

every dimension carries the same number of nats, and log p(x) is known exactly. :func:`prior_sampling_study` measures
how many evaluations of the decoder bring :math:`\mathbb{E}[\log p(x) - \log \hat p(x)]` down to one nat, for

- ``prior``: the average above. Its logarithm grows with d as the mutual information does.
- ``guide``: importance sampling from a guide about as wrong as a trained one: in every dimension its mean is off by
  0.3 standard deviations of the posterior and its variance is 1.3 times the posterior's. Its exponent is
  KL(p(z|x) ‖ q(z|x)), 0.05 nats per dimension.
- ``ais``: one chain of annealed importance sampling from the prior, at the cost of gradients: a power of d.

Where one nat is not reached within a given number of draws, the study says so; nothing is extrapolated.

Reference:
    Chatterjee & Diaconis (2018), The sample size required in importance sampling, arXiv:1511.01437.
    Neal (2001), Annealed importance sampling, arXiv:physics/9803008.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from typing import Literal, NamedTuple, get_args

import torch
from torch import Generator, Tensor
from torch.distributions import Independent, Normal

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError, check_name
from elbowroom.inference.annealing.ais import ais
from elbowroom.inference.importance.estimate import WeightSums
from elbowroom.inference.weights import weigh
from elbowroom.model.oracles import LinearGaussian
from elbowroom.numerics import chunks, mean_and_stderr
from elbowroom.progress import Progress
from elbowroom.samplers.hmc import HMC

__all__ = ["Cost", "EffectiveSize", "PriorSamplingStudy", "Rate", "prior_sampling_study"]

Method = Literal["prior", "guide", "ais"]
METHODS: tuple[Method, ...] = get_args(Method)

_GUIDE_OFFSET = 0.3  # of the guide's mean, in standard deviations of the posterior
_GUIDE_WIDENING = 1.3  # the guide's variance over the posterior's
_CLEARLY_BELOW = 0.8  # share of the tolerance at which a curve may end: the crossing then lies between two points
_CHUNK_ELEMENTS = 2**21
_MOST_TEMPERATURES = 2**14


class Cost(NamedTuple):
    """The cost of one method in one number of latent dimensions.

    Attributes:
        method: "prior", "guide" or "ais".
        information: nats per dimension.
        latent_dim: d.
        evaluations: of the decoder, per example; with its gradient for "ais". Where the tolerance was not ``reached``,
            as many as were spent: more are needed.
        log_stderr: standard error of its logarithm; 0 where the least possible cost is enough, NaN where not reached.
        reached: whether the error came down to the tolerance.
        error: mean of log p(x) − log p̂(x) at that cost, nats: the tolerance itself where the cost is interpolated.
        stderr: standard error of ``error``.
    """

    method: Method
    information: float
    latent_dim: int
    evaluations: float
    log_stderr: float
    reached: bool
    error: float
    stderr: float


class EffectiveSize(NamedTuple):
    """Effective number of draws of the prior, between 1 and ``draws``, on average over data.

    Attributes:
        information: nats per dimension.
        latent_dim: d.
        draws: K.
        ess: their effective number.
        stderr: its standard error.
    """

    information: float
    latent_dim: int
    draws: int
    ess: float
    stderr: float


class Rate(NamedTuple):
    """How a cost grows: log K = a + rate · d ("exponential") or log K = a + rate · log d ("power").

    Attributes:
        method: "prior", "guide" or "ais".
        information: nats per dimension.
        law: "exponential" or "power".
        rate: fitted to the costs that were measured.
        stderr: its standard error; from the scatter about the line, where that exceeds the costs' own errors.
        intercept: a.
        theory: the divergence per dimension, which is the rate where d is large; None for "ais".
        points: how many costs it is fitted to.
    """

    method: Method
    information: float
    law: str
    rate: float
    stderr: float
    intercept: float
    theory: float | None
    points: int


class PriorSamplingStudy(NamedTuple):
    """The results of a study.

    Attributes:
        costs: one for each method, information and dimension.
        ess: one for each information and dimension.
        rates: one for each method and information with three costs to fit.
    """

    costs: list[Cost]
    ess: list[EffectiveSize]
    rates: list[Rate]


class _Curve(NamedTuple):
    """Errors at rising costs; each tensor has shape (replicates,) and is a mean over data, nats."""

    costs: list[float]
    errors: list[Tensor]


def prior_sampling_study(
    dims: Sequence[int] = (1, 2, 3, 5, 7, 10, 12, 15, 20, 30, 40, 50),
    information: Sequence[float] = (0.25, 1.0),
    *,
    methods: Sequence[str] = METHODS,
    tolerance: float = 1.0,
    replicates: int = 16,
    num_data: int = 32,
    most_draws: int = 2**20,
    ess_draws: int = 2**12,
    leapfrogs: int = 1,
    generator: Generator | None = None,
    announce: Progress | None = None,
) -> PriorSamplingStudy:
    r"""Measure how many evaluations an error of one nat takes, against the number of latent dimensions.

    .. math:: K^* = \min \big\{ K : \mathbb{E}_{x, z} [\log p(x) - \log \hat p_K(x)] \le 1 \big\}

    K is doubled until the error is clearly below the tolerance, and :math:`K^*` is found between two doublings, where
    log error is taken as linear in log K. Draws of the prior are shared by the data of a replicate, so that they cost
    one matrix product, and by nothing else; standard errors are from the replicates. Step sizes of AIS are tuned by
    other chains, which are not counted.

    Args:
        dims: numbers of latent dimensions d.
        information: nats per dimension that the data carry about z.
        methods: of "prior", "guide" and "ais".
        tolerance: nats.
        replicates: independent repetitions.
        num_data: examples of a replicate, drawn from the model.
        most_draws: of the prior or the guide, at most.
        ess_draws: draws of the prior of which the effective number is measured; a power of 2.
        leapfrogs: L, steps of a transition of AIS.
        generator: the source of randomness.
        announce: called before each measurement with what is measured, how many are done and how many there are.
    Raises:
        ElbowroomError: an unknown method; a number out of range.
    Reference:
        Chatterjee & Diaconis (2018), The sample size required in importance sampling, arXiv:1511.01437.
    Example:
        >>> study = prior_sampling_study(
        ...     dims=[2, 8],
        ...     information=[1.0],
        ...     methods=["prior"],
        ...     replicates=4,
        ...     num_data=16,
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> small, large = (cost.evaluations for cost in study.costs)
        >>> large > 50 * small
        True
    """
    numbers = {"replicates": replicates, "num_data": num_data, "most_draws": most_draws, "ess_draws": ess_draws}
    _check(dims, information, methods, {**numbers, "leapfrogs": leapfrogs}, tolerance)
    chosen = [method for method in METHODS if method in methods]
    in_all = len(information) * len(dims) * len(chosen)
    costs: list[Cost] = []
    ess: list[EffectiveSize] = []
    for nats in information:
        for dim in dims:
            model = _model(dim, nats)
            x = model.sample(replicates * num_data, generator=generator).x.view(replicates, num_data, dim)
            setting = _Setting(model, x, tolerance, generator)
            for method in chosen:
                if announce is not None:
                    announce(f"{method}, {dim} latent dimensions, {nats} nats each", len(costs), in_all)
                if method == "ais":
                    curve = _ais_curve(setting, leapfrogs)
                elif method == "guide":
                    curve, _ = _importance_curve(setting, _guide_log_weights(setting), 1, most_draws)
                else:
                    curve, sizes = _importance_curve(setting, _prior_log_weights(setting), ess_draws, most_draws)
                    ess.append(EffectiveSize(nats, dim, ess_draws, *mean_and_stderr(sizes[ess_draws])))
                costs.append(Cost(method, nats, dim, *_crossing(curve, tolerance)))
    groups = [[c for c in costs if (c.method, c.information) == key] for key in product(METHODS, information)]
    return PriorSamplingStudy(costs, ess, [rate for group in groups if (rate := _fit(group)) is not None])


class _Setting(NamedTuple):
    """Model and data of one number of latent dimensions."""

    model: LinearGaussian
    x: Tensor  #: (replicates, data, dim)
    tolerance: float
    generator: Generator | None

    @property
    def truth(self) -> Tensor:
        """log p(x), float64, shape (replicates, data)."""
        return self.model.log_evidence(self.x.flatten(0, 1).double()).detach().view(self.x.shape[:2])

    def is_done(self, error: Tensor) -> bool:
        """Whether errors, shape (replicates,), are clearly below the tolerance on average."""
        return float(error.mean()) <= _CLEARLY_BELOW * self.tolerance


def _model(dim: int, information: float) -> LinearGaussian:
    """½ log(1 + s) nats in each of d dimensions; any rotation of x or z would change no weight."""
    signal_to_noise = math.expm1(2 * information)
    return LinearGaussian(math.sqrt(signal_to_noise) * torch.eye(dim), torch.zeros(dim), scale=1.0)


_Draws = Callable[[int, int], Tensor]
"""(replicate, count) -> log weights, shape (count, data)"""


def _prior_log_weights(setting: _Setting) -> _Draws:
    """log p(x | z) of the data of a replicate at common draws of the prior, through one product of matrices."""
    model, x = setting.model, setting.x
    weight, bias, variance = model.weight.detach(), model.bias.detach(), model.noise_scale**2
    dim = x.shape[-1]
    constant = -0.5 * (x.square().sum(-1) / variance + dim * math.log(2 * math.pi * variance))

    def log_weights(replicate: int, count: int) -> Tensor:
        z = torch.randn(count, weight.shape[1], generator=setting.generator, dtype=x.dtype)
        decoded = z @ weight.T + bias
        # −½ |x − o|² = x·o − ½ |o|² − ½ |x|²
        explained = decoded @ x[replicate].T - 0.5 * decoded.square().sum(-1, keepdim=True)
        return explained / variance + constant[replicate]

    return log_weights


def _guide_log_weights(setting: _Setting) -> _Draws:
    """Importance weights of a guide that is wrong by a fixed amount in every dimension."""
    model, x = setting.model, setting.x
    guides = []
    for data in x:
        posterior = model.posterior(data)
        deviation = posterior.stddev.detach()
        scale = math.sqrt(_GUIDE_WIDENING) * deviation
        guides.append(Independent(Normal(posterior.mean.detach() + _GUIDE_OFFSET * deviation, scale), 1))
    prior = model.prior(None)

    def log_weights(replicate: int, count: int) -> Tensor:
        batch = Batch(x[replicate])
        return weigh(model, batch, guides[replicate], prior, num_samples=count, generator=setting.generator).log_weights

    return log_weights


@torch.no_grad()
def _importance_curve(setting: _Setting, draws: _Draws, least: int, most: int) -> tuple[_Curve, dict[int, Tensor]]:
    """Errors at K = 1, 2, 4, …, each K with the draws of the one before, and effective numbers of draws at each K."""
    truth, (replicates, num_data, dim) = setting.truth, setting.x.shape
    size = max(1, _CHUNK_ELEMENTS // (dim * num_data))
    sums = [WeightSums.empty(num_data) for _ in range(replicates)]
    curve, sizes = _Curve([], []), {}
    for count in _doublings(most):
        for replicate in range(replicates):
            for chunk in chunks(count - sums[replicate].draws, size):
                sums[replicate] = sums[replicate].add(draws(replicate, chunk.stop - chunk.start))
        found = [each.estimate() for each in sums]
        curve.costs.append(float(count))
        curve.errors.append((truth - torch.stack([each.log_evidence for each in found])).mean(1))
        sizes[count] = torch.stack([each.ess for each in found]).mean(1)
        if count >= least and setting.is_done(curve.errors[-1]):
            break
    return curve, sizes


def _ais_curve(setting: _Setting, leapfrogs: int) -> _Curve:
    """Errors of single chains at T = 1, 2, 4, … temperatures; each T with chains of its own."""
    curve = _Curve([], [])
    data = setting.x.flatten(0, 1)
    for temperatures in _doublings(_MOST_TEMPERATURES):
        found = ais(
            setting.model,
            data,
            start="prior",
            temperatures=temperatures,
            schedule="linear",
            chains=1,
            pilot_chains=1,
            kernel=HMC(leapfrogs, integrator="rotation"),
            generator=setting.generator,
        )
        curve.costs.append(found.num_gradients)
        curve.errors.append((setting.truth - found.log_evidence.view(setting.x.shape[:2])).mean(1))
        if setting.is_done(curve.errors[-1]):
            break
    return curve


def _doublings(most: int) -> Iterator[int]:
    """1, 2, 4, … up to and including the largest that is at most ``most``."""
    return (2**power for power in range(int(math.log2(most)) + 1))


def _crossing(curve: _Curve, tolerance: float) -> tuple[float, float, bool, float, float]:
    """Where the mean error comes down to the tolerance: the fields of :class:`Cost` from ``evaluations`` on.

    With e the error, linear in log–log between two costs, the standard error of log K is that of log e over its slope.
    """
    first, stderr = mean_and_stderr(curve.errors[0])
    if first <= tolerance:
        return curve.costs[0], 0.0, True, first, stderr
    for (low, before), (high, after) in pairwise(zip(curve.costs, curve.errors, strict=True)):
        above, below = float(before.mean()), float(after.mean())
        if below <= tolerance < above:
            # a bound in expectation cannot be negative; by chance a mean of few replicates can, and has no logarithm
            below = max(below, 1e-3 * tolerance)
            fraction = math.log(above / tolerance) / math.log(above / below)
            log_cost = math.log(low) + fraction * math.log(high / low)
            _, spread = mean_and_stderr((1 - fraction) * before / above + fraction * after / below)
            slope = math.log(above / below) / math.log(high / low)
            return math.exp(log_cost), spread / slope, True, tolerance, tolerance * spread
    last, stderr = mean_and_stderr(curve.errors[-1])
    return curve.costs[-1], math.nan, False, last, stderr


def _fit(costs: Sequence[Cost]) -> Rate | None:
    """Weighted least squares through the costs that were measured between two others; None for fewer than three."""
    used = [cost for cost in costs if cost.reached and cost.log_stderr > 0]
    if len(used) < 3:
        return None
    method, information = used[0].method, used[0].information
    law = "power" if method == "ais" else "exponential"
    dims = torch.tensor([cost.latent_dim for cost in used], dtype=torch.float64)
    design = torch.stack([torch.ones_like(dims), dims.log() if law == "power" else dims], 1)
    log_cost = torch.tensor([cost.evaluations for cost in used], dtype=torch.float64).log()
    errors = torch.tensor([cost.log_stderr for cost in used], dtype=torch.float64)
    scaled, goal = design / errors.unsqueeze(1), log_cost / errors
    covariance = torch.linalg.inv(scaled.T @ scaled)
    line = covariance @ scaled.T @ goal
    scatter = float((goal - scaled @ line).square().sum()) / (len(used) - 2)
    stderr = math.sqrt(float(covariance[1, 1]) * max(1.0, scatter))
    intercept, rate = line.tolist()
    return Rate(method, information, law, rate, stderr, intercept, _theory(method, information), len(used))


def _theory(method: Method, information: float) -> float | None:
    """KL(p(z|x) ‖ q) per dimension, averaged over x; for the guide that of N(0, 1) from N(0.3, 1.3)."""
    divergence = {
        "prior": information,
        "guide": 0.5 * (math.log(_GUIDE_WIDENING) + (1 + _GUIDE_OFFSET**2) / _GUIDE_WIDENING - 1),
    }
    return divergence.get(method)


def _check(
    dims: Sequence[int], information: Sequence[float], methods: Sequence[str], numbers: dict[str, int], tolerance: float
) -> None:
    for method in methods:
        check_name("method", method, METHODS)
    least = {"dims": min(dims, default=0), **numbers}
    for name, number in least.items():
        smallest = 2 if name == "replicates" else 1
        if number < smallest:
            raise ElbowroomError(
                f"{name} is {number}, but {smallest} is the least.", f"Give {name} of {smallest} or more."
            )
    for name, nats in (("tolerance", tolerance), *(("information", each) for each in information)):
        if not 0 < nats < math.inf:
            raise ElbowroomError(f"{name} is {nats} nats, but should be positive.", "Give a number above zero.")
    ess_draws = numbers["ess_draws"]
    if ess_draws & (ess_draws - 1) or ess_draws > numbers["most_draws"]:
        raise ElbowroomError(
            f"The effective number of {ess_draws} draws was asked for, but draws are doubled, from 1 to at most "
            f"{numbers['most_draws']}.",
            "Give a power of 2 that is no larger than most_draws.",
        )
