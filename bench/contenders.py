"""Who takes part in which race: the four parts of `make bench`, and the environments that the contenders live in.

elbowroom, the loops in plain PyTorch and the roofline run on the interpreter of the parent; Pyro, pythae, NumPyro and
JAX on that of an environment of their own. What is not installed there is left out, and the report says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.machine import bf16_instructions
from bench.turns import Contender

__all__ = ["BARE", "BF16", "LAYERS", "OURS", "PARTS", "PRODUCTS", "PRODUCTS_BF16", "Part", "Rivals", "part"]

OURS, BF16 = "elbowroom", "elbowroom, bf16"
BARE = "PyTorch by hand"
PRODUCTS, PRODUCTS_BF16 = "matrix products alone, fp32", "matrix products alone, bf16"
LAYERS = {"hidden": 400, "latent_dim": 20}
PARTS = ("training", "quantiser", "importance", "ais")

_TRAINING = {"batch_size": 128, "lr": 1e-3, "seed": 0, **LAYERS}
_DISTRIBUTIONS = ("torch", "pyro-ppl", "numpyro", "jax", "pythae", "vector-quantize-pytorch")
_QUANTISER = {"batch_size": 128, "hidden": 400, "slots": 24, "codes": 16, "code_dim": 16, "lr": 1e-3, "decay": 0.98}
_VERSIONS = """
import importlib.metadata, json, sys
found = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
print(json.dumps({name: found[name] for name in sys.argv[1:] if name in found}))
"""


@dataclass(frozen=True)
class Rivals:
    """The rivals' environment.

    Attributes:
        python: its interpreter; None where there is no such environment.
        versions: of what is installed there.
    """

    python: Path | None
    versions: Mapping[str, str]

    @classmethod
    def at(cls, python: Path) -> Rivals:
        """The environment with that interpreter, asked for what it has."""
        if not python.is_file():
            return cls(None, {})
        command = [str(python), "-c", _VERSIONS, *_DISTRIBUTIONS]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return cls(python.absolute(), json.loads(told))


@dataclass
class Part:
    """A race to be run.

    Attributes:
        name: of ``PARTS``.
        unit: of work, in the plural.
        work: units of a turn.
        contenders: in the order of their turns.
        missing: those that are left out, with the reason.
    """

    name: str
    unit: str
    work: int
    contenders: list[Contender] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def part(name: str, rivals: Rivals, *, images: Path, problem: Path, rows: int, rounds: int, short: bool) -> Part:
    """One of ``PARTS``, with all contenders that this machine and the rivals' environment allow.

    Args:
        name: which.
        rivals: where Pyro, pythae, NumPyro and JAX live.
        images: .npy, uint8, shape (n, 28, 28).
        problem: .npz of :func:`bench.outside.export`, the model that is evaluated.
        rows: images to train on.
        rounds: turns that will be asked for.
        short: for a quick look at the evaluations: a part of the work of a turn.
    """
    enter = _Entry(rivals)
    if name == "training":
        shared = {"images": str(images), "epochs": rounds + 1, **_TRAINING}
        return _training(enter, shared, rows)
    if name == "quantiser":
        return _quantiser(enter, {"images": str(images), "epochs": rounds + 1, "seed": 0, **_QUANTISER}, rows)
    evaluated = {"images": str(images), "problem": str(problem), "seed": 0}
    if name == "importance":
        return _importance(enter, evaluated, data=min(100, rows), calls=1 if short else 3)
    return _ais(enter, evaluated, data=min(32, rows), temperatures=5 if short else 20)


@dataclass
class _Entry:
    """Collects contenders."""

    rivals: Rivals
    contenders: list[Contender] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def own(self, name: str, module: str, settings: Mapping[str, Any]) -> None:
        self.contenders.append(Contender(name, f"bench.{module}", Path(sys.executable), settings))

    def rival(self, name: str, module: str, settings: Mapping[str, Any], *, needs: str) -> None:
        if self.rivals.python is None:
            self.missing.append(f"{name} (there is no environment for it)")
        elif needs not in self.rivals.versions:
            self.missing.append(f"{name} ({needs} is not installed)")
        else:
            self.contenders.append(Contender(name, f"bench.rivals.{module}", self.rivals.python, settings))

    def bf16(self, name: str, module: str, settings: Mapping[str, Any]) -> None:
        if bf16_instructions() == "none found":
            self.missing.append(f"{name} (the processor has no instructions for it)")
        else:
            self.own(name, module, settings)


def _training(enter: _Entry, shared: Mapping[str, Any], rows: int) -> Part:
    products = {"task": "training", "rows": rows, "batch_size": shared["batch_size"]}
    enter.own(OURS, "training", {**shared, "compile": "on", "autocast": "none"})
    enter.bf16(BF16, "training", {**shared, "compile": "on", "autocast": "bfloat16"})
    enter.own("elbowroom, not compiled", "training", {**shared, "compile": "off", "autocast": "none"})
    enter.own(BARE, "rivals.bare", shared)
    enter.own("PyTorch around `er.objectives.elbo`", "rivals.objective", shared)
    enter.own("tutorials' item-by-item loop", "rivals.itemwise", shared)
    enter.rival("Pyro `Trace_ELBO`", "pyro_training", {**shared, "jit": False}, needs="pyro-ppl")
    enter.rival("Pyro `JitTrace_ELBO`", "pyro_training", {**shared, "jit": True}, needs="pyro-ppl")
    enter.rival("pythae `BaseTrainer`", "pythae_training", shared, needs="pythae")
    enter.rival("NumPyro, jitted epoch", "numpyro_training", shared, needs="numpyro")
    enter.own(PRODUCTS, "products", {**products, "dtype": "float32"})
    enter.bf16(PRODUCTS_BF16, "products", {**products, "dtype": "bfloat16"})
    return Part("training", "images", rows, enter.contenders, enter.missing)


def _quantiser(enter: _Entry, shared: Mapping[str, Any], rows: int) -> Part:
    enter.own(OURS, "quantiser", shared)
    enter.rival(
        "vector-quantize-pytorch, moving averages", "lucidrains_quantiser", shared, needs="vector-quantize-pytorch"
    )
    return Part("quantiser", "images", rows, enter.contenders, enter.missing)


def _importance(enter: _Entry, shared: Mapping[str, Any], *, data: int, calls: int) -> Part:
    num_samples = 1000
    work = data * num_samples * calls
    # draws at a time: elbowroom takes its default, the rivals what each finds to suit it best
    shared = {**shared, "data": data, "num_samples": num_samples, "draws": [2, 5, 10, 25, 50], "calls": calls}
    enter.own(OURS, "importance", shared)
    enter.own(BARE, "rivals.torch_importance", shared)
    enter.rival("Pyro `RenyiELBO`, vectorised", "pyro_importance", shared, needs="pyro-ppl")
    enter.rival("JAX, jitted and vmapped", "jax_importance", shared, needs="jax")
    enter.own(PRODUCTS, "products", {"task": "importance", "count": work, "dtype": "float32"})
    return Part("importance", "decodes", work, enter.contenders, enter.missing)


def _ais(enter: _Entry, shared: Mapping[str, Any], *, data: int, temperatures: int) -> Part:
    chains, leapfrogs = 16, 10
    walk = {"temperatures": temperatures, "chains": chains, "leapfrogs": leapfrogs, "step_size": 0.2, "jitter": 0.2}
    work = data * chains * (temperatures - 1) * leapfrogs
    shared = {**shared, "data": data, **walk}
    enter.own(OURS, "annealing", {**shared, "precision": "full"})
    enter.bf16(BF16, "annealing", {**shared, "precision": "bf16"})
    enter.own(BARE, "rivals.torch_ais", shared)
    enter.rival("JAX, jitted and vmapped", "jax_ais", shared, needs="jax")
    enter.own(PRODUCTS, "products", {"task": "ais", "count": work, "dtype": "float32"})
    return Part("ais", "leapfrogs", work, enter.contenders, enter.missing)
