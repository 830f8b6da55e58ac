"""The page on memory states what was measured and whether it is what was wanted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from bench import memory


def test_rows_are_generated_a_part_at_a_time(tmp_path: Path) -> None:
    memory.generate(tmp_path / "x.npy", 60_001)
    found = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert found.shape == (60_001, 784)
    assert found.dtype == np.uint8
    assert found[-1].std() > 50


def test_the_page_names_what_is_missed() -> None:
    one = {"speed": 100.0, "seconds": 9.0, "VmHWM": 2**30, "RssAnon": 2**29, "RssFile": 2**28}
    other = one | {"speed": 70.0, "VmHWM": 1.5 * 2**30}
    page = memory.report(1_000_000, 500, [(one, other)], {"help": 0.3, "import": 0.5})
    assert "| resident above the run from memory, GiB | 0.50 | at most 1.0 | met |" in page
    assert "| speed by that from memory | 0.70 | at least 0.8 | missed |" in page
    assert "| `elbowroom --help`, seconds | 0.30 | at most 0.4 | met |" in page
    assert "| `import elbowroom` over `import torch` | 0.50 | at most 0.3 | missed |" in page
