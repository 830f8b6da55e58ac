"""Builds decoder and guide of a hierarchy, which share their work, from a configuration."""

from __future__ import annotations

from collections.abc import Sequence

from elbowroom.errors import ElbowroomError
from elbowroom.model.guides import GUIDES, Guide, InputTransform
from elbowroom.model.hierarchy.grids import GridFeatures, GridLadder
from elbowroom.model.hierarchy.guides import (
    HIERARCHICAL_GUIDES,
    BottomUpGuide,
    GridRecognition,
    TopDownGuide,
    VectorRecognition,
    no_way_up,
)
from elbowroom.model.hierarchy.ladders import Ladder, VectorLadder
from elbowroom.model.networks import MLP, Network
from elbowroom.names import CODE_GUIDES
from elbowroom.running.build_networks import refuse_batch_norm
from elbowroom.running.model_config import ModelConfig, NetworkConfig

__all__ = ["build_hierarchical_guide", "build_ladder", "check_hierarchy"]


def check_hierarchy(model: ModelConfig, guide: str) -> None:
    """Refuses settings that a hierarchy cannot have, or that need one.

    Raises:
        ElbowroomError: a guide of a hierarchy without groups; codes or a Vamp prior with groups; a kind of network that
            has no hierarchy; encoder and decoder that do not fit each other.
    """
    if not model.groups:
        if guide in HIERARCHICAL_GUIDES:
            raise ElbowroomError(
                f"The guide {guide} goes through the groups of a hierarchy, but the model has one group of latents.",
                "Give the latents of the groups below the top one (--model.groups 4,4), or --model.guide diagonal.",
            )
        return
    if model.has_codes or model.prior == "vamp":
        problem = (
            "is over codes" if model.has_codes else "is a mixture of the guide's q(z | x), which is over all groups"
        )
        raise ElbowroomError(
            f"The prior of a hierarchy's top group is one over real vectors, but the prior {model.prior} {problem}.",
            "Give --model.prior normal, mixture or a flow, or leave out --model.groups.",
        )
    if model.decoder.kind not in ("mlp", "grid"):
        raise ElbowroomError(
            f"A hierarchy has a decoder of kind mlp or grid, but {model.decoder.kind} was asked for.",
            "Give --model.decoder.kind grid for pictures, or mlp.",
        )
    if guide == "none":
        return
    if guide not in {*HIERARCHICAL_GUIDES, *GUIDES}:
        raise ElbowroomError(
            f"A guide of a hierarchy is normal over all its groups, which {guide} is not.",
            "Leave out --model.groups: codes have no groups."
            if guide in CODE_GUIDES
            else "Give --model.guide top-down or bottom-up, or leave out --model.groups.",
        )
    if guide in HIERARCHICAL_GUIDES:
        _check_networks(model, guide)


def _check_networks(model: ModelConfig, guide: str) -> None:
    """Refuses an encoder that does not fit the decoder, with whose state the guide computes."""
    encoder, decoder = model.encoder, model.decoder
    if guide == "bottom-up" and decoder.kind == "grid":
        raise no_way_up()
    if encoder.kind != decoder.kind:
        raise ElbowroomError(
            f"The guide {guide} computes with the decoder, but encoder ({encoder.kind}) and decoder ({decoder.kind}) "
            "are of two kinds.",
            f"Give --model.encoder.kind {decoder.kind}.",
        )
    if decoder.kind == "grid" and encoder.patch != decoder.patch:
        raise ElbowroomError(
            f"The guide {guide} reads the decoder's state place by place, but the encoder has patches of "
            f"{encoder.patch} × {encoder.patch} pixels and the decoder of {decoder.patch} × {decoder.patch}.",
            f"Give --model.encoder.patch {decoder.patch}.",
        )


def build_ladder(model: ModelConfig, out_shape: Sequence[int], context_dim: int) -> Ladder:
    """The decoder of a hierarchy."""
    network = model.decoder
    refuse_batch_norm(network, "the decoder of a hierarchy")
    if network.kind == "grid":
        return GridLadder(
            model.latent_dim,
            model.groups,
            out_shape,
            channels=network.width,
            dense=network.hidden[-1],
            patch=network.patch,
            blocks=1,
            context_dim=context_dim,
        )
    return VectorLadder(
        [model.latent_dim, *model.groups],
        out_shape,
        hidden=network.hidden[::-1],
        between=model.group_hidden,
        activation=network.activation,
        context_dim=context_dim,
    )


def build_hierarchical_guide(
    model: ModelConfig, guide: str, ladder: Ladder, transform: InputTransform, context_dim: int
) -> Guide:
    """The guide "top-down" or "bottom-up" of a decoder."""
    if guide == "bottom-up":
        return BottomUpGuide(
            _mlp(model.encoder, transform.out_shape, (2, ladder.sizes[-1]), context_dim),
            ladder,
            hidden=model.group_hidden,
            activation=model.encoder.activation,
            transform=transform,
        )
    if isinstance(ladder, GridLadder):
        refuse_batch_norm(model.encoder, "a network on a grid of patches")
        network: Network = GridFeatures(
            transform.out_shape, channels=model.encoder.width, blocks=model.encoder.blocks, patch=model.encoder.patch
        )
        recognition: GridRecognition | VectorRecognition = GridRecognition(
            ladder, network.out_shape, dense=model.encoder.hidden[-1]
        )
    else:
        width = model.encoder.hidden[-1]
        network = _mlp(model.encoder, transform.out_shape, (width,), context_dim)
        recognition = VectorRecognition(
            width, ladder.sizes, hidden=model.group_hidden, activation=model.encoder.activation
        )
    return TopDownGuide(network, recognition, ladder, transform)


def _mlp(network: NetworkConfig, in_shape: Sequence[int], out_shape: Sequence[int], context_dim: int) -> MLP:
    return MLP(
        in_shape,
        out_shape,
        hidden=network.hidden,
        activation=network.activation,
        batch_norm=network.batch_norm,
        context_dim=context_dim,
    )
