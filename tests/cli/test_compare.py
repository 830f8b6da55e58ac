"""``elbowroom compare``: its tables, its object, its picture, and how it says that something went wrong."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import elbowroom as er
import small_comparisons
from elbowroom.cli import main
from elbowroom.running import compare as comparing
from elbowroom.running.observers import Silent
from small_comparisons import prepare

QUICK = (*small_comparisons.QUICK, "--out", "o")

Ask = Callable[..., tuple[int, str, str]]  # arguments -> exit code, standard output, standard error


@pytest.fixture
def ask(ask: Ask) -> Ask:
    """`elbowroom compare` with these arguments."""
    return lambda *argv: ask("compare", *argv)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, _lonely_machine: None) -> Path:
    """A finished comparison of two recipes, one of them with a name that is not kind to tables."""
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare("[red]$a_b")
        main(["compare", "[red]$a_b.toml", "wake.toml", *QUICK])
    return folder


@pytest.fixture(autouse=True)
def _there(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(prepared, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")


def test_the_tables(ask: Ask) -> None:
    code, out, err = ask("[red]$a_b.toml", "wake.toml", *QUICK)
    assert code == 0 and err == ""  # it was finished
    assert out.startswith("bits.npy · 20 test examples · each recipe trained for 400 decoder gradients\n")
    assert "a lower bound" in out
    assert out.count("\n[red]$a_b ") == out.count("\nwake ") == 2  # in both tables
    content = json.loads(Path("o/compare.json").read_text())
    final = {row["recipe"]: row for row in content["rows"] if row["moment"] == 400}
    first = {row["recipe"]: row for row in content["rows"] if row["moment"] == 200}
    best, other = sorted(final, key=lambda name: -final[name]["value"])
    lines = [line.split() for line in out.splitlines()]
    assert lines[7][:6] == [best, {"wake": "wake-sleep"}.get(best, "aevb"), f"{final[best]['value']:.2f}",
                            f"{final[best]['stderr']:.2f}", f"{final[best]['median_ess']:.0f}", "best"]  # fmt: skip
    assert lines[8][5] == f"{final[other]['value'] - final[best]['value']:+.2f}"
    assert lines[8][-1] == f"{final[other]['decoder_gradients']}"
    assert lines[11] == ["recipe", "200", "400"]
    assert lines[12] == [best, f"{first[best]['value']:.2f}", f"{final[best]['value']:.2f}"]
    assert out.splitlines()[-3:] == ["wrote o/compare.json", "wrote o/values.safetensors", "wrote o/compare.png"]


def test_json_is_one_object(ask: Ask) -> None:
    code, out, _ = ask("[red]$a_b.toml", "wake.toml", *QUICK, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["budget"] == {"of": "decoder_gradients", "amount": 400.0}
    assert found["yardstick"]["bound"] == "lower"
    assert [s["recipe"] for s in found["standings"]] == sorted(
        (s["recipe"] for s in found["standings"]),
        key=lambda name: -max(r["value"] for r in found["rows"] if r["recipe"] == name and r["moment"] == 400),
    )
    assert {r["moment"] for r in found["rows"]} == {200, 400}


def test_the_picture_is_drawn_again(ask: Ask) -> None:
    Path("o/compare.png").unlink()
    ask("[red]$a_b.toml", "wake.toml", *QUICK, "--json")
    with Image.open("o/compare.png") as picture:
        assert min(picture.size) > 300


def test_progress_goes_to_standard_error(ask: Ask) -> None:
    _, out, err = ask("wake.toml", *QUICK[:-2], "--out", "new", "--splits", "test,train", "--json")
    assert re.fullmatch(
        r"(\d+ decoder gradients · wake · step \d+, [\d.]+ s · (test|train) log p\(x\) ≥ -[\d.]+ ± [\d.]+\n){4}", err
    )
    assert [row["split"] for row in json.loads(out)["rows"]] == ["test", "train"] * 2


def test_ctrl_c_says_how_to_go_on(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stops(Silent):
        def step(self) -> None:
            signal.raise_signal(signal.SIGINT)

    train = comparing.train
    with monkeypatch.context() as patch:
        patch.setattr(comparing, "train", lambda *a, observers, **k: train(*a, observers=[Stops()], **k))
        code, _, err = ask("wake.toml", *QUICK[:-2], "--out", "new")
    assert code == 130
    assert err.endswith("compare: interrupted; what was saved stays, and the same command, without --overwrite, "
                        "continues from there.\n")  # fmt: skip
    assert ask("wake.toml", *QUICK[:-2], "--out", "new")[0] == 0


def test_one_failure_is_shown_and_no_error(ask: Ask) -> None:
    code, out, _ = ask("wild.toml", "wake.toml", *QUICK[:-2], "--out", "new")
    assert code == 0
    assert re.search(r"^wild +aevb +failed *$", out, re.MULTILINE)
    assert "wild failed: At step" in out
    assert Path("new/compare.png").is_file()


def test_nothing_but_failures_is_an_error(ask: Ask) -> None:
    for argv in ((), ("--json",)):
        code, out, err = ask("wild.toml", *QUICK[:-2], "--out", "new", *argv)
        assert code == 2
        assert "No recipe reached the end of the budget." in err
        assert "failed" in out
    assert json.loads(out)["rows"] == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("wake.toml",), "A comparison needs one budget, but none was given"),
        (("wake.toml", "--seconds", "1", "--visits", "3"), "2 were given (seconds, visits)"),
        (("--seconds", "1"), "No recipe was given"),
        (("wake.toml", "wake.toml", "--seconds", "1"), "Two recipes are called 'wake'"),
        (("wake.toml", "--seconds", "1", "--out", "bits.npy"), "bits.npy is a file"),
        (("wake.toml", "--secnods", "1"), "There is no flag --secnods"),
        (("wake.toml", *QUICK), "recipes = [red]$a_b, wake, but now it is wake"),
        (("tutorial-pyro", "--seconds", "1"), "tutorial-pyro: "),
        (("digits", "--seconds", "1"), "digits: A comparison trains in parts, but a one-cycle schedule"),
    ],
)
def test_a_mistake_is_a_sentence(argv: tuple[str, ...], message: str, ask: Ask) -> None:
    code, out, err = ask(*argv)
    assert code == 2 and out == ""
    assert message in err and "Traceback" not in err


def test_it_can_be_had_from_python() -> None:
    settings: dict[str, Any] = {"decoder_gradients": 400, "moments": 2, "points": 20, "k": 5, "starts": 1}
    found = er.compare(["[red]$a_b.toml", "wake.toml"], **settings, out="o")
    assert [row.recipe for row in found.rows] == ["[red]$a_b", "wake"] * 2
