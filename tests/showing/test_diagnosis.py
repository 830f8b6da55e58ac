"""A diagnosis as text."""

from __future__ import annotations

import pytest

from elbowroom.evaluation.doctor.diagnose import Diagnosis
from elbowroom.showing.diagnosis import diagnosis_text


@pytest.mark.parametrize(
    ("checks", "said"), [(["sound"], "1 check in 2 s."), (["sound", "finished"], "2 checks in 4 s.")]
)
def test_checks_are_counted(checks: list[str], said: str) -> None:
    assert diagnosis_text("run", Diagnosis((), {}, dict.fromkeys(checks, 2.0))).splitlines()[-1] == said
