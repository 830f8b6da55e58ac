"""Checks of the latents: whether z carries information about x, and what pictures of means leave out."""

from __future__ import annotations

from typing import NamedTuple

import torch

from elbowroom.data.batch import Batch
from elbowroom.evaluation.doctor.findings import Evidence, Finding, Severity
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.evaluation.thresholds import ACTIVE_VARIANCE, CERTAIN_Z
from elbowroom.inference.kl import factorised_kl, has_group_kl
from elbowroom.inference.objectives import elbo_terms
from elbowroom.model.draws import conditionals, draw, mean
from elbowroom.model.guides import guide_distribution
from elbowroom.model.latent import LatentModel, evaluation_mode
from elbowroom.model.pixels.autoregressive import AutoregressivePixels
from elbowroom.model.pixels.masked_convolutions import LEAST_FIELD
from elbowroom.model.top_down_codes import TopDownCodes
from elbowroom.numerics import mean_and_stderr

__all__ = ["is_nothing", "latents_in_use", "log_likelihood", "samples_and_means"]

_NOTHING = 0.1  # nats: a KL or a gain below it counts as nothing
_LITTLE = 0.5  # nats: with CERTAIN_Z standard errors added, what counts as nothing still has to lie below this
_FEW = 2  # this many latents in use, or fewer, are hardly any of _MANY
_MANY = 8  # latents of a model that was meant to use more than a plane


def latents_in_use(inputs: DoctorInput) -> list[Finding]:
    r"""Posterior collapse and inactive latents, on held-out data.

    .. math:: \mathrm{active} = \#\{j : \mathrm{Var}_n(\mathbb{E}_q[z_j | x_n]) > 0.01\}, \qquad
        \mathrm{gain} = \mathbb{E}_n \log p(x_n | z_n) - \mathbb{E}_n \log p(x_n | z_m)

    with z_n ~ q(z | x_n), and z_m the draw for another example m ≠ n. Of codes, the variances of all codes of a slot
    are added up, and slots are counted. The gain is what the decoder gains, in nats, from the right z. Gain and KL
    count as nothing only if they are below 0.1 nats, and below 0.5 nats with four standard errors added.

    Where each pixel depends on those before it, the same is measured of these: what the decoder gains from the right
    pixels, against those of another example. If they matter more than z, the decoder is a local one. Then z has to
    carry only what is beyond its receptive field, and few nats of it are no collapse.

    Args:
        inputs: a trained model and its data.
    Returns:
        One finding: severe where z certainly carries no information about x; a warning where hardly any of many
        latents are in use, unless the decoder is local; otherwise a note, also where there are too few examples to
        decide. None without a guide.
    Raises:
        ElbowroomError: too few held-out examples.
    Reference:
        Bowman et al. (2016), Generating sentences from a continuous space, on collapse, arXiv:1511.06349.
        Burda, Grosse & Salakhutdinov (2016), Importance Weighted Autoencoders, section 5.2, arXiv:1509.00519.
        Chen et al. (2017), Variational Lossy Autoencoder, section 2, arXiv:1611.02731, on local decoders.
    """
    guide, model = inputs.learned_guide, inputs.model
    has_codes = model.latent_support == "codes"
    if guide is None:
        return []
    batch, generator = inputs.batch(inputs.held_out(2)), inputs.generator("latents_in_use")
    with evaluation_mode(model, guide):
        q = guide_distribution(guide, batch)
        if has_codes:  # one number for a slot: the variances of its codes' probabilities
            of_codes = q.probs.flatten(-2) if isinstance(q, TopDownCodes) else mean(q)
            variance = model.space.split(of_codes.double().var(0)).sum(-1)
        else:
            variance = mean(q).double().var(0)
        kl = elbo_terms(model, guide, batch, kl="auto", generator=generator).parts["kl"]
        z = draw(q, (), generator=generator)
        right = log_likelihood(model, batch, z)
        gains = right - log_likelihood(model, batch, z.roll(1, 0))
        by_neighbours = right - _with_pixels_of_another(model, batch, z) if _is_local(model) else None
        prior = model.prior(None, batch.context)
        has_free_bits = has_group_kl(q, prior) or factorised_kl(q, prior) is not None
    active, latent_dim = int((variance > ACTIVE_VARIANCE).sum()), len(variance)
    (rate, of_rate), (gain, of_gain) = mean_and_stderr(kl), mean_and_stderr(gains)
    evidence = [
        Evidence("slots in use" if has_codes else "latents in use", active, None, f"of {latent_dim}"),
        Evidence("KL(q ‖ p), information in z per example", rate, of_rate),
        Evidence("loss of the decoder if z is that of another example", gain, of_gain),
    ]
    wake = f"{_WAKE} {_FREE_BITS}" if has_free_bits and not has_codes else _WAKE
    words = _Words("slots", wake, "--model.slots") if has_codes else _Words("latents", wake, "--model.latent-dim")
    explanation, narrower = _IN_USE, _narrower(model)
    if by_neighbours is not None:
        words = words._replace(wake=f"{narrower} {wake}")
        evidence.append(Evidence("loss if earlier pixels are another example's", *mean_and_stderr(by_neighbours)))
    severity, title, remedy = _in_use(active, latent_dim, (rate, of_rate), (gain, of_gain), len(batch), words)
    if by_neighbours is not None and mean_and_stderr(by_neighbours - gains)[0] > _NOTHING:
        explanation = f"{_IN_USE} {_LOCAL}"
        if severity == "severe":
            title = f"{title.rstrip('.')}; pixels are modelled by their neighbours alone."
        elif min(gain, rate) >= _NOTHING:
            in_use = f"{active} of {latent_dim} {words.latents} in use"
            title = f"A local decoder: pixels are modelled by their neighbours, z carries {rate:.1f} nats ({in_use})."
            severity, remedy = "note", f"Nothing to do for log p(x). If z should carry more: {narrower}"
    return [Finding("latents_in_use", severity, title, tuple(evidence), explanation, remedy)]


def log_likelihood(model: LatentModel, batch: Batch, z: torch.Tensor) -> torch.Tensor:
    """log p(x | z) of each example for its z, nats, float64, shape (batch,)."""
    return model.log_likelihood(batch.x, z, context=batch.context, mask=batch.mask).double()


def _is_local(model: LatentModel) -> bool:
    """Whether each pixel depends on those before it."""
    return model.likelihood.sees_other_elements


def _with_pixels_of_another(model: LatentModel, batch: Batch, z: torch.Tensor) -> torch.Tensor:
    """Σ log p(x_i | x'_<i, z), with x' another example of the batch."""
    p_x = conditionals(model.likelihood(z, batch.context), batch.x.roll(1, 0))
    log_density: torch.Tensor = p_x.log_prob(batch.x)
    return log_density.flatten(1).sum(1).double()


_IN_USE = (
    "A latent whose posterior mean hardly varies from example to example carries no information. Some usually stay "
    "inactive: the model uses as many as raise the bound, and the others cost nothing. If all are inactive, or the "
    "decoder ignores z, then every sample is the decoder's average and encodings mean nothing (posterior collapse)."
)

_LOCAL = (
    "Here the decoder has two sources for a pixel, z and the pixels before it, and the latter matter more. Then z only "
    "carries what they leave out: what is farther away than the receptive field, such as which object is shown. That "
    "is fewer nats than with independent pixels, at a higher log p(x). If they left out nothing, z would be unused."
)


def _narrower(model: LatentModel) -> str:
    """How more is left for z, where each pixel depends on those before it."""
    likelihood = model.likelihood
    if isinstance(likelihood, AutoregressivePixels) and likelihood.receptive_field > LEAST_FIELD:
        return "Let a pixel see less (--model.masked-layers 1), so that more is left for z."
    return (
        "So that more is left for z, give the masked convolution fewer channels (--model.masked-width 4), or take "
        "pixels that are independent given z (--model.masked-layers 0)."
    )


def is_nothing(value: float, stderr: float) -> bool:
    """Whether a KL or a gain counts as nothing."""
    return value < _NOTHING and value + CERTAIN_Z * stderr < _LITTLE


class _Words(NamedTuple):
    """What differs between real vectors and codes."""

    latents: str
    wake: str  #: the remedy for a posterior that has collapsed
    flag: str  #: that sets their number


_WAKE = "Let the weight of the KL term grow slowly (--objective.warmup-epochs 10), with --objective.beta 1."
_FREE_BITS = "Let a part of it be free (--objective.free-bits 0.1)."


def _in_use(
    active: int, latent_dim: int, rate: tuple[float, float], gain: tuple[float, float], points: int, words: _Words
) -> tuple[Severity, str, str]:
    """Severity, title and remedy; ``rate`` and ``gain`` with their standard errors."""
    if active == 0 or is_nothing(*rate):
        return "severe", "The posterior has collapsed: the encoder's z carries no information about x.", words.wake
    if is_nothing(*gain):
        return "severe", "The decoder ignores z: with the z of another example it is as good.", words.wake
    if gain[0] < _NOTHING or rate[0] < _NOTHING:
        title = f"{points} examples are too few to decide whether z carries information about x."
        return "note", title, f"Use more: --points {10 * points}."
    if active <= _FEW and latent_dim >= _MANY:
        return "warning", f"Only {active} of {latent_dim} {words.latents} are in use.", words.wake
    if active < latent_dim:
        title = f"{active} of {latent_dim} {words.latents} are in use; the others cost nothing."
        return "note", title, "Nothing to do."
    more = f"Try more {words.latents}: {words.flag} {2 * latent_dim}."
    return "note", f"All {latent_dim} {words.latents} are in use.", more


def samples_and_means(inputs: DoctorInput) -> list[Finding]:
    r"""How much of the variation of samples is noise that a picture of means does not show.

    .. math:: 1 - \frac{\mathrm{Var}_z(\mathbb{E}[x | z])}{\mathrm{Var}(x)}, \qquad z \sim p(z), \; x \sim p(x | z)

    summed over elements, and the entropy of p(x | z), from draws.

    Args:
        inputs: a trained model and its data.
    Returns:
        One note. None for categories, which have no mean.
    """
    model, generator = inputs.model, inputs.generator("samples_and_means")
    batch = inputs.batch(inputs.held_out(2))
    with evaluation_mode(model):
        z = inputs.prior_draws(batch, generator)
        p_x = model.likelihood(z, batch.context)
        drawn = draw(p_x, (), generator=generator)
        try:
            means = mean(conditionals(p_x, drawn)).double()
        except NotImplementedError:
            return []
        if means.shape != batch.x.shape:
            return []
        noise = -model.log_likelihood(drawn, z, context=batch.context).double()
    total = drawn.double().var(0).sum()
    share = 1 - float(means.var(0).sum() / total) if float(total) > 0 else 0.0
    of_density = "" if model.likelihood.normalized else " (not a log-likelihood)"
    evidence = (
        Evidence("variance of samples that is not in their means", share, None, "share"),
        Evidence(f"entropy of p(x | z), the noise of a sample{of_density}", *mean_and_stderr(noise)),
    )
    shown = "Pictures of means" if batch.x.dim() > 2 else "Means"
    title = f"{shown} leave out {max(share, 0):.0%} of the variance of samples."
    means_are = _CONDITIONAL_MEANS if _is_local(model) else _MEANS
    return [Finding("samples_and_means", "note", title, evidence, means_are, "Look at both: `elbowroom sample`.")]


_MEANS = (
    "The mean of p(x | z) is not a sample of x: each of its elements is an average of what could be there. Papers "
    "often show means because they look smoother. But the likelihood describes samples, whose elements are drawn "
    "independently given z."
)
_CONDITIONAL_MEANS = (
    "Each pixel depends on those before it, so p(x | z) has no mean that can be computed. What is shown as one is the "
    "mean of each pixel given those before it in a sample, which is not a sample of x. The likelihood describes "
    "samples."
)
