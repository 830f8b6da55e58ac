"""What the doctor found, from doctor.json: a verdict, and each finding with its numbers, its reason and its remedy."""

from __future__ import annotations

from pathlib import Path

from elbowroom.running.diagnosis import FILE, Checkup
from elbowroom.showing.report.blocks import Block, Problem, Prose
from elbowroom.showing.report.words import command, evidence, verdict

__all__ = ["diagnosed"]


def diagnosed(checkup: Checkup | None, place: Path, step: int) -> list[Block]:
    """Of which weights, where these are not the run's; then the findings, the gravest first.

    Args:
        checkup: what doctor.json holds; None where the doctor was not asked.
        place: the run's folder, for the command that asks.
        step: of the weights that the run has now.
    """
    ask = command("doctor", place)
    if checkup is None:
        return [Prose(f"The doctor has not been asked yet: `{ask}` does.", tone="missing")]
    diagnosis = checkup.diagnosis
    said = verdict(diagnosis)
    blocks: list[Block] = [Prose(f"{said[:1].upper()}{said[1:]}")]
    if checkup.step is None:
        why = f"{FILE} does not say which weights were examined, and the run may have others by now"
        blocks.append(Prose(f"{why}: `{ask}` examines those of step {step:,}.", tone="warning"))
    elif checkup.step != step:
        why = f"This is of the weights of step {checkup.step:,}; the run has those of step {step:,} by now"
        blocks.append(Prose(f"{why}: `{ask}` examines these.", tone="warning"))
    for finding in diagnosis.findings:
        numbers = tuple((number.name, evidence(number)) for number in finding.evidence)
        blocks.append(Problem(finding.severity, finding.title, numbers, finding.explanation, finding.remedy))
    if diagnosis.not_examined:
        told = " ".join(f"{check}: {why}" for check, why in diagnosis.not_examined.items())
        blocks.append(Prose(f"Not examined. {told}", tone="missing"))
    return blocks
