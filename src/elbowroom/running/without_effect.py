"""Settings that were asked for and that the model, as configured, does not read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from elbowroom.model.flows import FLOW_GUIDES, FLOW_PRIORS
from elbowroom.running.build_pair import guide_name
from elbowroom.running.config import Config
from elbowroom.running.model_config import ModelConfig, NetworkConfig

__all__ = ["without_effect"]

_MIXTURES = ("auto", "discretized-logistic-mixture", "colour-logistic-mixture")
_REAL = ("auto", "gaussian", "student-t", "laplace")
_SCALED = (*_REAL, "logit-laplace")
_DEEP_PRIORS = ("made", "transformer", "pixelcnn", *FLOW_PRIORS)

#: of the model: when a setting is read, and what reads it, in words
_MODEL: dict[str, tuple[Callable[[ModelConfig], bool], str]] = {
    "latent_dim": (lambda m: not m.has_codes, "a prior over real vectors"),
    "group_hidden": (lambda m: bool(m.groups) and m.decoder.kind != "grid", "groups of vectors (--model.groups)"),
    "slots": (lambda m: m.has_codes and not m.slots_per_place, "a prior over codes without places"),
    "slots_per_place": (lambda m: m.has_codes, "a prior over codes"),
    "code_levels": (
        lambda m: m.has_codes and bool(m.slots_per_place),
        "slots at the places of a grid (--model.slots-per-place)",
    ),
    "codes": (lambda m: m.has_codes, "a prior over codes"),
    "codebook": (lambda m: m.guide == "nearest-code", "the guide nearest-code"),
    "code_dim": (lambda m: m.guide == "nearest-code", "the guide nearest-code"),
    "scale": (
        lambda m: m.likelihood in _SCALED or (m.likelihood == "table" and m.scale == "per-element"),
        "a likelihood with one scale, such as gaussian; a table's columns learn theirs, or have per-element",
    ),
    "mean_activation": (lambda m: m.likelihood in _REAL, "a likelihood of real numbers, such as gaussian"),
    "degrees_of_freedom": (lambda m: m.likelihood == "student-t", "a Student-t likelihood"),
    "trials": (lambda m: m.likelihood == "binomial", "a binomial likelihood"),
    "levels": (lambda m: m.likelihood == "ordinal", "an ordinal likelihood"),
    "cut_points": (lambda m: m.likelihood == "ordinal", "an ordinal likelihood"),
    "tails": (lambda m: m.likelihood in ("auto", "table"), "a table likelihood"),
    "components": (lambda m: m.likelihood in _MIXTURES, "a logistic mixture likelihood"),
    "masked_width": (lambda m: m.masked_layers > 0, "masked convolutions (--model.masked-layers)"),
    "masked_kernel": (lambda m: m.masked_layers > 1, "masked convolutions after the first (--model.masked-layers)"),
    "masked_features": (lambda m: m.masked_layers > 0, "masked convolutions (--model.masked-layers)"),
    "prior_components": (lambda m: m.prior in ("mixture", "vamp"), "a mixture or Vamp prior"),
    "prior_width": (lambda m: m.prior in _DEEP_PRIORS, "an autoregressive prior or a flow"),
    "prior_layers": (lambda m: m.prior in _DEEP_PRIORS, "an autoregressive prior or a flow"),
    "prior_transforms": (lambda m: m.prior in FLOW_PRIORS, "a prior that is a flow"),
    "prior_heads": (lambda m: m.prior == "transformer", "a transformer prior"),
    "guide_transforms": (lambda m: m.guide in FLOW_GUIDES, "a guide that is a flow"),
    "guide_width": (lambda m: m.guide in FLOW_GUIDES, "a guide that is a flow"),
}

#: of a network: the kinds that read a setting
_NETWORK: dict[str, tuple[str, ...]] = {
    "hidden": ("mlp", "grid"),
    "channels": ("conv", "pyramid"),
    "width": ("residual", "grid"),
    "blocks": ("residual", "grid", "pyramid"),
    "patch": ("grid",),
    "norm": ("pyramid",),
    "activation": ("mlp", "residual", "conv", "pyramid"),
    "batch_norm": ("mlp", "residual", "conv"),
    "linear": ("mlp", "residual", "conv"),
}


def without_effect(config: Config, given: Mapping[str, Any]) -> list[str]:
    """A sentence for each setting that the user gave and that nothing reads, of the model and of what trains it.

    What a recipe sets is not looked at: a recipe that is run with another prior keeps its settings of the first.

    Args:
        config: as it will be trained.
        given: the user's own keys, nested.
    Example:
        >>> from elbowroom.running.config import configure
        >>> keys = {"model": {"prior_heads": 2}}
        >>> without_effect(configure(keys), keys)
        ['--model.prior-heads has no effect here: it is for a transformer prior']
    """
    objective, found = given.get("objective"), []
    if isinstance(objective, Mapping) and objective.get("holes") and config.model.likelihood not in ("auto", "table"):
        found.append(_sentence("objective.holes", "a table likelihood"))
    model = given.get("model")
    if not isinstance(model, Mapping):
        return found
    settled = config.model.model_copy(update={"guide": guide_name(config)})  # "auto" depends on the learner
    found += [
        _sentence(f"model.{key}", what)
        for key, (is_read, what) in _MODEL.items()
        if key in model and not is_read(settled)
    ]
    for part in ("encoder", "decoder"):
        network: NetworkConfig = getattr(config.model, part)
        keys = model.get(part)
        if isinstance(keys, Mapping):
            found += [
                _sentence(f"model.{part}.{key}", f"networks of the kind {' or '.join(kinds)}")
                for key, kinds in _NETWORK.items()
                if key in keys and network.kind not in kinds
            ]
            if "hidden" in keys and network.kind == "grid" and settled.slots_per_place:
                found.append(_sentence(f"model.{part}.hidden", "grids with a vector of latents, not slots at places"))
    return found


def _sentence(setting: str, what: str) -> str:
    return f"--{setting.replace('_', '-')} has no effect here: it is for {what}"
