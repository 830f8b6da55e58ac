"""The machine that a report was made on: figures without it mean little."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

import elbowroom

__all__ = ["bf16_instructions", "machine"]


def machine() -> dict[str, str]:
    """Processor, threads and versions, for a report's last line."""
    return {
        "CPU": _of_cpuinfo("model name") or platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "elbowroom": elbowroom.__version__,
    }


def bf16_instructions() -> str:
    """The processor's instructions for products in bfloat16; without any, they are no faster than fp32's."""
    flags = _of_cpuinfo("flags").split()
    return ", ".join(flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags) or "none found"


def _of_cpuinfo(name: str) -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return ""
