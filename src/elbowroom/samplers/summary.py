r"""Summary of the diagnostics of thousands of chains: quantiles over examples, beside those of independent draws.

A single R-hat is compared with 1.01. Of 200,000 values some exceed any bound even if all chains are perfect. So their
distribution is compared: quantiles of R-hat, beside the quantiles for as many independent normal draws. 99 % of the
examples are at least as good as the 99 % quantile of a quantity; the worst value comes with the number of its example.

Reference:
    Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), Rank-normalization, folding, and localization: an improved
    R-hat, section 4, arXiv:1903.08008.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.numerics import chunks
from elbowroom.samplers.diagnostics import CHUNK_ELEMENTS, diagnose, ebfmi, rhat
from elbowroom.samplers.kernel import Info

__all__ = ["Diagnostics", "Quantiles", "Summary", "measure", "rhat_null", "summarize"]

NULL_SERIES = 4000
LOW_EBFMI = 0.3
"""Below it chains explore energies too slowly: Betancourt (2016), arXiv:1604.00695, and Stan's warning."""
HIGH_RHAT = 1.1
"""From here on the chains of an example disagree, whatever the number of examples: Gelman & Rubin (1992)."""
LEAST_APART = 4.0
"""Standard errors between draws and an estimate without chains, below which they are never said to disagree."""


def rhat_null(
    num_draws: int,
    num_replicas: int,
    *,
    generator: torch.Generator,
    num_series: int = NULL_SERIES,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Tensor:
    """R-hat of independent normal draws, which is R-hat of perfect chains of this length.

    Being made of ranks, R-hat hardly depends on the distribution.

    Args:
        num_draws: of each chain.
        num_replicas: chains of each series.
        generator: the source of randomness.
        num_series: how many R-hats to simulate.
        chunk_elements: how many draws to work on at a time; it bounds the memory and changes no result.
    Returns:
        float64, shape (num_series,), on the generator's device.
    Raises:
        ElbowroomError: fewer than 4 draws, or no replica, or no series.
    Example:
        >>> null = rhat_null(100, 4, generator=torch.Generator().manual_seed(0), num_series=500)
        >>> bool(null.quantile(0.99) > 1.01)
        True
    """
    if num_series < 1:
        raise ElbowroomError(f"Quantiles over {num_series} series were asked for.", "Simulate a thousand or more.")
    found = []
    for part in chunks(num_series, max(1, chunk_elements // max(1, num_draws * num_replicas))):
        # a row after the other, so that the cut into chunks changes no number
        normal = torch.empty(
            part.stop - part.start, num_replicas, num_draws, dtype=torch.float64, device=generator.device
        )
        for row in normal:
            row.normal_(generator=generator)
        found.append(rhat(normal.permute(2, 1, 0), chunk_elements=chunk_elements))
    return torch.cat(found)


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Quantiles of a quantity over many examples, from the median to the worst value.

    Attributes:
        median: half of the values are at least as good.
        q90: 90 % of the values are at least as good.
        q99: 99 % of the values are at least as good.
        worst: the worst value.
        datum: the number of the example with the worst value; None where values do not belong to examples.
    """

    median: float
    q90: float
    q99: float
    worst: float
    datum: int | None = None

    @classmethod
    def of(cls, values: Tensor, *, worst: str) -> Quantiles:
        """Quantiles of values of shape (data, *), of which the "largest" or the "smallest" is the worst."""
        by_datum = values.flatten(1) if values.dim() > 1 else values.unsqueeze(-1)
        order = by_datum.flatten().sort(descending=worst == "smallest")
        # nearest ranks, without interpolation: values may be infinite
        median, q90, q99 = (order.values[math.ceil(p * len(order.values)) - 1].item() for p in (0.5, 0.9, 0.99))
        return cls(median, q90, q99, order.values[-1].item(), int(order.indices[-1]) // by_datum.shape[1])


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """Diagnostics of the chains of each example.

    Attributes:
        num_draws: of each chain.
        rhat: shape (data, dim), see :func:`~elbowroom.samplers.diagnostics.rhat`.
        ess_bulk: shape (data, dim), see :func:`~elbowroom.samplers.diagnostics.ess_bulk`.
        ess_tail: shape (data, dim), see :func:`~elbowroom.samplers.diagnostics.ess_tail`.
        ebfmi: of each chain, shape (data, replicas), see :func:`~elbowroom.samplers.diagnostics.ebfmi`.
        acceptance: mean probability of acceptance, shape (data,).
        divergences: divergent transitions of all chains, int64, shape (data,).
        stuck: chains that never moved, int64, shape (data,).
        num_gradients: evaluations of the target's gradient by all chains, shape (data,).
        disagreement: how many standard errors the draws' moments are, at most, from those of an estimate without
            chains, shape (data,); NaN where that is not reliable, None where there is none.
    """

    num_draws: int
    rhat: Tensor
    ess_bulk: Tensor
    ess_tail: Tensor
    ebfmi: Tensor
    acceptance: Tensor
    divergences: Tensor
    stuck: Tensor
    num_gradients: Tensor
    disagreement: Tensor | None = None

    @classmethod
    def cat(cls, parts: Sequence[Diagnostics]) -> Diagnostics:
        """The diagnostics of all examples, joined from those of consecutive parts.

        Raises:
            ElbowroomError: no parts, or parts of different numbers of draws, replicas or dimensions.
        """
        shapes = {(part.num_draws, part.ebfmi.shape[1], part.rhat.shape[1]) for part in parts}
        if len(shapes) != 1:
            raise ElbowroomError(
                f"Diagnostics of chains of different (draws, replicas, dim) cannot be joined: {sorted(shapes)}.",
                "Join only diagnostics from runs with the same settings.",
            )
        tensors = [name for name in cls.__slots__ if name not in ("num_draws", "disagreement")]
        joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in tensors}
        unknown = torch.tensor(torch.nan, dtype=torch.float64)
        compared = [unknown.expand(len(p.rhat)) if p.disagreement is None else p.disagreement for p in parts]
        known = any(part.disagreement is not None for part in parts)
        return cls(num_draws=parts[0].num_draws, disagreement=torch.cat(compared) if known else None, **joined)

    def summary(
        self, *, generator: torch.Generator, num_series: int = NULL_SERIES, chunk_elements: int = CHUNK_ELEMENTS
    ) -> Summary:
        """Quantiles over the examples, and of R-hat for independent draws of the same shape.

        A dimension in which no chain ever moved counts as an infinite R-hat and no effective sample, and a chain whose
        energy never changed as an E-BFMI of zero.

        Args:
            generator: the source of randomness of the independent draws.
            num_series: how many series of independent draws to simulate.
            chunk_elements: how many draws to simulate at a time.
        Raises:
            ElbowroomError: there are no examples.
        """
        num_data, dim = self.rhat.shape
        if num_data * dim == 0:
            raise ElbowroomError(
                f"A summary was asked for of {num_data} examples in {dim} dimensions.", "Draw for one example or more."
            )
        frozen, apart = self.rhat.isnan(), self._apart()
        bulk, tail = (ess.masked_fill(frozen, 0).amin(1) for ess in (self.ess_bulk, self.ess_tail))
        num_replicas = self.ebfmi.shape[1]
        null = rhat_null(
            self.num_draws, num_replicas, generator=generator, num_series=num_series, chunk_elements=chunk_elements
        )
        return Summary(
            num_draws=self.num_draws,
            num_replicas=num_replicas,
            num_data=num_data,
            dim=dim,
            rhat=Quantiles.of(self.rhat.masked_fill(frozen, math.inf), worst="largest"),
            rhat_null=replace(Quantiles.of(null, worst="largest"), datum=None),
            num_null=num_series,
            ess_bulk=Quantiles.of(bulk, worst="smallest"),
            ess_tail=Quantiles.of(tail, worst="smallest"),
            acceptance=Quantiles.of(self.acceptance, worst="smallest"),
            ebfmi=Quantiles.of(self.ebfmi.nan_to_num(0), worst="smallest"),
            gradients_per_effective_sample=Quantiles.of(self.num_gradients / bulk, worst="largest"),
            divergences=int(self.divergences.sum()),
            divergent_data=int((self.divergences > 0).sum()),
            stuck_chains=int(self.stuck.sum()),
            stuck_data=int((self.stuck > 0).sum()),
            slow_data=int((self.ebfmi.nan_to_num(0).mean(1) < LOW_EBFMI).sum()),
            compared_data=0 if self.disagreement is None else int((~self.disagreement.isnan()).sum()),
            apart_data=len(apart),
            apart_datum=int(apart[0]) if len(apart) else None,
        )

    def _apart(self) -> Tensor:
        """The examples whose draws disagree with the estimate without chains, the worst first.

        Of so many differences chance makes one as large as this in 1 of 1,000 summaries.
        """
        if self.disagreement is None:
            return torch.empty(0, dtype=torch.int64)
        comparisons = 2 * 2 * self.rhat.numel()  # means and variances, both sides
        certain = max(LEAST_APART, -float(torch.special.ndtri(torch.tensor(1e-3 / comparisons, dtype=torch.float64))))
        scores = self.disagreement.nan_to_num(nan=0.0)
        found = (scores > certain).nonzero().squeeze(1)
        return found[scores[found].argsort(descending=True)]


@dataclass(frozen=True, slots=True)
class Summary:
    """Diagnostics of all chains together, as quantiles over examples.

    Attributes:
        num_draws: of each chain.
        num_replicas: chains of each example.
        num_data: examples.
        dim: dimensions of an example's chains.
        rhat: over examples and dimensions.
        rhat_null: of as many independent normal draws, over ``num_null`` series.
        num_null: how many series of independent draws were simulated.
        ess_bulk: of each example's worst dimension.
        ess_tail: of each example's worst dimension.
        acceptance: of each example.
        ebfmi: of each chain.
        gradients_per_effective_sample: gradients of all of an example's chains, over the bulk's effective sample size
            in its worst dimension.
        divergences: divergent transitions.
        divergent_data: examples with any.
        stuck_chains: chains that never moved.
        stuck_data: examples with any.
        slow_data: examples whose E-BFMI, on average over their chains, is below 0.3.
        compared_data: examples whose draws were compared with an estimate without chains.
        apart_data: of these, examples that certainly disagree with it.
        apart_datum: the number of the one that does so most; None where none does.
    """

    num_draws: int
    num_replicas: int
    num_data: int
    dim: int
    rhat: Quantiles
    rhat_null: Quantiles
    num_null: int
    ess_bulk: Quantiles
    ess_tail: Quantiles
    acceptance: Quantiles
    ebfmi: Quantiles
    gradients_per_effective_sample: Quantiles
    divergences: int
    divergent_data: int
    stuck_chains: int
    stuck_data: int
    slow_data: int = 0
    compared_data: int = 0
    apart_data: int = 0
    apart_datum: int | None = None

    def warnings(self) -> list[str]:
        """What makes the draws wrong or too few, each with a remedy; empty where nothing was found."""
        found = []
        if self.apart_data:
            found.append(
                f"The draws of {self.apart_data:,} of {self.num_data:,} examples (example {self.apart_datum} most) "
                "miss a part of the posterior: their means or variances differ certainly from those of importance "
                "weights. "
                "Chains that all stay about one mode agree with each other, so R-hat does not show it. Let the chains "
                "jump between modes, jumps=True (--jumps), or ask for more draws where they are few."
            )
        # short chains have larger R-hats, and correlated draws count as fewer
        if self.rhat.worst > max(HIGH_RHAT, 1 + 2 * (self.rhat_null.worst - 1)):
            found.append(
                f"The chains of an example (example {self.rhat.datum}) disagree: R-hat {self.rhat.worst:.2f}. Ask for "
                "more draws and a longer warm-up; if that does not help, let the chains jump between modes: jumps=True "
                "(--jumps)."
            )
        if self.slow_data:
            found.append(
                f"The E-BFMI of {self.slow_data:,} of {self.num_data:,} examples is below {LOW_EBFMI:g}: their chains "
                "explore the tails too slowly. Ask for more draws, or for a metric that is learned from the draws, "
                "metric='dense' (--metric dense)."
            )
        if self.divergences:
            number = self.num_draws * self.num_replicas * self.num_data
            share = self.divergences / number
            found.append(
                f"{self.divergences:,} of {number:,} transitions ({'under 0.1%' if share < 1e-3 else f'{share:.1%}'}) "
                f"diverged, in {self.divergent_data:,} of {self.num_data:,} examples: where the posterior bends more "
                "sharply than the steps can follow, draws are missing. Take smaller steps by a higher target "
                "acceptance, target_acceptance=0.9 (--target-acceptance 0.9)."
            )
        return found

    def lines(self) -> list[str]:
        """One sentence for each quantity, and each warning."""
        worst, null = self.rhat, self.rhat_null
        cost = self.gradients_per_effective_sample
        lines = [
            f"{self.num_data:,} examples in {self.dim:,} dimensions, {self.num_replicas} chains of "
            f"{self.num_draws:,} draws each",
            f"R-hat 99 % quantile {worst.q99:.3f} ({null.q99:.3f} if the draws were independent), "
            f"median {worst.median:.3f} ({null.median:.3f}), largest {worst.worst:.3f} (example {worst.datum})",
            _at_least("bulk ESS of an example's worst dimension", self.ess_bulk, "examples", ",.0f"),
            _at_least("tail ESS of an example's worst dimension", self.ess_tail, "examples", ",.0f"),
            f"gradients per effective sample: median {cost.median:.3g}, at most {cost.q99:.3g} for 99 % of the data, "
            f"largest {cost.worst:.3g} (example {cost.datum})",
            _at_least("acceptance", self.acceptance, "examples", ".2f"),
            _at_least("E-BFMI", self.ebfmi, "chains", ".2f"),
            f"divergent transitions: {self.divergences:,}, in {self.divergent_data:,} of {self.num_data:,} examples",
        ]
        if self.stuck_chains:
            lines.append(f"chains that never moved: {self.stuck_chains:,}, of {self.stuck_data:,} examples")
        if self.compared_data:
            lines.append(
                f"draws that disagree with importance weights: {self.apart_data:,} of the {self.compared_data:,} "
                "examples where these are reliable"
            )
        return [*lines, *(f"warning: {text}" for text in self.warnings())]

    def text(self) -> str:
        """The lines as one string."""
        return "\n".join(self.lines())

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON, with the names of the attributes, and the warnings; what is not finite is None."""
        return {name: _jsonable(value) for name, value in asdict(self).items()} | {"warnings": self.warnings()}


def measure(draws: Tensor, info: Info, *, chunk_elements: int = CHUNK_ELEMENTS) -> Diagnostics:
    """Diagnostics of each example.

    Args:
        draws: shape (draws, replicas, data, dim).
        info: what happened in the transition to each draw; every tensor has shape (draws, replicas, data).
        chunk_elements: how many draws to work on at a time; it bounds the memory and changes no result.
    Raises:
        ElbowroomError: draws or an info of another shape; fewer than 4 draws; draws or energies that are not finite.
    """
    if draws.dim() != 4:
        raise ElbowroomError(
            f"Draws have shape {tuple(draws.shape)}, but should have shape (draws, replicas, data, dim).",
            "Stack the positions of the states along a new first axis.",
        )
    for name, tensor in info._asdict().items():
        if tensor.shape != draws.shape[:-1]:
            raise ElbowroomError(
                f"info.{name} has shape {tuple(tensor.shape)}, but draws of shape {tuple(draws.shape)} come with one "
                f"of shape {tuple(draws.shape[:-1])}.",
                "Stack the infos of the draws that are kept, of these alone, along a new first axis.",
            )
        if not bool(torch.isfinite(tensor).all()):
            raise ElbowroomError(
                f"info.{name} is NaN or infinite in {int((~torch.isfinite(tensor)).sum())} of {tensor.numel()} places.",
                "Let a transition that fails be divergent, with acceptance 0 and the energy of the state it keeps.",
            )
    convergence = diagnose(draws, chunk_elements=chunk_elements)
    moved = (draws.amax(0) != draws.amin(0)).any(-1)
    # the energy of a chain that is stuck changes with its momentum, and would look well
    mixing = torch.where(moved, ebfmi(info.energy, chunk_elements=chunk_elements), 0.0)
    return Diagnostics(
        num_draws=draws.shape[0],
        rhat=convergence.rhat,
        ess_bulk=convergence.ess_bulk,
        ess_tail=convergence.ess_tail,
        ebfmi=mixing.T,
        acceptance=info.acceptance.mean((0, 1), dtype=torch.float64),
        divergences=info.divergent.sum((0, 1), dtype=torch.int64),
        stuck=(~moved).sum(0),
        num_gradients=info.num_gradients.sum((0, 1), dtype=torch.float64),
    )


def summarize(
    draws: Tensor,
    info: Info,
    *,
    generator: torch.Generator,
    num_series: int = NULL_SERIES,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Summary:
    """Quantiles of the diagnostics over examples, beside R-hat of independent draws.

    Where not all draws are at hand at once, :func:`measure` parts of the data, :meth:`Diagnostics.cat` what it
    returns, and ask that for its summary.

    Args:
        draws: shape (draws, replicas, data, dim).
        info: what happened in the transition to each draw; every tensor has shape (draws, replicas, data).
        generator: the source of randomness of the independent draws.
        num_series: how many series of independent draws to simulate.
        chunk_elements: how many draws to work on at a time; it bounds the memory and changes no result.
    Raises:
        ElbowroomError: draws or an info of another shape; fewer than 4 draws; draws or energies that are not finite;
            no examples.
    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> draws = torch.randn(100, 4, 50, 2, generator=generator)
        >>> energy = 0.5 * draws.square().sum(-1)
        >>> one = torch.ones_like(energy)
        >>> summary = summarize(draws, Info(one, energy, one < 0, one), generator=generator, num_series=200)
        >>> summary.lines()[0], summary.rhat.q99 < 1.05
        ('50 examples in 2 dimensions, 4 chains of 100 draws each', True)
    """
    return measure(draws, info, chunk_elements=chunk_elements).summary(
        generator=generator, num_series=num_series, chunk_elements=chunk_elements
    )


def _at_least(what: str, quantiles: Quantiles, whose: str, form: str) -> str:
    median, q99, worst = (format(value, form) for value in (quantiles.median, quantiles.q99, quantiles.worst))
    return (
        f"{what}: median {median}, at least {q99} for 99 % of the {whose}, smallest {worst} (example {quantiles.datum})"
    )


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
