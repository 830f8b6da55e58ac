"""The example scripts run, and print what they say they do."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.drawn

EXAMPLES = Path(__file__).parents[1] / "examples"


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def _pyro_as_it_was() -> Iterator[None]:
    pyro = pytest.importorskip("pyro")
    with pyro.get_param_store().scope():
        yield
    pyro.distributions.enable_validation(True)


@pytest.mark.usefixtures("_pyro_as_it_was")
def test_the_tutorials_guide_is_all_nan_and_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    _script("tutorial_guide").main(["--data", "digits", "--epochs", "1"])
    out = capsys.readouterr().out
    printed, corrected = (line for line in out.splitlines() if "true bound" in line)
    for line, nans, negative in ((printed, 13, True), (corrected, 0, False)):
        assert re.search(rf"NaN losses +{nans} of 13 ", line)
        assert "weights finite: yes" in line
        assert ("negative scales   0%" in line) is not negative
    bounds = [float(re.search(r"true bound +(-\d+\.\d+)", line)[1]) for line in (printed, corrected)]  # type: ignore[index]
    assert all(-45 < bound < -20 for bound in bounds)
    assert re.search(r"elbowroom: The scale of the guide PrintedGuide is negative for \d+% of its elements", out)
    assert "torch.exp(0.5 * v)" in out


def test_the_law_of_prior_sampling_is_printed_and_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "law.png"
    _script("prior_sampling").main(["--dims", "1", "3", "6", "--out", str(picture)])
    out = capsys.readouterr().out
    assert picture.stat().st_size > 10_000
    assert re.search(r"^ +6 .*\d", out, re.MULTILINE)
    rates = {
        float(theory): float(rate) for rate, theory in re.findall(r"prior: exp\(\((\d\.\d+) .* \(theory (.*)\)", out)
    }
    assert rates.keys() == {1.0}  # a quarter of a nat per dimension has no law to show yet at 6 dimensions
    assert 0.8 < rates[1.0] < 1.2


def test_scores_of_linear_gaussian_rows_have_the_errors_that_they_state(tmp_path: Path) -> None:
    script = _script("score_calibration")
    x = script.rows(8, 3)
    run = script.trained(x, 3, tmp_path / "run")
    x = x[:300]
    exact = script.evidence(run, x)
    found = run.score(x)
    z = (found.log_evidence - exact) / found.stderr
    assert bool(found.reliable.all())
    assert 0.88 < float(z.square().mean().sqrt()) < 1.12  # 300 rows: 1 ± 0.041
    cells = [cell.strip() for cell in script.line(run, x, exact, "iwae", "8, 3").split("|")]
    assert cells[1:3] == ["8, 3", "`iwae`"]
    assert float(cells[3]) > 1.15 and int(cells[5].removesuffix("%")) > 90  # wrong errors, and marked as such


def test_the_table_of_estimators_for_codes_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    _script("code_gradients").main(["--draws", "10", "--steps", "30", "200"])
    titles, _, *lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    broad, sharp = map(float, re.findall(r"H (\d\.\d+)", titles))
    assert sharp < broad < 1.3863
    assert [row[:3] for row in rows[:2]] == [["`straight-through`", "1", "1"], ["`st-gumbel`", "1", "1"]]
    bias = {(row[0], row[1]): float(row[3]) for row in rows}
    assert bias["`reinmax`", "1"] < 0.1 < bias["`gumbel-softmax`", "1"]
    assert [row[3] for row in rows if "score" in row[0]] == ["0", "0", "0"]
    sd = {row[0]: float(row[4]) for row in rows}
    assert sd["`score-function`"] > 10 * sd["`score-function`, 2 draws"]
