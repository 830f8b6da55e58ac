"""Runs whose p(x | z) is a mixture, or whose decoder has a linear part: built, trained, stored, shown, refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.model.composite_networks import ByComponent, WithLinear
from elbowroom.model.mixtures import Mixture
from elbowroom.running.impute import impute
from elbowroom.running.runs import Run, load
from elbowroom.showing.report.run import report_of_run
from small_runs import reals, tiny

MODEL = {
    "latent_dim": 2,
    "likelihood_components": 3,
    "encoder": {"hidden": [5]},
    "decoder": {"hidden": [5], "linear": True},
}


def levels(of: int, rows: int = 53) -> Tensor:
    return torch.randint(of, (rows, 4), generator=torch.Generator().manual_seed(0)).float()


def trained(x: Tensor, out: Path, *, model: dict[str, Any] | None = None, **settings: Any) -> Run:
    return tiny(x, out, model=MODEL | (model or {}), train={"batch_size": 10, "steps": 3}, **settings)


@pytest.mark.parametrize(
    ("x", "support", "model"),
    [
        (levels(2), "binary", {}),
        (levels(256), "bytes", {"components": 2}),
        (levels(3), "categories", {}),
        (levels(9), "counts", {}),
        (reals(dim=4), "reals", {}),
        (reals(dim=4), "reals", {"likelihood": "student-t", "scale": "per-element"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_of_every_kind(x, support, model, tmp_path) -> None:
    run = trained(x, tmp_path / "run", data={"support": support, "validation": 8, "test": 8}, model=model)
    again = load(tmp_path / "run", data=x)
    likelihood = again.model.likelihood
    assert isinstance(likelihood, Mixture) and isinstance(likelihood.network, ByComponent)
    assert isinstance(likelihood.network.network, WithLinear)
    torch.testing.assert_close(run.sample(4, seed=1).x, again.sample(4, seed=1).x)
    assert again.reconstruct(3).mean.shape == again.decode(torch.zeros(3, 2)).shape == (3, 4)
    x = x.clone()
    x[:3, 1] = torch.nan
    assert impute(again, x[:5], draws=4, chains=2, warmup=1, interval=0.4).samples.isfinite().all()


def test_training_starts_at_the_mean_of_real_data(tmp_path) -> None:
    x = reals(dim=4)
    run = trained(x, tmp_path / "run", optimizer={"lr": 1e-9}, model={"init_std": 1e-9})
    torch.testing.assert_close(run.decode(torch.zeros(1, 2))[0], run.dataset().moments()[0].float())
    assert run.model.likelihood.network.network.network.output.weight.abs().max() < 1e-7


def test_the_report_says_what_is_mixed(tmp_path) -> None:
    trained(reals(), tmp_path / "run")
    text = str(report_of_run(load(tmp_path / "run")))
    assert "a mixture of 3 components" in text
    assert "beside a linear part" in text


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"prior": "unigram"}, "codes cannot"),
        ({"groups": [2]}, "hierarchy cannot"),
        ({"masked_layers": 1}, "convolutions cannot"),
        ({"decoder": {"kind": "pyramid"}}, "pyramid cannot"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_what_cannot_be_mixed_is_refused(model, message, tmp_path) -> None:
    with pytest.raises(ElbowroomError, match=rf"{message}(.|\n)*--model\.likelihood-components 1"):
        trained(levels(2), tmp_path / "run", model=model)
