"""The pictures of a report, each with what it shows in words and numbers.

Sheets of samples are drawn by the gallery, into a folder that is forgotten afterwards, so that pictures which the user
made with settings of their own stay as they are.
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from PIL import Image

from elbowroom.data.dataset import DataSet
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.results import Result
from elbowroom.evaluation.study import evaluation_mode
from elbowroom.running.observers import BOUNDS
from elbowroom.running.runs import Run
from elbowroom.showing import gallery, plots
from elbowroom.showing.report.content import Figure, Prose
from elbowroom.showing.report.words import estimate
from elbowroom.showing.style import BLUE, COLUMN, DPI, new_figure, thin_axes

__all__ = [
    "attempt",
    "chart",
    "curves",
    "k_curve",
    "latents",
    "manifold",
    "reconstructions",
    "samples",
    "sheet",
    "shown",
    "split_to_show",
    "traversals",
]

_CHART_DPI = 216  #: pixels per inch of a chart: nearly two for each of CSS's
_CSS_PER_INCH = 120  #: a little larger than life: type of 7 points is small on a screen
_HEAVIEST = 700_000  #: bytes of one sheet; a page has four at most, and stays below 5 MB
_LIGHTER = ((2, 88), (2, 70), (1, 80), (1, 60))  #: pixels for each of CSS's, and quality, until it is light
_ENCODED = 3000  #: data in the picture of the latent space
_RECONSTRUCTED = 10


def attempt(draw: Callable[[], Figure], what: str) -> Figure | Prose:
    """A picture, or the sentence that says why there is none: data that are gone, a model without a guide.

    Example:
        >>> def draw() -> Figure:
        ...     raise ElbowroomError("The data are gone.", "Put them back.")
        >>> attempt(draw, "Samples").text
        'Samples are not shown. The data are gone. Put them back.'
    """
    try:
        return draw()
    except ElbowroomError as error:
        return Prose(f"{what} are not shown. {error.problem} {error.remedy}", tone="missing")


def chart(drawing: Drawing, *, alt: str, caption: str) -> Figure:
    """A drawing with axes."""
    image = io.BytesIO()
    # without the software's name and version, equal figures are equal files
    drawing.savefig(image, format="png", dpi=_CHART_DPI, facecolor="white", metadata={"Software": None})
    width, height = (round(inches * _CSS_PER_INCH) for inches in drawing.get_size_inches())
    return Figure(image.getvalue(), alt, caption, width, height, readable=width > 1.2 * COLUMN * _CSS_PER_INCH)


def sheet(path: Path, *, alt: str, caption: str, readable: bool = False) -> Figure:
    """A sheet of pictures that was written to a file; a heavy one becomes a JPEG, which a screen shows as well.

    Args:
        path: of the PNG.
        alt, caption, readable: as in :class:`Figure`.
    """
    image = path.read_bytes()
    with Image.open(io.BytesIO(image)) as picture:
        density = picture.info.get("dpi", (DPI, DPI))[0]
        width, height = (round(pixels / density * _CSS_PER_INCH) for pixels in picture.size)
        for fineness, quality in _LIGHTER:
            if len(image) <= _HEAVIEST:
                break
            lighter = io.BytesIO()
            small = picture.convert("RGB")
            small.thumbnail((fineness * width, fineness * height))
            small.save(lighter, format="JPEG", quality=quality, optimize=True)
            image = lighter.getvalue()
    return Figure(image, alt, caption, width, height, readable)


def shown(run: Run, folder: Path) -> Run:
    """The same run, whose pictures go into another folder."""
    other = copy.copy(run)
    other.folder = copy.copy(run.folder)
    other.folder.figures = folder
    return other


def split_to_show(data: DataSet) -> str:
    """Data that the model did not learn from, where there are any."""
    return next((split for split in ("test", "validation") if data.size(split)), "train")


# --- training ----------------------------------------------------------------------------------------------------


def curves(run: Run, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Training curves, with where each began and ended."""
    drawing = plots.training_curves(rows, normalized=run.normalized)
    said = []
    for split in ("train", "validation"):
        found = [row for row in rows if row.get("split") == split and any(name in row for name in BOUNDS)]
        if found:
            name = next(name for name in BOUNDS if name in found[-1])
            first, last = (estimate(float(row.get(name, math.nan)), None) for row in (found[0], found[-1]))
            said.append(f"{BOUNDS[name]} of the {split} data from {first} at step {found[0].get('step', 0):,} "
                        f"to {last} at step {found[-1].get('step', 0):,}")  # fmt: skip
    unit = "nats per datum" if run.normalized else "per datum: cross-entropy, not a log-likelihood"
    return chart(
        drawing,
        alt=f"Training curves: {'; '.join(said)}; {unit}.",
        caption="The axes show the settled part; an arrow names what lies outside.",
    )


# --- what the model makes ----------------------------------------------------------------------------------------


def samples(run: Run, seed: int = 0) -> Figure:
    """Draws from the model beside the means that they were drawn from; of tables, marginals."""
    path = gallery.samples(run, seed=seed)
    if not plots.is_image(run.facts.event_shape):
        return sheet(
            path,
            alt="Histograms of each feature: 1,000 data or more, filled, and as many samples of the model as a line.",
            caption="D is the largest distance between the distribution functions of data and samples, 0 to 1.",
            readable=True,
        )
    classes = run.config.data.context == "labels"
    number = 10 * run.facts.context_dim if classes else 25
    rows = ", a row for each class" if classes else ""
    return sheet(
        path,
        alt=f"Left, {number} samples x of the model{rows}; right, the {number} means E[x | z] they were drawn from.",
        caption="Left, samples x ~ p(x | z) with z from the prior: what the model says that data look like. Right, the "
        "means E[x | z] of the same z, which are smoother than any datum and are no samples.",
    )


def reconstructions(run: Run, seed: int = 0) -> Figure:
    """Data beside what the model makes of them."""
    split = split_to_show(run.dataset())
    path = gallery.reconstructions(run, _RECONSTRUCTED, split=split, seed=seed)
    if not plots.is_image(run.facts.event_shape):
        return sheet(
            path,
            alt=f"Scatter plots, one for each feature: {split} data against the mean of p(x | z) after encoding; "
            "perfect reconstructions would lie on the diagonal.",
            caption="R² is the share of a feature's variance that the reconstruction explains.",
            readable=True,
        )
    number = min(_RECONSTRUCTED, run.dataset().size(split))
    return sheet(
        path,
        alt=f"Three rows of {number} pictures: {split} data; the mean of p(x | z) for one z ~ q(z | x) of each; a "
        "sample for the same z.",
        caption=f"{split.capitalize()} data above what the model makes of them after encoding: means, then samples.",
        readable=True,
    )


def latents(run: Run) -> Figure:
    """Where the guide puts data, coloured by label."""
    if not run.has_guide:
        raise ElbowroomError(
            f"This run was learned without a guide ({run.config.train.learner}), and data have no place in the latent "
            "space but their posteriors.",
            "`elbowroom encode RUN --posterior hmc` draws from these.",
        )
    data = run.dataset()
    split = split_to_show(data)
    means, rows = [], []
    with evaluation_mode(run.pair):
        for batch in data.batches(split, 1000, points=min(_ENCODED, data.size(split))):
            means.append(run.guide(batch.x, batch.context).mean.cpu())
            rows.append(batch.index)
    labels = None
    if data.labels is not None and all(index is not None for index in rows):
        labels = data.labels.cpu()[torch.cat([index.cpu() for index in rows if index is not None])]
    z = torch.cat(means)
    plane = {1: "the one latent", 2: "both latents"}.get(
        z.shape[1], f"two principal components of {z.shape[1]} latents"
    )
    coloured = "" if labels is None else f", coloured by {len(set(labels.tolist()))} labels"
    return chart(
        plots.latent_scatter(z, labels=labels, title=None),
        alt=f"Scatter plot of the means of q(z | x) of {len(z):,} {split} data in {plane}{coloured}.",
        caption=f"Means of q(z | x) of {len(z):,} {split} data. Under a standard normal prior, samples take z from a "
        "round cloud of standard deviation 1.",
    )


def traversals(run: Run) -> Figure:
    """One latent varied at a time."""
    return sheet(
        gallery.traversals(run),
        alt=f"A row for each of {min(8, run.config.model.latent_dim)} latents: means E[x | z] while this latent goes "
        "from −2 to 2 in nine steps and the others stay where a datum has them.",
        caption="What each latent does, the most active first.",
        readable=True,
    )


def manifold(run: Run) -> Figure:
    """The plane of two latents, decoded."""
    return sheet(
        gallery.manifold(run),
        alt="A grid of 20 × 20 means E[x | z] over the plane of both latents, at the quantiles of a standard normal.",
        caption="The plane of the two latents, decoded: each part as often as a standard normal prior proposes it.",
    )


# --- what was measured -------------------------------------------------------------------------------------------


def k_curve(results: Sequence[Result]) -> Figure:
    """The importance-weighted bound against the number of its draws.

    Args:
        results: of the method k-curve on the same data, two or more.
    """
    ordered = sorted(results, key=lambda result: int(result.asked["k"]))
    ks, values = [int(r.asked["k"]) for r in ordered], [r.value for r in ordered]
    drawing = new_figure(COLUMN, 2.3)
    axes = drawing.add_subplot()
    axes.errorbar(ks, values, yerr=[r.stderr or 0.0 for r in ordered], color=BLUE, marker="o", markersize=3.2,
                  linewidth=1.0, elinewidth=0.7, capsize=2, capthick=0.7)  # fmt: skip
    axes.set_xscale("log")
    thin_axes(axes, xlabel="draws k from the guide", ylabel="nats per datum, ± 1 s.e.")
    axes.xaxis.set_major_locator(LogLocator(10, numticks=8))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    said = ", ".join(f"k = {k:,}: {estimate(r.value, r.stderr)}" for k, r in zip(ks, ordered, strict=True))
    return chart(
        drawing,
        alt=f"The importance-weighted bound in nats per datum against its number of draws. {said}.",
        caption="Where the bound still rises with more draws, it is still loose. Errors are of the mean over data, the "
        "same data for every k, so that the rise is known far better than each value.",
    )
