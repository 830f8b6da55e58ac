"""doctor.json, the doctor's findings on a run: only this module writes and reads it.

Those on the latest weights, where others are the best, are in doctor-latest.json (``TrainedModel.result_name``).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.doctor.diagnose import Diagnosis
from elbowroom.evaluation.doctor.findings import Evidence, Finding, Severity
from elbowroom.running.checkpoints import write_text_atomically
from elbowroom.running.folder import RunFolder
from elbowroom.running.json_text import json_text

__all__ = ["FILE", "Checkup", "read_checkup", "write_checkup"]

FILE = "doctor.json"


@dataclass(frozen=True, slots=True)
class Checkup:
    """A diagnosis, with the checkpoint and the settings that it was made with.

    Attributes:
        diagnosis: the findings; without studies if it was read from a file.
        step: of the checkpoint; None where the file does not say, as in version 0.1.0.
        points: number of examples that a check looked at; None where the file does not say.
        seed: of all draws; None where the file does not say.
        data: the name of other data that were examined; None for the run's own.
    """

    diagnosis: Diagnosis
    step: int | None = None
    points: int | None = None
    seed: int | None = None
    data: str | None = None

    def content(self, place: Path) -> dict[str, Any]:
        """The content of the file, as plain data.

        Args:
            place: the run's folder.
        """
        found = self.diagnosis
        return {
            "run": str(place),
            "step": self.step,
            "points": self.points,
            "seed": self.seed,
            "data": self.data,
            "healthy": found.healthy,
            "findings": [asdict(finding) for finding in found.findings],
            "not_examined": found.not_examined,
            "seconds": found.seconds,
        }


def write_checkup(folder: RunFolder, checkup: Checkup, name: str = FILE) -> Path:
    """Writes doctor.json, or the file of another name, replacing the old one.

    The caller holds the lock of the folder's results.
    """
    path = folder.path / name
    write_text_atomically(path, json_text(checkup.content(folder.path)) + "\n")
    return path


def read_checkup(folder: RunFolder, name: str = FILE) -> Checkup | None:
    """Reads doctor.json, or the file of another name; None where there is none.

    Raises:
        ElbowroomError: the file is damaged.
    """
    path = folder.path / name
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        findings = tuple(_finding(entry) for entry in content["findings"])
        not_examined = {str(check): str(why) for check, why in content["not_examined"].items()}
        seconds = {str(check): float(took) for check, took in content["seconds"].items()}
        step, points, seed = (_whole(content.get(name)) for name in ("step", "points", "seed"))
        data = None if content.get("data") is None else str(content["data"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ElbowroomError(
            f"{path} is not valid JSON of findings ({type(error).__name__}: {error}).",
            f"Restore it, or run the doctor again: `elbowroom doctor {folder.path}"
            f"{' --checkpoint latest' * (name != FILE)}`.",
        ) from error
    return Checkup(Diagnosis(findings, not_examined, seconds), step, points, seed, data)


def _finding(entry: dict[str, Any]) -> Finding:
    if entry["severity"] not in get_args(Severity):
        raise ValueError(f"there is no severity {entry['severity']!r}")
    evidence = tuple(
        Evidence(
            str(number["name"]), _number(number["value"], math.nan), _number(number["stderr"]), str(number["unit"])
        )
        for number in entry["evidence"]
    )
    title, explanation, remedy = (str(entry[name]) for name in ("title", "explanation", "remedy"))
    return Finding(str(entry["check"]), entry["severity"], title, evidence, explanation, remedy)


def _number(given: Any, otherwise: float | None = None) -> Any:
    """A number; JSON writes those that are not finite as null."""
    return otherwise if given is None else float(given)


def _whole(given: Any) -> int | None:
    return None if given is None else int(given)
