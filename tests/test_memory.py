"""What would not fit is refused before it is made, with how much it takes and how much there is; the peak is told."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from elbowroom import memory
from elbowroom.errors import ElbowroomError


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8 GB to be had, in no container."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", meminfo)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    return tmp_path


def test_memory_that_can_be_had(machine: Path) -> None:
    assert memory.available_memory() == 8_000_000 * 1024


def test_a_containers_limit_counts(machine: Path) -> None:
    (machine / "memory.max").write_text("3000000000\n")
    (machine / "memory.current").write_text("1000000000\n")
    assert memory.available_memory() == 2_000_000_000
    (machine / "memory.stat").write_text("anon 600000000\ninactive_file 300000000\nactive_file 1\n")
    assert memory.available_memory() == 2_300_000_000  # what was read from files can be had again
    (machine / "memory.current").write_text("4000000000\n")
    assert memory.available_memory() == 0
    (machine / "memory.max").write_text("max\n")
    assert memory.available_memory() == 8_000_000 * 1024
    (machine / "memory.max").write_text("900000000000\n")
    assert memory.available_memory() == 8_000_000 * 1024


def test_a_machine_that_does_not_tell(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "meminfo").unlink()
    monkeypatch.setattr(memory.os, "sysconf_names", {})
    assert memory.available_memory() is None
    memory.require_memory(2**80, "a universe", "Make a smaller one.")  # nobody knows better


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak cannot be read without the file")
def test_the_peak_is_the_most_that_was_held(monkeypatch: pytest.MonkeyPatch) -> None:
    before = memory.peak_memory()
    assert before is not None
    held = Path("/proc/self/statm")  # where the system tells what is held now, as much more as there ever was
    now = int(held.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if held.is_file() else 0
    array = np.ones(before - now + 2**26, dtype=np.uint8)
    after = memory.peak_memory()
    assert after is not None
    assert after > before
    del array
    assert memory.peak_memory() == pytest.approx(after, rel=0.01)  # each processor counts pages on its own for a while
    monkeypatch.setattr(memory, "_STATUS", Path("missing"))  # as on a Mac, but for the unit
    told = memory.peak_memory()
    assert told is not None
    assert told >= after * 0.99  # kept apart by the system, and brought up to date at other moments


def test_a_peak_in_the_units_of_two_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(memory, "_STATUS", Path("missing"))
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=3000))
    monkeypatch.setattr(memory.sys, "platform", "linux")
    assert memory.peak_memory() == 3000 * 1024
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.peak_memory() == 3000
    monkeypatch.setitem(sys.modules, "resource", None)
    assert memory.peak_memory() is None


def test_a_gpu_s_peak_is_that_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7)
    assert memory.peak_memory(torch.device("cuda")) == 7
    assert memory.peak_memory(torch.device("cpu")) != 7


def test_this_machine() -> None:
    available = memory.available_memory()
    assert available is None or available > 2**20


def test_what_fits_and_what_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 3_000_000_000)
    memory.require_memory(3_000_000_000, "as much as there is", "Do nothing.")
    with pytest.raises(ElbowroomError, match=r"a byte too many takes 3\.0 GB of memory, but 3\.0 GB are free") as error:
        memory.require_memory(3_000_000_001, "a byte too many", "Make it smaller.")
    assert error.value.remedy == "Make it smaller."
