"""Training of hierarchies: a compiled step is the eager one, and a run that was stopped goes on to the same bits."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hierarchy_cases as cases
from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.objectives import elbo_terms, iwae_terms
from elbowroom.learners.compiled import Compiled
from elbowroom.learners.execution import eager
from elbowroom.model.hierarchy.guides import BottomUpGuide, TopDownGuide
from elbowroom.model.latent import Pair
from small_runs import Quits, everything, grey, tiny

OBJECTIVES: dict[str, tuple[Any, dict[str, Any]]] = {
    "by group": (elbo_terms, {"kl": "auto", "free_bits": 0.1, "free_bits_over": "batch"}),
    "monte-carlo": (elbo_terms, {"kl": "monte-carlo"}),
    "score function": (iwae_terms, {"estimator": "score-function", "num_samples": 3}),
}


def _terms(pair: Pair, batch: Batch, *, bound: Any, **settings: Any) -> Any:
    return bound(pair.model, pair.guide, batch, **settings)


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in cases.KINDS for name in OBJECTIVES if (kind, name) != ("bottom-up", "by group")],
)
def test_a_compiled_step_is_the_eager_one(kind: str, name: str) -> None:
    case = cases.nonlinear(kind, prior="mixture", context_dim=2)
    bound, settings = OBJECTIVES[name]
    compiled = Compiled(len(case.x), required=True, announce=lambda remark: pytest.fail(remark))
    found: list[tuple[Tensor, list[Tensor | None]]] = []
    for execution in (eager, compiled):
        pair = copy.deepcopy(Pair(case.model, case.guide))
        for weight in pair.parameters():
            weight.grad = torch.zeros_like(weight)
        value, _ = execution(_terms, pair, case.batch, bound=bound, generator=cases.seeded(), **settings)
        found.append((value, [weight.grad for weight in pair.parameters()]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-11)


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
@pytest.mark.filterwarnings("ignore")
def test_frozen_weights_are_not_compiled() -> None:
    """torch.compile does not understand a call with other weights: such a step is an eager one."""
    case = cases.nonlinear("top-down")
    compiled = Compiled(len(case.x), required=True, announce=lambda remark: None)
    with pytest.raises(ElbowroomError, match="cannot be compiled"):
        compiled(
            _terms, Pair(case.model, case.guide), case.batch, bound=iwae_terms, generator=cases.seeded(),
            estimator="dreg", num_samples=3,
        )  # fmt: skip


RUNS: dict[str, dict[str, Any]] = {
    "top-down": {"groups": [2, 1], "group_hidden": [3], "prior": "mixture", "prior_components": 3},
    "bottom-up": {"groups": [2, 1], "group_hidden": [3], "guide": "bottom-up"},
    "grid": {
        "groups": [1],
        "encoder": {"kind": "grid", "width": 4, "blocks": 1, "hidden": [5]},
        "decoder": {"kind": "grid", "width": 4, "hidden": [5]},
    },
}


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(kind: str, tmp_path: Path) -> None:
    x = grey(53, 64).view(53, 8, 8).round() if kind == "grid" else grey().round()
    settings: dict[str, Any] = {"model": RUNS[kind], "train": {"steps": 12, "ema": 0.9, "report_every": 4}}
    whole = tiny(x, tmp_path / "whole", **settings)

    def quit_now() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny(x, tmp_path / "parted", observers=[Quits(7, quit_now)], **settings)
    tiny(x, tmp_path / "parted", resume=True)
    assert everything(tmp_path / "parted") == everything(tmp_path / "whole")
    assert ("kl_1" in (tmp_path / "whole" / "metrics.jsonl").read_text()) is (kind != "bottom-up")
    guide = whole.guide
    assert isinstance(guide, TopDownGuide | BottomUpGuide)
    assert whole.model.likelihood.network is guide.ladder  # one decoder
