"""Divergent transitions of Monte Carlo EM are counted after the warm-up, reported, and told at the end of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from elbowroom.phrasing import speaking
from elbowroom.running.chain_record import ChainRecord, chain_record
from elbowroom.samplers.hmc import HMC
from small_runs import reals, tiny

MCEM: dict[str, Any] = {"train": {"learner": "mcem", "steps": 8, "batch_size": 10, "report_every": 2},
                        "mcem": {"warmup": 3}}  # fmt: skip


@contextmanager
def diverging(every: int) -> Iterator[list[int]]:
    """Every so many-th transition diverges, in all chains; the list holds the number of transitions."""
    step, taken = HMC.step, [0]

    def planted(self: HMC, *given: Any, **rest: Any) -> Any:
        state, info = step(self, *given, **rest)
        taken[0] += 1
        wild = taken[0] % every == 0
        return state, info._replace(divergent=torch.full_like(info.divergent, wild))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HMC, "step", planted)
        yield taken


def test_healthy_chains_are_not_spoken_of(tmp_path: Path) -> None:
    told: list[str] = []
    run = tiny(reals(), tmp_path / "run", announce=told.append, **MCEM)
    record = chain_record(run.history)
    assert record is not None and record.divergent == record.lately == 0.0 and record.warning() is None
    last = [row for row in run.history if row["split"] == "train"][-1]
    assert record.acceptance == last["acceptance"]
    assert not [remark for remark in told if "diverged" in remark]


def test_divergent_transitions_are_told_at_the_end_with_their_share(tmp_path: Path) -> None:
    told: list[str] = []
    with diverging(every=1):
        run = tiny(reals(), tmp_path / "run", announce=told.append, **MCEM)
    assert {row["divergent"] for row in run.history if row["split"] == "train"} == {1.0}
    (said,) = (remark for remark in told if "diverged" in remark)
    assert said.startswith("100.0% of the transitions of the chains diverged (100.0% in the last report)")
    assert "--mcem.target-acceptance 0.9" in said


def test_the_warm_up_does_not_count(tmp_path: Path) -> None:
    """With one draw and no visit but the first, three transitions of four are warm-up; the fourth is the draw."""
    once: dict[str, Any] = {"train": MCEM["train"] | {"steps": 1, "report_every": 1}}
    for every, share in ((4, 1.0), (3, 0.0)):
        with diverging(every) as taken:
            run = tiny(reals(), tmp_path / f"run-{every}", **MCEM | once)
        assert taken == [4]
        assert run.history[0]["divergent"] == share


def test_the_remedy_is_a_setting_of_the_language_of_the_caller(tmp_path: Path) -> None:
    record = ChainRecord(0.7, 0.0004, 0.0)
    warning = record.warning()
    assert warning is not None and warning.startswith("under 0.1% of the transitions of the chains diverged (0.0%")
    with speaking("keywords", unless_set=False):
        said = record.warning()
    assert said is not None and 'mcem={"target_acceptance": 0.9}' in said
    run = tiny(reals(), tmp_path / "run", **MCEM | {"mcem": {"warmup": 3, "target_acceptance": 0.9}})
    assert run.config.mcem.target_acceptance == 0.9


def test_runs_without_chains_or_of_earlier_versions_have_no_share() -> None:
    assert chain_record([]) is None
    assert chain_record([{"split": "train", "elbo": -1.0}, {"split": "validation", "acceptance": 0.5}]) is None
    old = chain_record([{"split": "train", "acceptance": 0.8, "visits": 10}])
    assert old == ChainRecord(0.8, None, None) and old.warning() is None
