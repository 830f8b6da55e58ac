"""Small runs: a few rows, a few weights, a few steps, each a fraction of a second."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from elbowroom.running.observers import Silent
from elbowroom.running.runs import Run
from elbowroom.running.train import train

TINY: dict[str, Any] = {
    "data": {"validation": 8, "test": 8},
    "model": {"latent_dim": 2, "encoder": {"hidden": [5]}, "decoder": {"hidden": [5]}},
    "train": {"batch_size": 10, "checkpoint_seconds": 0.0},
    "runtime": {"device": "cpu"},
}


class Quits(Silent):
    """Ctrl-C during some step: politely, as a signal that the loop defers, or as an exception from nowhere."""

    def __init__(self, at: int, how: Callable[[], None]) -> None:
        self.at, self.how, self.made = at, how, 0

    def step(self) -> None:
        self.made += 1
        if self.made == self.at:
            self.how()


class Clock:
    """The time of a module that looks at ``time``: whoever looks at it finds it 5 ms later than the last time."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 0.005
        return self.now


def grey(rows: int = 53, dim: int = 6, seed: int = 0) -> Tensor:
    """Numbers between 0 and 1."""
    return torch.rand(rows, dim, generator=torch.Generator().manual_seed(seed))


def reals(rows: int = 53, dim: int = 6, seed: int = 0) -> Tensor:
    """Correlated normal numbers, each column with a mean and a unit of its own."""
    generator = torch.Generator().manual_seed(seed)
    z, w = torch.randn(rows, 2, generator=generator), torch.randn(2, dim, generator=generator)
    noise = 0.5 * torch.randn(rows, dim, generator=generator)
    return (z @ w + noise) * torch.logspace(-1, 1, dim) + torch.arange(dim)


def tiny(x: Any, out: Path, *, observers: Sequence[Any] = (), **settings: Any) -> Run:
    """``train`` with small defaults that ``settings`` lie over; silent."""
    keys: dict[str, Any] = {section: dict(values) for section, values in TINY.items()}
    for section in TINY | {"objective": {}, "optimizer": {}}:
        keys[section] = {**keys.get(section, {}), **settings.pop(section, {})}
    return train(
        x, out=out, observers=[*observers, Silent()], announce=settings.pop("announce", _hush), **keys, **settings
    )


def _hush(remark: str) -> None:
    pass


def everything(folder: Path) -> dict[str, Any]:
    """What a run leaves that must not depend on how often it was stopped: every figure and every number."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found: dict[str, Any] = {"metrics": [{k: v for k, v in line.items() if k != "seconds"} for line in lines]}
    for pointer in ("latest", "best"):
        file = folder / "checkpoints" / pointer
        if not file.is_file():
            continue
        checkpoint = folder / "checkpoints" / file.read_text()
        found[pointer] = file.read_text()
        state = json.loads((checkpoint / "state.json").read_text())
        state.pop("sha256")
        state.get("books", {}).pop("seconds", None)
        found[f"{pointer} state"] = state if pointer == "latest" else state["step"]
        parts = ("model", "training") if pointer == "latest" else ("model",)
        for part in parts:
            tensors = load_file(checkpoint / f"{part}.safetensors")
            found[f"{pointer} {part}"] = {name: value.tolist() for name, value in sorted(tensors.items())}
    return found
