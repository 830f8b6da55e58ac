"""Comparisons of seconds: two recipes, data of six bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from elbowroom.running.compare import compare
from elbowroom.running.comparison import Comparison

RECIPE = """
[data]
name = "bits.npy"
validation = 10
test = 30
[model]
latent_dim = 2
encoder = {{ hidden = [4] }}
decoder = {{ hidden = [4] }}
[optimizer]
lr = 1e-2
[train]
batch_size = 20
{rest}
"""
_OF_ANY_LEARNER = """
[data]
name = "bits.npy"
validation = 0
test = 30
[model]
latent_dim = 2
encoder = {{ hidden = [4] }}
decoder = {{ hidden = [4] }}
[optimizer]
{optimizer}
[train]
batch_size = 20
learner = "{learner}"
"""
QUICK = ("--decoder-gradients", "4e2", "--moments", "2", "--points", "20", "--k", "5", "--starts", "1")
ASKED: dict[str, Any] = {"decoder_gradients": 400, "moments": 3, "points": 20, "k": 5, "starts": 1}


def hush(remark: str) -> None:
    pass


def write(name: str, rest: str = "") -> str:
    if "[runtime]" not in rest:
        rest += '\n[runtime]\ncompile = "off"'  # runs of these few steps are not measured for it
    Path(name).write_text(RECIPE.format(rest=rest))
    return name


def go(*recipes: str, **settings: Any) -> Comparison:
    settings = {"announce": hush, "out": "o", **ASKED, **settings}
    return compare(recipes or ("aevb.toml", "wake.toml"), **settings)


def prepare(first: str) -> None:
    """bits.npy and three recipes in the working folder: ``first``.toml, wake.toml, and wild.toml, which diverges."""
    rng = np.random.default_rng(0)
    np.save("bits.npy", (rng.random((140, 6)) < rng.random((2, 6))[rng.integers(0, 2, 140)]).astype(np.uint8))
    Path(f"{first}.toml").write_text(_OF_ANY_LEARNER.format(optimizer="lr = 1e-2", learner="aevb"))
    Path("wake.toml").write_text(_OF_ANY_LEARNER.format(optimizer="lr = 1e-2", learner="wake-sleep"))
    Path("wild.toml").write_text(_OF_ANY_LEARNER.format(optimizer='name = "sgd"\nlr = 1e30', learner="aevb"))
