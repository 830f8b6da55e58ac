"""Learners asked for by settings, and what is said of those that are refused."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from elbowroom.errors import ElbowroomError
from elbowroom.running.build_learner import RunLength, build_learner
from elbowroom.running.config import configure
from small_runs import reals

COURSE = RunLength(10, 5, torch.arange(100), Path("chains"))
STREAM = RunLength(10, None, None, Path("chains"))
needs_pyro = pytest.mark.skipif(importlib.util.find_spec("pyro") is None, reason="needs pyro")


class Stream(IterableDataset[Tensor]):
    """Rows without positions."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(reals())


def build(length: RunLength = COURSE, **sections: Any) -> Any:
    return build_learner(configure(sections), length)


def refused(attempt: Callable[[], Any]) -> ElbowroomError:
    """One sentence of what is wrong, one of the remedy."""
    with pytest.raises(ElbowroomError) as caught:
        attempt()
    error = caught.value
    for sentence in (error.problem, error.remedy):
        assert sentence.endswith(".")
        assert len(re.findall(r"[a-z)][.] [A-Z]", sentence)) == 0
    assert "\n" not in error.problem
    return error
