r"""Checks of an adopted model: do its outputs mean what the stated conventions say?

A wrong convention shows in the data. Log-variances are negative where a variance cannot be; logits leave [0, 1]; and
where a number could be either, the right convention usually makes the data far more probable than the wrong one. So
every convention is tried. If another one raises the bound by a nat or more with certainty, the message names it, and
also names the other possible cause: a guide that is too narrow or too wide gains by a wrong convention, too.

The loss that the user trained with can be compared as well. For each example it should be minus the ELBO. A difference
is often a constant that was left out, such as ½ D log 2πσ² of a Gaussian, or a factor, such as the number of elements
that a mean was taken over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from elbowroom.adopting.inspection import first_call
from elbowroom.adopting.modules import DECODER_OUTPUTS, decoder_of, encoder_of
from elbowroom.adopting.output_conventions import ENCODER_OUTPUTS, TO_LOG_VARIANCE
from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.thresholds import CERTAIN_Z, NOTABLE_NATS
from elbowroom.inference.objectives import elbo_terms
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import draw
from elbowroom.model.guides import LARGEST_LOG_VARIANCE, DiagonalNormal
from elbowroom.model.latent import LatentModel, evaluation_mode
from elbowroom.model.likelihoods import Gaussian
from elbowroom.numerics import mean_and_stderr

__all__ = ["check_code_decoder", "check_conversion", "check_finite", "explain_loss"]

_SAME = 1e-3  # relative; a factor or a constant this near is it
_POSITIVE = ("mean-variance", "mean-scale")


def check_conversion(model: LatentModel, guide: DiagonalNormal, batch: Batch, *, generator: Generator) -> None:
    """Refuses conventions under which the data are far less probable than under others.

    Args:
        model: the adopted model.
        guide: the adopted guide.
        batch: some examples; 200 are enough.
        generator: the source of randomness.
    Raises:
        ElbowroomError: names the stated convention and the more likely one; outputs that are not finite.
    """
    check_finite(model, guide, batch)
    with evaluation_mode(model, guide):
        spreads = _conventions_of_spread("encoder", encoder_of(guide).output, encoder_of(guide).outputs(batch.x)[1])
        parameters = _conventions_of_decoder(model, guide, batch, generator)
        # a wrong convention of one network can make a wrong one of the other look good: the larger gain is named
        better = [
            _better_encoder(spreads, model, guide, batch, generator),
            _better_decoder(parameters, model, guide, batch, generator),
        ]
        log_variance = 2 * guide(batch.x, batch.context).stddev.log()
    bound, best = better[0][0], max(better, key=lambda found: found[1])
    if best[2] is not None:
        raise best[2]
    beyond = int((log_variance.abs() >= LARGEST_LOG_VARIANCE - 1e-3).any(1).sum())
    if beyond:
        raise ElbowroomError(
            f"The encoder's log-variance reaches ±{LARGEST_LOG_VARIANCE:.0f} for {beyond} of {len(batch)} examples, "
            "where a guide's is cut off, so the bound would not be that of this model.",
            f"Check encoder_output='{encoder_of(guide).output}': a log-variance lies between these two, far beyond any "
            "posterior's.",
        )
    lost = int((~bound.isfinite()).sum())
    if lost:
        raise ElbowroomError(
            f"The bound of {lost} of {len(bound)} examples is not a finite number, although all outputs are finite.",
            f"Check encoder_output='{encoder_of(guide).output}' and decoder_output='{decoder_of(model).output}': a "
            "spread must not be zero, nor so large that draws of z are infinite.",
        )


def check_code_decoder(model: LatentModel, guide: Conditional, batch: Batch, *, generator: Generator) -> None:
    """The same for a decoder of codes, whose encoder has no convention that could be wrong.

    Args:
        model: the adopted model.
        guide: the adopted guide, over codes.
        batch: some examples; 200 are enough.
        generator: the source of randomness.
    Raises:
        ElbowroomError: as :func:`check_conversion`.
    """
    with evaluation_mode(model, guide):
        q = guide(batch.x, batch.context)
        _require_finite((q.mean,), "encoder", "examples")
        _require_finite(decoder_of(model).outputs(q.mode), "decoder", "examples, at their most likely codes")
        conventions = _conventions_of_decoder(model, guide, batch, generator)
        *_, fault = _better_decoder(conventions, model, guide, batch, generator)
    if fault is not None:
        raise fault


def check_finite(model: LatentModel, guide: DiagonalNormal, batch: Batch) -> None:
    """Refuses networks that return NaN or infinity, which cannot be compared.

    Args:
        model: the adopted model.
        guide: the adopted guide.
        batch: some examples.
    Raises:
        ElbowroomError: names encoder or decoder, and the number of examples.
    """
    with evaluation_mode(model, guide):
        _require_finite(encoder_of(guide).outputs(batch.x), "encoder", "examples")
        mean = encoder_of(guide).outputs(batch.x)[0]  # no draws, because they depend on the convention of the spread
        _require_finite(decoder_of(model).outputs(mean), "decoder", "examples, at the encoder's mean")


def _require_finite(outputs: Sequence[Tensor], who: str, of: str) -> None:
    good = torch.stack([part.flatten(1).isfinite().all(1) for part in outputs]).all(0)
    if not bool(good.all()):
        raise ElbowroomError(
            f"The {who} returns NaN or infinity for {int((~good).sum())} of {len(good)} {of}.",
            "Its weights or its input are not finite, or the data are not like those that it was trained on. Check one "
            "example.",
        )


_Alternative = tuple[Tensor, float, ElbowroomError | None]
"""(the bound under the stated convention, the largest gain of another one, the error that names it)"""


def _better_encoder(
    conventions: Sequence[str], model: LatentModel, guide: DiagonalNormal, batch: Batch, generator: Generator
) -> _Alternative:
    encoder = encoder_of(guide)
    said, second = encoder.output, encoder.outputs(batch.x)[1]

    def otherwise(convention: str) -> str:
        wider = (TO_LOG_VARIANCE[convention](second) - TO_LOG_VARIANCE[said](second)).mean() > 0
        return f"the guide is {'over-confident' if wider else 'too wide'}"

    def use_convention(convention: Any) -> None:
        encoder.output = convention

    return _compare("encoder_output", said, conventions, use_convention, otherwise, model, guide, batch, generator)


def _conventions_of_decoder(
    model: LatentModel, guide: Conditional, batch: Batch, generator: Generator
) -> Sequence[str]:
    """The conventions that the values of the decoder's outputs allow."""
    decoder, name = decoder_of(model), model.likelihood.name
    said, conventions = decoder.output, DECODER_OUTPUTS.get(name, ())
    z = draw(guide(batch.x), (), generator=generator)
    if said in ("probabilities", "logits"):
        (values,) = decoder.outputs(z)
        inside = bool(((values >= 0) & (values <= 1)).all())
        if said == "probabilities" and not inside:
            raise ElbowroomError(
                f"decoder_output is 'probabilities', but the decoder returns values from {float(values.min()):.3g} to "
                f"{float(values.max()):.3g}.",
                "It looks like logits: decoder_output='logits'.",
            )
        conventions = conventions if inside else ("logits",)
    elif said in ("rate", "log-rate"):
        positive = bool((decoder.outputs(z)[0] > 0).all())
        if said == "rate" and not positive:
            raise ElbowroomError(
                "decoder_output is 'rate', but the decoder also returns values that are not positive.",
                "It looks like a logarithm: decoder_output='log-rate'.",
            )
        conventions = conventions if positive else ("log-rate",)
    elif said in ENCODER_OUTPUTS:
        conventions = _conventions_of_spread("decoder", said, decoder.outputs(z)[1])
    else:
        conventions = (said,)  # only one convention is possible
    return conventions


def _better_decoder(
    conventions: Sequence[str], model: LatentModel, guide: Conditional, batch: Batch, generator: Generator
) -> _Alternative:
    decoder = decoder_of(model)

    def use_convention(convention: Any) -> None:
        decoder.output = convention

    def otherwise(convention: str) -> str:
        return "the decoder fits these data badly"

    return _compare(
        "decoder_output", decoder.output, conventions, use_convention, otherwise, model, guide, batch, generator
    )


def _conventions_of_spread(who: str, said: str, second: Tensor) -> tuple[str, ...]:
    """The conventions that a spread allows: logarithms always, others only if it is positive."""
    positive = second > 0
    if bool(positive.all()):
        return ENCODER_OUTPUTS
    if said in _POSITIVE:
        raise ElbowroomError(
            f"{who}_output is '{said}', but {float((~positive).double().mean()):.0%} of the {who}'s second output are "
            f"negative or zero, which a {said.removeprefix('mean-')} cannot be.",
            f"It looks like a log-variance: {who}_output='mean-logvar'.",
        )
    return tuple(convention for convention in ENCODER_OUTPUTS if convention not in _POSITIVE)


def _compare(
    what: str,
    said: str,
    conventions: Sequence[str],
    use_convention: Callable[[Any], None],
    otherwise: Callable[[str], str],
    model: LatentModel,
    guide: Conditional,
    batch: Batch,
    generator: Generator,
) -> _Alternative:
    """The bound under every convention, with the same draws; the stated one is put back."""
    state, bounds = generator.get_state(), {}
    for convention in conventions:
        use_convention(convention)
        generator.set_state(state)
        bound = elbo_terms(model, guide, batch, num_samples=4, kl="auto", generator=generator).value.double()
        bounds[convention] = bound.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    use_convention(said)
    own = bounds[said]
    for convention, bound in sorted(bounds.items(), key=lambda item: -float(item[1].mean())):
        better = torch.where(bound == own, 0.0, bound - own)  # −∞ is no worse than −∞
        gain, stderr = mean_and_stderr(better)
        if convention != said and (gain == math.inf or (gain > NOTABLE_NATS and gain > CERTAIN_Z * stderr)):
            return (
                own,
                gain,
                ElbowroomError(
                    f"{what} is '{said}', but read as '{convention}' the same numbers raise the bound by "
                    f"{gain:.1f} nats per example, from {float(own.mean()):.1f} to {float(bound.mean()):.1f}.",
                    f"Either give {what}='{convention}', or {otherwise(convention)}: if '{said}' is right, pass "
                    "check=False.",
                ),
            )
    return own, 0.0, None


def explain_loss(
    model: LatentModel, guide: DiagonalNormal, batch: Batch, loss: Callable[[Tensor], Tensor], *, generator: Generator
) -> str | None:
    r"""The difference between a loss and −ELBO, explained in one sentence; None if there is none.

    Args:
        model: the adopted model.
        guide: the adopted guide.
        batch: some examples.
        loss: maps x of shape (batch, \*event) to the training loss, of shape (batch,) or ().
        generator: the source of randomness.
    Raises:
        ElbowroomError: the loss fails, or returns another shape.
    """
    with evaluation_mode(model, guide):
        terms = elbo_terms(model, guide, batch, num_samples=16, kl="auto", generator=generator)
        ours = -terms.value.double()
        remedy = "Give a function that takes only x, in the shape of the data, and returns the loss of each example."
        theirs = torch.as_tensor(first_call(loss, batch.x, "loss", remedy)).double()
    if theirs.shape not in ((len(batch),), ()):
        raise ElbowroomError(
            f"The loss has shape {tuple(theirs.shape)} for {len(batch)} examples, but must be one number for each, or "
            "one for all.",
            f"Return shape ({len(batch)},), for instance loss.flatten(1).sum(1), or shape (), loss.mean().",
        )
    elements, size = batch.x[0].numel(), len(batch)
    mine, (value, error) = float(ours.mean()), mean_and_stderr(ours - theirs)
    noise = CERTAIN_Z * (error if math.isfinite(error) else 0.0) + _SAME * abs(mine)
    if theirs.dim() == 0:
        value = mine - float(theirs)
    if abs(value) <= noise:
        return None
    likelihood = model.likelihood
    if isinstance(likelihood, Gaussian) and not isinstance(likelihood.scale, str):
        constant = 0.5 * elements * math.log(2 * math.pi * likelihood.scale**2)
        if abs(value - constant) <= noise:
            return (
                f"The loss leaves out a constant of {constant:.2f} nats per example, ½ · {elements} · log 2πσ² with σ "
                f"= {likelihood.scale:g}: what it gives is not −log p(x)."
            )
    average = float(theirs.mean())
    for factor, words in (
        (elements, f"a mean over the {elements} elements of an example, but a log-likelihood is their sum"),
        (1 / size, f"a sum over the {size} examples of a batch"),
        (elements * size, f"a mean over all {elements * size} elements of a batch"),
    ):
        if abs(average * factor - mine) <= max(noise, 0.02 * abs(mine)):
            return f"The loss is −ELBO divided by {factor:g}: {words}."
    return f"The loss differs from −ELBO by {value:.2f} nats per example on average, for an unknown reason."
