"""Messages in the language of the caller: flags on the command line, keywords in Python.

Messages are written once, with flags: "pass ``--data.missing mask``". Unless the command line has asked for them as
they are, `phrased` turns flags into keywords when an error is made: into ``data={"missing": "mask"}``, which `train`
takes, or into ``missing="mask"`` inside `load_data`, whose keywords have no sections. A flag without a value becomes
the name of the setting: "``--data.missing`` is 'x'" becomes "``data.missing`` is 'x'". Commands between backticks stay
commands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

__all__ = ["Language", "phrased", "speaking", "with_article"]

Language = Literal["flags", "keywords", "flat keywords"]
"""Of the command line; of `train` and most functions; of `load_data`."""

_SECTIONS = ("data", "model", "objective", "optimizer", "train", "mcem", "svi", "runtime")
_SWITCHES = ("resume", "overwrite", "quiet", "keep-data", "json")
_VERBS = frozenset(["is", "are", "was", "were", "has", "does", "needs", "lacks", "cannot", "contradict"])
# words that follow the name of a flag and are not its value
_PROSE = _VERBS | frozenset(["and", "or", "but", "if", "so", "for", "with", "at", "in", "to", "out", "from"])

_FLAG = r"--[a-z][a-z0-9-]*(?:\.[a-z][a-z0-9-]*)*"
_VALUE = r"""'[^']*'|"[^"]*"|[^\s`()'"]*[^\s`()'".,;:…]"""
_SPAN = re.compile(rf"(`[^`]*`)|(?<![\w-])({_FLAG}(?: (?:{_FLAG}|{_VALUE}))*)")

_language: ContextVar[Language | None] = ContextVar("language", default=None)


@contextmanager
def speaking(language: Language, *, unless_set: bool = True) -> Iterator[None]:
    """A context in which messages are made in a language; one that was set outside it holds.

    Args:
        language: of the messages.
        unless_set: False to set it whatever was set outside.
    """
    token = _language.set(language if _language.get() is None or not unless_set else _language.get())
    try:
        yield
    finally:
        _language.reset(token)


def phrased(text: str) -> str:
    """A message that was written with flags, in the language of the caller.

    Example:
        >>> phrased("Pass --data.missing mask, or lower --optimizer.lr.")
        'Pass data={"missing": "mask"}, or lower optimizer.lr.'
        >>> with speaking("flat keywords"):
        ...     phrased("Pass --data.missing mask.")
        'Pass missing="mask".'
        >>> with speaking("flags"):
        ...     phrased("Pass --data.missing mask.")
        'Pass --data.missing mask.'
    """
    language = _language.get() or "keywords"
    if language == "flags":
        return text
    text = re.sub(rf"(?<![\w-])({_FLAG})=(?=\S)", r"\1 ", text)  # --data.missing-values=-999
    return _SPAN.sub(lambda found: found[1] or _translated(found[2], language), text)


def with_article(words: str) -> str:
    """Words with "a" or "an" before them.

    Example:
        >>> with_article("ordinal likelihood"), with_article("uniform prior")
        ('an ordinal likelihood', 'a uniform prior')
    """
    return f"{'an' if words[0] in 'aeio' else 'a'} {words}"


def _translated(span: str, language: Language) -> str:
    """A flag with the words behind it, or several flags in a row, as keywords; words that belong to none stay."""
    words = re.findall(rf"{_VALUE}|\S+", span)
    said: list[str] = []
    merged: dict[str, dict[str, Any]] = {}  # by the place of its section among the alternatives
    alternative = 0
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if not word.startswith("--"):
            said.append(word)
            alternative += word != "and"  # "or" stands between settings that are not given together
            continue
        name = word.removeprefix("--")
        takes = name not in _SWITCHES and at < len(words) and _is_value(words[at])
        value = words[at] if takes else None
        at += takes
        section, _, key = name.replace("-", "_").partition(".")
        if value is not None and key and language == "keywords":
            group = f"{section}:{alternative}:"
            if group not in merged:
                said.append(f"\0{group}")
            elif said[-1] == "and":
                said.pop()
            _put(merged.setdefault(group, {}), key, value)
            continue
        about = at < len(words) and words[at] in _VERBS  # a sentence about the setting, not one that asks for it
        if value is not None and said and re.match(r"[\w.]+=[^…]", said[-1]):
            said[-1] += ","  # keywords in a row
        said.append(_keyword(name, value, language, about=about))
    text = re.sub(r"(\0[\w:]+) (?=\0)", r"\1, ", " ".join(said))  # sections in a row
    for group, keys in merged.items():
        text = text.replace(f"\0{group}", f"{group.partition(':')[0]}={_dict(keys)}")
    return text


def _is_value(word: str) -> bool:
    return not word.startswith("--") and word not in _PROSE


def _put(keys: dict[str, Any], path: str, value: str) -> None:
    head, _, rest = path.partition(".")
    if rest:
        _put(keys.setdefault(head, {}), rest, value)
    else:
        keys[head] = value


def _dict(keys: dict[str, Any]) -> str:
    parts = (f'"{name}": {_dict(of) if isinstance(of, dict) else _literal(of)}' for name, of in keys.items())
    return f"{{{', '.join(parts)}}}"


def _keyword(name: str, value: str | None, language: Language, *, about: bool) -> str:
    """One flag as a keyword, or its name where it has no value."""
    name = name.replace("-", "_")
    if name.replace("_", "-") in _SWITCHES:
        return f"{name}=True"
    if name == "methods":
        return "run.evaluate(…)" if value is None else f"run.evaluate({', '.join(map(_literal, value.split(',')))})"
    section, _, key = name.partition(".")
    if language == "flat keywords" and section == "data" and key:
        name = key
    if value is None:
        return name if about or "." in name or name in _SECTIONS else f"{name}=…"
    return f"{name}={_literal(value)}"


def _literal(value: str) -> str:
    """A value of a flag as Python writes it."""
    if value[:1] in "'\"" and value[:1] == value[-1:]:
        return f'"{value[1:-1]}"'
    if "," in value:
        return f"[{', '.join(map(_literal, value.split(',')))}]"
    return value if re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", value) else f'"{value}"'
