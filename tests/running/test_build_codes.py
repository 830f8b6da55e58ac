"""Codes on a grid, built from a configuration: they train, come back from disk, and mistakes are explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import elbowroom as er
from elbowroom.errors import ElbowroomError
from elbowroom.model.grids.priors import MaskedConvolutions
from elbowroom.running.build import DataFacts
from elbowroom.running.build_codes import code_grid, code_grids, code_space
from elbowroom.running.build_pair import build_pair
from elbowroom.running.config import configure
from small_runs import tiny

GRID: dict[str, Any] = {"kind": "grid", "width": 6, "blocks": 1, "patch": 4}
CODES: dict[str, Any] = {"slots_per_place": 1, "codes": 3, "code_dim": 2, "encoder": GRID, "decoder": GRID}
PICTURES = torch.rand(53, 8, 12, generator=torch.Generator().manual_seed(0))


def _model(**keys: Any) -> dict[str, Any]:
    return CODES | {"prior_width": 8, "prior_layers": 1, "prior_heads": 2} | keys


@pytest.mark.parametrize("prior", ["uniform", "unigram", "made", "transformer", "pixelcnn"])
@pytest.mark.parametrize(("guide", "learner"), [("categorical", "aevb"), ("nearest-code", "vq")])
def test_every_prior_and_guide_trains_measures_and_comes_back(out: Path, prior: str, guide: str, learner: str) -> None:
    train = {"epochs": 2, "learner": learner}
    estimator = {"estimator": "reinmax"} if learner == "aevb" else {}
    run = tiny(PICTURES, out, model=_model(prior=prior, guide=guide), train=train, objective=estimator)
    again = er.load(out, data=PICTURES)
    scores = [r.score(PICTURES[:4], method="iwae", k=3, seed=0).log_evidence for r in (run, again)]
    assert torch.equal(torch.as_tensor(scores[0]), torch.as_tensor(scores[1]))
    assert run.sample(2).x.shape == (2, 8, 12)
    assert again.pair.model.space == (6, 3)


@pytest.mark.parametrize("each", [1, 2])
def test_a_codebook_is_shared_by_the_places(each: int) -> None:
    settings = configure({"model": _model(prior="transformer", guide="nearest-code", slots_per_place=each)})
    facts = DataFacts(event_shape=(8, 12), support="binary", native_support="binary")  # type: ignore[arg-type]
    assert code_space(settings.model, (8, 12)) == (6 * each, 3)
    pair = build_pair(settings, facts, seed=0)
    shapes = {name: tuple(value.shape) for name, value in pair.state_dict().items()}
    assert shapes["guide.codebook.vectors"] == (each, 3, 2)
    assert shapes["model.prior.network.embedding"] == (each, 3, 8)


@pytest.mark.parametrize(
    ("guide", "learner", "prior"),
    [("nearest-code", "vq", "transformer"), ("categorical", "aevb", "pixelcnn"), ("nearest-code", "vq", "made")],
)
def test_levels_of_codes_train_measure_and_come_back(out: Path, guide: str, learner: str, prior: str) -> None:
    part = GRID | {"patch": 2}
    model = _model(prior=prior, guide=guide, code_levels=2, encoder=part, decoder=part, prior_width=32)
    estimator = {"estimator": "reinmax"} if learner == "aevb" else {}
    run = tiny(PICTURES, out, model=model, train={"epochs": 2, "learner": learner}, objective=estimator)
    again = er.load(out, data=PICTURES)
    scores = [r.score(PICTURES[:4], method="iwae", k=3, seed=0).log_evidence for r in (run, again)]
    assert torch.equal(torch.as_tensor(scores[0]), torch.as_tensor(scores[1]))
    assert run.sample(2).x.shape == (2, 8, 12)
    assert again.model.space == (6 + 24, 3)
    assert run.config.model.latents == "a slot × 3 codes per patch of 4 × 4 and of 2 × 2"
    encoded = again.encode(points=5)
    assert encoded.codes is not None and encoded.codes.shape == (5, 30) and encoded.mean.shape == (5, 90)
    found = {result.name: result for result in again.evaluate("codes", points=4, k=3)}
    rates = [found[f"codes rate, level {level}"].value for level in (1, 2)]
    assert sum(rates) == pytest.approx(found["codes rate"].value)
    assert found["codes distortion, level 1 alone"].asked["k"] == 3
    assert found["perplexity, level 2"].found["slots"] == 24


def test_levels_with_a_context_and_three_of_them() -> None:
    part = GRID | {"patch": 2}
    keys = _model(
        guide="nearest-code", prior="transformer", slots_per_place=2, code_levels=2, encoder=part, decoder=part
    )
    facts = DataFacts(event_shape=(8, 12), support="binary", native_support="binary", context_dim=3)  # type: ignore[arg-type]
    pair = build_pair(configure({"model": keys}), facts, seed=0)
    x, context = PICTURES[:2].round(), torch.eye(3)[:2]
    q = pair.guide(x, context)
    p = pair.model.prior(None, context)
    z = q.sample((), torch.Generator().manual_seed(0))
    assert z.shape == (2, 2 * 30 * 3) and p.log_prob(z).shape == (2,)
    assert not torch.allclose(p.log_prob(z), pair.model.prior(None, context.flip(0)).log_prob(z))
    settings = configure(
        {"model": keys | {"code_levels": 3, "encoder": GRID | {"patch": 1}, "decoder": GRID | {"patch": 1}}}
    )
    deep = DataFacts(event_shape=(8, 12), support="binary", native_support="binary")  # type: ignore[arg-type]
    assert [grid[:2] for grid in code_grids(settings.model, (8, 12))] == [(2, 3), (4, 6), (8, 12)]
    assert build_pair(settings, deep, seed=0).guide(x).sample().shape == (2, 2 * 126 * 3)


def test_a_grid_of_slots_is_where_the_patches_are() -> None:
    assert code_grid(configure({"model": _model(prior="made")}).model, (3, 8, 12)) == (2, 3, 1)
    assert code_grid(configure({"model": {"prior": "made"}}).model, (3, 8, 12)) is None


@pytest.mark.parametrize(
    ("keys", "problem", "remedy"),
    [
        ({"decoder": {"kind": "mlp"}}, "a network of kind mlp has no grid", "--model.encoder.kind grid"),
        ({"decoder": GRID | {"patch": 2}}, "patches of 4 pixels and the decoder of 2", "--model.decoder.patch 4"),
        ({"encoder": GRID | {"patch": 5}, "decoder": GRID | {"patch": 5}}, "cannot be cut", "Give a patch of"),
        ({"slots_per_place": 2, "prior": "pixelcnn"}, "2 slots at each place", "--model.slots-per-place 1"),
        ({"slots_per_place": 0, "prior": "pixelcnn"}, "these 16 slots × 3 codes have no places", "transformer"),
        ({"encoder": GRID | {"batch_norm": True}}, "Batch normalisation", "batch-norm"),
        ({"code_levels": 2}, "2 levels of codes were asked for, but a grid of 2 × 3", "--model.code-levels"),
    ],
)
def test_mistakes(out: Path, keys: dict[str, Any], problem: str, remedy: str) -> None:
    with pytest.raises(ElbowroomError, match=problem) as caught:
        tiny(PICTURES, out, model=_model(prior="made", guide="categorical") | keys, objective={"estimator": "reinmax"})
    assert remedy in caught.value.remedy
    assert not out.exists()


def test_the_prior_by_its_name() -> None:
    settings = configure({"model": _model(prior="pixelcnn", guide="categorical", prior_layers=3)})
    facts = DataFacts(event_shape=(8, 12), support="binary", native_support="binary")  # type: ignore[arg-type]
    prior = build_pair(settings, facts, seed=0).model.prior
    assert isinstance(prior, MaskedConvolutions)
    assert prior.network.receptive_field == 15  # type: ignore[union-attr]
