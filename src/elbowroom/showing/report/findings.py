"""What the doctor found, from doctor.json: a verdict, and each finding with its numbers, its reason and its remedy."""

from __future__ import annotations

from pathlib import Path

from elbowroom.evaluation.doctor import Diagnosis
from elbowroom.showing.report.content import Block, Problem, Prose
from elbowroom.showing.report.words import command, evidence, verdict

__all__ = ["diagnosed"]


def diagnosed(diagnosis: Diagnosis | None, place: Path) -> list[Block]:
    """Findings, the gravest first.

    Args:
        diagnosis: what doctor.json holds; None where the doctor was not asked.
        place: the run's folder, for the command that asks.
    """
    if diagnosis is None:
        return [Prose(f"The doctor has not been asked yet: `{command('doctor', place)}` does.", tone="missing")]
    said = verdict(diagnosis)
    blocks: list[Block] = [Prose(f"{said[:1].upper()}{said[1:]}")]
    for finding in diagnosis.findings:
        numbers = tuple((number.name, evidence(number)) for number in finding.evidence)
        blocks.append(Problem(finding.severity, finding.title, numbers, finding.explanation, finding.remedy))
    if diagnosis.not_examined:
        told = " ".join(f"{check}: {why}" for check, why in diagnosis.not_examined.items())
        blocks.append(Prose(f"Not examined. {told}", tone="missing"))
    return blocks
