"""What a long evaluation has finished, kept until all of it is: an interrupted one goes on where it was.

The parts of one evaluation lie in a folder whose name is a digest of all that decides their values: settings, seed,
data, and the step of the weights. So a part is never taken for one of another evaluation; those that nobody came back
to are removed with the next one that ends.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from elbowroom.running.checkpoints import full_disk_explained

__all__ = ["FileParts"]


class FileParts:
    """Parts as files of safetensors, each written under another name first.

    Args:
        root: the folder for the parts of all evaluations.
        identity: all that decides the values.
    """

    def __init__(self, root: Path, identity: Mapping[str, Any]) -> None:
        text = json.dumps(identity, sort_keys=True, default=str)
        self._root = root
        self._folder = root / hashlib.sha256(text.encode()).hexdigest()[:16]

    def read(self, name: str) -> dict[str, Tensor] | None:
        """The part, if it was finished; one that a broken disk spoiled counts as not."""
        path = self._path(name)
        if not path.exists():
            return None
        try:
            return load_file(path)
        except SafetensorError:
            return None

    def write(self, name: str, part: Mapping[str, Tensor]) -> None:
        """Keep a finished part."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        with full_disk_explained(path):
            save_file({key: value.contiguous() for key, value in part.items()}, unfinished)
            unfinished.replace(path)

    def forget(self) -> None:
        """The evaluation has ended: its parts, and those of others that were given up, are of no use."""
        shutil.rmtree(self._root, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"
