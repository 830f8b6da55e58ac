"""``elbowroom doctor``."""

from __future__ import annotations

import json
from typing import Annotated

from cyclopts import Parameter

from elbowroom.cli.options import Device, Json, RunPath, load_run
from elbowroom.cli.speech import finite, print_json, say, wrote

__all__ = ["doctor"]


def doctor(
    run: RunPath,
    *,
    checks: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    points: int = 1000,
    seed: int = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Say what is wrong with a model, with evidence and remedies.

    Parameters
    ----------
    checks
        sound, likelihood_fits, finished, latents_in_use, generalises, amortisation, calibration, holes, sample_quality,
        samples_and_means; all of them unless given. Several: with commas or spaces between.
    points
        How many data a check looks at.
    seed
        Seed of all draws.
    """
    from elbowroom.errors import ElbowroomError
    from elbowroom.evaluation.doctor import diagnose
    from elbowroom.running.checkpoints import write_text_atomically
    from elbowroom.running.checkup import patient_of
    from elbowroom.showing import terminal
    from elbowroom.showing.diagnosis import diagnosis_json, diagnosis_text

    if points < 2:
        raise ElbowroomError(f"points is {points}, but a check compares data.", "Give --points 2 or more.")
    loaded = load_run(run, device)
    names = [name for given in checks or [] for name in given.split(",") if name] or None
    patient = patient_of(loaded, points=points, seed=seed)
    with terminal.progress(unit="checks") as announce:
        found = diagnose(patient, checks=names, announce=lambda check, done, total: announce("doctor", done, total))
    content = {"run": str(run), "points": points, "seed": seed, **diagnosis_json(found)}
    path = loaded.folder.path / "doctor.json"
    with loaded.folder.lock():
        write_text_atomically(path, json.dumps(finite(content), indent=2) + "\n")
    if as_json:
        print_json(content)
        return
    say(diagnosis_text(str(run), found))
    wrote(path)
    if {"holes", "sample_quality"} <= set(found.seconds) - set(found.not_examined) and loaded.has_guide:
        from elbowroom.evaluation.aggregate import aggregate_study
        from elbowroom.evaluation.sample_study import sample_study
        from elbowroom.showing.holes import holes_figure

        figure = loaded.folder.figures / "holes.png"
        holes_figure(aggregate_study(patient), sample_study(patient), title=loaded.folder.path.name, path=figure)
        wrote(figure)
