"""Held-out log p per row of small real tables: independent columns, latent classes, the recipe table, and beside them
scikit-learn's mixture of Gaussians where all columns have densities.

python -m bench.tables [penguins anes wine cancer fair randhie] [--seeds 3] [--simple]

70% of the rows train, 10% validate and 20% test, anew for each seed. Nats per row; a density is taken per standard
deviation of its column in the training rows, so that units mean nothing. With ``--simple`` no run is trained.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import elbowroom as er
from elbowroom.data.batch import Batch
from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.inference.enumeration import enumerated
from elbowroom.learners.em_classes import independent_columns, latent_classes

__all__ = ["TABLES", "in_deviations", "main", "measure"]

TABLES = ("penguins", "anes", "wine", "cancer", "fair", "randhie")
_LARGEST = 5000  # rows
_SHARES = (0.1, 0.2)  # validation and test


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tables", nargs="*", default=list(TABLES), choices=TABLES, metavar="TABLE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--simple", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in options.tables:
        found: dict[str, list[Tensor]] = {}
        classes: list[int] = []
        for seed in range(options.seeds):
            values, number = measure(name, seed, simple=options.simple)
            classes.append(number)
            for model, each in values.items():
                found.setdefault(model, []).append(each)
        print(f"{name}: {sum(map(len, found['independent columns'])):,} test rows of {options.seeds} seeds", flush=True)
        rival = torch.cat(found["latent classes"])
        for model, parts in found.items():
            each = torch.cat(parts)
            gain = each - rival
            beside = f", with {' '.join(map(str, classes))} classes"
            if model != "latent classes":
                beside = f", ahead of latent classes by {gain.mean():+.3f} ± {gain.std() / len(gain) ** 0.5:.3f}"
            print(f"  {model:20} {each.mean():9.3f}{beside}", flush=True)


def measure(name: str, seed: int, *, simple: bool) -> tuple[dict[str, Tensor], int]:
    """log p of the test rows by each model, and how many classes there are."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.csv"
        rows = _write(name, path)
        validation, test = (round(share * rows) for share in _SHARES)
        data: dict[str, Any] = {
            "validation": validation, "test": test, "seed": seed, "missing": "mask", "columns": "auto"
        }  # fmt: skip
        loaded = load_data(str(path), announce=lambda remark: None, **data | {"columns": ["auto"]})
        assert isinstance(loaded, DataSet)
        loaded, columns = loaded.to(dtype=torch.float32), loaded.kinds
        assert columns is not None
        batches = {split: next(iter(loaded.batches(split, rows))) for split in ("train", "validation", "test")}
        mixture = latent_classes(columns, batches["train"], batches["validation"], seed=seed)
        found = {
            "independent columns": enumerated(
                independent_columns(columns, batches["train"]), batches["test"]
            ).log_evidence,
            "latent classes": enumerated(mixture, batches["test"]).log_evidence,
        }
        if (gaussians := _gaussians(columns, batches)) is not None:
            found["mixture of Gaussians"] = gaussians
        if not simple:
            run = er.train(
                str(path), config="table", out=Path(folder) / "run", data=data, train={"seed": seed},
                observers=[], announce=lambda remark: None,
            )  # fmt: skip
            scores = run.score(method="iwae", k=1000)
            order = torch.argsort(scores.rows)
            assert torch.equal(scores.rows[order], batches["test"].index.sort().values)  # type: ignore[union-attr]
            back = torch.argsort(batches["test"].index)  # type: ignore[arg-type]
            own = torch.empty_like(scores.log_evidence)
            own[back] = scores.log_evidence[order]
            found["recipe table"] = own
        shift = in_deviations(columns, batches["train"].x, batches["test"].x)
        return {model: each + shift for model, each in found.items()}, mixture.space.codes


def in_deviations(columns: Sequence[Column], train: Tensor, x: Tensor) -> Tensor:
    """What brings log p of rows to densities per standard deviation of their columns, shape (n,)."""
    total = torch.zeros(len(x), dtype=torch.float64)
    for place, column in enumerate(columns):
        if column.is_probability or column.kind is ColumnKind.COUNT:
            continue
        own, values = train[:, place].double(), x[:, place].double()
        is_density = ~values.isnan()
        if column.atom is not None:
            own, is_density = own[own != column.atom], is_density & (values != column.atom)
        total += torch.where(is_density, own[~own.isnan()].std().log(), 0.0)
    return total


def _gaussians(columns: Sequence[Column], batches: dict[str, Batch]) -> Tensor | None:
    """log p of the test rows by a mixture of Gaussians with full covariances, on logarithms of positive columns; the
    number of components and what is added to their variances by validation. None where not all columns are numbers
    with densities, or some are missing.
    """
    from sklearn.mixture import GaussianMixture

    dense = (ColumnKind.REAL, ColumnKind.POSITIVE)
    if any(column.kind not in dense or column.cells or column.atom is not None for column in columns):
        return None
    if any(bool(batch.x.isnan().any()) for batch in batches.values()):
        return None
    is_log = torch.tensor([column.kind is ColumnKind.POSITIVE for column in columns])
    axes = {
        split: torch.where(is_log, batch.x.clamp(min=1e-30).log(), batch.x).double() for split, batch in batches.items()
    }
    mean, scale = axes["train"].mean(0), axes["train"].std(0)
    slope = (-scale.log() - torch.where(is_log, axes["test"], 0.0)).sum(1)
    y = {split: ((each - mean) / scale).numpy() for split, each in axes.items()}
    fits = (
        GaussianMixture(number, reg_covar=added, n_init=2, random_state=0).fit(y["train"])
        for number in range(1, 7)
        for added in (1e-4, 1e-2, 0.05, 0.15)
    )
    best = max(fits, key=lambda fit: float(fit.score(y["validation"])))
    return torch.from_numpy(np.asarray(best.score_samples(y["test"]))) + slope


def _write(name: str, path: Path) -> int:
    """Writes a table as a file of text; returns how many rows it has."""
    if name == "penguins":
        from palmerpenguins import load_penguins

        frame = load_penguins()
    elif name in ("wine", "cancer"):
        from sklearn.datasets import load_breast_cancer, load_wine

        load = load_wine if name == "wine" else load_breast_cancer
        frame = load(as_frame=True).frame.drop(columns="target")
    else:
        import statsmodels.api as models

        known = {"anes": "anes96"}.get(name, name)
        frame = getattr(models.datasets, known).load_pandas().data
        if name == "anes":
            frame = frame.drop(columns="logpopul")  # which follows from popul
        if len(frame) > _LARGEST:
            frame = frame.sample(_LARGEST, random_state=0)
    frame.to_csv(path, index=False)
    return len(frame)


if __name__ == "__main__":
    main()
