r"""Does an adopted model mean what its conventions say? Found out on data, by what else its numbers could mean.

A convention that is wrong shows itself: log-variances are negative where a variance cannot be, logits leave [0, 1], and
where a number could be either, the true reading usually makes the data far more probable than the false one. So every
reading is tried. If another one raises the bound by a nat or more beyond doubt, it is named.

A loss that the user trained with can be compared, too: per datum, it should be minus the ELBO. What it differs by is
often a constant that was left out, ½ D log 2πσ² of a Gaussian say, or a factor, the number of elements that a mean was
taken over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.study import evaluation_mode
from elbowroom.inference.objectives import elbo_terms
from elbowroom.model.adoption import DECODER_OUTPUTS, ENCODER_OUTPUTS, decoder_of, encoder_of, only_output
from elbowroom.model.draws import draw
from elbowroom.model.guides import DiagonalNormal
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Gaussian
from elbowroom.numerics import mean_and_stderr

__all__ = ["check_conversion", "explain_loss"]

_SURE = 4.0  # z-score
_BETTER = 1.0  # nats per datum by which another reading has to raise the bound
_SAME = 1e-3  # relative; a factor or a constant this near is it


def check_conversion(model: LatentModel, guide: DiagonalNormal, batch: Batch, *, generator: Generator) -> None:
    """Refuse conventions under which the data are far less probable than under others.

    Args:
        model: adopted.
        guide: adopted.
        batch: some data; 200 are enough.
        generator: the source of randomness.
    Raises:
        ElbowroomError: names what the numbers look like, and what was said of them.
    """
    with evaluation_mode(model, guide):
        _check_encoder(model, guide, batch, generator)
        _check_decoder(model, guide, batch, generator)


def _check_encoder(model: LatentModel, guide: DiagonalNormal, batch: Batch, generator: Generator) -> None:
    encoder = encoder_of(guide)
    said, second = encoder.output, encoder.outputs(batch.x.to(_type_of(guide)))[1]
    if said != "mean-logvar" and bool((second <= 0).any()):
        share = float((second <= 0).double().mean())
        raise ElbowroomError(
            f"encoder_output is '{said}', but {share:.0%} of the encoder's second output are negative or zero, which a "
            f"{said.removeprefix('mean-')} cannot be.",
            "It looks like a log-variance: encoder_output='mean-logvar'.",
        )
    readings = [r for r in ENCODER_OUTPUTS if r == "mean-logvar" or bool((second > 0).all())]
    _refuse_better(
        "encoder_output", said, readings, lambda r: setattr(encoder, "output", r), model, guide, batch, generator
    )


def _check_decoder(model: LatentModel, guide: DiagonalNormal, batch: Batch, generator: Generator) -> None:
    decoder, name = decoder_of(model), model.likelihood.name
    said, readings = decoder.output, DECODER_OUTPUTS.get(name, ())
    z = draw(guide(batch.x), (), generator=generator)
    if said in ("probabilities", "logits"):
        values = only_output(decoder.module(z))
        inside = bool(((values >= 0) & (values <= 1)).all())
        if said == "probabilities" and not inside:
            raise ElbowroomError(
                f"decoder_output is 'probabilities', but the decoder returns values from {float(values.min()):.3g} to "
                f"{float(values.max()):.3g}.",
                "It looks like logits: decoder_output='logits'.",
            )
        readings = readings if inside else ("logits",)
    elif said in ("rate", "log-rate"):
        positive = bool((only_output(decoder.module(z)) > 0).all())
        if said == "rate" and not positive:
            raise ElbowroomError(
                "decoder_output is 'rate', but the decoder also returns values that are not positive.",
                "It looks like a logarithm: decoder_output='log-rate'.",
            )
        readings = readings if positive else ("log-rate",)
    elif said == "mean":
        readings = ("mean",)
    _refuse_better(
        "decoder_output", said, list(readings), lambda r: setattr(decoder, "output", r), model, guide, batch, generator
    )


def _refuse_better(
    what: str,
    said: str,
    readings: Sequence[str],
    read_as: Callable[[Any], None],
    model: LatentModel,
    guide: DiagonalNormal,
    batch: Batch,
    generator: Generator,
) -> None:
    """The bound under every reading, with the same draws; the one that was said is put back."""
    state, bounds = generator.get_state(), {}
    for reading in [r for r in readings if r == said or not (r == "mean" or said == "mean")]:
        read_as(reading)
        generator.set_state(state)
        bounds[reading] = elbo_terms(model, guide, batch, num_samples=4, kl="auto", generator=generator).value.double()
    read_as(said)
    if said not in bounds:
        return
    for reading, bound in sorted(bounds.items(), key=lambda item: -float(item[1].nan_to_num(nan=-math.inf).mean())):
        better = (bound - bounds[said]).nan_to_num(nan=-math.inf, posinf=math.inf)
        own = bounds[said].nan_to_num(nan=-math.inf)
        gain, stderr = mean_and_stderr(better)
        sure = gain == math.inf or (gain > _BETTER and gain > _SURE * stderr)
        if reading != said and sure:
            raise ElbowroomError(
                f"{what} is '{said}', but read as '{reading}' the same numbers raise the bound by {gain:.1f} nats per "
                f"datum, from {float(own.mean()):.1f} to {float(bound.mean()):.1f}.",
                f"Give {what}='{reading}', or check=False if you are sure.",
            )


def explain_loss(
    model: LatentModel, guide: DiagonalNormal, batch: Batch, loss: Callable[[Tensor], Tensor], *, generator: Generator
) -> str | None:
    r"""What a loss differs from −ELBO by, in one sentence; None where it does not.

    Args:
        model: adopted.
        guide: adopted.
        batch: some data.
        loss: x of shape (batch, \*event) to the loss that the model was trained with, of shape (batch,) or ().
        generator: the source of randomness.
    """
    with evaluation_mode(model, guide):
        terms = elbo_terms(model, guide, batch, num_samples=16, kl="auto", generator=generator)
        ours = -terms.value.double()
        theirs = loss(batch.x).double()
    elements, size = batch.x[0].numel(), len(batch)
    mine, (value, error) = float(ours.mean()), mean_and_stderr(ours - theirs)
    noise = _SURE * (error if math.isfinite(error) else 0.0) + _SAME * abs(mine)
    if theirs.dim() == 0:
        value = mine - float(theirs)
    if abs(value) <= noise:
        return None
    likelihood = model.likelihood
    if isinstance(likelihood, Gaussian) and not isinstance(likelihood.scale, str):
        constant = 0.5 * elements * math.log(2 * math.pi * likelihood.scale**2)
        if abs(value - constant) <= noise:
            return (
                f"The loss leaves out a constant of {constant:.2f} nats per datum, ½ · {elements} · log 2πσ² with σ = "
                f"{likelihood.scale:g}: what it gives is not −log p(x)."
            )
    average = float(theirs.mean())
    for factor, words in (
        (elements, f"a mean over the {elements} elements of a datum, where a log-likelihood is a sum"),
        (1 / size, f"a sum over the {size} data of a batch"),
        (elements * size, f"a mean over all {elements * size} elements of a batch"),
    ):
        if abs(average * factor - mine) <= max(noise, 0.02 * abs(mine)):
            return f"The loss is −ELBO divided by {factor:g}: {words}."
    return f"The loss differs from −ELBO by {value:.2f} nats per datum on average, for no reason that is known here."


def _type_of(guide: DiagonalNormal) -> torch.dtype:
    return next((weight.dtype for weight in guide.parameters()), torch.get_default_dtype())
