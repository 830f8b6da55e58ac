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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.objectives import Estimator, elbo_terms
from elbowroom.learners.codebook import CodebookAverages, k_means, read_by_table
from elbowroom.learners.execution import Execution, ObjectiveValue, eager
from elbowroom.learners.learner import StepInfo, TrainingState, check_finite
from elbowroom.learners.update import Update
from elbowroom.learners.vq_objectives import (
    QuantizerGradient,
    choose_temperature,
    joint_terms,
    prior_terms,
    quantizer_of,
    reconstruction_terms,
)
from elbowroom.model.latent import Pair
from elbowroom.model.networks import running_statistics_kept
from elbowroom.model.quantizer import Quantized

__all__ = ["Vq", "VqState", "no_stages"]

_WARMUP = 0.05  # share of a stage over which its learning rate grows to the peak
_SPREAD = 1.0  # temperature in the first stage, in squared distances from the nearest code


@dataclass(slots=True)
class VqState(TrainingState):
    """The state of training, with the moving averages of the codebook."""

    levels: tuple[CodebookAverages, ...] = ()

    @property
    def averages(self) -> CodebookAverages:
        """Of the top level, or the only one."""
        return self.levels[0]

    @property
    def distances(self) -> Tensor:
        """Mean squared distance of a vector from its nearest code, of all tables of all levels, shape (tables, 1)."""
        return torch.cat([averages.distances for averages in self.levels])

    def tensors(self) -> dict[str, Tensor]:
        kept = {
            f"{prefix}.{name}": tensor.clone()
            for prefix, averages in self._named().items()
            for name, tensor in averages.tensors().items()
        }
        return TrainingState.tensors(self) | kept

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        TrainingState.load(self, tensors)
        for prefix, averages in self._named().items():
            averages.load({name: tensors[f"{prefix}.{name}"] for name in averages.tensors()})

    def _named(self) -> dict[str, CodebookAverages]:
        if len(self.levels) == 1:
            return {"codebook": self.averages}
        return {f"codebook.{level}": averages for level, averages in enumerate(self.levels)}


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
        last_bound: what is maximised from ``last_from`` on, "elbo" or "iwae", the importance-weighted bound.
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
    restart_below: float = 0.1
    estimator: Estimator = "reinmax"
    temperature: float = 1.0
    num_samples: int = 1
    last_estimator: Estimator = "score-function"
    last_samples: int = 2
    last_bound: Literal["elbo", "iwae"] = "elbo"
    execution: Execution = eager

    def __post_init__(self) -> None:
        if self.update.total_steps is None:
            raise no_stages()

    @property
    def starts(self) -> list[int]:
        """The first steps of the stages and of the last part, as far as there are any."""
        assert self.update.total_steps is not None  # see __post_init__
        return sorted({s for s in (0, self.prior_from, self.joint_from, self.last_from) if s < self.update.total_steps})

    def init(self, pair: Pair) -> VqState:
        """The state before the first step; nothing has been averaged.

        Raises:
            ElbowroomError: a guide or a decoder without a codebook that both share.
        """
        guide, _ = quantizer_of(pair)
        levels = tuple(CodebookAverages.empty(codebook) for codebook in guide.codebook.parts)
        return VqState(0, pair, *self.update.optimizer_and_average(pair), levels)

    def step(self, state: TrainingState, batch: Batch, *, generator: torch.Generator) -> tuple[TrainingState, StepInfo]:
        """One update of the weights of the current stage.

        Raises:
            ElbowroomError: the objective or its gradient is not finite; names the step, the term and the likely
                cause, and leaves the weights as they were.
        """
        assert isinstance(state, VqState)
        if state.step == 0:
            self._start_codebook(state, batch, generator)
        if state.step in (self.prior_from, self.joint_from):
            state.optimizer.state.clear()
        if state.step == self.prior_from:
            self._set_temperature(state, batch, generator)
        if state.step < self.prior_from:
            guide, _ = quantizer_of(state.pair)
            with torch.no_grad(), running_statistics_kept(guide):  # the objective computes the vectors once more
                nearest = guide.quantized(batch.x, batch.context)
            found, gradients = self._reconstruct(state, batch, nearest.z), len(batch)
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
                bound="elbo" if early else self.last_bound,
            )
            gradients = samples * len(batch)
        update = dataclasses.replace(self.update, schedule=lambda _: self.rate(state.step))
        updated = update.apply_gradient(state, "objective", found.value, found.parts, batch)
        if state.step < self.prior_from and not updated.terms.get("skipped"):
            self._follow(state, nearest, generator)
        state.step += 1
        del updated.terms["objective"]  # it differs from stage to stage, and in the first it is no bound
        return state, StepInfo(updated.terms, updated.lr, gradients, grad_norm=updated.grad_norm)

    def measure(self, pair: Pair, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """The ELBO of each example and its two terms, for draws of the guide, in every stage."""
        terms = elbo_terms(
            pair.model,
            pair.guide,
            batch,
            num_samples=self.last_samples,
            kl="auto",
            estimator="score-function",
            generator=generator,
        )
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

    @torch.no_grad()
    def _start_codebook(self, state: VqState, batch: Batch, generator: torch.Generator) -> None:
        """Puts codes that are not fixed at the k-means of the first batch's vectors, and starts the averages."""
        guide, _ = quantizer_of(state.pair)
        for level, (codebook, averages) in enumerate(zip(guide.codebook.parts, state.levels, strict=True)):
            with running_statistics_kept(guide):  # of a lower level they depend on the codes above
                vectors = guide.quantized(batch.x, batch.context).vectors[level]
            check_finite(1, {"encoder": vectors.mean().item()}, self.rate(0), batch=batch)
            if codebook.kind != "fsq":
                codebook.vectors.copy_(k_means(read_by_table(vectors, codebook), codebook.space.codes, generator))
            averages.update(vectors, codebook.nearest(vectors), codebook, decay=0.0)

    def _reconstruct(self, state: VqState, batch: Batch, z: Tensor) -> ObjectiveValue:
        guide, _ = quantizer_of(state.pair)
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
    def _follow(self, state: VqState, nearest: Quantized, generator: torch.Generator) -> None:
        """The codebook of every level and the temperatures follow the encoder."""
        guide, _ = quantizer_of(state.pair)
        codebooks = guide.codebook.parts
        chosen = nearest.z.split_with_sizes([codebook.space.dim for codebook in codebooks], -1)
        for codebook, averages, vectors, z in zip(codebooks, state.levels, nearest.vectors, chosen, strict=True):
            averages.update(vectors, z, codebook, decay=self.decay)
            if codebook.kind == "ema":
                codebook.vectors.copy_(averages.centres(codebook.vectors))
            if codebook.kind != "fsq" and self.restart_below:
                codebook.vectors.copy_(
                    averages.restart(
                        codebook.vectors,
                        read_by_table(vectors, codebook),
                        below=self.restart_below,
                        generator=generator,
                    )
                )
        smallest = torch.finfo(state.distances.dtype).eps
        guide.log_temperature.copy_((_SPREAD * state.distances).clamp(min=smallest).log())

    @torch.no_grad()
    def _set_temperature(self, state: VqState, batch: Batch, generator: torch.Generator) -> None:
        guide, _ = quantizer_of(state.pair)
        log_temperature, best = choose_temperature(state.pair, batch, state.distances, generator=generator)
        check_finite(state.step + 1, {"elbo": best}, self.rate(state.step), batch=batch)
        guide.log_temperature.copy_(log_temperature)


def no_stages() -> ElbowroomError:
    """The error for a run whose length is not known."""
    return ElbowroomError(
        "The stages of the learner vq are shares of the training, so it needs the number of steps in advance, which a "
        "run limited by time or work does not have.",
        "Set the length with --train.epochs or --train.steps.",
    )
