"""Builds networks of every kind from a configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from elbowroom.errors import ElbowroomError
from elbowroom.model.composite_networks import WithLinear
from elbowroom.model.hierarchy.grids import GridEncoder, GridLadder
from elbowroom.model.networks import MLP, ConvDecoder, ConvEncoder, Network, ResidualMLP
from elbowroom.model.pyramid import PyramidDecoder, PyramidEncoder
from elbowroom.running.model_config import NetworkConfig

__all__ = ["NETWORKS", "build_network", "refuse_batch_norm"]


def _mlp(
    network: NetworkConfig, in_shape: tuple[int, ...], out_shape: tuple[int, ...], *, context_dim: int, decoder: bool
) -> Network:
    hidden = network.hidden[::-1] if decoder else network.hidden
    return MLP(
        in_shape,
        out_shape,
        hidden=hidden,
        activation=network.activation,
        batch_norm=network.batch_norm,
        context_dim=context_dim,
    )


def _residual(
    network: NetworkConfig, in_shape: tuple[int, ...], out_shape: tuple[int, ...], *, context_dim: int, decoder: bool
) -> Network:
    return ResidualMLP(
        in_shape,
        out_shape,
        width=network.width,
        blocks=network.blocks,
        activation=network.activation,
        batch_norm=network.batch_norm,
        context_dim=context_dim,
    )


def _conv(
    network: NetworkConfig, in_shape: tuple[int, ...], out_shape: tuple[int, ...], *, context_dim: int, decoder: bool
) -> Network:
    make = ConvDecoder if decoder else ConvEncoder
    return make(
        in_shape,
        out_shape,
        channels=network.channels[::-1] if decoder else network.channels,
        activation=network.activation,
        batch_norm=network.batch_norm,
        context_dim=context_dim,
    )


def _grid(
    network: NetworkConfig, in_shape: tuple[int, ...], out_shape: tuple[int, ...], *, context_dim: int, decoder: bool
) -> Network:
    refuse_batch_norm(network, "a network on a grid of patches")
    settings: dict[str, Any] = {
        "channels": network.width,
        "blocks": network.blocks,
        "dense": network.hidden[-1],
        "patch": network.patch,
        "context_dim": context_dim,
    }
    return (
        GridLadder(in_shape[0], (), out_shape, **settings) if decoder else GridEncoder(in_shape, out_shape, **settings)
    )


def _pyramid(
    network: NetworkConfig, in_shape: tuple[int, ...], out_shape: tuple[int, ...], *, context_dim: int, decoder: bool
) -> Network:
    if network.batch_norm:
        raise ElbowroomError(
            "Batch normalisation was asked for in a pyramid, which normalises groups of channels or weights.",
            "Give --model.encoder.norm and --model.decoder.norm group, weight or none instead.",
        )
    make = PyramidDecoder if decoder else PyramidEncoder
    return make(
        in_shape,
        out_shape,
        channels=network.channels[::-1] if decoder else network.channels,
        blocks=network.blocks,
        activation=network.activation,
        normalization=network.norm,
        context_dim=context_dim,
    )


def refuse_batch_norm(network: NetworkConfig, what: str) -> None:
    """Refuses batch normalisation of what has none.

    Raises:
        ElbowroomError: it was asked for.
    """
    if network.batch_norm:
        raise ElbowroomError(
            f"Batch normalisation was asked for in {what}, which has none.",
            "Leave out --model.encoder.batch-norm and --model.decoder.batch-norm.",
        )


#: kind -> (settings, in_shape, out_shape, context_dim=…, decoder=…) to a network
NETWORKS: dict[str, Callable[..., Network]] = {
    "mlp": _mlp,
    "residual": _residual,
    "conv": _conv,
    "grid": _grid,
    "pyramid": _pyramid,
}


_WITH_LINEAR = ("mlp", "residual", "conv")


def build_network(
    network: NetworkConfig, in_shape: tuple[int, ...], out_shape: tuple[int, ...], *, context_dim: int, decoder: bool
) -> Network:
    """A network of the kind that the settings name, with a linear part beside it where they ask for one."""
    built = NETWORKS[network.kind](network, in_shape, out_shape, context_dim=context_dim, decoder=decoder)
    return WithLinear(built) if network.linear and network.kind in _WITH_LINEAR else built
