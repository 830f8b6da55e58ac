"""The room's parts against linear-Gaussian models, where each is known in closed form."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

import hierarchy_cases
from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation import inference_gaps as gaps
from elbowroom.evaluation.inference_gaps import decompose, room
from elbowroom.evaluation.results import Result
from elbowroom.evaluation.settings import Settings
from elbowroom.evaluation.study import Study
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import DiagonalNormal, PriorGuide
from elbowroom.model.latent import LatentModel, evaluation_mode
from elbowroom.model.likelihoods import CrossEntropy
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import LinearGaussian, ppca
from elbowroom.model.priors import StandardNormal

DIM, LATENT = 8, 3


def study(
    model: LatentModel, guide: Conditional, x: Tensor, *, split: str = "train", support: str = "reals", **given: Any
) -> Study:
    data = load_data(x, support=support, validation=0.0, test=0.25)
    assert isinstance(data, DataSet)
    data = data.to(dtype=torch.float64)
    return Study(model, guide, data, split, Settings.of(given), lambda method, done, total: None)


def measured(given: Study, **options: Any) -> dict[str, Result]:
    with evaluation_mode(given.model, given.guide):
        return {result.name: result for result in room(given, **options)}


def exact(model: LinearGaussian, guide: Conditional, x: Tensor) -> dict[str, Tensor]:
    """Per datum, in closed form."""
    with torch.no_grad():
        q, posterior, log_p = guide(x), model.posterior(x), model.log_evidence(x)
        M = posterior.precision_matrix[0]
        approximation = 0.5 * (M.diagonal().log().sum() - torch.logdet(M)).expand(len(x))
        whole = kl_divergence(MultivariateNormal(q.mean, torch.diag_embed(q.variance)), posterior)
    return {
        "elbo": log_p - whole,
        "elbo of q*": log_p - approximation,
        "log p(x)": log_p,
        "amortisation gap": whole - approximation,
        "approximation gap": approximation,
        "elbow room": whole,
    }


def rows(given: Study) -> Tensor:
    return torch.cat([batch.x for batch in given.data.batches(given.split, 1000, points=given.settings.points)])


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_part_is_the_exact_one(split):
    """Deterministic but for log p(x), whose estimate has an error of its own."""
    model, guide, x = ppca(DIM, LATENT, seed=3, num_data=240)
    kept: dict[str, dict[str, Tensor]] = {}
    given = replace(study(model, guide, x, split=split, k=2000), keep=kept.__setitem__)
    found, data = measured(given), rows(given)[:200]
    truth = exact(model, guide, data)
    noise = float(kept["room"]["log p stderr"].square().sum().sqrt()) / len(data)
    assert noise < 2e-3
    for name, values in truth.items():
        tolerance = 4 * noise if name in ("log p(x)", "approximation gap", "elbow room") else 1e-4
        assert found[name].value == pytest.approx(float(values.mean()), abs=tolerance), name
        assert found[name].points == len(data) == (180 if split == "train" else 60)
        assert found[name].split == split
    # a standard error is that of the paired mean: of gaps that are alike for all data it all but vanishes
    paired = float(truth["elbo"].std()) / math.sqrt(len(data))
    assert found["elbo"].stderr == pytest.approx(paired, rel=1e-2)
    assert found["elbow room"].stderr < paired / 20
    assert found["amortisation gap"].stderr == pytest.approx(
        float(truth["amortisation gap"].std()) / math.sqrt(len(data)), rel=0.05, abs=1e-5
    )


def test_the_parts_add_up():
    model, guide, x = ppca(DIM, LATENT, seed=3, num_data=80)
    found = measured(study(model, guide, x, points=30, k=50))
    value = {name: result.value for name, result in found.items()}
    assert value["elbow room"] == pytest.approx(value["amortisation gap"] + value["approximation gap"])
    assert value["log p(x)"] == pytest.approx(value["elbo"] + value["elbow room"])
    assert {result.points for result in found.values()} == {30}
    assert found["log p(x)"].asked["k"] == 50
    assert [found[name].bound for name in ("elbo", "elbo of q*", "log p(x)")] == ["lower"] * 3
    assert found["amortisation gap"].bound is None


def test_an_exact_guide_has_no_room():
    model, _, x = ppca(DIM, LATENT, seed=3, num_data=40)
    found = measured(study(model, model.exact_guide(), x, k=2000))
    assert found["amortisation gap"].value == pytest.approx(0, abs=1e-6)
    assert found["approximation gap"].value == pytest.approx(0, abs=0.01)


def test_a_guide_that_is_not_normal_is_compared_with_diagonal_normals():
    """The guide of a linear hierarchy: its q is the product of normals of which each is given those before."""
    case = hierarchy_cases.linear((2, 1), dim=DIM, num_data=40)
    guide = hierarchy_cases.worsened(case.guides["top-down"], by=0.2)
    kept: dict[str, dict[str, Tensor]] = {}
    given = replace(study(case.model, guide, case.x, k=2000), keep=kept.__setitem__)
    found, data = measured(given), rows(given)
    truth = exact(case.model, guide, data)
    truth["elbow room"] = kl_divergence(
        hierarchy_cases.as_joint_normal(guide, data)(data), case.model.posterior(data)
    ).detach()
    truth["elbo"] = truth["log p(x)"] - truth["elbow room"]
    truth["amortisation gap"] = truth["elbow room"] - truth["approximation gap"]
    assert all(result.found["family"] == "diagonal" for result in found.values())
    noise = {
        name: float(kept["room"][name].square().sum().sqrt()) / len(data) for name in ("gain_stderr", "log p stderr")
    }
    assert 1e-4 < max(noise.values()) < 0.05
    for name, values in truth.items():
        error = 4 * (noise["gain_stderr"] if name in ("elbo", "amortisation gap", "elbow room") else 0.0)
        error += 4 * (noise["log p stderr"] if name in ("log p(x)", "approximation gap", "elbow room") else 0.0)
        assert found[name].value == pytest.approx(float(values.mean()), abs=error or 1e-4), name


def test_without_a_likelihood_there_is_only_amortisation():
    torch.manual_seed(0)
    likelihood = CrossEntropy(MLP((2,), (1, 6), hidden=(8,)), (6,))
    model = LatentModel(StandardNormal(2), likelihood).double()
    guide = DiagonalNormal(MLP((6,), (2, 2), hidden=(8,)), 2).double()
    x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
    given = study(model, guide, x, support="unit-interval")
    found = measured(given)
    remark = " (cross-entropy: not a log-likelihood)"
    assert list(found) == [f"{name}{remark}" for name in ("elbo", "elbo of q*", "amortisation gap")]
    assert all(result.bound is None for result in found.values())
    assert found[f"amortisation gap{remark}"].value > 0
    both = decompose(list(found.values()), list(found.values()))
    assert both.generalisation is None
    assert both.overfitting.name == f"encoder's overfitting{remark}"
    with pytest.raises(ElbowroomError, match="does not integrate to one"):
        measured(given, check=True)


def test_draws_of_the_posterior_bound_it_from_above():
    """The best full normal is the posterior itself, so the bound is log p(x), whatever the draws."""
    model, guide, x = ppca(DIM, LATENT, seed=3, num_data=40)
    given = study(model, guide, x, k=200)
    result = measured(given, check=True)["upper bound by HMC draws"]
    data = next(given.data.batches("train", 20, points=20)).x
    assert result.bound == "upper"
    assert result.points == 20
    assert result.value == pytest.approx(float(model.log_evidence(data).detach().mean()), abs=1e-4)
    assert result.found["rhat"] < 1.1
    assert result.found["elbo_of_best_normal"] == pytest.approx(result.value, abs=1e-3)


def test_the_upper_bound_lies_above(monkeypatch):
    """With a q that is not the posterior it is log p(x) and a gap that more draws close; L[q] lies below both."""
    model, guide, x = ppca(8, 6, seed=3, num_data=80)
    given = study(model, guide, x, k=50)
    best_normal = gaps.optimal_gaussian

    def diagonal(*arguments: Any, **options: Any) -> Any:
        return best_normal(*arguments, **{**options, "family": "diagonal"})

    monkeypatch.setattr(gaps, "optimal_gaussian", diagonal)
    monkeypatch.setattr(gaps, "_CHECKED", 60)
    few, many = (bound_by_chains(given, draws, monkeypatch) for draws in (4, 200))
    data = next(given.data.batches("train", 60, points=60)).x
    truth = float(model.log_evidence(data).detach().mean())
    assert few.found["elbo_of_best_normal"] < truth - 0.5
    assert truth - 0.02 < many.value < truth + 0.04
    assert truth + 0.08 < few.value < truth + 0.5


def bound_by_chains(given: Study, draws: int, monkeypatch: pytest.MonkeyPatch) -> Result:
    monkeypatch.setattr(gaps, "_DRAWS", draws)
    return measured(given, check=True)["upper bound by HMC draws"]


def result(name: str, value: float, stderr: float | None, split: str) -> Result:
    return Result(
        name=name, value=value, stderr=stderr, unit="nats", points=10, split=split, bound=None,
        method="room", asked={}, found={}, protocol={},
    )  # fmt: skip


def test_splits_are_compared_with_independent_errors():
    train = [result("log p(x)", -90.0, 0.3, "train"), result("elbow room", 5.0, 0.1, "train")]
    test = [result("log p(x)", -92.0, 0.4, "test"), result("elbow room", 6.0, None, "test")]
    both = decompose(train, test)
    assert both.generalisation is not None
    assert (both.generalisation.value, both.generalisation.stderr) == (2.0, pytest.approx(0.5))
    assert (both.overfitting.value, both.overfitting.stderr) == (1.0, None)
    assert both.generalisation.split == "train − test"
    assert both.overfitting.points == 20
    assert both.train == train


def test_a_decoder_that_knows_its_training_data_generalises_badly():
    """Data of which the model was built, and fresh data of another model: the sign of the difference."""
    model, guide, x = ppca(DIM, LATENT, seed=3, num_data=80)
    _, _, other = ppca(DIM, LATENT, seed=4, num_data=80)
    train, test = (measured(study(model, guide, data, points=20, k=50)) for data in (x, other))
    both = decompose(list(train.values()), list(test.values()))
    assert both.generalisation is not None
    assert both.generalisation.value > 5


@pytest.mark.parametrize("which", ["training", "test"])
def test_other_results_are_no_room(which):
    good = [result("elbow room", 5.0, 0.1, "train")]
    other = [good[0].model_copy(update={"method": "iwae"})]  # of the method iwae
    with pytest.raises(ElbowroomError, match=f"results of the {which} data do not contain it"):
        decompose(*((other, good) if which == "training" else (good, other)))


def test_no_guide_no_room():
    model, _, x = ppca(DIM, LATENT, seed=3, num_data=20)
    with pytest.raises(ElbowroomError, match="has no guide"):
        measured(study(model, PriorGuide(model.prior), x))


def test_equal_rows_count_the_noise_that_they_share() -> None:
    """Equal rows have equal draws, so that eight of them say no more about a row than one does."""
    model, guide, x = ppca(DIM, LATENT, seed=3, num_data=1)
    kept: dict[str, dict[str, Tensor]] = {}
    data = load_data(x.expand(8, -1), support="reals", validation=0.0, test=0.0)
    assert isinstance(data, DataSet)
    settings = Settings.of({"k": 200})
    hush = lambda method, done, total: None  # noqa: E731
    given = Study(model, guide, data.to(dtype=torch.float64), "train", settings, hush, keep=kept.__setitem__)
    found, values = measured(given), kept["room"]
    for name in ("elbo", "best", "log p"):
        assert len(values[name].unique()) == 1
    of_one = float(values["log p stderr"][0]) * math.sqrt(7 / 8)  # the rest is counted by a spread, here 0
    assert found["log p(x)"].stderr == pytest.approx(of_one)
    for name in ("approximation gap", "elbow room"):
        assert of_one <= (found[name].stderr or 0.0) < 1.1 * of_one
