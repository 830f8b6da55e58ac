r"""Imputation: draws of the missing elements of x, given the observed ones.

A model of p(z) and p(x | z) has a distribution of the missing elements:

.. math:: p(x_m | x_o) = \int p(z | x_o) \, p(x_m | z) \, dz

The draws z ~ p(z | x_o) are those of :mod:`elbowroom.inference.posterior.sample`, with the likelihood taken over the
observed elements alone. From each, x_m ~ p(x_m | z) is drawn; where p(x | z) is a mixture, x_m ~ p(x_m | x_o, z). Draws
of the guide would be wrong: it was trained on complete data, and reads the filler in a missing place as an observation.
It only gives starting points for the chains.
Draws of codes are those of :mod:`elbowroom.inference.posterior.codes`, without chains.

There are three results:

- The *mean* :math:`\mathbb{E}[x_m | x_o] = \mathbb{E}_z \mathbb{E}[x_m | z]`, averaged over the means of p(x | z),
  whose variance is never above that of an average of draws (Rao–Blackwell). It is the best single guess under squared
  error, but not a possible x: it is smooth, and the mean of a binary element is a probability.
- The *interval* lies between quantiles of the draws of x_m, and so covers the noise of p(x | z) as well as the
  uncertainty about z; there is one for each element by itself.
- The *samples* are complete joint draws (multiple imputation): a quantity that depends on several elements is computed
  on each sample, and then averaged.

Reference:
    Rubin (1987), Multiple Imputation for Nonresponse in Surveys.
    Mattei & Frellsen (2018), Leveraging the Exact Likelihood of Deep Latent Variable Models, arXiv:1802.04826.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.inference.posterior.codes import posterior_codes
from elbowroom.inference.posterior.sample import Method, posterior
from elbowroom.memory import require_memory
from elbowroom.model.conditional import Conditional, Likelihood
from elbowroom.model.draws import completions, draw, mean
from elbowroom.model.latent import LatentModel
from elbowroom.numerics import chunks
from elbowroom.progress import Progress
from elbowroom.samplers.summary import Diagnostics

__all__ = ["Imputation", "check_normalized", "impute"]

_WHOLE_NUMBERS = (Support.BINARY, Support.BYTES, Support.COUNTS, Support.TABLE)  # whose intervals end at a draw


@dataclass(frozen=True, slots=True)
class Imputation:
    """Data with the missing elements filled in, and the uncertainty about them; all tensors are on the CPU.

    Where an element was observed, it stands unchanged in ``completed``, ``mean``, ``lower``, ``upper`` and every
    sample, and its ``stddev`` is 0. Categories are names and not quantities, so that they have no mean, deviation or
    interval: these are None, and ``probability`` takes their place.

    Attributes:
        x: the data as given, shape (batch, \\*event); the values in missing places mean nothing.
        mask: True where observed, bool, shape (batch, \\*event).
        completed: x, with the mean in missing places, and of categories the most probable one; of elements that name a
            level in a table, the one that was drawn most often. It is not rounded: a binary element is filled in with
            the probability that it is 1.
        samples: data whose missing elements were drawn, shape (num_samples, batch, \\*event).
        mean: E[x | observed elements], shape (batch, \\*event).
        stddev: of the draws of x, shape (batch, \\*event).
        lower: where the interval begins, shape (batch, \\*event); whole numbers for data that are.
        upper: where it ends.
        probability: of the category in ``completed``, shape (batch, \\*event), 1 where observed; None elsewhere. In
            tables that have both, elements that name a level have a probability and no mean, deviation or interval,
            and the others the reverse: NaN stands for what an element has not.
        incomplete: positions of the examples with missing elements, int64; z was drawn for these alone.
        diagnostics: of their chains, in that order; None if nothing was missing, and for codes, which have no chains.
        ess: of codes, the effective number of the weighted draws that z was chosen from, in that order; None for
            chains, and for codes whose draws are exact.
        interval: the probability between ``lower`` and ``upper``.
        settings: of the sampler.
    """

    x: Tensor
    mask: Tensor
    completed: Tensor
    samples: Tensor
    mean: Tensor | None
    stddev: Tensor | None
    lower: Tensor | None
    upper: Tensor | None
    probability: Tensor | None
    incomplete: Tensor
    diagnostics: Diagnostics | None
    ess: Tensor | None
    interval: float
    settings: dict[str, Any]


class _Predicted(NamedTuple):
    """Predictions for some examples, as if all elements were missing; None for what their support does not have."""

    guess: Tensor
    samples: Tensor
    stddev: Tensor | None
    lower: Tensor | None
    upper: Tensor | None
    probability: Tensor | None


def impute(
    model: LatentModel,
    guide: Conditional,
    batch: Batch,
    *,
    method: Method | None = None,
    draws: int = 200,
    chains: int = 4,
    warmup: int = 150,
    interval: float = 0.9,
    num_samples: int = 5,
    names: Tensor | None = None,
    chunk_elements: int = 2**22,
    generator: torch.Generator | None = None,
    announce: Progress | None = None,
    **settings: Any,
) -> Imputation:
    r"""Fill in the missing elements: draws z ~ p(z | x observed), then x ~ p(x | z).

    .. math:: \mathbb{E}[x_m | x_o] \approx \frac{1}{S} \sum_{s=1}^S \mathbb{E}[x_m | z_s],
        \qquad z_s \sim p(z | x_o)

    An end of the interval is the draw of rank p (S + 1) among the S, p = (1 ∓ ``interval``) / 2, interpolated between
    neighbours; of whole numbers the neighbour further out. Of independent draws the interval would hold another one
    with exactly that probability (of whole numbers, at least), however few there are; those of a chain are worth fewer.

    Args:
        model: p(x, z), in evaluation mode.
        guide: q(z | x), where the chains start.
        batch: data, ``mask`` True where an element was observed; None: nothing is missing.
        method: "nuts" (the default) or "hmc"; None for codes, whose draws are not of a chain.
        draws: kept of each chain.
        chains: per example; of codes there are draws × chains draws of z.
        warmup: transitions before the first draw that is kept; nothing for codes.
        interval: the probability between ``lower`` and ``upper``, e.g. 0.9.
        num_samples: completed data sets, from draws spread over the chains.
        names: of a table, True where an element is the number of a level, bool, shape (\\*event).
        chunk_elements: draws of elements that are worked on at a time; it bounds the memory.
        generator: the source of randomness.
        announce: called after every transition.
        **settings: further ones of :func:`~elbowroom.inference.posterior.sample.posterior`: metric, num_steps, …
    Raises:
        ElbowroomError: a likelihood that is not normalised; an interval that is not between 0 and 1, or that has too
            few draws; numbers below one; no room in memory; settings of chains for codes; holes that the likelihood
            cannot sum out; whatever drawing from the posterior raises.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, guide, x = oracles.ppca(dim=8, latent_dim=2, seed=0, num_data=4)
        >>> mask = torch.arange(8).expand(4, 8) < 6  # the last two are missing
        >>> found = impute(model, guide, Batch(x, mask=mask), draws=50, warmup=40,
        ...                generator=torch.Generator().manual_seed(0))
        >>> bool((found.completed == x)[mask].all()), bool((found.lower < found.upper)[~mask].all())
        (True, True)
    """
    codes = model.latent_support == "codes"
    of_chains = [name for name, value in {"method": method, **settings}.items() if value not in (None, False)]
    if codes and of_chains:
        flags = ", ".join("--" + name.replace("_", "-") for name in of_chains)
        model.require_real(
            f"A Markov chain, which {flags} {'is' if len(of_chains) == 1 else 'are'} for,",
            f"Leave {flags} out: codes are imputed without chains.",
        )
    total = draws * chains
    if not batch.x.is_floating_point():  # a mean is no whole number
        batch = replace(batch, x=batch.x.to(torch.get_default_dtype()))
    _check(model, batch, interval, num_samples, 0 if draws < 4 and not codes else total)
    mask = torch.ones_like(batch.x, dtype=torch.bool) if batch.mask is None else batch.mask
    incomplete = (~mask).flatten(1).any(1).nonzero().squeeze(1)
    filled = _Filled(batch.x.cpu(), mask.cpu(), num_samples, total)
    method = method or "nuts"
    diagnostics, ess = None, None
    how: dict[str, Any] = {"method": method, "draws": draws, "chains": chains, "warmup": warmup}
    if codes:
        how = {"method": "codes", "draws": total}
    if len(incomplete):
        part = batch.rows(incomplete)
        if codes:
            of_codes = posterior_codes(model, guide, part, total, generator=generator)
            drawn, ess = of_codes.z.reshape(draws, chains, *of_codes.z.shape[1:]), of_codes.ess
            how |= {"weighted": of_codes.weighted}
        else:
            found = posterior(
                model, guide, part, method=method, draws=draws, chains=chains, warmup=warmup,
                generator=generator, announce=announce, **settings,
            )  # fmt: skip
            drawn, diagnostics, how = found.z, found.diagnostics, found.settings
        kept = _spread(num_samples, draws, chains)
        for rows in chunks(len(part), max(1, chunk_elements // (total * math.prod(batch.x.shape[1:])))):
            z = drawn[:, :, rows].flatten(0, 1)
            predicted = _predict(model, part.rows(rows), z, kept, interval, chunk_elements, generator, names)
            filled.put(incomplete[rows].cpu(), predicted)
    named = model.likelihood.support is Support.CATEGORIES
    return Imputation(
        x=filled.x,
        mask=filled.mask,
        completed=filled.guess,
        samples=filled.samples,
        mean=None if named else _without(filled.guess.clone(), filled.mask, names),
        stddev=None if named else filled.stddev,
        lower=None if named else filled.lower,
        upper=None if named else filled.upper,
        probability=filled.probability if named or names is not None else None,
        incomplete=incomplete.cpu(),
        diagnostics=diagnostics,
        ess=None if ess is None else ess.cpu(),
        interval=interval,
        settings=how,
    )


def _without(values: Tensor, mask: Tensor, names: Tensor | None) -> Tensor:
    """Values with NaN in missing elements that name a level."""
    return values if names is None else values.masked_fill(~mask & names.cpu(), torch.nan)


class _Filled:
    """All examples as observed, to be filled in with predictions where nothing was observed."""

    def __init__(self, x: Tensor, mask: Tensor, num_samples: int, num_draws: int) -> None:
        require_memory(
            ((num_samples + 6) * x.numel() + num_draws * math.prod(x.shape[1:])) * x.element_size(),
            f"{num_samples} completed samples of {len(x):,} examples of shape {tuple(x.shape[1:])}, with intervals",
            "Ask for fewer samples or draws, or fewer examples at a time.",
        )
        self.x, self.mask = x, mask
        self.guess, self.lower, self.upper = x.clone(), x.clone(), x.clone()
        self.stddev, self.probability = torch.zeros_like(x), torch.ones_like(x)
        self.samples = x.expand(num_samples, *x.shape).clone()

    def put(self, rows: Tensor, predicted: _Predicted) -> None:
        """Fill in the predictions for some rows."""
        self.samples[:, rows] = torch.where(self.mask[rows], self.samples[:, rows], predicted.samples)
        for into, values in (
            (self.guess, predicted.guess),
            (self.stddev, predicted.stddev),
            (self.lower, predicted.lower),
            (self.upper, predicted.upper),
            (self.probability, predicted.probability),
        ):
            if values is not None:
                into[rows] = torch.where(self.mask[rows], into[rows], values.to(into.dtype))


def _predict(
    model: LatentModel,
    batch: Batch,
    z: Tensor,
    kept: Tensor,
    interval: float,
    chunk_elements: int,
    generator: torch.Generator | None,
    names: Tensor | None,
) -> _Predicted:
    """Predictions of every element by p(x | z), for z of shape (S, n, latent), on the CPU."""
    likelihood, shape = model.likelihood, batch.x.shape
    drawn = torch.empty(len(z), *shape, dtype=batch.x.dtype)
    total: Tensor | float = 0.0
    with torch.no_grad():
        for some in chunks(len(z), max(1, chunk_elements // (shape.numel() * likelihood.num_parameters))):
            p_x = completions(likelihood(z[some].to(batch.x.device), batch.context), batch.x, batch.mask)
            drawn[some] = draw(p_x, generator=generator).to(drawn)
            means: Tensor = p_x.probs if likelihood.support is Support.CATEGORIES else mean(p_x)  # type: ignore[attr-defined]
            total = total + means.double().sum(0).cpu()
    average = cast(Tensor, total) / len(z)
    if likelihood.support is Support.CATEGORIES:
        probability, category = average.max(-1)
        return _Predicted(category, drawn[kept], None, None, None, probability)
    columns = drawn.flatten(1)
    lower, upper, stddev = columns.new_zeros(3, shape.numel()).unbind()
    # what was observed needs no interval
    missing = torch.arange(shape.numel()) if batch.mask is None else (~batch.mask).flatten().nonzero().squeeze(1).cpu()
    for some in chunks(len(missing), max(1, chunk_elements // len(z))):
        values = columns[:, missing[some]].sort(0).values
        stddev[missing[some]] = values.std(0)
        lower[missing[some]], upper[missing[some]] = _ends(values, interval, whole=likelihood.support in _WHOLE_NUMBERS)
    found = _Predicted(average, drawn[kept], stddev.reshape(shape), lower.reshape(shape), upper.reshape(shape), None)
    return found if names is None else _with_levels(found, drawn, names.cpu().expand(shape))


def _with_levels(found: _Predicted, drawn: Tensor, named: Tensor) -> _Predicted:
    """Predictions in which elements that name a level have the one that was drawn most often, and its share."""
    level, share = torch.zeros_like(drawn[0]), torch.full_like(drawn[0], torch.nan)
    of_names = drawn[:, named]  # (draws, elements that name)
    level[named] = of_names.mode(0).values
    share[named] = (of_names == level[named]).to(share).mean(0)
    stddev, lower, upper = (part.masked_fill(named, torch.nan) for part in found[2:5] if part is not None)
    return _Predicted(torch.where(named, level.double(), found.guess), found.samples, stddev, lower, upper, share)


def _ends(values: Tensor, interval: float, *, whole: bool) -> tuple[Tensor, Tensor]:
    """The draws of rank p (S + 1), for p = (1 ∓ interval) / 2; ``values`` are sorted, shape (S, m)."""
    rank = (1 - interval) / 2 * (len(values) + 1)
    below = math.floor(round(rank, 9))  # counted from 1; what rounding adds to a whole rank is no part of it
    part = 0.0 if whole else rank - below
    lower = values[below - 1].lerp(values[min(below, len(values) - 1)], part)
    upper = values[-below].lerp(values[max(len(values) - below - 1, 0)], part)
    return lower, upper


def _spread(num_samples: int, draws: int, chains: int) -> Tensor:
    """Which of draws × chains to keep: the chains in turn, at draws far apart."""
    sample = torch.arange(num_samples)
    at = (2 * sample + 1) * draws // (2 * num_samples)
    return at * chains + sample % chains


def check_normalized(likelihood: Likelihood) -> None:
    """Refuse a likelihood that no values can be drawn from.

    Raises:
        ElbowroomError: it is not normalised.
    """
    if not likelihood.normalized:
        raise ElbowroomError(
            f"Missing values are drawn from p(x | z), but {likelihood.name} does not integrate to one, so there is no "
            "such distribution.",
            "Train with --data.binarization dynamic, or with --model.likelihood continuous-bernoulli.",
        )


def _check(model: LatentModel, batch: Batch, interval: float, num_samples: int, total: int) -> None:
    likelihood = model.likelihood
    check_normalized(likelihood)
    if not 0 < interval < 1:
        raise ElbowroomError(
            f"interval is {interval}, but it is a probability.",
            "Give a number between 0 and 1, such as 0.9.",
        )
    if batch.mask is not None and batch.mask.shape != batch.x.shape:
        raise ElbowroomError(
            f"The mask has shape {tuple(batch.mask.shape)}, but the data have shape {tuple(batch.x.shape)}.",
            "Give one entry for each element, True where it was observed.",
        )
    if batch.mask is not None:
        likelihood.check_mask(batch.mask)
    if total < 1 and model.latent_support == "real":
        return  # too few draws or chains for the sampler, which refuses them itself
    least = math.ceil(round(2 / (1 - interval) - 1, 6))
    if total < least:
        raise ElbowroomError(
            f"{total} draws in all were asked for, but the ends of an interval that holds {interval:g} are only "
            f"known from {least:,} or more.",
            "Ask for more draws or chains, or for a narrower interval.",
        )
    if not 1 <= num_samples <= total:
        raise ElbowroomError(
            f"{num_samples} completed samples were asked for, but there are {total} draws.",
            "Give a number from 1 to that.",
        )
