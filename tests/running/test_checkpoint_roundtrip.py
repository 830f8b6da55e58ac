"""What a run saves can be loaded, whatever model, guide and moving average share."""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import pytest
import torch

from elbowroom.data.batch import Batch
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.inference.objectives import elbo_terms
from elbowroom.learners.aevb import Aevb
from elbowroom.learners.update import Update
from elbowroom.model.latent import Pair
from elbowroom.running.build import DataFacts
from elbowroom.running.build_pair import build_pair
from elbowroom.running.checkpoints import Checkpoints
from elbowroom.running.config import configure

OBJECTIVE = functools.partial(elbo_terms, kl="auto")
FACTS = DataFacts(event_shape=(6,), support=Support.UNIT_INTERVAL, native_support=Support.UNIT_INTERVAL)


def _built(prior: str, *, batch_norm: bool, seed: int, latent_dim: int = 2) -> Pair:
    network = {"hidden": [5], "batch_norm": batch_norm}
    model = {"prior": prior, "prior_components": 4, "latent_dim": latent_dim, "encoder": network, "decoder": network}
    return build_pair(configure({"model": model}), FACTS, seed=seed)


@pytest.mark.parametrize("prior", ["normal", "mixture", "vamp", "maf", "nsf"])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_what_was_trained_is_loaded_again(prior: str, batch_norm: bool, ema: float, tmp_path: Path) -> None:
    update = Update(optimizer=torch.optim.Adam, total_steps=3, ema=ema)
    learner = Aevb(name="elbo", objective=OBJECTIVE, update=update)
    state, generator = learner.init(_built(prior, batch_norm=batch_norm, seed=0)), torch.Generator().manual_seed(0)
    for _ in range(3):
        state, _ = learner.step(state, Batch(torch.rand(9, 6, generator=generator)), generator=generator)
    store = Checkpoints(tmp_path / "checkpoints")
    store.save(3, state.learned, {"step": 3})
    fresh = _built(prior, batch_norm=batch_norm, seed=1)
    before = copy.deepcopy(fresh.state_dict())
    store.find("latest").load_weights(fresh)
    wanted, found = state.learned.state_dict(), fresh.state_dict()
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert any(not torch.equal(found[name], before[name]) for name in before)
    if prior == "vamp":
        assert fresh.model.prior.get_submodule("guide") is fresh.guide


@pytest.mark.parametrize(
    "other",
    [
        {"prior": "vamp", "batch_norm": False},
        {"prior": "normal", "batch_norm": True},
        {"prior": "vamp", "batch_norm": True, "latent_dim": 3},
    ],
)
def test_the_weights_of_another_architecture_are_refused(other: dict[str, object], tmp_path: Path) -> None:
    store = Checkpoints(tmp_path / "checkpoints")
    store.save(3, _built("vamp", batch_norm=True, seed=0), {"step": 3})
    with pytest.raises(ElbowroomError, match="do not fit"):
        store.find("latest").load_weights(_built(seed=1, **other))  # type: ignore[arg-type]
