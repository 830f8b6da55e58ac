"""Reports of real, small runs: of every kind of data, with all measured and with nothing, whole and damaged."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

import elbowroom as er
from elbowroom.data.sources import BUILT_IN
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.doctor.diagnose import Diagnosis
from elbowroom.evaluation.doctor.findings import Evidence, Finding
from elbowroom.evaluation.results import Result
from elbowroom.running.diagnosis import Checkup
from elbowroom.running.observers import Silent
from elbowroom.running.runs import Run, load
from elbowroom.showing import gallery
from elbowroom.showing.figures import style
from elbowroom.showing.figures.style import new_figure, number, png
from elbowroom.showing.report import figures, writing
from elbowroom.showing.report.blocks import FactSheet, Figure, Problem, Prose, Report
from elbowroom.showing.report.run import doctor_findings, report_of_run

_draw = style._save  # before pictures are left blank

SMALL = {"encoder": {"hidden": [8]}, "decoder": {"hidden": [8]}}
LIMIT = 5_000_000


class Endless(IterableDataset[Tensor]):
    """The same rows over and over."""

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            yield from torch.randn(50, 4, generator=torch.Generator().manual_seed(0))


def fit(folder: Path, values: Any, *, latent_dim: int = 3, train: dict[str, Any] | None = None, **rest: Any) -> Run:
    model = SMALL | {"latent_dim": latent_dim} | rest.pop("model", {})
    length = train or {"epochs": 2, "batch_size": 64}
    run: Run = er.train(values, out=folder, model=model, observers=[Silent()], announce=nobody, train=length, **rest)
    return run


def nobody(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, _lonely_machine: None) -> Path:
    """A folder of runs, one of each kind; that of the digits is measured in every way."""
    folder, rng = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    digits = fit(folder / "digits", "digits", latent_dim=2)
    digits.evaluate(
        "elbo", "iwae", "active-units", "k-curve", "ais", "bdmc", points=20, k=8, simulated=20, temperatures=2
    )
    digits.evaluate("room", points=20, k=8)
    er.doctor(digits, points=60)
    fit(folder / "bare", "digits")
    fit(folder / "grey", "digits", data={"binarization": "none"}, model={"likelihood": "cross-entropy"})
    fit(folder / "labels", "digits", data={"context": "labels"})
    fit(folder / "naive", "digits", train={"learner": "naive", "steps": 3}, objective={"num_samples": 4})
    np.save(folder / "own.npy", rng.normal(size=(80, 3)).astype(np.float32))
    fit(folder / "table", str(folder / "own.npy"))
    fit(folder / "python", rng.integers(0, 2, (90, 5)))
    fit(folder / "stream", DataLoader(Endless(), batch_size=10), train={"steps": 4})
    return folder


@pytest.fixture(scope="module")
def drawn(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, bytes]:
    """The report of the digits, with all its pictures, which are drawn, and its page."""
    reports: list[Report] = []

    def watched(run: Run) -> Report:
        reports.append(report_of_run(run))
        return reports[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "_save", _draw)
        patch.setattr(writing, "report_of_run", watched)
        path = er.report(runs / "digits", tmp_path_factory.mktemp("page") / "page.html")
    return reports[0], path.read_bytes()


@pytest.fixture
def whole(drawn: tuple[Report, bytes]) -> Report:
    return drawn[0]


@pytest.fixture
def page(drawn: tuple[Report, bytes]) -> bytes:
    return drawn[1]


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Path:
    shutil.copytree(runs / "digits", tmp_path / "digits")
    return tmp_path / "digits"


@pytest.fixture
def plain(runs: Path, tmp_path: Path) -> Path:
    """A copy of the run of the digits whose data cannot be read again, so that nothing but its curves is drawn."""
    shutil.copytree(runs / "python", tmp_path / "plain")
    for name in ("doctor.json", "evaluation.json"):
        shutil.copy(runs / "digits" / name, tmp_path / "plain")
    return tmp_path / "plain"


def prose(report: Report) -> str:
    return " ".join(block.text for block in report.blocks() if isinstance(block, Prose))


KINDS = ["bare", "grey", "labels", "naive", "table", "python", "stream"]
DRAWN = ["grey"]  # the largest pictures of all


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_run_has_a_report(name: str, runs: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if name in DRAWN:
        request.getfixturevalue("real_pictures")
    check_page(name, er.report(runs / name, tmp_path / "page.html").read_bytes())
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def check_page(name: str, page: bytes) -> None:
    text = page.decode()
    assert text.startswith("<!doctype html>") and text.rstrip().endswith("</html>")
    assert len(page) < LIMIT
    assert f"<h1>{name}</h1>" in text
    assert "None" not in unescape(re.sub(r'src="data:[^"]*"|<style>.*?</style>', "", text, flags=re.DOTALL))


def test_everything_is_there(whole: Report) -> None:
    assert [section.slug for section in whole.sections] == [
        "trained", "curves", "samples", "reconstructions", "latents", "evaluation", "room", "doctor", "repeat",
    ]  # fmt: skip
    pictures = [block for block in whole.blocks() if isinstance(block, Figure)]
    assert len(pictures) == 10  # curves, samples, nearest, reconstructions, scatter, plane, traversals, bounds, k, room
    assert all(picture.alt and picture.caption and picture.image for picture in pictures)
    assert not [block for block in whole.blocks() if isinstance(block, Prose) and block.tone == "missing"]
    assert whole.headline.tone == "plain"


def test_every_number_of_the_results_is_on_the_page(runs: Path, page: bytes) -> None:
    text = unescape(page.decode())
    cells = re.findall(r'<td class="number">([^<]*)</td>', text)
    results = json.loads((runs / "digits" / "evaluation.json").read_text())["results"]
    assert len(results) > 15
    for result in results:
        spec = ".0f" if result["unit"] == "units" else ".3f"
        assert number(result["value"], spec) in cells, result["name"]
        if result["stderr"] is not None:
            assert number(result["stderr"], ".3f") in cells, result["name"]


def test_the_same_run_gives_the_same_file(runs: Path, page: bytes, tmp_path: Path) -> None:
    """Pictures are blank here: that they are the same when they are drawn again is seen below."""
    one, two = (er.report(load(runs / "digits"), tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert one == two
    check_page("digits", page)


def test_it_stands_in_the_folder_and_touches_nothing_else(runs: Path, tmp_path: Path) -> None:
    copied = tmp_path / "table"
    shutil.copytree(runs / "table", copied)
    (copied / "figures").mkdir(exist_ok=True)
    (copied / "figures" / "samples.png").write_bytes(b"the user's own")

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in copied.rglob("*") if path.is_file() and path.name != "report.html"}

    before = content()
    assert er.report(copied) == er.report(load(copied)) == copied / "report.html"
    assert content() == before
    assert (copied / "figures" / "samples.png").read_bytes() == b"the user's own"


def test_what_was_not_measured_is_named_with_its_command(runs: Path) -> None:
    report = report_of_run(load(runs / "bare"))
    said, place = prose(report), runs / "bare"
    for ask in (f"evaluate {place}`", f"evaluate {place} --methods room`", f"doctor {place}`"):
        assert f"`elbowroom {ask}" in said
    assert report.headline.tone == "warning" and "unknown amount" in report.headline.details[1]


def test_who_made_the_data_is_named(runs: Path) -> None:
    sheets = [block for block in report_of_run(load(runs / "bare")).blocks() if isinstance(block, FactSheet)]
    assert dict(sheets[0].groups[0].rows)["credits"] == f"{BUILT_IN['digits'].citation} (CC BY 4.0)"


def test_what_is_no_likelihood_says_so(runs: Path) -> None:
    report = report_of_run(load(runs / "grey"))
    assert report.headline.label == "Not a log-likelihood"
    assert "in place of a likelihood" in report.lead
    curves = next(block for block in report.blocks() if isinstance(block, Figure))
    assert "not a log-likelihood" in curves.alt


def test_without_a_guide_there_are_no_reconstructions(runs: Path) -> None:
    report = report_of_run(load(runs / "naive"))
    said = prose(report)
    assert "Reconstructions are not shown." in said and "trained without" in said
    assert len([block for block in report.blocks() if isinstance(block, Figure)]) == 3  # curves, samples, nearest
    assert report.headline.label == "log mean over the prior"


@pytest.mark.parametrize(("name", "why"), [("python", "given in Python"), ("stream", "given in Python")])
def test_data_that_are_not_kept_are_missed(name: str, why: str, runs: Path) -> None:
    said = prose(report_of_run(load(runs / name)))
    assert "Reconstructions are not shown." in said and why in said
    assert "er.train(data, config=" in said


def test_data_that_are_gone_are_missed(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "table", tmp_path / "table")
    np.save(tmp_path / "own.npy", np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32))
    content = json.loads((tmp_path / "table" / "config.json").read_text())
    for name in ("gone.npy", "own.npy"):  # one that is not there, and one that has changed
        content["config"]["data"]["name"] = str(tmp_path / name)
        np.save(tmp_path / "own.npy", np.ones((80, 3), dtype=np.float32) * np.arange(80, dtype=np.float32)[:, None])
        (tmp_path / "table" / "config.json").write_text(json.dumps(content))
        said = prose(report_of_run(load(tmp_path / "table")))
        for what in ("Samples", "Reconstructions", "Encoded examples"):
            assert f"{what} are not shown." in said


def test_python_data_can_be_given_again(runs: Path, tmp_path: Path) -> None:
    data = np.random.default_rng(0)
    data.normal(size=(80, 3))
    run = load(runs / "python", data=data.integers(0, 2, (90, 5)))
    assert "not shown" not in er.report(run, tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("real_pictures")
def test_pictures_too_heavy_for_a_page_become_lighter(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a sixteenth of the sizes, for a page that may have a sixteenth of its weight."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 650, 3), dtype=np.uint8)
    drawing = new_figure(3.25, 1.5, layout=None, dpi=200)
    drawing.figimage(noise / 255)
    limit = LIMIT / 16
    assert len(png(drawing)) > 5 * limit / 3
    monkeypatch.setattr(figures, "_MAX_SHEET_BYTES", figures._MAX_SHEET_BYTES // 16)
    shown = figures.sheet(drawing, alt="noise", caption="noise")
    assert len(shown.image) < limit / 5 and shown.image[:2] == b"\xff\xd8"
    assert (shown.width, shown.height) == (390, 180)


@pytest.mark.usefixtures("real_pictures")
def test_the_page_shows_the_figures_that_files_hold(runs: Path, whole: Report) -> None:
    run = load(runs / "digits")
    page = {block.image for block in whole.blocks() if isinstance(block, Figure)}
    kept = json.loads((runs / "digits" / "evaluation.json").read_text())["results"]
    results = [Result(**{key: row[key] for key in Result.model_fields}) for row in kept if row["method"] == "room"]
    for drawing in (gallery.curves(run), gallery.latents(run.encode()), gallery.room(run, results)):
        assert png(drawing, 216) in page  # finer, for a screen, but the same
    for drawing in (gallery.samples(run), gallery.reconstructions(run), gallery.manifold(run), gallery.traversals(run)):
        assert png(drawing) in page


DAMAGES = {
    "evaluation.json": '{"results": [{"name": 3}]}',
    "doctor.json": "{}",
    "metrics.jsonl": "<html>\n",
    "config.json": "{",
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_stops_the_report(name: str, copied: Path) -> None:
    (copied / name).write_text(DAMAGES[name])
    with pytest.raises(ElbowroomError, match=re.escape(name)):
        er.report(copied)
    assert not (copied / "report.html").exists()


def test_a_page_that_cannot_be_written_leaves_the_old_one(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (plain / "report.html").write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ElbowroomError, match="No space left"):
        er.report(plain)
    assert (plain / "report.html").read_text() == "old"
    assert not list(plain.glob(".report*"))


def test_a_diagnosis_of_other_weights_is_called_that(runs: Path, plain: Path) -> None:
    path, step = plain / "doctor.json", load(plain).step
    content = json.loads(path.read_text())
    assert content["step"] == load(runs / "digits").step
    (plain / "evaluation.json").unlink()
    path.write_text(json.dumps(content | {"step": step}))
    fresh = report_of_run(load(plain))
    assert "by now" not in prose(fresh)
    assert [tile.note for tile in fresh.tiles if tile.label == "the doctor"] == ["10 checks"]
    path.write_text(json.dumps(content | {"step": 1}))
    stale = report_of_run(load(plain))
    assert f"checkpoint of step 1; the run's present one is of step {step:,}: `elbowroom doctor {plain}`" in prose(
        stale
    )
    assert [tile.note for tile in stale.tiles if tile.label == "the doctor"] == ["10 checks, checkpoint of step 1"]
    del content["step"]  # version 0.1.0
    path.write_text(json.dumps(content))
    unknown = report_of_run(load(plain))
    assert "does not say which checkpoint was examined" in prose(unknown)
    assert [tile.note for tile in unknown.tiles if tile.label == "the doctor"] == ["10 checks"]


def test_half_a_character_spoils_no_page(plain: Path) -> None:
    """JSON can say what no file of text can hold."""
    text = (plain / "doctor.json").read_text().replace('"title": "', '"title": "\\ud800')
    (plain / "doctor.json").write_text(text)
    assert "<h3>?" in er.report(plain).read_text(encoding="utf-8")


def test_results_that_are_not_finite_are_shown(plain: Path) -> None:
    path = plain / "evaluation.json"
    content = json.loads(path.read_text())
    content["results"] = [row | {"value": math.nan, "stderr": math.inf} for row in content["results"]]
    path.write_text(json.dumps(content))
    report = report_of_run(load(plain))
    assert "not finite" in er.report(plain).read_text(encoding="utf-8")
    assert report.headline.tone == "warning"


def test_the_doctors_words_are_his_own() -> None:
    evidence = (Evidence("gain", -3.4868, 0.0535), Evidence("broken", math.nan), Evidence("of", 20, None, "of 20"))
    finding = Finding("holes", "severe", "Holes.", evidence, "Why.", "Do `this`.")
    verdict, problem, rest = doctor_findings(
        Checkup(Diagnosis((finding,), {"sound": "No data."}, {}), 10), Path("x"), 10
    )
    assert verdict == Prose("1 severe finding.")
    numbers = (("gain", "−3.487 ± 0.053 nats"), ("broken", "not finite nats"), ("of", "20 of 20"))
    assert problem == Problem("severe", "Holes.", numbers, "Why.", "Do `this`.")
    assert isinstance(rest, Prose) and rest.text == "Not examined. sound: No data."


def test_findings_on_other_data_say_so() -> None:
    checkup = Checkup(Diagnosis((), {}, {}), step=10, data="others.npy")
    _, other = doctor_findings(checkup, Path("runs/x"), 10)
    assert isinstance(other, Prose) and "others.npy" in other.text and other.tone == "warning"


def test_a_run_without_a_diagnosis_names_the_command() -> None:
    (said,) = doctor_findings(None, Path("runs/x"), 10)
    assert isinstance(said, Prose) and said.tone == "missing" and "`elbowroom doctor runs/x`" in said.text
