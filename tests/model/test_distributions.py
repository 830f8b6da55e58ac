"""Our own distributions against sixty-digit arithmetic, literal formulas, scipy, and their own draws."""

from __future__ import annotations

import math
from decimal import Decimal, getcontext

import pytest
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from elbowroom.model.distributions import (
    Binomial,
    ContinuousBernoulli,
    DiagonalNormalMixture,
    DiscretizedLogisticMixture,
    NegativeBinomial,
    Poisson,
)
from elbowroom.model.draws import detach

getcontext().prec = 60
LOGITS = [0.0, 1e-6, 1e-3, 0.01, 0.1, 0.4999, 0.5001, 1.0, 3.0, 10.0, 30.0, 80.0, 500.0]
LOGITS += [-value for value in LOGITS[1:]]
PRECISION = {torch.float32: 1e-6, torch.float64: 1e-13}


def exact_continuous_bernoulli(logit: float, x: float) -> tuple[float, float, float, float]:
    """log p(x), its derivative in the logit, the mean, the variance: in decimal arithmetic."""
    t, x_ = Decimal(logit), Decimal(x)
    if t == 0:
        return 0.0, x - 0.5, 0.5, 1 / 12
    growth = t.exp()
    log_p = x_ * t - ((growth - 1) / t).ln()
    mean = growth / (growth - 1) - 1 / t
    variance = 1 / t**2 - growth / (growth - 1) ** 2
    return float(log_p), float(x_ - mean), float(mean), float(variance)


@pytest.mark.parametrize("dtype", PRECISION, ids=str)
@pytest.mark.parametrize("logit", LOGITS)
def test_continuous_bernoulli_is_accurate_everywhere(logit, dtype):
    parameter = torch.tensor(logit, dtype=dtype, requires_grad=True)
    x = torch.tensor(0.3, dtype=dtype)
    distribution = ContinuousBernoulli(parameter)
    log_p = distribution.log_prob(x)
    (gradient,) = torch.autograd.grad(log_p, parameter)
    got = [log_p.item(), gradient.item(), distribution.mean.item(), distribution.variance.item()]
    expected = exact_continuous_bernoulli(parameter.item(), x.item())
    for value, truth in zip(got[:3], expected[:3], strict=True):
        assert value == pytest.approx(truth, rel=PRECISION[dtype], abs=PRECISION[dtype])
    # 1/ℓ² − 1/4sinh² loses two digits near ℓ = ½
    assert got[3] == pytest.approx(expected[3], rel=100 * PRECISION[dtype])


@pytest.mark.parametrize("mean", [0.001, 0.1, 0.5, 0.7, 0.999])
def test_continuous_bernoulli_with_mean(mean):
    assert ContinuousBernoulli.with_mean(torch.tensor(mean, dtype=torch.float64)).mean.item() == pytest.approx(mean)


@pytest.mark.parametrize("logit", [-40.0, -2.0, 0.0, 1e-4, 2.0, 40.0])
def test_continuous_bernoulli_draws_have_its_distribution(logit):
    distribution = ContinuousBernoulli(torch.tensor(logit, dtype=torch.float64))
    x = distribution.sample((20_000,), torch.Generator().manual_seed(1))
    assert abs(z_score(x, distribution.mean)) < 4
    assert abs(z_score((x - distribution.mean).square(), distribution.variance)) < 4


@pytest.mark.parametrize("log_dispersion", [-3.0, 0.0, 3.9, 3.95, 8.0])
@pytest.mark.parametrize("log_mean", [-2.0, 1.0, 4.0])
def test_negative_binomial_is_scipys(log_mean, log_dispersion):
    r, mu = math.exp(log_dispersion), math.exp(log_mean)
    x = torch.arange(60.0, dtype=torch.float64)
    expected = torch.from_numpy(scipy.stats.nbinom(r, r / (r + mu)).logpmf(x.numpy()))
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 2e-4)):
        distribution = NegativeBinomial(torch.tensor(log_mean, dtype=dtype), torch.tensor(log_dispersion, dtype=dtype))
        got = distribution.log_prob(x.to(dtype)).double()
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("log_dispersion", [14.0, 25.0, 60.0])
def test_negative_binomial_becomes_poisson_in_float32(log_dispersion):
    x, mu = torch.arange(40.0), 5.0
    got = NegativeBinomial(torch.tensor(mu).log(), torch.tensor(log_dispersion)).log_prob(x)
    # the two differ by ((x − μ)² − x) / 2r, up to 5e-4 for the smallest r here
    torch.testing.assert_close(got, torch.distributions.Poisson(mu).log_prob(x), rtol=1e-5, atol=1e-3)


def test_negative_binomial_draws_have_its_moments():
    distribution = NegativeBinomial(torch.tensor([0.0, 2.0]).double(), torch.tensor([1.0, -0.5]).double())
    x = distribution.sample((20_000,), torch.Generator().manual_seed(0))
    for d in range(2):
        assert abs(z_score(x[:, d], distribution.mean[d])) < 4
        assert abs(z_score((x[:, d] - distribution.mean[d]).square(), distribution.variance[d])) < 4


def mixture(dtype: torch.dtype = torch.float64) -> DiscretizedLogisticMixture:
    generator = torch.Generator().manual_seed(3)
    logits, locations, log_scales = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64).to(dtype)
    return DiscretizedLogisticMixture(logits, locations, log_scales - 2)


def test_logistic_mixture_is_the_papers_formula():
    """Salimans et al. (2017), eq. 2, as it stands."""
    distribution = mixture()
    x = torch.arange(256.0, dtype=torch.float64)[:, None]
    centre = (x / 127.5 - 1)[..., None] - distribution.locations
    scale = distribution.log_scales.exp()
    upper = torch.where(x[..., None] == 255, 1.0, torch.sigmoid((centre + 1 / 255) / scale))
    lower = torch.where(x[..., None] == 0, 0.0, torch.sigmoid((centre - 1 / 255) / scale))
    expected = (distribution.logits.softmax(-1) * (upper - lower)).sum(-1)
    torch.testing.assert_close(distribution.log_prob(x).exp(), expected)
    torch.testing.assert_close(distribution.mean, (x * expected).sum(0))


@pytest.mark.parametrize("dtype", PRECISION, ids=str)
@pytest.mark.parametrize("log_scale", [-50.0, -7.0, -3.0, 0.0, 7.0, 50.0])
@pytest.mark.parametrize("location", [-30.0, -1.0, 0.013, 1.0, 30.0])
def test_logistic_mixture_sums_to_one_at_any_scale(location, log_scale, dtype):
    # weights' logits that are not normalised
    parameters = torch.tensor([[2.0, 2.0], [location, location / 2], [log_scale, log_scale]], dtype=dtype)
    total = DiscretizedLogisticMixture(*parameters).log_prob(torch.arange(256, dtype=dtype)).exp().sum()
    assert total.item() == pytest.approx(1, abs=2e-5 if dtype == torch.float32 else 1e-12)


def test_logistic_mixture_draws_have_its_probabilities():
    distribution = mixture()
    n = 20_000
    x = distribution.sample((n,), torch.Generator().manual_seed(0))
    assert x.shape == (n, 4)
    edges = torch.tensor([0.0, 1, 60, 100, 128, 180, 255])
    cumulative = distribution.log_prob(torch.arange(256.0).double()[:, None]).exp().cumsum(0)
    for edge in edges.tolist():
        p = cumulative[int(edge)].clamp(max=1)
        z = ((x <= edge).double().mean(0) - p) / (p * (1 - p) / n).sqrt().clamp(min=1e-12)
        assert (z.abs() < 4).all(), edge


def test_a_narrow_logistic_draws_the_integer_in_the_middle_of_its_bin():
    n, location = 20_000, torch.tensor([100 / 127.5 - 1]).double()
    distribution = DiscretizedLogisticMixture(torch.zeros(1).double(), location, torch.tensor([-6.0]).double())
    x = distribution.sample((n,), torch.Generator().manual_seed(0))
    for value in (99.0, 100.0, 101.0):
        p = distribution.log_prob(torch.tensor(value)).exp()
        assert abs((x == value).double().mean() - p) / (p * (1 - p) / n).sqrt() < 4


def z_score(draws: Tensor, expected: Tensor) -> float:
    return ((draws.mean() - expected) / (draws.std() / math.sqrt(len(draws)))).item()


def exact_log_factorial(x: int) -> Decimal:
    """By Stirling's series, whose first term left out is below 1e-9 from 100 on."""
    if x < 100:
        return Decimal(math.factorial(x)).ln()
    n = Decimal(x)
    half_log_two_pi = Decimal("0.91893853320467274178032973640561763986")
    return (n + Decimal("0.5")) * n.ln() - n + half_log_two_pi + 1 / (12 * n) - 1 / (360 * n**3)


@pytest.mark.parametrize("x", [0, 1, 7, 50, 51, 1000, 100_000])
@pytest.mark.parametrize("ratio", [0.2, 0.88, 0.99, 1.0, 1.003, 1.2, 4.0])
def test_poisson_is_accurate_in_float32(x, ratio):
    log_rate = torch.tensor(math.log(max(x, 1) * ratio), requires_grad=True)
    log_p = Poisson(log_rate).log_prob(torch.tensor(float(x)))
    exact_rate = Decimal(log_rate.item()).exp()
    expected = x * Decimal(log_rate.item()) - exact_rate - exact_log_factorial(x)
    assert log_p.item() == pytest.approx(float(expected), abs=2e-4 + 1e-6 * abs(x - float(exact_rate)))
    (gradient,) = torch.autograd.grad(log_p, log_rate)
    assert gradient.item() == pytest.approx(x - float(exact_rate), rel=1e-4, abs=1e-6 * max(x, 1) * 2)


def test_poisson_of_many_is_a_distribution():
    x = torch.arange(1500.0, dtype=torch.float64)
    assert Poisson(torch.tensor(math.log(700.0)).double()).log_prob(x).exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert Poisson(torch.zeros(3)).expand((2, 3)).log_prob(torch.ones(3)).shape == (2, 3)


@pytest.mark.parametrize("r", [0.3, 5.0, 49.0, 51.0, 1e3, 1e6])
@pytest.mark.parametrize("mean", [1e-3, 40.0, 1e3, 1e5, 3e6])
@pytest.mark.parametrize("x", [0.0, 50.0, 51.0, 1e3, 1e5])
def test_negative_binomial_of_many_is_accurate_in_float32(x, mean, r):
    parameters = [torch.tensor(math.log(value), requires_grad=True) for value in (mean, r)]
    log_p = NegativeBinomial(*parameters).log_prob(torch.tensor(x))
    exact = [parameter.detach().double().requires_grad_() for parameter in parameters]
    r_, logits = exact[1].exp(), exact[0] - exact[1]
    ways = torch.lgamma(r_ + x) - torch.lgamma(r_) - math.lgamma(x + 1)
    expected = ways + x * torch.nn.functional.logsigmoid(logits) - r_ * torch.nn.functional.softplus(logits)
    assert log_p.item() == pytest.approx(expected.item(), rel=1e-5, abs=2e-3)
    for got, wanted in zip(torch.autograd.grad(log_p, parameters), torch.autograd.grad(expected, exact), strict=True):
        assert got.item() == pytest.approx(wanted.item(), rel=1e-3, abs=1e-3 + 2e-6 * max(x, mean))


def test_counts_at_the_ends_of_float32_are_finite():
    ends = torch.tensor([-60.0, 0.0, 60.0])
    log_mean, log_dispersion, x = torch.meshgrid(ends, ends, torch.tensor([0.0, 50.0, 51.0, 1e7]), indexing="ij")
    log_mean, log_dispersion = log_mean.clone().requires_grad_(), log_dispersion.clone().requires_grad_()
    log_p = NegativeBinomial(log_mean, log_dispersion).log_prob(x)
    both = log_p.sum() + Poisson(log_mean).log_prob(x).sum()
    assert torch.isfinite(log_p).all()
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(both, [log_mean, log_dispersion]))


# --- mixtures of normals -----------------------------------------------------------------------------------------


def normal_mixture(batch: tuple[int, ...] = ()) -> tuple[DiagonalNormalMixture, list[Tensor]]:
    """Five components in three dimensions, away from the origin, with weights, means and scales to learn."""
    generator = torch.Generator().manual_seed(0)
    leaves = [
        torch.randn(*batch, 5, *size, generator=generator, dtype=torch.float64).requires_grad_()
        for size in ((), (3,), (3,))
    ]
    logits, means, log_scales = leaves
    normals = Independent(Normal(means + 4.0, log_scales.exp(), validate_args=False), 1)
    return DiagonalNormalMixture(Categorical(logits=logits, validate_args=False), normals), leaves


@pytest.mark.parametrize("batch", [(), (7,)])
def test_the_density_of_a_normal_mixture_and_its_gradients_are_torchs(batch):
    found, leaves = normal_mixture(batch)
    z = (torch.randn(6, 7, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 4).requires_grad_()
    plain = MixtureSameFamily(found.mixture_distribution, found.component_distribution, validate_args=False)
    slopes = []
    for distribution in (found, plain):
        value = distribution.log_prob(z)
        assert value.shape == (6, 7)
        slopes.append([value, *torch.autograd.grad(value.sin().sum(), [z, *leaves], retain_graph=True)])
    torch.testing.assert_close(*slopes)


def test_narrow_components_keep_their_density_in_single_precision():
    generator = torch.Generator().manual_seed(0)
    means, scales = torch.randn(50, 40, generator=generator), torch.full((50, 40), 0.05)
    weights = Categorical(logits=torch.zeros(50, dtype=torch.float64), validate_args=False)
    z = means[:20] + 0.05 * torch.randn(20, 40, generator=generator)
    exact = MixtureSameFamily(weights, Independent(Normal(means.double(), scales.double()), 1)).log_prob(z.double())
    single = Categorical(logits=torch.zeros(50), validate_args=False)
    found = DiagonalNormalMixture(single, Independent(Normal(means, scales), 1)).log_prob(z)
    assert (found - exact).abs().max() < 0.02


def test_a_normal_mixture_keeps_its_precision_where_others_give_theirs_up():
    mixture, _ = normal_mixture()
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 4
    normals = mixture.component_distribution.base_dist
    single = DiagonalNormalMixture(
        Categorical(logits=mixture.mixture_distribution.logits.float(), validate_args=False),
        Independent(Normal(normals.loc.float(), normals.scale.float()), 1),
        validate_args=False,
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = single.log_prob(z.float())
    torch.testing.assert_close(found.double(), mixture.log_prob(z), rtol=1e-5, atol=1e-4)


def test_a_normal_mixture_can_be_expanded():
    mixture, _ = normal_mixture()
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(mixture.expand((6,)).log_prob(z), mixture.log_prob(z))


def test_a_normal_mixture_stays_one_when_it_is_detached():
    cut = detach(normal_mixture()[0])
    assert isinstance(cut, DiagonalNormalMixture)
    assert not cut.log_prob(torch.zeros(3, dtype=torch.float64)).requires_grad


@pytest.mark.parametrize("logit", [-300.0, -5.0, 0.0, 0.7, 300.0])
@pytest.mark.parametrize("trials", [1, 16, 50, 51, 300])
def test_binomial_is_scipys_and_sums_to_one(trials, logit):
    x = torch.arange(trials + 1.0)
    for dtype, accuracy in PRECISION.items():
        log_p = Binomial(trials, torch.tensor(logit, dtype=dtype)).log_prob(x)
        assert log_p.isfinite().all()
        assert log_p.exp().sum().item() == pytest.approx(1, abs=300 * accuracy)
        if abs(logit) < 100:  # scipy takes a probability, which is then 0 or 1
            exact = torch.from_numpy(scipy.stats.binom.logpmf(x.numpy(), trials, 1 / (1 + math.exp(-logit))))
            torch.testing.assert_close(log_p.double(), exact, rtol=20 * accuracy, atol=20 * accuracy)


@pytest.mark.parametrize("x", [400_000.0, 500_000.0, 501_000.0])
def test_binomial_of_many_is_accurate_in_float32(x):
    """log N! is 1.3e7 here, of which float32 keeps whole nats."""
    logit = torch.tensor(0.003)
    exact = scipy.stats.binom.logpmf(x, 1_000_000, float(logit.double().sigmoid()))
    assert Binomial(1_000_000, logit).log_prob(torch.tensor(x)).item() == pytest.approx(exact, rel=1e-5, abs=2e-3)


def test_binomial_gradients_are_finite_at_the_ends():
    for trials in (16, 300):
        logits = torch.tensor([-200.0, 0.0, 200.0], requires_grad=True)
        for x in (0.0, 1.0, trials - 1.0, float(trials)):
            (found,) = torch.autograd.grad(Binomial(trials, logits).log_prob(torch.tensor(x)).sum(), logits)
            torch.testing.assert_close(found, x - trials * logits.detach().sigmoid(), rtol=1e-4, atol=1e-4)


def test_more_than_all_trials_is_impossible():
    assert Binomial(16, torch.tensor(0.0)).log_prob(torch.tensor(17.0)) == -math.inf
    assert Binomial(300, torch.tensor(0.0)).log_prob(torch.tensor(301.0)) == -math.inf


def test_binomial_draws_have_its_probabilities():
    n, x = 20_000, torch.arange(17.0).double()
    distribution = Binomial(16, torch.tensor(0.4).double())
    drawn = distribution.sample((n,), torch.Generator().manual_seed(0))
    p = distribution.log_prob(x).exp()
    share = (drawn[:, None] == x).double().mean(0)
    assert ((share - p).abs() < 4 * (p * (1 - p) / n).sqrt().clamp(min=1 / n)).all()
