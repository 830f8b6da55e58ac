"""Device, precision and threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from elbowroom.errors import ElbowroomError
from elbowroom.model.networks import NetworkPart
from elbowroom.phrasing import phrased
from elbowroom.progress import Announce
from elbowroom.running.config import RuntimeConfig

__all__ = [
    "autocast_dtype",
    "autocast_networks",
    "dtype_of",
    "make_generator",
    "pick_device",
    "torch_settings",
    "use_threads",
    "warn_of_emulation",
]


def pick_device(name: str) -> torch.device:
    """A device by its name; 'auto' takes a GPU where there is one.

    Raises:
        ElbowroomError: this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ElbowroomError(
            f"There is no device '{name}'.", "Give cpu, cuda, cuda:0 or mps with --runtime.device."
        ) from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise ElbowroomError(
            f"The device is '{name}', but torch {torch.__version__} finds none of that kind on this machine.",
            "Use --runtime.device cpu, or install a build of torch for that device.",
        )
    return device


def dtype_of(runtime: RuntimeConfig) -> torch.dtype:
    """Precision of weights and densities."""
    return {"float32": torch.float32, "float64": torch.float64}[runtime.dtype]


def autocast_dtype(runtime: RuntimeConfig) -> torch.dtype | None:
    """Precision inside the networks, if it is lower."""
    return torch.bfloat16 if runtime.autocast == "bfloat16" else None


def autocast_networks(module: nn.Module, dtype: torch.dtype | None) -> None:
    """Sets the precision inside every network of a module; None: that of the weights, as for densities and draws."""
    for part in module.modules():
        if isinstance(part, NetworkPart):
            part.autocast = dtype


def warn_of_emulation(runtime: RuntimeConfig, announce: Announce) -> None:
    """Say that a lower precision costs time instead of saving it: an x86 processor without bfloat16 instructions.

    Which instructions a processor has is known from torch 2.9 on; before, and for other processors, nothing is said.
    """
    if runtime.autocast != "bfloat16" or pick_device(runtime.device).type != "cpu":
        return
    has = getattr(torch.cpu, "get_capabilities", dict[str, Any])()
    if has.get("architecture") == "x86_64" and not (has.get("avx512_bf16") or has.get("amx_bf16")):
        announce(
            phrased(
                f"this processor ({has.get('cpu_name') or 'x86'}) has no bfloat16 instructions and emulates them; "
                "--runtime.autocast none is faster here"
            )
        )


def make_generator(device: torch.device, seed: int) -> torch.Generator:
    """A seeded generator: the one source of randomness of a run."""
    return torch.Generator(device).manual_seed(seed)


@contextmanager
def torch_settings() -> Iterator[None]:
    """A context with torch's global settings as elbowroom needs them; at the end those of the caller are back.

    Weights are drawn in torch's default type and on its default device, and training records gradients. So inside these
    are float32, CPU and on, without inference mode and autocast, whatever the caller has set; and the number of threads
    can be changed (`use_threads`). Also a decorator.

    Example:
        >>> with torch.no_grad(), torch_settings():
        ...     torch.is_grad_enabled()
        True
    """
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    with ExitStack() as settings:
        settings.callback(_set_threads, threads)
        settings.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        if torch.get_default_device().type != "cpu":
            settings.enter_context(torch.device("cpu"))
        if torch.is_inference_mode_enabled():
            settings.enter_context(torch.inference_mode(mode=False))
        settings.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                settings.enter_context(torch.autocast(kind, enabled=False))
        yield


def _set_threads(threads: int) -> None:
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def use_threads(threads: int | None) -> None:
    """Sets the number of CPU threads of torch, if one is given; inside `torch_settings`, which restores it."""
    if threads is not None:
        _set_threads(threads)
