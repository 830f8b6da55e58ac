"""Rivals with an environment of their own: one problem handed over in a file, one subprocess at a time.

A rival is a script under `bench/rivals` that knows nothing of elbowroom: it reads a decoder's weights and binary data
from an .npz file, does what it is asked to, times it itself, and writes what it found to another.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from elbowroom.data.batch import Batch
from elbowroom.model.conditional import Conditional
from elbowroom.model.latent import LatentModel
from elbowroom.model.networks import MLP

__all__ = ["Rivals", "export"]

Arrays = Mapping[str, npt.NDArray[np.float32]]


@torch.no_grad()
def export(model: LatentModel, guide: Conditional, batch: Batch) -> Arrays:
    """What a rival needs: the decoder relu(z W1 + b1) W2 + b2, the data, and q(z | x) to start from.

    Raises:
        SystemExit: a decoder that is no perceptron of one hidden layer of ReLU: the rivals know no other.
    """
    network = model.likelihood.network
    hidden = list(network.hidden_layers) if isinstance(network, MLP) else []
    if [type(part) for part in hidden] != [nn.Linear, nn.ReLU] or model.likelihood.name != "bernoulli":
        raise SystemExit("The rivals' posterior is that of a Bernoulli decoder with one hidden layer of ReLU.")
    assert isinstance(network, MLP)
    q = guide(batch.x, batch.context)
    (w1, b1), (w2, b2) = ([p.detach() for p in layer.parameters()] for layer in (hidden[0], network.output))
    arrays = {"w1": w1.T, "b1": b1, "w2": w2.T, "b2": b2, "x": batch.x.flatten(1), "mean": q.mean, "stddev": q.stddev}
    return {name: array.float().contiguous().numpy() for name, array in arrays.items()}


class Rivals:
    """Runs the rivals' scripts.

    Args:
        python: the interpreter of their environment.
        folder: for the files that are passed.
        threads: that each may use.
    """

    def __init__(self, python: Path, folder: Path, arrays: Arrays, *, threads: int) -> None:
        self._python, self._folder, self._threads = python, folder, threads
        np.savez(folder / "problem.npz", **dict[str, Any](arrays))

    def run(self, script: str, **settings: int | str) -> dict[str, npt.NDArray[np.float64]]:
        """What the script wrote: arrays by name.

        Raises:
            subprocess.CalledProcessError: it failed; what it said is on the terminal.
        """
        found = self._folder / "found.npz"
        found.unlink(missing_ok=True)
        path = Path(__file__).parent / "rivals" / f"{script}.py"
        task = json.dumps({**settings, "threads": self._threads})
        # the parent's choice of threads for OpenMP is not the rival's
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        command = [str(self._python), str(path), str(self._folder / "problem.npz"), str(found), task]
        subprocess.run(command, check=True, env={**environment, "JAX_PLATFORMS": "cpu"})
        with np.load(found) as arrays:
            return dict(arrays)
