"""The pictures of a run, drawn into its ``figures/`` folder: what to show of which model, and under which name.

How a picture looks is decided in `plots`; here it is decided what goes into it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.running.imputing import Imputed
from elbowroom.running.runs import Encoded, Run
from elbowroom.showing import plots

__all__ = ["completions", "contexts", "curves", "latents", "manifold", "reconstructions", "samples", "traversals"]

_TRAVERSED = 8  # latents in the picture of traversals
_COMPLETED = 10  # data in the picture of completions


def _note(run: Run) -> str | None:
    return None if run.normalized else "cross-entropy of grey pixels: not a log-likelihood; samples are Bernoulli draws"


def _value_range(run: Run, shown: Tensor) -> tuple[float, float]:
    """Black and white: the ends of the support, or of the values shown where it has none."""
    if run.facts.support in (Support.BINARY, Support.UNIT_INTERVAL):
        return (0.0, 1.0)
    if run.facts.support is Support.BYTES:
        return (0.0, 255.0)
    return (float(shown.min()), float(shown.max()))


def curves(run: Run) -> Path:
    """Training curves."""
    path = run.folder.figures / "curves.png"
    plots.training_curves(run.history, normalized=run.normalized, title=run.folder.path.name, path=path)
    return path


def samples(run: Run, num: int = 25, *, seed: int = 0) -> Path:
    """Samples and means side by side; a row per class for a model of labels; marginals where data are no pictures."""
    _check_number(num)
    path = run.folder.figures / "samples.png"
    if not plots.is_image(run.facts.event_shape):
        num = max(num, 1000)
        drawn = run.sample(num, context=contexts(run, num), seed=seed)
        data = torch.cat([batch.x.cpu() for batch in run.dataset().batches("train", num, points=num)])
        plots.marginals_figure(data, drawn.x, note=_note(run), path=path)
        return path
    if run.config.data.context == "labels":
        classes = run.facts.context_dim
        drawn = run.sample(classes * 10, seed=seed)
        x, mean = (tensor.reshape(classes, 10, *run.facts.event_shape) for tensor in (drawn.x, drawn.mean))
        grey = _value_range(run, drawn.mean)
        plots.class_rows_figure(x, mean, range(classes), note=_note(run), value_range=grey, path=path)
        return path
    drawn = run.sample(num, context=contexts(run, num), seed=seed)
    plots.samples_figure(drawn.x, drawn.mean, note=_note(run), value_range=_value_range(run, drawn.mean), path=path)
    return path


def contexts(run: Run, num: int) -> Tensor | None:
    """Covariates of training data, for a model that needs some and has no classes to go through; else None."""
    if not run.facts.context_dim or run.config.data.context == "labels":
        return None
    given = next(iter(run.dataset().batches("train", num, points=num))).context
    assert given is not None
    return given.repeat(-(-num // len(given)), 1)[:num]


def reconstructions(run: Run, num: int = 10, *, split: str = "test", seed: int = 0) -> Path:
    """Data above the means (and draws) of p(x | z) for one z ~ q(z | x) each."""
    _check_number(num)
    path = run.folder.figures / "reconstructions.png"
    images = plots.is_image(run.facts.event_shape)
    found = run.reconstruct(num if images else max(num, 1000), split=split, seed=seed)
    if images:
        grey = _value_range(run, found.x)
        plots.reconstruction_figure(
            found.x, found.mean, samples=found.sample, note=_note(run), value_range=grey, path=path
        )
    else:
        plots.reconstruction_scatter(found.x, found.mean, note=_note(run), path=path)
    return path


def completions(run: Run, imputed: Imputed) -> Path:
    """Data of which a part is missing, beside their completions; the first ones that miss something.

    Raises:
        ElbowroomError: the data are no pictures.
    """
    _needs_images(run)
    path = run.folder.figures / "completions.png"
    rows = imputed.incomplete[:_COMPLETED]
    means = imputed.completed if imputed.mean is None else imputed.mean
    truth = None if imputed.truth is None else imputed.truth[rows]
    plots.completions_figure(
        imputed.x[rows],
        imputed.mask[rows],
        means[rows],
        imputed.samples[:, rows],
        truth=truth,
        note=_note(run),
        value_range=_value_range(run, imputed.samples[:, rows]),
        path=path,
    )
    return path


def manifold(run: Run, r: int = 20) -> Path:
    """The means over a grid of the prior's quantiles.

    Raises:
        ElbowroomError: the latents are not two, or the data no pictures.
    """
    _needs_images(run)
    if run.config.model.latent_dim != 2:
        raise ElbowroomError(
            f"A manifold is drawn of 2 latents, and this model has {run.config.model.latent_dim}.",
            "Train with --model.latent-dim 2.",
        )
    path = run.folder.figures / "manifold.png"
    means = run.decode(plots.manifold_grid(r).flatten(0, 1)).reshape(r, r, *run.facts.event_shape)
    plots.manifold_figure(means, note=_note(run), value_range=_value_range(run, means), path=path)
    return path


def traversals(run: Run, *, steps: int = 9, reach: float = 2.0) -> Path:
    """One latent varied at a time around the posterior mean of a datum, the most active latents first.

    The datum is of the test set, or of the training set where no test set was kept.

    Raises:
        ElbowroomError: the data are no pictures.
    """
    _needs_images(run)
    path = run.folder.figures / "traversals.png"
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
    grey = _value_range(run, decoded)
    plots.traversal_figure(decoded, dims, values.cpu(), note=_note(run), value_range=grey, path=path)
    return path


def latents(run: Run, encoded: Encoded) -> Path:
    """Where the guide puts the data."""
    path = run.folder.figures / "latents.png"
    plots.latent_scatter(encoded.mean, labels=encoded.labels, path=path)
    return path


def _check_number(num: int) -> None:
    if num < 1:
        raise ElbowroomError(f"--num is {num}, but a picture shows something.", "Give --num 1 or more.")


def _needs_images(run: Run) -> None:
    if not plots.is_image(run.facts.event_shape):
        raise ElbowroomError(
            f"Data of shape {run.facts.event_shape} are no pictures, so this cannot be drawn.",
            "`elbowroom sample` draws their marginals.",
        )
