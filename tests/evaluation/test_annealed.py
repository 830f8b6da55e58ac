"""The methods ais and bdmc on linear-Gaussian models, whose evidence is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation import annealed as module
from elbowroom.evaluation import annealing_budget as search
from elbowroom.evaluation.annealing_budget import AnnealingSize
from elbowroom.evaluation.evaluate import evaluate
from elbowroom.evaluation.results import Result
from elbowroom.evaluation.settings import Settings
from elbowroom.model.guides import PriorGuide
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli, CrossEntropy
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import ppca
from elbowroom.model.priors import StandardNormal


def _data(x: Tensor) -> DataSet:
    data = load_data(x, support="reals", validation=0.0, test=0.0)
    assert isinstance(data, DataSet)
    return data.to(dtype=torch.float64)


def _case(latent_dim: int = 4, num_data: int = 200) -> tuple[Any, Any, Tensor]:
    return ppca(latent_dim + 4, latent_dim, seed=1, num_data=num_data)


def _measure(case: tuple[Any, Any, Tensor], *methods: str, **settings: Any) -> dict[str, Result]:
    model, guide, x = case
    return {r.name: r for r in evaluate(model, guide, _data(x), methods=methods, split="train", **settings)}


class Memory:
    """Parts in memory, which remembers what was read and written."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Tensor]] = {}
        self.read_names: list[str] = []

    def read(self, name: str) -> dict[str, Tensor] | None:
        if name in self.kept:
            self.read_names.append(name)
        return self.kept.get(name)

    def write(self, name: str, part: dict[str, Tensor]) -> None:
        self.kept[name] = dict(part)


@pytest.mark.parametrize("start", ["laplace", "guide", "prior", None])
@pytest.mark.parametrize("temperatures", [1, 12])
def test_ais_is_the_evidence_within_its_own_error(start: str | None, temperatures: int) -> None:
    case = _case(latent_dim=2)
    found = _measure(case, "ais", start=start, temperatures=temperatures, chains=200 if temperatures == 1 else 16)[
        "ais"
    ]
    exact = case[0].log_evidence(case[2]).mean().item()
    error = found.found["monte_carlo_stderr"]
    # an average of logarithms errs low by about half its squared standard error for each datum
    assert -5 * error - 0.5 * len(case[2]) * error**2 < found.value - exact < 5 * error + 1e-6
    assert found.bound == "lower"
    assert found.asked["start"] == ("laplace" if start is None else start)


def test_the_sandwich_holds_simulated_data() -> None:
    found = _measure(_case(), "bdmc", start="guide", temperatures=2, chains=2, simulated=200)
    lower, upper, gap = (found[f"bdmc {name}"] for name in ("lower", "upper", "gap"))
    assert (lower.bound, upper.bound, gap.bound) == ("lower", "upper", None)
    assert lower.split == upper.split == gap.split == "simulated"
    assert upper.value - lower.value == pytest.approx(gap.value)
    assert gap.value > 10 * (gap.stderr or 0) / 4
    assert lower.found["largest_gap"] > gap.value


def test_the_same_data_are_simulated_whatever_the_settings() -> None:
    """So their difference is the bounds' alone: it is far smaller than the data's spread allows."""
    rough, fine = (_measure(_case(), "bdmc", temperatures=t, chains=8)["bdmc lower"] for t in (1, 32))
    assert abs(rough.value - fine.value) < 0.2 * (fine.stderr or 0)


def test_a_budget_ends_the_search_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "CANDIDATES", (AnnealingSize(1, 2), AnnealingSize(4096, 16)))
    found = _measure(_case(), "ais", start="guide", tolerance=1e-9, budget=1.0)["ais"].found
    assert (found["ended_by"], found["used_temperatures"]) == ("budget", 1)
    assert found["search_gap"] > 0


def test_what_is_given_is_not_searched_for() -> None:
    found = _measure(_case(), "ais", temperatures=3, chains=5)["ais"].found
    assert (found["ended_by"], found["used_temperatures"], found["used_chains"]) == ("given", 3, 5)
    assert found["search_gap"] is None
    assert Settings(temperatures=1).chains is None
    assert _measure(_case(), "ais", temperatures=1)["ais"].found["used_chains"] == 100


def test_both_methods_share_one_search(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = module.choose_annealing
    monkeypatch.setattr(module, "choose_annealing", lambda study, work: calls.append(work) or original(study, work))
    _measure(_case(), "ais", "bdmc", temperatures=2, simulated=50)
    assert calls == [200 + 50]


@pytest.mark.parametrize("after", [1, 3])
def test_an_interrupted_search_goes_on_to_the_same_figures(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 50)
    case, settings = _case(), {"temperatures": 4, "chains": 4}
    whole, memory = _measure(case, "ais", **settings)["ais"], Memory()
    original, done = module.ais, []

    def stops(*args: Any, **given: Any) -> Any:
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(0)
        return original(*args, **given)

    monkeypatch.setattr(module, "ais", stops)
    with pytest.raises(KeyboardInterrupt):
        _measure(case, "ais", parts=memory, **settings)
    assert len(memory.kept) == after + 1  # the search is a part, too
    monkeypatch.setattr(module, "ais", original)
    again = _measure(case, "ais", parts=memory, **settings)["ais"]
    assert again.value == whole.value
    assert len(memory.read_names) == after + 1


def test_the_figures_of_every_datum_are_handed_over() -> None:
    kept: dict[str, dict[str, Tensor]] = {}
    found = _measure(_case(), "ais", "bdmc", temperatures=2, simulated=30, keep=kept.__setitem__)
    assert kept["ais"]["row"].long().sort().values.tolist() == list(range(200))
    assert kept["ais"]["log_evidence"].mean().item() == pytest.approx(found["ais"].value)
    assert {"stderr", "ess", "acceptance", "evaluations"} < set(kept["ais"])
    assert "row" not in kept["bdmc-simulated"] and len(kept["bdmc-simulated"]["gap"]) == 30


def test_without_a_guide() -> None:
    model, _, x = _case()
    found = _measure((model, PriorGuide(model.prior), x), "ais", temperatures=4)["ais"]
    assert found.value == pytest.approx(model.log_evidence(x).mean().item(), abs=0.05)


def test_gradients_in_bfloat16_move_chains_and_leave_the_estimate() -> None:
    generator = torch.Generator().manual_seed(2)
    decoder = MLP((2,), Bernoulli.parameter_shape((8,)), hidden=(16,))
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.normal_(generator=generator)
    model = LatentModel(StandardNormal(2), Bernoulli(decoder, (8,)))
    x = model.sample(100, generator=generator).x
    data = load_data(x.numpy(), validation=0.0, test=0.0)
    settings: dict[str, Any] = {"split": "train", "start": "prior", "temperatures": 8, "chains": 16}
    full, rounded = (
        evaluate(model, PriorGuide(model.prior), data, methods=["ais"], precision=precision, **settings)[0]
        for precision in ("full", "bf16")
    )
    assert rounded.asked == {**full.asked, "precision": "bf16"}
    assert full.value != rounded.value  # other trajectories
    error = math.hypot(full.found["monte_carlo_stderr"], rounded.found["monte_carlo_stderr"])
    assert abs(full.value - rounded.value) < 4 * error


@pytest.mark.parametrize("method", ["ais", "bdmc"])
def test_a_density_that_is_none_is_refused(method: str) -> None:
    model, guide, x = _case()
    model.likelihood = CrossEntropy(MLP((4,), (1, 8), hidden=()).double(), (8,))
    with pytest.raises(ElbowroomError, match="does not integrate to one"):
        _measure((model, guide, x), method, temperatures=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperatures": 0}, "temperatures is 0"),
        ({"chains": 0}, "chains is 0"),
        ({"climbs": 0}, "climbs is 0"),
        ({"simulated": 0}, "simulated is 0"),
        ({"tolerance": 0.0}, "tolerance is 0.0"),
        ({"tolerance": math.nan}, "tolerance is nan"),
        ({"budget": -1.0}, "budget is -1.0"),
        ({"start": "mode"}, "start is 'mode'"),
        ({"precision": "half"}, "precision is 'half'"),
        ({"schedule": "cubic"}, "schedule is 'cubic'"),
        ({"temprature": 3}, "no key 'temprature'"),
    ],
    ids=lambda case: next(iter(case)) if isinstance(case, dict) else "",
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ElbowroomError, match=message):
        _measure(_case(num_data=5), "ais", **settings)


@pytest.mark.parametrize("temperatures", [1, 6])
def test_among_other_rows_a_value_differs_by_no_more_than_its_error(temperatures: int) -> None:
    """Blocks of chains have one random stream, so that draws change with the rows; the same call repeats them."""
    model, guide, x = _case(latent_dim=2)
    kept: list[dict[str, Tensor]] = []
    for points in (50, 200, 200):
        _measure(
            (model, guide, x), "ais", points=points, temperatures=temperatures, chains=100,
            keep=lambda method, values: kept.append(values),
        )  # fmt: skip
    some, every, again = kept
    assert torch.equal(every["log_evidence"], again["log_evidence"])
    places = torch.searchsorted(every["row"], some["row"])
    z = (some["log_evidence"] - every["log_evidence"][places]) / some["stderr"].hypot(every["stderr"][places])
    assert abs(float(z.mean())) < 4 / math.sqrt(50)
    assert float(z.square().mean()) < 1 + 4 * math.sqrt(2 / 50)
