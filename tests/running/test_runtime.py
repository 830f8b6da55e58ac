"""The machine is found, or its absence is explained."""

from __future__ import annotations

import pytest
import torch

from elbowroom.errors import ElbowroomError
from elbowroom.running.config import RuntimeConfig
from elbowroom.running.runtime import (
    autocast_dtype,
    dtype_of,
    make_generator,
    pick_device,
    use_threads,
)


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert pick_device("auto").type == expected


def test_a_device_that_exists_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ElbowroomError, match="finds none"):
        pick_device("cuda:2")


@pytest.mark.parametrize(("name", "message"), [("gpu", "no device 'gpu'"), ("meta", "The device is 'meta'")])
def test_a_device_that_does_not_is_explained(name: str, message: str) -> None:
    with pytest.raises(ElbowroomError, match=message):
        pick_device(name)


def test_precision_is_what_was_asked_for() -> None:
    assert dtype_of(RuntimeConfig()) is torch.float32
    assert dtype_of(RuntimeConfig(dtype="float64")) is torch.float64
    assert autocast_dtype(RuntimeConfig()) is None
    assert autocast_dtype(RuntimeConfig(autocast="bfloat16")) is torch.bfloat16


def test_a_generator_is_a_function_of_the_seed() -> None:
    cpu = torch.device("cpu")
    draws = [torch.rand(3, generator=make_generator(cpu, seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_threads_are_set_only_if_given() -> None:
    before = torch.get_num_threads()
    try:
        use_threads(None)
        assert torch.get_num_threads() == before
        use_threads(1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
