r"""Bounds and estimates of log p(x) whose draws belong to rows, for `evaluate` and for `score`.

What is estimated of a row depends on the row itself, the model, the method, the number of draws and the seed, and on
nothing else: not on the other rows that are asked for, nor on their order or number. This holds to the bit, which asks
for two things.

- **Noise.** Each row has a random generator of its own, whose seed is a hash of the row's values (with mask and
  context). Equal rows have equal draws, wherever they stand, in a data set or in a file of their own. The standard
  error of a mean counts the noise of equal rows as one (:func:`repetition_variance`); where it is not known, that of
  a single importance weight, equal rows are told apart by their positions.
- **Rounding.** How a product of matrices rounds a row can depend on where the row is and on how many there are. Rows
  are computed in blocks, each in a slot where it always rounds the same (:class:`~elbowroom.numerics.RowSlots`), and
  sums over draws run along memory (:func:`~elbowroom.numerics.draws_last`). Rows whose guide or prior draws in a way
  of its own are computed one at a time.

Slots are made for the package's networks on a processor; on other devices, and in networks of other kinds, a last digit
may depend on the other rows. Bits may differ between machines, numbers of threads and versions of torch.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.distributions import Distribution, Independent, MixtureSameFamily, MultivariateNormal, Normal

from elbowroom.data.batch import Batch
from elbowroom.data.binarization import mix
from elbowroom.errors import ElbowroomError, NotFiniteError
from elbowroom.inference.gaussian.normals import is_normal
from elbowroom.inference.gaussian.optimal_gaussian import Family, optimal_gaussian
from elbowroom.inference.importance.codes import code_bounds, missed_share
from elbowroom.inference.importance.curve import importance_curve
from elbowroom.inference.importance.defensive import defensive
from elbowroom.inference.importance.estimate import ImportanceEstimate, importance_estimate_from
from elbowroom.inference.importance.laplace_proposal import laplace_evidence
from elbowroom.inference.importance.left_out import (
    LeftOutEstimate,
    draws_in_all,
    left_out_estimate,
    left_out_exactly,
    left_out_proposal,
)
from elbowroom.inference.objectives import elbo_terms
from elbowroom.model.code_distributions import AutoregressiveCodes, Codes
from elbowroom.model.conditional import Conditional
from elbowroom.model.flow_distributions import Bijection, FlowDistribution
from elbowroom.model.guides import Guide, guide_distribution
from elbowroom.model.latent import LatentModel
from elbowroom.model.networks import MLP, ResidualMLP
from elbowroom.model.noise import NoiseSource, PerRow
from elbowroom.model.sequential_normal import BlockDistribution, ResidualNormal, SequentialNormal
from elbowroom.model.top_down_codes import TopDownCodes
from elbowroom.numerics import RowSlots, draws_last, mean_and_stderr

__all__ = [
    "BATCH",
    "best_q_estimate",
    "code_estimate",
    "elbo_estimate",
    "element_estimate",
    "guide_curve",
    "guide_estimate",
    "laplace_estimate",
    "mean_over_rows",
    "repetition_variance",
]

BATCH = 256
"""Rows that are worth giving at once: slots are filled better by more rows."""
_BLOCK = 128  # slots that are computed together, at most
_VECTOR = 64  # numbers in two vectors of 512 bits, in each of two threads: what elementwise functions take at once
_LEAST_ROWS = 8  # of a product whose rows round like those of larger ones
_NARROW = 16  # columns of a product whose rows round by their class
_UNCUT_ELEMENTS = 2**14  # of a block of rows, without its hundreds of draws, where draws are not cut into chunks
_ELEMENTS = 2**20  # of a chunk of draws for one row alone
_ELEMENTS_PER_ROW = 2**15  # of a chunk of draws; fixed, since the draws depend on how they are cut into chunks
_WEIGHTS = 2**22  # of a block of rows, where each element has its own
_RESOLVED = 16  # units in the last place of a mean that a standard deviation must have, for draws to differ


class _Manner(NamedTuple):
    """How a block is computed."""

    slots: RowSlots | None  #: of the rows; None for a single one
    chunk_elements: int
    noise: NoiseSource


_Compute = Callable[[Batch, _Manner], dict[str, Tensor]]


def elbo_estimate(
    model: LatentModel, guide: Conditional, batch: Batch, *, num_samples: int, seed: int, method: str = "elbo"
) -> dict[str, Tensor]:
    """The evidence lower bound of every row and its two terms, "elbo", "reconstruction" and "kl", from draws of the
    guide; with other draws for another ``method``.
    """
    most = max(1, _ELEMENTS_PER_ROW // math.prod(model.likelihood.event_shape))
    sizes = [min(most, num_samples - done) for done in range(0, num_samples, most)]

    def compute(block: Batch, manner: _Manner) -> dict[str, Tensor]:
        parts: dict[str, list[Tensor]] = {}
        for size in sizes:  # draws are taken as further rows, whose means do not depend on how many rows there are
            copies = block.rows(torch.arange(len(block), device=block.x.device).repeat(size))
            noise = manner.noise
            if isinstance(noise, PerRow):
                noise = PerRow([*noise.generators] * size)
            found = elbo_terms(model, guide, copies, kl="auto", generator=noise)
            for name, value in {"elbo": found.value, **found.parts}.items():
                parts.setdefault(name, []).append(value.double().reshape(size, -1))
        return {name: draws_last(torch.cat(values)).mean(-1) for name, values in parts.items()}

    return _by_rows(model, guide, batch, compute, method=method, seed=seed, value="elbo")


def guide_estimate(
    model: LatentModel,
    guide: Conditional,
    batch: Batch,
    *,
    k: int,
    seed: int,
    width: float = 1.0,
    prior_share: float = 0.0,
    missed: bool = False,
) -> dict[str, Tensor]:
    """log p(x) of every row from k draws of the guide.

    Args:
        model: p(x, z).
        guide: q(z | x).
        batch: the rows.
        k: draws of each.
        seed: of the draws.
        width: how many times as wide as the guide the draws are, as in
            :func:`~elbowroom.inference.importance.defensive.defensive`.
        prior_share: share of the draws that are of the prior, as there.
        missed: whether to give "missed", where slots of codes are independent, or those of a level given the others:
            :func:`~elbowroom.inference.importance.codes.missed_share`.
    Returns:
        "log_evidence", "stderr", "ess", "pareto_k" as in
        :class:`~elbowroom.inference.importance.estimate.ImportanceEstimate`, and "differ", whether the guide is wide
        enough for its draws to differ in their floating-point type; each of shape (batch,).
    """

    def compute(block: Batch, manner: _Manner) -> dict[str, Tensor]:
        q = guide_distribution(guide, block)
        if (width, prior_share) != (1.0, 0.0):
            q = defensive(q, model.prior(None, block.context), width=width, prior_share=prior_share)
        found: ImportanceEstimate = importance_estimate_from(
            model, q, block, num_samples=k, chunk_elements=manner.chunk_elements, generator=manner.noise
        )
        values = {**found._asdict(), "differ": _draws_differ(q, len(block))}
        if missed and isinstance(q, Codes | TopDownCodes):
            values["missed"] = missed_share(
                model, q, block, found.log_evidence, num_samples=k, chunk_elements=manner.chunk_elements
            )
        return values

    return _by_rows(model, guide, batch, compute, method="iwae", seed=seed, apart=k == 1)


def guide_curve(
    model: LatentModel, guide: Conditional, batch: Batch, *, ks: tuple[int, ...], seed: int
) -> dict[str, Tensor]:
    """The bound of every row for several numbers of draws, "k=1", …, with "ess" and "pareto_k" of all draws."""

    def compute(block: Batch, manner: _Manner) -> dict[str, Tensor]:
        q = guide_distribution(guide, block)
        found = importance_curve(model, q, block, ks=ks, chunk_elements=manner.chunk_elements, generator=manner.noise)
        bounds = {f"k={k}": bound for k, bound in zip(ks, found.log_evidence, strict=True)}
        return {**bounds, "ess": found.estimate.ess, "pareto_k": found.estimate.pareto_k}

    return _by_rows(model, guide, batch, compute, method="k-curve", seed=seed, apart=True, value=f"k={ks[0]}")


def code_estimate(model: LatentModel, guide: Conditional, batch: Batch, *, k: int, seed: int) -> dict[str, Tensor]:
    """Bounds of every row of a model with codes, from k draws of the guide.

    Returns:
        What :class:`~elbowroom.inference.importance.codes.CodeBounds` has, by name, without what is None;
        "log_evidence" is that of :func:`guide_estimate`, from the same draws.
    Raises:
        ElbowroomError: a guide whose slots are not independent.
    """

    def compute(block: Batch, manner: _Manner) -> dict[str, Tensor]:
        q = guide_distribution(guide, block)
        if not isinstance(q, Codes | TopDownCodes):
            raise ElbowroomError(
                f"The most likely code of each slot was asked for, but the guide returns a {type(q).__name__}.",
                "Use a guide over codes, categorical or nearest-code.",
            )
        found = code_bounds(
            model, q, block, num_samples=k, chunk_elements=manner.chunk_elements, generator=manner.noise
        )
        return {name: values for name, values in found._asdict().items() if values is not None}

    return _by_rows(model, guide, batch, compute, method="iwae", seed=seed, apart=k == 1)


def laplace_estimate(
    model: LatentModel, guide: Conditional, batch: Batch, *, k: int, starts: int, seed: int
) -> dict[str, Tensor]:
    """log p(x) of every row from k draws of Laplace approximations, as in
    :class:`~elbowroom.inference.importance.laplace_proposal.LaplaceEvidence`; NaN where log p(x, z) is not finite.
    """

    def compute(block: Batch, manner: _Manner) -> dict[str, Tensor]:
        found = laplace_evidence(
            model, guide, block, k=k, starts=starts,
            slots=manner.slots, chunk_elements=manner.chunk_elements, generator=manner.noise,
        )  # fmt: skip
        return found._asdict()

    return _by_rows(model, guide, batch, compute, method="laplace-is", seed=seed, apart=k == 1)


def element_estimate(
    model: LatentModel, guide: Conditional, batch: Batch, filler: Tensor, *, k: int, starts: int, seed: int
) -> dict[str, Tensor]:
    """log p of each element of every row given all others.

    Args:
        model: p(x, z); x are vectors.
        guide: q(z | x), only its mean is used, as a start.
        batch: the rows.
        filler: as in :func:`~elbowroom.inference.importance.left_out.left_out_proposal`.
        k: draws of each row, to which some come for every element; none where z are codes, which are summed over.
        starts: of the searches for modes.
        seed: of the draws.
    Returns:
        What :class:`~elbowroom.inference.importance.left_out.LeftOutEstimate` has, by name; NaN for a row whose
        densities are not finite.
    """

    def compute(block: Batch, manner: _Manner) -> dict[str, Tensor]:
        found: LeftOutEstimate
        if model.latent_support == "codes":
            found = left_out_exactly(model, block)
        else:
            q = left_out_proposal(
                model, guide, block, filler, starts=starts, slots=manner.slots, generator=manner.noise
            )
            found = left_out_estimate(
                model, q, block, num_samples=k, chunk_elements=manner.chunk_elements, generator=manner.noise
            )
        return found._asdict()

    columns = batch.x.shape[1]
    draws = model.space.size if model.latent_support == "codes" else draws_in_all(k, columns)
    return _by_rows(
        model, guide, batch, compute, method="elements", seed=seed, apart=k == 1,
        block=max(1, _WEIGHTS // (draws * columns)),
    )  # fmt: skip


def best_q_estimate(model: LatentModel, guide: Conditional, batch: Batch, *, seed: int) -> dict[str, Tensor]:
    """The ELBO of the guide and that of the best q of its family, of every row.

    Returns:
        "elbo" and "best", on the same draws, with "stderr" of best and "gain_stderr" of their difference; "converged"
        and "evaluations" as in :class:`~elbowroom.inference.gaussian.optimal_gaussian.OptimalGaussian`; "normal",
        whether the guide's q is. Where it is not, "best" is that of a diagonal normal. NaN where log p(x, z) is not
        finite.
    """

    def compute(block: Batch, manner: _Manner) -> dict[str, Tensor]:
        normal = is_normal(guide_distribution(guide, block))
        family: Family = "guide" if normal else "diagonal"
        found = optimal_gaussian(model, guide, block, family=family, slots=manner.slots, generator=manner.noise)
        names = {"elbo": "initial_elbo", "best": "elbo"}
        kept = ("elbo", "best", "stderr", "gain_stderr", "converged", "evaluations")
        values: dict[str, Tensor] = {name: getattr(found, names.get(name, name)) for name in kept}
        return {**values, "normal": torch.full_like(found.converged, normal)}

    event = math.prod(model.likelihood.event_shape)
    return _by_rows(
        model, guide, batch, compute, method="room", seed=seed, value="elbo", block=max(1, _UNCUT_ELEMENTS // event)
    )


def _noise_seeds(batch: Batch, method: str, seed: int, *, apart: bool) -> list[int]:
    """The seed of every row's draws; that of equal rows is the same, unless they are to be told apart by position."""
    parts = [batch.x, batch.mask, batch.context, batch.index if apart else None]
    rows = [
        (part is batch.mask, part.detach().cpu().reshape(len(batch), -1).contiguous().view(torch.uint8).numpy())
        for part in parts
        if part is not None
    ]
    # the mask of a row without a hole is not hashed: whether there is one at all depends on the other rows
    contents = (
        b"".join(part[i].tobytes() for is_mask, part in rows if not (is_mask and part[i].all()))
        for i in range(len(batch))
    )
    digests = (hashlib.blake2b(content, digest_size=8) for content in contents)
    kind = zlib.crc32(method.encode())
    return [mix(seed, kind, int.from_bytes(digest.digest(), "little")) % 2**63 for digest in digests]


def repetition_variance(values: Tensor, stderr: Tensor) -> float:
    r"""What equal rows, whose draws are the same, add to the variance of the mean over rows.

    A row that is there c times adds :math:`c^2 \sigma^2 / n^2` to the variance, where the standard error over rows
    counts :math:`c \sigma^2 / n^2`, with σ the standard error of its estimate.

    Args:
        values: estimates of every row, shape (n,); those of equal rows are equal.
        stderr: of every estimate, shape (n,); NaN counts as 0.
    """
    _, place, times = torch.unique(values, return_inverse=True, return_counts=True)
    more = (times[place] - 1).double() * stderr.double().nan_to_num(0.0, 0.0).square()
    return float(more.sum()) / len(values) ** 2


def mean_over_rows(values: Tensor, stderr: Tensor) -> tuple[float, float]:
    """The mean over rows and its standard error, which counts the noise that equal rows share.

    Args:
        values: estimates of every row, shape (n,).
        stderr: of every estimate, shape (n,); NaN where it is not known.
    Returns:
        As :func:`~elbowroom.numerics.mean_and_stderr`.
    """
    mean, spread = mean_and_stderr(values)
    return mean, math.hypot(spread, math.sqrt(repetition_variance(values, stderr)))


def _by_rows(
    model: LatentModel,
    guide: Conditional,
    batch: Batch,
    compute: _Compute,
    *,
    method: str,
    seed: int,
    apart: bool = False,
    value: str = "log_evidence",
    block: int = _BLOCK,
) -> dict[str, Tensor]:
    """Values of every row by name, each of shape (batch,), ``value`` among them; NaN for rows whose densities are not
    finite.
    """
    slots = _slots(model, guide, batch)
    seeds = torch.tensor(_noise_seeds(batch, method, seed, apart=apart))
    if slots is None:
        blocks = list(torch.arange(len(batch)).unsqueeze(1))
    else:
        places, _ = slots.fill(seeds)
        order = places.argsort()  # cut where a block of slots is full
        counts = (
            places[order] // max(slots.multiple, min(block, _BLOCK) // slots.multiple * slots.multiple)
        ).bincount()
        blocks = [rows for rows in torch.split(order, counts.tolist()) if len(rows)]
    parts = [part for rows in blocks for part in _block(batch, rows, seeds, slots, compute)]
    values = _joined(parts, value)
    back = torch.cat([rows for rows, _ in parts]).argsort()
    return {name: found[back.to(found.device)] for name, found in values.items()}


def _block(
    batch: Batch, rows: Tensor, seeds: Tensor, slots: RowSlots | None, compute: _Compute
) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """The values of some rows, with these rows: of all together, or in parts where some are not finite."""
    device = batch.x.device
    places, filled = (torch.zeros_like(rows),) * 2 if slots is None else slots.fill(seeds[rows])
    own = [Generator(device).manual_seed(of) for of in seeds[rows[filled]].tolist()]
    if slots is None:
        manner = _Manner(None, _ELEMENTS, own[0])
    else:
        manner = _Manner(slots, len(filled) * _ELEMENTS_PER_ROW, PerRow(own))
    try:
        found = compute(batch.rows(rows[filled].to(device)), manner)
    except NotFiniteError as error:
        bad = torch.zeros(len(rows), dtype=torch.bool)
        bad[filled[list(error.places)]] = True
        if len(rows) > 1 and not bool(bad.any()):  # not known which: in either half
            halves = rows[: len(rows) // 2], rows[len(rows) // 2 :]
            return [part for half in halves for part in _block(batch, half, seeds, slots, compute)]
        lost, rest = (rows, rows[:0]) if len(rows) == 1 else (rows[bad], rows[~bad])
        return [(lost, {}), *(_block(batch, rest, seeds, slots, compute) if len(rest) else [])]
    return [(rows, {name: value[places.to(value.device)] for name, value in found.items()})]


def _joined(parts: list[tuple[Tensor, dict[str, Tensor]]], value: str) -> dict[str, Tensor]:
    """Values by name, NaN or 0 for rows that do not have them; ``value`` even where no row has it."""
    like = {value: torch.empty(0, dtype=torch.float64)}
    for _, found in parts:
        like |= found

    def of(rows: Tensor, found: dict[str, Tensor], name: str) -> Tensor:
        if name in found:
            return found[name]
        lacking = like[name].new_zeros(len(rows), *like[name].shape[1:])
        return lacking.fill_(math.nan) if lacking.is_floating_point() else lacking

    return {name: torch.cat([of(rows, found, name) for rows, found in parts]) for name in like}


def _draws_differ(q: Distribution, rows: int) -> Tensor:
    """Whether draws of q differ from its mean in every dimension, shape (batch,)."""
    try:
        mean, stddev = q.mean, q.stddev
    except NotImplementedError:
        return torch.ones(rows, dtype=torch.bool)
    return (stddev > _RESOLVED * torch.finfo(mean.dtype).eps * mean.abs()).all(-1)


def _slots(model: LatentModel, guide: Conditional, batch: Batch) -> RowSlots | None:
    """Slots in which every row has the same bits; None where rows cannot draw apart, and are computed one at a time."""
    first = batch.rows(slice(1))
    if not (_draws_by_row(guide(first.x, first.context)) and _draws_by_row(model.prior(None, first.context))):
        return None
    flows = [part for law in (guide, model.prior) for part in law.modules() if isinstance(part, Bijection)]
    networks = [model.likelihood.network, *([guide.network] if isinstance(guide, Guide) else []), *flows]
    if model.likelihood.sees_other_elements or any(type(network) not in (MLP, ResidualMLP) for network in networks):
        return RowSlots(4, _VECTOR)
    products = [part for network in networks for part in network.modules() if isinstance(part, nn.Linear)]
    latents = guide(first.x, first.context).event_shape[0]
    widths = [*(part.out_features for part in products), math.prod(model.likelihood.event_shape), latents]
    multiple = max(_LEAST_ROWS, *(_VECTOR // math.gcd(_VECTOR, width) for width in widths))
    narrow = any(min(part.in_features, part.out_features) < _NARROW for part in products)
    return RowSlots(4 if narrow else 1, multiple)


def _draws_by_row(distribution: Distribution) -> bool:
    """Whether noise for its draws can be made for each row apart."""
    match distribution:
        case MixtureSameFamily():
            return _draws_by_row(distribution.component_distribution)
        case Independent():
            return isinstance(distribution.base_dist, Normal)
        case BlockDistribution():
            return all(_draws_by_row(block) for block in distribution.blocks)
    return isinstance(
        distribution,
        MultivariateNormal
        | SequentialNormal
        | ResidualNormal
        | FlowDistribution
        | Codes
        | TopDownCodes
        | AutoregressiveCodes,
    )
