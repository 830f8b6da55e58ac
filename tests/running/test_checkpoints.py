"""Whatever happens to the files, a reader gets the weights of some step, whole, and is told if not of the newest."""

from __future__ import annotations

import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from elbowroom.errors import ElbowroomError
from elbowroom.running import checkpoints as module
from elbowroom.running.checkpoints import Checkpoints, write_text_atomically


def _net(value: float) -> nn.Linear:
    net = nn.Linear(2, 2)
    nn.init.constant_(net.weight, value)
    nn.init.constant_(net.bias, -value)
    return net


def _save(store: Checkpoints, step: int, **settings: Any) -> Path:
    training = settings.pop("training", {"moment": torch.full((3,), float(step))})
    return store.save(step, _net(step), {"step": step, "books": {"count": step}}, training=training, **settings)


def _found(store: Checkpoints, pointer: str = "latest", **settings: Any) -> tuple[int, list[str]]:
    told: list[str] = []
    checkpoint = store.find(pointer, announce=told.append, **settings)
    net = _net(0)
    checkpoint.load_weights(net)
    step = checkpoint.state["step"]
    assert torch.equal(net.weight, torch.full((2, 2), float(step)))  # never a mixture
    return step, told


@pytest.fixture
def store(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints")


def test_what_is_saved_is_found(store: Checkpoints) -> None:
    _save(store, 3)
    assert _found(store) == (3, [])
    checkpoint = store.find("latest")
    assert checkpoint.state["books"] == {"count": 3}
    assert torch.equal(checkpoint.training()["moment"], torch.full((3,), 3.0))


def test_the_best_and_the_newest_two_are_kept(store: Checkpoints) -> None:
    for step in (10, 20, 30, 40, 50):
        _save(store, step, pointers=["latest", "best"] if step == 20 else ["latest"])
    assert {path.name for path in store.folder.iterdir()} == {"step-20", "step-40", "step-50", "latest", "best"}
    assert _found(store) == (50, [])
    assert _found(store, "best") == (20, [])


def test_weights_alone_do_not_push_out_what_training_can_go_on_from(store: Checkpoints) -> None:
    _save(store, 10)
    for step in (20, 30):
        _save(store, step - 5, training=None, pointers=["best"])
        _save(store, step)
    assert {path.name for path in store.folder.glob("step-*")} == {"step-20", "step-30", "step-25"}


def test_without_a_best_it_is_the_latest(store: Checkpoints) -> None:
    _save(store, 3)
    assert _found(store, "best") == (3, [])


def test_shared_weights_are_shared_again(store: Checkpoints) -> None:
    inner = nn.Linear(2, 2)
    store.save(1, nn.ModuleList([inner, inner]), {"step": 1})
    fresh = nn.Linear(2, 2)
    pair = nn.ModuleList([fresh, fresh])
    store.find("latest").load_weights(pair)
    assert pair[0] is pair[1]
    assert torch.equal(fresh.weight, inner.weight)


# --- damage ------------------------------------------------------------------------------------------------------

FILES = ["model.safetensors", "training.safetensors", "state.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_found_and_said(store: Checkpoints, name: str) -> None:
    """Every byte of state.json that means something, and bytes throughout the others."""
    _save(store, 1)
    _save(store, 2)
    path = store.folder / "step-2" / name
    original = path.read_bytes()
    for position in range(0, len(original), max(1, len(original) // 97)):
        flipped = bytearray(original)
        flipped[position] ^= 0x01
        path.write_bytes(bytes(flipped))
        if name == "state.json" and _means_the_same(bytes(flipped), original):
            continue
        step, told = _found(store)
        assert step == 1, f"byte {position}"
        assert len(told) == 1
        assert "step-2 is damaged" in told[0]
        assert name in told[0] or name == "state.json"  # which can misname the others
        assert "fell back to step-1" in told[0]
    path.write_bytes(original)
    assert _found(store) == (2, [])


def _means_the_same(a: bytes, b: bytes) -> bool:
    try:
        return bool(json.loads(a) == json.loads(b))
    except ValueError:
        return False


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_truncated_file_is_found(store: Checkpoints, name: str) -> None:
    _save(store, 1)
    path = _save(store, 2) / name
    path.write_bytes(path.read_bytes()[:-1] if name != "state.json" else path.read_bytes()[:-3])
    assert _found(store)[0] == 1
    path.unlink()
    step, told = _found(store)
    assert (step, "fell back" in told[0]) == (1, True)


@pytest.mark.parametrize("content", [b"step-7", b"", b"\xff\xfe\x00", b"../../step-1"], ids=repr)
def test_a_pointer_to_nothing_falls_back_to_the_newest(store: Checkpoints, content: bytes) -> None:
    for step in (1, 2):
        _save(store, step)
    (store.folder / "latest").write_bytes(content)
    step, told = _found(store)
    assert step == 2
    assert len(told) == 1
    if content == b"step-7":
        assert told == ["'step-7' is missing: fell back to step-2, the newest good checkpoint."]


def test_where_all_are_damaged_there_is_an_error_that_names_them(store: Checkpoints) -> None:
    for step in (1, 2):
        (_save(store, step) / "model.safetensors").write_bytes(b"")
    with pytest.raises(ElbowroomError, match=r"step-2 is damaged .*; step-1 is damaged"):
        store.find("latest")


def test_where_there_is_none_there_is_an_error(store: Checkpoints) -> None:
    assert not store.exist()
    with pytest.raises(ElbowroomError, match="no good checkpoint"):
        store.find("latest")


def test_training_goes_on_only_from_what_it_can(store: Checkpoints) -> None:
    _save(store, 1)
    _save(store, 2, training=None)
    assert _found(store) == (2, [])
    assert _found(store, resumable=True)[0] == 1


def test_strangers_in_the_folder_are_left_alone(store: Checkpoints) -> None:
    for name in ("step-old", "notes", "step-1x"):
        (store.folder / name).mkdir(parents=True)
    for step in (1, 2, 3, 4):
        _save(store, step)
    assert _found(store) == (4, [])
    assert {"step-old", "notes", "step-1x"} < {path.name for path in store.folder.iterdir()}


def test_weights_of_another_shape_are_refused(store: Checkpoints) -> None:
    _save(store, 1)
    with pytest.raises(ElbowroomError, match="do not fit"):
        store.find("latest").load_weights(nn.Linear(3, 2))


# --- what is not written -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["weight", "running_var"])
def test_weights_that_are_not_finite_are_never_saved(store: Checkpoints, value: float, where: str) -> None:
    good = nn.BatchNorm1d(2)
    store.save(1, good, {"step": 1})
    getattr(good, where).data[1] = value
    with pytest.raises(ElbowroomError, match=f"step 2 .*'{where}'"):
        store.save(2, good, {"step": 2})
    assert [path.name for path in store.folder.glob("*step*")] == ["step-1"]
    assert store.find("latest").state["step"] == 1


def _full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _full_in_rust(*_: Any, **__: Any) -> None:
    raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("owner", "name", "fault"),
    [
        (module, "save_model", _full_in_rust),
        (module, "save_file", _full_in_rust),
        (os, "fsync", _full),
        (Path, "mkdir", _full),
        (Path, "replace", _full),
    ],
    ids=["model", "training", "flush", "folder", "pointer"],
)
@pytest.mark.parametrize("again", [2, 1], ids=["new step", "same step"])
def test_a_full_disk_is_an_error_and_leaves_the_previous_intact(
    store: Checkpoints,
    owner: Any,
    name: str,
    fault: Callable[..., None],
    again: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _save(store, 1)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fault)
        with pytest.raises(ElbowroomError, match="full") as caught:
            _save(store, again)
    assert "--resume" in caught.value.remedy
    assert _found(store) == (1, [])
    _save(store, 3)
    assert _found(store) == (3, [])


def test_another_fault_is_not_called_a_full_disk(store: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(os, "fsync", denied)
    with pytest.raises(PermissionError):
        _save(store, 1)


def test_nothing_is_pickled(store: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("pickle")

    for name in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch, "save", refuse)
    _save(store, 1)
    assert _found(store) == (1, [])
    assert {path.suffix for path in (store.folder / "step-1").iterdir()} == {".safetensors", ".json"}


# --- settling ----------------------------------------------------------------------------------------------------


def test_a_complete_folder_that_was_not_renamed_is_finished(store: Checkpoints) -> None:
    final = _save(store, 5)
    final.rename(store.folder / ".step-5.writing")
    store.settle()
    assert _found(store) == (5, [])


def test_half_a_folder_is_cleared_away(store: Checkpoints) -> None:
    _save(store, 5)
    half = store.folder / ".step-6.writing"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    store.settle()
    assert not half.exists()
    assert _found(store) == (5, [])


def test_what_stems_from_before_a_fall_back_goes_with_the_next_save(store: Checkpoints) -> None:
    for step in (1, 2, 9):
        _save(store, step)
    (store.folder / "step-9" / "state.json").write_text("{}")
    assert _found(store, resumable=True)[0] == 2
    _save(store, 3)
    assert {path.name for path in store.folder.glob("step-*")} == {"step-2", "step-3"}
    assert _found(store) == (3, [])


# --- one file ----------------------------------------------------------------------------------------------------


def test_text_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_text_atomically(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _full)
        with pytest.raises(ElbowroomError, match=r"a\.txt could not be written"):
            write_text_atomically(path, "new and longer")
    assert path.read_text() == "old"
    write_text_atomically(path, "σ ≤ 1")
    assert path.read_text(encoding="utf-8") == "σ ≤ 1"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_tensors_come_back_in_their_own_type(store: Checkpoints) -> None:
    tensors: dict[str, Tensor] = {
        "generator": torch.Generator().manual_seed(0).get_state(),
        "step": torch.tensor(7.0),
        "double": torch.rand(3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    }
    store.save(1, _net(1), {"step": 1}, training=tensors)
    found = store.find("latest").training()
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)
