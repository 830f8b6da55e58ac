"""The figures of a run: samples, reconstructions, curves, results.

Each function returns a figure, which a report shows and ``save`` writes into the run's ``figures/`` folder. `plots`
decides how a figure looks; this module decides what it contains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.doctor.aggregate_posterior import Aggregate
from elbowroom.evaluation.doctor.sample_quality import SampleStudy
from elbowroom.evaluation.results import Result
from elbowroom.model.code_sampling import SamplingRule
from elbowroom.running.captioned import Captioned
from elbowroom.running.comparison import Comparison
from elbowroom.running.impute import Imputed
from elbowroom.running.outputs import Encoded
from elbowroom.running.own_data import MissingDataError
from elbowroom.running.runs import Run
from elbowroom.showing import captions, plots
from elbowroom.showing.figures.dataset import as_observed
from elbowroom.showing.figures.holes import holes_figure
from elbowroom.showing.figures.room import by_split
from elbowroom.showing.figures.style import write
from elbowroom.showing.rows_in_context import rows_in_context
from elbowroom.showing.standings import headline

__all__ = [
    "captioned",
    "comparison",
    "completions",
    "contexts",
    "curves",
    "evaluation",
    "holes",
    "k_curve",
    "latents",
    "manifold",
    "nearest_training",
    "reconstructions",
    "room",
    "samples",
    "save",
    "traversals",
]

_PLAIN = SamplingRule()  # draws of the model itself
_TRAVERSED = 8  # latent dimensions in the figure of traversals
_COMPLETED = 10  # examples in the figure of completions
_AT_ONCE = 5000  # training examples that are compared with samples at a time
_CODES_SHOWN = (
    "For codes, `elbowroom sample` draws what a change of one code does, and the report shows examples of codes."
)


def save(run: Run, name: str, figure: Figure) -> Path:
    """Writes a figure into the run's folder, as figures/NAME.png.

    Those of the latest weights, where others are the best, are called figures/NAME-latest.png.

    Raises:
        ElbowroomError: the folder cannot be written to.
    """
    return write(figure, run.folder.figures / run.result_name(f"{name}.png"))


def curves(run: Run) -> Figure:
    """Training curves."""
    return plots.training_curves(run.history, normalized=run.normalized, title=run.folder.path.name)


def samples(run: Run, num: int = 25, *, context: Any = None, rule: SamplingRule = _PLAIN, seed: int = 0) -> Figure:
    """Samples and means side by side; a row per class for a model of labels; marginals where data are not images.

    Marginals are drawn beside those of training rows: samples have the contexts of these rows, or the rows the one that
    was given.

    Args:
        run: what to sample from.
        num: number of samples; at least 1,000 for marginals.
        context: what all samples are conditional on, as in `Run.sample`.
        rule: by which codes are drawn, as in `Run.sample`.
        seed: of the draws.
    """
    _check_number(num)
    note = captions.note(run, context, rule)
    if not plots.is_image(run.facts.event_shape):
        return _marginals(run, max(num, 1000), context, seed, note)
    if run.config.data.context == "labels" and context is None:
        classes = run.facts.context_dim
        names = run.naming.covariates[0].levels or range(classes)
        drawn = run.sample(classes * 10, **rule.keywords(), seed=seed)
        x, mean = (tensor.reshape(classes, 10, *run.facts.event_shape) for tensor in (drawn.x, drawn.mean))
        return plots.class_rows_figure(
            x,
            mean,
            names,
            means_title=captions.means(run, "z, c"),
            note=note,
            value_range=captions.shown_range(run, drawn.mean),
        )
    drawn = run.sample(num, context=contexts(run, num) if context is None else context, **rule.keywords(), seed=seed)
    return plots.samples_figure(
        drawn.x,
        drawn.mean,
        means_title=captions.means(run),
        note=note,
        value_range=captions.shown_range(run, drawn.mean),
    )


def nearest_training(run: Run, num: int = 10, *, seed: int = 0) -> Figure:
    r"""Means of samples above the training examples nearest to them, which they might be copies of.

    .. math:: \min_n \lVert x_n - \mathbb{E}[x | z] \rVert_2

    Args:
        run: what to sample from; the same samples as in :func:`samples`, where there is one context or none.
        num: number of samples.
        seed: of the draws.
    Raises:
        ElbowroomError: the data are not images, are no longer there, or have holes in every row.
    """
    _check_number(num)
    captions.needs_images(run)
    data = run.dataset()
    means = run.sample(num, context=contexts(run, num), seed=seed).mean
    wanted = means.flatten(1).double()
    nearest, distance = torch.empty_like(means), torch.full((num,), torch.inf, dtype=torch.float64)
    for batch in data.batches("train", _AT_ONCE):
        x = as_observed(batch).cpu()
        found, row = torch.cdist(wanted, x.flatten(1).double()).nan_to_num(torch.inf).min(1)  # not rows with holes
        closer = found < distance
        nearest[closer], distance[closer] = x[row[closer]].to(nearest), found[closer]
    if not bool(distance.isfinite().all()):
        raise ElbowroomError(
            "Every training example misses something, so none can be compared with a sample.",
            "Look at the samples alone.",
        )
    return plots.code_pictures_figure(
        torch.stack([means, nearest]),
        [captions.means(run), "nearest training\nexample"],
        note=captions.note(run),
        value_range=captions.shown_range(run, torch.cat([means, nearest])),
    )


def captioned(run: Run, caption: str, drawn: Captioned, rule: SamplingRule = _PLAIN) -> Figure:
    """Pictures drawn for a caption, those that follow it best first, and the means beside them.

    Args:
        run: what they were drawn from.
        caption: that they were drawn for.
        drawn: of :meth:`Run.sample_caption`.
        rule: by which the codes were drawn.
    Raises:
        ElbowroomError: the data are not images.
    """
    captions.needs_images(run)
    return plots.samples_figure(
        drawn.x,
        drawn.mean,
        means_title=captions.means(run),
        note=captions.note(run, f"'{caption}', the best first", rule),
        value_range=captions.shown_range(run, drawn.mean),
    )


def _marginals(run: Run, num: int, context: Any, seed: int, note: str | None) -> Figure:
    """Histograms of samples, over those of training rows of the same context; alone for a run without its data."""
    try:
        own = run.dataset()
    except MissingDataError as error:
        drawn = run.sample(num, context=contexts(run, num) if context is None else context, seed=seed)
        alone = f"Samples x ~ p(x | z) alone. {error.problem}"
        said = " ".join(filter(None, (alone, note)))
        return plots.marginals_figure(drawn.x, names=run.naming.columns, kinds=run.facts.columns, note=said)
    if context is None:
        context = _training_contexts(run, num)  # of the rows that are drawn beside
    else:
        own, which = rows_in_context(run, own, context)
        note = " ".join(f"{part.rstrip('.')}." for part in (note, which) if part)
    drawn = run.sample(num, context=context, seed=seed)
    seen = torch.cat([as_observed(batch).cpu() for batch in own.batches("train", num, points=num)])
    known: dict[str, Any] = {"names": run.naming.columns, "kinds": run.facts.columns}
    return plots.marginals_figure(own.view.restored(seen), drawn.x, note=note, **known)


def contexts(run: Run, num: int) -> Tensor | None:
    """Covariates of training examples, for a model that needs covariates other than class labels; else None."""
    return None if run.config.data.context == "labels" else _training_contexts(run, num)


def _training_contexts(run: Run, num: int) -> Tensor | None:
    """The context of training examples, shape (num, context_dim); None for a model without."""
    if not run.facts.context_dim:
        return None
    data = run.dataset()
    batch = next(iter(data.batches("train", num, points=num)))
    assert batch.index is not None
    given = data.context_as_given(batch.index)
    assert given is not None
    return given.repeat(-(-num // len(given)), 1)[:num]


def reconstructions(run: Run, num: int = 10, *, data: Any = None, split: str | None = None, seed: int = 0) -> Figure:
    """Examples above their reconstructions: means (and samples) of p(x | z) for one z ~ q(z | x) each."""
    _check_number(num)
    images = plots.is_image(run.facts.event_shape)
    independent = not run.model.likelihood.sees_other_elements
    found = run.reconstruct(num if images else max(num, 1000), data=data, split=split, seed=seed)
    if not images:
        return plots.reconstruction_scatter(
            found.observed,
            found.mean,
            names=run.naming.columns,
            kinds=run.facts.columns,
            note=captions.note(run),
        )
    return plots.reconstruction_figure(
        found.observed,
        found.mean,
        samples=found.sample,
        means_label="mean of p(x | z),\nz ~ q(z | x)" if independent else "mean given z ~ q(z | x)\nand earlier pixels",
        note=captions.note(run),
        value_range=captions.shown_range(run, found.observed),
    )


def completions(run: Run, imputed: Imputed) -> Figure:
    """Examples with missing parts, beside their completions; the first ones that miss something.

    Raises:
        ElbowroomError: the data are not images.
    """
    captions.needs_images(run)
    rows = imputed.incomplete[:_COMPLETED]
    means = imputed.completed if imputed.mean is None else imputed.mean
    truth = None
    if imputed.truth is not None and imputed.hidden is not None:  # what was missing before anything was hidden
        truth = torch.where(imputed.mask | imputed.hidden, imputed.truth, torch.nan)[rows]
    return plots.completions_figure(
        imputed.x[rows],
        imputed.mask[rows],
        means[rows],
        imputed.samples[:, rows],
        truth=truth,
        note=captions.note(run),
        value_range=captions.shown_range(run, imputed.samples[:, rows]),
    )


def manifold(run: Run, r: int = 20, *, context: Any = None) -> Figure:
    """The means over a grid of the prior's quantiles, of a conditional model for one context.

    Args:
        run: what to decode with.
        r: number of points along each axis.
        context: as in `Run.decode`; by default that of an example, the same as in :func:`traversals`.
    Raises:
        ElbowroomError: there are not two latent dimensions, or they are codes; the data are not images.
    """
    captions.needs_images(run)
    run.model.require_real("A manifold", _CODES_SHOWN)
    if run.config.model.latent_dim != 2 or run.config.model.groups:
        raise ElbowroomError(
            f"A manifold needs 2 latent dimensions, but this model has {run.config.model.latents}.",
            "Train with --model.latent-dim 2.",
        )
    note = captions.note(run, context)
    if run.facts.context_dim and context is None:
        context = _examples(run).context
        assert context is not None
        context = context[:1]
    grid = plots.manifold_grid(r).flatten(0, 1)
    means = run.decode(grid, context=context).reshape(r, r, *run.facts.event_shape)
    return plots.manifold_figure(
        means, title=captions.means(run), note=note, value_range=captions.shown_range(run, means)
    )


def _examples(run: Run) -> Batch:
    """Examples of the test set, or of the training set where there is no test set."""
    data = run.dataset()
    return next(iter(data.batches("test" if data.size("test") else "train", 1000, points=1000)))


def traversals(run: Run, *, steps: int = 9, reach: float = 2.0, context: Any = None) -> Figure:
    """Latent traversals: one dimension varied at a time around the posterior mean of an example, the most active first.

    The example is from the test set, or from the training set where there is no test set.

    Args:
        run: what to decode with.
        steps: number of values of a dimension.
        reach: the largest of them.
        context: what to decode with, as in `Run.decode`; by default that of the example.
    Raises:
        ElbowroomError: the data are not images; the latents are codes.
    """
    captions.needs_images(run)
    run.model.require_real("A latent traversal", _CODES_SHOWN)
    batch = _examples(run)
    with torch.no_grad():
        means = run.guide(batch.x, batch.context).mean
    dims = means.var(0, correction=0).argsort(descending=True)[:_TRAVERSED].tolist()
    values = torch.linspace(-reach, reach, steps, device=means.device, dtype=means.dtype)
    z = means[0].expand(len(dims), steps, -1).clone()
    for row, dim in enumerate(dims):
        z[row, :, dim] = values
    note = captions.note(run, context)
    if context is None and batch.index is not None:
        given = run.dataset().context_as_given(batch.index[:1])
        context = None if given is None else given.expand(len(dims) * steps, -1)
    decoded = run.decode(z.flatten(0, 1), context=context).reshape(len(dims), steps, *run.facts.event_shape)
    title = f"{captions.means(run)}, one coordinate of z varied"
    shown = captions.shown_range(run, decoded)
    return plots.traversal_figure(decoded, dims, values.cpu(), title=title, note=note, value_range=shown)


def latents(encoded: Encoded) -> Figure:
    """A scatter plot of the means of q(z | x), with the names of classes where they have names."""
    return plots.latent_scatter(encoded.mean, labels=_printed(encoded))


def _printed(encoded: Encoded) -> Tensor | NDArray[np.str_] | None:
    """Labels as they are called in the data: numbers stay numbers, in whose order they are shown."""
    names, labels = encoded.classes, encoded.labels
    if labels is None or names is None:
        return labels
    if all(name.removeprefix("-").isdecimal() for name in names):
        return torch.tensor([int(name) for name in names])[labels]
    named: NDArray[np.str_] = np.array(names)[labels.numpy()]
    return named


def holes(run: Run, aggregate: Aggregate, samples: SampleStudy) -> Figure:
    """Aggregate posterior against prior, with decoded means from both; from the doctor's studies."""
    grey = captions.shown_range(run, samples.data)
    return holes_figure(aggregate, samples, value_range=grey, title=run.folder.path.name)


def evaluation(run: Run, results: Sequence[Result]) -> Figure:
    """Bounds on log p(x), and the elbow room (inference gap) between the ELBO and the best of them.

    Args:
        run: whose results these are.
        results: on the same data, since results on different data cannot share an axis.
    Raises:
        ElbowroomError: none of them is finite and bounds log p(x).
    """
    rows = [result.model_dump() for result in results]
    return plots.evaluation_figure(rows, normalized=run.normalized, title=run.folder.path.name)


def k_curve(run: Run, results: Sequence[Result]) -> Figure:
    """The importance-weighted bound against the number of its draws.

    Args:
        run: whose results these are.
        results: of the method k-curve on the same data, by increasing k.
    """
    ks, values = [int(result.asked["k"]) for result in results], [result.value for result in results]
    return plots.k_curve_figure(ks, values, [result.stderr or 0.0 for result in results], title=run.folder.path.name)


def room(run: Run, results: Sequence[Result]) -> Figure:
    """The parts of the elbow room (inference gap), a bar for each split.

    Args:
        run: whose results these are.
        results: of the method room; others are ignored.
    Raises:
        ElbowroomError: a split without the parts of the elbow room.
    """
    return plots.room_figure(by_split(results), title=run.folder.path.name)


def comparison(found: Comparison) -> Figure:
    """log p(x) of each recipe against wall time and against decoder gradients.

    Raises:
        ElbowroomError: nothing was measured.
    """
    rows = [asdict(row) for row in sorted(found.rows, key=lambda row: row.moment)]
    rows.sort(key=lambda row: found.yardstick["splits"].index(row["split"]))
    failed = [name for name, entrant in found.entrants.items() if entrant.failed is not None]
    return plots.comparison_figure(rows, failed=failed, title=headline(found))


def _check_number(num: int) -> None:
    if num < 1:
        raise ElbowroomError(f"--num is {num}, but a figure needs at least one example.", "Give --num 1 or more.")
