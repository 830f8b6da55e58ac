"""The bounds written out as a reader of the papers would: one datum, one draw, one element at a time, with ``math``.

p(z) = N(0, I), p(x | z, c) Bernoulli, q(z | x, c) = N(μ, diag σ²). Parameters come from the networks, draws from the
same seed; everything from there on is a Python loop, and shares no code with the package.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.inference.importance.estimate import importance_estimate
from elbowroom.inference.objectives import elbo_terms, iwae
from elbowroom.model.draws import draw
from elbowroom.model.guides import DiagonalNormal
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli
from elbowroom.model.networks import MLP
from elbowroom.model.priors import StandardNormal

BATCH, EVENT, LATENT, CONTEXT = 4, (2, 3), 2, 3
Row = list[float]


def log_normal(value: float, mean: float, deviation: float) -> float:
    return -0.5 * math.log(2 * math.pi) - math.log(deviation) - 0.5 * ((value - mean) / deviation) ** 2


def log_bernoulli(x: float, logit: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return x * math.log(p) + (1 - x) * math.log(1 - p)


def log_likelihood(x: Row, logits: Row, observed: list[bool]) -> float:
    total = 0.0
    for value, logit, seen in zip(x, logits, observed, strict=True):
        if seen:
            total += log_bernoulli(value, logit)
    return total


def log_weight(x: Row, z: Row, logits: Row, observed: list[bool], mean: Row, deviation: Row) -> float:
    total = log_likelihood(x, logits, observed)
    for j in range(LATENT):
        total += log_normal(z[j], 0.0, 1.0) - log_normal(z[j], mean[j], deviation[j])
    return total


def kl_to_standard(mean: Row, deviation: Row) -> list[float]:
    return [0.5 * (mean[j] ** 2 + deviation[j] ** 2 - 1) - math.log(deviation[j]) for j in range(LATENT)]


@pytest.fixture(params=["plain", "mask", "context", "mask-context"])
def case(request: pytest.FixtureRequest) -> tuple[LatentModel, DiagonalNormal, Batch]:
    context_dim = CONTEXT if "context" in request.param else 0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = MLP((LATENT,), (1, *EVENT), hidden=(5,), context_dim=context_dim)
        encoder = MLP(EVENT, (2, LATENT), hidden=(5,), context_dim=context_dim)
        x, mask = (torch.rand(BATCH, *EVENT) < 0.5).double(), torch.rand(BATCH, *EVENT) < 0.6
        context = torch.randn(BATCH, CONTEXT).double()
    model = LatentModel(StandardNormal(LATENT), Bernoulli(decoder, EVENT)).double()
    guide = DiagonalNormal(encoder, LATENT).double()
    batch = Batch(
        torch.where(mask, x, 0.0) if "mask" in request.param else x,
        context=context if context_dim else None,
        mask=mask if "mask" in request.param else None,
    )
    return model, guide, batch


def numbers(
    model: LatentModel, guide: DiagonalNormal, batch: Batch, num_samples: int
) -> list[tuple[Row, list[bool], Row, Row, list[Row], list[Row]]]:
    """x, observed, μ, σ, and per draw z and the logits, of every datum, as Python numbers."""
    with torch.no_grad():
        q = guide(batch.x, batch.context)
        z = draw(q, (num_samples,), generator=torch.Generator().manual_seed(7))
        logits = torch.stack([model.likelihood(z_s, batch.context).logits for z_s in z]).flatten(2)
    mask = torch.ones_like(batch.x, dtype=torch.bool) if batch.mask is None else batch.mask
    return [
        (
            batch.x[i].flatten().tolist(),
            mask[i].flatten().tolist(),
            q.mean[i].tolist(),
            q.stddev[i].tolist(),
            z[:, i].tolist(),
            logits[:, i].tolist(),
        )
        for i in range(BATCH)
    ]


def same(found: Tensor, expected: Row) -> None:
    torch.testing.assert_close(found.detach(), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("num_samples", [1, 3])
@pytest.mark.parametrize(("beta", "free_bits"), [(1.0, 0.0), (0.5, 0.0), (2.0, 0.1)])
def test_elbo_with_analytic_kl(
    case: tuple[LatentModel, DiagonalNormal, Batch], num_samples: int, beta: float, free_bits: float
) -> None:
    expected, reconstructions, kls = [], [], []
    for x, observed, mean, deviation, _, logits in numbers(*case, num_samples):
        reconstruction = sum(log_likelihood(x, logits[s], observed) for s in range(num_samples)) / num_samples
        kl = kl_to_standard(mean, deviation)
        reconstructions.append(reconstruction)
        kls.append(sum(kl))
        expected.append(reconstruction - beta * sum(max(free_bits, kl_j) for kl_j in kl))
    value, parts = elbo_terms(
        *case,
        num_samples=num_samples,
        beta=beta,
        free_bits=free_bits,
        generator=torch.Generator().manual_seed(7),
    )
    same(value, expected)
    same(parts["reconstruction"], reconstructions)
    same(parts["kl"], kls)


@pytest.mark.parametrize("num_samples", [1, 3])
@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_elbo_with_sampled_kl(case: tuple[LatentModel, DiagonalNormal, Batch], num_samples: int, beta: float) -> None:
    expected = []
    for x, observed, mean, deviation, z, logits in numbers(*case, num_samples):
        total = 0.0
        for s in range(num_samples):
            fit = log_likelihood(x, logits[s], observed)
            total += fit + beta * (log_weight(x, z[s], logits[s], observed, mean, deviation) - fit)
        expected.append(total / num_samples)
    value = elbo_terms(
        *case, num_samples=num_samples, kl="monte-carlo", beta=beta, generator=torch.Generator().manual_seed(7)
    ).value
    same(value, expected)


@pytest.mark.parametrize("num_samples", [1, 2, 5])
def test_iwae(case: tuple[LatentModel, DiagonalNormal, Batch], num_samples: int) -> None:
    expected = []
    for x, observed, mean, deviation, z, logits in numbers(*case, num_samples):
        total = 0.0
        for s in range(num_samples):
            total += math.exp(log_weight(x, z[s], logits[s], observed, mean, deviation))
        expected.append(math.log(total / num_samples))
    same(iwae(*case, num_samples=num_samples, generator=torch.Generator().manual_seed(7)), expected)


def test_importance_estimate(case: tuple[LatentModel, DiagonalNormal, Batch]) -> None:
    evidence, errors, sizes = [], [], []
    for x, observed, mean, deviation, z, logits in numbers(*case, 9):
        w = [math.exp(log_weight(x, z[s], logits[s], observed, mean, deviation)) for s in range(9)]
        average = sum(w) / 9
        variance = sum((w_s - average) ** 2 for w_s in w) / 8
        evidence.append(math.log(average))
        errors.append(math.sqrt(variance / 9) / average)
        sizes.append(sum(w) ** 2 / sum(w_s**2 for w_s in w))
    found = importance_estimate(*case, num_samples=9, generator=torch.Generator().manual_seed(7))
    same(found.log_evidence, evidence)
    same(found.stderr, errors)
    same(found.ess, sizes)
