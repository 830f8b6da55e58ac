"""Draws from the posteriors of a run's data, by name and by file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from elbowroom.errors import ElbowroomError
from elbowroom.running.api import posterior
from elbowroom.running.runs import Run
from small_runs import reals, tiny

FEW = {"draws": 12, "chains": 3, "warmup": 10}


@pytest.fixture
def run(out: Path) -> Run:
    return tiny(reals(), out, train={"steps": 4, "batch_size": 10})


@pytest.mark.parametrize("method", ["nuts", "hmc"])
def test_draws_of_the_runs_own_data(run: Run, method: str) -> None:
    found = posterior(run, method=method, **FEW)
    assert found.z.shape == (12, 3, 8, 2)  # the test split has 8 rows
    assert found.settings["method"] == method
    assert found.summary().num_data == 8
    assert not any(module.training for module in run.pair.modules())


def test_a_folder_serves_as_well_as_a_run(run: Run) -> None:
    given, named = posterior(run, reals()[:5], **FEW), posterior(run.folder.path, reals()[:5], **FEW)
    assert given.z.shape == (12, 3, 5, 2)
    assert torch.equal(given.z, named.z)  # the same seed


def test_points_are_some_of_a_split(run: Run) -> None:
    assert run.posterior(points=3, **FEW).z.shape[2] == 3
    with pytest.raises(ElbowroomError, match="points"):
        run.posterior(points=0, **FEW)


def test_the_seed_decides(run: Run) -> None:
    assert not torch.equal(run.posterior(points=3, seed=1, **FEW).z, run.posterior(points=3, seed=2, **FEW).z)


def test_every_transition_is_announced(run: Run) -> None:
    told: list[tuple[int, int]] = []
    run.posterior(points=4, announce=lambda what, done, total, info=None: told.append((done, total)), **FEW)
    assert told[-1] == (4 * 22, 4 * 22)
    assert len(told) == 22
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_datum_with_gaps_has_a_posterior_too(run: Run, tmp_path: Path) -> None:
    """Less is known of it, so it is wider, on average over the data."""
    whole, gappy = reals().numpy(), reals().numpy().copy()
    gappy[:, :4] = np.nan
    np.save(tmp_path / "gappy.npy", gappy)  # the run was trained on whole data
    settings = {"draws": 100, "chains": 2, "warmup": 60, "method": "hmc"}
    narrow = run.posterior(whole, **settings).z.flatten(0, 1).std(0).mean()
    wide = run.posterior(tmp_path / "gappy.npy", **settings).z.flatten(0, 1).std(0).mean()
    assert wide > 1.01 * narrow


def test_draws_become_a_tree_for_arviz(run: Run) -> None:
    found = run.posterior(points=4, **FEW)
    tree = found.to_datatree()
    assert tree["posterior"]["z"].dims == ("chain", "draw", "datum", "latent")
    assert np.array_equal(tree["posterior"]["z"].values, found.z.movedim(1, 0).numpy())
    assert np.array_equal(tree["sample_stats"]["energy"].values, found.info.energy.movedim(1, 0).numpy())
    assert tree["sample_stats"]["diverging"].shape == (3, 12, 4)
    assert tree.attrs["method"] == "nuts"


def test_without_arviz_the_remedy_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "arviz_base", None)
    with pytest.raises(ElbowroomError, match=r"elbowroom\[arviz\]"):
        run.posterior(points=4, **FEW).to_datatree()
