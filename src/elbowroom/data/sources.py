"""The built-in data sets: mirrors, digests, licences and citations; download and verification.

A file is looked for in ``$ELBOWROOM_DATA`` (torchvision's layout), then in the cache, then at each mirror in turn.
Its content is compared with a digest before it is used. This file imports neither torch nor scikit-learn, so
that ``elbowroom data list`` is quick.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elbowroom.errors import ElbowroomError, did_you_mean
from elbowroom.progress import Announce

__all__ = [
    "BUILT_IN",
    "Availability",
    "RemoteFile",
    "Source",
    "available",
    "cache_folder",
    "fetch",
    "locate",
    "obtain",
    "read_verified",
]

Retrieve = Callable[[str, Path], None]


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be fetched.

    Attributes:
        path: below ``$ELBOWROOM_DATA`` and below the cache.
        digest: ``algorithm:hexdigest``.
        of_content: the digest is that of the decompressed content, so that a file without ``.gz`` is accepted too
            (mirrors compress differently); otherwise that of the file as downloaded.
    """

    path: str
    digest: str
    of_content: bool = False

    @property
    def name(self) -> str:
        """Without the folders."""
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Source:
    """A built-in data set."""

    name: str
    description: str
    licence: str
    citation: str
    event_shape: tuple[int, ...]
    sizes: dict[str, int]  #: rows by official part
    urls: tuple[str, ...] = ()  #: mirrors: the folders that hold the files
    files: dict[str, RemoteFile] = field(default_factory=dict)  #: by role
    sides: tuple[int, ...] = ()  #: of pictures, in pixels, where there is a choice; the first by default


def _idx_files(folder: str, digests: dict[str, str], *, of_content: bool) -> dict[str, RemoteFile]:
    return {
        role: RemoteFile(f"{folder}/raw/{role}-ubyte.gz", f"sha256:{digest}", of_content)
        for role, digest in digests.items()
    }


_SOURCES = (
    Source(
        name="digits",
        description="1,797 handwritten digits, 8x8 grey, in scikit-learn; the recipe digits binarises them dynamically",
        licence="CC BY 4.0",
        citation="Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits, doi:10.24432/C50P49",
        event_shape=(8, 8),
        sizes={"all": 1797},
    ),
    Source(
        name="colour-patches",
        description="8,920 patches of two photographs, 32x32 in colour, in scikit-learn",
        licence="CC BY 2.0",
        citation="china.jpg by danielbuechele and flower.jpg by vultilion, photographs on Flickr, as in scikit-learn",
        event_shape=(3, 32, 32),
        sizes={"train": 8712, "test": 208},
    ),
    Source(
        name="patches",
        description="12,880 patches of two photographs, 32x32 or 16x16 in colour; no split shares a pixel with another",
        licence="CC BY 2.0",
        citation="china.jpg by danielbuechele and flower.jpg by vultilion, photographs on Flickr, as in scikit-learn",
        event_shape=(3, 32, 32),
        sizes={"train": 12_672, "validation": 104, "test": 104},
        sides=(32, 16),
    ),
    Source(
        name="mnist",
        description="70,000 handwritten digits, 28x28 grey; the recipe mnist binarises them dynamically",
        licence="CC BY-SA 3.0",
        citation="LeCun, Bottou, Bengio & Haffner (1998), Gradient-based learning applied to document recognition",
        event_shape=(28, 28),
        sizes={"train": 60_000, "test": 10_000},
        urls=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        files=_idx_files(
            "MNIST",
            {
                "train-images-idx3": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                "train-labels-idx1": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                "t10k-images-idx3": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                "t10k-labels-idx1": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            },
            of_content=True,
        ),
    ),
    Source(
        name="fashion-mnist",
        description="70,000 pictures of clothes, 28x28 grey",
        licence="MIT",
        citation="Xiao, Rasul & Vollgraf (2017), Fashion-MNIST, arXiv:1708.07747",
        event_shape=(28, 28),
        sizes={"train": 60_000, "test": 10_000},
        urls=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ),
        files=_idx_files(  # of the files as served: what Zalando's users publish
            "FashionMNIST",
            {
                "train-images-idx3": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "train-labels-idx1": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "t10k-images-idx3": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "t10k-labels-idx1": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            },
            of_content=False,
        ),
    ),
    Source(
        name="omniglot",
        description="32,415 handwritten characters of 50 alphabets, 28x28 grey, as prepared by Burda et al.",
        licence="MIT",
        citation="Lake, Salakhutdinov & Tenenbaum (2015), doi:10.1126/science.aab3050; Burda et al., arXiv:1509.00519",
        event_shape=(28, 28),
        sizes={"train": 24_345, "test": 8_070},
        urls=("https://github.com/yburda/iwae/raw/master/datasets/OMNIGLOT/",),
        # The MD5 that the haowen-xu/tfsnippet data loader checks.
        files={"characters": RemoteFile("OMNIGLOT/chardata.mat", "md5:21ecaf34373511aa7691cf2e0802aa3d")},
    ),
)

BUILT_IN: dict[str, Source] = {source.name: source for source in _SOURCES}


@dataclass(frozen=True)
class Availability:
    """A line of ``elbowroom data list``."""

    name: str
    description: str
    where: str


def available() -> list[Availability]:
    """Every built-in data set, and where it would be read from.

    Example:
        >>> available()[0].where
        'built in'
    """
    return [Availability(source.name, source.description, _whereabouts(source)) for source in BUILT_IN.values()]


def _whereabouts(source: Source) -> str:
    if not source.files:
        return "built in"
    found = [locate(file) for file in source.files.values()]
    places = [path for path in found if path is not None]
    if len(places) < len(found):
        return "to be fetched"
    cached = all(path.is_relative_to(cache_folder()) for path in places)
    return f"{'cached in' if cached else 'in'} {places[0].parent}"


def cache_folder() -> Path:
    """The platform's cache folder for elbowroom."""
    import pooch

    return Path(pooch.os_cache("elbowroom"))


def locate(file: RemoteFile) -> Path | None:
    """The path of a file on this machine, in ``$ELBOWROOM_DATA`` or in the cache; None if in neither."""
    given = os.environ.get("ELBOWROOM_DATA")
    folders = ([Path(given).expanduser()] if given else []) + [cache_folder()]
    names = [file.path, file.path.removesuffix(".gz")] if file.of_content else [file.path]
    candidates = (folder / name for folder in folders for name in names)
    return next((path for path in candidates if path.is_file()), None)


def fetch(name: str, *, announce: Announce | None = None, retrieve: Retrieve | None = None) -> list[Path]:
    """Download a built-in data set unless it is complete on this machine.

    Args:
        name: see :data:`BUILT_IN`.
        announce: called with a sentence for every download.
        retrieve: downloads an address to a path; by default pooch over HTTP.
    Returns:
        Its files; none for one that is built in.
    Raises:
        ElbowroomError: an unknown name, no mirror answers, or the content is wrong.
    """
    if name not in BUILT_IN:
        raise ElbowroomError(f"There is no built-in data set '{name}'.", did_you_mean(name, BUILT_IN))
    paths = []
    for file in BUILT_IN[name].files.values():
        path = obtain(BUILT_IN[name], file, announce=announce, retrieve=retrieve)
        read_verified(file, path)
        paths.append(path)
    return paths


def obtain(
    source: Source, file: RemoteFile, *, announce: Announce | None = None, retrieve: Retrieve | None = None
) -> Path:
    """The path of a file; if it is missing, it is downloaded from the first mirror that serves the right content."""
    path = locate(file)
    if path is not None:
        return path
    target = cache_folder() / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    retrieve = retrieve or _download
    faults: list[str] = []
    for mirror in source.urls:
        url = mirror + file.name
        if announce:
            announce(f"fetching {url}")
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:  # renamed when whole: a kill leaves no half file
            partial = Path(folder) / file.name
            try:
                retrieve(url, partial)
                read_verified(file, partial)
            except (OSError, ValueError) as fault:  # requests' errors are OSErrors, pooch's are ValueErrors
                faults.append(f"{url}: {_in_few_words(fault)}")
                continue
            except ElbowroomError as fault:
                faults.append(f"{url}: {fault.problem}")
                continue
            partial.replace(target)
            return target
    raise ElbowroomError(
        f"{file.name} of {source.name} could not be fetched from any mirror ({'; '.join(faults)}).",
        f"Try again with a network, or put the file at $ELBOWROOM_DATA/{file.path} and set ELBOWROOM_DATA.",
    )


def _in_few_words(fault: Exception) -> str:
    """The first line of an error's message, or only its class where that is a long list of nested causes."""
    first = next(iter(str(fault).splitlines()), "")
    return first if 0 < len(first) <= 100 else type(fault).__name__


def read_verified(file: RemoteFile, path: Path) -> bytes:
    """The decompressed content of a file, if it is the right one.

    Raises:
        ElbowroomError: the file is truncated, or its digest differs; names the file and both digests.
    """
    served = path.read_bytes()
    try:
        content = gzip.decompress(served) if path.suffix == ".gz" else served
    except (EOFError, OSError, zlib.error) as fault:
        raise ElbowroomError(
            f"{path} is truncated or not a gzip file ({fault}).", "Delete it and try again: it will be fetched anew."
        ) from fault
    algorithm, expected = file.digest.split(":")
    found = hashlib.new(algorithm, content if file.of_content else served, usedforsecurity=False).hexdigest()
    if found != expected:
        raise ElbowroomError(
            f"{path} is not the {file.name} expected: {algorithm} {found} was found, {expected} was expected.",
            "Delete it and try again: it will be fetched anew.",
        )
    return content


class _Progress:
    """What pooch expects of a progress bar, drawn by rich."""

    def __init__(self, label: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.bar.add_task(label, total=None)
        self.total = 0

    def __enter__(self) -> _Progress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, size: int) -> None:
        """So many bytes more."""
        self.bar.update(self.task, advance=size, total=self.total or None)

    def reset(self) -> None:
        """Pooch rewinds the bar before it fills it."""
        self.bar.update(self.task, completed=0)

    def close(self) -> None:
        """Pooch closes the bar when the download is done."""
        self.bar.stop()


def _download(url: str, path: Path) -> None:
    import pooch

    def download(bar: Any) -> None:
        pooch.HTTPDownloader(progressbar=bar, timeout=30)(url, str(path), None)

    if not sys.stderr.isatty():
        download(False)
        return
    with _Progress(path.name) as bar:
        download(bar)
