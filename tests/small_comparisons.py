"""Comparisons of seconds: two recipes, data of six bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
ASKED: dict[str, Any] = {"decoder_gradients": 400, "moments": 3, "points": 20, "k": 5, "starts": 1}


def hush(remark: str) -> None:
    pass


def write(name: str, rest: str = "") -> str:
    Path(name).write_text(RECIPE.format(rest=rest))
    return name


def go(*recipes: str, **settings: Any) -> Comparison:
    settings = {"announce": hush, "out": "o", **ASKED, **settings}
    return compare(recipes or ("aevb.toml", "wake.toml"), **settings)
