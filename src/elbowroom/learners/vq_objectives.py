r"""Objectives of the stages of vector quantisation (:mod:`elbowroom.learners.vq`), and the choice of a temperature.

The choice of the nearest code has no gradient. Two ways past it replace the chosen vector c by a function of the
encoder's vector e that has the value c: the straight-through gradient as if c were e, and the rotation trick as if c
were e after a rotation and a change of length, which keeps the angle between the gradient and the vector.

Reference:
    van den Oord, Vinyals & Kavukcuoglu (2017), Neural Discrete Representation Learning, eq. 3, arXiv:1711.00937.
    Fifty et al. (2025), Restructuring Vector Quantization with the Rotation Trick, arXiv:2410.06424.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.kl import group_kl
from elbowroom.inference.objectives import Estimator, elbo_terms, iwae_terms
from elbowroom.model.code_distributions import AutoregressiveCodes, Codes
from elbowroom.model.draws import draw
from elbowroom.model.guides import guide_distribution
from elbowroom.model.latent import Pair, evaluation_mode
from elbowroom.model.noise import NoiseSource
from elbowroom.model.quantizer import EmbeddedCodes, QuantizingGuide
from elbowroom.model.top_down_codes import TopDownCodes

__all__ = [
    "QUANTIZER_GRADIENTS",
    "QuantizerGradient",
    "choose_temperature",
    "joint_terms",
    "prior_terms",
    "quantizer_of",
    "reconstruction_terms",
    "rotated",
    "straight_through",
]

QuantizerGradient = Literal["straight-through", "rotation"]
"""The ways past the choice of the nearest code."""

_LADDER = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)  # temperatures tried, in squared distances from the nearest code
_TRIED_WITH = 8  # draws for each example and temperature

# --- the gradient past the choice --------------------------------------------------------------------------------


def straight_through(vectors: Tensor, chosen: Tensor) -> Tensor:
    r"""The chosen vectors, with the gradient as if they were the encoder's: :math:`e + \mathrm{sg}(c - e)`.

    Args:
        vectors: e, shape (\*, d).
        chosen: c, shape (\*, d).
    Example:
        >>> e = torch.zeros(2, requires_grad=True)
        >>> straight_through(e, torch.ones(2)).sum().backward()
        >>> e.grad
        tensor([1., 1.])
    """
    return vectors + (chosen - vectors).detach()


def rotated(vectors: Tensor, chosen: Tensor) -> Tensor:
    r"""The chosen vectors as the encoder's, turned and stretched; the gradient is turned back.

    .. math:: c = \mathrm{sg}\Big(\frac{\lVert c \rVert}{\lVert e \rVert} R\Big) e, \qquad
        R = I - 2 r r^\top + 2 \hat c \hat e^\top, \qquad r = \frac{\hat e + \hat c}{\lVert \hat e + \hat c \rVert}

    Where e has no length, the gradient is that of :func:`straight_through`.

    Args:
        vectors: e, shape (\*, d).
        chosen: c, shape (\*, d).
    Reference:
        Fifty et al. (2025), Restructuring Vector Quantization with the Rotation Trick, section 4, arXiv:2410.06424.
    Example:
        >>> e = torch.tensor([1.0, 0.0], requires_grad=True)
        >>> torch.allclose(rotated(e, torch.tensor([0.0, 2.0])), torch.tensor([0.0, 2.0]), atol=1e-6)
        True
    """
    e, c = vectors.detach(), chosen.detach()
    tiny = torch.finfo(e.dtype).tiny
    e_length, c_length = e.norm(dim=-1, keepdim=True), c.norm(dim=-1, keepdim=True)
    turns = e_length > torch.finfo(e.dtype).eps * c_length  # a vector of no length has no direction
    stretch = c_length / torch.where(turns, e_length, 1.0)
    e_hat, c_hat = e / e_length.clamp(min=tiny), c / c_length.clamp(min=tiny)
    r = e_hat + c_hat
    r = r / r.norm(dim=-1, keepdim=True).clamp(min=tiny)
    reflected = vectors - 2 * (vectors * r).sum(-1, keepdim=True) * r
    turned = (reflected + 2 * (vectors * e_hat).sum(-1, keepdim=True) * c_hat) * stretch
    return torch.where(turns, turned, straight_through(vectors, chosen))


#: name -> (the encoder's vectors, the chosen ones) to the chosen ones with a gradient in the encoder's
QUANTIZER_GRADIENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "straight-through": straight_through,
    "rotation": rotated,
}


# --- the stages' objectives --------------------------------------------------------------------------------------


def reconstruction_terms(
    pair: Pair,
    batch: Batch,
    z: Tensor,
    *,
    commitment: float,
    codebook_loss: bool = False,
    gradient: QuantizerGradient = "straight-through",
    generator: NoiseSource | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""The objective of the first stage, for the nearest codes.

    .. math:: \log p(x | z_q) - \beta \lVert e - \mathrm{sg}(c_{z_q}) \rVert^2
        \; \big[ - \lVert \mathrm{sg}(e) - c_{z_q} \rVert^2 \big]

    The codebook has no gradient from the first two terms. On several levels the distances are summed, and the gradient
    of a lower level's vectors goes past the choice of the codes above, which they depend on.

    Args:
        pair: model and guide, which share a codebook.
        batch: examples.
        z: the nearest codes of the batch, one-hot, shape (batch, L K).
        commitment: β.
        codebook_loss: whether the codes learn by gradient, from the last term.
        gradient: how the decoder's gradient gets to the encoder, a key of `QUANTIZER_GRADIENTS`.
        generator: not used, since nothing is drawn.
    Returns:
        The objective, shape (batch,); and by name, in nats, the terms of the ELBO of a guide that always takes the
        nearest codes: ``elbo``, ``reconstruction``, ``kl``, which is :math:`-\log p(z_q)`, of levels also ``kl_1``,
        ``kl_2``, …, the top level first.
    """
    guide, network = quantizer_of(pair)
    found = guide.quantized(batch.x, batch.context, z=z, through=QUANTIZER_GRADIENTS[gradient])
    with network.reading(torch.cat(found.read, -2).flatten(-2)):
        value = reconstruction = pair.model.log_likelihood(batch.x, z, context=batch.context, mask=batch.mask)
    for vectors, chosen in zip(found.vectors, found.chosen, strict=True):  # (batch, L, d)
        value = value - commitment * (vectors - chosen.detach()).square().sum((-1, -2))
        if codebook_loss:
            value = value - (vectors.detach() - chosen).square().sum((-1, -2))
    slots = [book.space.slots for book in guide.codebook.parts]
    with torch.no_grad():
        if len(slots) == 1:
            return value, _parts(reconstruction, -pair.model.log_prior(z, batch.context))
        p = pair.model.prior(None, batch.context)
        assert isinstance(p, Codes | AutoregressiveCodes)
        rates = torch.stack([-part.sum(-1) for part in p.log_probs(z).split_with_sizes(slots, -1)])
    return value, _parts(reconstruction, rates.sum(0), rates)


def prior_terms(
    pair: Pair, batch: Batch, *, num_samples: int = 1, generator: NoiseSource | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective of the second stage: log p(z) of draws z of the guide, to which no gradient goes.

    Args:
        pair: model and guide.
        batch: examples.
        num_samples: draws for each example.
        generator: the source of randomness.
    Returns:
        Nats, the mean over draws, shape (batch,), of levels plus the entropy of q; and ``elbo``, ``reconstruction``
        and ``kl`` of the same draws, of levels also ``kl_1``, ``kl_2``, …
    """
    with torch.no_grad():
        q = guide_distribution(pair.guide, batch)
        assert isinstance(q, Codes | TopDownCodes)
        z = draw(q, (num_samples,), generator=generator)
        reconstruction = pair.model.log_likelihood(batch.x, z, context=batch.context, mask=batch.mask).mean(0)
    if isinstance(q, TopDownCodes):  # its entropy has no gradient here, so that minus the KL has that of log p(z)
        rates = group_kl(q.detached(), pair.model.prior(None, batch.context), z).mean(1)
        return -rates.sum(0), _parts(reconstruction, rates.sum(0), rates)
    log_prior = pair.model.log_prior(z, batch.context).mean(0)
    return log_prior, _parts(reconstruction, -q.entropy() - log_prior)


def joint_terms(
    pair: Pair,
    batch: Batch,
    *,
    num_samples: int,
    estimator: Estimator,
    temperature: float,
    bound: str = "elbo",
    generator: NoiseSource | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective of the third stage, a bound on log p(x), and its parts.

    Args:
        pair: model and guide.
        batch: examples.
        num_samples: draws for each example.
        estimator: of the gradient.
        temperature: of an estimator for codes.
        bound: "elbo", with the entropy of q in closed form, or "iwae", the importance-weighted bound.
        generator: the source of randomness.
    Returns:
        Nats, shape (batch,); and ``elbo`` of the same draws, of the ELBO also its two terms.
    """
    settings: dict[str, Any] = {"num_samples": num_samples, "estimator": estimator, "temperature": temperature}
    if bound == "iwae":
        value, parts = iwae_terms(pair.model, pair.guide, batch, generator=generator, **settings)
        return value, {"elbo": parts["elbo"]}
    value, parts = elbo_terms(pair.model, pair.guide, batch, kl="auto", generator=generator, **settings)
    return value, parts | {"elbo": parts["reconstruction"] - parts["kl"]}


def _parts(reconstruction: Tensor, kl: Tensor, by_level: Sequence[Tensor] | Tensor = ()) -> dict[str, Tensor]:
    parts = {"reconstruction": reconstruction.detach(), "kl": kl.detach()}
    parts |= {"elbo": parts["reconstruction"] - parts["kl"]}
    return parts | {f"kl_{number}": part.detach() for number, part in enumerate(by_level, 1)}


def quantizer_of(pair: Pair) -> tuple[QuantizingGuide, EmbeddedCodes]:
    """The guide and the decoder's network, which share a codebook.

    Raises:
        ElbowroomError: another guide, or a decoder that reads something else.
    """
    guide, network = pair.guide, pair.model.likelihood.network
    if not (
        isinstance(guide, QuantizingGuide) and isinstance(network, EmbeddedCodes) and network.codebook is guide.codebook
    ):
        raise ElbowroomError(
            "Vector quantisation trains a NearestCodeGuide and a decoder of EmbeddedCodes with one codebook, but the "
            f"guide is a {type(guide).__name__} and the decoder's network a {type(network).__name__}.",
            "Give --model.guide nearest-code, or train another guide with --train.learner aevb.",
        )
    return guide, network


@torch.no_grad()
def choose_temperature(
    pair: Pair, batch: Batch, distances: Tensor, *, generator: torch.Generator
) -> tuple[Tensor, float]:
    """The temperature of the guide that has the highest ELBO on a batch, with the same noise for all.

    Args:
        pair: model and guide; unchanged afterwards.
        batch: examples.
        distances: mean squared distance of a vector from its nearest code, shape (T, 1): the unit of temperatures.
        generator: the source of randomness.
    Returns:
        log T, shape (T, 1), and the ELBO, nats.
    """
    guide = pair.guide
    assert isinstance(guide, QuantizingGuide)  # whatever reads its codes
    before, noise = guide.log_temperature.clone(), generator.get_state()
    unit = distances.clamp(min=torch.finfo(distances.dtype).eps).log().to(before)
    found: list[float] = []
    try:
        with evaluation_mode(pair):
            for factor in _LADDER:
                generator.set_state(noise)
                guide.log_temperature.copy_(unit + torch.tensor(factor).log())
                terms = elbo_terms(
                    pair.model, guide, batch, num_samples=_TRIED_WITH, kl="auto", estimator="score-function",
                    generator=generator,
                )  # fmt: skip
                found.append(terms.value.mean().item())
    finally:
        guide.log_temperature.copy_(before)
    best = max(range(len(_LADDER)), key=found.__getitem__)
    return unit + torch.tensor(_LADDER[best]).log(), found[best]
