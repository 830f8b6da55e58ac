"""Which files of a folder are read as images."""

from __future__ import annotations

from pathlib import Path

import pytest

from elbowroom.data.pictures.finding import find_images
from elbowroom.errors import ElbowroomError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(found: list[Path], top: Path) -> list[str]:
    return [path.relative_to(top).as_posix() for path in found]


def test_hidden_things_are_left_out_and_named(tmp_path: Path) -> None:
    hidden = [".ipynb_checkpoints/0.png", "a/._0.png", "a/.DS_Store", "__MACOSX/a/0.png", "b/@eaDir/0.png"]
    touch(tmp_path, "a/0.png", "b/0.png", *hidden)
    found = find_images(tmp_path)
    assert names(found.images, tmp_path) == ["a/0.png", "b/0.png"]
    assert found.remarks() == ["5 hidden files or folders were left out: .ipynb_checkpoints, __MACOSX, .DS_Store, …."]


def test_a_folder_may_itself_be_hidden(tmp_path: Path) -> None:
    touch(tmp_path / ".cache", "0.png")
    assert names(find_images(tmp_path / ".cache").images, tmp_path) == [".cache/0.png"]


def test_suffixes_of_any_case_at_any_depth(tmp_path: Path) -> None:
    touch(tmp_path, "a/b/c/0.PNG", "1.Jpeg", "2.tif", "Thumbs.db", "notes.txt", "3.heic")
    found = find_images(tmp_path)
    assert names(found.images, tmp_path) == ["1.Jpeg", "2.tif", "a/b/c/0.PNG"]
    assert found.remarks() == ["3 files were left out as no image: 3.heic, Thumbs.db, notes.txt."]


def test_links_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "0.png")
    top = tmp_path / "top"
    touch(top, "own/1.png")
    (top / "cats").symlink_to(tmp_path / "elsewhere")
    (top / "again").symlink_to(top / "own")
    (top / "own" / "back").symlink_to(top)
    (top / "own" / "self").symlink_to(top / "own" / "self")
    (top / "own" / "gone.png").symlink_to(top / "nowhere.png")
    found = find_images(top)
    assert names(found.images, top) == ["cats/0.png", "own/1.png"]
    assert names(found.others, top) == ["own/gone.png", "own/self"]


def test_a_folder_that_must_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(ElbowroomError, match="cannot be read \\(Permission denied\\)") as caught:
        find_images(tmp_path)
    assert f"chmod u+rx {tmp_path}" in caught.value.remedy
