"""Bounds against closed forms, quadrature and each other; gradients against exact gradients."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

import exact_cases as exact
from elbowroom.data.batch import Batch
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.inference import objectives
from elbowroom.inference.code_gradients import CODE_ESTIMATORS
from elbowroom.inference.objectives import ESTIMATORS, OBJECTIVES, elbo, elbo_terms, iwae, iwae_terms, log_weights
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import DiagonalNormal
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import ppca
from elbowroom.model.priors import VampPrior

ELBO_CHOICES: dict[str, dict[str, Any]] = {
    "pathwise": {},
    "pathwise-L3": {"num_samples": 3},
    "pathwise-sampled-kl": {"kl": "monte-carlo"},
    "stl": {"kl": "monte-carlo", "estimator": "stl"},
    "stl-auto-L2": {"kl": "auto", "estimator": "stl", "num_samples": 2},
    "score": {"estimator": "score-function"},
    "score-L4": {"estimator": "score-function", "num_samples": 4},
    "score-sampled-kl": {"estimator": "score-function", "kl": "monte-carlo"},
    "score-sampled-kl-L4": {"estimator": "score-function", "kl": "monte-carlo", "num_samples": 4},
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def repeated(x: Tensor, times: int) -> Tensor:
    return x.repeat(times, 1)


def z_of_mean(values: Tensor, expected: float) -> float:
    values = values.detach().flatten()
    return float((values.mean() - expected) / (values.std() / math.sqrt(len(values))))


# ------------------------------------------------------------------------------------------------------- the ELBO


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
@pytest.mark.parametrize("choice", ELBO_CHOICES)
@pytest.mark.parametrize("beta", [1.0, 0.4])
def test_elbo_averages_to_its_closed_form(choice: str, full: bool, beta: float) -> None:
    case = exact.linear_gaussian(4, 2, full=full)
    expected = exact.closed_form_elbo(case.model, case.guide, case.x, beta)
    for datum, truth in zip(case.x, expected, strict=True):
        values = elbo(
            case.model, case.guide, datum.expand(4000, -1), beta=beta, generator=seeded(), **ELBO_CHOICES[choice]
        )
        assert values.shape == (4000,)
        assert abs(z_of_mean(values, truth.item())) < 4


@pytest.mark.parametrize(("full", "beta"), [(False, 1.0), (True, 0.4)], ids=["diagonal", "full"])
@pytest.mark.parametrize("choice", ELBO_CHOICES)
def test_expected_elbo_gradient_is_the_exact_one(choice: str, full: bool, beta: float) -> None:
    case = exact.linear_gaussian(4, 2, full=full)
    parameters = exact.parameters_of(case.guide, case.model)
    truth = exact.flat_gradient(exact.closed_form_elbo(case.model, case.guide, case.x, beta).mean(), parameters)
    generator, many = seeded(3), repeated(case.x, 200)
    scores = exact.gradient_z_scores(
        lambda: elbo(case.model, case.guide, many, beta=beta, generator=generator, **ELBO_CHOICES[choice]),
        truth,
        parameters,
        repeats=25,
    )
    assert scores.abs().max() < 5.1  # up to 26 components in each of 18 cases; t with 24 degrees of freedom


def test_elbo_is_below_the_evidence_and_tight_at_the_posterior() -> None:
    case = exact.linear_gaussian(4, 2)
    evidence = case.model.log_evidence(case.x)
    assert (exact.closed_form_elbo(case.model, case.guide, case.x) < evidence - 1e-2).all()
    posterior = exact.affine_posterior(case.model, 4)
    sampled = elbo(case.model, posterior, case.x, kl="monte-carlo", generator=seeded())
    torch.testing.assert_close(sampled, evidence, rtol=0, atol=1e-9)  # log w is then the same for every z


def test_stl_gradient_vanishes_at_the_posterior() -> None:
    case = exact.linear_gaussian(4, 2)
    posterior = exact.affine_posterior(case.model, 4)
    parameters = exact.parameters_of(posterior)

    def largest(**choice: Any) -> float:
        value = elbo(case.model, posterior, case.x, generator=seeded(), **choice).mean()
        return float(exact.flat_gradient(value, parameters).abs().max())

    assert largest(kl="monte-carlo", estimator="stl") < 1e-10
    assert largest(kl="monte-carlo") > 1e-2


def test_leave_one_out_baseline_reduces_variance() -> None:
    case = exact.linear_gaussian(4, 2)
    parameters = exact.parameters_of(case.guide)
    generator = seeded()

    def variance(num_samples: int) -> float:
        choice = {"estimator": "score-function", "kl": "monte-carlo", "num_samples": num_samples}
        drawn = [
            exact.flat_gradient(elbo(case.model, case.guide, case.x, generator=generator, **choice).mean(), parameters)
            for _ in range(150)
        ]
        return float(torch.stack(drawn).var(0).sum())

    assert variance(4) < 0.5 * variance(1) / 4  # without a baseline, four draws have a quarter of one's variance


@pytest.mark.parametrize("kl", ["analytic", "monte-carlo"])
def test_elbo_parts_add_up(kl: str) -> None:
    case = exact.linear_gaussian(4, 2)
    value, parts = elbo_terms(case.model, case.guide, case.x, kl=kl, beta=0.3, num_samples=2, generator=seeded())
    torch.testing.assert_close(value, parts["reconstruction"] - 0.3 * parts["kl"])
    assert value.requires_grad
    assert not any(part.requires_grad for part in parts.values())
    assert {name: part.shape for name, part in parts.items()} == {"reconstruction": (3,), "kl": (3,)}


@pytest.mark.parametrize("free_bits", [0.05, 0.4, 3.0])
def test_free_bits_by_hand(free_bits: float) -> None:
    case = exact.linear_gaussian(4, 2)
    q = case.guide(case.x)
    m, s = q.mean.tolist(), q.stddev.tolist()
    charge, kl = [], []
    for m_row, s_row in zip(m, s, strict=True):
        pieces = [0.5 * (a * a + b * b - 1) - math.log(b) for a, b in zip(m_row, s_row, strict=True)]
        kl.append(sum(pieces))
        charge.append(sum(max(free_bits, piece) for piece in pieces))
    value, parts = elbo_terms(case.model, case.guide, case.x, free_bits=free_bits, beta=0.5, generator=seeded())
    torch.testing.assert_close(parts["kl"], torch.tensor(kl, dtype=torch.float64))
    torch.testing.assert_close(value, parts["reconstruction"] - 0.5 * torch.tensor(charge, dtype=torch.float64))


def test_free_bits_stop_the_gradient_of_a_cheap_dimension() -> None:
    case = exact.linear_gaussian(4, 2)
    parameters = exact.parameters_of(case.guide)

    def gradient(**choice: Any) -> Tensor:
        value = elbo(case.model, case.guide, case.x, generator=seeded(), **choice).mean()
        found: Tensor = exact.flat_gradient(value, parameters)
        return found

    assert torch.equal(gradient(free_bits=1e6), gradient(beta=0.0))
    torch.testing.assert_close(gradient(free_bits=1e-9), gradient())


# ---------------------------------------------------------------------------------------- the importance-weighted bound


def quadrature_iwae(model: Any, guide: Any, x: Tensor, num_samples: int, nodes: int = 32) -> Tensor:
    """IWAE-K for one latent dimension by Gauss–Hermite in the noise of every draw; differentiable in all."""
    points, mass = np.polynomial.hermite_e.hermegauss(nodes)
    noise, mass = torch.from_numpy(points), torch.from_numpy(mass / mass.sum())
    q = guide(x)
    z = q.mean + q.stddev * noise[:, None, None]  # (nodes, batch, 1)
    log_w = model.log_joint(x, z) - q.log_prob(z)  # (nodes, batch)
    total = torch.zeros(len(x), dtype=torch.float64)
    for chosen in itertools.combinations_with_replacement(range(nodes), num_samples):
        orders = math.factorial(num_samples) / math.prod(math.factorial(chosen.count(i)) for i in set(chosen))
        bound = torch.logsumexp(log_w[list(chosen)], 0) - math.log(num_samples)
        total = total + orders * mass[list(chosen)].prod() * bound
    return total


@pytest.mark.parametrize("estimator", [name for name in ESTIMATORS if name != "stl" and name not in CODE_ESTIMATORS])
@pytest.mark.parametrize(("num_samples", "nodes"), [(1, 32), (2, 32), (3, 16)])
def test_expected_iwae_gradient_is_the_exact_one(estimator: str, num_samples: int, nodes: int) -> None:
    case = exact.linear_gaussian(3, 1)
    parameters = exact.parameters_of(case.guide, case.model)
    truth = exact.flat_gradient(quadrature_iwae(case.model, case.guide, case.x, num_samples, nodes).mean(), parameters)
    generator, many = seeded(5), repeated(case.x, 700)
    scores = exact.gradient_z_scores(
        lambda: iwae(case.model, case.guide, many, num_samples=num_samples, estimator=estimator, generator=generator),
        truth,
        parameters,
        repeats=25,
    )
    assert scores.abs().max() < 4.5  # t with 24 degrees of freedom


def test_stl_is_biased_for_iwae_in_the_guide_only() -> None:
    case = exact.linear_gaussian(3, 1)
    many, generator = repeated(case.x, 300), seeded(5)
    largest = {}
    for side, module in (("guide", case.guide), ("model", case.model)):
        parameters = exact.parameters_of(module)
        truth = exact.flat_gradient(quadrature_iwae(case.model, case.guide, case.x, 2).mean(), parameters)
        scores = exact.gradient_z_scores(
            lambda: iwae(case.model, case.guide, many, num_samples=2, estimator="stl", generator=generator),
            truth,
            parameters,
            repeats=50,
        )
        largest[side] = float(scores.abs().max())
    assert largest["guide"] > 6
    assert largest["model"] < 4


def test_iwae_averages_to_quadrature() -> None:
    case = exact.linear_gaussian(3, 1, num_data=1)
    truth = quadrature_iwae(case.model, case.guide, case.x, 2).item()
    values = iwae(case.model, case.guide, repeated(case.x, 20000), num_samples=2, generator=seeded())
    assert abs(z_of_mean(values, truth)) < 4


def test_bounds_are_ordered() -> None:
    case = exact.linear_gaussian(4, 2, num_data=1)
    evidence = case.model.log_evidence(case.x).item()
    lower = exact.closed_form_elbo(case.model, case.guide, case.x).item()
    many, generator = repeated(case.x, 20000), seeded()
    drawn = {k: iwae(case.model, case.guide, many, num_samples=k, generator=generator).detach() for k in (1, 2, 5, 25)}
    assert abs(z_of_mean(drawn[1], lower)) < 4
    for fewer, more in itertools.pairwise(drawn):
        gain = drawn[more].mean() - drawn[fewer].mean()
        stderr = torch.hypot(drawn[more].std(), drawn[fewer].std()) / math.sqrt(20000)
        assert gain > 4 * stderr
    assert z_of_mean(drawn[25], evidence) < -4


@pytest.mark.parametrize("num_samples", [1, 3, 10])
def test_average_weight_is_the_evidence(num_samples: int) -> None:
    case = exact.linear_gaussian(4, 2, num_data=1)
    evidence = case.model.log_evidence(case.x).item()
    bound = iwae(case.model, case.guide, repeated(case.x, 20000), num_samples=num_samples, generator=seeded(1))
    assert abs(z_of_mean((bound - evidence).exp(), 1.0)) < 4


@pytest.mark.parametrize("estimator", ["dreg", "score-function"])
def test_lower_variance_than_the_plain_gradient_for_large_k(estimator: str) -> None:
    case = exact.linear_gaussian(4, 2)
    parameters, generator = exact.parameters_of(case.guide), seeded()

    def variance(name: str, num_samples: int, average: int) -> float:
        many = repeated(case.x, average)
        drawn = [
            exact.flat_gradient(
                iwae(case.model, case.guide, many, num_samples=num_samples, estimator=name, generator=generator).mean(),
                parameters,
            )
            for _ in range(100)
        ]
        return float(torch.stack(drawn).var(0).sum())

    if estimator == "dreg":
        assert variance("dreg", 64, 1) < 0.3 * variance("pathwise", 64, 1)
    else:  # the baseline: for K = 1 there is none, and 8 data of one draw cost as much as one datum of 8
        assert variance("score-function", 8, 1) < 0.5 * variance("score-function", 1, 8)


def test_vimco_signal_by_definition() -> None:
    log_w = torch.randn(6, 4, dtype=torch.float64, generator=seeded()) * 3
    log_w[2, 1] = 800.0  # one weight is everything: the sum over the others must survive its removal
    log_w[0, 2] = -900.0
    bound = torch.logsumexp(log_w, 0) - math.log(6)
    found = objectives._minus_others_bound(log_w, bound)
    for k, b in itertools.product(range(6), range(4)):
        others = [log_w[j, b] for j in range(6) if j != k]
        replaced = torch.stack([*others, torch.stack(others).mean()])
        expected = bound[b] - (torch.logsumexp(replaced, 0) - math.log(6))
        torch.testing.assert_close(found[k, b], expected)


def test_iwae_parts() -> None:
    case = exact.linear_gaussian(4, 2)
    value, parts = iwae_terms(case.model, case.guide, case.x, num_samples=7, generator=seeded())
    log_w = log_weights(case.model, case.guide, case.x, 7, generator=seeded())
    assert log_w.shape == (7, 3)
    torch.testing.assert_close(parts["elbo"], log_w.mean(0).detach())
    torch.testing.assert_close(value, log_w.exp().mean(0).log())
    assert not parts["elbo"].requires_grad


# ------------------------------------------------------------------------------------------------------ all of them


@pytest.mark.parametrize(
    ("objective", "estimator"),
    [("elbo", "stl"), ("elbo", "score-function"), ("iwae", "stl"), ("iwae", "dreg"), ("iwae", "score-function")],
)
@pytest.mark.parametrize("num_samples", [1, 4])
def test_value_does_not_depend_on_the_estimator(objective: str, estimator: str, num_samples: int) -> None:
    case = exact.linear_gaussian(4, 2)
    options = {"kl": "monte-carlo"} if objective == "elbo" else {}

    def run(name: str) -> Tensor:
        return OBJECTIVES[objective](
            case.model, case.guide, case.x, num_samples=num_samples, estimator=name, generator=seeded(), **options
        ).value

    torch.testing.assert_close(run(estimator), run("pathwise"))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_one_value_per_datum(objective: str) -> None:
    """A datum's value and gradient do not depend on its company."""
    case = exact.linear_gaussian(4, 2)
    posterior = exact.affine_posterior(case.model, 4)  # log w is constant, so that no noise stands between the two
    options = {"kl": "monte-carlo"} if objective == "elbo" else {}
    together = OBJECTIVES[objective](case.model, posterior, case.x, generator=seeded(), **options).value
    alone = [OBJECTIVES[objective](case.model, posterior, row[None], generator=seeded(), **options) for row in case.x]
    torch.testing.assert_close(together, torch.cat([terms.value for terms in alone]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_global_generator_untouched_and_same_seed_same_numbers(objective: str) -> None:
    case = exact.linear_gaussian(4, 2)
    before = torch.get_rng_state()
    first, second, third = (
        OBJECTIVES[objective](case.model, case.guide, case.x, generator=seeded(seed)).value for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


@pytest.mark.parametrize("estimator", [name for name in ESTIMATORS if name not in CODE_ESTIMATORS])
def test_frozen_guide_still_teaches_the_model(estimator: str) -> None:
    case = exact.linear_gaussian(4, 2)
    case.guide.requires_grad_(False)
    value = iwae(case.model, case.guide, case.x, estimator=estimator, generator=seeded()).mean()
    assert exact.flat_gradient(value, exact.parameters_of(case.model)).abs().max() > 0


def test_networks_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain ELBO costs one pass of guide, prior and likelihood, and no density of the guide."""
    case = exact.linear_gaussian(4, 2)
    calls: list[str] = []
    for name, module in (("guide", case.guide), ("prior", case.model.prior), ("likelihood", case.model.likelihood)):
        module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    monkeypatch.setattr(objectives, "weigh_draws", None)
    elbo(case.model, case.guide, case.x, generator=seeded())
    assert sorted(calls) == ["guide", "likelihood", "prior"]


def test_mask_sums_out() -> None:
    case = exact.linear_gaussian(4, 2)
    mask = torch.tensor([[True, True, False, True], [False, True, True, False], [True] * 4])
    batch = Batch(case.x, mask=mask)
    z = case.guide(case.x).mean
    p = case.model.likelihood(z)
    by_hand = torch.where(mask, p.log_prob(case.x), torch.zeros((), dtype=torch.float64)).sum(-1)
    torch.testing.assert_close(case.model.log_likelihood(case.x, z, mask=mask), by_hand)
    for name, objective in OBJECTIVES.items():
        masked, plain = (objective(case.model, case.guide, data, generator=seeded()).value for data in (batch, case.x))
        assert (masked[:2] != plain[:2]).all(), name
        torch.testing.assert_close(masked[2], plain[2])
    nothing = Batch(case.x, mask=torch.zeros_like(mask))
    assert elbo_terms(case.model, case.guide, nothing, generator=seeded()).parts["reconstruction"].abs().max() == 0


@pytest.mark.parametrize(
    ("call", "problem", "remedy"),
    [
        ({"num_samples": 0}, "is 0", "num_samples=1"),
        ({"estimator": "patwise"}, "patwise", "'pathwise'"),
        ({"kl": "analitic"}, "analitic", "'analytic'"),
        ({"beta": -1.0}, "beta is -1.0", "beta=0"),
        ({"free_bits": math.nan}, "free_bits is nan", "free_bits=0"),
        ({"estimator": "dreg"}, "dreg", "iwae"),
        ({"estimator": "stl"}, "stl", "monte-carlo"),
        ({"estimator": "stl", "kl": "auto", "free_bits": 0.1}, "free_bits=0.1", "pathwise"),
        ({"kl": "monte-carlo", "free_bits": 0.1}, "monte-carlo", "analytic"),
    ],
)
def test_refusals(call: dict[str, Any], problem: str, remedy: str) -> None:
    case = exact.linear_gaussian(4, 2)
    with pytest.raises(ElbowroomError) as caught:
        elbo(case.model, case.guide, case.x, generator=seeded(), **call)
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("function", [iwae, log_weights])
@pytest.mark.parametrize("call", [{"num_samples": 0}, {"estimator": "reinforce"}])
def test_refusals_of_weighted_bounds(function: Any, call: dict[str, Any]) -> None:
    case = exact.linear_gaussian(4, 2)
    with pytest.raises(ElbowroomError):
        function(case.model, case.guide, case.x, generator=seeded(), **call)


def test_free_bits_need_a_factorised_guide() -> None:
    case = exact.linear_gaussian(4, 2, full=True)
    with pytest.raises(ElbowroomError, match="factorises"):
        elbo(case.model, case.guide, case.x, free_bits=0.1, generator=seeded())


# ------------------------------------------------------------------------------------- priors and guides without a KL


def vamp_case() -> SimpleNamespace:
    """A VampPrior shares the guide, so that the guide's parameters are the model's too."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        guide = DiagonalNormal(MLP((4,), (2, 1), hidden=(3,), activation="tanh"), 1).double()
        likelihood = Bernoulli(MLP((1,), (1, 4), hidden=()), (4,)).double()
        x = (torch.rand(3, 4) < 0.5).double()
        pseudo_inputs = torch.rand(5, 4).double()
    prior = VampPrior(guide, pseudo_inputs, Support.UNIT_INTERVAL)
    return SimpleNamespace(model=LatentModel(prior, likelihood), guide=guide, x=x)


def test_auto_draws_the_kl_where_there_is_no_closed_form() -> None:
    case = vamp_case()
    auto, drawn = (elbo(case.model, case.guide, case.x, kl=kl, generator=seeded()) for kl in ("auto", "monte-carlo"))
    assert torch.equal(auto, drawn)
    with pytest.raises(ElbowroomError, match="monte-carlo"):
        elbo(case.model, case.guide, case.x, generator=seeded())
    with pytest.raises(ElbowroomError, match="factorises"):
        elbo(case.model, case.guide, case.x, kl="auto", free_bits=0.1, generator=seeded())


@pytest.mark.parametrize("estimator", ["pathwise", "dreg", "stl", "score-function"])
def test_gradient_with_a_prior_that_shares_the_guide(estimator: str) -> None:
    """The estimators cut log q(z | x), not p(z), whose path to the same parameters is the model's gradient."""
    case = vamp_case()
    num_samples = 1 if estimator == "stl" else 2
    parameters = list({id(p): p for p in exact.parameters_of(case.guide, case.model)}.values())
    truth = exact.flat_gradient(quadrature_iwae(case.model, case.guide, case.x, num_samples).mean(), parameters)
    generator, many = seeded(9), repeated(case.x, 120)
    scores = exact.gradient_z_scores(
        lambda: iwae(case.model, case.guide, many, num_samples=num_samples, estimator=estimator, generator=generator),
        truth,
        parameters,
        repeats=75,
    )
    assert scores.abs().max() < 4.5  # some 60 components


class MixtureGuide(Conditional):
    """A guide whose draws have no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([[-1.0], [1.0]], dtype=torch.float64))

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        assert given is not None
        parts = Independent(Normal(self.loc.expand(len(given), 2, 1), 1.0), 1)
        return MixtureSameFamily(Categorical(torch.ones(len(given), 2, dtype=torch.float64)), parts)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_guide_without_reparameterised_draws(objective: str) -> None:
    case = exact.linear_gaussian(3, 1)
    guide = MixtureGuide()
    options = {"kl": "auto"} if objective == "elbo" else {}
    with pytest.raises(ElbowroomError, match="score-function"):
        OBJECTIVES[objective](case.model, guide, case.x, generator=seeded(), **options)
    with torch.no_grad():  # its value needs no gradient
        plain = OBJECTIVES[objective](case.model, guide, case.x, generator=seeded(), **options).value
    scored = OBJECTIVES[objective](
        case.model, guide, case.x, estimator="score-function", generator=seeded(), **options
    ).value
    torch.testing.assert_close(scored, plain)
    assert exact.flat_gradient(scored.mean(), exact.parameters_of(guide)).abs().max() > 0


def test_the_effective_draws_of_iwae_are_kishs_of_its_own_weights() -> None:
    model, guide, x = ppca(dim=5, latent_dim=3, seed=1, num_data=30)
    with torch.no_grad():
        ess = iwae_terms(model, guide, x, num_samples=7, generator=torch.Generator().manual_seed(2)).parts["ess"]
        weights = log_weights(model, guide, x, 7, generator=torch.Generator().manual_seed(2)).exp()
    assert torch.allclose(ess, weights.sum(0).square() / weights.square().sum(0))
    assert ess.min() < 3 and ess.max() > 4  # neither all alike nor all one's
