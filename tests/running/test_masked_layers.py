"""Runs whose pixels depend on those before them: built, trained, stored, shown, refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.model.draws import conditionals, mean
from elbowroom.model.pixels.autoregressive import AutoregressivePixels
from elbowroom.model.pixels.masked_convolutions import MaskedPixels
from elbowroom.running.runs import Run, load
from elbowroom.showing.report.run import report_of_run
from small_runs import tiny

MASKED = {"masked_layers": 2, "masked_width": 3, "masked_kernel": 3, "masked_features": 2}


def pictures(*shape: int, levels: int = 2, rows: int = 53) -> Tensor:
    return torch.randint(levels, (rows, *shape), generator=torch.Generator().manual_seed(0)).float()


def trained(x: Tensor, out: Path, *, model: dict[str, Any] | None = None, **settings: Any) -> Run:
    sizes = {"latent_dim": 2, "encoder": {"hidden": [5]}, "decoder": {"hidden": [5]}}
    return tiny(x, out, model=sizes | MASKED | (model or {}), train={"batch_size": 10, "steps": 3}, **settings)


def network_of(run: Run) -> MaskedPixels:
    network = run.model.likelihood.base.network
    assert isinstance(network, MaskedPixels)
    return network


@pytest.mark.parametrize(
    ("x", "support", "model"),
    [
        (pictures(5, 4), "binary", {}),
        (pictures(3, 4, 4), "binary", {}),
        (pictures(4, 4, levels=1000) / 1000, "unit-interval", {}),
        (pictures(4, 4, levels=256), "bytes", {"components": 2}),
        (pictures(4, 4, levels=3), "categories", {}),
        (7 + 0.01 * torch.randn(53, 4, 4, generator=torch.Generator().manual_seed(1)), "reals", {}),
        (pictures(4, 4, levels=9), "counts", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_of_pictures_of_every_kind(x, support, model, tmp_path) -> None:
    run = trained(x, tmp_path / "run", data={"support": support, "validation": 8, "test": 8}, model=model)
    again = load(tmp_path / "run", data=x)
    assert isinstance(again.model.likelihood, AutoregressivePixels)
    assert again.model.likelihood.receptive_field == 9
    drawn, once_more = run.sample(4, seed=1), again.sample(4, seed=1)
    torch.testing.assert_close(drawn.x, once_more.x)
    assert drawn.x.shape == drawn.mean.shape == (4, *x.shape[1:])
    found = again.reconstruct(3)
    assert found.sample.shape == found.mean.shape == (3, *x.shape[1:])
    assert again.decode(torch.zeros(2, 2)).shape == (2, *x.shape[1:])
    assert torch.equal(again.decode(torch.zeros(2, 2)), run.decode(torch.zeros(2, 2)))


def test_masked_layers_are_as_asked_for(tmp_path) -> None:
    network = network_of(trained(pictures(4, 4), tmp_path / "run"))
    assert len(network.convolutions) == 2
    assert network.convolutions[1].weight.shape == (3, 3, 2, 3)
    assert network.in_shape == (2, 4, 4)


def test_real_pictures_reach_the_convolutions_in_their_unit(tmp_path) -> None:
    x = 7 + 0.01 * torch.randn(53, 4, 4, generator=torch.Generator().manual_seed(1))
    run = trained(x, tmp_path / "run")
    network, base = network_of(run), run.model.likelihood.base
    torch.testing.assert_close(network.transform.shift, base.shift)
    torch.testing.assert_close(network.transform.scale, base.unit)
    assert base.unit.max() < 0.1
    torch.testing.assert_close(run.filler, base.shift)


def test_training_starts_at_the_mean_of_the_data(tmp_path) -> None:
    x = (
        torch.rand(400, 4, 4, generator=torch.Generator().manual_seed(0)) < torch.linspace(0.1, 0.9, 16).reshape(4, 4)
    ).float()
    run = trained(x, tmp_path / "run", optimizer={"lr": 1e-9})
    z = torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        drawn = x[:1].expand(500, 4, 4)
        found = mean(conditionals(run.model.likelihood(z), drawn)).mean(0)
    assert (found - x.mean(0)).abs().max() < 0.35
    assert torch.corrcoef(torch.stack([found.flatten(), x.mean(0).flatten()]))[0, 1] > 0.9


def test_lower_precision_is_asked_of_the_convolutions_too(tmp_path) -> None:
    run = trained(pictures(4, 4), tmp_path / "run", runtime={"device": "cpu", "autocast": "bfloat16"})
    assert run.sample(2).x.dtype == torch.float32


def test_the_report_says_what_a_pixel_sees(tmp_path) -> None:
    trained(pictures(4, 4), tmp_path / "run")
    text = str(report_of_run(load(tmp_path / "run")))
    assert "within 9 × 9 around it: 2 masked convolutions of 3 channels" in text
    assert "bernoulli likelihood of each pixel given those before it" in text


@pytest.mark.parametrize(
    ("x", "settings", "message"),
    [
        (pictures(6), {}, r"shape \(6,\)(.|\n)*--model\.masked-layers 0"),
        (pictures(4, 4), {"model": {"masked_kernel": 4}}, "side 4"),
    ],
    ids=["vectors", "even kernel"],
)
def test_what_cannot_be_built_is_refused(x, settings, message, tmp_path) -> None:
    with pytest.raises(ElbowroomError, match=message):
        trained(x, tmp_path / "run", **settings)


def test_holes_are_refused_before_training(tmp_path) -> None:
    x = pictures(4, 4)
    x[20, 1, 1] = torch.nan
    with pytest.raises(ElbowroomError, match=r"elements are missing(.|\n)*--model\.masked-layers 0"):
        trained(x, tmp_path / "run", data={"missing": "mask", "validation": 8, "test": 8})


def test_holes_in_other_data_are_not_said_to_be_left_out(tmp_path) -> None:
    run, x = trained(pictures(4, 4), tmp_path / "run"), pictures(4, 4)
    x[20, 1, 1] = torch.nan
    with pytest.raises(ElbowroomError, match="take those rows out: each pixel") as caught:
        run.score(x)
    assert "impute" not in str(caught.value)
