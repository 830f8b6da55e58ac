"""The figures of a run: samples, reconstructions, curves, results.

Each function returns a figure, which a report shows and ``save`` writes into the run's ``figures/`` folder. `plots`
decides how a figure looks; this module decides what it contains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.doctor.aggregate_posterior import Aggregate
from elbowroom.evaluation.doctor.sample_quality import SampleStudy
from elbowroom.evaluation.results import Result
from elbowroom.running.comparison import Comparison
from elbowroom.running.impute import Imputed
from elbowroom.running.outputs import Encoded
from elbowroom.running.own_data import MissingDataError
from elbowroom.running.runs import Run
from elbowroom.showing import plots
from elbowroom.showing.figures.dataset import value_range
from elbowroom.showing.figures.holes import holes_figure
from elbowroom.showing.figures.room import by_split
from elbowroom.showing.figures.style import write
from elbowroom.showing.standings import headline

__all__ = [
    "comparison",
    "completions",
    "contexts",
    "curves",
    "evaluation",
    "holes",
    "k_curve",
    "latents",
    "manifold",
    "reconstructions",
    "room",
    "samples",
    "save",
    "traversals",
]

_TRAVERSED = 8  # latent dimensions in the figure of traversals
_COMPLETED = 10  # examples in the figure of completions


def save(run: Run, name: str, figure: Figure) -> Path:
    """Writes a figure into the run's folder, as figures/NAME.png.

    Raises:
        ElbowroomError: the folder cannot be written to.
    """
    return write(figure, run.folder.figures / f"{name}.png")


def _note(run: Run) -> str | None:
    return None if run.normalized else "cross-entropy of grey pixels: not a log-likelihood; samples are Bernoulli draws"


def _value_range(run: Run, shown: Tensor) -> tuple[float, float]:
    return value_range(run.facts.support, shown)


def curves(run: Run) -> Figure:
    """Training curves."""
    return plots.training_curves(run.history, normalized=run.normalized, title=run.folder.path.name)


def samples(run: Run, num: int = 25, *, seed: int = 0) -> Figure:
    """Samples and means side by side; a row per class for a model of labels; marginals where data are not images."""
    _check_number(num)
    if not plots.is_image(run.facts.event_shape):
        num = max(num, 1000)
        drawn = run.sample(num, context=contexts(run, num), seed=seed)
        try:
            data = torch.cat([batch.x.cpu() for batch in run.dataset().batches("train", num, points=num)])
        except MissingDataError as error:  # a run without its data has samples all the same
            alone = f"Samples x ~ p(x | z) alone. {error.problem}"
            return plots.marginals_figure(drawn.x, note=" ".join(filter(None, (alone, _note(run)))))
        return plots.marginals_figure(data, drawn.x, note=_note(run))
    if run.config.data.context == "labels":
        classes = run.facts.context_dim
        drawn = run.sample(classes * 10, seed=seed)
        x, mean = (tensor.reshape(classes, 10, *run.facts.event_shape) for tensor in (drawn.x, drawn.mean))
        return plots.class_rows_figure(
            x, mean, range(classes), note=_note(run), value_range=_value_range(run, drawn.mean)
        )
    drawn = run.sample(num, context=contexts(run, num), seed=seed)
    return plots.samples_figure(drawn.x, drawn.mean, note=_note(run), value_range=_value_range(run, drawn.mean))


def contexts(run: Run, num: int) -> Tensor | None:
    """Covariates of training examples, for a model that needs covariates other than class labels; else None."""
    if not run.facts.context_dim or run.config.data.context == "labels":
        return None
    given = next(iter(run.dataset().batches("train", num, points=num))).context
    assert given is not None
    return given.repeat(-(-num // len(given)), 1)[:num]


def reconstructions(run: Run, num: int = 10, *, data: Any = None, split: str = "test", seed: int = 0) -> Figure:
    """Examples above their reconstructions: means (and samples) of p(x | z) for one z ~ q(z | x) each."""
    _check_number(num)
    images = plots.is_image(run.facts.event_shape)
    found = run.reconstruct(num if images else max(num, 1000), data=data, split=split, seed=seed)
    if not images:
        return plots.reconstruction_scatter(found.x, found.mean, note=_note(run))
    return plots.reconstruction_figure(
        found.x, found.mean, samples=found.sample, note=_note(run), value_range=_value_range(run, found.x)
    )


def completions(run: Run, imputed: Imputed) -> Figure:
    """Examples with missing parts, beside their completions; the first ones that miss something.

    Raises:
        ElbowroomError: the data are not images.
    """
    _needs_images(run)
    rows = imputed.incomplete[:_COMPLETED]
    means = imputed.completed if imputed.mean is None else imputed.mean
    truth = None if imputed.truth is None else imputed.truth[rows]
    return plots.completions_figure(
        imputed.x[rows],
        imputed.mask[rows],
        means[rows],
        imputed.samples[:, rows],
        truth=truth,
        note=_note(run),
        value_range=_value_range(run, imputed.samples[:, rows]),
    )


def manifold(run: Run, r: int = 20) -> Figure:
    """The means over a grid of the prior's quantiles.

    Raises:
        ElbowroomError: there are not two latent dimensions, or the data are not images.
    """
    _needs_images(run)
    if run.config.model.latent_dim != 2:
        raise ElbowroomError(
            f"A manifold needs 2 latent dimensions, but this model has {run.config.model.latent_dim}.",
            "Train with --model.latent-dim 2.",
        )
    means = run.decode(plots.manifold_grid(r).flatten(0, 1)).reshape(r, r, *run.facts.event_shape)
    return plots.manifold_figure(means, note=_note(run), value_range=_value_range(run, means))


def traversals(run: Run, *, steps: int = 9, reach: float = 2.0) -> Figure:
    """Latent traversals: one dimension varied at a time around the posterior mean of an example, the most active first.

    The example is from the test set, or from the training set where there is no test set.

    Raises:
        ElbowroomError: the data are not images.
    """
    _needs_images(run)
    data = run.dataset()
    batch = next(iter(data.batches("test" if data.size("test") else "train", 1000, points=1000)))
    with torch.no_grad():
        means = run.guide(batch.x, batch.context).mean
    dims = means.var(0).argsort(descending=True)[:_TRAVERSED].tolist()
    values = torch.linspace(-reach, reach, steps, device=means.device, dtype=means.dtype)
    z = means[0].expand(len(dims), steps, -1).clone()
    for row, dim in enumerate(dims):
        z[row, :, dim] = values
    context = None if batch.context is None else batch.context[0].expand(len(dims) * steps, -1)
    decoded = run.decode(z.flatten(0, 1), context=context).reshape(len(dims), steps, *run.facts.event_shape)
    return plots.traversal_figure(decoded, dims, values.cpu(), note=_note(run), value_range=_value_range(run, decoded))


def latents(encoded: Encoded) -> Figure:
    """A scatter plot of the means of q(z | x)."""
    return plots.latent_scatter(encoded.mean, labels=encoded.labels)


def holes(run: Run, aggregate: Aggregate, samples: SampleStudy) -> Figure:
    """Aggregate posterior against prior, with decoded means from both; from the doctor's studies."""
    grey = _value_range(run, samples.data)
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


def _needs_images(run: Run) -> None:
    if not plots.is_image(run.facts.event_shape):
        raise ElbowroomError(
            f"Data of shape {run.facts.event_shape} are not images, so this cannot be drawn.",
            "`elbowroom sample` draws their marginals.",
        )
