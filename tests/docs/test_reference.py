"""Every name that can be chosen has its page of one form, and every public name is in the reference of Python."""

from __future__ import annotations

import ast
import pkgutil
import re
from pathlib import Path

import pytest

import elbowroom
from elbowroom.inference.posterior.sample import METHODS as KERNELS
from elbowroom.names import NAMES
from elbowroom.running.config import Config

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
SECTIONS = ["Generative process", "Inference", "Symbols and code", "When to use it", "Citation"]
#: folder -> the names that have a page there
FOLDERS: dict[str, set[str]] = {
    **{kind: set(names) for kind, names in NAMES.items() if kind != "objectives"},  # these are methods too
    "samplers": set(KERNELS),
}
PAGES = sorted((kind, name) for kind, names in FOLDERS.items() for name in names)


def faults_of(text: str, name: str) -> list[str]:
    """What a page of the reference lacks."""
    said = [] if text.startswith(f"# `{name}`\n") else [f"does not begin with its name, {name}"]
    parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    headings, bodies = parts[1::2], dict(zip(parts[1::2], parts[2::2], strict=True))
    if headings != SECTIONS:
        said.append(f"has the sections {headings}")
    said += [f"'{heading}' is empty" for heading, body in bodies.items() if not body.strip()]
    if "| symbol | code |\n|---|---|\n| " not in bodies.get("Symbols and code", ""):
        said.append("has no table from symbols to code")
    if not re.search(r"\{cite:t\}`\w+`|\((?:19|20)\d\d\), \*", bodies.get("Citation", "")):
        said.append("cites nothing")
    return said


@pytest.mark.parametrize(("kind", "name"), PAGES, ids=lambda part: part)
def test_every_entry_has_its_page(kind: str, name: str) -> None:
    page = REFERENCE / kind / f"{name}.md"
    assert page.is_file(), f"write {page.relative_to(ROOT)}"
    assert faults_of(page.read_text(encoding="utf-8"), name) == []


@pytest.mark.parametrize(("kind", "name"), PAGES, ids=lambda part: part)
def test_what_a_page_names_exists(kind: str, name: str) -> None:
    text = (REFERENCE / kind / f"{name}.md").read_text(encoding="utf-8")
    known = set(re.findall(r"^@\w+\{(\w+),", (ROOT / "docs" / "references.bib").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"\{cite:[tp]\}`(\w+)`", text)) <= known
    for place in re.findall(r"\{py:\w+\}`(?:[^`<]*<|~)?([\w.]+)>?`", text):
        pkgutil.resolve_name(place)  # raises if there is no such module or attribute
    sections = {name: field.annotation for name, field in Config.model_fields.items()}
    for section, key in re.findall(r"--([a-z]+)\.([a-z-]+)", text):
        assert key.replace("-", "_") in sections[section].model_fields, f"--{section}.{key}"  # type: ignore[union-attr]


@pytest.mark.parametrize(("kind", "names"), FOLDERS.items())
def test_every_page_is_of_an_entry_and_is_listed(kind: str, names: set[str]) -> None:
    folder = REFERENCE / kind
    assert {page.stem for page in folder.glob("*.md")} == {*names, "index"}
    index = (folder / "index.md").read_text(encoding="utf-8")
    for name in names:
        assert f"[`{name}`]({name}.md)" in index
        assert re.search(rf"^{name}$", index, re.MULTILINE)  # in the list of contents


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        (("# `poisson`", "# Poisson"), "does not begin with its name"),
        (("## When to use it", "## Use"), "has the sections"),
        (("## Inference", "## Learning"), "has the sections"),
        (("| symbol | code |", "| symbol | name |"), "has no table"),
        (("{cite:t}`rezende2014`. The", "The"), None),  # the second citation is one still
    ],
)
def test_a_page_of_another_form_is_found(planted: tuple[str, str], said: str | None) -> None:
    page = (REFERENCE / "likelihoods" / "poisson.md").read_text(encoding="utf-8")
    assert planted[0] in page
    found = faults_of(page.replace(*planted), "poisson")
    assert found == [] if said is None else any(said in fault for fault in found)


# --- Python ------------------------------------------------------------------------------------------------------


def documented_modules() -> list[str]:
    """The modules whose members the reference lists, as often as it does."""
    pages = sorted((REFERENCE / "api").glob("*.md"))
    return [name for page in pages for name in re.findall(r"^\.\. automodule:: (\S+)$", page.read_text(), re.MULTILINE)]


def public_modules() -> set[str]:
    """Those that say what is public, but for the command line, which has a page of its own."""
    found = set()
    for file in (ROOT / "src" / "elbowroom").rglob("*.py"):
        body = ast.parse(file.read_text(encoding="utf-8")).body
        targets = {target.id for node in body if isinstance(node, ast.Assign) for target in _names(node)}
        if "__all__" in targets:
            found.add(".".join(file.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__"))
    return {name for name in found if name.split(".")[1:2] not in ([], ["cli"])}


def _names(node: ast.Assign) -> list[ast.Name]:
    return [target for target in node.targets if isinstance(target, ast.Name)]


def test_every_public_module_is_documented_once() -> None:
    documented = documented_modules()
    assert len(documented) == len(set(documented))
    assert set(documented) == public_modules()
    assert len(documented) > 100


def test_every_public_name_is_listed() -> None:
    index = (REFERENCE / "api" / "index.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| \{py:\w+\}`er\.(\w+) <([\w.]+)>` \| \S", index, re.MULTILINE))
    expected = {name: ".".join(filter(None, place)) for name, place in elbowroom._PUBLIC.items()}
    assert listed == expected


def test_what_public_names_stand_for_is_documented() -> None:
    modules = set(documented_modules())
    for module, attribute in elbowroom._PUBLIC.values():
        assert module in modules
        if attribute is not None:
            source = (ROOT / "src" / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
            assert re.search(rf'__all__ = \[[^\]]*"{attribute}"', source), f"{module} does not say {attribute}"


def stray_references(docstring: str) -> list[str]:
    """Words that reStructuredText takes for links, since they end in an underscore: the x of ``x_-d`` in plain text."""
    text = re.sub(r"\.\. math::.*?(?=\n\n *\S|\Z)", "", docstring, flags=re.DOTALL)
    text = re.sub(r"``.+?``|`[^`]*`", "", text, flags=re.DOTALL)
    text = re.sub(r"^ *>>>.*?(?=\n *\n|\Z)", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"(?<![\w\\])\w*[^\W_]_(?=[\s\-.,:;!?)\]}/'\"]|\Z)", text)  # what may follow a link


@pytest.mark.parametrize(
    ("docstring", "found"),
    [
        ("Estimate log p(x_d | x_-d).", ["x_"]),
        ("Estimate ``log p(x_d | x_-d)``, from :math:`x_{-d}`.", []),
        (".. math:: x_-d\n\nAnd y_ is here.", ["y_"]),
        ("Example:\n    >>> x_ = 3\n", []),
    ],
)
def test_stray_references_are_found(docstring: str, found: list[str]) -> None:
    assert stray_references(docstring) == found


def test_no_docstring_has_a_stray_reference() -> None:
    faults = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in sorted((ROOT / "src").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        for word in stray_references(ast.get_docstring(node) or "")
    ]
    assert not faults
