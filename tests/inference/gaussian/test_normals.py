"""Normals by mean and factor, against torch's own distributions."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent, Laplace, MultivariateNormal, Normal, kl_divergence

from elbowroom.errors import ElbowroomError
from elbowroom.inference.gaussian.normals import Normals, inverse_of, is_normal, normals_of


def some_normals(n: int = 4, dim: int = 3) -> Normals:
    g = torch.Generator().manual_seed(0)
    root = torch.randn(n, dim, dim, generator=g).double().tril()
    root.diagonal(dim1=-2, dim2=-1).abs_().add_(0.3)
    return Normals(torch.randn(n, dim, generator=g).double(), root)


def test_entropy_draws_and_distribution_are_torchs():
    q = some_normals()
    full = MultivariateNormal(q.loc, scale_tril=q.root)
    torch.testing.assert_close(q.entropy(), full.entropy())
    noise = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(q.draws(noise)[2, 1], q.loc[1] + q.root[1] @ noise[2, 1])
    assert q.distribution("full").log_prob(q.loc).shape == (4,)
    diagonal = q.projected("diagonal")
    torch.testing.assert_close(diagonal.entropy(), diagonal.distribution("diagonal").entropy())


def test_the_projection_has_the_least_divergence():
    q = some_normals()
    full = MultivariateNormal(q.loc, scale_tril=q.root)
    best = q.projected("diagonal")

    def divergence(scale: torch.Tensor, loc: torch.Tensor = q.loc) -> torch.Tensor:
        return kl_divergence(MultivariateNormal(loc, scale_tril=torch.diag_embed(scale)), full)

    scale = best.root.diagonal(dim1=-2, dim2=-1)
    for factor in (0.9, 1.1):
        for axis in range(3):
            other = scale.clone()
            other[:, axis] *= factor
            assert (divergence(other) > divergence(scale)).all()
    assert (divergence(scale, q.loc + 0.1) > divergence(scale)).all()
    assert q.projected("full") is q


def test_guides_are_read_as_they_are():
    q = some_normals()
    read = normals_of(q.distribution("full"))
    torch.testing.assert_close(read.root, q.root)
    diagonal = normals_of(Independent(Normal(q.loc, 2.0 * torch.ones_like(q.loc)), 1))
    torch.testing.assert_close(diagonal.root, 2 * torch.eye(3).double().expand(4, 3, 3))
    with pytest.raises(ElbowroomError, match="is a Independent, but only a normal one can be compared"):
        normals_of(Independent(Laplace(q.loc, torch.ones_like(q.loc)), 1))


def test_normal_is_what_can_be_read():
    q = some_normals()
    assert all(is_normal(q.distribution(family)) for family in ("full", "diagonal"))
    assert not is_normal(Independent(Laplace(q.loc, torch.ones_like(q.loc)), 1))


def test_rows_where_and_inverse():
    q, other = some_normals(), Normals(torch.zeros(4, 3).double(), torch.eye(3).double().expand(4, 3, 3))
    chosen = torch.tensor([True, False, True, False])
    mixed = q.where(chosen, other)
    torch.testing.assert_close(mixed.rows(chosen.nonzero()[:, 0]).root, q.root[::2])
    torch.testing.assert_close(mixed.loc[1], torch.zeros(3).double())
    torch.testing.assert_close(inverse_of(q.root) @ q.root, torch.eye(3).double().expand(4, 3, 3))
