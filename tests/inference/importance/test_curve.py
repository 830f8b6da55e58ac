"""The bound for every k from one set of draws, against the bound of each k by itself and the exact evidence."""

from __future__ import annotations

import math

import pytest
import torch

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.importance.curve import importance_curve
from elbowroom.inference.importance.estimate import importance_estimate_from
from elbowroom.inference.weights import weigh
from elbowroom.model import oracles


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_each_k_is_the_bound_of_that_many_draws() -> None:
    model, guide, x = oracles.ppca(dim=8, latent_dim=3, seed=0, num_data=400)
    curve = importance_curve(model, guide(x), x, ks=(1, 5, 50, 500), generator=seeded())
    for k, found in zip(curve.ks, curve.log_evidence, strict=True):
        alone = importance_estimate_from(model, guide(x), x, num_samples=k, generator=seeded(k)).log_evidence
        difference = found - alone
        assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(len(x))
    exact = model.log_evidence(x).detach()
    assert (curve.log_evidence[-1] - exact).abs().mean() < 0.1


def test_it_rises_on_every_datum_and_ends_at_the_estimate_of_all_draws() -> None:
    model, guide, x = oracles.ppca(dim=8, latent_dim=3, seed=0, num_data=30)
    curve = importance_curve(model, guide(x), x, ks=(1, 10, 100, 1000), generator=seeded())
    assert (curve.log_evidence.diff(dim=0) >= -1e-12).all()
    whole = importance_estimate_from(model, guide(x), x, num_samples=1000, generator=seeded())
    torch.testing.assert_close(curve.log_evidence[-1], whole.log_evidence)
    torch.testing.assert_close(curve.estimate, whole)


@pytest.mark.parametrize("chunk_elements", [1, 100, 2**22])
def test_blocks_do_not_depend_on_chunks(chunk_elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights, however they come."""
    model, guide, x = oracles.ppca(dim=4, latent_dim=2, seed=0, num_data=3)
    weights = weigh(model, Batch(x), guide(x), model.prior(None), num_samples=24, generator=seeded()).log_weights
    weights = weights.detach()
    size = max(1, min(24, chunk_elements // 20))
    monkeypatch.setattr("elbowroom.inference.importance.curve.weights_in_chunks", lambda *_, **__: weights.split(size))
    curve = importance_curve(model, guide(x), x, ks=(3, 6, 24))
    by_hand = [weights.reshape(24 // k, k, 3).logsumexp(1).mean(0) - math.log(k) for k in (3, 6, 24)]
    torch.testing.assert_close(curve.log_evidence, torch.stack(by_hand))


def test_masks_are_respected() -> None:
    model, _, x = oracles.ppca(dim=8, latent_dim=2, seed=0, num_data=50)
    mask = torch.rand(x.shape, generator=seeded()) < 0.7
    curve = importance_curve(model, model.posterior(x, mask), Batch(x, mask=mask), ks=(1, 2), generator=seeded())
    torch.testing.assert_close(curve.log_evidence[0], model.log_evidence(x, mask).detach())


@pytest.mark.parametrize("ks", [(), (0, 10), (10, 1), (3, 10), (5, 5)], ids=str)
def test_bad_ks(ks: tuple[int, ...]) -> None:
    model, guide, x = oracles.ppca(dim=4, latent_dim=2, seed=0, num_data=3)
    with pytest.raises(ElbowroomError, match="divides the next"):
        importance_curve(model, guide(x), x, ks=ks)
