"""Diagnostics of Markov chains in a report: as the terminal says them, beside the weights that they are of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import elbowroom as er
from elbowroom.errors import ElbowroomError
from elbowroom.running.chain_record import read_about_chains
from elbowroom.running.runs import load
from elbowroom.showing.report.blocks import FactSheet, Prose, ReportSection, Table
from elbowroom.showing.report.chains import chains
from small_runs import reals, tiny

FEW: dict[str, Any] = {"train": {"steps": 4, "batch_size": 10, "report_every": 2}}
BULK = "bulk ESS, of an example's worst dimension"
QUICK = ("--points", "3", "--draws", "6", "--chains", "2", "--warmup", "3", "--metric", "guide")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an encoder, and one by Monte Carlo EM."""
    where = tmp_path_factory.mktemp("chains")
    np.save(where / "x.npy", reals().numpy())
    tiny(where / "x.npy", where / "aevb", **FEW)
    tiny(where / "x.npy", where / "mcem", train=FEW["train"] | {"learner": "mcem"}, mcem={"chains": 2})
    return where


def section(folder: Path, **choice: Any) -> ReportSection | None:
    run = load(folder, **choice)
    found = chains(run, run.history)
    return found[0] if found else None


def prose(folder: Path, tone: str | None = None) -> list[str]:
    found = section(folder)
    assert found is not None
    return [block.text for block in found.blocks if isinstance(block, Prose) and tone in (None, block.tone)]


def test_a_run_without_chains_has_no_section(place: Path) -> None:
    assert not (place / "aevb" / "posterior.npz").exists()
    assert section(place / "aevb") is None


def test_chains_of_training_are_those_of_its_reports(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = section(place / "mcem")
    assert found is not None
    (sheet,) = found.blocks
    assert isinstance(sheet, FactSheet)
    rows = dict(sheet.groups[0].rows)
    last = [row for row in load(place / "mcem").history if row["split"] == "train"][-1]
    assert rows == {
        "acceptance, last report": f"{last['acceptance']:.3f}",
        "target acceptance": "0.8",
        "divergent transitions": "0.00%",
        "chains for each example": "2",
    }
    run = load(place / "mcem")
    wild = [row | {"divergent": 0.25} for row in run.history]
    sheet, warning = chains(run, wild)[0].blocks
    assert isinstance(sheet, FactSheet) and dict(sheet.groups[0].rows)["divergent transitions"] == "25.00%"
    assert isinstance(warning, Prose) and warning.tone == "warning" and "25.0% of the transitions" in warning.text
    old = [{key: value for key, value in row.items() if key != "divergent"} for row in run.history]
    (sheet,) = chains(run, old)[0].blocks
    assert isinstance(sheet, FactSheet)
    assert dict(sheet.groups[0].rows)["divergent transitions"] == "not counted by that version"


def test_draws_of_posteriors_are_described_as_on_the_terminal(place: Path, ask: Callable[..., Any]) -> None:
    run = place / "aevb"
    code, out, err = ask("encode", str(run), "--posterior", "hmc", *QUICK)
    assert code == 0, err
    found = section(run)
    assert found is not None and found.slug == "chains"
    said, table, *warnings = found.blocks
    assert isinstance(said, Prose) and isinstance(table, Table)
    assert "3 examples (test) in 2 dimensions, 2 chains of 6 draws each, by method hmc" in said.text
    about = read_about_chains(run / "posterior.npz")
    assert about is not None and about["step"] == load(run).step
    rows = {row[0]: row[1:] for row in table.groups[0].rows}
    rhat = about["summary"]["rhat"]
    assert rows["R̂"] == tuple(f"{rhat[part]:.3f}" for part in ("median", "q90", "q99", "worst"))
    assert f"R-hat 99 % quantile {rows['R̂'][2]} ({rows['R̂ of as many independent draws'][2]}" in out
    assert f"bulk ESS of an example's worst dimension: median {rows[BULK][0]}," in out
    assert [block.text for block in warnings if isinstance(block, Prose)] == about["summary"]["warnings"]
    assert all(f"warning: {text}" in out for text in about["summary"]["warnings"])


def test_draws_of_other_weights_are_called_that_and_those_of_the_latest_are_kept_apart(
    place: Path, ask: Callable[..., Any]
) -> None:
    run = place / "aevb"
    ask("encode", str(run), "--posterior", "hmc", *QUICK)
    assert section(run, checkpoint="latest") is None
    _rewrite(run / "posterior.npz", step=1)
    (said,) = (text for text in prose(run, "warning") if "checkpoint of step 1" in text)
    assert f"the run's present one is of step 4: `elbowroom encode {run} --posterior hmc` draws from that" in said
    _rewrite(run / "posterior.npz", warnings=["Something is wrong."])
    assert "Something is wrong." in prose(run, "warning")


def _rewrite(path: Path, *, warnings: list[str] | None = None, **changed: Any) -> None:
    arrays = dict(np.load(path))
    about = json.loads(str(arrays["about"][0])) | changed
    if warnings is not None:
        about["summary"]["warnings"] = warnings
    np.savez(path, **arrays | {"about": np.array([json.dumps(about)])})


def test_what_is_damaged_stops_the_report_and_what_is_old_is_left_out(
    place: Path, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elbowroom.showing.report.run._pictures", lambda *_: [])
    run = place / "aevb"
    path = run / "posterior.npz"
    ask("encode", str(run), "--posterior", "hmc", *QUICK)
    assert "Markov chains" in er.report(run).read_text(encoding="utf-8")
    old = {name: array for name, array in np.load(path).items() if name != "about"}
    np.savez(path, **old)
    assert section(run) is None
    for text in ("{", '{"step": 3}', "[]"):
        np.savez(path, **old | {"about": np.array([text])})
        with pytest.raises(ElbowroomError, match=r"posterior\.npz is not an archive of draws"):
            er.report(run)
    path.write_bytes(b"PK\x03\x04 half")
    with pytest.raises(ElbowroomError, match=r"posterior\.npz is not an archive of draws"):
        er.report(run)
    path.unlink()


def test_draws_are_the_same_whatever_is_written_about_them(place: Path, ask: Callable[..., Any]) -> None:
    run = place / "aevb"
    ask("encode", str(run), "--posterior", "hmc", *QUICK, "--out", str(place / "z.npz"))
    few = {"points": 3, "draws": 6, "chains": 2, "warmup": 3, "metric": "guide"}
    drawn = load(run).posterior(method="hmc", **few).z
    assert torch.equal(torch.from_numpy(np.load(place / "z.npz")["z"]), drawn)
