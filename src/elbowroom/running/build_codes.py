"""Builds what belongs to codes, from a configuration: their space, the codebook, networks on a grid, priors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from elbowroom.errors import ElbowroomError
from elbowroom.model.autoregressive import CausalTransformer, Made
from elbowroom.model.code_distributions import CodeGrid, CodeSpace
from elbowroom.model.codes import UniformCodes, UnigramCodes
from elbowroom.model.conditional import Conditional
from elbowroom.model.grids.code_networks import GridCodeDecoder, GridCodeEncoder
from elbowroom.model.grids.level_guides import LevelCategoricalGuide, LevelNearestCodeGuide
from elbowroom.model.grids.level_networks import LevelDecoder, LevelRecognition, level_grids
from elbowroom.model.grids.priors import MaskedConvolutions
from elbowroom.model.guides import InputTransform
from elbowroom.model.hierarchy.grids import Grid, GridFeatures
from elbowroom.model.networks import Network
from elbowroom.model.quantizer import Codebook, LevelCodebooks
from elbowroom.running.build_networks import build_network, refuse_batch_norm
from elbowroom.running.model_config import ModelConfig, NetworkConfig

__all__ = [
    "build_code_prior",
    "build_codebook",
    "build_level_guide",
    "build_network_of",
    "code_grid",
    "code_grids",
    "code_space",
    "has_levels",
]


def has_levels(model: ModelConfig) -> bool:
    """Whether codes are on several levels."""
    return model.has_codes and bool(model.slots_per_place) and model.code_levels > 1


def code_grid(model: ModelConfig, event_shape: Sequence[int]) -> CodeGrid | None:
    """Where the slots are; None where they have no places.

    Raises:
        ElbowroomError: slots at places of a grid with networks that have none, or that cut different patches; no
            picture; sides that the patch does not divide.
    """
    if not model.slots_per_place:
        return None
    kinds = {model.encoder.kind, model.decoder.kind}
    if kinds != {"grid"}:
        other = sorted(kinds - {"grid"})[0]
        raise ElbowroomError(
            f"Slots at the places of a grid of patches were asked for, but a network of kind {other} has no grid.",
            "Give --model.encoder.kind grid, and the same for the decoder, or leave out --model.slots-per-place.",
        )
    if model.encoder.patch != model.decoder.patch:
        raise ElbowroomError(
            f"Encoder and decoder share the places of a grid, but the encoder cuts patches of {model.encoder.patch} "
            f"pixels and the decoder of {model.decoder.patch}.",
            f"Give --model.decoder.patch {model.encoder.patch}, or the encoder's as the decoder's.",
        )
    patches = Grid(event_shape, model.encoder.patch)
    return CodeGrid(patches.height, patches.width, model.slots_per_place)


def code_grids(model: ModelConfig, event_shape: Sequence[int]) -> tuple[CodeGrid, ...]:
    """Where the slots of every level are, the top level first; none where they have no places.

    Raises:
        ElbowroomError: as `code_grid`; a grid that cannot be halved as often as there are levels above it.
    """
    grid = code_grid(model, event_shape)
    return () if grid is None else level_grids(grid, model.code_levels)


def code_space(model: ModelConfig, event_shape: Sequence[int]) -> CodeSpace:
    """Slots and codes of z for examples of a shape; raises as `code_grids` and `number_of_codes`."""
    grids = code_grids(model, event_shape)
    return CodeSpace(sum(grid.slots for grid in grids) if grids else model.slots, number_of_codes(model))


def number_of_codes(model: ModelConfig) -> int:
    """K.

    Raises:
        ElbowroomError: it is to be found.
    """
    if model.codes == "auto":
        raise ElbowroomError(
            "The number of codes is to be found on validation rows (model.codes is auto), which only the learner em "
            "does.",
            "Give a number, such as --model.codes 16, or train by --train.learner em.",
        )
    return model.codes


def build_codebook(model: ModelConfig, event_shape: Sequence[int]) -> Codebook | LevelCodebooks:
    """The vectors of the codes; at the places of a grid they are the same, and every level has its own."""
    settings: dict[str, Any] = {"dim": model.code_dim, "kind": model.codebook}
    grids = code_grids(model, event_shape)
    if not grids:
        return Codebook(code_space(model, event_shape), **settings)
    books = [Codebook(CodeSpace(grid.slots, number_of_codes(model)), places=grid.places, **settings) for grid in grids]
    return books[0] if len(books) == 1 else LevelCodebooks(books)


def build_level_guide(
    model: ModelConfig,
    event_shape: Sequence[int],
    codebook: Codebook | LevelCodebooks | None,
    transform: InputTransform,
    *,
    context_dim: int,
) -> LevelCategoricalGuide | LevelNearestCodeGuide:
    """The guide over levels of codes, with a codebook or without."""
    encoder = model.encoder
    refuse_batch_norm(encoder, "a network on a grid of patches")
    shape = {"channels": encoder.width, "blocks": encoder.blocks, "patch": encoder.patch}
    network = GridFeatures(transform.out_shape, **shape)
    size = number_of_codes(model) if codebook is None else codebook.dim
    recognition = LevelRecognition(
        code_grids(model, event_shape), encoder.width, out=size, read=size, context_dim=context_dim
    )
    if codebook is None:
        return LevelCategoricalGuide(network, recognition, size, transform)
    assert isinstance(codebook, LevelCodebooks)  # see `build_codebook`
    return LevelNearestCodeGuide(network, recognition, codebook, transform)


def build_network_of(
    model: ModelConfig, in_shape: tuple[int, ...], out_shape: tuple[int, ...], *, context_dim: int, decoder: bool
) -> Network:
    """The encoder's network, of x, or the decoder's; of slots at the places of a grid, which stay there, if there are
    any: x -> (L, m), or (L m,) -> parameters of x. The encoder of levels is a part of `build_level_guide`."""
    settings: NetworkConfig = model.decoder if decoder else model.encoder
    if not (model.has_codes and model.slots_per_place):
        return build_network(settings, in_shape, out_shape, context_dim=context_dim, decoder=decoder)
    refuse_batch_norm(settings, "a network on a grid of patches")
    shape = {"channels": settings.width, "blocks": settings.blocks, "patch": settings.patch, "context_dim": context_dim}
    if decoder and has_levels(model):
        return LevelDecoder(code_grids(model, out_shape[1:]), in_shape, out_shape, **shape)
    kind = GridCodeDecoder if decoder else GridCodeEncoder
    return kind(in_shape, out_shape, **shape)


def build_code_prior(
    model: ModelConfig, event_shape: Sequence[int], *, context_dim: int, words: Sequence[int] = ()
) -> Conditional:
    """The prior of the configuration's name; a transformer reads a context of words as tokens.

    Raises:
        ElbowroomError: masked convolutions over slots that have no places.
    """
    space, grids = code_space(model, event_shape), code_grids(model, event_shape)
    grid = grids[0] if len(grids) == 1 else grids or None
    if model.prior == "uniform":
        return UniformCodes(space)
    if model.prior == "unigram":
        return UnigramCodes(space, context_dim=context_dim)
    shape: dict[str, Any] = {"layers": model.prior_layers, "context_dim": context_dim}
    if model.prior_width is not None:
        shape["width"] = model.prior_width
    if model.prior == "made":
        return Made(space, **shape)
    if model.prior == "transformer":
        return CausalTransformer(space, heads=model.prior_heads, grid=grid, words=words, **shape)
    if grid is None:
        raise ElbowroomError(
            f"The prior {model.prior} goes over a grid of slots, but these {space} have no places.",
            "Give --model.slots-per-place 1 with networks of kind grid, or --model.prior transformer.",
        )
    return MaskedConvolutions(space, grid=grid, **shape)
