"""``elbowroom evaluate``: bounds on log p(x) with standard errors."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from elbowroom.cli.options import Checkpoint, Device, Json, RunPath, Split, load_run
from elbowroom.cli.speech import print_json, say, wrote
from elbowroom.cli.writing import checked_target, write_evaluated
from elbowroom.data.support import Support
from elbowroom.evaluation.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from elbowroom.data.dataset import DataSet

__all__ = ["evaluate"]


def evaluate(
    run: RunPath,
    data: str | None = None,
    *,
    methods: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    split: Split = None,
    settings: Annotated[Settings, Parameter(name="*")] = Settings(),  # noqa: B008
    write_data: Path | None = None,
    checkpoint: Checkpoint = "best",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run: bounds on log p(x) in nats per example, with standard errors.

    Parameters
    ----------
    data
        Other data to evaluate on, a path or a built-in name (default: a split of the run's own data).
    methods
        elbo, iwae, active-units, k-curve, laplace-is, ais, bdmc, room, codes, enumerate, samples, baselines (default:
        the first three; laplace-is for a run without a guide; elbo and codes for discrete latents, enumerate for a
        mixture; and baselines for a table). Separate several by commas or spaces. room is the elbow room, i.e. the
        inference gap KL(q ‖ p(z | x)), divided into amortisation gap and approximation gap. codes and enumerate are for
        discrete latents: bounds from the guide's codes and how many are used, and log p(x) by the sum over all codes.
        samples compares samples with held-out data: a classifier's accuracy, precision and recall, and whether training
        rows were copied. baselines is for tables: how far the model is ahead of independent columns and of latent
        classes.
    split
        Split of the run's own data (default: test); DATA has none.
    write_data
        Also write the values of these examples (as many as --points says, all unless it is given) after binarisation
        and filling in, to this .npz file: `elbowroom evaluate RUN FILE` gives the same numbers for the same examples.
    """
    from elbowroom.memory import in_words, peak_memory
    from elbowroom.showing import gallery, plots, terminal
    from elbowroom.showing.figures.room import by_split

    target = None if write_data is None else checked_target(write_data, suffix=".npz")
    loaded = load_run(run, device, checkpoint)
    asked = settings.model_dump(exclude_unset=True)
    names = [name for given in methods or [] for name in given.split(",") if name]
    with terminal.progress(unit="examples") as announce:
        results = loaded.evaluate(*names, data=data, split=split, announce=announce, **asked)
    peak, own = peak_memory(loaded.device), results[0].split
    if target is not None:
        source = loaded.dataset() if data is None else loaded.read(data)
        write_evaluated(target, source, _rows(source, (split or "test") if data is None else None, settings.points))
    if as_json:
        rows = [result.model_dump(exclude={"split", "protocol"}) for result in results]
        rows = [row if r.split == own else {**row, "split": r.split} for row, r in zip(rows, results, strict=True)]
        content = {"run": str(run), "step": loaded.step, "split": own, "protocol": results[0].protocol}
        print_json({**content, "peak_memory": peak, "results": rows})
        return
    terminal.print_results([result for result in results if result.split in (own, "simulated")])
    in_nats = any(result.unit == "nats" for result in results)
    if in_nats and loaded.normalized and loaded.facts.support is Support.UNIT_INTERVAL:
        say(
            "log p(x) is a density of grey values from 0 to 1 at those of the data, not a probability: it can be "
            "positive, and it has no bits per dimension"
        )
    say(f"checkpoint of step {loaded.step:,}")
    if peak is not None:
        say(f"peak memory {in_words(peak)}")
    wrote(loaded.folder.path / "evaluation.json")
    wrote(loaded.folder.path / "evaluation", *([] if target is None else [target]))
    # results on other data cannot share an axis with these
    shown = [result for result in results if result.split == own]
    if any(result.bound and math.isfinite(result.value) for result in shown):
        wrote(gallery.save(loaded, "evaluation", gallery.evaluation(loaded, shown)))
    if "room" in names:
        rows = plots.room_rows(by_split(results))
        terminal.print_table(rows)
        if note := plots.room_note(rows):
            say(note)
        wrote(gallery.save(loaded, "room", gallery.room(loaded, results)))


def _rows(data: DataSet, split: str | None, points: int | None) -> Tensor:
    """Positions of the examples of a split, or of all of them, that are evaluated."""
    import torch

    whole = data if split is not None else replace(data, splits={"all": torch.arange(len(data))})
    return torch.cat(
        [batch.index for batch in whole.batches(split or "all", 1000, points=points) if batch.index is not None]
    )
