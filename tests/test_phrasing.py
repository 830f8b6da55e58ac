"""Messages name flags on the command line and keywords in Python, and each names something that exists there."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

import elbowroom as er
from elbowroom.cli import _COMMANDS
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.settings import Settings
from elbowroom.phrasing import Language, phrased, speaking
from elbowroom.running.config import Config, configure

SOURCE = Path(er.__file__).parent
NOT_MESSAGES = {
    "cli",
    "showing",
    "phrasing.py",
}  # the command line's own words, and pages and tables that show commands
_FLAG = re.compile(r"(?<![\w-])--([a-z][a-z0-9.-]*[a-z0-9]|[a-z])")


@pytest.fixture
def python() -> Iterator[None]:
    """As a caller in Python hears it."""
    with speaking("keywords", unless_set=False):
        yield


# --- every message of the package --------------------------------------------------------------------------------


def _texts(node: ast.AST, flagged: set[int], inside: bool = False) -> Iterator[tuple[int, str]]:
    """Texts that are no docstrings, with {} for what is filled in; adjacent pieces are one text to Python too.

    Only statements are looked into that hold one of the flagged lines.
    """
    if isinstance(node, ast.JoinedStr):
        yield node.lineno, "".join(p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
        inside = True  # its pieces are no texts of their own
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not inside:
        yield node.lineno, node.value
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue  # the docstring of a module, class, function or field
        if isinstance(child, ast.stmt) and flagged.isdisjoint(range(child.lineno, (child.end_lineno or 0) + 1)):
            continue
        yield from _texts(child, flagged, inside)


def messages() -> list[tuple[str, str]]:
    """(place, text) of all texts that name a flag; documented fields are left out."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        where = path.relative_to(SOURCE)
        if where.parts[0] in NOT_MESSAGES:
            continue
        source = path.read_text(encoding="utf-8")
        flagged = {number for number, line in enumerate(source.split("\n"), 1) if re.search("--[a-z]", line)}
        if flagged:
            texts = _texts(ast.parse(source), flagged)
            found += [(f"{where}:{line}", text) for line, text in texts if _FLAG.search(text)]
    return found


MESSAGES = messages()


def _flags_of(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        flag = prefix + name.replace("_", "-")
        yield flag
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _flags_of(field.annotation, f"{flag}.")


@functools.cache
def flags() -> set[str]:
    """All flags of all commands."""
    found = {*_flags_of(Config), *_flags_of(Settings), "json"}
    for _, _, place, _ in _COMMANDS:
        module, function = place.split(":")
        called = getattr(importlib.import_module(f"elbowroom.cli.{module}"), function)
        found |= {name.replace("_", "-") for name in inspect.signature(called).parameters}
    return found


@functools.cache
def keywords() -> set[str]:
    """All keywords of public functions and of a run's methods, and all settings with dots."""
    functions: list[Callable[..., Any]] = [getattr(er, n) for n in er.__all__ if inspect.isfunction(getattr(er, n))]
    functions += [method for _, method in inspect.getmembers(er.Run, inspect.isfunction)]
    found = {name for function in functions for name in inspect.signature(function).parameters}
    found |= {name.replace("-", "_") for name in (*_flags_of(Config), *_flags_of(Settings))}
    from elbowroom.inference.posterior.sample import posterior

    return found | set(inspect.signature(posterior).parameters)


def test_there_are_messages_to_look_at() -> None:
    assert len(MESSAGES) > 60
    assert any("--data.missing mask" in text for _, text in MESSAGES)


def _shown(text: str) -> str:
    return re.sub(r"`[^`]*`", "", text)


@pytest.mark.parametrize(("place", "text"), MESSAGES, ids=[place for place, _ in MESSAGES])
def test_every_flag_of_a_message_exists_and_has_a_keyword(place: str, text: str, python: None) -> None:
    known, words = flags(), keywords()
    for part, name in {"--data.{}": "--data.test", "--mcem.{}": "--mcem.draws", "--{}": "--points"}.items():
        text = text.replace(part, name)  # what can be filled in
    for flag in _FLAG.findall(text.replace("--help", "")):
        assert flag in known, f"{place}: there is no flag --{flag}"
    said = phrased(_shown(text).replace("{}", "x"))
    assert "--" not in said, said
    for name in re.findall(r"(?<![\w.\"'])([a-z_]+)=", said):
        assert name in words, f"{place}: there is no keyword {name}"
    for name in re.findall(
        r"(?<![\w.\"'])((?:data|model|objective|optimizer|train|mcem|svi|runtime)\.[a-z_.]*[a-z_])", said
    ):
        assert name in words, f"{place}: there is no setting {name}"
    for section, keys in re.findall(r"(?<![\w.])([a-z]+)=(\{.*?\}+)", said):
        given = ast.literal_eval(keys)
        if '"x"' in keys:  # what is filled in is not known here
            assert all(f"{section}.{name}" in words for name in given), said
        else:
            configure({section: given})


# --- how a flag becomes a keyword --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "language", "said"),
    [
        ("Pass --data.missing mask.", "keywords", 'Pass data={"missing": "mask"}.'),
        ("Pass --data.missing mask.", "flat keywords", 'Pass missing="mask".'),
        ("Pass --data.missing mask.", "flags", "Pass --data.missing mask."),
        ("--data.missing is 'x'.", "keywords", "data.missing is 'x'."),
        ("--data.missing is 'x'.", "flat keywords", "missing is 'x'."),
        ("Declare another support: --data.support.", "keywords", "Declare another support: data.support."),
        ("Declare another support: --data.support.", "flat keywords", "Declare another support: support=…."),
        ("Replace it (--overwrite).", "keywords", "Replace it (overwrite=True)."),
        ("Another name (--out runs/a-2), or", "keywords", 'Another name (out="runs/a-2"), or'),
        ("a name (--out 'my runs/a-2'), or", "keywords", 'a name (out="my runs/a-2"), or'),
        ("Give another name with --out.", "keywords", "Give another name with out=…."),
        ("Lower --optimizer.lr, or set --optimizer.clip-norm 10;", "keywords",
         'Lower optimizer.lr, or set optimizer={"clip_norm": 10};'),
        ("--optimizer.lr 3e-4 --optimizer.clip-norm 10.", "keywords", 'optimizer={"lr": 3e-4, "clip_norm": 10}.'),
        ("larger: --model.encoder.hidden 500,500.", "keywords", 'larger: model={"encoder": {"hidden": [500, 500]}}.'),
        ("(--data.validation 9 --train.patience 5)", "keywords", '(data={"validation": 9}, train={"patience": 5})'),
        ("use the defaults of --model.", "keywords", "use the defaults of model."),
        ("Use --methods ais,bdmc.", "keywords", 'Use run.evaluate("ais", "bdmc").'),
        ("`elbowroom encode RUN --posterior hmc` does.", "keywords", "`elbowroom encode RUN --posterior hmc` does."),
        ("set it with --train.epochs or --train.steps.", "keywords", "set it with train.epochs or train.steps."),
        ("from a word -- to another, and x--y", "keywords", "from a word -- to another, and x--y"),
    ],
)  # fmt: skip
def test_a_flag_becomes_a_keyword(text: str, language: Language, said: str) -> None:
    with speaking(language, unless_set=False):
        assert phrased(text) == said


def _refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ElbowroomError) as caught:
        call()
    return str(caught.value)


def test_each_way_in_has_its_own_words(tmp_path: Path, ask: Any) -> None:
    """The same fault, told to the callers of `load_data`, of `train` and of the command line."""
    gappy = np.random.default_rng(0).normal(size=(30, 3))
    gappy[4, 1] = np.nan
    np.save(tmp_path / "gappy.npy", gappy)
    with speaking("flags", unless_set=False):
        pass  # what was said before has no say now
    said = {}
    with _silence():
        said["load_data"] = _refusal(lambda: er.load_data(gappy))
        said["train"] = _refusal(lambda: er.train(gappy, out=tmp_path / "run"))
    said["cli"] = ask("train", str(tmp_path / "gappy.npy"), "--out", str(tmp_path / "run"))[2]
    assert 'pass missing="mask"' in said["load_data"]
    assert 'pass data={"missing": "mask"}' in said["train"]
    assert "pass --data.missing mask" in said["cli"]
    with _silence():  # and each of the remedies works
        assert er.load_data(gappy, missing="mask").masked  # type: ignore[union-attr]
        short = {"train": {"steps": 1}, "model": {"latent_dim": 1}, "observers": []}
        assert er.train(gappy, out=tmp_path / "run", data={"missing": "mask"}, **short).step == 1


def _silence() -> typing.ContextManager[None]:
    """A caller who has said nothing about language, as in a notebook."""
    from elbowroom import phrasing

    return _unset(phrasing._language)


@typing.no_type_check
def _unset(variable):
    import contextlib

    @contextlib.contextmanager
    def unset():
        token = variable.set(None)
        try:
            yield
        finally:
            variable.reset(token)

    return unset()


@pytest.mark.parametrize(
    ("flags", "keywords"),
    [
        (
            "pass --data.image-mode grey or --data.image-mode rgb.",
            'pass data={"image_mode": "grey"} or data={"image_mode": "rgb"}.',
        ),
        ("--data.missing mask and --data.labels y", 'data={"missing": "mask", "labels": "y"}'),
        ("--data.test 0 and --train.epochs 5", 'data={"test": 0} and train={"epochs": 5}'),
    ],
)
def test_alternatives_stay_apart_and_what_belongs_together_is_one(flags: str, keywords: str) -> None:
    with speaking("keywords", unless_set=False):
        assert phrased(flags) == keywords


def test_remarks_on_data_speak_to_their_caller_too() -> None:
    x = np.random.default_rng(0).normal(size=(200, 2))
    x[::10, 1] = -999
    said: list[str] = []
    with speaking("keywords", unless_set=False):
        er.load_data(x, announce=said.append)
    with speaking("flat keywords", unless_set=False):
        er.load_data(x, announce=said.append)
    assert said[0].endswith('pass data={"missing_values": -999, "missing": "mask"}')
    assert said[1].endswith('pass missing_values=-999, missing="mask"')
