"""The figures of a report: those of the gallery, each with a caption and a text alternative."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure as Drawing
from PIL import Image

from elbowroom.data.dataset import DataSet
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.code_usage import code_usage
from elbowroom.evaluation.doctor.groups import group_sizes
from elbowroom.evaluation.results import Result
from elbowroom.running.observers import BOUNDS
from elbowroom.running.runs import Run
from elbowroom.showing import code_gallery, gallery, plots
from elbowroom.showing.figures.style import COLUMN, png
from elbowroom.showing.report.blocks import Figure, Prose
from elbowroom.showing.report.words import estimate, split_data

__all__ = [
    "attempt",
    "chart",
    "code_examples",
    "code_growth",
    "code_maps",
    "code_swaps",
    "codes",
    "curves",
    "k_curve",
    "latents",
    "manifold",
    "nearest_training",
    "reconstructions",
    "samples",
    "sheet",
    "split_to_show",
    "traversals",
]

_CHART_DPI = 216  #: pixels per inch of a chart: nearly two per CSS pixel
_CSS_PER_INCH = 120  #: CSS pixels per inch; more than 96, since type of 7 points is small on a screen
_MAX_SHEET_BYTES = 700_000  #: largest size of one sheet in bytes; a page has four at most, and stays below 5 MB
_JPEG_STEPS = ((2, 88), (2, 70), (1, 80), (1, 60))  #: (pixels per CSS pixel, JPEG quality), tried in this order
_ENCODED = 3000  #: examples in the picture of the latent space
_RECONSTRUCTED = 10


def attempt(draw: Callable[[], Figure], what: str) -> Figure | Prose:
    """A figure, or a sentence that says why there is none (data no longer there, a model without a guide).

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
    """The figure of a chart, a drawing with axes."""
    width, height = _size(drawing)
    readable = width > 1.2 * COLUMN * _CSS_PER_INCH
    return Figure(png(drawing, _CHART_DPI), alt, caption, width, height, readable)


def sheet(drawing: Drawing, *, alt: str, caption: str, readable: bool = False) -> Figure:
    """The figure of a sheet of pictures; a large one is stored as JPEG.

    Args:
        drawing: with its own pixels per inch, at which no picture of it is interpolated.
        alt, caption, readable: as in :class:`Figure`.
    """
    image, (width, height) = png(drawing), _size(drawing)
    with Image.open(io.BytesIO(image)) as picture:
        for fineness, quality in _JPEG_STEPS:
            if len(image) <= _MAX_SHEET_BYTES:
                break
            lighter = io.BytesIO()
            small = picture.convert("RGB")
            small.thumbnail((fineness * width, fineness * height))
            small.save(lighter, format="JPEG", quality=quality, optimize=True)
            image = lighter.getvalue()
    return Figure(image, alt, caption, width, height, readable)


def _size(drawing: Drawing) -> tuple[int, int]:
    """Width and height in CSS pixels."""
    width, height = (round(inches * _CSS_PER_INCH) for inches in drawing.get_size_inches())
    return width, height


def split_to_show(data: DataSet) -> str:
    """A split that the model was not trained on, where there is one."""
    return next((split for split in ("test", "validation") if data.size(split)), "train")


# --- training ----------------------------------------------------------------------------------------------------


def curves(run: Run, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Training curves; the text alternative has the first and last value of each."""
    said = []
    for split in ("train", "validation"):
        found = [row for row in rows if row.get("split") == split and any(name in row for name in BOUNDS)]
        if found:
            name = next(name for name in BOUNDS if name in found[-1])
            first, last = (estimate(float(row.get(name, math.nan)), None) for row in (found[0], found[-1]))
            said.append(f"{BOUNDS[name]} on {split_data(split)} from {first} at step {found[0].get('step', 0):,} "
                        f"to {last} at step {found[-1].get('step', 0):,}")  # fmt: skip
    unit = "nats per example" if run.normalized else "per example: cross-entropy, not a log-likelihood"
    return chart(
        gallery.curves(run),
        alt=f"Training curves: {'; '.join(said)}; {unit}.",
        caption="The axes show the later part of training; an arrow gives the most extreme value outside.",
    )


# --- samples, reconstructions, latents ---------------------------------------------------------------------------


def samples(run: Run, seed: int = 0) -> Figure:
    """Samples of the model beside their means; for tables, marginal histograms."""
    if not plots.is_image(run.facts.event_shape):
        run.dataset()  # without data there is nothing to compare with
    drawing = gallery.samples(run, seed=seed)
    if not plots.is_image(run.facts.event_shape):
        return sheet(
            drawing,
            alt="Histograms of each feature: 1,000 or more rows of data, filled; as many samples, as a line.",
            caption="D is the Kolmogorov-Smirnov distance between data and samples, from 0 to 1.",
            readable=True,
        )
    classes = run.config.data.context == "labels"
    number = 10 * run.facts.context_dim if classes else 25
    rows = ", a row for each class" if classes else ""
    if run.model.likelihood.sees_other_elements:
        means = "the mean of each pixel given z and the pixels before it in the sample"
    else:
        means = "the means E[x | z] of the same z"
    return sheet(
        drawing,
        alt=f"Left, {number} samples x of the model{rows}; right, {means}.",
        caption=f"Left: samples x ~ p(x | z) with z from the prior. Right: {means}. Means are smoother than data, and "
        "are not samples.",
    )


def nearest_training(run: Run, seed: int = 0) -> Figure:
    """Samples above the training examples that are nearest to them: are they copies?"""
    return sheet(
        gallery.nearest_training(run, seed=seed),
        alt="Two rows of pictures: means of samples, and below each the training example nearest to it.",
        caption="Above: means E[x | z] of samples. Below: of all training examples the one with the smallest Euclidean "
        "distance to the mean. A model that copies shows the same picture twice; elbowroom evaluate --methods samples "
        "measures it beside held-out data.",
        readable=True,
    )


def reconstructions(run: Run, seed: int = 0) -> Figure:
    """Reconstructions: examples beside means and samples of p(x | z), z ~ q(z | x)."""
    split = split_to_show(run.dataset())
    drawing = gallery.reconstructions(run, _RECONSTRUCTED, split=split, seed=seed)
    if not plots.is_image(run.facts.event_shape):
        return sheet(
            drawing,
            alt=f"Scatter plots, one for each feature: {split} data against the mean of p(x | z) after encoding; "
            "perfect reconstructions would lie on the diagonal.",
            caption="R² is the share of a feature's variance that the reconstruction explains.",
            readable=True,
        )
    number = min(_RECONSTRUCTED, run.dataset().size(split))
    before = run.model.likelihood.sees_other_elements
    means = "means of each pixel given z and the pixels before it in the sample," if before else "means of p(x | z)"
    return sheet(
        drawing,
        alt=f"Three rows of {number} pictures: {split} examples; {means} for one z ~ q(z | x) of each; a sample for "
        "the same z.",
        caption=f"From top to bottom: {split} examples; {means} for z ~ q(z | x); samples for the same z.",
        readable=True,
    )


def latents(run: Run) -> Figure:
    """Means of q(z | x) in the latent plane, coloured by label."""
    data = run.dataset()
    split = split_to_show(data)
    encoded = run.encode(split=split, points=_ENCODED)
    z, labels = encoded.mean, encoded.labels
    plane = {1: "the one latent dimension", 2: "both latent dimensions"}.get(
        z.shape[1], f"two principal components of {z.shape[1]} latent dimensions"
    )
    coloured = "" if labels is None else f", coloured by {len(set(labels.tolist()))} labels"
    return chart(
        gallery.latents(encoded),
        alt=f"Scatter plot of the means of q(z | x) of {len(z):,} {split} examples in {plane}{coloured}.",
        caption=f"Means of q(z | x) of {len(z):,} {split} examples. Under a standard normal prior, samples take z from "
        "a round cloud with standard deviation 1.",
    )


def codes(run: Run) -> Figure:
    """How often each code is used, and the perplexity of each slot."""
    split = split_to_show(run.dataset())
    encoded, space = run.encode(split=split), run.model.space
    assert encoded.codes is not None
    found = code_usage(space, encoded.codes)
    number = len(encoded.codes)
    return chart(
        code_gallery.codes(run, encoded),
        alt=f"A row for each of {space.slots} slots: the shares of {number:,} {split} examples that have each of its "
        f"{space.codes} codes, and the slot's perplexity. {found.used:,} of {space.dim:,} codes are used; the mean "
        f"perplexity is {estimate(found.perplexity, found.stderr)}.",
        caption=f"The most likely code of each slot, of {number:,} {split} examples: {found.used:,} of {space.dim:,} "
        f"codes are used. The perplexity of a slot, on average {estimate(found.perplexity, found.stderr)}, is the "
        "number of equally frequent codes that would be as uncertain.",
    )


def code_examples(run: Run) -> Figure:
    """Examples that have a code most certainly."""
    split = split_to_show(run.dataset())
    return sheet(
        code_gallery.code_examples(run, split=split),
        alt=f"A row for each of some codes: the {split} examples to which the guide gives this code with the largest "
        "probability.",
        caption=f"What codes stand for: {split} examples to which q(z | x) gives a code with the largest probability, "
        "for the two most frequent codes of the slots whose codes are used most evenly.",
        readable=True,
    )


def code_maps(run: Run, seed: int = 0) -> Figure:
    """The codes of examples at their places, and completions by the prior."""
    split = split_to_show(run.dataset())
    return sheet(
        code_gallery.code_maps(run, split=split, seed=seed),
        alt=f"Five rows of pictures: {split} examples; the code of each place as a colour; the mean of these codes; "
        "twice the mean with the codes of the lower half drawn from the prior given those of the upper half.",
        caption=f"From top to bottom: {split} examples; the most likely code at each place, a colour for each; the "
        "mean E[x | z] of these codes; two completions, in which the codes of the upper half are kept and those of the "
        "lower half are drawn from the prior p(z) given them.",
        readable=True,
    )


def code_growth(run: Run, seed: int = 0) -> Figure:
    """How samples grow, code by code."""
    split = split_to_show(run.dataset()) if run.facts.context_dim else "train"
    return sheet(
        code_gallery.code_growth(run, split=split, seed=seed),
        alt="A row for each of six samples: what the model expects of the picture when none of its codes is known, and "
        "as more and more of them are; at the end the mean of all codes.",
        caption="How a sample grows: its codes are drawn from the prior one after the other. Each picture is the mean "
        "E[x | the codes known so far], averaged over 16 draws of the codes that follow; the last one is E[x | z].",
        readable=True,
    )


def code_swaps(run: Run) -> Figure:
    """Means while the code of one slot is exchanged."""
    return sheet(
        code_gallery.code_swaps(run),
        alt="A row for each of some slots: means with each of its most frequent codes, while the other slots "
        "keep the codes of one example.",
        caption="The effect of each slot: its code is exchanged, the number is above the picture, and the other slots "
        "keep those of one example.",
        readable=True,
    )


def traversals(run: Run) -> Figure:
    """Latent traversals: one latent dimension varied at a time."""
    latents = sum(group_sizes(run.model)) or run.config.model.latent_dim
    return sheet(
        gallery.traversals(run),
        alt=f"A row for each of {min(8, latents)} latent dimensions: means while this "
        "dimension goes from −2 to 2 in nine steps and the others stay as encoded from one example.",
        caption="The effect of each latent dimension, the most active first.",
        readable=True,
    )


def manifold(run: Run) -> Figure:
    """Decoded means over the plane of two latent dimensions."""
    return sheet(
        gallery.manifold(run),
        alt="A grid of 20 × 20 means over both latent dimensions, at the quantiles of a standard normal.",
        caption="The plane of the two latent dimensions, decoded. Every cell is equally probable under a standard "
        "normal prior.",
    )


# --- what was measured -------------------------------------------------------------------------------------------


def k_curve(run: Run, results: Sequence[Result]) -> Figure:
    """The importance-weighted bound against the number of its draws.

    Args:
        run: whose results these are.
        results: of the method k-curve on the same data, two or more.
    """
    ordered = sorted(results, key=lambda result: int(result.asked["k"]))
    said = ", ".join(f"k = {int(r.asked['k']):,}: {estimate(r.value, r.stderr)}" for r in ordered)
    return chart(
        gallery.k_curve(run, ordered),
        alt=f"The importance-weighted bound in nats per example against its number of draws. {said}.",
        caption="Where the bound still rises with more draws, it is still loose. Every k uses the same examples, so "
        "the rise is known more precisely than the error bars of the single values suggest.",
    )
