"""Checkpoints: written so that a kill at any moment leaves a good one.

In a run folder::

    checkpoints/step-N/    model.safetensors      the weights to evaluate (the moving average, where there is one)
                           training.safetensors   what else the next step depends on: moments, raw weights, generator
                           state.json             numbers, and the SHA-256 of them and of the two files above
    checkpoints/latest     a text file that holds "step-N"
    checkpoints/best       likewise

A checkpoint is written to a temporary folder, flushed to disk and renamed; then the pointer is replaced. A reader
checks the digests, and uses the checkpoint before if they are wrong. Nothing is ever unpickled.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor, nn

from elbowroom.errors import ElbowroomError, check_name
from elbowroom.names import CheckpointName
from elbowroom.progress import Announce

__all__ = ["POINTERS", "Checkpoint", "Checkpoints", "full_disk_explained", "write_text_atomically"]

POINTERS: tuple[str, ...] = get_args(CheckpointName)
"""Names of the checkpoints that a run points to."""

_WEIGHTS, _TRAINING, _STATE = "model.safetensors", "training.safetensors", "state.json"


@contextmanager
def full_disk_explained(path: Path) -> Iterator[None]:
    """A context in which "no space left" of the operating system becomes an error with a remedy.

    Args:
        path: what is being written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        if not full:
            raise
        raise ElbowroomError(
            f"The disk that holds {path.parent} is full, so {path.name} could not be written.",
            "Make room, then go on with --resume; the last good checkpoint is kept.",
        ) from error


def write_text_atomically(path: Path, text: str) -> None:
    """Replaces the text of a file in one step: a reader sees the old or the new text, never a part of it."""
    temporary = path.with_name(f".{path.name}.writing")
    with full_disk_explained(path):
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on disk whose digests are right."""

    path: Path
    state: dict[str, Any]

    def load_weights(self, module: nn.Module) -> None:
        """Loads the module's parameters and buffers.

        Raises:
            ElbowroomError: the weights belong to another architecture.
        """
        tensors = load_file(self.path / _WEIGHTS)
        with safe_open(self.path / _WEIGHTS, framework="pt") as file:
            aliases = file.metadata() or {}  # shared tensors were written once, under the name given here
        tensors |= {alias: tensors[name] for alias, name in aliases.items() if name in tensors}
        try:
            module.load_state_dict(tensors)
        except RuntimeError as error:
            raise ElbowroomError(
                f"The weights in {self.path} do not fit the model that config.json describes: {error}",
                "Restore the run's own config.json, or train again.",
            ) from error

    def training(self) -> dict[str, Tensor]:
        """The tensors that further training needs in addition."""
        return load_file(self.path / _TRAINING)


class Checkpoints:
    """The folder ``checkpoints/`` of a run.

    Args:
        folder: its path; it need not exist yet.
        keep: how many of the newest resumable checkpoints to keep, in addition to the best.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    # --- writing ---

    def save(
        self,
        step: int,
        weights: nn.Module,
        state: Mapping[str, Any],
        *,
        training: Mapping[str, Tensor] | None = None,
        pointers: Sequence[str] = ("latest",),
    ) -> Path:
        """Writes ``step-N`` and sets the pointers ("latest", "best") to it.

        Args:
            step: N.
            weights: the weights to evaluate.
            state: numbers, which are read back unchanged.
            training: tensors that further training needs; None if training cannot be resumed from here.
            pointers: which pointers to set.
        Raises:
            ElbowroomError: a weight is not finite, or the disk is full; earlier checkpoints stay in both cases.
        """
        for name, tensor in weights.state_dict().items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ElbowroomError(
                    f"After step {step} the weights '{name}' are not finite, so they were not saved.",
                    "Lower --optimizer.lr, or set --optimizer.clip-norm 10; the last good checkpoint is kept.",
                )
        final = self.folder / f"step-{step}"
        self._write(final, weights, training, state)
        for pointer in pointers:
            self.point(pointer, step)
        self._prune()
        return final

    def point(self, pointer: str, step: int) -> None:
        """Sets a pointer to ``step-N``, if that exists."""
        if (self.folder / f"step-{step}").is_dir():
            write_text_atomically(self.folder / pointer, f"step-{step}")

    def _write(
        self, final: Path, weights: nn.Module, training: Mapping[str, Tensor] | None, state: Mapping[str, Any]
    ) -> None:
        temporary = _in_progress(final)
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            with full_disk_explained(final):
                temporary.mkdir(parents=True)
                save_model(weights, str(temporary / _WEIGHTS))
                if training is not None:
                    save_file(dict(training), temporary / _TRAINING)
                digests = {file.name: _sha256_and_flush(file) for file in sorted(temporary.iterdir())}
                digests[_STATE] = _sha256_of(state)
                # written last, so that a temporary folder with this file is complete: see `settle`
                write_text_atomically(temporary / _STATE, json.dumps({**state, "sha256": digests}, indent=1))
        except (ElbowroomError, OSError, SafetensorError):
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)

    def settle(self) -> None:
        """Finishes or deletes checkpoints that a kill left incomplete; only for the process that has the run's lock."""
        for temporary in self.folder.glob(".step-*.writing"):
            final = self.folder / temporary.name.removeprefix(".").removesuffix(".writing")
            if _fault(temporary) is None:
                shutil.rmtree(final, ignore_errors=True)
                temporary.rename(final)
            else:
                shutil.rmtree(temporary)

    def _prune(self) -> None:
        """Deletes all but the best and the newest resumable checkpoints.

        Those newer than the latest are from before training went back because a checkpoint was damaged.
        """
        latest, best = self._pointed("latest"), self._pointed("best")
        newest = latest if latest in self._names() else None
        resumable = [
            name
            for name in self._names()
            if (self.folder / name / _TRAINING).is_file() and (newest is None or _step(name) <= _step(newest))
        ]
        for name in set(self._names()) - {*resumable[: self.keep], latest, best}:
            shutil.rmtree(self.folder / name)

    # --- reading ---

    def exist(self, *, resumable: bool = False) -> bool:
        """Whether there is any checkpoint, good or damaged; or any from which training can be resumed."""
        return any(not resumable or (self.folder / name / _TRAINING).is_file() for name in self._names())

    def steps(self) -> dict[str, int]:
        """Steps of the best and the latest checkpoint, as far as there are any."""
        pointed = {pointer: self._pointed(pointer) for pointer in POINTERS}
        found = {pointer: name for pointer, name in pointed.items() if name is not None}
        return {pointer: _step(name) for pointer, name in found.items() if re.fullmatch(r"step-\d+", name)}

    def find(self, pointer: str, *, resumable: bool = False, announce: Announce = print) -> Checkpoint:
        """The checkpoint that ``pointer`` names; if it is damaged, the newest good one, with a remark.

        Args:
            pointer: "latest" or "best".
            resumable: only one from which training can be resumed.
            announce: called with a remark if a checkpoint was skipped.
        Raises:
            ElbowroomError: another name than these two; there is no good checkpoint.
        """
        check_name("checkpoint", pointer, POINTERS)
        first = self._pointed(pointer)
        if first is None:  # no best was ever set
            first = self._pointed("latest")
        names = sorted(self._names(), key=lambda name: name != first)  # the one asked for, then newest first
        passed_over = [] if first is None or first in names else [f"'{first}' is missing"]
        for name in names:
            path = self.folder / name
            fault = _fault(path)
            if fault is not None:
                passed_over.append(f"{name} is damaged ({fault})")
            elif not resumable or (path / _TRAINING).is_file():
                if passed_over:
                    announce(f"{'; '.join(passed_over)}: fell back to {name}, the newest good checkpoint.")
                return Checkpoint(path, json.loads((path / _STATE).read_text(encoding="utf-8")))
        damage = f": {'; '.join(passed_over)}" if passed_over else ""
        raise ElbowroomError(
            f"{self.folder.parent} has no good checkpoint{damage}.",
            "Train it first, or start again with --overwrite.",
        )

    def _names(self) -> list[str]:
        """Names of the checkpoints, newest first."""
        names = [path.name for path in self.folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
        return sorted(names, key=_step, reverse=True)

    def _pointed(self, pointer: str) -> str | None:
        path = self.folder / pointer
        # a damaged pointer names no existing checkpoint, whatever its bytes
        return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else None


def _in_progress(final: Path) -> Path:
    return final.with_name(f".{final.name}.writing")


def _step(name: str) -> int:
    return int(name.removeprefix("step-"))


def _sha256_and_flush(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_of(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _fault(path: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None if it is good."""
    try:
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        digests = dict(state.pop("sha256"))
        recorded = digests.pop(_STATE)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{_STATE}: {type(error).__name__}"
    if _sha256_of(state) != recorded:
        return f"{_STATE} has changed on disk"
    for name in sorted({_WEIGHTS, *digests}):
        if not (path / name).is_file():
            return f"{name} is missing"
        with (path / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digests.get(name):
                return f"{name} has changed on disk"
    return None
