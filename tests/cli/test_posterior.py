"""``elbowroom encode --posterior``: what it writes, what it says, what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from elbowroom.cli import main
from elbowroom.samplers.summary import Summary

pytestmark = pytest.mark.usefixtures("beside_digits")
FEW = ("--draws", "8", "--chains", "2", "--warmup", "6")


@pytest.mark.parametrize("method", ["nuts", "hmc"])
def test_draws_and_diagnostics_are_written(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["encode", "runs/digits", "--posterior", method, "--points", "5", *FEW])
    out = capsys.readouterr().out
    assert "5 examples in 2 dimensions, 2 chains of 8 draws each" in out
    assert "divergent transitions" in out
    assert out.rstrip().endswith("wrote runs/digits/posterior.npz")
    written = np.load("runs/digits/posterior.npz")
    assert written["z"].shape == (8, 2, 5, 2)
    assert np.allclose(written["mean"], written["z"].mean((0, 1)), atol=1e-5)
    assert np.allclose(written["stddev"], written["z"].reshape(16, 5, 2).std(0, ddof=1), atol=1e-5)
    for name in ("rhat", "ess_bulk", "ess_tail"):
        assert written[name].shape == (5, 2)
    for name in ("divergences", "acceptance", "step_size", "rows", "disagreement"):
        assert written[name].shape == (5,)
    assert len(set(written["rows"].tolist())) == 5


def test_settings_reach_the_chains() -> None:
    def draws(*argv: str) -> np.ndarray:
        main(["encode", "runs/digits", "--posterior", "hmc", "--points", "3", *FEW, "--out", "z.npz", *argv])
        return np.load("z.npz")["z"]

    default = draws()
    assert np.array_equal(default, draws("--metric", "gauss-newton", "--precision", "full", "--seed", "0"))
    for other in (("--seed", "1"), ("--metric", "guide"), ("--precision", "bf16")):
        assert not np.array_equal(default, draws(*other))
    guided = draws("--metric", "guide")  # whose steps are not at their largest
    assert not np.array_equal(guided, draws("--metric", "guide", "--target-acceptance", "0.95"))


def test_jumps_reach_the_chains_and_warnings_are_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Summary, "warnings", lambda self: ["Something is wrong."])
    drawn = []
    for more in ((), ("--jumps",)):
        main(["encode", "runs/digits", "--posterior", "hmc", "--points", "3", *FEW, "--out", "z.npz", *more])
        drawn.append(np.load("z.npz")["z"])
        assert "warning: Something is wrong.\n" in capsys.readouterr().out
    assert not np.array_equal(*drawn)
    main(["impute", "runs/digits", "--hide", "0.3", "--num", "2", "--chains", "5", *FEW[:2], *FEW[4:], "--jumps"])
    assert "warning: Something is wrong.\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--draws", "50"), ("--draws", "--posterior")),
        (("--seed", "0"), ("--seed", "--posterior")),
        (("--jumps",), ("--jumps", "--posterior")),
        (("--target-acceptance", "0.9"), ("--target-acceptance", "--posterior")),
        (("--posterior", "hmc", "--target-acceptance", "1"), ("target acceptance is 1", "between 0 and 1")),
        (("--posterior", "gibbs"), ("gibbs", "nuts")),
        (("--posterior", "hmc", "--draws", "3"), ("draws is 3", "4")),
        (("--posterior", "hmc", "--chains", "0"), ("chains is 0",)),
        (("--posterior", "hmc", "--warmup", "0"), ("warmup is 0",)),
        (("--posterior", "hmc", "--points", "0"), ("0 points",)),
        (("--posterior", "hmc", "--metric", "round"), ("round", "gauss-newton")),
        (("--posterior", "hmc", "--draws", "1000000000"), ("GB of memory", "fewer draws")),
        (("--posterior", "hmc", "--out", "z.csv"), ("z.csv", ".npz")),
    ],
    ids=lambda value: " ".join(value),
)
def test_mistakes_get_a_sentence_and_a_remedy(
    argv: tuple[str, ...], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path for path in Path("runs").rglob("*") if path.name != ".lock")
    with pytest.raises(SystemExit) as end:
        main(["encode", "runs/digits", *argv])
    said = capsys.readouterr()
    assert end.value.code == 2
    assert said.out == ""
    assert "Traceback" not in said.err
    for word in words:
        assert word in said.err
    assert sorted(path for path in Path("runs").rglob("*") if path.name != ".lock") == before
