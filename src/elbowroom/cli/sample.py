"""``elbowroom sample``: draws from the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from elbowroom.cli.options import Checkpoint, Device, RunPath, load_run, result_path
from elbowroom.cli.speech import remark, say, wrote
from elbowroom.cli.writing import checked_target, write_arrays, write_csv
from elbowroom.errors import ElbowroomError

if TYPE_CHECKING:
    from elbowroom.running.given import GivenSample
    from elbowroom.running.runs import Run

__all__ = ["sample"]


def sample(
    run: RunPath,
    *,
    num: int = 25,
    given: Annotated[list[str] | None, Parameter(name="--given")] = None,
    context: Annotated[list[str] | None, Parameter(name="--context")] = None,
    labels: str | None = None,
    caption: str | None = None,
    candidates: int | None = None,
    draws: int | None = None,
    guidance: float = 1.0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    arrays: Path | None = None,
    out: Path | None = None,
    checkpoint: Checkpoint = "best",
    device: Device = None,
) -> None:
    """Draw samples from the model, with means, latent traversals and, for two latent dimensions, the manifold.

    A traversal of codes exchanges the code of one slot at a time.

    Parameters
    ----------
    num
        Number of samples.
    given
        Of a table: draw the other columns given these, NAME=VALUE, from p(the others | these): --given city=Oslo
        --given age=30, or --given city=Oslo,age=30.
    context
        Covariates of a conditional model, NAME=VALUE for every one: --context kind=ox --context weight=3.2 (default:
        those of training examples; of pictures, equal numbers of each class).
    labels
        Class to draw, for a model that is conditional on class labels.
    caption
        What to draw, in words of a model of captions: "a bold seven leaning left". What is not said is left to the
        model. The pictures that follow it best come first.
    candidates
        Number of pictures to draw for a caption, of which the best --num are shown (default: as many).
    draws
        With --given, weighted draws of z that those of the rows are chosen from (default: as many as it takes).
    guidance
        How far codes are drawn away from what the model draws without the context, and towards it: 1 as the model
        does, 2 or 3 to follow it further. For models whose context was left out at times (--data.context-drop).
    temperature
        Of the codes that are drawn one after the other: below 1 likelier ones.
    top_p
        Draw each code among the likeliest that have this probability together.
    seed
        Seed of the draws.
    arrays
        Also write z, x and mean to this .npz file.
    out
        Of a model of a table, the CSV file of the samples, in the kinds of the training data (default: RUN/samples.csv
        where its columns are of several kinds, else none; with --given RUN/samples-given.csv).
    """
    from elbowroom.model.code_sampling import SamplingRule
    from elbowroom.running.contexts import context_flags, parsed
    from elbowroom.running.given import parse_given
    from elbowroom.running.own_data import MissingDataError
    from elbowroom.showing import code_gallery, gallery, plots

    target = None if arrays is None else checked_target(arrays, suffix=".npz")
    table = None if out is None else checked_target(out)
    loaded = load_run(run, device, checkpoint)
    rule = SamplingRule(guidance, temperature, top_p)
    if given is not None:
        if caption is not None or candidates is not None or not rule.changes_nothing:
            raise ElbowroomError(
                "--given was given together with a caption or a rule of sampling, but its draws are of the model's own "
                "posterior.",
                "Give --context or --labels beside it, and nothing else.",
            )
        table = table or result_path(run, "samples-given.csv", checkpoint)
        contexts = parsed(loaded.naming, context, labels)
        columns = parse_given(given, loaded.naming.columns or ())
        _sample_given(loaded, columns, num, contexts, draws=draws, seed=seed, table=table, arrays=target)
        return
    if draws is not None:
        raise ElbowroomError("--draws was given without --given, whose weighted draws it counts.", "Leave it out.")
    if table is None and loaded.facts.columns is not None:
        table = result_path(run, "samples.csv", checkpoint)
    if caption is not None:
        if context is not None or labels is not None:
            raise ElbowroomError(
                "--caption was given together with --context or --labels, but a model has one context.",
                "Give one of them.",
            )
        pictures = loaded.sample_caption(caption, num, candidates=candidates, seed=seed, **rule.keywords())
        wrote(gallery.save(loaded, "samples", gallery.captioned(loaded, caption, pictures, rule)))
        if target is not None:
            write_arrays(target, z=pictures.z, x=pictures.x, mean=pictures.mean, score=pictures.score)
        return
    if candidates is not None:
        raise ElbowroomError(
            "--candidates was given without a caption, by which the best are chosen.",
            "Leave it out, or give --caption.",
        )
    wanted = parsed(loaded.naming, context, labels)
    try:
        figure = gallery.samples(loaded, num, context=wanted, rule=rule, seed=seed)
    except MissingDataError as error:  # covariates of training examples
        flags = context_flags(loaded.naming)
        more = "" if flags is None else f" Or say what to condition on, such as {flags}."
        raise ElbowroomError(error.problem, f"{error.remedy}{more}") from None
    wrote(gallery.save(loaded, "samples", figure))
    if plots.is_image(loaded.facts.event_shape):
        has_codes = loaded.model.latent_support == "codes"
        try:
            traversals = (code_gallery.code_swaps if has_codes else gallery.traversals)(loaded, context=wanted)
        except MissingDataError as error:  # they start from an example
            remark(f"traversals are not drawn. {error.problem}")
        else:
            wrote(gallery.save(loaded, "traversals", traversals))
        if loaded.config.model.latent_dim == 2 and not (has_codes or loaded.config.model.groups):
            wrote(gallery.save(loaded, "manifold", gallery.manifold(loaded, context=wanted)))
    if target is None and table is None:
        return
    rows = gallery.contexts(loaded, num) if wanted is None else wanted
    drawn = loaded.sample(num, context=rows, seed=seed, **rule.keywords())
    if target is not None:
        write_arrays(target, z=drawn.z, x=drawn.x, mean=drawn.mean)
    if table is not None:
        frame = loaded.table(drawn.x)
        write_csv(table, frame.columns, frame.rows())
        wrote(table)


def _sample_given(
    run: Run,
    given: dict[str, str],
    num: int,
    context: dict[str, Any] | None,
    *,
    draws: int | None,
    seed: int,
    table: Path,
    arrays: Path | None,
) -> None:
    """Draws rows given some of their columns, says how far they can be trusted, and writes them."""
    from elbowroom.running.contexts import context_flags

    flags = context_flags(run.naming)
    if context is None and flags is not None:
        raise ElbowroomError(
            "--given was given without the covariates that the model is conditional on, too.", f"Add {flags}."
        )
    found = run.sample_given(given, num, context=context, draws=draws, seed=seed)
    for line in _lines(found):
        say(line)
    if arrays is not None:
        write_arrays(arrays, z=found.z, x=found.x, mean=found.mean)
    frame = found.table
    write_csv(table, frame.columns, frame.rows())
    wrote(table)


def _lines(found: GivenSample) -> list[str]:
    what = ", ".join(f"{name} = {_shown(cell)}" for name, cell in found.given.items())
    if found.draws:
        how = f"z chosen from {found.draws:,} weighted draws, {found.ess:,.0f} of them effective"
    else:
        how = "z exact and independent: p(z | x) was summed over all codes"
    lines = [f"drew {len(found.x):,} rows given {what}: {how}"]
    if found.log_evidence is not None:
        error = f" ± {found.stderr:.2g}" if found.stderr else ""
        lines.append(f"log p({what}) = {found.log_evidence:,.3f}{error} nats")
    return [*lines, *(f"warning: {text}." for text in found.warnings())]


def _shown(cell: Any) -> str:
    return f"{cell:g}" if isinstance(cell, float) else str(cell).lower() if isinstance(cell, bool) else str(cell)
