"""Markov chains in a report: those of Monte Carlo EM while it trained, and those that sampled posteriors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from elbowroom.running.chain_record import chain_record, read_about_chains
from elbowroom.running.runs import Run
from elbowroom.showing.report.blocks import Block, Column, FactList, FactSheet, Group, Prose, ReportSection, Table
from elbowroom.showing.report.words import plain, run_command

__all__ = ["chains"]

# key of a summary -> its name, and how its numbers are written
_QUANTITIES = {
    "rhat": ("R̂", ".3f"),
    "rhat_null": ("R̂ of as many independent draws", ".3f"),
    "ess_bulk": ("bulk ESS, of an example's worst dimension", ",.0f"),
    "ess_tail": ("tail ESS, of an example's worst dimension", ",.0f"),
    "acceptance": ("acceptance", ".2f"),
    "ebfmi": ("E-BFMI of a chain", ".2f"),
}


def chains(run: Run, history: Sequence[Mapping[str, Any]]) -> list[ReportSection]:
    """The section about Markov chains; none for a run without any.

    Args:
        run: with the weights that the report is about.
        history: the reports of its training.
    Raises:
        ElbowroomError: the archive of draws is damaged.
    """
    blocks = [*_of_training(run, history), *_of_posteriors(run)]
    return [ReportSection("chains", "Markov chains", "Chains", tuple(blocks))] if blocks else []


def _of_training(run: Run, history: Sequence[Mapping[str, Any]]) -> list[Block]:
    record = chain_record(history)
    if record is None:
        return []
    settings = run.config.mcem
    rows = {
        "acceptance, last report": f"{record.acceptance:.3f}",
        "target acceptance": f"{settings.target_acceptance:g}",
        "divergent transitions": "not counted by that version"
        if record.divergent is None
        else f"{record.divergent:.2%}",
        "chains for each example": f"{settings.chains:,}",
    }
    warning = record.warning()
    sheet = FactSheet((FactList("Chains of the training (Monte Carlo EM)", tuple(rows.items())),))
    return [sheet, *([Prose(warning, tone="warning")] if warning else [])]


def _of_posteriors(run: Run) -> list[Block]:
    name = "posterior.npz" if run.checkpoint == "best" else f"posterior-{run.checkpoint}.npz"
    about = read_about_chains(run.folder.path / name)
    if about is None:
        return []
    summary, settings = about["summary"], about["settings"]
    said = (
        f"{summary['num_data']:,} examples ({about['data']}) in {summary['dim']:,} dimensions, "
        f"{summary['num_replicas']:,} chains of {summary['num_draws']:,} draws each, by "
        f"{', '.join(f'{key} {plain(given)}' for key, given in settings.items() if key not in ('draws', 'chains'))}. "
        f"Divergent transitions: {summary['divergences']:,}, in {summary['divergent_data']:,} examples."
    )
    blocks: list[Block] = [Prose(f"Posterior draws in {name}: {said}"), _table(summary)]
    if about["step"] != run.step:
        ask = run_command("encode", run, "--posterior", str(settings["method"]))
        blocks.append(
            Prose(
                f"They are of the checkpoint of step {about['step']:,}; the run's present one is of step "
                f"{run.step:,}: `{ask}` draws from that.",
                tone="warning",
            )
        )
    return [*blocks, *(Prose(warning, tone="warning") for warning in summary["warnings"])]


def _table(summary: Mapping[str, Any]) -> Table:
    columns = ("", "median", "90% are at least as good", "99% are at least as good", "worst")
    rows = []
    for key, (name, form) in _QUANTITIES.items():
        numbers = (summary[key][part] for part in ("median", "q90", "q99", "worst"))
        rows.append((name, *("not finite" if number is None else format(number, form) for number in numbers)))
    caption = "Diagnostics of the chains, as quantiles over examples"
    return Table(caption, tuple(Column(title, numeric=bool(title)) for title in columns), (Group(tuple(rows)),))
