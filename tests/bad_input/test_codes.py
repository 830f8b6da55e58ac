"""Mistakes with discrete latents: what needs a continuous z, and numbers of slots and codes that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import elbowroom as er
from elbowroom.data.loading import load_data
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.doctor.aggregate_posterior import aggregate_study
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.evaluation.scoring import score
from elbowroom.inference.gaussian.optimal_gaussian import optimal_gaussian
from elbowroom.inference.importance.laplace_proposal import laplace_evidence, laplace_proposal
from elbowroom.inference.posterior.sample import posterior
from elbowroom.model.code_distributions import CodeSpace
from elbowroom.model.codes import CategoricalGuide, UnigramCodes
from elbowroom.model.latent import LatentModel, Pair
from elbowroom.model.likelihoods import Bernoulli
from elbowroom.model.networks import MLP
from elbowroom.running.runs import Run
from elbowroom.showing import code_gallery, gallery
from small_runs import tiny

SPACE = CodeSpace(3, 4)


@pytest.fixture
def pair() -> Pair:
    model = LatentModel(UnigramCodes(SPACE), Bernoulli(MLP((12,), (1, 6), hidden=(5,)), (6,)))
    return Pair(model, CategoricalGuide(MLP((6,), SPACE, hidden=(5,)), SPACE)).eval()


X = torch.ones(4, 6)
CONTINUOUS: dict[str, Callable[[Pair], Any]] = {
    "hmc": lambda pair: posterior(pair.model, pair.guide, X, method="hmc"),
    "nuts with jumps": lambda pair: posterior(pair.model, pair.guide, X, jumps=True),
    "laplace proposals": lambda pair: laplace_proposal(pair.model, pair.guide, X),
    "laplace-is": lambda pair: laplace_evidence(pair.model, None, X),
    "the best normal": lambda pair: optimal_gaussian(pair.model, None, X, family="full"),
    "scores": lambda pair: score(pair.model, pair.guide, _data(), split="test", method="laplace-is"),
    "an aggregate posterior": lambda pair: aggregate_study(DoctorInput(pair.model, pair.guide, _data())),
}


def _data() -> Any:
    return load_data(X.repeat(100, 1), support="binary", test=0.5)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_what_needs_a_continuous_z_says_so(name: str, pair: Pair) -> None:
    with pytest.raises(ElbowroomError) as caught:
        CONTINUOUS[name](pair)
    assert "needs a continuous z, but the latents of this model are codes (3 slots × 4 codes)." in caught.value.problem
    assert caught.value.problem.count(". ") == 0  # one sentence
    assert len(caught.value.remedy) > 8


def _bits(rows: int = 80) -> Any:
    return np.random.default_rng(0).integers(0, 2, (rows, 4, 4)).astype(np.uint8)


WITH_CODES: dict[str, Any] = {
    "model": {"prior": "unigram", "slots": 3, "codes": 4},
    "objective": {"estimator": "straight-through"},
    "train": {"steps": 3},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, _lonely_machine: None) -> Run:
    return _train(tmp_path_factory.mktemp("run") / "run")


def _train(out: Path, x: Any = None, **changed: dict[str, Any]) -> Run:
    settings = {name: {**WITH_CODES.get(name, {}), **changed.get(name, {})} for name in WITH_CODES | changed}
    return tiny(_bits() if x is None else x, out, **settings)


@pytest.mark.parametrize("draw", [gallery.manifold, gallery.traversals], ids=["manifold", "traversals"])
def test_figures_of_continuous_latents_refuse_codes(run: Run, draw: Callable[[Run], Any]) -> None:
    with pytest.raises(ElbowroomError, match=r"needs a continuous z, but .* codes \(3 slots × 4 codes\)"):
        draw(run)


@pytest.mark.parametrize("draw", [code_gallery.code_examples, code_gallery.code_swaps], ids=["examples", "swaps"])
def test_figures_of_codes_refuse_continuous_latents(draw: Callable[[Run], Any], out: Path) -> None:
    with pytest.raises(ElbowroomError, match="z is continuous"):
        draw(tiny(_bits(), out, train={"steps": 2}))


def test_a_comparison_refuses_codes(tmp_path: Path) -> None:
    recipe = tmp_path / "codes.toml"
    recipe.write_text(
        '[data]\nname = "digits"\nbinarization = "dynamic"\n[model]\nprior = "unigram"\nslots = 3\ncodes = 4\n'
        '[objective]\nestimator = "straight-through"\n'
    )
    with pytest.raises(
        ElbowroomError, match=r"A comparison estimates log p\(x\) by Laplace approximations, .* needs a continuous z"
    ):
        er.compare([recipe], seconds=1, out=tmp_path / "out", announce=lambda said: None)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": {"prior": "vamp", "guide": "categorical"}}, "guide categorical is over codes, but the prior vamp"),
        ({"model": {"guide": "full"}}, "prior unigram is over codes, but the guide full is over real vectors"),
        ({"train": {"learner": "mcem"}, "objective": {"estimator": "pathwise"}}, "needs a continuous z"),
        ({"model": {"codes": 1}}, r"model\.codes is 1"),
        ({"model": {"slots": 0}}, r"model\.slots is 0"),
        ({"model": {"codes": 100}}, "100 codes for each slot were asked for, but there are 64 training examples"),
    ],
)
def test_settings_that_cannot_be(changed: dict[str, Any], words: str, out: Path) -> None:
    with pytest.raises(ElbowroomError, match=words):
        _train(out, **changed)
    assert not out.exists()


def test_as_many_codes_as_training_examples_are_allowed(out: Path) -> None:
    assert _train(out, model={"codes": 64}).model.space == (3, 64)


def test_spaces_of_no_slot_or_one_code_are_refused_in_python() -> None:
    for space, words in ((CodeSpace(0, 4), "0 slots of"), (CodeSpace(4, 1), "1 code of")):
        with pytest.raises(ElbowroomError, match=words):
            UnigramCodes(space)


def test_active_units_are_for_continuous_latents(run: Run) -> None:
    with pytest.raises(ElbowroomError, match="active-units needs a continuous z"):
        run.evaluate("active-units")
    assert {result.method for result in run.evaluate(k=10)} == {"elbo", "codes"}
