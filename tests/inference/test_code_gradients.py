"""Draws of codes: their law, the estimators' laws by enumeration, values that no estimator changes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import exact_cases as exact
import exact_codes
from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.code_gradients import CODE_ESTIMATORS, draw_codes, is_biased, path_gradient
from elbowroom.inference.objectives import ESTIMATORS, OBJECTIVES, elbo, log_weights
from elbowroom.model.code_distributions import Codes, CodeSpace
from elbowroom.model.draws import draw
from elbowroom.model.latent import Pair
from elbowroom.model.noise import PerRow, Prepared

FOR_CODES = ["score-function", *CODE_ESTIMATORS]
SPACES = [CodeSpace(2, 2), CodeSpace(3, 2), CodeSpace(2, 3), CodeSpace(3, 4)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_logits(space: CodeSpace, *, sharpness: float = 1.0) -> Tensor:
    return sharpness * torch.randn(*space, dtype=torch.float64, generator=seeded(1))


# ------------------------------------------------------------------------------------------------------- the draws


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("estimator", CODE_ESTIMATORS)
def test_draws_have_the_law_of_q_at_every_temperature(estimator: str, temperature: float) -> None:
    space, number = CodeSpace(2, 3), 20_000
    q = Codes(random_logits(space))
    z, _ = draw_codes(q, number, estimator, temperature=temperature, generator=seeded())
    every = exact_codes.all_codes(space)
    counts = (z[:, None] == every).all(-1).double().sum(0)
    expected = number * q.log_prob(every).exp()
    chi_square, freedom = float(((counts - expected).square() / expected).sum()), space.size - 1
    assert float(counts.sum()) == number
    assert abs(chi_square - freedom) / math.sqrt(2 * freedom) < 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("estimator", CODE_ESTIMATORS)
def test_draws_are_codes_to_the_bit_and_those_of_the_distribution(estimator: str, dtype: torch.dtype) -> None:
    logits = torch.randn(5, 3, 4, dtype=dtype, generator=seeded()).requires_grad_()
    q = Codes(logits)
    z, relaxed = draw_codes(q, 7, estimator, temperature=0.6, generator=seeded(3))
    assert torch.equal(z, draw(q, (7,), generator=seeded(3)))
    assert z.shape == (7, 5, 12) and z.dtype == dtype
    assert (relaxed is not None) == (estimator == "gumbel-softmax") == (not z.requires_grad)
    if relaxed is not None:
        assert relaxed.requires_grad
        torch.testing.assert_close(q.space.split(relaxed).sum(-1), torch.ones(7, 5, 3, dtype=dtype))
        assert torch.equal(q.space.numbers(relaxed), q.space.numbers(z))
        assert float(relaxed.detach().max()) < 1
    with torch.no_grad():
        plain = draw_codes(q, 7, estimator, temperature=0.6, generator=seeded(3))
    assert torch.equal(plain.z, z) and plain.relaxed is None and not plain.z.requires_grad


@pytest.mark.parametrize("estimator", CODE_ESTIMATORS)
def test_rows_draw_on_their_own(estimator: str) -> None:
    def rows(count: int) -> Tensor:
        q = Codes(random_logits(CodeSpace(2, 3)).expand(count, 2, 3))
        return draw_codes(q, 4, estimator, generator=PerRow([seeded(row) for row in range(count)])).z

    assert torch.equal(rows(1)[:, 0], rows(3)[:, 0])
    assert not torch.equal(rows(3)[:, 0], rows(3)[:, 1])


@pytest.mark.parametrize("noise", [0.0, 1e-45, 1 - 2**-24], ids=["zero", "tiny", "one"])
@pytest.mark.parametrize("spread", [0.0, 1e4, math.inf])
@pytest.mark.parametrize("estimator", CODE_ESTIMATORS)
def test_gradients_are_finite_at_the_ends_of_numbers(estimator: str, spread: float, noise: float) -> None:
    logits = torch.tensor([[0.0, -spread, -spread], [-spread, 0.5, 1.0]]).nan_to_num(0.0, neginf=-math.inf)
    logits.requires_grad_()
    u = torch.full((2, 1, 6), noise)
    z, relaxed = draw_codes(Codes(logits[None]), 2, estimator, temperature=0.1, generator=Prepared([u]))
    (gradient,) = torch.autograd.grad((z if relaxed is None else relaxed).square().sum(), logits)
    assert bool(gradient.isfinite().all())
    assert bool((z.sum(-1) == 2).all())


# --------------------------------------------------------------------------------- laws, over all codes and so exact


def forced(space: CodeSpace) -> tuple[Tensor, Prepared]:
    """Every z, and the noise under which it is drawn, one row for each."""
    z = exact_codes.all_codes(space)
    return z, Prepared([torch.where(z > 0, 1 - 1e-15, 1e-300)[None]])


def expected_gradient(
    f: Callable[[Tensor], Tensor], logits: Tensor, estimator: str, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Of an estimator whose only chance is the code: its expectation, and the gradient of E f(z), both exact."""
    space, leaf = CodeSpace(*logits.shape), logits.clone().requires_grad_()
    every, noise = forced(space)
    q = Codes(leaf.expand(space.size, *space))
    z = draw_codes(q, 1, estimator, temperature=temperature, generator=noise).z[0]
    assert torch.equal(z, every)
    probability = q.log_prob(every).exp()
    (found,) = torch.autograd.grad((probability.detach() * f(z)).sum(), leaf, retain_graph=True)
    (true,) = torch.autograd.grad((probability * f(every)).sum(), leaf)
    return found, true


def polynomial(space: CodeSpace, degree: int) -> Callable[[Tensor], Tensor]:
    """A random polynomial of z of this degree, of all its entries together."""
    generator = seeded(2)
    slopes = [torch.randn(space.dim, dtype=torch.float64, generator=generator) for _ in range(3 * degree)]

    def f(z: Tensor) -> Tensor:
        factors = [z @ slope for slope in slopes]
        starts = itertools.product(range(1, degree + 1), range(3))
        return torch.stack([torch.stack(factors[start : start + power]).prod(0) for power, start in starts]).sum(0)

    return f


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_straight_through_is_exact_for_linear_functions_and_no_others(space: CodeSpace) -> None:
    logits = random_logits(space)
    torch.testing.assert_close(*expected_gradient(polynomial(space, 1), logits, "straight-through"))
    for f, temperature in ((polynomial(space, 2), 1.0), (polynomial(space, 1), 0.5)):
        found, true = expected_gradient(f, logits, "straight-through", temperature)
        assert float((found - true).norm() / true.norm()) > 0.02


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_reinmax_is_exact_for_quadratic_functions_and_no_others(space: CodeSpace) -> None:
    """The trapezoidal rule, which is exact to second order; for any number of slots and codes."""
    logits = random_logits(space)
    for degree in (1, 2):
        torch.testing.assert_close(*expected_gradient(polynomial(space, degree), logits, "reinmax"))
    for degree, temperature in ((3, 1.0), (2, 0.5)):
        found, true = expected_gradient(polynomial(space, degree), logits, "reinmax", temperature)
        assert float((found - true).norm() / true.norm()) > 0.002


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_reinmax_is_the_backward_pass_that_its_authors_publish(temperature: float) -> None:
    space = CodeSpace(3, 4)
    logits = random_logits(space).expand(space.size, *space).clone().requires_grad_()
    every, noise = forced(space)
    slope = torch.randn(space.size, space.dim, dtype=torch.float64, generator=seeded(5))
    z = draw_codes(Codes(logits), 1, "reinmax", temperature=temperature, generator=noise).z[0]
    (found,) = torch.autograd.grad((slope * z).sum(), logits)
    with torch.no_grad():
        g, d, p = space.split(slope), space.split(every), logits.softmax(-1)
        # their π₀ and softmax(θ / τ) are those of normalised logits, as those of Codes are
        shifted = 0.5 * ((logits.log_softmax(-1) / temperature).softmax(-1) + d)
        one = 2 * g * shifted
        one = one - shifted * one.sum(-1, keepdim=True)
        zero = -0.5 * g * p
        zero = zero - p * zero.sum(-1, keepdim=True)
    torch.testing.assert_close(found, one + zero)


def test_relaxed_draws_lose_their_bias_as_the_temperature_falls_and_gain_variance() -> None:
    space, number = CodeSpace(2, 3), 60_000
    logits, f = random_logits(space), polynomial(CodeSpace(2, 3), 3)
    leaf = logits.clone().requires_grad_()
    (true,) = torch.autograd.grad((Codes(leaf).log_prob(z := exact_codes.all_codes(space)).exp() * f(z)).sum(), leaf)
    bias, variance, stderr = {}, {}, {}
    for temperature in (1.0, 0.3, 0.1):
        rows = logits.expand(number, *space).clone().requires_grad_()
        _, relaxed = draw_codes(Codes(rows), 1, "gumbel-softmax", temperature=temperature, generator=seeded())
        assert relaxed is not None
        (drawn,) = torch.autograd.grad(path_gradient(f, relaxed).sum(), rows)
        bias[temperature] = float((drawn.mean(0) - true).norm())
        variance[temperature] = float(drawn.var(0).sum())
        stderr[temperature] = math.sqrt(variance[temperature] / number)
    assert bias[1.0] > 10 * stderr[1.0]
    assert bias[0.3] < 0.5 * bias[1.0]
    assert bias[0.1] < 4 * stderr[0.1]
    assert variance[0.1] > 2 * variance[0.3] > 2 * variance[1.0]


# -------------------------------------------------------------------------------------------------- in an objective


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("options", [{"kl": "auto"}, {"kl": "monte-carlo", "beta": 0.3}], ids=["auto", "monte-carlo"])
def test_no_estimator_changes_the_value(objective: str, options: dict[str, Any]) -> None:
    case = exact_codes.case(3, 4, sharpness=3.0)
    given = options if objective == "elbo" else {}
    found = {
        (estimator, temperature): OBJECTIVES[objective](
            case.model, case.guide, case.x, num_samples=3, estimator=estimator, temperature=temperature,
            generator=seeded(), **given,
        )
        for estimator, temperature in itertools.product(FOR_CODES, (0.3, 1.0))
    }  # fmt: skip
    value, parts = found["score-function", 1.0]
    for other in found.values():
        assert torch.equal(other.value, value)
        assert all(torch.equal(other.parts[name], part) for name, part in parts.items())
        assert other.value.requires_grad


@pytest.mark.parametrize("kl", ["auto", "monte-carlo"])
@pytest.mark.parametrize("estimator", FOR_CODES)
def test_the_value_averages_to_the_exact_bound(estimator: Any, kl: Any) -> None:
    case = exact_codes.case(3, 4, sharpness=2.0)
    truth = exact_codes.elbo(case.model, case.guide, case.x).detach()
    many = case.x.repeat_interleave(3000, 0)
    values = elbo(case.model, case.guide, many, kl=kl, estimator=estimator, temperature=0.3, generator=seeded())
    values = values.detach().reshape(3, 3000)
    z = (values.mean(1) - truth) / (values.std(1) / math.sqrt(3000))
    assert float(z.abs().max()) < 4


@pytest.mark.parametrize("estimator", FOR_CODES)
def test_gradients_in_the_models_parameters_are_unbiased_under_every_estimator(estimator: Any) -> None:
    case = exact_codes.case(2, 3, sharpness=2.0)
    parameters = exact.parameters_of(case.model)
    truth = exact.flat_gradient(exact_codes.elbo(case.model, case.guide, case.x).mean(), parameters)
    generator, many = seeded(3), case.x.repeat(40, 1)
    scores = exact.gradient_z_scores(
        lambda: elbo(case.model, case.guide, many, kl="auto", estimator=estimator, generator=generator),
        truth,
        parameters,
        repeats=100,
    )
    assert float(scores.abs().max()) < 4.5  # 116 components; t with 99 degrees of freedom


@pytest.mark.parametrize("sharpness", [0.5, 1.5], ids=["broad", "sharp"])
@pytest.mark.parametrize(("slots", "codes", "prior"), [(3, 4, "unigram"), (2, 5, "uniform"), (5, 2, "unigram")])
@pytest.mark.parametrize("kl", ["auto", "monte-carlo"])
def test_the_score_function_is_unbiased(kl: Any, slots: int, codes: int, prior: str, sharpness: float) -> None:
    case = exact_codes.case(slots, codes, prior=prior, sharpness=sharpness)
    parameters = exact.parameters_of(case.guide)
    truth = exact.flat_gradient(exact_codes.elbo(case.model, case.guide, case.x).mean(), parameters)
    generator, many = seeded(4), case.x.repeat(40, 1)
    scores = exact.gradient_z_scores(
        lambda: elbo(
            case.model, case.guide, many, num_samples=2, kl=kl, estimator="score-function", generator=generator
        ),
        truth,
        parameters,
        repeats=100,
    )
    assert float(scores.abs().max()) < 4.7  # some 150 components in each of 12 cases; t with 99 degrees of freedom


@pytest.mark.parametrize("estimator", CODE_ESTIMATORS)
def test_the_importance_weighted_bound_of_one_draw_has_the_gradient_of_the_elbo(estimator: Any) -> None:
    case = exact_codes.case(3, 4)
    parameters = exact.parameters_of(case.guide, case.model)
    options = {"num_samples": 1, "estimator": estimator, "temperature": 0.7}
    one = OBJECTIVES["iwae"](case.model, case.guide, case.x, generator=seeded(), **options).value
    other = elbo(case.model, case.guide, case.x, kl="monte-carlo", generator=seeded(), **options)
    weights = log_weights(case.model, case.guide, case.x, generator=seeded(), **options)[0]
    wanted = exact.flat_gradient(other.mean(), parameters)
    assert float(wanted.abs().max()) > 1e-3
    torch.testing.assert_close(exact.flat_gradient(one.mean(), parameters), wanted)
    torch.testing.assert_close(exact.flat_gradient(weights.mean(), parameters), wanted)


def test_the_path_is_that_of_the_relaxed_draws_alone() -> None:
    """By hand: what depends on the guide directly is differentiated at codes, what depends on z at relaxed draws."""
    case = exact_codes.case(3, 4, prior="uniform")
    parameters = exact.parameters_of(case.guide)
    value = elbo(case.model, case.guide, case.x, estimator="gumbel-softmax", temperature=0.7, generator=seeded())
    q = case.guide(case.x)
    _, relaxed = draw_codes(q, 1, "gumbel-softmax", temperature=0.7, generator=seeded())
    assert relaxed is not None
    by_hand = case.model.log_likelihood(case.x, relaxed)[0] + q.entropy()  # the uniform prior has no gradient
    assert not torch.allclose(value, by_hand - case.space.slots * math.log(case.space.codes))
    torch.testing.assert_close(
        exact.flat_gradient(value.mean(), parameters), exact.flat_gradient(by_hand.mean(), parameters)
    )


def test_a_frozen_guide_still_teaches_the_model() -> None:
    case = exact_codes.case(2, 3)
    case.guide.requires_grad_(False)
    for estimator in FOR_CODES:
        value = elbo(case.model, case.guide, case.x, estimator=estimator, generator=seeded())  # type: ignore[arg-type]
        assert float(exact.flat_gradient(value.mean(), exact.parameters_of(case.model)).abs().max()) > 0


@pytest.mark.slow
@pytest.mark.lowered
@pytest.mark.usefixtures("traced")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("estimator", FOR_CODES)
def test_compiled_and_eager_agree(estimator: str, objective: str) -> None:
    from elbowroom.learners.compiled import Compiled
    from elbowroom.learners.execution import eager

    case = exact_codes.case(3, 4)
    pair, batch = Pair(case.model, case.guide), Batch(case.x)

    def bound(pair: Pair, batch: Batch, *, generator: Any) -> Any:
        options = {"kl": "auto"} if objective == "elbo" else {}
        return OBJECTIVES[objective](
            pair.model, pair.guide, batch, num_samples=2, estimator=estimator, temperature=0.7, generator=generator,
            **options,
        )  # fmt: skip

    compiled = Compiled(len(case.x), required=True, announce=pytest.fail)
    found = []
    for execution in (eager, compiled):
        pair.zero_grad()
        value, parts = execution(bound, pair, batch, generator=seeded())
        found.append((value, parts, [weight.grad for weight in pair.parameters()]))
    assert compiled.graphs == 1
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-11)


# -------------------------------------------------------------------------------------------------------- refusals


def test_every_estimator_says_whether_it_is_biased() -> None:
    assert [is_biased(name) for name in FOR_CODES] == [False, True, True, True, True]
    assert set(FOR_CODES) < set(ESTIMATORS)
    for name, line in CODE_ESTIMATORS.items():
        assert line.startswith("biased"), name
    with pytest.raises(ElbowroomError, match="'reinmax'"):
        is_biased("rainmax")


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    with pytest.raises(ElbowroomError, match="needs a positive one"):
        draw_codes(Codes(torch.zeros(2, 3)), 1, "reinmax", temperature=temperature)


def test_refusals() -> None:
    q = Codes(torch.zeros(2, 3))
    with pytest.raises(ElbowroomError, match="is not known"):
        draw_codes(q, 1, "pathwise")
    case = exact_codes.case(2, 3)
    with pytest.raises(ElbowroomError, match="not reparameterised"):
        log_weights(case.model, case.guide, case.x)
    real = exact.linear_gaussian(4, 2)
    with pytest.raises(ElbowroomError, match="is for draws of codes, but the guide's distribution is a Independent"):
        elbo(real.model, real.guide, real.x, estimator="reinmax")
