"""How much annealing is chosen: until a gap that is known exactly is small, within the time that there is."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation import annealing_budget as search
from elbowroom.evaluation.annealing_budget import (
    CANDIDATES,
    AnnealingChoice,
    AnnealingSize,
    chain_settings,
    choose_annealing,
    schedule_of,
)
from elbowroom.evaluation.settings import Settings
from elbowroom.evaluation.study import Study
from elbowroom.inference.annealing.ais import AnnealingPlan
from elbowroom.model.code_distributions import CodeSpace
from elbowroom.model.codes import CategoricalGuide, UniformCodes
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import PriorGuide
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import LinearGaussian, ppca

DIM, LATENT = 6, 3


class Wide(Conditional):
    """The exact posterior with its scale multiplied, and its mean moved by so many of its deviations."""

    def __init__(self, model: LinearGaussian, factor: float, moved: float = 0.0) -> None:
        super().__init__()
        self.exact, self.factor, self.moved = model.exact_guide(), factor, moved

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        q = self.exact(given)
        root = q.scale_tril
        return MultivariateNormal(q.mean + self.moved * root.sum(-1), scale_tril=self.factor * root)


def silent(method: str, done: int, total: int, info: Any = None) -> None:
    pass


def case(factor: float = 1.5, moved: float = 0.4, rows: int = 40, **settings: Any) -> Study:
    """A model, a guide that is wrong by the same amount for all data, and what is to be measured."""
    model, _, x = ppca(DIM, LATENT, seed=1, num_data=rows)
    return study(model, Wide(model, factor, moved), x, **settings)


def study(model: Any, guide: Conditional, x: Tensor, *, announce: Any = silent, **settings: Any) -> Study:
    data = load_data(x, support="reals", validation=0.0, test=0.0)
    assert isinstance(data, DataSet)
    given = Settings.of({"start": "guide", **settings})
    return Study(model, guide, data.to(dtype=torch.float64), "train", given, announce)


def divergences(factor: float, moved: float) -> float:
    r"""KL(q ‖ p) + KL(p ‖ q) of N(δ, a² I) and N(0, I): what a single draw loses below and gains above, on average.

    .. math:: \tfrac{D}{2} \big(a^2 + a^{-2} - 2 + \delta^2 (1 + a^{-2})\big)
    """
    return LATENT / 2 * (factor**2 + factor**-2 - 2 + moved**2 * (1 + factor**-2))


# --- the gap -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "moved"), [(1.5, 0.4), (1.3, 0.0)])
def test_the_gap_of_a_single_draw_is_the_sum_of_both_divergences(
    factor: float, moved: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "CANDIDATES", (AnnealingSize(1, 1),))
    found = choose_annealing(case(factor, moved, tolerance=1e-9), 40)
    assert (found.why, found.size) == ("ladder", (1, 1))
    assert found.gap is not None and found.gap_stderr is not None
    assert abs(found.gap - divergences(factor, moved)) < 4 * found.gap_stderr
    assert found.gap_stderr < 0.2 * found.gap
    assert found.plan.betas.tolist() == [0.0, 1.0]


def test_from_the_exact_posterior_nothing_needs_annealing() -> None:
    found = choose_annealing(case(1.0, 0.0, tolerance=1e-6), 40)
    assert (found.why, found.size) == ("tolerance", CANDIDATES[0])
    assert found.reached
    assert found.gap == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("slack", "met"), [(1.001, True), (0.999, False)])
def test_the_tolerance_is_met_by_the_gap_and_its_standard_error(
    slack: float, met: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "CANDIDATES", (AnnealingSize(1, 20), AnnealingSize(1, 400)))
    first = choose_annealing(case(tolerance=10.0), 40)
    assert first.size == (1, 20) and first.gap is not None and first.gap_stderr is not None
    found = choose_annealing(case(tolerance=slack * (first.gap + first.gap_stderr)), 40)
    assert (found.size == (1, 20)) == met
    if met:
        assert (found.gap, found.gap_stderr) == (first.gap, first.gap_stderr)


def test_temperatures_are_raised_until_the_gap_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = tuple(AnnealingSize(*size) for size in [(1, 1), (2, 4), (16, 8)])
    monkeypatch.setattr(search, "CANDIDATES", sizes)
    used = []
    for tolerance in (2.0, 0.6, 0.1):
        found = choose_annealing(case(tolerance=tolerance), 40)
        assert found.why == "tolerance" and found.gap is not None and found.gap_stderr is not None
        assert found.gap + found.gap_stderr <= tolerance
        used.append(found.size.temperatures)
    assert used[0] < used[1] < used[2]
    never = choose_annealing(case(tolerance=1e-9), 40)
    assert (never.why, never.size) == ("ladder", sizes[-1])


# --- the budget --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("budget", "goes_on"), [(11.1, True), (10.9, False)])
def test_the_budget_is_for_the_next_trial_and_for_the_data_with_it(
    budget: float, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of one tick a look: 3 s so far, of which the trial took 1; the next has four times the work, 4 s, and
    512 examples take as long as a trial.
    """
    clock = itertools.count()
    monkeypatch.setattr(search, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    monkeypatch.setattr(search, "CANDIDATES", (AnnealingSize(1, 2), AnnealingSize(4, 2)))
    found = choose_annealing(case(tolerance=1e-9, budget=budget), 512)
    assert (found.why, found.size) == (("ladder", (4, 2)) if goes_on else ("budget", (1, 2)))
    assert found.reached is False


def test_more_data_to_measure_leave_less_for_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "CANDIDATES", (AnnealingSize(1, 2), AnnealingSize(4, 2)))
    sizes = []
    for work in (512, 5 * 512):
        clock = itertools.count()
        monkeypatch.setattr(search, "time", SimpleNamespace(monotonic=lambda clock=clock: float(next(clock))))
        sizes.append(choose_annealing(case(tolerance=1e-9, budget=15.0), work).size)
    assert sizes == [(4, 2), (1, 2)]


# --- what is given -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"temperatures": 1}, (1, 100)),
        ({"temperatures": 7}, (7, 32)),
        ({"temperatures": 7, "chains": 5}, (7, 5)),
        ({"temperatures": 1, "chains": 3}, (1, 3)),
    ],
    ids=str,
)
def test_numbers_that_are_given_are_taken(settings: dict[str, Any], size: tuple[int, int]) -> None:
    found = choose_annealing(case(**settings), 40)
    assert (found.why, found.size, found.gap, found.gap_stderr, found.reached) == ("given", size, None, None, None)
    assert len(found.plan.betas) == size[0] + 1


def test_chains_that_are_given_are_those_of_every_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "CANDIDATES", (AnnealingSize(1, 2), AnnealingSize(2, 2)))
    assert choose_annealing(case(tolerance=1e-9, chains=3), 40).size == (2, 3)


def test_each_trial_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "CANDIDATES", (AnnealingSize(1, 1), AnnealingSize(1, 2), AnnealingSize(1, 3)))
    told: list[tuple[str, int, int]] = []
    choose_annealing(case(tolerance=1e-9, announce=lambda *what: told.append(what[:3])), 40)
    assert told == [("searching", 1, 3), ("searching", 2, 3), ("searching", 3, 3)]


def test_a_seed_repeats_the_search_and_another_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "CANDIDATES", (AnnealingSize(2, 2),))
    one, same, other = (choose_annealing(case(tolerance=1e-9, seed=seed), 40) for seed in (0, 0, 1))
    assert one.gap == same.gap != other.gap
    assert torch.equal(one.plan.step_sizes, same.plan.step_sizes)


@pytest.mark.parametrize(
    ("guided", "given", "start", "schedule"),
    [
        (True, {}, "laplace", "linear"),
        (True, {"start": "guide"}, "guide", "linear"),
        (True, {"start": "prior"}, "prior", "adapted"),
        (True, {"start": "prior", "schedule": "sigmoid"}, "prior", "sigmoid"),
        (False, {"start": None}, "laplace", "linear"),
        (False, {"start": "prior"}, "prior", "adapted"),
    ],
    ids=str,
)
def test_even_temperatures_are_for_a_near_start(guided: bool, given: dict[str, Any], start: str, schedule: str) -> None:
    model, _, x = ppca(DIM, LATENT, seed=1, num_data=10)
    guide = Wide(model, 1.5) if guided else PriorGuide(model.prior)
    of = study(model, guide, x, **{"start": None, **given})
    found = chain_settings(of)
    assert (found["start"], schedule_of(of)) == (start, schedule)
    assert (found["guide"] is guide) == guided  # the prior in a guide's place is none
    assert found["climbs"] == of.settings.climbs


def test_the_candidates_rise() -> None:
    temperatures = [size.temperatures for size in CANDIDATES]
    assert temperatures == sorted(temperatures)
    assert len(set(CANDIDATES)) == len(CANDIDATES)


def test_a_choice_survives_being_kept() -> None:
    for choice in (
        AnnealingChoice(
            AnnealingSize(3, 7),
            AnnealingPlan(torch.linspace(0, 1, 4).double(), torch.ones(2).double(), 5),
            "given",
            None,
            None,
            0.5,
        ),
        AnnealingChoice(
            AnnealingSize(1, 9), AnnealingPlan(torch.tensor([0.0, 1.0]), torch.empty(0)), "budget", 0.25, 0.125, 2.0
        ),
    ):
        again = AnnealingChoice.of_tensors(choice.to_tensors())
        assert torch.equal(again.plan.betas, choice.plan.betas)
        assert torch.equal(again.plan.step_sizes, choice.plan.step_sizes)
        assert (again.size, again.why, again.gap, again.gap_stderr, again.seconds, again.plan.num_gradients) == (
            choice.size, choice.why, choice.gap, choice.gap_stderr, choice.seconds, choice.plan.num_gradients,
        )  # fmt: skip
        assert again.reached is (None if choice.why == "given" else False)


def test_few_data_do_not_make_the_search_blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gap is that of the model, not of the split: as many examples are simulated for a split of two."""
    monkeypatch.setattr(search, "CANDIDATES", (AnnealingSize(1, 50), AnnealingSize(512, 64)))
    model, guide, x = ppca(6, 2, seed=1, num_data=2)
    found = choose_annealing(study(model, guide, x, start="laplace", tolerance=0.1), 2)
    assert (found.why, found.size.temperatures) == ("tolerance", 1)
    assert found.gap_stderr is not None and math.isfinite(found.gap_stderr)


# --- codes -------------------------------------------------------------------------------------------------------


def study_of_codes(**settings: Any) -> Study:
    """Three slots of four codes that x says much of, and a guide that has not been trained."""
    space = CodeSpace(3, 4)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        network, encoder = MLP((space.dim,), (1, DIM), hidden=(16,)), MLP((DIM,), space, hidden=(8,))
    with torch.no_grad():
        network.output.weight.mul_(6)
    model = LatentModel(UniformCodes(space), Bernoulli(network, (DIM,))).eval().requires_grad_(False)
    guide = CategoricalGuide(encoder, space).eval().requires_grad_(False)
    x = model.sample(40, generator=torch.Generator().manual_seed(1)).x
    data = load_data(x, support="binary", validation=0.0, test=0.0)
    assert isinstance(data, DataSet)
    return Study(model, guide, data, "train", Settings.of(settings), silent)


def test_over_codes_temperatures_are_raised_until_the_gap_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "CANDIDATES", tuple(AnnealingSize(*size) for size in [(1, 1), (4, 2), (16, 8)]))
    monkeypatch.setattr(search, "_TRIED_ON", 200)
    found = [choose_annealing(study_of_codes(tolerance=tolerance), 40) for tolerance in (10.0, 0.08)]
    assert [choice.why for choice in found] == ["tolerance", "tolerance"]
    assert found[0].size.temperatures == 1 < found[1].size.temperatures
    assert found[1].plan.step_sizes.min() > 0 and found[1].plan.step_sizes.max() <= 1
    again = AnnealingChoice.of_tensors(found[1].to_tensors())
    assert torch.equal(again.plan.step_sizes, found[1].plan.step_sizes)


def test_over_codes_chains_start_from_the_guide_at_even_temperatures() -> None:
    of = study_of_codes()
    assert (chain_settings(of)["start"], chain_settings(of)["guide"], schedule_of(of)) == ("guide", of.guide, "linear")


def test_over_codes_the_gap_of_a_start_from_the_prior_is_refused() -> None:
    with pytest.raises(ElbowroomError, match=r"from the prior of a model with codes(?s:.*)--temperatures"):
        choose_annealing(study_of_codes(start="prior"), 40)
    given = choose_annealing(study_of_codes(start="prior", temperatures=5), 40)
    assert (given.why, given.size.temperatures) == ("given", 5)
    with pytest.raises(ElbowroomError, match=r"Laplace approximations needs a continuous z"):
        choose_annealing(study_of_codes(start="laplace"), 40)
