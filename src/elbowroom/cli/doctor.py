"""``elbowroom doctor``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from elbowroom.cli.options import Checkpoint, Device, Json, RunPath, load_run
from elbowroom.cli.speech import print_json, say, wrote

__all__ = ["doctor"]


def doctor(
    run: RunPath,
    data: str | None = None,
    *,
    checks: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    points: int = 1000,
    seed: int = 0,
    checkpoint: Checkpoint = "best",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Check a trained model for common faults; each finding has evidence and a remedy.

    Parameters
    ----------
    data
        Other data to examine the model with, a path or a built-in name (default: the run's own). Checks that need
        training examples are then left out.
    checks
        sound, likelihood_fits, finished, latents_in_use, generalises, amortisation, calibration, holes, sample_quality,
        samples_and_means (default: all); of a hierarchy also groups_in_use; of a table with columns of several
        kinds also columns_fit; of a run with codes codes_in_use, code_prior, sharpness and deterministic_bound in the
        place of amortisation, calibration and holes. Separate several by commas or spaces.
    points
        Number of examples that each check uses.
    seed
        Seed of all draws.
    """
    from elbowroom.running.diagnosis import FILE, read_checkup
    from elbowroom.showing import gallery, terminal
    from elbowroom.showing.diagnosis import diagnosis_text

    loaded = load_run(run, device, checkpoint)
    names = [name for given in checks or [] for name in given.split(",") if name] or None
    with terminal.progress(unit="checks") as announce:
        found = loaded.doctor(
            data=data,
            checks=names,
            points=points,
            seed=seed,
            announce=lambda check, done, total, detail=None: announce("doctor", done, total, detail),
        )
    name = loaded.result_name(FILE)
    if as_json:
        kept = read_checkup(loaded.folder, name)
        assert kept is not None  # it was written just now
        print_json(kept.content(run))
        return
    say(diagnosis_text(str(run), found))
    wrote(loaded.folder.path / name)
    aggregate, samples = found.studies.aggregate, found.studies.samples
    if aggregate is not None and samples is not None:
        wrote(gallery.save(loaded, "holes", gallery.holes(loaded, aggregate, samples)))
