"""The figures of a run whose latents are codes: how often they are used, and what they do."""

from __future__ import annotations

from itertools import accumulate
from typing import Any, cast

import torch
from matplotlib.figure import Figure
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.code_usage import code_usage
from elbowroom.model.code_distributions import AutoregressiveCodes, CodeGrid, Codes, CodeSpace
from elbowroom.model.latent import evaluation_mode
from elbowroom.running.build_codes import code_grids
from elbowroom.running.outputs import Encoded
from elbowroom.running.runs import Run
from elbowroom.showing import captions, plots
from elbowroom.showing.figures.dataset import as_observed

__all__ = ["code_examples", "code_growth", "code_maps", "code_swaps", "codes"]

_NEAREST = 10  # examples of a code
_SHOWN_SLOTS = 8  # in the figures of codes that show pictures
_MAPPED = 8  # examples with a map of their codes
_SHOWN_CODES = 10  # of each of them
_GROWN = 6  # samples that grow
_STAGES = 8  # of their growth
_REST = 16  # draws of the codes that are not known yet


def codes(run: Run, encoded: Encoded) -> Figure:
    """How often each code is used, by the most likely code of each slot, and the perplexity of each slot.

    Args:
        run: whose latents are codes.
        encoded: examples, from `Run.encode`.
    Raises:
        ElbowroomError: the latents are real vectors.
    """
    counts = _code_counts(run, encoded)
    one_slot = CodeSpace(1, run.model.space.codes)
    numbers = encoded.codes
    assert numbers is not None
    perplexity = [code_usage(one_slot, numbers[:, [slot]]).plug_in for slot in range(len(counts))]
    return plots.code_usage_figure(counts / len(numbers), perplexity, note=f"{len(numbers):,} examples.")


def _code_counts(run: Run, encoded: Encoded) -> Tensor:
    """How many examples have each code, shape (slots, codes)."""
    assert encoded.codes is not None or run.model.space  # which refuses a continuous z
    one_hot = run.model.space.one_hot(cast(Tensor, encoded.codes))
    counts: Tensor = run.model.space.split(one_hot).sum(0)
    return counts


def _lively_slots(counts: Tensor) -> list[int]:
    """The slots whose codes are used most evenly, the most even first."""
    shares = counts / counts.sum(1, keepdim=True)
    order = torch.special.entr(shares).sum(1).argsort(descending=True, stable=True)
    return [int(slot) for slot in order[:_SHOWN_SLOTS]]


def code_examples(run: Run, *, split: str = "test") -> Figure:
    """Examples of codes: of the two most frequent codes of some slots, the examples that have them most certainly.

    Args:
        run: whose latents are codes.
        split: of which the examples are.
    Raises:
        ElbowroomError: the data are not images; the latents are real vectors.
    """
    captions.needs_images(run)
    data, space = run.dataset(), run.model.space
    encoded = run.encode(split=split)
    counts, probs = _code_counts(run, encoded), space.split(encoded.mean)
    chosen = [
        (slot, int(code))
        for slot in _lively_slots(counts)[: _SHOWN_SLOTS // 2]
        for code in counts[slot].argsort(descending=True, stable=True)[:2]
    ]
    rows = [probs[:, slot, code].argsort(descending=True, stable=True)[:_NEAREST] for slot, code in chosen]
    every = torch.stack(rows)
    pictures = as_observed(data.take(split, every.flatten())).cpu().reshape(*every.shape, *run.facts.event_shape)
    return plots.code_pictures_figure(
        pictures,
        [f"slot {slot + 1}, code {code}" for slot, code in chosen],
        title=f"{split} examples that have a code most certainly",
        note=captions.note(run),
        value_range=captions.shown_range(run, pictures),
    )


def code_swaps(run: Run, *, context: Any = None) -> Figure:
    """What the codes of a slot do: means while the code of one slot is exchanged, and the others stay.

    The codes of the others are those of an example, from the test set, or from the training set where there is none.

    Args:
        run: whose latents are codes.
        context: what to decode with, as in `Run.decode`; by default that of the example.
    Raises:
        ElbowroomError: the data are not images; the latents are real vectors; there is no guide.
    """
    captions.needs_images(run)
    space, data = run.model.space, run.dataset()
    split = "test" if data.size("test") else "train"
    encoded = run.encode(split=split, points=1000)
    counts = _code_counts(run, encoded)
    slots, columns = _lively_slots(counts), min(_SHOWN_CODES, space.codes)
    swapped = counts[slots].argsort(dim=1, descending=True, stable=True)[:, :columns]  # (slots shown, columns)
    numbers = cast(Tensor, encoded.codes)[0].repeat(len(slots), columns, 1)
    for row, slot in enumerate(slots):
        numbers[row, :, slot] = swapped[row]
    if context is None:
        given = data.context_as_given(torch.tensor(encoded.rows["row"][:1]))
        context = None if given is None else given.expand(len(slots) * columns, -1)
    means = run.decode(space.one_hot(numbers).flatten(0, 1), context=context)
    order = "Above each picture the code of its slot, the most frequent first; slots whose codes are used evenly first."
    return plots.code_pictures_figure(
        means.reshape(len(slots), columns, *run.facts.event_shape),
        [f"slot {slot + 1}" for slot in slots],
        captions=[str(code) for code in swapped.flatten().tolist()],
        title=f"{captions.means(run)}, the code of one slot exchanged",
        note=" ".join(filter(None, (order, captions.note(run, context)))),
        value_range=captions.shown_range(run, means),
    )


def code_maps(run: Run, *, split: str = "test", seed: int = 0) -> Figure:
    """Codes where they are: examples, the code of every place, the mean of these codes, and completions by the prior.

    Below the mean, the codes of the upper half are kept and those of the lower half drawn from the prior given them,
    p(z_low | z_up), twice. Where codes are on several levels, those of the upper levels are kept and all below drawn.

    Args:
        run: whose slots are at the places of a grid, the first of which is shown where a place has several.
        split: of which the examples are.
        seed: of the draws.
    Raises:
        ElbowroomError: the data are not images; the slots have no places; there is no guide.
    """
    captions.needs_images(run)
    grids, data, space = _grids(run), run.dataset(), run.model.space
    numbers = cast(Tensor, run.encode(split=split, points=_MAPPED).codes)
    batch = next(iter(data.batches(split, _MAPPED, points=_MAPPED)))
    assert batch.index is not None  # only a stream has no positions
    pictures, context = as_observed(batch).cpu(), data.context_as_given(batch.index.cpu())
    z, top = space.one_hot(numbers).to(batch.x), grids[0]
    if len(grids) == 1:
        known, labels = [top.height // 2 * top.width * top.each], ["lower half", "by p(z)"]
    else:
        known = list(accumulate(grid.slots for grid in grids[:-1]))
        labels = [f"level {level} alone" if level == 1 else f"levels 1 to {level}" for level in range(1, len(grids))]
        labels = [label for each in labels for label in (each, "again")]
    with torch.no_grad():
        p = run.model.prior(None, batch.context)
        assert isinstance(p, Codes | AutoregressiveCodes)
        generator = torch.Generator(z.device).manual_seed(seed)
        completed = [each for slots in known for each in p.sample_after(z, slots, (2,), generator=generator)]
    maps = [
        own.reshape(-1, grid.height, grid.width, grid.each)[..., 0]
        for own, grid in zip(numbers.split_with_sizes([grid.slots for grid in grids], -1), grids, strict=True)
    ]
    return plots.code_maps_figure(
        pictures,
        maps if len(maps) > 1 else maps[0],
        torch.stack([run.decode(each, context=context) for each in (z, *completed)]),
        ["mean", *labels],
        codes=space.codes,
        title=f"{split} examples, their codes by place, {captions.means(run)}",
        note=captions.note(run),
        value_range=captions.shown_range(run, pictures),
    )


def code_growth(run: Run, *, split: str = "test", seed: int = 0) -> Figure:
    r"""How samples grow, code by code: what the model expects of x once the first t codes of a draw are known.

    .. math:: \mathbb{E}[x | z_1, \ldots, z_t]
        = \mathbb{E}_{p(z_{t+1}, \ldots, z_L | z_1, \ldots, z_t)} \mathbb{E}[x | z], \qquad z \sim p(z)

    Each expectation over the codes that follow is an average over 16 draws of them.

    Args:
        run: whose latents are codes.
        split: of which the examples are that lend their context, where the model has one.
        seed: of the draws.
    Raises:
        ElbowroomError: the data are not images; the latents are real vectors.
    """
    captions.needs_images(run)
    space, event_shape = run.model.space, run.facts.event_shape
    of_prior, as_given = None, None
    if run.facts.context_dim:
        data = run.dataset()
        batch = next(iter(data.batches(split, _GROWN, points=_GROWN)))
        assert batch.index is not None  # only a stream has no positions
        of_prior, as_given = batch.context, data.context_as_given(batch.index.cpu())
    known = sorted({round(stage * space.slots / _STAGES) for stage in range(_STAGES + 1)})
    with evaluation_mode(run.model):
        p = run.model.prior(None, of_prior)
        assert isinstance(p, Codes | AutoregressiveCodes)
        generator = torch.Generator(run.device).manual_seed(seed)
        z = p.sample(() if p.batch_shape else (_GROWN,), generator)
        draws = [p.sample_after(z, slots, (_REST,), generator=generator) for slots in known[:-1]]
    means = [run.decode(each, context=as_given).mean(0) for each in (*draws, z.unsqueeze(0))]
    pictures = torch.stack(means, 1)  # (samples, stages, *event)
    return plots.code_pictures_figure(
        pictures,
        [f"sample {number + 1}" for number in range(len(pictures))],
        captions=[f"{slots} of {space.slots}" if slots else "0" for _ in pictures for slots in known],
        title="what the model expects once the first codes of a sample are known",
        note=" ".join(filter(None, ("Above each picture the number of codes known.", captions.note(run, as_given)))),
        value_range=captions.shown_range(run, pictures.reshape(-1, *event_shape)),
    )


def _grids(run: Run) -> tuple[CodeGrid, ...]:
    """Where a run's slots are, of every level, the top level first.

    Raises:
        ElbowroomError: they have no places.
    """
    grids = code_grids(run.config.model, run.facts.event_shape)
    if not grids:
        raise ElbowroomError(
            "Codes are drawn where they are, but the slots of this model have no places.",
            "Train one with --model.slots-per-place 1.",
        )
    return grids
