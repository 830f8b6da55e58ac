"""What a finding says, in the language of the caller."""

from __future__ import annotations

from elbowroom.evaluation.doctor.findings import Finding
from elbowroom.phrasing import speaking

PARTS = ("finished", "warning", "Training ended.", (), "See --train.patience 3.", "Train longer: --train.epochs 50.")


def test_python_reads_keywords_and_the_command_line_flags() -> None:
    with speaking("keywords", unless_set=False):
        made = Finding(*PARTS)  # type: ignore[arg-type]
    assert made.remedy == 'Train longer: train={"epochs": 50}.'
    assert made.explanation == 'See train={"patience": 3}.'
    with speaking("flags", unless_set=False):
        made = Finding(*PARTS)  # type: ignore[arg-type]
    assert made.remedy == PARTS[-1]
