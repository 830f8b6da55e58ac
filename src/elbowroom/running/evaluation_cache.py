"""Cache of an unfinished evaluation: its finished parts on disk, so that an interrupted one goes on where it stopped.

The parts of one evaluation are in a folder whose name is a digest of everything that decides their values: settings,
seed, data, and the step of the checkpoint. So a part is never used by another evaluation. When an evaluation ends, its
parts are deleted, and so are those of others that nobody continued for a day. Younger ones may still be running.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from elbowroom.running.checkpoints import full_disk_explained

__all__ = ["FileCache"]

_GIVEN_UP = 24 * 60 * 60  # seconds since the last part was written


class FileCache:
    """Parts as safetensors files, each written under a temporary name first.

    Args:
        root: the folder for the parts of all evaluations.
        identity: everything that decides the values.
    """

    def __init__(self, root: Path, identity: Mapping[str, Any]) -> None:
        text = json.dumps(identity, sort_keys=True, default=str)
        self._root = root
        self._folder = root / hashlib.sha256(text.encode()).hexdigest()[:16]

    def read(self, name: str) -> dict[str, Tensor] | None:
        """A part, if it was finished and its file is not damaged; else None."""
        path = self._path(name)
        if not path.exists():
            return None
        try:
            return load_file(path)
        except SafetensorError:
            return None

    def write(self, name: str, part: Mapping[str, Tensor]) -> None:
        """Writes a finished part."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        with full_disk_explained(path):
            save_file({key: value.contiguous() for key, value in part.items()}, unfinished)
            unfinished.replace(path)

    def forget(self) -> None:
        """Deletes the parts of this evaluation, which has ended, and those of others that were given up a day ago."""
        shutil.rmtree(self._folder, ignore_errors=True)
        if not self._root.exists():
            return
        for other in self._root.iterdir():
            if time.time() - _last_touched(other) > _GIVEN_UP:
                shutil.rmtree(other, ignore_errors=True)
        with contextlib.suppress(OSError):  # it has parts of another evaluation
            self._root.rmdir()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"


def _last_touched(folder: Path) -> float:
    """When a file in the folder was last written; now, if another evaluation has just deleted the folder."""
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except FileNotFoundError:
        return time.time()
