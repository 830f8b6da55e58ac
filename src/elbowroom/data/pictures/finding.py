"""Which files of a folder are images: hidden ones are left out, links are followed, and the rest is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from elbowroom.errors import ElbowroomError

__all__ = ["IMAGES", "FolderContent", "counted", "find_images", "listed"]

#: suffixes of files that are read as images
IMAGES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".avif", ".jp2", ".tga", ".pbm", ".pgm", ".ppm", ".pnm"),
)
_HIDDEN = ("__MACOSX", "@eaDir")  # what archives and file servers leave behind; the rest begin with a dot


@dataclass(frozen=True)
class FolderContent:
    """What lies below a folder, each sorted by path.

    Attributes:
        images: files whose suffix is one of :data:`IMAGES`.
        hidden: files and folders whose names begin with a dot, and what archives and file servers leave behind.
        others: all other files, and links that lead nowhere.
    """

    images: list[Path]
    hidden: list[Path]
    others: list[Path]

    def remarks(self) -> list[str]:
        """What was left out, in sentences."""
        said = []
        if self.hidden:
            said.append(f"{counted(len(self.hidden), 'hidden file or folder')} left out: {listed(self.hidden)}.")
        if self.others:
            said.append(f"{counted(len(self.others), 'file')} left out as no image: {listed(self.others)}.")
        return said


def find_images(top: Path) -> FolderContent:
    """All images below a folder.

    A linked folder is entered, too, but no folder twice, so that a link may lead back.

    Raises:
        ElbowroomError: a folder that must not be read.
    """
    images: list[Path] = []
    hidden: list[Path] = []
    others: list[Path] = []
    seen: set[tuple[int, int]] = set()
    waiting: list[Path] = [top]
    linked: list[Path] = []  # links last, so that a folder has its own name where it can be reached by two
    while waiting or linked:
        folder = waiting.pop() if waiting else linked.pop(0)
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        try:
            entries = sorted(folder.iterdir())
        except OSError as fault:
            raise ElbowroomError(
                f"The folder {folder} cannot be read ({fault.strerror}).", f"Allow it: chmod u+rx {folder}"
            ) from fault
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _HIDDEN:
                hidden.append(entry)
            elif entry.is_dir():
                (linked if entry.is_symlink() else waiting).append(entry)
            elif entry.suffix.lower() in IMAGES and entry.is_file():
                images.append(entry)
            else:
                others.append(entry)
    return FolderContent(sorted(images), sorted(hidden), sorted(others))


def listed(paths: Sequence[Path]) -> str:
    """The names of the first three paths."""
    names = list(dict.fromkeys(path.name for path in paths))
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def counted(number: int, noun: str) -> str:
    """How many there were, as the beginning of a sentence.

    Example:
        >>> counted(1, "hidden file or folder"), counted(1200, "hidden file or folder")
        ('1 hidden file or folder was', '1,200 hidden files or folders were')
    """
    plural = " or ".join(f"{part}s" for part in noun.split(" or "))
    return f"{number:,} {noun} was" if number == 1 else f"{number:,} {plural} were"
