r"""Vector quantisation in three stages: encoder and codebook, then the prior, then all together on the ELBO.

1. *Reconstruction.* Every slot takes the code :math:`z_q` that is nearest to the encoder's output e, as in a VQ-VAE:

   .. math:: \log p(x | z_q) - \beta \lVert e - \mathrm{sg}(c_{z_q}) \rVert^2

   The gradient goes from the decoder's input past the choice to the encoder. The commitment term keeps the encoder at
   its codes; the codes follow the encoder (:mod:`elbowroom.learners.codebook`), and so does the temperature.
2. *Prior.* The temperature of q is chosen, and :math:`\log p(z)` is maximised for draws z of q. Not for the nearest
   codes: those are fewer, and a prior that is fitted to them gives the draws, with which every bound is computed, too
   little probability.
3. *Joint.* Encoder, codebook, temperature, prior and decoder maximise the ELBO of q together, with the entropy of q in
   closed form: by a biased estimator of low variance at first, by the score function at the end, when q is sharp.

The VQ-VAE ends after the second stage, with the bound :math:`\log p(x | z_q) + \log p(z_q)`. Validation measures the
ELBO of draws in every stage, so that stages can be compared.

Reference:
    van den Oord, Vinyals & Kavukcuoglu (2017), Neural Discrete Representation Learning, eq. 3, arXiv:1711.00937.
    Fifty et al. (2025), Restructuring Vector Quantization with the Rotation Trick, eq. 4, arXiv:2410.06424.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.objectives import Estimator, elbo_terms
from elbowroom.learners.codebook import CodebookAverages
from elbowroom.learners.execution import Execution, ObjectiveValue, eager
from elbowroom.learners.learner import StepInfo, TrainingState, check_finite
from elbowroom.learners.update import Update
from elbowroom.model.code_distributions import Codes
from elbowroom.model.draws import draw
from elbowroom.model.guides import guide_distribution
from elbowroom.model.latent import Pair, evaluation_mode
from elbowroom.model.noise import NoiseSource
from elbowroom.model.quantizer import EmbeddedCodes, NearestCodeGuide

__all__ = [
    "QUANTIZER_GRADIENTS",
    "Vq",
    "VqState",
    "choose_temperature",
    "joint_terms",
    "prior_terms",
    "reconstruction_terms",
    "rotated",
    "straight_through",
]

QuantizerGradient = Literal["straight-through", "rotation"]

_WARMUP = 0.05  # share of a stage over which its learning rate grows to the peak
_SPREAD = 1.0  # temperature in the first stage, in squared distances from the nearest code
_LADDER = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)  # the temperatures tried, in the same unit
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

    Args:
        vectors: e, shape (\*, d).
        chosen: c, shape (\*, d).
    Reference:
        Fifty et al. (2025), Restructuring Vector Quantization with the Rotation Trick, section 4, arXiv:2410.06424.
    Example:
        >>> e = torch.tensor([1.0, 0.0], requires_grad=True)
        >>> rotated(e, torch.tensor([0.0, 2.0]))
        tensor([0., 2.], grad_fn=<MulBackward0>)
    """
    e, c = vectors.detach(), chosen.detach()
    tiny = torch.finfo(e.dtype).tiny
    e_length, c_length = (v.norm(dim=-1, keepdim=True).clamp(min=tiny) for v in (e, c))
    e_hat, c_hat = e / e_length, c / c_length
    r = e_hat + c_hat
    r = r / r.norm(dim=-1, keepdim=True).clamp(min=tiny)
    reflected = vectors - 2 * (vectors * r).sum(-1, keepdim=True) * r
    return (reflected + 2 * (vectors * e_hat).sum(-1, keepdim=True) * c_hat) * (c_length / e_length)


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

    The codebook has no gradient from the first two terms.

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
        nearest codes: ``elbo``, ``reconstruction``, ``kl``, which is :math:`-\log p(z_q)`.
    """
    guide, network = _quantizer(pair)
    vectors = guide.vectors(batch.x, batch.context)  # (batch, L, d)
    chosen = guide.codebook.embed(z).view_as(vectors)
    read = QUANTIZER_GRADIENTS[gradient](vectors, chosen.detach())
    with network.reading(read.flatten(-2)):
        reconstruction = pair.model.log_likelihood(batch.x, z, context=batch.context, mask=batch.mask)
    value = reconstruction - commitment * (vectors - chosen.detach()).square().sum((-1, -2))
    if codebook_loss:
        value = value - (vectors.detach() - chosen).square().sum((-1, -2))
    with torch.no_grad():
        rate = -pair.model.log_prior(z, batch.context)
    return value, _parts(reconstruction, rate)


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
        Nats, the mean over draws, shape (batch,); and ``elbo``, ``reconstruction`` and ``kl`` of the same draws.
    """
    with torch.no_grad():
        q = guide_distribution(pair.guide, batch)
        assert isinstance(q, Codes)
        z = draw(q, (num_samples,), generator=generator)
        reconstruction = pair.model.log_likelihood(batch.x, z, context=batch.context, mask=batch.mask).mean(0)
    log_prior = pair.model.log_prior(z, batch.context).mean(0)
    return log_prior, _parts(reconstruction, -q.entropy() - log_prior)


def joint_terms(
    pair: Pair,
    batch: Batch,
    *,
    num_samples: int,
    estimator: Estimator,
    temperature: float,
    generator: NoiseSource | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective of the third stage, the ELBO, and its parts; arguments as in
    :func:`~elbowroom.inference.objectives.elbo_terms`.
    """
    value, parts = elbo_terms(
        pair.model,
        pair.guide,
        batch,
        num_samples=num_samples,
        kl="auto",
        estimator=estimator,
        temperature=temperature,
        generator=generator,
    )
    return value, parts | {"elbo": parts["reconstruction"] - parts["kl"]}


def _parts(reconstruction: Tensor, kl: Tensor) -> dict[str, Tensor]:
    parts = {"reconstruction": reconstruction.detach(), "kl": kl.detach()}
    return parts | {"elbo": parts["reconstruction"] - parts["kl"]}


def _quantizer(pair: Pair) -> tuple[NearestCodeGuide, EmbeddedCodes]:
    """The guide and the decoder's network, which share a codebook.

    Raises:
        ElbowroomError: another guide, or a decoder that reads something else.
    """
    guide, network = pair.guide, pair.model.likelihood.network
    if not (
        isinstance(guide, NearestCodeGuide)
        and isinstance(network, EmbeddedCodes)
        and network.codebook is guide.codebook
    ):
        raise ElbowroomError(
            "Vector quantisation trains a NearestCodeGuide and a decoder of EmbeddedCodes with one codebook, but the "
            f"guide is a {type(guide).__name__} and the decoder's network a {type(network).__name__}.",
            "Give --model.guide nearest-code, or train another guide with --train.learner aevb.",
        )
    return guide, network


@torch.no_grad()
def choose_temperature(pair: Pair, batch: Batch, distances: Tensor, *, generator: torch.Generator) -> tuple[Tensor, float]:
    """The temperature of the guide that has the highest ELBO on a batch, with the same noise for all.

    Args:
        pair: model and guide; unchanged afterwards.
        batch: examples.
        distances: mean squared distance of a vector from its nearest code, shape (L, 1): the unit of temperatures.
        generator: the source of randomness.
    Returns:
        log T, shape (L, 1), and the ELBO, nats.
    """
    guide, _ = _quantizer(pair)
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


# --- the learner -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class VqState(TrainingState):
    """The state of training, with the moving averages of the codebook."""

    averages: CodebookAverages | None = None

    def tensors(self) -> dict[str, Tensor]:
        assert self.averages is not None
        kept = {f"codebook.{name}": tensor.clone() for name, tensor in self.averages.tensors().items()}
        return TrainingState.tensors(self) | kept

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        assert self.averages is not None
        TrainingState.load(self, tensors)
        self.averages.load({name: tensors[f"codebook.{name}"] for name in self.averages.tensors()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Vq:
    """Vector quantisation in stages; each has the schedule of the learning rate to itself, and fresh moments.

    Args:
        update: optimiser, schedule, clipping, moving average; its ``total_steps`` is known.
        prior_from: step at which the second stage begins.
        joint_from: step at which the third stage begins.
        last_from: step, in the third stage, from which ``last_estimator`` and ``last_samples`` serve.
        joint_rate: learning rate of the third stage, as a part of that of the others.
        commitment: β, the weight of the commitment term.
        gradient: how the decoder's gradient gets to the encoder in the first stage.
        decay: γ of the moving averages.
        restart_below: the part of an equal share of the usage below which a code is put elsewhere; 0 for never.
        estimator: of the gradient in the third stage.
        temperature: of that estimator, not of the guide.
        num_samples: draws of z per example in the second and third stages.
        last_estimator: of the gradient from ``last_from`` on.
        last_samples: draws of z from ``last_from`` on, and for `measure` always.
        execution: how objectives and gradients are computed; `measure` is always eager.
    Raises:
        ElbowroomError: the length of the run is not known.
    """

    name: ClassVar[str] = "elbo"
    update: Update
    prior_from: int
    joint_from: int
    last_from: int
    joint_rate: float = 0.5
    commitment: float = 0.25
    gradient: QuantizerGradient = "straight-through"
    decay: float = 0.98
    restart_below: float = 0.01
    estimator: Estimator = "reinmax"
    temperature: float = 1.0
    num_samples: int = 1
    last_estimator: Estimator = "score-function"
    last_samples: int = 2
    execution: Execution = eager

    def __post_init__(self) -> None:
        if self.update.total_steps is None:
            raise ElbowroomError(
                "The learner vq has stages, which are shares of the training, so it needs the number of steps in "
                "advance, which a run limited by time or work does not have.",
                "Set the length with --train.epochs or --train.steps.",
            )

    def init(self, pair: Pair) -> VqState:
        """The state before the first step; nothing has been averaged.

        Raises:
            ElbowroomError: a guide or a decoder without a codebook that both share.
        """
        guide, _ = _quantizer(pair)
        averages = CodebookAverages.empty(guide.codebook)
        return VqState(0, pair, *self.update.optimizer_and_average(pair), averages)

    def step(self, state: TrainingState, batch: Batch, *, generator: torch.Generator) -> tuple[TrainingState, StepInfo]:
        """One update of the weights of the current stage.

        Raises:
            ElbowroomError: the objective or its gradient is not finite; names the step, the term and the likely
                cause, and leaves the weights as they were.
        """
        assert isinstance(state, VqState) and state.averages is not None
        if state.step == 0:
            self._start_codebook(state, batch, generator)
        if state.step in (self.prior_from, self.joint_from):
            state.optimizer.state.clear()
        if state.step == self.prior_from:
            self._set_temperature(state, batch, generator)
        if state.step < self.prior_from:
            guide, _ = _quantizer(state.pair)
            with torch.no_grad():
                vectors = guide.vectors(batch.x, batch.context)
                z = guide.codebook.nearest(vectors)
            found, gradients = self._reconstruct(state, batch, z), len(batch)
        elif state.step < self.joint_from:
            samples = self.num_samples
            found = self.execution(prior_terms, state.pair, batch, num_samples=samples, generator=generator)
            gradients = 0
        else:
            early = state.step < self.last_from
            samples = self.num_samples if early else self.last_samples
            found = self.execution(
                joint_terms,
                state.pair,
                batch,
                generator=generator,
                num_samples=samples,
                estimator=self.estimator if early else self.last_estimator,
                temperature=self.temperature,
            )
            gradients = samples * len(batch)
        update = dataclasses.replace(self.update, schedule=lambda _: self.rate(state.step))
        updated = update.apply_gradient(state, "objective", found.value, found.parts, batch)
        if state.step < self.prior_from:
            self._follow(state, vectors, z, generator)
        state.step += 1
        del updated.terms["objective"]  # it differs from stage to stage, and in the first it is no bound
        return state, StepInfo(updated.terms, updated.lr, gradients, grad_norm=updated.grad_norm)

    def measure(self, pair: Pair, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """The ELBO of each example and its two terms, for draws of the guide, in every stage."""
        terms = elbo_terms(pair.model, pair.guide, batch, num_samples=self.last_samples, kl="auto", generator=generator)
        return {"elbo": terms.value, **terms.parts}

    def rate(self, step: int) -> float:
        """The learning rate of a step as a part of the peak: in every stage it grows, then follows the schedule."""
        assert self.update.total_steps is not None  # see __post_init__
        stages = ((0, self.prior_from, 1.0), (self.prior_from, self.joint_from, 1.0))
        start, end, peak = next(
            (stage for stage in stages if step < stage[1]), (self.joint_from, self.update.total_steps, self.joint_rate)
        )
        length = max(1, end - start)
        grown = min(1.0, (step - start + 1) / (_WARMUP * length))
        return peak * grown * self.update.schedule(min(1.0, (step - start) / length))

    # --- the codebook ---

    def _start_codebook(self, state: VqState, batch: Batch, generator: torch.Generator) -> None:
        """Puts the codes at the centres of the first batch's vectors, unless they are fixed."""
        guide, _ = _quantizer(state.pair)
        assert state.averages is not None
        with torch.no_grad():
            vectors = guide.vectors(batch.x, batch.context)
            check_finite(1, {"encoder": vectors.mean().item()}, self.rate(0), batch=batch)
            if guide.codebook.kind != "fsq":
                guide.codebook.vectors.copy_(state.averages.start(vectors, guide.codebook.space.codes, generator))

    def _reconstruct(self, state: VqState, batch: Batch, z: Tensor) -> ObjectiveValue:
        guide, _ = _quantizer(state.pair)
        return self.execution(
            reconstruction_terms,
            state.pair,
            batch,
            z,
            commitment=self.commitment,
            codebook_loss=guide.codebook.kind == "gradient",
            gradient=self.gradient,
        )

    @torch.no_grad()
    def _follow(self, state: VqState, vectors: Tensor, z: Tensor, generator: torch.Generator) -> None:
        """The codebook and the temperature follow the encoder."""
        guide, _ = _quantizer(state.pair)
        codebook, averages = guide.codebook, state.averages
        assert averages is not None
        averages.update(vectors, z, codebook, decay=self.decay)
        if codebook.kind == "ema":
            codebook.vectors.copy_(averages.centres)
        if codebook.kind != "fsq" and self.restart_below:
            codebook.vectors.copy_(
                averages.restart(codebook.vectors, vectors, below=self.restart_below, generator=generator)
            )
        smallest = torch.finfo(averages.distances.dtype).eps
        guide.log_temperature.copy_((_SPREAD * averages.distances).clamp(min=smallest).log())

    @torch.no_grad()
    def _set_temperature(self, state: VqState, batch: Batch, generator: torch.Generator) -> None:
        guide, _ = _quantizer(state.pair)
        assert state.averages is not None
        log_temperature, best = choose_temperature(state.pair, batch, state.averages.distances, generator=generator)
        check_finite(state.step + 1, {"elbo": best}, self.rate(state.step), batch=batch)
        guide.log_temperature.copy_(log_temperature)


