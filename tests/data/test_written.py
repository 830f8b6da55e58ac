"""Written values are read again as the same values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elbowroom.data.written import evaluated_arrays
from elbowroom.running.runs import Run, load
from small_runs import tiny

FEW = {"steps": 3, "batch_size": 10}
_R = torch.Generator().manual_seed(0)
BYTES = torch.randint(0, 256, (40, 3, 2), dtype=torch.uint8, generator=_R)
GREY = torch.rand(40, 6, generator=_R)
HOLES = torch.where(torch.rand(40, 6, generator=_R) < 0.3, torch.nan, 100 * GREY)

KINDS: dict[str, dict[str, Any]] = {
    "bits of bytes": {"x": BYTES, "data": {"binarization": "dynamic"}},
    "fixed bits": {"x": GREY, "data": {"binarization": "static"}},
    "threshold": {"x": BYTES, "data": {"binarization": "threshold"}},
    "bytes": {"x": BYTES, "model": {"likelihood": "continuous-bernoulli", "latent_dim": 2}},
    "counts": {"x": torch.poisson(3 * GREY, generator=_R).long(), "data": {"support": "counts"}},
    "categories": {"x": (4 * GREY).long(), "data": {"support": "categories"}},
    "reals": {"x": 100 * GREY},
    "holes": {"x": HOLES, "data": {"missing": "mask"}},
    "covariates": {"x": 100 * GREY, "context": GREY[:, :2] - 0.5},
    "classes": {"x": 100 * GREY, "labels": torch.arange(40) % 3, "data": {"context": "labels"}},
}


def given_beside(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in ("context", "labels") if name in given}


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_evaluated_can_be_read_again(kind: str, out: Path, tmp_path: Path) -> None:
    given = dict(KINDS[kind])
    x = given.pop("x")
    data = {"validation": 5, "test": 12, **given.pop("data", {})}
    run: Run = tiny(x, out, data=data, train=FEW, **given)
    rows = run.dataset().splits["test"]
    arrays = evaluated_arrays(run.dataset(), rows)
    np.savez(tmp_path / "again.npz", **{name: value.numpy() for name, value in arrays.items()})
    own = next(iter(run.dataset().batches("test", 12)))
    found = run.read(tmp_path / "again.npz").take("train", torch.arange(12))
    for name in ("x", "mask", "context"):
        before, after = getattr(own, name), getattr(found, name)
        assert (before is None and after is None) or torch.equal(before, after), name
    if arrays["x"].is_floating_point():
        assert torch.equal(arrays["x"].to(own.x.dtype), own.x)
    assert torch.equal(arrays["row"], rows)
    assert not bool(arrays["x"].isnan().any())
    said: list[str] = []
    load(run.folder.path, data=x, announce=said.append, **given_beside(given)).read(tmp_path / "again.npz")
    assert said == []
    again = run.score(tmp_path / "again.npz", k=30)
    assert torch.equal(again.log_evidence, run.score(k=30).log_evidence)
