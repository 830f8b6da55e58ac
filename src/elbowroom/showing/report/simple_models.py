"""How far a model of a table is ahead of simple ones, in a sentence: what the method baselines measured."""

from __future__ import annotations

from elbowroom.evaluation.results import Result
from elbowroom.model.table.likelihood import Table
from elbowroom.running.runs import Run
from elbowroom.showing.report.blocks import Block, Prose
from elbowroom.showing.report.records import StoredResults
from elbowroom.showing.report.words import estimate, run_command

__all__ = ["beside_simple_models"]

_CLEAR = 2.0  # standard errors


def beside_simple_models(run: Run, found: StoredResults) -> list[Block]:
    """A sentence about the gain over independent columns and over latent classes; none where there is no table."""
    if not isinstance(run.model.likelihood.elementwise, Table):
        return []
    gain = found.best(lambda one: one.result.name == "gain over latent classes")
    same = None if gain is None else (gain.step, gain.result.split, gain.result.protocol, gain.result.points)

    def beside(name: str) -> Result | None:
        alike = [
            one.result
            for one in found.all
            if one.result.name == name and (one.step, one.result.split, one.result.protocol, one.result.points) == same
        ]
        return alike[-1] if alike else None

    plain, classes = beside("gain over independent columns"), beside("latent classes")
    if gain is None or plain is None or classes is None:
        ask = run_command("evaluate", run, "--methods", "baselines")
        missing = f"How far the model is ahead of simple ones has not been measured: `{ask}` does."
        return [Prose(missing, tone="missing")]
    known = gain.result.stderr or 0.0
    # a model by em is one of latent classes itself, and need not be ahead of such a one
    is_ahead = run.config.train.learner == "em" or gain.result.value > _CLEAR * known
    verdict = "" if is_ahead else " So it is no better than these, which are simpler, and whose log p(x) is exact."
    return [
        Prose(
            f"On the same rows the model is ahead of independent columns by {_of(plain)} nats, and of "
            f"{classes.found['classes']} latent classes by {_of(gain.result)} nats.{verdict}",
            tone="plain" if is_ahead else "warning",
        )
    ]


def _of(result: Result) -> str:
    return estimate(result.value, result.stderr)
