"""``elbowroom sample``: draws from the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from elbowroom.cli.options import Checkpoint, Device, RunPath, load_run, result_path
from elbowroom.cli.speech import remark, wrote
from elbowroom.cli.writing import checked_target, write_arrays, write_csv
from elbowroom.errors import ElbowroomError

__all__ = ["sample"]


def sample(
    run: RunPath,
    *,
    num: int = 25,
    context: Annotated[list[str] | None, Parameter(name="--context")] = None,
    labels: str | None = None,
    caption: str | None = None,
    candidates: int | None = None,
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
    context
        What to condition on, NAME=VALUE for every covariate: --context kind=ox --context weight=3.2 (default: the
        covariates of training examples; of pictures, equal numbers of each class).
    labels
        Class to draw, for a model that is conditional on class labels.
    caption
        What to draw, in words of a model of captions: "a bold seven leaning left". What is not said is left to the
        model. The pictures that follow it best come first.
    candidates
        Number of pictures to draw for a caption, of which the best --num are shown (default: as many).
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
        where its columns are of several kinds, else none).
    """
    from elbowroom.model.code_sampling import SamplingRule
    from elbowroom.running.contexts import context_flags, parsed
    from elbowroom.running.own_data import MissingDataError
    from elbowroom.showing import code_gallery, gallery, plots

    target = None if arrays is None else checked_target(arrays, suffix=".npz")
    table = None if out is None else checked_target(out)
    loaded = load_run(run, device, checkpoint)
    if table is None and loaded.facts.columns is not None:
        table = result_path(run, "samples.csv", checkpoint)
    rule = SamplingRule(guidance, temperature, top_p)
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
    given = parsed(loaded.naming, context, labels)
    try:
        figure = gallery.samples(loaded, num, context=given, rule=rule, seed=seed)
    except MissingDataError as error:  # covariates of training examples
        flags = context_flags(loaded.naming)
        more = "" if flags is None else f" Or say what to condition on, such as {flags}."
        raise ElbowroomError(error.problem, f"{error.remedy}{more}") from None
    wrote(gallery.save(loaded, "samples", figure))
    if plots.is_image(loaded.facts.event_shape):
        has_codes = loaded.model.latent_support == "codes"
        try:
            traversals = (code_gallery.code_swaps if has_codes else gallery.traversals)(loaded, context=given)
        except MissingDataError as error:  # they start from an example
            remark(f"traversals are not drawn. {error.problem}")
        else:
            wrote(gallery.save(loaded, "traversals", traversals))
        if loaded.config.model.latent_dim == 2 and not (has_codes or loaded.config.model.groups):
            wrote(gallery.save(loaded, "manifold", gallery.manifold(loaded, context=given)))
    if target is None and table is None:
        return
    rows = gallery.contexts(loaded, num) if given is None else given
    drawn = loaded.sample(num, context=rows, seed=seed, **rule.keywords())
    if target is not None:
        write_arrays(target, z=drawn.z, x=drawn.x, mean=drawn.mean)
    if table is not None:
        frame = loaded.table(drawn.x)
        write_csv(table, frame.columns, frame.rows())
        wrote(table)
