"""Encoder and decoder of slots on a grid of patches: what a slot sees, and where it is read."""

from __future__ import annotations

import pytest
import torch

from elbowroom.errors import ElbowroomError
from elbowroom.model.grids.code_networks import GridCodeDecoder, GridCodeEncoder

SHAPES = [((8, 12), 1), ((3, 8, 12), 3)]  # of pictures, and their channels; patches of 4 make a grid of 2 × 3


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("shape", "channels"), SHAPES, ids=str)
def test_a_slot_is_written_at_its_place_and_read_there(shape: tuple[int, ...], channels: int) -> None:
    """Without blocks a place of the encoder sees its own patch and its neighbours', and one of the decoder likewise."""
    encoder = GridCodeEncoder(shape, (6 * 2, 5), channels=7, blocks=0).double()
    x, places = normal(1, *shape), torch.arange(6).reshape(2, 3)
    before = encoder(x).reshape(6, 2 * 5)
    x[..., 4:8, 8:12] += 1.0  # the patch in row 1 and column 2
    changed = (encoder(x).reshape(6, 2 * 5) != before).any(1)
    assert changed.tolist() == [False, True, True, False, True, True]
    assert places[1, 2] == 5

    decoder = GridCodeDecoder((6 * 2 * 5,), (1, *shape), channels=7, blocks=0).double()
    v = normal(1, 6, 2 * 5, seed=1)
    start = decoder(v.flatten(1))
    v[:, 0] += 1.0  # the place in row 0 and column 0, which two convolutions of 3 × 3 spread over two places
    change = (decoder(v.flatten(1)) - start).reshape(channels, 8, 12).abs().sum(0)
    assert (change > 0).all()
    v[:, 0] -= 1.0
    v[:, 5] += 1.0
    far = (decoder(v.flatten(1)) - start).reshape(channels, 8, 12).abs().sum(0)
    assert far[4:, 8:].sum() > far[:4, :4].sum() > 0


@pytest.mark.parametrize("context_dim", [0, 3])
def test_all_places_share_their_weights(context_dim: int) -> None:
    """A picture that is the same in every patch has the same slots at all inner places, and so has what is decoded."""
    context = normal(1, context_dim) if context_dim else None
    encoder = GridCodeEncoder((20, 20), (25, 4), channels=6, blocks=0, context_dim=context_dim).double()
    e = encoder(normal(4, 4).repeat(5, 5).unsqueeze(0), context).reshape(5, 5, 4)[1:-1, 1:-1]
    torch.testing.assert_close(e, e[:1, :1].expand_as(e))
    decoder = GridCodeDecoder((25 * 4,), (2, 20, 20), channels=6, blocks=0, context_dim=context_dim).double()
    out = decoder(normal(4).repeat(25).unsqueeze(0), context).reshape(2, 5, 4, 5, 4).permute(1, 3, 0, 2, 4)[2, 2]
    again = decoder(normal(4).repeat(25).unsqueeze(0), context)[0, :, 8:12, 8:12]
    torch.testing.assert_close(out, again)


@pytest.mark.parametrize("decoder", [False, True])
def test_the_context_is_read(decoder: bool) -> None:
    network = (
        GridCodeDecoder((6 * 2,), (1, 8, 12), channels=5, context_dim=3)
        if decoder
        else GridCodeEncoder((8, 12), (6, 2), channels=5, context_dim=3)
    ).double()
    given = normal(2, 12) if decoder else normal(2, 8, 12)
    one, other = network(given, normal(2, 3, seed=1)), network(given, normal(2, 3, seed=2))
    assert not torch.allclose(one, other)


def test_the_output_starts_where_it_is_told() -> None:
    decoder = GridCodeDecoder((6 * 2,), (1, 8, 12), channels=5).double()
    wanted = normal(8, 12)
    decoder.set_output_bias(wanted)
    with torch.no_grad():
        decoder.output.weight.zero_()
        assert decoder.output.bias is not None
        decoder.output.bias.zero_()
    torch.testing.assert_close(decoder(normal(3, 12))[1, 0], wanted)


def test_mistakes() -> None:
    with pytest.raises(ElbowroomError, match="14 numbers cannot be spread over a grid of 2 × 3 places"):
        GridCodeEncoder((8, 12), (7, 2))
    with pytest.raises(ElbowroomError, match="13 numbers cannot be spread"):
        GridCodeDecoder((13,), (1, 8, 12))
    with pytest.raises(ElbowroomError, match="cannot be cut into patches of 5 × 5"):
        GridCodeEncoder((8, 12), (6, 2), patch=5)
