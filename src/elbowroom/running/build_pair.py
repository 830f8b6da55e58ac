"""Builds model and guide from a configuration and the facts about the data."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from elbowroom.data.columns.column import Column
from elbowroom.data.dataset import DataSet
from elbowroom.data.precision import check_spread
from elbowroom.data.stream import StreamSet
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.model.codes import CategoricalGuide
from elbowroom.model.composite_networks import ByComponent, WithLinear
from elbowroom.model.conditional import Conditional
from elbowroom.model.exact_guide import ExactGuide
from elbowroom.model.flows import FLOW_GUIDES, FLOW_PRIORS
from elbowroom.model.guides import GUIDES, Guide, InputTransform, PriorGuide
from elbowroom.model.hierarchy.guides import HIERARCHICAL_GUIDES
from elbowroom.model.hierarchy.ladders import Ladder
from elbowroom.model.latent import LatentModel, Pair
from elbowroom.model.likelihoods import Likelihood, LocationScale, LogitLaplace, Ordinal, StudentT
from elbowroom.model.mixtures import Mixture
from elbowroom.model.networks import Network
from elbowroom.model.pixels.autoregressive import AutoregressivePixels
from elbowroom.model.pixels.masked_convolutions import MaskedPixels
from elbowroom.model.priors import MixtureOfGaussians, StandardNormal, TopPrior, VampPrior
from elbowroom.model.pyramid import WeightNormalized
from elbowroom.model.quantizer import Codebook, EmbeddedCodes, LevelCodebooks, NearestCodeGuide
from elbowroom.model.table.likelihood import Scale, Table
from elbowroom.model.table.transform import TableTransform
from elbowroom.names import CODE_GUIDES
from elbowroom.running.build import DataFacts, likelihood_class, pick_likelihood
from elbowroom.running.build_codes import (
    build_code_prior,
    build_codebook,
    build_level_guide,
    build_network_of,
    code_space,
    has_levels,
)
from elbowroom.running.build_hierarchy import build_hierarchical_guide, build_ladder, check_hierarchy
from elbowroom.running.config import Config
from elbowroom.running.largest_values import largest
from elbowroom.running.mixtures import start_mixture
from elbowroom.running.model_config import ModelConfig
from elbowroom.running.runtime import dtype_of
from elbowroom.running.training_rows import check_codes, check_training_rows, refuse_constant

__all__ = ["build_pair", "guide_name", "initialise"]

_WITHOUT_GUIDE = {"naive", "mcem"}  # learners that by default have no guide
_GUIDE_OF = {"vq": "nearest-code", "em": "exact"}  # that of learners which have one of their own
_STARTING_ROWS = 20_000  # of a table, from which its model starts


def build_pair(config: Config, facts: DataFacts, *, seed: int) -> Pair:
    """Model and guide with initial weights.

    Torch's layers draw their weights from the global generator, which is seeded for this and restored afterwards.
    """
    name = guide_name(config)
    check_hierarchy(config.model, name)
    _check_latents(config.model, name)
    _check_components(config.model)
    whole, facts = facts, _without_context(config.model, facts)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs, too, and leave them so
        codebook = build_codebook(config.model, facts.event_shape) if name == "nearest-code" else None
        ladder = _ladder(config.model, facts) if config.model.groups else None
        by_network = name not in ("none", "exact")
        guide = _guide(config.model, name, facts, codebook, ladder) if by_network else None
        prior = _prior(config.model, whole, guide)
        if ladder is not None:
            prior = _prior_of_hierarchy(prior, ladder)
        likelihood = _likelihood(config.model, facts, codebook, ladder)
        latent = LatentModel(prior, likelihood)
        pair = Pair(latent, guide or (ExactGuide(latent) if name == "exact" else PriorGuide(prior)))
        if config.model.init_std is not None:
            _draw_weights(pair, config.model.init_std)
    return pair.to(dtype_of(config.runtime))


def guide_name(config: Config) -> str:
    """The guide's name; 'auto' depends on the learner and on the prior."""
    if config.model.guide != "auto":
        return config.model.guide
    if config.train.learner in _WITHOUT_GUIDE:
        return "none"
    chosen = _GUIDE_OF.get(config.train.learner)
    if chosen is not None and (chosen != "exact" or config.model.has_codes):  # em refuses other latents itself
        return chosen
    if config.model.groups:
        return "top-down"
    return "categorical" if config.model.has_codes else "diagonal"


def _without_context(model: ModelConfig, facts: DataFacts) -> DataFacts:
    """The facts that guide and decoder are built from: without a context where the prior alone reads it.

    Raises:
        ElbowroomError: then there is none, or the prior reads none.
    """
    if model.context_in == "all":
        return facts
    if not facts.context_dim:
        raise ElbowroomError(
            "Only the prior was to read the context, but there is no context.",
            "Leave out --model.context-in, or give --data.context labels.",
        )
    if model.prior in ("normal", "uniform", "vamp") or model.groups:
        raise ElbowroomError(
            f"Only the prior was to read the context, but the prior {model.prior} of this model reads none.",
            "Give --model.prior made or transformer, or leave out --model.context-in.",
        )
    return facts.model_copy(update={"context_dim": 0, "words": ()})


def _check_latents(model: ModelConfig, guide: str) -> None:
    """Refuses a guide and a prior of which one is over codes and the other over real vectors."""
    if guide != "none" and (guide in CODE_GUIDES) != model.has_codes:
        codes, vectors = ("prior", "guide") if model.has_codes else ("guide", "prior")
        names = {"prior": model.prior, "guide": guide}
        of_codes = guide if guide in CODE_GUIDES else "categorical"
        raise ElbowroomError(
            f"The {codes} {names[codes]} is over codes, but the {vectors} {names[vectors]} is over real vectors.",
            f"For codes, give for instance --model.prior made with --model.guide {of_codes}; for real vectors, "
            "--model.prior normal with --model.guide diagonal.",
        )


def _check_components(model: ModelConfig) -> None:
    """Refuses a mixture p(x | z) of what cannot be mixed."""
    if model.likelihood_components == 1:
        return
    name = None
    if model.has_codes:
        name = "codes"
    elif model.groups:
        name = "a hierarchy"
    elif model.masked_layers:
        name = "masked convolutions"
    elif model.decoder.kind not in ("mlp", "residual", "conv"):
        name = f"a decoder of kind {model.decoder.kind}"
    if name is not None:
        raise ElbowroomError(
            f"A p(x | z) of {model.likelihood_components} components was asked for, which {name} cannot have.",
            "Give --model.likelihood-components 1.",
        )


@torch.no_grad()
def _draw_weights(pair: Pair, std: float) -> None:
    for module in pair.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            module.weight.normal_(std=std)
            if isinstance(module, WeightNormalized):
                module.reset_gain()
            if module.bias is not None:
                module.bias.zero_()
    for module in pair.modules():
        if isinstance(module, WithLinear):
            module.start_linear()


def _ladder(model: ModelConfig, facts: DataFacts) -> Ladder:
    return build_ladder(model, _decoder_shape(model, facts), facts.context_dim)


def _prior_of_hierarchy(top: Conditional, ladder: Ladder) -> Conditional:
    if isinstance(top, StandardNormal):
        return StandardNormal(sum(ladder.sizes))
    return TopPrior(top, sum(ladder.sizes[1:]))


def _guide(
    model: ModelConfig, name: str, facts: DataFacts, codebook: Codebook | LevelCodebooks | None, ladder: Ladder | None
) -> Conditional:
    transform = _transform(facts)
    if has_levels(model):
        return build_level_guide(model, facts.event_shape, codebook, transform, context_dim=facts.context_dim)
    if ladder is not None and name in HIERARCHICAL_GUIDES:
        return build_hierarchical_guide(model, name, ladder, transform, facts.context_dim)
    latent_dim = model.latent_dim if ladder is None else sum(ladder.sizes)
    parameters: tuple[int, ...]
    if codebook is not None:
        parameters = (codebook.space.slots, codebook.dim)
    elif model.has_codes:
        parameters = code_space(model, facts.event_shape)
    else:
        kinds: dict[str, Any] = {**GUIDES, **FLOW_GUIDES}
        parameters = kinds[name].parameter_shape(latent_dim)
    network = build_network_of(model, transform.out_shape, parameters, context_dim=facts.context_dim, decoder=False)
    if isinstance(codebook, Codebook):
        return NearestCodeGuide(network, codebook, transform)
    if model.has_codes:
        return CategoricalGuide(network, code_space(model, facts.event_shape), transform)
    if name in FLOW_GUIDES:
        shape = {"transforms": model.guide_transforms, "width": model.guide_width}
        return FLOW_GUIDES[name](network, latent_dim, transform, **shape)
    return GUIDES[name](network, latent_dim, transform)


def _transform(facts: DataFacts) -> InputTransform:
    """Of x, before an encoder or masked convolutions; the unit of real numbers is filled in by :func:`initialise`."""
    if facts.support is Support.TABLE:
        return TableTransform(_columns(facts))
    real = facts.support is Support.REALS
    return InputTransform(
        facts.support,
        facts.event_shape,
        num_categories=facts.num_categories,
        shift=torch.zeros(facts.event_shape) if real else None,
        scale=torch.ones(facts.event_shape) if real else None,
    )


def _table_scale(model: ModelConfig) -> Scale:
    """A number of the Gaussian means nothing to a table, and is the default there."""
    return "per-element" if model.scale == "per-element" else "learned"


def _columns(facts: DataFacts) -> tuple[Column, ...]:
    if facts.columns is None:
        raise ElbowroomError(
            "A table likelihood has to know the kinds of the columns, but these data have none.",
            "Have them found: --data.columns auto.",
        )
    return facts.columns


def _likelihood_settings(model: ModelConfig, facts: DataFacts) -> dict[str, Any]:
    """Settings of the likelihood on which the shape of its parameters depends."""
    settings: dict[str, dict[str, Any]] = {
        "gaussian": {"scale": model.scale},
        "laplace": {"scale": model.scale},
        "logit-laplace": {"scale": model.scale},
        "student-t": {"scale": model.scale},
        "discretized-logistic-mixture": {"components": model.components},
        "colour-logistic-mixture": {"components": model.components},
        "categorical": {"num_categories": facts.num_categories},
    }
    name = pick_likelihood(model, facts.support)
    if name == Table.name:
        return {"columns": _columns(facts), "scale": _table_scale(model)}
    return {**settings.get(name, {}), **largest(model, name, facts.highest)}


def _decoder_shape(model: ModelConfig, facts: DataFacts) -> tuple[int, ...]:
    """What the decoder returns for one z: parameters of x, or features for masked convolutions."""
    shape = _parameter_shape(model, facts)
    return (model.masked_features, *facts.event_shape) if model.masked_layers else shape


def _parameter_shape(model: ModelConfig, facts: DataFacts) -> tuple[int, ...]:
    """Parameters of the likelihood for one x."""
    kind = likelihood_class(model, facts.support)
    return kind.parameter_shape(facts.event_shape, **_likelihood_settings(model, facts))


def _likelihood(
    model: ModelConfig, facts: DataFacts, codebook: Codebook | LevelCodebooks | None, ladder: Ladder | None
) -> Likelihood:
    kind, settings = likelihood_class(model, facts.support), _likelihood_settings(model, facts)
    if issubclass(kind, LocationScale) and kind is not LogitLaplace:  # whose location is a logit
        shift, unit = torch.zeros(facts.event_shape), torch.ones(facts.event_shape)
        settings |= {"mean_activation": model.mean_activation, "shift": shift, "unit": unit}
    if kind is StudentT:
        settings |= {"degrees_of_freedom": model.degrees_of_freedom}
    if kind is Ordinal:
        settings |= {"cut_points": model.cut_points}
    network = ladder or _decoder(model, facts, codebook)
    if isinstance(network, ByComponent):
        if kind is Table:
            settings |= {"tails": model.tails, "components": network.components}
            return Mixture(network, Table(nn.Identity(), **settings))
        return Mixture(network, kind(nn.Identity(), facts.event_shape, **settings))
    if model.masked_layers:
        pixels = _masked_pixels(model, facts, _parameter_shape(model, facts))
        return AutoregressivePixels(network, kind(pixels, facts.event_shape, **settings))
    if kind is Table:
        return Table(network, _columns(facts), tails=model.tails, scale=_table_scale(model))
    return kind(network, facts.event_shape, **settings)


def _decoder(model: ModelConfig, facts: DataFacts, codebook: Codebook | LevelCodebooks | None) -> Network:
    if codebook is not None:
        size = codebook.space.slots * codebook.dim
    else:
        size = code_space(model, facts.event_shape).dim if model.has_codes else model.latent_dim
    out_shape = _decoder_shape(model, facts)
    components = model.likelihood_components
    in_shape = (size + components if components > 1 else size,)
    network = build_network_of(model, in_shape, out_shape, context_dim=facts.context_dim, decoder=True)
    if components > 1:
        return ByComponent(network, components)
    return network if codebook is None else EmbeddedCodes(codebook, network)


def _masked_pixels(model: ModelConfig, facts: DataFacts, out_shape: tuple[int, ...]) -> MaskedPixels:
    return MaskedPixels(
        out_shape,
        features=model.masked_features,
        transform=_transform(facts),
        layers=model.masked_layers,
        width=model.masked_width,
        kernel=model.masked_kernel,
    )


def _prior(model: ModelConfig, facts: DataFacts, guide: Conditional | None) -> Conditional:
    if model.prior == "normal":
        return StandardNormal(model.latent_dim)
    if model.prior == "mixture":
        return MixtureOfGaussians(model.latent_dim, model.prior_components, context_dim=facts.context_dim)
    if model.has_codes:
        return build_code_prior(model, facts.event_shape, context_dim=facts.context_dim, words=facts.words)
    if model.prior in FLOW_PRIORS:
        shape: dict[str, Any] = {"layers": model.prior_layers, "context_dim": facts.context_dim}
        if model.prior_width is not None:
            shape["width"] = model.prior_width
        return FLOW_PRIORS[model.prior](model.latent_dim, transforms=model.prior_transforms, **shape)
    if guide is None:
        raise ElbowroomError(
            "A VampPrior is a mixture of q(z | x) of the guide, but this model is trained without a guide.",
            "Give --model.guide diagonal, or --model.prior mixture.",
        )
    anywhere = torch.zeros(model.prior_components, *facts.event_shape)
    return VampPrior(guide, anywhere, facts.support, context_dim=facts.context_dim)


@torch.no_grad()
def initialise(pair: Pair, config: Config, data: DataSet | StreamSet) -> None:
    """Initialises what depends on the data: the unit of real-valued data, output bias, pseudo-inputs; of a table, all.

    Raises:
        ElbowroomError: a real-valued element is constant over the training data, so that its density has no bound; one
            training row; a deviation is beyond the run's precision; there are more codes than training rows; the
            likelihood cannot sum out the data's holes; or EM is asked for of a model that is no mixture.
    """
    likelihood, guide = pair.model.likelihood, pair.guide
    if pair.model.latent_support == "codes":
        check_codes(data, pair.model.space)
    has_own_check = type(likelihood.elementwise if isinstance(likelihood, Mixture) else likelihood).check_mask
    if isinstance(data, DataSet) and data.masked and has_own_check is not Likelihood.check_mask:
        for batch in data.batches("train", 1024):
            assert batch.mask is not None  # the data are masked
            likelihood.check_mask(batch.mask)
    if isinstance(likelihood.elementwise, Table):
        _start_table(likelihood, guide, config, data)
    else:
        _start_elements(pair, config, data)
    if config.train.learner == "em":
        start_mixture(pair.model, config, data)


def _start_elements(pair: Pair, config: Config, data: DataSet | StreamSet) -> None:
    likelihood, guide = pair.model.likelihood, pair.guide
    mean, std = data.moments()
    # grey pixels under a Gaussian are not standardised: they have a common scale, and some never vary
    if isinstance(likelihood.elementwise, LocationScale) and data.native_support is Support.REALS:
        check_training_rows(data, mean, std)
        refuse_constant(data, mean, std)
        check_spread(data, std)
        places: list[tuple[nn.Module, tuple[str, str]]] = [(likelihood.elementwise, ("shift", "unit"))]
        if isinstance(guide, Guide) and guide.transform is not None:
            places.append((guide.transform, ("shift", "scale")))
        if isinstance(likelihood.elementwise.network, MaskedPixels):
            places.append((likelihood.elementwise.network.transform, ("shift", "scale")))
        for module, names in places:
            for name, value in zip(names, (mean, std), strict=True):
                module.get_buffer(name).copy_(value)
    if config.model.output_bias == "data-mean":
        likelihood.init_output_bias(mean)
    if isinstance(pair.model.prior, VampPrior):
        rows = _some_rows(data, config.model.prior_components)
        pair.model.prior = VampPrior(guide, rows, data.support, context_dim=data.context_dim)


def _start_table(likelihood: Likelihood, guide: Conditional, config: Config, data: DataSet | StreamSet) -> None:
    table = likelihood.elementwise
    assert isinstance(table, Table)
    rows = data.example(_STARTING_ROWS, generator=torch.Generator().manual_seed(0)).x.to(table.order.device)
    if config.model.output_bias == "data-mean" and isinstance(likelihood, Mixture):
        likelihood.start_at(table.started_at(rows))
    elif config.model.output_bias == "data-mean":
        table.init_from_rows(rows)
    if isinstance(guide, Guide) and isinstance(guide.transform, TableTransform):
        guide.transform.init_from_rows(rows)


def _some_rows(data: DataSet | StreamSet, number: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    batch = next(iter(data.training_batches(number, seed=0, epoch=0, generator=generator)))
    return batch.x.repeat(math.ceil(number / len(batch)), *[1] * (batch.x.dim() - 1))[:number]
