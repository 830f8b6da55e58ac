"""Simple models beside the one that is evaluated: exact values, and gains that are paired."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.evaluate import default_methods, evaluate
from elbowroom.inference.enumeration import enumerated
from elbowroom.learners.em_classes import independent_columns, latent_classes
from elbowroom.model import oracles
from elbowroom.model.exact_guide import ExactGuide
from elbowroom.model.guides import DiagonalNormal, PriorGuide
from elbowroom.model.latent import LatentModel
from elbowroom.model.networks import MLP
from elbowroom.model.priors import StandardNormal
from elbowroom.model.table.likelihood import Table
from elbowroom.model.table.transform import TableTransform

BITS = [Column(name, ColumnKind.BINARY, levels=("no", "yes")) for name in "abcd"]


class Rows:
    """Rows of two planted classes, with splits."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        own = torch.rand(260, generator=generator) < 0.5
        p = torch.where(own.unsqueeze(1), 0.9, 0.1).expand(-1, 4)
        self.x = torch.bernoulli(p, generator=generator)
        self.x[torch.rand(self.x.shape, generator=generator) < 0.1] = torch.nan
        self.splits = {"train": slice(0, 150), "validation": slice(150, 200), "test": slice(200, 260)}

    def size(self, split: str) -> int:
        return len(self.x[self.splits[split]])

    def rows(self, split: str) -> Batch:
        x = self.x[self.splits[split]]
        return Batch(x, torch.arange(len(x)), mask=~x.isnan())

    def batches(self, split: str, batch_size: int, *, points: int | None = None):  # type: ignore[no-untyped-def]
        rows = self.rows(split)
        for start in range(0, min(len(rows), points or len(rows)), batch_size):
            yield rows.rows(slice(start, min(start + batch_size, points or len(rows))))

    def protocol(self) -> dict[str, str]:
        return {"dataset": "rows", "binarization": "none"}


@pytest.fixture(scope="module")
def model() -> LatentModel:
    return latent_classes(BITS, Rows().rows("train"), None, seed=5)


def test_values_are_exact_and_gains_are_paired(model: LatentModel) -> None:
    data, kept = Rows(), dict[str, dict[str, Tensor]]()
    found = evaluate(model, ExactGuide(model), data, methods=["baselines"], keep=kept.__setitem__)  # type: ignore[arg-type]
    results = {result.name: result for result in found}
    simple = {
        "independent columns": independent_columns(BITS, data.rows("train")),
        "latent classes": latent_classes(BITS, data.rows("train"), data.rows("validation")),
    }
    own = enumerated(model, data.rows("test")).log_evidence
    for name, other in simple.items():
        log_p = enumerated(other, data.rows("test")).log_evidence
        torch.testing.assert_close(kept["baselines"][name], log_p)
        assert results[name].value == pytest.approx(float(log_p.mean()))
        gain = results[f"gain over {name}"]
        assert gain.value == pytest.approx(float((own - log_p).mean()), abs=1e-6)
        assert gain.stderr == pytest.approx(float((own - log_p).std() / len(own) ** 0.5), abs=1e-6)
        assert gain.bound is None and results[name].bound is None  # neither is a bound on the model's log p(x)
    assert results["latent classes"].found["classes"] == simple["latent classes"].space.codes
    assert results["gain over independent columns"].value > 0.3 > abs(results["gain over latent classes"].value)


@pytest.mark.parametrize("guided", [True, False])
def test_a_deep_model_is_estimated_by_draws_that_can_be_asked_for_again(guided: bool) -> None:
    torch.manual_seed(0)
    likelihood = Table(MLP((2,), Table.parameter_shape((4,), columns=BITS), hidden=(3,)), BITS)
    deep = LatentModel(StandardNormal(2), likelihood)
    encoder = MLP((TableTransform(BITS).out_shape), DiagonalNormal.parameter_shape(2), hidden=(3,))
    guide = DiagonalNormal(encoder, 2, TableTransform(BITS)) if guided else PriorGuide(deep.prior)
    given = {"points": 12, "k": 20, "starts": 2, "seed": 5}
    first = evaluate(deep, guide, Rows(), methods=["baselines"], **given)  # type: ignore[arg-type]
    gain = first[-1]
    assert set(gain.asked) == {"k", "seed"} | ({"starts"} if not guided else set())
    assert set(first[0].asked) == {"seed"}
    again = evaluate(deep, guide, Rows(), methods=["baselines"], points=12, **gain.asked)  # type: ignore[arg-type]
    assert [result.value for result in again] == [result.value for result in first]


def test_it_is_a_default_for_tables_alone(model: LatentModel) -> None:
    assert default_methods(model, has_guide=True) == ("enumerate", "baselines")
    assert "baselines" not in default_methods(oracles.ppca(dim=4, latent_dim=1, seed=0)[0], has_guide=True)


def test_what_has_no_baselines_is_refused(model: LatentModel) -> None:
    plain, guide, _ = oracles.ppca(dim=4, latent_dim=1, seed=0)
    with pytest.raises(ElbowroomError, match="table with columns of several kinds"):
        evaluate(plain, guide, Rows(), methods=["baselines"])  # type: ignore[arg-type]
    other = Rows()
    other.splits = {"test": slice(0, 10)}
    with pytest.raises(ElbowroomError, match="on the training rows, but these data have none"):
        evaluate(model, ExactGuide(model), other, methods=["baselines"])  # type: ignore[arg-type]
