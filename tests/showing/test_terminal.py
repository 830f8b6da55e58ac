"""What is printed: figures with their errors and units, facts, tables."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest
import torch

from elbowroom.evaluation.results import Result
from elbowroom.running.config import Config, configure
from elbowroom.samplers.kernel import Info
from elbowroom.showing import terminal

PROTOCOL = {"dataset": "digits", "binarization": "dynamic", "seed": 3, "sha256": "0" * 64}


def result(name: str, value: float, **rest: Any) -> Result:
    given: dict[str, Any] = {"stderr": 0.25, "unit": "nats", "points": 1000, "split": "test", "bound": "lower"}
    given |= {"method": name, "asked": {}, "found": {}, "protocol": PROTOCOL}
    return Result(name=name, value=value, **(given | rest))


def line_of(out: str, name: str) -> str:
    found = [line for line in out.splitlines() if line.strip().startswith(name)]
    assert len(found) == 1, out
    return " ".join(found[0].split())


def test_results_carry_error_unit_number_and_side(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_results(
        [
            result("elbo", -93.1234),
            result("iwae", -87.5, asked={"k": 5000}, points=10_000),
            result("iwae, bits per dimension", 3.14159, unit="bits/dim", bound="upper", stderr=None),
            result("kl", 25.6, bound=None),
            result("active units", 20.0, unit="units", stderr=None, bound=None, found={"of": 32}),
            result("log p(x)", -86.5, bound="exact", method="enumerate"),
            result("perplexity", 11.25, unit="codes", bound=None, found={"of": 16}, method="codes"),
        ]
    )
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "digits · test · dynamic binarization, seed 3"
    assert line_of(out, "ELBO") == "ELBO -93.123 0.250 nats 1,000 lower bound"
    assert line_of(out, "IWAE, k") == "IWAE, k = 5,000 -87.500 0.250 nats 10,000 lower bound"
    assert line_of(out, "IWAE, bits") == "IWAE, bits per dimension 3.142 bits/dim 1,000 upper bound"
    assert line_of(out, "KL") == "KL 25.600 0.250 nats 1,000"
    assert line_of(out, "active") == "active units 20 of 32 1,000"
    assert line_of(out, "log p(x)") == "log p(x) -86.500 0.250 nats 1,000 exact"
    assert line_of(out, "perplexity") == "perplexity 11.250 0.250 of 16 codes 1,000"


def test_results_without_binarization_name_no_seed(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_results([result("elbo", 1.0, protocol=PROTOCOL | {"binarization": "none"})])
    assert capsys.readouterr().out.splitlines()[0] == "digits · test · no binarization"


def test_a_room_below_zero_is_called_no_bound(capsys: pytest.CaptureFixture[str]) -> None:
    """Of any version: older ones kept it as a lower bound."""
    terminal.print_results([result("elbo", -93.0), result("elbow room", -0.02, stderr=0.03, bound="lower")])
    shown = line_of(capsys.readouterr().out, "elbow room")
    assert shown == "elbow room -0.020 0.030 nats 1,000 not distinguishable from 0"


def test_results_of_one_name_are_told_apart_by_their_method(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_results([result("elbo", -93.1), result("elbo", -93.2, method="room"), result("kl", 3.0, bound=None)])
    out = capsys.readouterr().out
    assert line_of(out, "ELBO, by elbo").startswith("ELBO, by elbo -93.100")
    assert line_of(out, "ELBO, by room").startswith("ELBO, by room -93.200")
    assert line_of(out, "KL").startswith("KL 3.000")


def test_a_table_has_a_column_for_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_table([{"run": "a", "step": 12345, "elbo": None}, {"run": "b", "step": 2, "elbo": -1.5}])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["run", "step", "elbo"], ["a", "12,345", "—"], ["b", "2", "-1.5"]]


def test_a_row_stays_on_one_line_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_table([{"name": "x" * 60, "where": "y" * 60}])
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "—"),
        (1.5, "1.5"),
        (1234.56789, "1,234.568"),
        (0.0001234, "0.0001234"),
        (2.0, "2"),
        (10_000, "10,000"),
        (True, "True"),
        ({"train": 1437, "test": 180}, "train 1,437, test 180"),
        ([200, 100], "200, 100"),
        ("learned", "learned"),
    ],
)
def test_values_in_words(value: Any, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_facts({"some_key": value})
    assert " ".join(capsys.readouterr().out.split()) == f"some key {text}"


def test_a_shape_is_written_with_crosses(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_facts({"shape": [3, 32, 32]})
    assert capsys.readouterr().out.split("shape")[1].strip() == "3 × 32 × 32"


def content(config: Config, evaluation: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "run": "runs/x",
        "step": 30,
        "config": config.model_dump(mode="json"),
        "facts": {"event_shape": [8, 8]},
        "data": PROTOCOL,
        "evaluation": evaluation,
    }


def test_a_run_shows_only_what_differs_from_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    config = configure({"model": {"latent_dim": 3, "encoder": {"hidden": [7, 5]}}, "data": {"binarization": "static"}})
    terminal.print_run(content(config, [result("elbo", -9.25).model_dump()]))
    out = capsys.readouterr().out
    settings = out.split("settings that differ from the defaults")[1].split("result")[0]
    assert [line.split() for line in settings.strip().splitlines()] == [
        ["data.binarization", "static"],
        ["model.latent_dim", "3"],
        ["model.encoder.hidden", "7,", "5"],
    ]
    assert line_of(out, "elbo") == "elbo elbo -9.25 0.25 nats test 1,000 —"
    assert "data digits" in [" ".join(line.split()) for line in out.splitlines()]


def test_a_run_tells_its_results_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """Three ELBOs of three splits, and two bounds of different draws on different checkpoints."""
    other = PROTOCOL | {"dataset": "holes.csv"}
    stored = [
        result("elbo", -9.0, points=200).model_dump() | {"step": 1500},
        result("elbo", -8.0, split="train", method="room", asked={"seed": 3}).model_dump() | {"step": 1500},
        result("elbo", -7.0, split="all", protocol=other).model_dump() | {"step": 1500},
        result("iwae", -6.0, asked={"k": 5000, "seed": 0}).model_dump() | {"step": 900},
        result("elbow room", -0.01, asked={"k": 5000, "num_samples": 1}).model_dump(),
    ]
    terminal.print_run(content(Config(), stored))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[-6:] == [
        "result method value ± s.e. unit split examples step settings",
        "elbo elbo -9 0.25 nats test 200 1,500",
        "elbo room -8 0.25 nats train 1,000 1,500 seed 3",
        "elbo elbo -7 0.25 nats all of holes.csv 1,000 1,500",
        "iwae iwae -6 0.25 nats test 1,000 900 k 5,000",
        "elbow room elbow room -0.01 0.25 nats not distinguishable from 0 test 1,000 — k 5,000",
    ]


def test_a_run_of_defaults_shows_no_settings(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_run(content(Config(), []))
    out = capsys.readouterr().out
    assert "differ" not in out
    assert "result" not in out


def test_progress_is_silent_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.progress() as announce:
        announce("elbo", 1, 2)
    said = capsys.readouterr()
    assert said.out == said.err == ""


class Screen(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_is_drawn_on_standard_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", screen)
    with terminal.progress() as announce:
        announce("elbo", 500, 1000)
        announce("elbo", 1000, 1000)
        announce("iwae", 100, 1000)
    assert "1,000/1,000 data" in screen.getvalue()
    assert "iwae" in screen.getvalue()
    assert capsys.readouterr().out == ""


def transition(acceptance: float, divergent: int) -> Info:
    """What happened to one replica of four data."""
    return Info(torch.full((1, 4), acceptance), torch.zeros(1, 4), torch.arange(4)[None] < divergent, torch.ones(1, 4))


def test_sampling_shows_acceptance_and_divergences(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal.sampling_progress() as announce:
        announce("posterior", 4, 16, transition(0.5, 1))
    assert capsys.readouterr().err == ""
    screen = Screen()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", screen)
    with terminal.sampling_progress() as announce:
        announce("posterior", 4, 16, transition(0.5, 1))
        announce("posterior", 8, 16, transition(1.0, 2))
    assert "acceptance 0.55" in screen.getvalue()  # of late: nine tenths of what it was, one tenth of what it is
    assert "3 divergences" in screen.getvalue()
    assert "50%" in screen.getvalue()
