"""Beside recipes for a table stand simple models of it, on the same examples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from elbowroom.evaluation.baselines import simple_log_p, simple_models
from elbowroom.numerics import mean_and_stderr
from elbowroom.running.compare import compare
from elbowroom.running.comparison import Comparison
from elbowroom.running.runs import load
from elbowroom.showing.report.comparison import report_of_comparison
from elbowroom.showing.standings import standings
from small_comparisons import hush

pytest.importorskip("polars")

RECIPE = """
[data]
name = "animals.csv"
validation = 20
test = 30
[model]
latent_dim = 1
encoder = { hidden = [3] }
decoder = { hidden = [3] }
"""


def test_simple_models_stand_below_the_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    kind = torch.rand(120, generator=generator) < 0.5
    mass = torch.where(kind, 9.0, 2.0) + torch.randn(120, generator=generator)
    rows = [f"{m:.3f},{'cat' if k else 'mouse'}" for m, k in zip(mass.tolist(), kind.tolist(), strict=True)]
    Path("animals.csv").write_text("\n".join(["mass,animal", *rows]) + "\n")
    Path("small.toml").write_text(RECIPE)
    found = compare("small.toml", visits=140, moments=1, points=20, k=5, starts=1, out="o", announce=hush)
    read = Comparison.read(found.folder)
    assert [one.recipe for one in read.baselines()] == ["latent classes", "independent columns"]

    run = load(found.folder / "small", checkpoint="latest", announce=hush)
    data = run.dataset()
    models = simple_models(run.model.likelihood.columns, data)  # type: ignore[arg-type]
    batch = next(iter(data.batches("test", 100, points=20)))
    own = read.values[read.key("small", "test", 140.0)]
    for one in read.baselines():
        log_p = simple_log_p(models, batch)[one.recipe]
        assert one.value == pytest.approx(float(log_p.mean()))
        assert (one.difference, one.difference_stderr) == pytest.approx(mean_and_stderr(log_p - own))
    shown = standings(read, "test")
    assert [row["recipe"] for row in shown] == ["small", "latent classes", "independent columns"]
    assert shown[0]["from best"] == "best" and "+" in shown[1]["from best"]
    assert "latent classes" in repr(report_of_comparison(read))
