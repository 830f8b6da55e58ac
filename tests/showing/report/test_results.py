"""What a report says that a run is worth: the right figure first, no number lost, and what is unknown said to be."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.doctor.diagnose import Diagnosis
from elbowroom.evaluation.doctor.findings import Finding
from elbowroom.evaluation.results import Result
from elbowroom.evaluation.settings import Settings
from elbowroom.running.diagnosis import Checkup
from elbowroom.running.folder import RunFolder
from elbowroom.running.runs import Run
from elbowroom.showing import plots
from elbowroom.showing.figures.style import number
from elbowroom.showing.report.blocks import Figure, Prose, Table
from elbowroom.showing.report.records import (
    StoredResult,
    StoredResults,
    read_history,
    read_results,
)
from elbowroom.showing.report.results import evaluation, headline, room, tiles

PROTOCOL = {"dataset": "mnist", "binarization": "dynamic", "seed": 0, "sha256": "0" * 64}
ANNEALED = {"start": "laplace", "climbs": 1, "temperatures": None, "schedule": "linear", "tolerance": 0.1,
            "used_temperatures": 1, "used_chains": 100, "ended_by": "tolerance", "search_gap": 0.05,
            "search_gap_stderr": 0.01, "evaluations": 272.7, "low_ess": 0.07, "median_ess": 22.0}  # fmt: skip
FINER = ANNEALED | {"tolerance": 0.02, "used_temperatures": 16, "used_chains": 32, "low_ess": 0.0}
ROOM = {"seed": 0}
HISTORY = [
    {"step": 5, "epoch": 1.0, "seconds": 2.0, "split": "train", "elbo": -120.0},
    {"step": 5, "epoch": 1.0, "seconds": 2.0, "split": "validation", "elbo": -118.25, "stderr": 0.5},
    {"step": 10, "epoch": 2.0, "seconds": 4.0, "split": "train", "elbo": -110.0},
    {"step": 10, "epoch": 2.0, "seconds": 4.0, "split": "validation", "elbo": -119.5, "stderr": 0.5},
]


METHODS = {"reconstruction": "elbo", "kl": "elbo", "elbow room": "iwae", "active units": "active-units",
           "bdmc lower": "bdmc", "bdmc upper": "bdmc", "bdmc gap": "bdmc"}  # fmt: skip


def of(name: str, value: float, stderr: float | None = 0.25, *, step: int | None = 10, **rest: Any) -> StoredResult:
    given: dict[str, Any] = {"unit": "nats", "points": 1000, "split": "test", "bound": "lower"}
    told, method = rest.pop("told", {}), rest.pop("method", METHODS.get(name, name.partition(" (")[0]))
    given["asked"] = {key: value for key, value in told.items() if key in Settings.model_fields}
    given["found"] = {key: value for key, value in told.items() if key not in Settings.model_fields}
    given["method"] = method
    return StoredResult(Result(name=name, value=value, stderr=stderr, protocol=PROTOCOL, **(given | rest)), step)


def found(*all_: StoredResult) -> StoredResults:
    return StoredResults(all_, "mnist", "dynamic", 10)


def run(*, normalized: bool = True, has_guide: bool = True, step: int = 10) -> Run:
    """What the words are made from."""
    stub = SimpleNamespace(
        normalized=normalized,
        has_guide=has_guide,
        step=step,
        folder=SimpleNamespace(path=Path("runs/x")),
        is_beside_best=False,
    )
    return cast(Run, stub)


def annealed(value: float, points: int, told: dict[str, Any], gap: float) -> list[StoredResult]:
    return [
        of("ais", value, 0.236, points=points, told=told),
        of("bdmc lower", -108.5, split="simulated", told=told),
        of("bdmc upper", -108.4, split="simulated", bound="upper", told=told),
        of("bdmc gap", gap, 0.011, split="simulated", bound=None, told=told),
    ]


# --- the headline ------------------------------------------------------------------------------------------------


def test_the_tightest_bound_on_most_data_comes_first_with_its_own_gap() -> None:
    few = annealed(-80.0, 500, ANNEALED | {"used_chains": 400}, 0.5)
    before = of("bdmc gap", 0.033, 0.02, split="simulated", points=50, bound=None, told=FINER)
    known = found(of("elbo", -94.9), *few, before, *annealed(-91.346, 10_000, FINER, 0.015),
                  *annealed(-91.375, 10_000, ANNEALED, 0.083), of("iwae", -70.0, told={"k": 5000}))  # fmt: skip
    said = headline(run(), known, HISTORY)
    assert (said.label, said.value, said.unit) == ("log p(x) ≥", "−91.35 ± 0.24", "nats per example")
    assert said.tone == "plain"
    text = " ".join(said.details)
    assert "AIS" in text and "16 temperatures × 32 chains" in text and "10,000 test examples of mnist" in text
    assert "dynamic binarization, seed 0" in text
    assert "log p(x) may be higher than this figure by up to 0.015 ± 0.011 nats" in text and "0.083" not in text


def test_a_gap_of_another_precision_is_not_quoted() -> None:
    rounded = ANNEALED | {"precision": "bf16"}
    (ais, *_), (_, *sandwich) = annealed(-109.0, 1000, rounded, 0.05), annealed(-109.0, 1000, ANNEALED, 0.05)
    assert found(ais, *sandwich).gap_of(ais) is None
    whole = found(*annealed(-109.0, 1000, rounded, 0.07), *sandwich)
    gap = whole.gap_of(ais)
    assert gap is not None and gap.value == 0.07


def test_without_a_gap_it_is_said_how_to_get_one() -> None:
    said = " ".join(headline(run(), found(of("iwae", -87.02, told={"k": 5000})), HISTORY).details)
    assert "Importance-weighted bound (IWAE), k = 5,000." in said
    assert "not known: `elbowroom evaluate runs/x --methods ais,bdmc`" in said


def test_an_elbo_alone_is_a_bound_with_an_unknown_room() -> None:
    said = headline(run(), found(of("elbo", -93.18, 0.27)), HISTORY)
    assert said.value == "−93.18 ± 0.27"
    assert "elbow room" in " ".join(said.details) and "has not been measured" in " ".join(said.details)


def test_with_nothing_measured_training_is_asked() -> None:
    """The best weights need not be the last ones."""
    said = headline(run(step=5), found(), HISTORY)
    assert said.value == "−118.25 ± 0.50"
    assert said.tone == "warning"
    assert "ELBO on validation data, as reported during training" in said.details[0]
    assert "unknown amount" in said.details[1] and "`elbowroom evaluate runs/x`" in said.details[1]
    assert headline(run(), found(), HISTORY[:1]).value == "−120.00"
    assert headline(run(), found(), []).value == "not measured"


@pytest.mark.parametrize(
    "never",
    [
        of("bdmc gap", 0.03, bound="upper", split="simulated"),
        of("bdmc lower", -1.0, split="simulated"),
        of("iwae, bits per dimension", 3.0, unit="bits/dim", bound="upper"),
        of("elbow room", 5.0),
        of("ais", math.nan),
        of("kl", 25.0, bound=None),
    ],
    ids=lambda one: one.result.name,
)
def test_what_is_no_bound_on_these_data_is_never_the_headline(never: StoredResult) -> None:
    assert headline(run(), found(never, of("elbo", -93.18)), HISTORY).value == "−93.18 ± 0.25"


def test_results_of_other_weights_come_last_and_are_named() -> None:
    old = of("ais", -80.0, step=3, told=ANNEALED)
    assert headline(run(), found(old, of("elbo", -93.0)), HISTORY).value.startswith("−93.00")
    said = headline(run(), found(old), HISTORY)
    assert said.value.startswith("−80.00") and "checkpoint of step 3" in " ".join(said.details)
    assert headline(run(), found(of("ais", -80.0, step=None, told=ANNEALED)), HISTORY).value.startswith("−80.00")


def test_results_on_other_data_come_last_and_are_named() -> None:
    other = StoredResult(of("ais", -8.0).result.model_copy(update={"protocol": PROTOCOL | {"dataset": "noise"}}), 10)
    assert headline(run(), found(other, of("elbo", -93.0)), HISTORY).value.startswith("−93.00")
    said = " ".join(headline(run(), found(other), HISTORY).details)
    assert "of noise" in said and "another data set" in said


def test_training_data_give_way_to_test_data() -> None:
    known = found(of("ais", -80.0, split="train", points=9000), of("elbo", -93.0))
    assert headline(run(), known, HISTORY).value.startswith("−93.00")


def test_what_is_no_likelihood_says_so_first() -> None:
    name = "elbo (cross-entropy: not a log-likelihood)"
    for known in (found(of(name, -106.3, bound=None)), found()):
        said = headline(run(normalized=False), known, HISTORY)
        assert said.label == "Not a log-likelihood" and said.tone == "warning"
        assert "cross-entropy" in said.unit and "log p(x) does not exist" in " ".join(said.details)
        assert "`elbowroom doctor runs/x` says what to do" in said.details[-1]
    assert said.value == "−119.50 ± 0.50"
    assert headline(run(normalized=False), found(of(name, -106.3, bound=None)), []).value == "−106.30 ± 0.25"


def test_heavy_tails_are_said() -> None:
    said = headline(run(), found(of("iwae", -87.0, told={"k": 5000, "unreliable": 0.4})), HISTORY)
    assert "Pareto k̂ is too high for 40% of the examples" in " ".join(said.details)


def test_the_figures_beside_it() -> None:
    active = of("active units", 19.0, None, unit="units", bound=None, told={"of": 20})
    known = found(of("ais", -87.0), of("elbo", -93.18), of("elbow room", 5.25, 0.13, method="room", told=ROOM), active,
                  of("amortisation gap", 2.95, 0.12, bound=None, method="room", told=ROOM))  # fmt: skip
    diagnosis = Diagnosis((Finding("holes", "warning", "Holes.", (), "", ""),), {}, {"holes": 1.0})
    shown = {tile.label: (tile.value, tile.note) for tile in tiles(run(), known, HISTORY, Checkup(diagnosis, 10))}
    assert shown == {
        "ELBO": ("−93.18 ± 0.25", "1,000 test examples"),
        "elbow room": ("≥ 5.25 ± 0.13", "amortisation gap 2.95 ± 0.12; 1,000 test examples"),
        "active units": ("19 of 20", "1,000 test examples"),
        "the doctor": ("1 warning", "1 check"),
        "trained for": ("4.0 s", "2 epochs, 10 steps"),
    }
    assert tiles(run(), found(), [], None) == []


def test_a_sum_over_all_codes_is_no_bound() -> None:
    """It comes before any bound on the same data, and log p(x) cannot be higher."""
    log_p = of("log p(x)", -83.2, 0.3, bound="exact", method="enumerate", told={"codes": 4096})
    room = of("elbow room", 4.1, 0.05, bound="exact", method="enumerate")
    elbo = of("elbo", -87.3, method="enumerate")
    used = of("codes used", 380.0, None, unit="units", bound=None, method="codes", told={"of": 384, "fewest": 14})
    known = found(of("iwae", -83.1, method="codes", told={"k": 5000}), log_p, elbo, room, used,
                  of("elbow room", 3.9, method="codes", told={"k": 5000}),
                  of("perplexity", 11.3, 0.05, unit="codes", bound=None, method="codes", told={"of": 16}))  # fmt: skip
    said = headline(run(), known, HISTORY)
    assert (said.label, said.value) == ("log p(x) =", "−83.20 ± 0.30")
    assert said.details == ("Sum over all 4,096 codes, without draws. 1,000 test examples of mnist, dynamic "
                            "binarization, seed 0.",)  # fmt: skip
    shown = {tile.label: tile.value for tile in tiles(run(), known, [], None)}
    assert (shown["elbow room"], shown["codes used"]) == ("4.10 ± 0.05", "380 of 384")
    figure, table = evaluation(run(), known)[:2]
    assert isinstance(figure, Figure) and "log p(x) −83.20 ± 0.30" in figure.alt
    assert isinstance(table, Table)
    rows = {row[0]: row for group in table.groups for row in group.rows}
    assert rows["log p(x)"][5:] == ("exact", "sum over all 4,096 codes")
    assert rows["perplexity"][1:4] == ("11.300", "0.050", "of 16 codes")
    assert rows["codes used"][1:4] + rows["codes used"][6:] == ("380", "", "of 384", "14 in the slot that uses fewest")
    only_elbo = headline(run(), found(elbo), HISTORY)
    assert (only_elbo.label, "elbow room" in " ".join(only_elbo.details)) == ("log p(x) ≥", True)


# --- the table, the curve, the room ------------------------------------------------------------------------------

EVERYTHING = found(
    of("elbo", -93.1234), of("reconstruction", -67.6, bound=None), of("kl", 25.5234, bound=None),
    of("iwae", -87.0156, 0.2611, told={"k": 5000, "median_ess": 31.0}),
    of("elbow room", 6.1078, told={"k": 5000}),
    of("active units", 20.0, None, unit="units", bound=None, told={"of": 32, "threshold": 0.01}),
    *annealed(-86.1112, 10_000, FINER, 0.0123),
    *(of("k-curve", -90.0 + place, 0.4, points=200, told={"k": 10**place}) for place in range(4)),
    of("elbo", -94.951, points=200, method="room", told=ROOM),
    of("elbo of q*", -91.998, points=200, method="room", told=ROOM),
    of("log p(x)", -89.697, points=200, method="room", told=ROOM | {"k": 500}),
    of("amortisation gap", 2.953, 0.124, bound=None, points=200, method="room", told=ROOM),
    of("approximation gap", 2.301, 0.031, bound=None, points=200, method="room", told=ROOM | {"k": 500}),
    of("elbow room", 5.254, 0.125, points=200, method="room", told=ROOM | {"k": 500}),
    of("ais", -80.5, step=3), of("elbo", math.inf),
)  # fmt: skip


def test_no_number_is_lost_or_changed() -> None:
    table = next(block for block in evaluation(run(), EVERYTHING) if isinstance(block, Table))
    rows = [row for group in table.groups for row in group.rows]
    assert len(rows) == len(EVERYTHING.all)
    shown = sorted(row[1:3] for row in rows)
    wanted = sorted(
        ("20", "") if one.result.unit == "units"
        else ("not finite" if math.isinf(one.result.value) else number(one.result.value, ".3f"),
              "" if one.result.stderr is None else number(one.result.stderr, ".3f"))
        for one in EVERYTHING.all
    )  # fmt: skip
    assert shown == wanted
    unsure = "not distinguishable from 0"  # a gap of 0.012 ± 0.011
    assert {row[5] for row in rows} == {"lower", "upper", "", unsure}
    assert any("1,000" in row[4] for row in rows) and any("10,000" in row[4] for row in rows)


def test_results_stand_under_their_data_and_protocol() -> None:
    table = next(block for block in evaluation(run(), EVERYTHING) if isinstance(block, Table))
    titles = [group.title for group in table.groups]
    assert titles[0] == "test data · mnist · dynamic binarization, seed 0"
    assert titles[1] == "data simulated from the model · dynamic binarization, seed 0"
    assert titles[2] is not None and "checkpoint of step 3, the run's present one is of step 10" in titles[2]


def test_the_figure_of_bounds_says_its_numbers() -> None:
    figures = [block for block in evaluation(run(), EVERYTHING) if isinstance(block, Figure)]
    assert "ELBO −93.12 ± 0.25" in figures[0].alt and "AIS −86.11 ± 0.24" in figures[0].alt
    assert "not finite" not in figures[0].alt and "IWAE, k = 5,000 −87.02" in figures[0].alt
    assert "k = 1,000: −87.00 ± 0.40" in figures[1].alt


def test_one_bound_alone_makes_no_figure() -> None:
    assert not [block for block in evaluation(run(), found(of("ais", -87.0))) if isinstance(block, Figure)]


def test_the_room_is_divided() -> None:
    figure, table = room(run(), EVERYTHING)
    assert isinstance(figure, Figure) and isinstance(table, Table)
    assert "amortisation gap 2.95 ± 0.12" in figure.alt
    cells = {row[0]: row[1] for row in table.groups[0].rows}
    assert cells["amortisation gap"] == "2.95 ± 0.12" and cells["elbow room ≥"] == "5.25 ± 0.12"


def test_a_report_has_one_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tile, figure of bounds, figure of the parts and table: all show the room that was divided."""
    drawn: dict[str, list[str]] = {}
    for name in ("evaluation_figure", "room_figure"):
        real = getattr(plots, name)

        def spy(*values: Any, _real: Any = real, _name: str = name, **settings: Any) -> Any:
            figure = _real(*values, **settings)
            drawn[_name] = [text.get_text() for text in figure.axes[0].texts]
            return figure

        monkeypatch.setattr(plots, name, spy)
    tile = next(tile for tile in tiles(run(), EVERYTHING, HISTORY, None) if tile.label == "elbow room")
    assert (tile.value, tile.note) == ("≥ 5.25 ± 0.12", "amortisation gap 2.95 ± 0.12; 200 test examples")
    evaluation(run(), EVERYTHING)
    assert "elbow room ≥ 5.25 ± 0.12, 200 examples" in drawn["evaluation_figure"]
    _, table = room(run(), EVERYTHING)
    assert isinstance(table, Table)
    assert {row[0]: row[1] for row in table.groups[0].rows}["elbow room ≥"] == "5.25 ± 0.12"
    assert {"2.95 ± 0.12", "2.30 ± 0.03"} <= set(drawn["room_figure"])


def test_the_room_of_present_weights_comes_before_a_divided_one_of_others() -> None:
    now, old = of("elbow room", 6.0, 0.1), of("elbow room", 5.0, 0.1, step=3, method="room", told=ROOM)
    (tile,) = tiles(run(), found(old, now), [], None)
    assert (tile.value, tile.note) == ("≥ 6.00 ± 0.10", "1,000 test examples")
    (tile,) = tiles(run(), found(old), [], None)
    assert tile.value == "≥ 5.00 ± 0.10"


def test_a_room_below_zero_is_no_bound() -> None:
    noise = found(
        of("elbo", -93.0, method="room"), of("elbow room", -0.02, 0.03, method="room", told=ROOM),
        of("amortisation gap", 0.01, 0.02, bound=None, method="room", told=ROOM),
        of("approximation gap", -0.03, 0.04, bound=None, method="room", told=ROOM),
    )  # fmt: skip
    shown = {tile.label: tile for tile in tiles(run(), noise, [], None)}
    assert shown["elbow room"].value == "≥ 0"
    assert shown["elbow room"].note.startswith("measured −0.02 ± 0.03, not distinguishable from 0")
    table = next(block for block in evaluation(run(), noise) if isinstance(block, Table))
    assert {row[0]: row[5] for row in table.groups[0].rows} == {
        "ELBO": "lower",
        **dict.fromkeys(("elbow room", "amortisation gap", "approximation gap"), "not distinguishable from 0"),
    }
    figure, rows, note = room(run(), noise)
    assert isinstance(figure, Figure) and "elbow room −0.02 ± 0.03 (not distinguishable from 0)" in figure.alt
    assert isinstance(rows, Table) and rows.groups[0].rows[-1] == ("elbow room ≥", "0 (measured −0.02 ± 0.03)")
    assert isinstance(note, Prose) and "cannot be negative" in note.text


def test_a_gap_below_zero_is_not_how_much_higher_log_p_may_be() -> None:
    known = found(*annealed(-91.0, 1000, FINER, -0.004))
    said = " ".join(headline(run(), known, HISTORY).details)
    assert "may be higher" not in said
    assert "the gap between them is −0.004 ± 0.011 nats: not distinguishable from 0." in said


def test_half_a_room_is_no_room() -> None:
    (said,) = room(run(), found(of("elbow room", 5.0, method="room", told=ROOM)))
    assert isinstance(said, Prose) and "not shown" in said.text


def test_what_was_not_measured_is_one_line_with_a_command() -> None:
    for blocks, ask in (
        (evaluation(run(), found()), "elbowroom evaluate runs/x"),
        (evaluation(run(), found(of("elbo", -9.0)))[-1:], "elbowroom evaluate runs/x --methods k-curve"),
        (room(run(), found()), "elbowroom evaluate runs/x --methods room"),
    ):
        (said,) = blocks
        assert isinstance(said, Prose) and said.tone == "missing" and f"`{ask}`" in said.text
    (said,) = room(run(has_guide=False), found())
    assert isinstance(said, Prose) and "without a guide" in said.text


# --- files -------------------------------------------------------------------------------------------------------

ROW = of("elbo", -9.0).result.model_dump() | {"step": 10}


def with_file(folder: Path, name: str, content: Any) -> RunFolder:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return RunFolder(folder)


@pytest.mark.parametrize(
    "content",
    [
        '{"results": [',
        {"results": [ROW, 3]},
        {"results": 3},
        {"results": [ROW | {"value": "great"}]},
        {"results": [ROW | {"bound": "sideways"}]},
        {"results": [ROW | {"protocol": {"dataset": "x"}}]},
        {"results": [ROW | {"asked": {"k": "<b>many</b>"}}]},
        {"results": [ROW | {"asked": {"kk": 3}}]},
        {"results": [ROW | {"found": {"median_ess": "<b>many</b>"}}]},
        {"results": [ROW | {"settings": {"k": "<b>many</b>"}}]},
        {"results": [ROW | {"unit": "units"}]},
    ],
)
def test_damaged_results_are_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(ElbowroomError, match=r"evaluation\.json"):
        read_results(with_file(tmp_path, "evaluation.json", content), dataset="x", binarization="none", step=1)


@pytest.mark.parametrize("content", ["{\n{}\n", "3\n", '{"step": 1}\n'])
def test_a_damaged_history_is_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(ElbowroomError, match=r"metrics\.jsonl"):
        read_history(with_file(tmp_path, "metrics.jsonl", content))


def test_what_is_whole_is_read(tmp_path: Path) -> None:
    results = with_file(tmp_path, "evaluation.json", {"results": [ROW, {**ROW, "step": None}]})
    known = read_results(results, dataset="mnist", binarization="dynamic", step=10)
    assert [(one.result.value, one.step) for one in known.all] == [(-9.0, 10), (-9.0, None)]
    rows = "".join(json.dumps(row) + "\n" for row in HISTORY)
    assert read_history(with_file(tmp_path, "metrics.jsonl", rows + '{"cut sh')) == HISTORY
