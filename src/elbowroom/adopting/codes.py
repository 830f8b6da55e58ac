r"""A VQ-VAE from elsewhere as a model with codes: encoder, codebook and decoder become guide and likelihood.

The encoder returns one vector for each slot, :math:`e_1(x) \dots e_L(x)`, and the codebook has K vectors, shared by all
slots or one set for each. The guide is the softened one,

.. math:: q(z_l = k | x) \propto \exp(-\lVert e_l(x) - c_k \rVert^2 / T),

whose temperature T has the highest ELBO unless it is given; :math:`T \to 0` is the VQ-VAE's own choice, with which no
bound but the deterministic one exists. A VQ-VAE has no p(z) of its own. One can be given, or fitted here to codes of
training data: to *drawn* ones, since these are what every bound is computed with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from elbowroom.adopting.inspection import first_call, networks_of
from elbowroom.adopting.output_conventions import only_output
from elbowroom.data.batch import Batch
from elbowroom.data.dataset import DataSet
from elbowroom.errors import ElbowroomError, check_name
from elbowroom.evaluation.doctor.codes import fitted_unigram
from elbowroom.learners.vq_objectives import choose_temperature
from elbowroom.model.autoregressive import Made
from elbowroom.model.code_distributions import CodeSpace
from elbowroom.model.codes import UniformCodes, UnigramCodes
from elbowroom.model.conditional import Conditional, Likelihood
from elbowroom.model.draws import draw
from elbowroom.model.guides import guide_distribution
from elbowroom.model.latent import LatentModel, Pair
from elbowroom.model.quantizer import Codebook, NearestCodeGuide

__all__ = ["CodeDecoder", "DecoderInput", "FittedPrior", "VectorShape", "code_guide", "code_prior", "no_prior_yet"]

FittedPrior = Literal["unigram", "made"]
"""What p(z) can be fitted as: independent slots, in closed form, or a masked MLP, by Adam."""
DecoderInput = Literal["vectors", "codes"]
"""What the decoder takes: the codes' vectors in the form of the encoder's, or the codes' numbers."""

_FIT_BATCH = 250  # examples of a step
_FIT_LR = 2e-3  # of Adam, which falls to zero
_TRIED_ON = 500  # examples for the temperature


class VectorShape(NamedTuple):
    """The form in which a network has the vectors of an example: (L, d), or a picture of them, (d, H, W).

    Attributes:
        slots: L, of a picture H W.
        dim: d.
        picture: (H, W), or None.
    """

    slots: int
    dim: int
    picture: tuple[int, int] | None

    @classmethod
    def of(cls, found: Any) -> VectorShape:
        """That of an encoder's output for n examples.

        Raises:
            ElbowroomError: a tensor of another shape than (n, L, d) or (n, d, H, W).
        """
        vectors = only_output(found)
        if vectors.dim() == 3:
            return cls(vectors.shape[1], vectors.shape[2], None)
        if vectors.dim() == 4:
            return cls(vectors.shape[2] * vectors.shape[3], vectors.shape[1], (vectors.shape[2], vectors.shape[3]))
        raise ElbowroomError(
            f"The encoder returned shape {tuple(vectors.shape)}, but with a codebook one vector is needed for each "
            "slot: (n, slots, d), or (n, d, H, W) with a slot for each place of a picture.",
            "Reshape it in a function: encoder=lambda x: net(x).reshape(len(x), slots, -1).",
        )

    def to_slots(self, vectors: Tensor) -> Tensor:
        """(n, L, d) of the network's form."""
        return vectors if self.picture is None else vectors.flatten(2).mT

    def to_form(self, vectors: Tensor) -> Tensor:
        """The network's form of (n, L, d)."""
        return vectors if self.picture is None else vectors.mT.reshape(len(vectors), self.dim, *self.picture)


class _VectorEncoder(nn.Module):
    """x -> e, shape (\\*, L, d)."""

    def __init__(
        self, module: Callable[..., Any], shape: VectorShape, event_shape: Sequence[int], inner: Sequence[int]
    ) -> None:
        super().__init__()
        self.module, self.shape, self.event_shape, self.inner = module, shape, tuple(event_shape), tuple(inner)
        self.out_shape = (shape.slots, shape.dim)
        self.networks = nn.ModuleList([] if isinstance(module, nn.Module) else networks_of(module))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        leading = x.shape[: x.dim() - len(self.event_shape)]
        found = self.shape.to_slots(only_output(self.module(x.reshape(-1, *self.inner))))
        return found.reshape(*leading, *self.out_shape)


class CodeDecoder(nn.Module):
    """z -> the output of a decoder that takes vectors of codes, or their numbers.

    Args:
        module: the decoder.
        codebook: the vectors, shared with the guide.
        shape: the form in which it takes an example.
        reads: "vectors" or "codes". Numbers have no gradient in z, which some moves of ais need.
    """

    def __init__(self, module: Callable[..., Any], codebook: Codebook, shape: VectorShape, reads: DecoderInput) -> None:
        super().__init__()
        self.module, self.codebook, self.shape, self.reads = module, codebook, shape, reads
        self.networks = nn.ModuleList([] if isinstance(module, nn.Module) else networks_of(module))

    def forward(self, z: Tensor) -> Any:
        if self.reads == "codes":
            numbers = self.codebook.space.numbers(z)
            return self.module(numbers if self.shape.picture is None else numbers.reshape(len(z), *self.shape.picture))
        vectors = self.codebook.embed(z).reshape(len(z), self.shape.slots, self.shape.dim)
        return self.module(self.shape.to_form(vectors))


def code_guide(
    encoder: Callable[..., Any],
    codebook: Tensor | nn.Embedding,
    x: Tensor,
    event_shape: Sequence[int],
    inner: Sequence[int],
    remedy: str,
) -> tuple[NearestCodeGuide, VectorShape]:
    """A guide around an encoder and a codebook, at temperature 1.

    Args:
        encoder: maps x of shape (n, \\*inner) to vectors, (n, L, d) or (n, d, H, W).
        codebook: c, shape (K, d), or (L, K, d); it is copied.
        x: some examples, shape (n, \\*event).
        event_shape: of the data.
        inner: the shape in which the encoder takes an example.
        remedy: of the error, where it fails.
    Raises:
        ElbowroomError: outputs that are no vectors, or a codebook of another size.
    """
    shape = VectorShape.of(first_call(encoder, x.reshape(-1, *inner), "encoder", remedy))
    table = (codebook.weight if isinstance(codebook, nn.Embedding) else torch.as_tensor(codebook)).detach().to(x.dtype)
    if table.dim() not in (2, 3):
        raise ElbowroomError(
            f"The codebook has shape {tuple(table.shape)}, but is a table of vectors, (codes, d) for all slots or "
            "(slots, codes, d).",
            "Give the weight of the embedding.",
        )
    if table.shape[-1] != shape.dim:
        raise ElbowroomError(
            f"The codebook has vectors of {table.shape[-1]} numbers (shape {tuple(table.shape)}), but the encoder "
            f"returns vectors of {shape.dim} for each of {shape.slots} slots.",
            "Give the codebook that belongs to this encoder, or move the axis of the vectors: (n, slots, d), or "
            "(n, d, H, W).",
        )
    if table.dim() == 3 and len(table) != shape.slots:
        raise ElbowroomError(
            f"The codebook has vectors for {len(table)} slots, but the encoder returns {shape.slots} for an example.",
            "Give the codebook that belongs to this encoder, or one of shape (codes, d) for all slots.",
        )
    space = CodeSpace(shape.slots, table.shape[-2]).check()
    made = Codebook(space, shape.dim, kind="gradient", generator=torch.Generator().manual_seed(0))
    made.vectors = nn.Parameter(table.expand(*space, shape.dim).clone())
    guide = NearestCodeGuide(_VectorEncoder(encoder, shape, event_shape, inner), made)
    guide.log_temperature.data = guide.log_temperature.data.to(x)
    return guide, shape


def no_prior_yet() -> ElbowroomError:
    """The error for a VQ-VAE without p(z)."""
    return ElbowroomError(
        "This model has no p(z) yet: a VQ-VAE is an encoder, a codebook and a decoder, and log p(x) and samples need a "
        "prior over codes, too.",
        "Give prior=, or have one fitted to codes of training data: fit_prior='made' (or 'unigram'), with train=.",
    )


def code_prior(
    likelihood: Likelihood,
    guide: NearestCodeGuide,
    data: DataSet,
    *,
    prior: Conditional | None,
    fit: FittedPrior | None,
    temperature: float | None,
    steps: int,
    seed: int,
) -> LatentModel:
    """The model: a temperature is chosen, and a prior fitted, where they were not given.

    Args:
        likelihood: p(x | z).
        guide: whose temperature is set.
        data: with training data, where a prior is to be fitted to their codes.
        prior: p(z), or None.
        fit: which prior to fit.
        temperature: T, or None for that of the highest ELBO, with a uniform p(z) where a prior is fitted afterwards.
        steps: of Adam, on batches of drawn codes.
        seed: of initial weights and draws.
    Raises:
        ElbowroomError: neither a prior nor the request to fit one, or both; no training data to fit it to; a
            temperature or a number of steps that is not positive; a prior over other codes.
    """
    space, split = guide.space, "train" if data.size("train") else "test"
    if prior is None and fit is None:
        raise no_prior_yet()
    _check_asked(prior, fit, temperature, steps, space, has_training=bool(data.size("train")))
    generator = torch.Generator().manual_seed(seed)
    if temperature is None:
        some = next(iter(data.batches(split, _TRIED_ON, points=_TRIED_ON)))
        now = UniformCodes(space).to(some.x.dtype) if prior is None else prior
        unit = _spread(guide, some)
        chosen, _ = choose_temperature(Pair(LatentModel(now, likelihood), guide), some, unit, generator=generator)
        guide.log_temperature.data.copy_(chosen)
    else:
        guide.log_temperature.data.fill_(math.log(temperature))
    if prior is None:
        prior = _fitted(fit, guide, data, steps, seed, generator)
    return LatentModel(prior, likelihood)


def _check_asked(
    prior: Conditional | None,
    fit: FittedPrior | None,
    temperature: float | None,
    steps: int,
    space: CodeSpace,
    *,
    has_training: bool,
) -> None:
    if fit is not None:
        check_name("fit_prior", fit, get_args(FittedPrior))
    if prior is not None and fit is not None:
        raise ElbowroomError("A prior was given, and another one was to be fitted.", "Give prior= or fit_prior=.")
    if fit is not None and not has_training:
        raise ElbowroomError(
            "A prior is fitted to codes of training data, but only held-out data were given.", "Give train=."
        )
    if prior is not None and (prior.latent_support != "codes" or tuple(prior(None).event_shape) != (space.dim,)):
        raise ElbowroomError(
            f"The prior is over vectors of shape {tuple(prior(None).event_shape)}, but these codes are {space}, "
            f"vectors of {space.dim}.",
            "Give one of elbowroom.model.codes or elbowroom.model.autoregressive, over the same slots and codes.",
        )
    for name, number in (("temperature", temperature), ("fit_steps", steps)):
        if number is not None and not number > 0:
            raise ElbowroomError(
                f"{name} is {number:g}, but is positive.", f"Give {name}= above zero, or leave it out."
            )


@torch.no_grad()
def _spread(guide: NearestCodeGuide, batch: Batch) -> Tensor:
    """Mean squared distance of a vector from its nearest code, shape (L, 1), the unit of temperatures."""
    distances = guide.codebook.squared_distances(guide.vectors(batch.x, batch.context))
    return distances.amin(-1).mean(0).unsqueeze(-1).clamp(min=0)


def _fitted(
    fit: FittedPrior | None,
    guide: NearestCodeGuide,
    data: DataSet,
    steps: int,
    seed: int,
    generator: torch.Generator,
) -> Conditional:
    """A prior that is fitted to drawn codes of training data; a MADE begins as the unigram, and learns the rest."""
    dtype = guide.log_temperature.dtype
    unigram = UnigramCodes(guide.space).to(dtype)
    unigram.logits.data = fitted_unigram(guide, data.batches("train", _TRIED_ON), guide.space).logits.to(dtype)
    if fit == "unigram":
        return unigram
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)
        made = Made(guide.space).to(dtype)
    bias = made.network.output_layer.bias
    assert bias is not None  # of a masked layer
    bias.data = unigram.logits.detach().flatten().clone()
    _fit(made, guide, data, steps, generator)
    return made


@torch.enable_grad()
def _fit(prior: Conditional, guide: NearestCodeGuide, data: DataSet, steps: int, generator: torch.Generator) -> None:
    """Maximises log p(z) of codes drawn from the guide, on batches of training data in random order."""
    optimiser = torch.optim.Adam(prior.parameters(), lr=_FIT_LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    done, epoch = 0, 0
    while done < steps:
        for batch in data.training_batches(_FIT_BATCH, seed=0, epoch=epoch, generator=generator):
            with torch.no_grad():
                z = draw(guide_distribution(guide, batch), generator=generator)
            optimiser.zero_grad()
            torch.autograd.backward(-prior(None, batch.context).log_prob(z).mean())
            optimiser.step()
            schedule.step()
            done += 1
            if done == steps:
                break
        epoch += 1
    for weight in prior.parameters():
        weight.grad = None
