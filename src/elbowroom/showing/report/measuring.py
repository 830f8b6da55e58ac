"""The commands that measured a run, from what its results say of themselves.

A flag stands in a command only if it differs from what the method would do by itself. Methods go into one command
where no flag that both were asked has two values.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from elbowroom.evaluation.evaluate import METHODS
from elbowroom.evaluation.settings import DRAWS, POINTS, Settings
from elbowroom.showing.report.records import Measured, Measurements
from elbowroom.showing.report.words import command

__all__ = ["evaluation_commands"]

Asked: TypeAlias = dict[str, str | None]  # by flag; None is the method's own choice


def evaluation_commands(place: Path, found: Measurements, sizes: Mapping[str, int]) -> list[str]:
    """The commands that give the results of the present weights again.

    Args:
        place: the run's folder.
        found: its results.
        sizes: data in each split.
    """
    groups: list[tuple[Asked, list[str]]] = []
    for one in found.all:
        if one.method in METHODS and not found.is_stale(one) and not _comes_with_another(one, found):
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
    """The flags of a result, in the order of :class:`Settings`."""
    result, flags = one.result, dict(one.result.asked)
    if one.method == "k-curve":
        flags.pop("k", None)  # it has its own
    usual = Settings().model_dump()
    usual |= {
        "k": DRAWS.get(one.method),
        "start": "laplace",
        "schedule": "adapted" if flags.get("start") == "prior" else "linear",
    }
    asked: Asked = {"data": str(result.protocol["dataset"]) if result.split == "all" else None}
    if one.method == "bdmc":
        asked["simulated"] = _simulated(result.points, sizes)
    else:
        asked["split"] = result.split if result.split in ("train", "validation") else None
        asked["points"] = _points(one, sizes)
    return asked | {name: _unless(flags[name], usual[name]) for name in usual if name in flags}


def _unless(given: Any, usual: Any) -> str | None:
    return None if given is None or given == usual else f"{given}"


def _points(one: Measured, sizes: Mapping[str, int]) -> str | None:
    size, usual = sizes.get(one.result.split), POINTS.get(one.method)
    if size is None:  # other data, of which all are measured unless they are more than usual
        return str(one.result.points) if usual is not None and one.result.points > usual else None
    return _unless(one.result.points, size if usual is None else min(size, usual))


def _simulated(number: int, sizes: Mapping[str, int]) -> str | None:
    usual = Settings().simulated
    return _unless(number, min(usual, sizes.get("test", usual)))
