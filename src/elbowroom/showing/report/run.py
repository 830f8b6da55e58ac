"""A run's folder, collected into a report: what was recorded is read, what takes seconds is drawn.

A file that is damaged stops the report: a page with a figure left out would look like one where it was never taken.
What cannot be drawn, because the data are gone or there is no guide, is left out with the reason in its place; what was
not measured yet is named with the command that measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from elbowroom import __version__
from elbowroom.running.diagnosis import read_checkup
from elbowroom.running.runs import Run
from elbowroom.showing import plots
from elbowroom.showing.report import figures
from elbowroom.showing.report.blocks import Block, Figure, Report, ReportSection
from elbowroom.showing.report.findings import diagnosed
from elbowroom.showing.report.records import read_history, read_measurements
from elbowroom.showing.report.repeat import repeated
from elbowroom.showing.report.results import evaluation, headline, room, tiles
from elbowroom.showing.report.trained import lead, sheet_of_facts, sizes

__all__ = ["report_of_run"]


def report_of_run(run: Run, *, seed: int = 0) -> Report:
    """All that is known of a run.

    Args:
        run: with its data, where these came from Python.
        seed: of the samples and reconstructions that are drawn.
    Raises:
        ElbowroomError: evaluation.json, doctor.json or metrics.jsonl is damaged.
    """
    folder, protocol = run.folder, run.content["data"]
    history = read_history(folder)
    found = read_measurements(
        folder,
        dataset=str(protocol.get("dataset", run.config.data.name)),
        binarization=str(protocol.get("binarization", run.config.data.binarization)),
        step=run.step,
    )
    checkup = read_checkup(folder)
    parts = sizes(run)
    sections = (
        ReportSection("trained", "What was trained on what", "Set-up", (sheet_of_facts(run, parts, history),)),
        *_pictures(run, history, seed),
        ReportSection("evaluation", "How good it is", "Evaluation", tuple(evaluation(run, found))),
        ReportSection("room", "The elbow room, divided", "Elbow room", tuple(room(run, found))),
        ReportSection("doctor", "What the doctor found", "Doctor", tuple(diagnosed(checkup, folder.path, run.step))),
        ReportSection("repeat", "How to repeat it", "Repeat",
                tuple(repeated(run, found, parts, diagnosed=checkup is not None))),
    )  # fmt: skip
    return Report(
        subject="run",
        name=folder.path.resolve().name,
        place=str(folder.path),
        lead=lead(run, parts, history),
        headline=headline(run, found, history, checkup),
        tiles=tuple(tiles(run, found, history, checkup)),
        sections=sections,
        maker=f"elbowroom {__version__}",
    )


def _pictures(run: Run, history: Sequence[dict[str, Any]], seed: int) -> list[ReportSection]:
    """Curves, samples, reconstructions and the latent space."""

    def blocks(*drawn: tuple[Callable[[], Figure], str]) -> tuple[Block, ...]:
        return tuple(figures.attempt(draw, what) for draw, what in drawn)

    latent = [(partial(figures.latents, run), "The places of data")]
    if plots.is_image(run.facts.event_shape):
        if run.config.model.latent_dim == 2:
            latent.append((partial(figures.manifold, run), "The plane of both latents"))
        if run.has_guide:
            latent.append((partial(figures.traversals, run), "Traversals"))
    return [
        ReportSection("curves", "How training went", "Curves", blocks((partial(figures.curves, run, history),
        "Curves"))), ReportSection("samples", "Samples and means", "Samples", blocks((partial(figures.samples, run,
        seed), "Samples"))), ReportSection("reconstructions", "Reconstructions", "Reconstructions",
                blocks((partial(figures.reconstructions, run, seed), "Reconstructions"))),
        ReportSection("latents", "The latent space", "Latents", blocks(*latent)),
    ]  # fmt: skip
