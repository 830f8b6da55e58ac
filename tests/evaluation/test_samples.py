"""The method samples, on models that are the data's own, too narrow, or copies of training rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.evaluate import evaluate
from elbowroom.evaluation.results import Result
from elbowroom.evaluation.sample_features import fit_features
from elbowroom.evaluation.samples import samples
from elbowroom.evaluation.settings import Settings
from elbowroom.evaluation.study import Study
from elbowroom.model.latent import LatentModel
from elbowroom.model.oracles import ppca
from elbowroom.model.priors import StandardNormal
from evaluation_cases import named
from small_runs import reals, tiny


def _data(x: Tensor, test: int) -> DataSet:
    data = load_data(x, support="reals", validation=0.0, test=test)
    assert isinstance(data, DataSet)
    return data.to(dtype=torch.float64)


def _measured(model: LatentModel, guide: Any, data: DataSet, **settings: Any) -> dict[str, Result]:
    return named(evaluate(model, guide, data, methods=["samples"], **settings))


def test_samples_of_the_true_model_are_like_data() -> None:
    model, guide, x = ppca(6, 2, seed=0, num_data=900)
    found = _measured(model, guide, _data(x, 400))
    assert abs(found["classifier accuracy"].found["z"]) < 4
    for name in ("precision", "recall"):
        own, same = found[name], found[f"{name} of training rows"]
        assert own.stderr is not None
        assert same.stderr is not None
        assert abs(own.value - same.value) < 4 * (own.stderr**2 + same.stderr**2) ** 0.5
    near = found["farther from training rows"]
    assert near.stderr is not None
    assert abs(near.value - 0.5) < 4 * near.stderr
    assert near.found["training_rows"] == 500
    assert {result.unit for result in found.values()} == {"share"}


def test_of_another_model_all_figures_say_so() -> None:
    _, _, x = ppca(6, 2, seed=0, num_data=900)
    other, guide, _ = ppca(6, 2, seed=1)
    found = _measured(other, guide, _data(x, 400))
    assert found["classifier accuracy"].found["z"] > 8
    assert found["precision"].value < found["precision of training rows"].value - 0.1
    far = found["farther from training rows"]
    assert far.stderr is not None
    assert far.value > 0.5 + 4 * far.stderr


class _Narrow(StandardNormal):
    def forward(self, given: Tensor | None = None, context: Tensor | None = None) -> Distribution:
        return Independent(Normal(self.loc.double(), 0.2), 1)


def test_samples_of_a_narrow_prior_are_precise_and_cover_little() -> None:
    model, guide, x = ppca(6, 2, seed=0, num_data=900)
    found = _measured(LatentModel(_Narrow(2), model.likelihood), guide, _data(x, 400))
    assert found["precision"].value > found["precision of training rows"].value
    assert found["recall"].value < found["recall of training rows"].value - 0.1


def test_rows_depend_on_the_seed_alone_and_not_on_their_order() -> None:
    model, guide, x = ppca(4, 2, seed=0, num_data=300)
    data = _data(x, 100)
    first, again = (_measured(model, guide, data, points=80) for _ in range(2))
    assert first == again
    other = _measured(model, guide, data, points=80, seed=1)
    assert other["precision"].value != first["precision"].value or other["recall"].value != first["recall"].value
    assert first["precision"].points == 80


def test_of_a_model_of_classes_it_says_how_many_are_of_the_class_that_was_asked_for(tmp_path: Path) -> None:
    """Two classes far apart, of which the likelihood alone can know: nearly all samples are right, and so are data."""
    labels = torch.arange(400) % 2
    x = labels.unsqueeze(1) * 1.0 + 0.2 * torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    np.savez(tmp_path / "classes.npz", x=x.numpy(), labels=labels.numpy())
    told = {"context": "labels", "test": 150, "validation": 50}
    run = tiny(
        tmp_path / "classes.npz",
        tmp_path / "run",
        data=told,
        train={"epochs": 40, "batch_size": 50},
        optimizer={"lr": 0.02},
    )
    found = named(run.evaluate("samples"))
    assert found["class accuracy of data"].value > 0.95
    assert found["class accuracy"].value > 0.95
    assert "2 classes" in found["precision"].found["features"]
    lame = {"train": {"epochs": 1}, "optimizer": {"lr": 1e-9}}
    untrained = tiny(tmp_path / "classes.npz", tmp_path / "untrained", data=told, **lame)
    found = named(untrained.evaluate("samples"))
    assert found["class accuracy of data"].value > 0.95
    assert abs(found["class accuracy"].value - 0.5) < 4 * 0.5 / 150**0.5  # the class is told of x, not of its context


def test_tables_and_missing_elements(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    size = draws.lognormal(size=220)
    size[::7] = np.nan
    table = pl.DataFrame(
        {"size": size, "town": draws.choice(["Oslo", "Bergen", "Voss"], 220), "visits": draws.poisson(3, 220)}
    )
    run = tiny(table, tmp_path / "run", data={"missing": "mask", "test": 70, "validation": 20}, train={"epochs": 1})
    found = named(run.evaluate("samples"))
    assert "principal components" in found["recall"].found["features"]
    assert 0 <= found["precision"].value <= 1


def test_other_data_have_no_training_rows_to_compare_with(tmp_path: Path) -> None:
    run = tiny(reals(), tmp_path / "run", train={"epochs": 1})
    with pytest.raises(ElbowroomError, match="compares with training rows, too, and these data have none"):
        run.evaluate("samples", data=reals(80, seed=1))


def test_features_are_those_of_the_training_rows_and_the_seed() -> None:
    rows = torch.randn(120, 4, generator=torch.Generator().manual_seed(0))
    labels = (rows[:, 0] > 0).long()
    one, two = (fit_features(rows, labels, seed=0) for _ in range(2))
    assert torch.equal(one.of(rows[:5]), two.of(rows[:5]))
    assert not torch.equal(one.of(rows[:5]), fit_features(rows, labels, seed=1).of(rows[:5]))
    assert bool((one.of(rows.mean(0, keepdim=True)) > 0).any())  # the bias of the hidden layer
    # distances in all components are those of the rows, up to one scale
    whole = fit_features(rows, None, seed=0).of(rows)
    assert torch.allclose(torch.pdist(whole) * rows.double().std(correction=0), torch.pdist(rows.double()))


def _study(model: LatentModel, guide: Any, data: DataSet, split: str, **settings: Any) -> Study:
    return Study(model, guide, data, split, Settings.of(settings), lambda *_: None)


@pytest.mark.parametrize(
    ("test", "split", "settings", "problem"),
    [
        (100, "train", {}, "compares with rows that the model was not trained on"),
        (100, "test", {"points": 30}, "needs 50 draws of each sample, but there are 30"),
        (40, "test", {}, "needs 50 draws of each sample, but there are 40"),
    ],
    ids=["training", "few-points", "few-rows"],
)
def test_what_cannot_be_compared(test: int, split: str, settings: dict[str, Any], problem: str) -> None:
    model, guide, x = ppca(4, 2, seed=0, num_data=300)
    with pytest.raises(ElbowroomError, match=problem):
        samples(_study(model, guide, _data(x, test), split, **settings))
