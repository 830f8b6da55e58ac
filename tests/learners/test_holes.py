"""Elements that are hidden from the guide in training: which are, and what the objective makes of them."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.inference.objectives import iwae_terms
from elbowroom.learners.aevb import Aevb
from elbowroom.learners.update import Update
from elbowroom.model.guides import DiagonalNormal
from elbowroom.model.latent import LatentModel, Pair
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import ppca
from elbowroom.model.priors import StandardNormal
from elbowroom.model.table.likelihood import Table
from elbowroom.model.table.transform import TableTransform

COLUMNS = [Column(name, ColumnKind.REAL) for name in "abcd"]


class Noting(TableTransform):
    """Keeps what it was given."""

    def forward(self, x: Tensor) -> Tensor:
        self.given = x
        return super().forward(x)


def _pair() -> Pair:
    torch.manual_seed(0)
    transform = Noting(COLUMNS)
    model = LatentModel(StandardNormal(2), Table(MLP((2,), (1, 4), hidden=(5,)), COLUMNS))
    return Pair(model, DiagonalNormal(MLP(transform.out_shape, (2, 2), hidden=(5,)), 2, transform))


def _learner(holes: float) -> Aevb:
    sgd = functools.partial(torch.optim.SGD, lr=0.01)
    return Aevb(
        name="iwae", objective=iwae_terms, update=Update(optimizer=sgd, total_steps=10), weighs_kl=False, holes=holes
    )


def _x(rows: int = 4000) -> Tensor:
    x = torch.randn(rows, 4, generator=torch.Generator().manual_seed(1))
    x[::3, 1] = torch.nan
    return x


def test_each_row_has_a_share_of_its_own_between_none_and_twice_the_mean() -> None:
    pair, x = _pair(), _x()
    learner = _learner(0.3)
    learner.step(learner.init(pair), Batch(x, mask=~x.isnan()), generator=torch.Generator().manual_seed(2))
    hidden = pair.guide.transform.given.isnan()
    assert hidden[x.isnan()].all()
    count = hidden[:, [0, 2, 3]].sum(1).double()
    share = torch.linspace(0, 0.6, 2001).double()  # the number of holes in three elements, averaged over shares
    for number, ways in enumerate([1, 3, 3, 1]):
        expected = float((ways * share**number * (1 - share) ** (3 - number)).mean())
        found = float((count == number).double().mean())
        assert abs(found - expected) < 4 * (expected * (1 - expected) / len(x)) ** 0.5


def test_the_likelihood_scores_what_the_guide_does_not_see() -> None:
    pair, x = _pair(), _x(40)
    mask = ~x.isnan()
    hidden = torch.where(torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) < 0.5, torch.nan, x)
    batch = Batch(x, mask=mask, seen=hidden)
    found = iwae_terms(pair.model, pair.guide, batch, num_samples=3, generator=torch.Generator().manual_seed(4)).value
    q = pair.guide(hidden)
    z = q.mean + q.stddev * torch.randn(3, 40, 2, generator=torch.Generator().manual_seed(4))
    weights = pair.model.log_joint(x, z, mask=mask) - q.log_prob(z)
    torch.testing.assert_close(found, weights.logsumexp(0) - torch.tensor(3.0).log())


def test_validation_hides_nothing() -> None:
    pair, x = _pair(), _x(10)
    batch = Batch(x, mask=~x.isnan())
    values = [
        _learner(holes).measure(pair, batch, generator=torch.Generator().manual_seed(0))["iwae"] for holes in (0.0, 0.5)
    ]
    torch.testing.assert_close(*values)


def test_parts_of_a_batch_keep_what_is_seen() -> None:
    x = _x(6)
    part = Batch(x, seen=x + 1).rows(slice(2, 4)).to(dtype=torch.float64)
    assert part.seen is not None and part.seen.dtype == torch.float64
    torch.testing.assert_close(part.seen, x[2:4].double() + 1, equal_nan=True)


def test_a_guide_that_does_not_read_what_is_missing_sees_all() -> None:
    model, guide, x = ppca(dim=5, latent_dim=2, seed=0, num_data=6)
    generator = torch.Generator().manual_seed(2)
    expected = float(iwae_terms(model, guide, Batch(x), num_samples=1, generator=generator).value.detach().mean())
    learner = _learner(0.5)
    _, info = learner.step(learner.init(Pair(model, guide)), Batch(x), generator=generator.manual_seed(2))
    assert abs(info.terms["iwae"] - expected) < 1e-9
