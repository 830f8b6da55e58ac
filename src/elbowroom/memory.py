"""Memory: how much is free, checked before large allocations, and the peak usage, reported with results."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from elbowroom.errors import ElbowroomError

if TYPE_CHECKING:
    import torch

__all__ = ["available_memory", "in_words", "peak_memory", "require_memory"]

_MEMINFO, _CGROUP, _STATUS = Path("/proc/meminfo"), Path("/sys/fs/cgroup"), Path("/proc/self/status")


def available_memory() -> int | None:
    """Bytes of main memory that are free, within a container's limit; None where the system does not report it."""
    found = []
    if _MEMINFO.is_file():
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text(encoding="ascii").splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    elif hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    limit, used, statistics = (_CGROUP / f"memory.{name}" for name in ("max", "current", "stat"))
    if limit.is_file() and used.is_file() and (text := limit.read_text(encoding="ascii").strip()) != "max":
        # pages of files read before count as used, but are given up as soon as they are wanted
        counts = statistics.read_text(encoding="ascii").splitlines() if statistics.is_file() else []
        reclaimable = int(dict(line.split() for line in counts).get("inactive_file", 0))
        found.append(int(text) - int(used.read_text(encoding="ascii")) + reclaimable)
    return max(0, min(found)) if found else None


def peak_memory(device: torch.device | None = None) -> int | None:
    """The peak memory of this process since it began.

    Args:
        device: whose memory is meant. Of a GPU it is the most that tensors took there; of anything else the largest
            resident set, in which pages of memory-mapped files count as long as they lie in main memory.
    Returns:
        Bytes; None where the system does not report it.
    Example:
        >>> peak_memory() > 1_000_000
        True
    """
    if device is not None and device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    if _STATUS.is_file():  # not of what ran before `exec` in the same process, which `getrusage` counts
        lines = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="utf-8").splitlines())
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) * 1024
    try:
        import resource
    except ImportError:  # Windows has none
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024  # kibibytes everywhere but there


def in_words(num_bytes: int) -> str:
    """A number of bytes as short text.

    Example:
        >>> in_words(612_345_678), in_words(20_400_000_000)
        ('612 MB', '20.4 GB')
    """
    return f"{num_bytes / 1e6:.0f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:.1f} GB"


def require_memory(num_bytes: int, what: str, remedy: str, device: torch.device | None = None) -> None:
    """Raise an error if an allocation would not fit into memory.

    Args:
        num_bytes: the size of the allocation.
        what: its purpose, for the message.
        remedy: what to do instead.
        device: whose memory is meant; main memory unless it is a GPU.
    Raises:
        ElbowroomError: more than is free.
    Example:
        >>> require_memory(8, "To keep a number", "Ask for none.")
        >>> require_memory(2**60, "To keep a universe", "Make a smaller one.")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        elbowroom.errors.ElbowroomError: To keep a universe takes 1,152,921,504.6 GB of memory, but ... GB are free.
          Make a smaller one.
    """
    if device is not None and device.type == "cuda":
        import torch

        available: int | None = torch.cuda.mem_get_info(device)[0]
    else:
        available = available_memory()
    if available is not None and num_bytes > available:
        raise ElbowroomError(
            f"{what} takes {num_bytes / 1e9:,.1f} GB of memory, but {available / 1e9:,.1f} GB are free.", remedy
        )
