"""Samples given a context are drawn beside the rows of that context, and the figure says which rows these are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from elbowroom.running.runs import Run
from elbowroom.showing import gallery, plots
from elbowroom.showing.rows_in_context import rows_in_context
from small_runs import reals, tiny

KINDS = ["hen"] * 150 + ["ox"] * 60 + ["pig"] * 5
FEW = {"train": {"steps": 2, "batch_size": 50}}


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Runs on a table that are conditional on a class, on a class beside a number, on a number and on labels."""
    where, x = tmp_path_factory.mktemp("farm"), reals(len(KINDS), dim=2)
    mass = torch.linspace(0, 1, len(KINDS)).tolist()
    return {
        "kind": tiny(x, where / "kind", context={"kind": KINDS}, **FEW),
        "both": tiny(x, where / "both", context={"kind": KINDS, "mass": mass}, **FEW),
        "mass": tiny(x, where / "mass", context={"mass": mass}, **FEW),
        "labels": tiny(x, where / "labels", labels=KINDS, context="labels", **FEW),
    }


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """What a figure of samples is made of: data, samples and their context, and the note."""

    def drawn(run: Run, **given: Any) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        sample = Run.sample

        def spy(self: Run, *args: Any, context: Any = None, **more: Any) -> Any:
            seen["context"] = context
            return sample(self, *args, context=context, **more)

        def figure(data: Any, samples: Any, *, note: Any, **more: Any) -> None:
            seen.update(data=data, samples=samples, note=note)

        monkeypatch.setattr(Run, "sample", spy)
        monkeypatch.setattr(plots, "marginals_figure", figure)
        gallery.samples(run, **given)
        return seen

    return drawn


def _rows(run: Run, kind: str | None = None) -> torch.Tensor:
    data = run.dataset()
    rows = data.splits["train"]
    kept = rows if kind is None else rows[torch.tensor([KINDS[row] == kind for row in rows.tolist()])]
    return data.storage.gather(kept)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one.double().sort(0).values, other.double().sort(0).values)


@pytest.mark.parametrize("kind", ["hen", "ox"])
@pytest.mark.parametrize(("name", "which"), [("kind", "of this context"), ("both", "of this kind")])
def test_samples_of_a_class_are_beside_its_rows(
    name: str, which: str, kind: str, farm: dict[str, Run], drawn: Callable[..., dict[str, Any]]
) -> None:
    context = {"kind": kind} | ({"mass": 0.123456} if name == "both" else {})
    seen = drawn(farm[name], context=context)
    assert _same(seen["data"], _rows(farm[name], kind))
    assert seen["context"] == context and f"samples given kind = {kind}" in seen["note"]
    assert seen["note"].endswith(f"Data: the {len(_rows(farm[name], kind)):,} training rows {which}.")


def test_too_few_rows_for_a_histogram_are_counted_and_all_are_shown(
    farm: dict[str, Run], drawn: Callable[..., dict[str, Any]]
) -> None:
    number = len(_rows(farm["kind"], "pig"))
    assert 1 < number < 20
    seen = drawn(farm["kind"], context={"kind": "pig"})
    assert _same(seen["data"], _rows(farm["kind"]))
    assert seen["note"].endswith(f"Data: all training rows, of which {number} are of this context.")
    assert drawn(farm["mass"], context={"mass": 0.5001})["note"].endswith("of which 0 are of this context.")
    of_several = rows_in_context(farm["kind"], farm["kind"].dataset(), {"kind": ["ox", "pig"]})
    assert of_several == (farm["kind"].dataset(), "Data: all training rows.")


@pytest.mark.parametrize("name", ["kind", "both", "labels"])
def test_without_a_context_samples_have_those_of_the_rows_beside_them(
    name: str, farm: dict[str, Run], drawn: Callable[..., dict[str, Any]]
) -> None:
    """As many hens among the samples as among the data, not as many hens as pigs."""
    run = farm[name]
    seen, rows = drawn(run), run.dataset().splits["train"]
    assert _same(seen["data"], _rows(run))
    given = run.dataset().context_as_given(rows)
    assert given is not None
    shares = seen["context"][:, :3].double().mean(0)
    torch.testing.assert_close(shares, given[:, :3].double().mean(0), atol=0.01, rtol=0)


def test_samples_given_labels_are_beside_the_rows_with_that_label(
    farm: dict[str, Run], drawn: Callable[..., dict[str, Any]]
) -> None:
    seen = drawn(farm["labels"], context={"labels": "ox"})
    assert _same(seen["data"], _rows(farm["labels"], "ox"))
