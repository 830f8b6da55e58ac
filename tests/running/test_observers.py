"""What is told while training: plain lines in a log, a bar in a terminal, scalars for TensorBoard."""

from __future__ import annotations

import builtins
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from elbowroom.errors import ElbowroomError
from elbowroom.running import observers as module
from elbowroom.running.observers import Silent, TensorBoard, Terminal


def _rows(step: int, elbo: float = -3.0) -> list[dict[str, Any]]:
    head = {"step": step, "epoch": step / 4, "seconds": 1.5}
    terms = {"elbo": elbo, "reconstruction": elbo + 1, "kl": 1.0}
    return [
        head | {"split": "train"} | terms | {"lr": 1e-3, "beta": 1.0},
        head | {"split": "validation"} | terms | {"stderr": 0.1},
    ]


def _terminal(*, real: bool, normalized: bool = True) -> tuple[Terminal, io.StringIO]:
    text = io.StringIO()
    return Terminal(Console(file=text, force_terminal=real, width=200), normalized=normalized), text


def test_a_log_gets_a_line_a_report_but_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    terminal, text = _terminal(real=False)
    terminal.start(0, 40)
    for step, wait in ((4, 0.0), (8, 0.5), (12, 2.0), (40, 0.1)):
        now[0] += wait
        terminal.step()
        terminal.report(_rows(step))
    terminal.stop()
    lines = text.getvalue().splitlines()
    assert [line.split(" ·")[0] for line in lines] == ["step 4/40", "step 12/40", "step 40/40"]
    assert "train ELBO -3.00 (reconstruction -2.00, KL 1.00)" in lines[0]
    assert "validation ELBO -3.00" in lines[0]
    assert "nats per example" in lines[0]


def test_what_is_no_log_likelihood_says_so_on_every_line() -> None:
    terminal, text = _terminal(real=False, normalized=False)
    terminal.start(0, 4)
    terminal.report(_rows(4))
    assert "not a log-likelihood" in text.getvalue()
    assert "nats" not in text.getvalue()


def test_iwae_is_called_iwae() -> None:
    terminal, text = _terminal(real=False)
    terminal.start(0, 4)
    terminal.report([{"step": 4, "epoch": 1.0, "seconds": 0.1, "split": "train", "iwae": -2.5, "elbo": -3.0}])
    assert "train IWAE -2.50" in text.getvalue()


def test_a_terminal_gets_a_bar() -> None:
    terminal, text = _terminal(real=True)
    terminal.start(3, 10)
    terminal.step()
    terminal.report(_rows(4))
    terminal.stop()
    assert "4/10" in text.getvalue()
    assert "ELBO" in text.getvalue()
    terminal.stop()  # once more does no harm


def test_silence_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    silent = Silent()
    silent.start(0, 1)
    silent.step()
    silent.report(_rows(1))
    silent.stop()
    assert capsys.readouterr() == ("", "")


def test_without_tensorboard_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **settings: Any) -> Any:
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real(name, *args, **settings)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ElbowroomError, match="TensorBoard is not installed") as caught:
        TensorBoard(tmp_path)
    assert "elbowroom[tensorboard]" in caught.value.remedy


class _Writer:
    def __init__(self, folder: str, *, purge_step: int) -> None:
        self.folder, self.purge_step, self.closed = folder, purge_step, False
        self.scalars: dict[tuple[str, int], float] = {}

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars[name, step] = value

    def close(self) -> None:
        self.closed = True


def test_tensorboard_gets_every_term_and_forgets_what_is_made_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    board = TensorBoard(tmp_path)
    board._open = lambda **settings: _Writer(str(tmp_path), **settings)  # type: ignore[assignment,misc]
    board.stop()  # before the start there is nothing to close
    board.start(3, 10)
    writer = board._writer
    assert writer.purge_step == 4
    board.step()
    board.report(_rows(4, elbo=-7.0))
    board.stop()
    assert writer.scalars["elbo/train", 4] == -7.0
    assert writer.scalars["stderr/validation", 4] == 0.1
    assert not [name for name, _ in writer.scalars if name.split("/")[0] in {"step", "epoch", "seconds", "split"}]
    assert writer.closed
