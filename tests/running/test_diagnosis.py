"""doctor.json: what is written is read again, of whatever version; what is damaged is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.doctor.diagnose import Diagnosis
from elbowroom.evaluation.doctor.findings import Evidence, Finding
from elbowroom.running.diagnosis import Checkup, read_checkup, write_checkup
from elbowroom.running.folder import RunFolder

FINDING = {"check": "holes", "severity": "note", "title": "t", "evidence": [], "explanation": "e", "remedy": "r"}
CONTENT: dict[str, Any] = {"findings": [FINDING], "not_examined": {}, "seconds": {"holes": 1.0}}


def with_file(folder: Path, content: Any) -> RunFolder:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "doctor.json").write_text(text, encoding="utf-8")
    return RunFolder(folder)


def checkup(value: float = 1.5) -> Checkup:
    evidence = (Evidence("gain", value, 0.5), Evidence("units", 3, None, "of 4"))
    finding = Finding("holes", "warning", "Höhlen.", evidence, "Why.", "Do.")
    return Checkup(Diagnosis((finding,), {"sound": "No data."}, {"holes": 2.5}), step=7, points=60, seed=3)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder, told = RunFolder(tmp_path), checkup()
    assert read_checkup(folder) is None
    assert write_checkup(folder, told) == tmp_path / "doctor.json"
    assert read_checkup(folder) == told
    kept = json.loads((tmp_path / "doctor.json").read_text())
    assert kept["healthy"] is False and kept["step"] == 7


def test_what_is_not_finite_is_kept_as_no_number(tmp_path: Path) -> None:
    write_checkup(RunFolder(tmp_path), checkup(math.inf))
    text = (tmp_path / "doctor.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["findings"][0]["evidence"][0]["value"] is None
    told = read_checkup(RunFolder(tmp_path))
    assert told is not None and math.isnan(told.diagnosis.findings[0].evidence[0].value)


def test_the_file_of_an_older_version_does_not_say_of_which_weights_it_is(tmp_path: Path) -> None:
    told = read_checkup(with_file(tmp_path, CONTENT | {"run": "x", "points": 60, "seed": 0, "healthy": True}))
    assert told is not None
    assert (told.step, told.points, told.seed) == (None, 60, 0)
    assert told.diagnosis.healthy


@pytest.mark.parametrize(
    "content",
    [
        '{"findings": ',
        [],
        CONTENT | {"findings": [FINDING | {"severity": "<b>"}]},
        CONTENT | {"findings": [FINDING | {"evidence": [{"name": "n"}]}]},
        CONTENT | {"not_examined": 3},
        CONTENT | {"step": "the last"},
        CONTENT | {"step": math.inf},
        {"findings": []},
    ],
)
def test_a_damaged_file_is_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(ElbowroomError, match=r"doctor\.json"):
        read_checkup(with_file(tmp_path, content))
