"""What figures of a run say beside their pictures: notes, what means are means of, the range of values shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.model.code_sampling import SamplingRule
from elbowroom.running.runs import Run
from elbowroom.showing import plots
from elbowroom.showing.figures.dataset import value_range

__all__ = ["means", "needs_images", "note", "shown_range"]


def note(run: Run, context: Any = None, rule: SamplingRule | None = None) -> str | None:
    notes = []
    if rule is not None and not rule.changes_nothing:
        notes.append(
            f"no draws of the model: guidance {rule.guidance:g}, temperature {rule.temperature:g}, top-p {rule.top_p:g}"
        )
    if not run.normalized:
        notes.append("cross-entropy of grey pixels: not a log-likelihood; samples are Bernoulli draws")
    if isinstance(context, Mapping):
        notes.insert(0, "samples given " + ", ".join(f"{name} = {value}" for name, value in context.items()))
    elif isinstance(context, str | int):
        notes.insert(0, f"samples given {context}")
    return "; ".join(notes) or None


def means(run: Run, given: str = "z") -> str:
    """What the means of a run are; of pixels that depend on each other, E[x | z] cannot be computed."""
    sees_earlier = run.model.likelihood.sees_other_elements
    return f"means given {given} and earlier pixels" if sees_earlier else f"means  E[x | {given}]"


def shown_range(run: Run, shown: Tensor) -> tuple[float, float]:
    return value_range(run.facts.support, shown)


def needs_images(run: Run) -> None:
    if not plots.is_image(run.facts.event_shape):
        raise ElbowroomError(
            f"Data of shape {run.facts.event_shape} are not images, so this cannot be drawn.",
            "`elbowroom sample` draws their marginals.",
        )
