"""Import layers: imports go from a higher layer to a lower one, never up, and never in a cycle.

The checker reads the syntax trees of all source files, so an import counts wherever it stands: at the top, inside a
function, under ``TYPE_CHECKING``, relative, or as a literal argument of ``import_module``. Nothing is executed. The
second half plants one violation of each kind in a small package and requires that the checker finds it.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = "elbowroom"
SOURCE = Path(__file__).parents[1] / "src" / PACKAGE

# folder or file of the package -> (layer, height within the layer)
LAYERS: dict[str, tuple[int, int]] = {
    "phrasing": (0, -1),
    "errors": (0, 0),
    "memory": (0, 1),
    "names": (0, 1),
    "numerics": (0, 1),
    "progress": (0, 1),
    "sections": (0, 1),
    "data": (0, 2),
    "samplers": (0, 2),
    "model": (1, 0),
    "inference": (2, 0),
    "learners": (3, 0),
    "evaluation": (3, 0),
    "studies": (3, 1),
    "running": (4, 0),
    "adopting": (4, 1),
    "showing": (5, 0),
    "cli": (5, 0),
    "__main__": (5, 0),
}
# part -> its folders, the lower ones first; "" stands for the modules that are in none
FOLDERS: dict[str, tuple[str, ...]] = {
    "data": ("csv", "columns", "pictures", ""),
    "evaluation": ("", "doctor"),
    "inference": ("", "gaussian", "importance", "posterior", "annealing"),
    "model": ("", "hierarchy", "pixels", "grids", "table"),
    "showing": ("figures", "", "report"),
}
UNRELATED = {frozenset({"data", "samplers"})}  # parts of one layer that must not import each other
PYRO_MODULE = "learners.svi"  # the one module that may import Pyro
VAGUE = {"utils", "common", "types", "base", "constants"}  # names that do not say what is inside
MAX_LINES = 500


class Import(NamedTuple):
    """One imported name."""

    line: int
    target: str  #: dotted, absolute: ``elbowroom.model.guides`` or ``torch.nn``
    name: str | None  #: what was taken from the target, where it is no module itself
    on_load: bool  #: executed when the module is loaded


@dataclass(frozen=True)
class Module:
    """A source file. ``name`` is dotted, relative to the package; the package root's is empty."""

    name: str
    path: Path
    lines: int
    imports: tuple[Import, ...]

    @property
    def part(self) -> str:
        return self.name.partition(".")[0]


Package = dict[str, Module]


@functools.cache
def read_package(source: Path) -> Package:
    """All modules of the package whose folder is ``source``."""
    names = {_module_name(source, path): path for path in sorted(source.rglob("*.py"))}
    return {name: _read(name, path, frozenset(names)) for name, path in names.items()}


def _module_name(source: Path, path: Path) -> str:
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _read(name: str, path: Path, names: frozenset[str]) -> Module:
    text = path.read_text(encoding="utf-8")
    package = [PACKAGE, *name.split(".")] if name else [PACKAGE]
    if path.name != "__init__.py":
        package = package[:-1]
    found = tuple(_imports(ast.parse(text, str(path)), package, names))
    return Module(name, path, len(text.splitlines()), found)


def _imports(tree: ast.AST, package: list[str], names: frozenset[str], on_load: bool = True) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import():
                yield from (Import(node.lineno, alias.name, None, on_load) for alias in node.names)
            case ast.ImportFrom():
                yield from _from(node, package, names, on_load)
            case ast.Call(func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module")):
                if node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
                    yield Import(node.lineno, node.args[0].value, None, on_load)
        deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _imports(node, package, names, on_load and not deferred)


def _from(node: ast.ImportFrom, package: list[str], names: frozenset[str], on_load: bool) -> Iterator[Import]:
    above = package[: len(package) - node.level + 1] if node.level else []
    target = ".".join([*above, *([node.module] if node.module else [])])
    for alias in node.names:
        submodule = f"{target}.{alias.name}"
        if _inside(submodule) in names:  # `from elbowroom.model import guides` takes a module
            yield Import(node.lineno, submodule, None, on_load)
        else:
            yield Import(node.lineno, target, alias.name, on_load)


def _inside(target: str) -> str | None:
    """A target within the package, relative to it ('' for the root); None for anything else."""
    if target == PACKAGE:
        return ""
    return target.removeprefix(f"{PACKAGE}.") if target.startswith(f"{PACKAGE}.") else None


# --- the rules: each returns the violations as sentences ---------------------------------------------------------


def imports_that_go_up(package: Package) -> list[str]:
    """An import from a higher layer, from a higher place in the lowest one, or between unrelated parts of it."""
    found = []
    for module in package.values():
        for item in module.imports:
            inside = _inside(item.target)
            if not module.name or not inside or module.part not in LAYERS:
                continue  # the root is lazy (see below); a part without a layer is reported on its own
            here, there = module.part, inside.partition(".")[0]
            where = f"{module.name}:{item.line} ({here}) imports {inside}"
            if there in LAYERS and LAYERS[there] > LAYERS[here]:
                found.append(f"{where}, which lies above it")
            if frozenset({here, there}) in UNRELATED:
                found.append(f"{where}, but these two must not import each other")
    return found


def imports_that_go_up_within_a_part(package: Package) -> list[str]:
    """An import from a folder of the same part that comes later in its order; a folder that has no place in it."""
    found = []
    for module in package.values():
        for item in module.imports:
            inside = _inside(item.target)
            if not module.name or not inside or inside.partition(".")[0] != module.part or module.part not in FOLDERS:
                continue
            order = FOLDERS[module.part]
            here, there = (_folder(name, package) for name in (module.name, inside))
            where = f"{module.name}:{item.line} imports {inside}"
            if {here, there} - set(order):
                found.append(f"{where}, but one of the folders has no place in FOLDERS")
            elif order.index(there) > order.index(here):
                found.append(f"{where}, which lies above it")
    return found


def _folder(name: str, package: Package) -> str:
    """The folder of a module within its part; "" for none."""
    _, *rest = name.split(".")
    is_folder = bool(rest) and any(other.startswith(f"{name}.") for other in package)
    return rest[0] if len(rest) > 1 or is_folder else ""


def imports_from_the_root(package: Package) -> list[str]:
    """A public name taken from the package root, which would import everything from anywhere."""
    return [
        f"{module.name}:{item.line} takes {item.name or 'names'} from the package root, not from where it lives"
        for module in package.values()
        for item in module.imports
        if _inside(item.target) == "" and item.name != "__version__"
    ]


def eager_root(package: Package) -> list[str]:
    """The package root loads anything but the standard library before a name is asked for."""
    return [
        f"the package root imports {item.target} when it is loaded (line {item.line})"
        for item in package[""].imports
        if item.on_load and item.target.partition(".")[0] not in sys.stdlib_module_names
    ]


def import_cycles(package: Package) -> list[str]:
    """Modules that import each other in a cycle, and folders that do."""
    modules: dict[str, set[str]] = {name: set() for name in package if name}
    parts: dict[str, set[str]] = {module.part: set() for module in package.values() if module.name}
    for module in package.values():
        for item in module.imports:
            there = _inside(item.target)
            if module.name and there in modules:
                modules[module.name].add(there)
                if (part := there.partition(".")[0]) != module.part:
                    parts[module.part].add(part)
    return [" -> ".join(loop) for graph in (modules, parts) if (loop := _cycle(graph))]


def _cycle(graph: dict[str, set[str]]) -> list[str]:
    """One cycle of a directed graph, its first node repeated at the end; empty if there is none."""
    done: set[str] = set()

    def descend(node: str, trail: list[str]) -> list[str]:
        if node in trail:
            return [*trail[trail.index(node) :], node]
        if node in done:
            return []
        for following in sorted(graph[node]):
            if loop := descend(following, [*trail, node]):
                return loop
        done.add(node)
        return []

    return next((loop for node in sorted(graph) if (loop := descend(node, []))), [])


def long_files(package: Package) -> list[str]:
    """Files of more than 500 lines."""
    return [f"{m.path.name} has {m.lines} lines" for m in package.values() if m.lines > MAX_LINES]


def vague_names(package: Package) -> list[str]:
    """Folders and files called utils, common, types, base, constants."""
    return [m.name for m in package.values() if VAGUE & set(m.name.split("."))]


def parts_without_a_layer(package: Package) -> list[str]:
    """A folder or file at the top of the package that the table of layers lacks."""
    return sorted({m.part for m in package.values() if m.name and m.part not in LAYERS})


def pyro_elsewhere(package: Package) -> list[str]:
    """Pyro imported outside the one module that may."""
    return [
        f"{m.name}:{item.line} imports {item.target}"
        for m in package.values()
        for item in m.imports
        if item.target.partition(".")[0] == "pyro" and m.name != PYRO_MODULE
    ]


RULES: list[Callable[[Package], list[str]]] = [
    import_cycles,
    eager_root,
    imports_from_the_root,
    imports_that_go_up,
    imports_that_go_up_within_a_part,
    long_files,
    vague_names,
    parts_without_a_layer,
    pyro_elsewhere,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rules(rule: Callable[[Package], list[str]]) -> None:
    assert rule(read_package(SOURCE)) == []


def test_all_modules_are_read() -> None:
    package = read_package(SOURCE)
    assert len(package) == len(list(SOURCE.rglob("*.py")))
    assert "model.conditional" in {_inside(item.target) for item in package["model.latent"].imports}


# --- the checker itself ------------------------------------------------------------------------------------------

SOUND = {
    "__init__.py": (
        "from importlib import import_module\nfrom typing import Any\n"
        "def __getattr__(name: str) -> Any:\n    return import_module('elbowroom.model.latent')\n"
    ),
    "errors.py": "",
    "numerics.py": "import torch\nfrom elbowroom.errors import ElbowroomError\n",
    "data/__init__.py": "",
    "data/batch.py": "from ..numerics import chunks\nfrom .support import Support\n",
    "data/support.py": "from elbowroom import __version__\n",
    "samplers/hmc.py": "import elbowroom.numerics\n",
    "model/__init__.py": "",
    "model/latent.py": "from elbowroom.data import batch\n",
    "inference/objectives.py": "from elbowroom.model.latent import LatentModel\nimport elbowroom.samplers.hmc\n",
    "learners/aevb.py": "from elbowroom.inference import objectives\n",
    "learners/svi.py": "import pyro.distributions\n",
    "evaluation/evaluate.py": "import elbowroom.inference.objectives\n",
    "running/engine.py": "import elbowroom.evaluation.evaluate\nfrom elbowroom.learners.aevb import Aevb\n",
    "showing/plots.py": "import numpy\n",
    "cli.py": "def main():\n    from elbowroom.running.engine import train\n    from elbowroom.showing import plots\n",
}


def build(folder: Path, files: dict[str, str]) -> Package:
    """A package in ``folder``: the one without violations, with these files in the place of, or beside, its own."""
    for name, text in (SOUND | files).items():
        path = folder / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return read_package(folder / PACKAGE)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_package_without_violations_passes(rule: Callable[[Package], list[str]], tmp_path: Path) -> None:
    assert rule(build(tmp_path, {})) == []


PLANTED: dict[str, tuple[Callable[[Package], list[str]], dict[str, str]]] = {
    "up": (imports_that_go_up, {"model/latent.py": "from elbowroom.inference.objectives import elbo\n"}),
    "up, a module": (imports_that_go_up, {"model/latent.py": "from elbowroom.inference import objectives\n"}),
    "up, a folder": (imports_that_go_up, {"model/latent.py": "import elbowroom.inference\n"}),
    "up, plain import": (imports_that_go_up, {"data/batch.py": "import elbowroom.model.latent as latent\n"}),
    "up, by the folder's __init__": (imports_that_go_up, {"model/__init__.py": "from ..learners import aevb\n"}),
    "up, relative": (imports_that_go_up, {"model/latent.py": "from ..inference.objectives import elbo\n"}),
    "up, relative to the root": (imports_that_go_up, {"model/latent.py": "from .. import cli\n"}),
    "up, in a function": (
        imports_that_go_up,
        {"learners/aevb.py": "def step():\n    from elbowroom.running import engine\n"},
    ),
    "up, in a method": (
        imports_that_go_up,
        {"learners/aevb.py": "class A:\n    def step(self):\n        import elbowroom.running.engine\n"},
    ),
    "up, for types only": (
        imports_that_go_up,
        {"evaluation/evaluate.py": "if TYPE_CHECKING:\n    from elbowroom.running.engine import Run\n"},
    ),
    "up, by import_module": (
        imports_that_go_up,
        {"model/latent.py": "import importlib\nplots = importlib.import_module('elbowroom.showing.plots')\n"},
    ),
    "up, within the lowest layer": (imports_that_go_up, {"numerics.py": "from elbowroom.data.batch import Batch\n"}),
    "errors imports nothing": (imports_that_go_up, {"errors.py": "import elbowroom.numerics\n"}),
    "samplers import data": (imports_that_go_up, {"samplers/hmc.py": "from elbowroom.data.batch import Batch\n"}),
    "data import samplers": (imports_that_go_up, {"data/batch.py": "from elbowroom.samplers import hmc\n"}),
    "up within a part": (
        imports_that_go_up_within_a_part,
        {"inference/gaussian/laplace.py": "", "inference/weights.py": "import elbowroom.inference.gaussian.laplace\n"},
    ),
    "up within a part, a folder": (
        imports_that_go_up_within_a_part,
        {
            "inference/annealing/ais.py": "",
            "inference/gaussian/laplace.py": "from elbowroom.inference.annealing import ais\n",
        },
    ),
    "a folder without a place": (
        imports_that_go_up_within_a_part,
        {"inference/novel/a.py": "import elbowroom.inference.objectives\n"},
    ),
    "a public name": (imports_from_the_root, {"model/latent.py": "from elbowroom import load_data\n"}),
    "all public names": (imports_from_the_root, {"running/engine.py": "import elbowroom as er\n"}),
    "an eager root": (eager_root, {"__init__.py": "from elbowroom.model.latent import LatentModel\n"}),
    "an eager root, relative": (eager_root, {"__init__.py": "from .model import latent\n"}),
    "a root that loads torch": (eager_root, {"__init__.py": "try:\n    import torch\nfinally:\n    pass\n"}),
    "two modules": (
        import_cycles,
        {
            "model/latent.py": "from elbowroom.model.priors import Prior\n",
            "model/priors.py": "def f():\n    from .latent import L\n",
        },
    ),
    "three modules": (
        import_cycles,
        {
            "data/a.py": "import elbowroom.data.b\n",
            "data/b.py": "import elbowroom.data.c\n",
            "data/c.py": "import elbowroom.data.a\n",
        },
    ),
    "a module that imports itself": (import_cycles, {"data/a.py": "from elbowroom.data import a\n"}),
    "two folders": (
        import_cycles,
        {
            "learners/aevb.py": "import elbowroom.evaluation.evaluate\n",
            "evaluation/other.py": "import elbowroom.learners.svi\n",
        },
    ),
    "a long file": (long_files, {"model/latent.py": "x = 1\n" * 501}),
    "utils.py": (vague_names, {"model/utils.py": ""}),
    "common/": (vague_names, {"common/thing.py": ""}),
    "base/ deep down": (vague_names, {"model/base/thing.py": ""}),
    "types.py": (vague_names, {"types.py": ""}),
    "constants/": (vague_names, {"constants/__init__.py": ""}),
    "a new folder": (parts_without_a_layer, {"attic/box.py": ""}),
    "a new file": (parts_without_a_layer, {"attic.py": ""}),
    "pyro": (pyro_elsewhere, {"model/latent.py": "import pyro\n"}),
    "a part of pyro, in a function": (pyro_elsewhere, {"cli.py": "def f():\n    from pyro.infer import SVI\n"}),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_violation_is_found(planted: str, tmp_path: Path) -> None:
    rule, files = PLANTED[planted]
    package = build(tmp_path, files)
    assert len(rule(package)) == 1


def test_violations_name_their_place(tmp_path: Path) -> None:
    package = build(tmp_path, {"model/latent.py": "import torch\nfrom elbowroom.running.engine import train\n"})
    assert imports_that_go_up(package) == ["model.latent:2 (model) imports running.engine, which lies above it"]


def test_five_hundred_lines_are_allowed(tmp_path: Path) -> None:
    assert long_files(build(tmp_path, {"model/latent.py": "x = 1\n" * 500})) == []


def test_a_cycle_is_spelt_out(tmp_path: Path) -> None:
    files = {"model/a.py": "import elbowroom.model.b\n", "model/b.py": "import elbowroom.model.a\n"}
    assert import_cycles(build(tmp_path, files)) == ["model.a -> model.b -> model.a"]
