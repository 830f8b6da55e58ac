"""Files are looked for at home first, fetched from a mirror that works, and compared with a digest."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from elbowroom.data import sources
from elbowroom.data.sources import BUILT_IN, RemoteFile, Source, available, fetch, locate, obtain, read_verified
from elbowroom.errors import ElbowroomError

CONTENT = b"0123456789" * 50


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


FILE = RemoteFile("TOY/raw/toy.gz", sha256(CONTENT), of_content=True)
TOY = Source("toy", "a toy", "CC0", "", (10,), {"all": 50}, ("https://a/", "https://b/", "https://c/"), {"x": FILE})


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A data folder and a cache of this test's own, and a toy among the built-in sets."""
    places = {"data": tmp_path / "data", "cache": tmp_path / "cache"}
    monkeypatch.setenv("ELBOWROOM_DATA", str(places["data"]))
    monkeypatch.setattr(sources, "cache_folder", lambda: places["cache"])
    monkeypatch.setitem(BUILT_IN, "toy", TOY)
    return places


def place(folder: Path, path: str, content: bytes) -> Path:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(content)
    return folder / path


def retriever(**served: bytes | Exception) -> tuple[Callable[[str, Path], None], list[str]]:
    """Mirrors a, b, c that serve these bytes or raise these errors; and the addresses asked."""
    asked: list[str] = []

    def retrieve(url: str, path: Path) -> None:
        asked.append(url)
        answer = served[url.split("/")[2]]
        if isinstance(answer, Exception):
            path.write_bytes(b"half a fi")
            raise answer
        path.write_bytes(answer)

    return retrieve, asked


def test_data_folder_comes_before_the_cache(folders: dict[str, Path]) -> None:
    assert locate(FILE) is None
    cached = place(folders["cache"], "TOY/raw/toy.gz", gzip.compress(CONTENT))
    assert locate(FILE) == cached
    plain = place(folders["data"], "TOY/raw/toy", CONTENT)
    assert locate(FILE) == plain
    zipped = place(folders["data"], "TOY/raw/toy.gz", gzip.compress(CONTENT))
    assert locate(FILE) == zipped
    assert fetch("toy") == [zipped]


def test_a_digest_of_the_served_file_needs_that_file(folders: dict[str, Path]) -> None:
    place(folders["data"], "TOY/raw/toy", CONTENT)
    assert locate(replace(FILE, of_content=False)) is None


@pytest.mark.parametrize("level", [1, 9])
def test_mirrors_may_compress_differently(folders: dict[str, Path], level: int) -> None:
    path = place(folders["data"], "TOY/raw/toy.gz", gzip.compress(CONTENT, level))
    assert read_verified(FILE, path) == CONTENT


def test_the_first_mirror_that_serves_the_right_content_is_taken(folders: dict[str, Path]) -> None:
    retrieve, asked = retriever(
        a=OSError("no route"), b=gzip.compress(b"<html>not found</html>"), c=gzip.compress(CONTENT)
    )
    told: list[str] = []
    path = obtain(TOY, FILE, retrieve=retrieve, announce=told.append)
    assert asked == ["https://a/toy.gz", "https://b/toy.gz", "https://c/toy.gz"]
    assert told == [f"fetching {url}" for url in asked]
    assert path == folders["cache"] / "TOY/raw/toy.gz"
    assert [file.name for file in path.parent.iterdir()] == ["toy.gz"]  # nothing half is left behind
    assert obtain(TOY, FILE, retrieve=retrieve) == path
    assert len(asked) == 3


def test_no_mirror_left(folders: dict[str, Path]) -> None:
    retrieve, _ = retriever(a=OSError("no route"), b=ValueError("bad"), c=gzip.compress(CONTENT)[:-9])
    with pytest.raises(
        ElbowroomError, match=r"toy\.gz of toy could not be fetched.*no route.*bad.*truncated"
    ) as caught:
        fetch("toy", retrieve=retrieve)
    assert "$ELBOWROOM_DATA/TOY/raw/toy.gz" in caught.value.remedy
    assert not list((folders["cache"] / "TOY/raw").iterdir())


def test_other_faults_are_not_swallowed() -> None:
    retrieve, _ = retriever(a=KeyError("a bug"))
    with pytest.raises(KeyError):
        obtain(TOY, FILE, retrieve=retrieve)


@pytest.mark.parametrize("where", ["data", "cache"])
@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("toy.gz", gzip.compress(CONTENT)[:-12], "truncated"),
        ("toy.gz", b"no gzip", "not a gzip file"),
        (
            "toy.gz",
            gzip.compress(CONTENT + b"!"),
            f"sha256 {sha256(CONTENT + b'!')[7:]} was found, {sha256(CONTENT)[7:]}",
        ),
        ("toy", CONTENT[1:], "was found"),
    ],
    ids=["truncated", "no-gzip", "other-content", "other-content-unzipped"],  # gzip's bytes hold the time of day
)
def test_a_corrupt_file_is_named(folders: dict[str, Path], where: str, name: str, content: bytes, problem: str) -> None:
    path = place(folders[where], f"TOY/raw/{name}", content)
    with pytest.raises(ElbowroomError, match=problem) as caught:
        fetch("toy")
    assert str(path) in caught.value.problem
    assert "Delete it" in caught.value.remedy


def test_digest_of_the_file_as_served(tmp_path: Path) -> None:
    served = gzip.compress(CONTENT)
    path = place(tmp_path, "toy.gz", served)
    assert read_verified(RemoteFile("toy.gz", sha256(served)), path) == CONTENT
    assert read_verified(RemoteFile("toy.gz", "md5:" + hashlib.md5(served).hexdigest()), path) == CONTENT
    with pytest.raises(ElbowroomError):
        read_verified(RemoteFile("toy.gz", sha256(CONTENT)), path)


def where(name: str) -> str:
    return next(entry.where for entry in available() if entry.name == name)


def test_whereabouts(folders: dict[str, Path]) -> None:
    assert where("digits") == "built in"
    assert where("toy") == "to be fetched"
    cached = place(folders["cache"], "TOY/raw/toy.gz", b"")
    assert where("toy") == f"cached in {cached.parent}"
    given = place(folders["data"], "TOY/raw/toy.gz", b"")
    assert where("toy") == f"in {given.parent}"


def test_unknown_name() -> None:
    with pytest.raises(ElbowroomError, match="no built-in data set 'mnits'") as caught:
        fetch("mnits")
    assert caught.value.remedy == "Did you mean 'mnist'?"


@pytest.mark.parametrize(
    "source", [source for source in BUILT_IN.values() if source.name != "toy"], ids=lambda s: s.name
)
def test_every_source_is_described(source: Source) -> None:
    assert source.licence and source.citation and source.description
    assert bool(source.files) == bool(source.urls)
    for file in source.files.values():
        algorithm, digest = file.digest.split(":")
        assert len(digest) == 2 * hashlib.new(algorithm).digest_size
    assert all(url.endswith("/") for url in source.urls)


def test_download_goes_through_pooch(monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]) -> None:
    """With a terminal, the bar of rich is what pooch drives; without one, no bar."""
    import pooch

    bars: list[Any] = []

    class Downloader:
        def __init__(self, progressbar: Any, timeout: float) -> None:
            bars.append(progressbar)
            self.bar = progressbar

        def __call__(self, url: str, path: str, _: object) -> None:
            Path(path).write_bytes(gzip.compress(CONTENT))
            if self.bar:
                self.bar.total = 2
                for call in (lambda: self.bar.update(1), self.bar.reset, lambda: self.bar.update(2), self.bar.close):
                    call()

    monkeypatch.setattr(pooch, "HTTPDownloader", Downloader)
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        (path,) = fetch("toy")
        path.unlink()
    assert bars[0] is False
    assert bars[1].total == 2


def test_listing_imports_neither_torch_nor_scikit_learn() -> None:
    code = (
        "import sys, elbowroom.data.sources as s; s.available(); "
        "print({'torch', 'sklearn', 'numpy'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
