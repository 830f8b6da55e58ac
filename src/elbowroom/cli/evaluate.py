"""``elbowroom evaluate``: bounds on log p(x) with standard errors."""

from __future__ import annotations

import math
from typing import Annotated

from cyclopts import Parameter

from elbowroom.cli.options import Checkpoint, Device, Json, RunPath, Split, load_run
from elbowroom.cli.speech import print_json, say, wrote
from elbowroom.evaluation.settings import Settings

__all__ = ["evaluate"]


def evaluate(
    run: RunPath,
    data: str | None = None,
    *,
    methods: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    split: Split = "test",
    settings: Annotated[Settings, Parameter(name="*")] = Settings(),  # noqa: B008
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
        elbo, iwae, active-units, k-curve, laplace-is, ais, bdmc, room (default: the first three; laplace-is for a run
        without a guide). Separate several by commas or spaces. room is the elbow room, i.e. the inference gap
        KL(q ‖ p(z | x)), divided into amortisation gap and approximation gap.
    split
        Split of the run's own data, if no DATA is given.
    """
    from elbowroom.memory import in_words, peak_memory
    from elbowroom.showing import gallery, plots, terminal
    from elbowroom.showing.figures.room import by_split

    loaded = load_run(run, device, checkpoint)
    asked = settings.model_dump(exclude_unset=True)
    names = [name for given in methods or [] for name in given.split(",") if name]
    with terminal.progress(unit="examples") as announce:
        results = loaded.evaluate(*names, data=data, split=split, announce=announce, **asked)
    peak, own = peak_memory(loaded.device), results[0].split
    if as_json:
        rows = [result.model_dump(exclude={"split", "protocol"}) for result in results]
        rows = [row if r.split == own else {**row, "split": r.split} for row, r in zip(rows, results, strict=True)]
        content = {"run": str(run), "split": own, "protocol": results[0].protocol, "peak_memory": peak}
        print_json({**content, "results": rows})
        return
    terminal.print_results([result for result in results if result.split in (own, "simulated")])
    if peak is not None:
        say(f"peak memory {in_words(peak)}")
    wrote(loaded.folder.path / "evaluation.json")
    wrote(loaded.folder.path / "evaluation")
    # results on other data cannot share an axis with these
    shown = [result for result in results if result.split == own]
    if any(result.bound and math.isfinite(result.value) for result in shown):
        wrote(gallery.save(loaded, "evaluation", gallery.evaluation(loaded, shown)))
    if "room" in names:
        terminal.print_table(plots.room_rows(by_split(results)))
        wrote(gallery.save(loaded, "room", gallery.room(loaded, results)))
