"""``elbowroom report``: of a run and of a comparison, its file, its object, and how it says that something is wrong."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest

import elbowroom as er
from elbowroom.cli import main
from elbowroom.running.comparison import Comparison
from elbowroom.showing.report.blocks import Commands, Figure, Table
from elbowroom.showing.report.comparison import report_of_comparison
from small_comparisons import QUICK, prepare

TINY = ("--model.encoder.hidden", "6", "--model.decoder.hidden", "6", "--model.latent-dim", "2", "--train.epochs", "1")
HOSTILE = "<img src=x onerror=alert(1)>"

Ask = Callable[..., tuple[int, str, str]]  # arguments -> exit code, standard output, standard error


@pytest.fixture
def ask(ask: Ask) -> Ask:
    """`elbowroom report` with these arguments."""
    return lambda *argv: ask("report", *argv)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, _lonely_machine: None) -> Path:
    """A run, a comparison of three recipes of which one fails, and a comparison that is all failure."""
    folder = tmp_path_factory.mktemp("reports")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["train", "digits", *TINY, "--quiet", "--out", "run"])
        prepare(HOSTILE)
        main(["compare", f"{HOSTILE}.toml", "wake.toml", "wild.toml", *QUICK, "--splits", "test,train", "--out", "c"])
        with pytest.raises(SystemExit):
            main(["compare", "wild.toml", *QUICK, "--out", "failed"])
    return folder


@pytest.fixture(autouse=True)
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(prepared, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != ".lock"}


def test_it_names_the_file(ask: Ask) -> None:
    assert ask("run") == (0, "wrote run/report.html\n", "")
    assert Path("run/report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_json_is_one_object(ask: Ask) -> None:
    code, out, err = ask("run", "--json")
    size = Path("run/report.html").stat().st_size
    assert (code, err) == (0, "")
    assert json.loads(out) == {"run": "run", "report": "run/report.html", "bytes": size}


def test_it_goes_where_it_is_told(ask: Ask) -> None:
    assert ask("run", "--out", "page.html")[:2] == (0, "wrote page.html\n")
    assert not Path("run/report.html").exists()


def test_weights_are_not_chosen_for_a_comparison(ask: Ask) -> None:
    """Its report loads none, so that the flag would do nothing."""
    for flag in (("--checkpoint", "latest"), ("--checkpoint", "best"), ("--device", "cpu")):
        code, out, err = ask("c", *flag)
        assert (code, out) == (2, "")
        assert f"{' '.join(flag)} was given, but c holds a comparison" in err
    assert not Path("c/report.html").exists()
    for which in ("best", "latest"):
        assert ask("run", "--checkpoint", which)[0] == 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("nowhere",), "There is no run at nowhere"),
        ((".",), "There is no run at ."),
        (("run", "--out", "c"), "c is a folder"),
        (("run", "--out", "no/page.html"), "there is no folder no"),
        (("run", "--otu", "x"), "There is no flag --otu"),
        ((), "RUN is missing"),
    ],
)
def test_a_mistake_is_a_sentence(argv: tuple[str, ...], words: str, ask: Ask, here: Path) -> None:
    before = names(here)
    code, out, err = ask(*argv)
    assert (code, out) == (2, "") and words in err and "Traceback" not in err
    assert names(here) == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run/evaluation.json", "{"),
        ("run/doctor.json", "[]"),
        ("run/metrics.jsonl", "?\n"),
        ("run/config.json", "{}"),
        ("c/compare.json", "{"),
        ("c/values.safetensors", ""),
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_written(name: str, text: str, ask: Ask, here: Path) -> None:
    Path(name).write_text(text)
    before = names(here)
    code, out, err = ask(name.partition("/")[0])
    assert (code, out) == (2, "") and "Traceback" not in err
    assert Path(name).name in err or "cannot be read" in err
    assert names(here) == before


@pytest.mark.parametrize(("part", "key"), [("yardstick", "k"), ("budget", "of")])
def test_a_comparison_that_lacks_a_key(part: str, key: str, ask: Ask) -> None:
    content = json.loads(Path("c/compare.json").read_text())
    del content[part][key]
    Path("c/compare.json").write_text(json.dumps(content))
    code, _, err = ask("c")
    assert code == 2 and f"lacks {key} in its {part}" in err


# --- comparisons -------------------------------------------------------------------------------------------------


def test_a_comparison_has_a_report(ask: Ask) -> None:
    assert ask("c") == (0, "wrote c/report.html\n", "")
    text = Path("c/report.html").read_text(encoding="utf-8")
    assert "<h1>c</h1>" in text and HOSTILE not in text and HOSTILE in unescape(text)
    assert "wild failed: At step" in text


def test_a_comparison_from_python() -> None:
    found = Comparison.read(Path("c"))
    assert er.report(found) == er.report("c") == Path("c/report.html")


def test_its_numbers_are_those_of_the_comparison() -> None:
    found = Comparison.read(Path("c"))
    report = report_of_comparison(found)
    best, second = found.standings()[:2]
    assert best.value is not None and best.stderr is not None and second.difference is not None
    assert report.headline.value == f"{best.value:.2f} ± {best.stderr:.2f}".replace("-", "−")
    assert f" by {-second.difference:.2f}" in report.headline.details[1]
    tables = [block for block in report.blocks() if isinstance(block, Table)]
    standings = {row[0]: row for row in tables[0].groups[0].rows}
    assert standings[best.recipe][5] == "best" and standings["wild"][2] == "failed"
    course = {row[0]: row for row in tables[2].groups[0].rows}
    for recipe in (best.recipe, second.recipe):
        shown = [row.value for row in found.curve(recipe, "test")]
        assert list(course[recipe][1:]) == [f"{value:.2f}".replace("-", "−") for value in shown]
    settings = {row[0]: row[1:] for row in tables[4].groups[0].rows}
    assert settings["train.learner"] == ("aevb", "wake-sleep", "aevb")
    assert "train.decoder_gradients" not in settings
    (picture,) = (block for block in report.blocks() if isinstance(block, Figure))
    assert report.headline.value in picture.alt


def test_its_command_repeats_it(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = report_of_comparison(Comparison.read(Path("c"))).blocks()
    lines = next(block for block in blocks if isinstance(block, Commands))
    program, *tokens = shlex.split(lines.lines[0])
    before = Path("c/compare.json").read_text()
    assert program == "elbowroom"
    main(tokens)  # it goes on where it stopped, which is refused if anything were different
    capsys.readouterr()
    after = json.loads(Path("c/compare.json").read_text())
    assert after["rows"] == json.loads(before)["rows"]


def test_nothing_but_failures() -> None:
    report = report_of_comparison(Comparison.read(Path("failed")))
    assert report.headline.value == "not measured" and report.headline.tone == "warning"
    assert er.report("failed").is_file()
