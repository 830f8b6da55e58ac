"""The commands that measured a run, from what its results say of themselves.

A flag stands in a command only if it differs from what the method would do by itself. Methods go into one command
where no flag that both read has two values.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from elbowroom.evaluation.evaluate import METHODS
from elbowroom.showing.report.measured import Measured, Measurements
from elbowroom.showing.report.words import command

__all__ = ["evaluation_commands"]

Asked: TypeAlias = dict[str, str | None]  # by flag; None is the method's own choice

_POINTS = {"iwae": 1000, "laplace-is": 1000, "k-curve": 1000, "ais": 1000, "room": 200}  # of a split unless asked for
_SIMULATED = 1000
_DRAWS = {"iwae": 5000, "laplace-is": 100, "room": 500}  # k unless asked for
_USUAL: dict[str, Any] = {"num_samples": 1, "starts": 4, "climbs": 1, "tolerance": 0.1, "budget": None, "seed": 0}
_ANNEALED = ("start", "climbs", "temperatures", "chains", "schedule", "tolerance", "budget")
_READS: dict[str, tuple[str, ...]] = {  # which flags a method looks at, beside data and seed
    "elbo": ("split", "points", "num_samples"),
    "iwae": ("split", "points", "k"),
    "laplace-is": ("split", "points", "k", "starts"),
    "k-curve": ("split", "points"),
    "ais": ("split", "points", *_ANNEALED),
    "bdmc": ("simulated", *_ANNEALED),
    "room": ("split", "points", "k", "starts"),
    "active-units": ("split", "points"),
}


def evaluation_commands(place: Path, found: Measurements, sizes: Mapping[str, int]) -> list[str]:
    """The commands that give the results of the present weights again.

    Args:
        place: the run's folder.
        found: its results.
        sizes: data in each split.
    """
    groups: list[tuple[Asked, list[str]]] = []
    for one in found.all:
        if one.method in _READS and not found.is_stale(one) and not _comes_with_another(one, found):
            asked = _asked(one, sizes)
            for flags, methods in groups:
                if all(flags[name] == asked[name] for name in flags.keys() & asked.keys()):
                    flags |= {name: value for name, value in asked.items() if name not in flags}
                    methods += [one.method] if one.method not in methods else []
                    break
            else:
                groups.append((asked, [one.method]))
    return [_command(place, flags, methods) for flags, methods in groups]


def _command(place: Path, asked: Asked, methods: list[str]) -> str:
    flags = ["--methods", ",".join(sorted(methods, key=list(METHODS).index))]
    for name, given in asked.items():
        if given is not None and name != "data":
            flags += [f"--{name.replace('_', '-')}", given]
    data = [asked["data"]] if asked["data"] is not None else []
    return command("evaluate", place, *data, *flags)


def _comes_with_another(one: Measured, found: Measurements) -> bool:
    """The room of training data is measured beside that of the test data."""
    result = one.result
    return (one.method, result.split) == ("room", "train") and any(
        (other.method, other.result.split, other.result.points, other.step)
        == ("room", "test", result.points, one.step)
        for other in found.all
    )  # fmt: skip


def _asked(one: Measured, sizes: Mapping[str, int]) -> Asked:
    """The flags of a result."""
    result, given = one.result, one.result.settings
    known: Asked = {
        "split": result.split if result.split in ("train", "validation") else None,
        "points": _points(one, sizes),
        "simulated": _simulated(result.points, sizes) if one.method == "bdmc" else None,
        "k": _unless(given.get("k"), _DRAWS.get(one.method)),
        "start": _unless(given.get("start"), "laplace"),
        "schedule": _unless(given.get("schedule"), "adapted" if given.get("start") == "prior" else "linear"),
        "temperatures": _unless(given.get("temperatures"), "automatic"),
        "chains": _chains(given),
        **{name: _unless(given.get(name), usual) for name, usual in _USUAL.items()},
    }
    read = {"data": str(result.protocol["dataset"]) if result.split == "all" else None}
    return read | {name: known[name] for name in (*_READS[one.method], "seed")}


def _unless(given: Any, usual: Any) -> str | None:
    return None if given is None or given == usual else f"{given}"


def _points(one: Measured, sizes: Mapping[str, int]) -> str | None:
    size, usual = sizes.get(one.result.split), _POINTS.get(one.method)
    if size is None:  # other data, of which all are measured unless they are more than usual
        return str(one.result.points) if usual is not None and one.result.points > usual else None
    return _unless(one.result.points, size if usual is None else min(size, usual))


def _simulated(number: int, sizes: Mapping[str, int]) -> str | None:
    return _unless(number, min(_SIMULATED, sizes.get("test", _SIMULATED)))


def _chains(given: Mapping[str, Any]) -> str | None:
    """What the ladder of annealing would not take by itself."""
    temperatures, chains = given.get("used_temperatures"), given.get("used_chains")
    if chains is None:
        return None
    usual = 32
    if temperatures == 1:
        usual = chains if given.get("temperatures") == "automatic" and chains in (100, 200) else 100
    return _unless(chains, usual)
