"""A diagnosis of the doctor as text for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from elbowroom.evaluation.doctor.diagnose import Diagnosis
from elbowroom.evaluation.doctor.findings import Evidence, Finding
from elbowroom.evaluation.results import sign_remark

__all__ = ["diagnosis_text", "evidence_number", "verdict"]

_WIDTH = 100
_NAME = 60  # width of a number's name; longer names take two lines
_HEADINGS = {"severe": "SEVERE", "warning": "WARNING", "note": "NOTE"}


def diagnosis_text(name: str, diagnosis: Diagnosis) -> str:
    """A one-line verdict, then the findings, the most severe first: title, numbers, reason and remedy."""
    lines = [f"{name}: {verdict(diagnosis)}", ""]
    for finding in diagnosis.findings:
        lines += [*_lines(finding), ""]
    if diagnosis.not_examined:
        lines.append("Not examined:")
        lines += [f"  {check}: {why}" for check, why in diagnosis.not_examined.items()]
        lines.append("")
    took = sum(diagnosis.seconds.values())
    number = len(diagnosis.seconds)
    lines.append(f"{number} check{'s' * (number != 1)} in {took:.0f} s.")
    return "\n".join(lines)


def verdict(diagnosis: Diagnosis) -> str:
    """The number of severe findings and of warnings, as a sentence."""
    counts = {severity: sum(f.severity == severity for f in diagnosis.findings) for severity in ("severe", "warning")}
    severe, warnings = counts["severe"], counts["warning"]
    if diagnosis.healthy:
        return "these checks found nothing wrong."
    parts = [f"{severe} severe finding{'s' * (severe > 1)}"] * (severe > 0)
    parts += [f"{warnings} warning{'s' * (warnings > 1)}"] * (warnings > 0)
    return f"{' and '.join(parts)}."


def _lines(finding: Finding) -> Iterator[str]:
    heading = f"{_HEADINGS[finding.severity]:<8} "
    yield from textwrap.wrap(finding.title, _WIDTH, initial_indent=heading, subsequent_indent=" " * 9)
    width = min(_NAME, max((len(evidence.name) for evidence in finding.evidence), default=0))
    for evidence in finding.evidence:
        *above, name = textwrap.wrap(evidence.name, _NAME)
        yield from (f"           {part}" for part in above)
        yield f"           {name:<{width}}  {evidence_number(evidence)}"
    if finding.severity != "note":
        yield from _wrapped("Why: ", finding.explanation)
        yield from _wrapped("Do: ", finding.remedy)


def _wrapped(label: str, text: str) -> list[str]:
    return textwrap.wrap(label + text, _WIDTH, initial_indent=" " * 9, subsequent_indent=" " * 11)


def evidence_number(evidence: Evidence) -> str:
    """The number behind a finding with its standard error and unit; shares and accuracies in per cent.

    Of what cannot be negative, and may be zero, that is said.
    """
    if evidence.unit in ("share", "accuracy"):
        error = "" if evidence.stderr is None else f" ± {evidence.stderr:.1%}"
        return f"{evidence.value:.1%}{error}"
    whole = evidence.value == int(evidence.value) if abs(evidence.value) < 1e15 else False
    value = f"{evidence.value:,.0f}" if whole and evidence.stderr is None else f"{evidence.value:,.3f}"
    error = "" if evidence.stderr is None else f" ± {evidence.stderr:.3f}"
    doubt = sign_remark(evidence.name, evidence.value, evidence.stderr)
    return f"{value}{error} {evidence.unit}".rstrip() + (f", {doubt}" if doubt else "")
