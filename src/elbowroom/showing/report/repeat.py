"""How to repeat a run: the commands that train and evaluate it, and its recipe.

A recipe is found among the packaged ones, or made: the keys that differ from the defaults, as TOML. A command is the
packaged recipe, or data set, from which fewest flags lead to the run's own configuration. A flag of ``evaluate`` stands
in a command only if it differs from the default of the method; methods go into one command where no flag that
both were asked has two values.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from elbowroom.evaluation.evaluate import METHODS
from elbowroom.evaluation.settings import DRAWS, POINTS, Settings
from elbowroom.running.config import Config, configure, read_recipe, recipe_names
from elbowroom.running.runs import Run
from elbowroom.showing.report.blocks import Block, Commands, FactList, FactSheet, Listing, Prose
from elbowroom.showing.report.records import StoredResult, StoredResults
from elbowroom.showing.report.words import checkpoint_flags, command, differences, run_command

__all__ = ["evaluation_commands", "how_to_repeat", "recipe_toml", "training_command"]

_Flags: TypeAlias = dict[str, str | None]  # by flag; None is the method's own choice


def how_to_repeat(run: Run, found: StoredResults, sizes: Mapping[str, int], *, diagnosed: bool) -> list[Block]:
    """The commands in order, the recipe, and the checksums of the data.

    Args:
        run: to be repeated.
        found: what was measured of it.
        sizes: number of examples in each split.
        diagnosed: whether the doctor was run.
    """
    place = run.folder.path
    blocks: list[Block] = []
    if run.content["data"].get("from_python"):
        blocks.append(
            Prose(
                "The data were given in Python, so no command can name them. With the recipe below saved as "
                f'recipe.toml, `er.train(data, config="recipe.toml", out={json.dumps(str(place))})` repeats the run.'
            )
        )
        first: list[str] = []
    else:
        first = [training_command(run.config, place)]
    checked = [run_command("doctor", run)] if diagnosed else []
    measured = evaluation_commands(place, found, sizes, checkpoint_flags(run))
    blocks.append(Commands((*first, *measured, *checked, run_command("report", run))))
    blocks.append(Listing("The recipe: every setting that differs from its default", recipe_toml(run.config)))
    return [*blocks, _checksums(run)]


def _checksums(run: Run) -> FactSheet:
    """Versions, and the checksums of the data: other data under the same name would be noticed."""
    names = {"elbowroom": "elbowroom", "torch": "torch"}
    rows = [(name, str(run.content[key])) for key, name in names.items() if key in run.content]
    rows += [
        (f"SHA-256 of the {key.removeprefix('sha256').strip('_').replace('_', ' ') or 'data'}", str(given))
        for key, given in run.content["data"].items()
        if key.startswith("sha256") and given is not None  # a stream has none
    ]
    return FactSheet((FactList("Versions and checksums", tuple(rows)),))


# --- training ----------------------------------------------------------------------------------------------------


def training_command(settings: Config, place: Path) -> str:
    """The shortest command that trains with this configuration.

    Example:
        >>> training_command(configure(read_recipe("mnist"), {"model": {"latent_dim": 2}}), Path("runs/two"))
        'elbowroom train mnist --model.latent-dim 2 --out runs/two'
    """
    own = settings.model_dump(mode="json")
    bases = dict(_packaged())
    if settings.data.name not in bases:  # a name that is both a recipe's and a data set's is the recipe's
        bases[settings.data.name] = configure({"data": {"name": settings.data.name}}).model_dump(mode="json")
    best: tuple[int, int, str, list[str]] | None = None
    for name, base in bases.items():
        flags = _flags(differences(own, base))
        if flags is not None:
            rank = (len(flags), int(name != settings.data.name), name, flags)
            best = rank if best is None or rank < best else best
    if best is None:  # a key that no flag can give
        return command("train", "recipe.toml", "--out", str(place))
    return command("train", best[2], *best[3], "--out", str(place))


@functools.cache
def _packaged() -> Mapping[str, Mapping[str, Any]]:
    """The settings of each recipe of the package; to read all of them takes as long as the rest of a report."""
    return {name: configure(read_recipe(name), source=name).model_dump(mode="json") for name in recipe_names()}


def _flags(changed: Mapping[str, Any]) -> list[str] | None:
    """Keys with dots as flags; None where one has a value that no flag can say."""
    flags: list[str] = []
    for key, given in changed.items():
        parts = given if isinstance(given, list) else [given]
        if not parts or any(part is None or part is False for part in parts):
            return None
        words = [_flag_value(part) for part in parts]
        pair = isinstance(parts[0], float)  # of fixed length; lists of any length are one word
        flags.append(f"--{key.replace('_', '-')}")
        flags += [] if given is True else words if pair else [",".join(words)]
    return flags


def _flag_value(given: Any) -> str:
    """A number without a superfluous point."""
    short = f"{given:g}" if isinstance(given, float) else str(given)
    return short if not isinstance(given, float) or float(short) == given else repr(given)


def recipe_toml(settings: Config) -> str:
    """A recipe with the keys that differ from the defaults; the data set is always named.

    Example:
        >>> print(recipe_toml(configure({"model": {"encoder": {"hidden": [20, 10]}}})))
        [data]
        name = "digits"
        <BLANKLINE>
        [model]
        encoder.hidden = [20, 10]
        <BLANKLINE>
    """
    changed = {"data.name": settings.data.name}
    changed |= differences(settings.model_dump(mode="json"), Config().model_dump(mode="json"))
    sections: dict[str, list[str]] = {}
    for key, given in changed.items():
        section, _, name = key.partition(".")
        if given is not None:  # TOML has no word for nothing, and nothing is the default wherever it is allowed
            sections.setdefault(section, []).append(f"{name} = {_toml(given)}")
    return "\n".join(f"[{section}]\n" + "".join(f"{line}\n" for line in lines) for section, lines in sections.items())


def _toml(given: Any) -> str:
    if isinstance(given, list):
        return f"[{', '.join(_toml(part) for part in given)}]"
    # JSON's strings, numbers, true and false are TOML's too, but for the one control character that JSON leaves bare
    return json.dumps(given, ensure_ascii=False).replace("\x7f", "\\u007f")


# --- evaluation --------------------------------------------------------------------------------------------------


def evaluation_commands(
    place: Path, found: StoredResults, sizes: Mapping[str, int], which: Sequence[str] = ()
) -> list[str]:
    """The commands that give the results of the present weights again.

    Args:
        place: the run's folder.
        found: its results.
        sizes: number of examples in each split.
        which: flags that name the checkpoint.
    """
    groups: list[tuple[_Flags, list[str]]] = []
    for one in found.all:
        if one.method in METHODS and not found.is_stale(one) and not _is_implied(one, found):
            asked = _evaluation_flags(one, sizes)
            for flags, methods in groups:
                if all(flags[name] == asked[name] for name in flags.keys() & asked.keys()):
                    flags |= {name: value for name, value in asked.items() if name not in flags}
                    methods += [one.method] if one.method not in methods else []
                    break
            else:
                groups.append((asked, [one.method]))
    return [_command(place, flags, methods, which) for flags, methods in groups]


def _command(place: Path, asked: _Flags, methods: list[str], which: Sequence[str]) -> str:
    flags = ["--methods", ",".join(sorted(methods, key=list(METHODS).index))]
    for name, given in asked.items():
        if given is not None and name != "data":
            flags += [f"--{name.replace('_', '-')}", given]
    data = [asked["data"]] if asked["data"] is not None else []
    return command("evaluate", place, *data, *flags, *which)


def _is_implied(one: StoredResult, found: StoredResults) -> bool:
    """Whether another command gives the result too: ``room`` on test data evaluates the training data as well."""
    result = one.result
    return (one.method, result.split) == ("room", "train") and any(
        (other.method, other.result.split, other.result.points, other.step)
        == ("room", "test", result.points, one.step)
        for other in found.all
    )  # fmt: skip


def _evaluation_flags(one: StoredResult, sizes: Mapping[str, int]) -> _Flags:
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
    asked: _Flags = {"data": str(result.protocol["dataset"]) if result.split == "all" else None}
    if one.method == "bdmc":
        asked["simulated"] = _simulated(result.points, sizes)
    else:
        asked["split"] = result.split if result.split in ("train", "validation") else None
        asked["points"] = _points(one, sizes)
    return asked | {name: _unless_default(flags[name], usual[name]) for name in usual if name in flags}


def _unless_default(given: Any, usual: Any) -> str | None:
    return None if given is None or given == usual else f"{given}"


def _points(one: StoredResult, sizes: Mapping[str, int]) -> str | None:
    size, usual = sizes.get(one.result.split), POINTS.get(one.method)
    if size is None:  # other data: all are evaluated, unless there are more than the method takes
        return str(one.result.points) if usual is not None and one.result.points > usual else None
    return _unless_default(one.result.points, size if usual is None else min(size, usual))


def _simulated(number: int, sizes: Mapping[str, int]) -> str | None:
    usual = Settings().simulated
    return _unless_default(number, min(usual, sizes.get("test", usual)))
