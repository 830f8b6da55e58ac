"""Locks of a run folder: one process trains in it at a time, and results are added one after the other.

Training holds ``.lock`` from beginning to end, and who finds it held is refused. Results hold ``.results.lock`` only
while a file is replaced: who finds it held waits, since hours of work may have gone into what is to be written. So an
evaluation can end while a run goes on. The system releases a lock when its process ends, in whatever way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from elbowroom.errors import ElbowroomError
from elbowroom.progress import Announce

__all__ = ["LOCKS", "lock_results", "lock_training"]

_TRAINING, _RESULTS = ".lock", ".results.lock"
LOCKS = (_TRAINING, _RESULTS)
"""Names of the files that are locked."""

_PATIENT = 1.0  # seconds of waiting before it is said


@contextmanager
def lock_training(folder: Path) -> Iterator[None]:
    """Locks a run folder against other processes that train in it.

    Args:
        folder: of the run; made where it does not exist.
    Raises:
        ElbowroomError: a running process has the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _TRAINING, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ElbowroomError(
            f"The run {folder} is being written by another process that is still running.",
            "Wait until it ends, or give another name with --out.",
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def lock_results(folder: Path, announce: Announce = print) -> Iterator[None]:
    """Locks the results of a run; waits, however long, for others that write there.

    Args:
        folder: of the run.
        announce: called with a remark after a second of waiting.
    """
    lock = FileLock(folder / _RESULTS)
    try:
        lock.acquire(timeout=_PATIENT)
    except Timeout:
        announce(f"another process writes results in {folder}: waiting until it is done, nothing is lost")
        lock.acquire(timeout=-1)
    try:
        yield
    finally:
        lock.release()
