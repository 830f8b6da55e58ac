"""The run folder: configuration, metrics, checkpoints and results, safe against kills and concurrent writers.

Its files::

    runs/NAME/
      config.json          everything needed to repeat the run
      splits.safetensors   which rows are for training, validation and test
      metrics.jsonl        one line per report
      checkpoints/         see running.checkpoints
      chains/              Markov chains of Monte Carlo EM, if they are kept on disk
      evaluation.json      results of evaluate
      evaluation/          METHOD-SPLIT.csv, values of every example; METHOD-SPLIT-latest.csv, those of the latest
                           weights where others are the best; unfinished while a long evaluation runs
      data/                data from Python, if the run keeps them: see running.kept_data
      doctor.json          findings of the doctor, with the step of the checkpoint; doctor-latest.json, those on the
                           latest weights where others are the best
      figures/             NAME.png; NAME-latest.png in the same way
"""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.legacy import modernised
from elbowroom.names import CODE_PRIORS
from elbowroom.progress import Announce
from elbowroom.running.checkpoints import Checkpoints, full_disk_explained, write_text_atomically
from elbowroom.running.locks import LOCKS, lock_results, lock_training

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["RunFolder", "free_path", "runs_in"]

_WHOLE = ("row", "observed", "num_modes", "converged")  # columns of whole numbers

_NO_CONTENT = {
    *LOCKS,
    ".splits.writing",
    "splits.safetensors",
    ".config.json.writing",
}  # all that a run leaves that was killed at its start


class RunFolder:
    """Reads and writes the files of one run; independent of models."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = Checkpoints(self.path / "checkpoints")
        self.figures = self.path / "figures"

    # --- making and opening ---

    @classmethod
    def create(cls, path: str | Path, *, overwrite: bool = False) -> RunFolder:
        """Makes a new, empty run folder. Files of a run that failed before its first report are deleted.

        Raises:
            ElbowroomError: the folder has files already, or cannot be made.
        """
        folder = cls(path)
        if folder.path.exists() and not folder.path.is_dir():
            raise ElbowroomError(f"{folder.path} is a file, not a run folder.", "Give another name with --out.")
        if not folder.is_vacant():
            if not (folder.path / "config.json").is_file():
                raise ElbowroomError(
                    f"{folder.path} has files but no config.json: it is not a run folder, so it is not overwritten.",
                    f"Give another name, such as --out {shlex.quote(str(free_path(folder.path)))}.",
                )
            if not overwrite:
                raise ElbowroomError(
                    f"The run folder {folder.path} exists already.",
                    f"Go on with it (--resume), give another name (--out {shlex.quote(str(free_path(folder.path)))}), "
                    "or replace it (--overwrite).",
                )
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ElbowroomError(
                f"The run folder {folder.path} cannot be made: {error.strerror}.",
                "Give a path that can be written to, with --out.",
            ) from error
        if any(entry.name not in LOCKS for entry in folder.path.iterdir()):
            with folder.lock(), folder.lock_results():
                for entry in folder.path.iterdir():
                    if entry.name not in LOCKS:
                        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        return folder

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Opens an existing run folder.

        Raises:
            ElbowroomError: there is none at that path.
        """
        folder = cls(path)
        if not (folder.path / "config.json").is_file():
            raise ElbowroomError(
                f"There is no run at {folder.path} (no config.json).", "`elbowroom runs list` shows the existing runs."
            )
        return folder

    def is_vacant(self) -> bool:
        """Whether a new run can be made here: nothing is there, or what a run left that failed before its first report.

        Example:
            >>> RunFolder("runs/of-another-world").is_vacant()
            True
        """
        if not self.path.exists():
            return True
        if not self.path.is_dir():
            return False
        return self._is_unstarted() or all(entry.name in _NO_CONTENT for entry in self.path.iterdir())

    def _is_unstarted(self) -> bool:
        return (self.path / "config.json").is_file() and not self.checkpoints.exist() and not self.metrics()

    def lock(self) -> AbstractContextManager[None]:
        """Locks the folder against other processes that train in it.

        Raises:
            ElbowroomError: a running process has the lock.
        """
        return lock_training(self.path)

    def lock_results(self, announce: Announce = print) -> AbstractContextManager[None]:
        """Locks the results; waits for others that write there, and says so after a second."""
        return lock_results(self.path, announce)

    def summary(self) -> dict[str, Any]:
        """A line of ``elbowroom runs list``: what was trained, for how long, and the latest validation value."""
        content, rows = self.read_config(), self.metrics()
        last = {row["split"]: row for row in rows}
        shown = last.get("validation", last.get("train", {}))
        return {
            "run": str(self.path),
            "data": content["data"]["dataset"],
            "learner": content["config"].get("train", {}).get("learner", "aevb"),
            "latents": _latents(content["config"]["model"]),
            "step": rows[-1]["step"] if rows else 0,
            "seconds": rows[-1]["seconds"] if rows else 0.0,
            "elbo": shown.get("elbo"),
            "on": shown.get("split"),
        }

    # --- configuration ---

    def write_config(self, content: Mapping[str, Any]) -> None:
        """Writes config.json."""
        write_text_atomically(self.path / "config.json", json.dumps(content, indent=2) + "\n")

    def read_config(self) -> dict[str, Any]:
        """Reads config.json.

        Raises:
            ElbowroomError: it is damaged.
        """
        try:
            content = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise ElbowroomError(
                f"{self.path / 'config.json'} is not valid JSON: {error}.",
                "Restore it, or train again with --overwrite.",
            ) from error
        wanted = ("config", "facts", "data")
        lacking = [name for name in wanted if not isinstance(content, dict) or name not in content]
        if lacking:
            raise ElbowroomError(
                f"{self.path / 'config.json'} lacks {', '.join(lacking)}, so it does not describe a run.",
                "Restore it, or train again with --overwrite.",
            )
        return dict(content)

    # --- splits ---

    def write_splits(self, splits: Mapping[str, Tensor]) -> None:
        """Writes the rows of each split: positions in the data set, int64."""
        from safetensors.torch import save_file  # torch is slow to import, and most commands do not need it here

        temporary = self.path / ".splits.writing"
        save_file({name: rows.cpu().contiguous() for name, rows in splits.items()}, temporary)
        temporary.replace(self.path / "splits.safetensors")

    def read_splits(self) -> dict[str, Tensor]:
        """Reads the splits that the run was trained with.

        Raises:
            ElbowroomError: the file is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.path / "splits.safetensors"
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise ElbowroomError(
                f"{path} cannot be read ({error}), so it is not known which examples were for training.",
                "Restore it, or train again with --overwrite.",
            ) from error

    # --- metrics ---

    def append_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends lines to metrics.jsonl and flushes them to disk."""
        path = self.path / "metrics.jsonl"
        with full_disk_explained(path), path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())

    def metrics(self) -> list[dict[str, Any]]:
        """All complete lines of metrics.jsonl; an incomplete last line, left by a kill, is ignored."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return []
        lines = path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1] if line]

    def rewind_metrics(self, step: int) -> None:
        """Deletes the lines after ``step``, for training that is resumed there."""
        rows = [row for row in self.metrics() if row["step"] <= step]
        write_text_atomically(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    # --- results ---

    def evaluations(self) -> list[dict[str, Any]]:
        """Reads the results in evaluation.json; those of older versions are converted to today's form.

        Raises:
            ElbowroomError: it is damaged.
        """
        path = self.path / "evaluation.json"
        if not path.is_file():
            return []
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))["results"]
            return [modernised(row) for row in rows]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ElbowroomError(
                f"{path} is not valid JSON of results ({type(error).__name__}: {error}).",
                "Restore it, or delete it and evaluate again.",
            ) from error

    def write_values(
        self, name: str, values: Mapping[str, Tensor], rows: Mapping[str, Sequence[Any]] | None = None
    ) -> None:
        """Writes the values of every example to evaluation/NAME.csv, behind the columns that say which rows these are.

        Args:
            name: of the file.
            values: of every example, by column, each of shape (n,).
            rows: row and identifiers (:meth:`~elbowroom.data.dataset.DataSet.row_columns`); none of simulated data.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        columns: dict[str, Sequence[Any]] = dict(rows or {})
        columns |= {key: v.long().tolist() if key in _WHOLE else v.tolist() for key, v in values.items()}
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        path = self.path / "evaluation" / f"{name}.csv"
        path.parent.mkdir(exist_ok=True)
        write_text_atomically(path, text.getvalue())

    def add_evaluations(self, results: Iterable[Mapping[str, Any]]) -> Path:
        """Adds results to evaluation.json; the caller holds the lock of the results.

        One with the same method, name, data and settings is replaced, unless it is of the other of the two checkpoints,
        best and latest.
        """

        def key(result: Mapping[str, Any]) -> str:
            where = [result["protocol"].get("dataset"), result["split"], result["points"]]
            return json.dumps([result["method"], result["name"], where, result["asked"]], sort_keys=True)

        new = {key(result): dict(result) for result in results}
        present = set(self.checkpoints.steps().values())
        kept: dict[tuple[str, int | None], dict[str, Any]] = {}
        for result in self.evaluations():
            name, step = key(result), result.get("step")
            if name in new and (step == new[name].get("step") or step not in present):
                result = new[name]  # in the old one's place
            kept[name, result.get("step")] = result
        kept |= {(name, result.get("step")): result for name, result in new.items()}
        path = self.path / "evaluation.json"
        write_text_atomically(path, json.dumps({"results": list(kept.values())}, indent=2) + "\n")
        return path


def _latents(model: Mapping[str, Any]) -> int | str:
    """The number of latent dimensions, of each group of a hierarchy, or slots and codes; of a run's configuration as it
    was written.
    """
    if model.get("prior") in CODE_PRIORS:
        return f"{model['slots']} slots × {model['codes']} codes"
    latent_dim: int = model["latent_dim"]
    if groups := model.get("groups"):
        places = " per place" if model["decoder"]["kind"] == "grid" else ""
        return f"{latent_dim} + {' + '.join(map(str, groups))}{places}"
    return latent_dim


def free_path(path: Path) -> Path:
    """The path with the first number behind its name, from 2 on, that does not exist."""
    number = 2
    while path.with_name(f"{path.name}-{number}").exists():
        number += 1
    return path.with_name(f"{path.name}-{number}")


def runs_in(folder: str | Path) -> list[RunFolder]:
    """The runs in a folder, by name."""
    return [RunFolder(path.parent) for path in sorted(Path(folder).glob("*/config.json"))]
