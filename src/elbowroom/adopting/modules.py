r"""Guide and likelihood around a foreign encoder and decoder, with explicit conventions for their outputs.

A trained pair of networks is a model only together with conventions of the code around it: whether the encoder's second
output is a log-variance, a variance or a standard deviation, and whether the decoder's output is a logit, a probability
or a mean. The same numbers under another convention are another density. So the conventions are named here, and outputs
are converted to what the package's own likelihoods and guides take; the weights of the networks are not changed.

=============================================== ================================================================
likelihood                                      decoder_output
=============================================== ================================================================
bernoulli, continuous-bernoulli, cross-entropy  logits, probabilities
gaussian                                        mean (with ``scale``), mean-logvar, mean-variance, mean-scale,
                                                mean-logscale
laplace                                         mean (with ``scale``), mean-scale, mean-logscale
poisson                                         log-rate, rate
any other                                       parameters, as the package's likelihood takes them
=============================================== ================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from elbowroom.adopting.inspection import networks_of
from elbowroom.adopting.output_conventions import (
    ENCODER_OUTPUTS,
    TO_LOG_VARIANCE,
    EncoderOutput,
    only_output,
    two_outputs,
)
from elbowroom.errors import ElbowroomError, did_you_mean
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import DiagonalNormal
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import LIKELIHOODS, Likelihood, LocationScale
from elbowroom.model.priors import StandardNormal
from elbowroom.phrasing import with_article

__all__ = [
    "DECODER_OUTPUTS",
    "FixedPrior",
    "adopt_decoder",
    "adopt_encoder",
    "adopt_prior",
    "decoder_of",
    "encoder_of",
]

#: likelihood -> conventions of its decoder
DECODER_OUTPUTS: dict[str, tuple[str, ...]] = {
    "bernoulli": ("logits", "probabilities"),
    "continuous-bernoulli": ("logits", "probabilities"),
    "cross-entropy": ("logits", "probabilities"),
    "gaussian": ("mean", *ENCODER_OUTPUTS),
    "laplace": ("mean", "mean-scale", "mean-logscale"),
    "poisson": ("log-rate", "rate"),
}
_OTHER = ("parameters",)
#: likelihood -> what it has beside the outputs of its network
_BESIDE = {
    "categorical": "num_categories",
    "binomial": "trials",
    "ordinal": "levels and cut points",
    "student-t": "degrees of freedom",
}

_LEAST_SCALE = 1e-6  # of a Gaussian whose scale comes from a foreign network


class FixedPrior(Conditional):
    """A fixed distribution as a prior.

    Args:
        distribution: over the latent vector, with event shape (latent,) and batch shape (); or with batch shape
            (latent,), whose elements are then independent.
    """

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        self.distribution = _of_one_vector(distribution)

    def forward(self, given: Tensor | None = None, context: Tensor | None = None) -> Distribution:
        return self.distribution


class _FunctionPrior(Conditional):
    """A prior from a module or function without arguments that returns a distribution."""

    def __init__(self, make: Callable[[], Distribution]) -> None:
        super().__init__()
        self.make = make

    def forward(self, given: Tensor | None = None, context: Tensor | None = None) -> Distribution:
        return _of_one_vector(self.make())


def _of_one_vector(distribution: Distribution) -> Distribution:
    if not distribution.event_shape and len(distribution.batch_shape) == 1:
        distribution = Independent(distribution, 1)
    if len(distribution.event_shape) != 1 or distribution.batch_shape:
        raise ElbowroomError(
            f"The prior has batch shape {tuple(distribution.batch_shape)} and event shape "
            f"{tuple(distribution.event_shape)}, but must be a distribution over one latent vector.",
            "Give one with event shape (latent,), for instance Independent(Normal(loc, scale), 1).",
        )
    return distribution


def _hidden_in(function: Callable[..., Any]) -> nn.ModuleList:
    """The networks inside a function, so that they get evaluation mode; empty for a module, which gets it anyway."""
    return nn.ModuleList([] if isinstance(function, nn.Module) else networks_of(function))


class _Encoder(nn.Module):
    """x -> (mean, log σ²), shape (\\*, 2, latent)."""

    def __init__(
        self, module: Callable[..., Any], output: EncoderOutput, shape: Sequence[int], inner: Sequence[int]
    ) -> None:
        super().__init__()
        self.module, self.output, self.event_shape, self.inner = module, output, tuple(shape), tuple(inner)
        self.networks = _hidden_in(module)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        mean, second = self.outputs(x)
        return torch.stack([mean, TO_LOG_VARIANCE[self.output](second)], -2)

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both outputs as the module returns them, shape (\\*, latent)."""
        leading = x.shape[: x.dim() - len(self.event_shape)]
        mean, second = two_outputs(self.module(x.reshape(-1, *self.inner)), "encoder")
        if len(mean) != leading.numel() or second.shape != mean.shape:
            raise ElbowroomError(
                f"The encoder returned shapes {tuple(mean.shape)} and {tuple(second.shape)} for {leading.numel()} "
                "examples, but a mean and a spread are needed for every element of z.",
                "Check the shape in which it takes an example, for instance input_shape=(1, 8, 8), and that z is one "
                "vector.",
            )
        return mean.reshape(*leading, -1), second.reshape(*leading, -1)


class _Decoder(nn.Module):
    """z -> the parameters that a likelihood takes, shape (\\*, P, \\*event)."""

    def __init__(self, module: Callable[..., Any], output: str, event_shape: Sequence[int], parameters: int) -> None:
        super().__init__()
        self.module, self.output, self.networks = module, output, _hidden_in(module)
        self.event_shape, self.out_shape = tuple(event_shape), (parameters, *event_shape)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        found = self.outputs(z)
        if self.output.startswith("mean-"):
            mean, second = (self._shaped(part, z) for part in found)
            scale = (0.5 * TO_LOG_VARIANCE[self.output](second)).exp()
            above = (scale - _LEAST_SCALE).clamp(min=1e-12)
            raw = above + torch.log(-torch.expm1(-above))  # the inverse of softplus
            return torch.stack([mean, raw], -1 - len(self.event_shape))
        (only,) = found
        if self.output == "parameters":
            return only.reshape(*z.shape[:-1], *self.out_shape)
        return _RAW[self.output](self._shaped(only, z)).unsqueeze(-1 - len(self.event_shape))

    def outputs(self, z: Tensor) -> tuple[Tensor, ...]:
        """One output or two, as the module returns them."""
        found = self.module(z.reshape(-1, z.shape[-1]))
        return two_outputs(found, "decoder") if self.output.startswith("mean-") else (only_output(found),)

    def _shaped(self, values: Tensor, z: Tensor) -> Tensor:
        wanted = (*z.shape[:-1], *self.event_shape)
        if values.numel() != torch.Size(wanted).numel():
            raise ElbowroomError(
                f"The decoder returned shape {tuple(values.shape)} for {z.shape[:-1].numel()} latent vectors, but data "
                f"have shape {self.event_shape}.",
                "Check decoder_output and the data's shape: a mean and a scale are two outputs.",
            )
        return values.reshape(wanted)


#: one output -> what the likelihood takes
_RAW: dict[str, Callable[[Tensor], Tensor]] = {
    "logits": lambda out: out,
    # in float32, probabilities nearer to 0 or 1 than this have lost what they were
    "probabilities": lambda out: torch.logit(out, eps=1e-7),
    "mean": lambda out: out,
    "log-rate": lambda out: out,
    "rate": lambda out: out.clamp(min=1e-30).log(),
}


def adopt_encoder(
    encoder: Callable[..., Any],
    output: EncoderOutput,
    event_shape: Sequence[int],
    latent_dim: int,
    *,
    input_shape: Sequence[int] | None = None,
) -> DiagonalNormal:
    """A guide around an encoder.

    Args:
        encoder: maps x of shape (n, \\*input_shape) to two outputs, see :func:`two_outputs`.
        output: convention of the second output.
        event_shape: of the data.
        latent_dim: D.
        input_shape: shape that the encoder expects; by default that of the data.
    Raises:
        ElbowroomError: an unknown convention.
    """
    if output not in ENCODER_OUTPUTS:
        raise ElbowroomError(f"There is no encoder_output '{output}'.", did_you_mean(str(output), ENCODER_OUTPUTS))
    return DiagonalNormal(_Encoder(encoder, output, event_shape, input_shape or event_shape), latent_dim)


def adopt_decoder(
    decoder: Callable[..., Any],
    likelihood: str,
    output: str,
    event_shape: Sequence[int],
    *,
    scale: float | None = None,
    **settings: Any,
) -> Likelihood:
    """A likelihood around a decoder.

    Args:
        decoder: maps z of shape (n, latent) to its output.
        likelihood: a name in ``LIKELIHOODS``.
        output: convention of the output, see the table above.
        event_shape: of the data.
        scale: σ of a Gaussian or Laplace likelihood whose decoder returns only a mean.
        **settings: other settings of the likelihood.
    Raises:
        ElbowroomError: an unknown name; a mean without σ; a likelihood with numbers that no decoder returns.
    """
    if likelihood not in LIKELIHOODS:
        raise ElbowroomError(f"There is no likelihood '{likelihood}'.", did_you_mean(likelihood, LIKELIHOODS))
    known = DECODER_OUTPUTS.get(likelihood, _OTHER)
    if output not in known:
        raise ElbowroomError(f"A {likelihood} decoder cannot return '{output}'.", did_you_mean(output, known))
    kind = LIKELIHOODS[likelihood]
    if likelihood in _BESIDE and _BESIDE[likelihood] not in settings:
        raise ElbowroomError(
            f"{with_article(likelihood).capitalize()} likelihood has {_BESIDE[likelihood]}, which are not among the "
            "outputs of a decoder.",
            "Make the likelihood yourself, from er.likelihoods with your decoder as its network, and er.LatentModel "
            "of it and of a prior.",
        )
    if issubclass(kind, LocationScale):
        if output == "mean" and scale is None:
            raise ElbowroomError(
                f"The decoder of the {kind.__name__} returns only a mean, so its noise σ is not known.",
                "Give scale=σ. A loss of ½ Σ (x − mean)² means σ = 1; a plain squared error means σ = 0.7071.",
            )
        chosen: float | Literal["per-element"] = "per-element" if scale is None else scale
        parameters = kind.parameter_shape((), scale=chosen)[0]
        network = _Decoder(decoder, output, event_shape, parameters)
        return kind(network, event_shape, scale=chosen, min_scale=_LEAST_SCALE)
    parameters = kind.parameter_shape((), **settings)[0]
    return kind(_Decoder(decoder, output, event_shape, parameters), event_shape, **settings)


def adopt_prior(
    prior: Conditional | Distribution | Callable[[], Distribution] | None,
    latent_dim: int,
    context: Tensor | None = None,
) -> Conditional:
    """A prior: N(0, I) for None, otherwise the given one, wrapped.

    Args:
        prior: a distribution, a function that returns one, or a conditional.
        latent_dim: D of the encoder.
        context: of some examples, for a conditional that needs one.
    Raises:
        ElbowroomError: a prior that is not over one latent vector of this size.
    """
    if prior is None:
        return StandardNormal(latent_dim)
    if isinstance(prior, Conditional):
        wrapped = prior
    else:
        wrapped = FixedPrior(prior) if isinstance(prior, Distribution) else _FunctionPrior(prior)
    shape = tuple(wrapped(None, context).event_shape)
    if shape != (latent_dim,):
        raise ElbowroomError(
            f"The prior is over vectors of shape {shape}, but the encoder's z has {latent_dim} elements.",
            f"Give a prior of event shape ({latent_dim},), or the encoder that belongs to this one.",
        )
    return wrapped


def decoder_of(model: LatentModel) -> _Decoder:
    """The wrapped decoder of an adopted model."""
    network = model.likelihood.network
    assert isinstance(network, _Decoder)
    return network


def encoder_of(guide: DiagonalNormal) -> _Encoder:
    """The wrapped encoder of an adopted model."""
    assert isinstance(guide.network, _Encoder)
    return guide.network
