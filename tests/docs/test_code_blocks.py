"""Every block of code in README, CONTRIBUTING and the documentation runs.

| block | what is done with it |
|---|---|
| ``python`` | executed, a page in one namespace and one folder; with ``>>>`` output is compared |
| ``console`` | lines ``$ elbowroom …`` are executed in order and must exit with 0, ``$ make X`` must be a target |
| ``toml``, ``json`` | parsed |
| ``text`` | nothing; output and file trees |

Each block of README is executed alone, in an empty namespace and an empty folder, as a reader who pastes it does.

A comment above a block says more of it: ``<!-- slow -->`` and ``<!-- needs: mnist -->`` leave it to the slow tests (and
to machines with MNIST), ``<!-- no-run: REASON -->`` excuses a console block in which neither elbowroom nor Python is
called. ``<!-- setup … -->`` holds Python that a page needs and does not show.

Pages are written to be typed, with runs of a minute. The quick tests execute the same lines with less to do: one
epoch at most, few points and draws. The slow tests execute them as they are printed, but those on MNIST.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import os
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

import elbowroom
from elbowroom.cli import main
from elbowroom.data import sources

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES += [page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts]
ALONE = {ROOT / "README.md"}  # pages of which each block runs alone
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
DATA = Path(os.environ.get("ELBOWROOM_DATA", "/nowhere"))  # before conftest.py hides it
HAS_MNIST = (DATA / "MNIST" / "raw").is_dir()

_FENCE = re.compile(r"^(?P<indent>\s*)(?P<ticks>`{3,}|~{3,})\s*(?P<info>[^`]*?)\s*$")
_BUDGETS = ("seconds", "visits", "decoder_gradients")
_LITERAL = {"math", "include", "toctree", "eval-rst", "bibliography", "elbowroom-commands", "elbowroom-recipes"}
_NO_FENCE = re.compile(r"^(?: {4,}|\t)\s*(?:\$ )?(?:elbowroom |>>> |import |from \w+ import )")


# --- reading a page ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A piece of code: its language, the number of its first line, and what comments above say of it."""

    language: str
    line: int
    code: str
    comments: tuple[str, ...] = ()

    @property
    def needs_mnist(self) -> bool:
        return "needs: mnist" in self.comments

    @property
    def quick(self) -> bool:
        return not self.needs_mnist and "slow" not in self.comments

    @property
    def excused(self) -> bool:
        return any(comment.startswith("no-run:") and comment[7:].strip() for comment in self.comments)


class BlockError(AssertionError):
    """A block that does not do what a reader expects."""


def read_blocks(text: str) -> list[Block]:
    """The blocks of a Markdown page, those inside notes and other boxes too."""
    return list(_blocks(text.splitlines(), 1))


def _blocks(lines: list[str], first: int) -> Iterator[Block]:
    comments: list[str] = []
    at = 0
    while at < len(lines):
        line, number = lines[at], first + at
        if fence := _FENCE.match(line):
            end = _end_of(lines, at, re.compile(rf"\s*{re.escape(fence['ticks'])}+\s*"), number)
            body = [inner.removeprefix(fence["indent"]) for inner in lines[at + 1 : end]]
            yield from _fenced(fence["info"], body, number + 1, tuple(comments))
            comments, at = [], end
        elif line.lstrip().startswith("<!--"):
            end = next((n for n in range(at, len(lines)) if "-->" in lines[n]), len(lines) - 1)
            head, _, rest = "\n".join(lines[at : end + 1]).strip()[4:].partition("\n")
            if head.strip() == "setup":
                yield Block("python", number + 1, rest.rpartition("-->")[0], tuple(comments))
            else:
                comments.append(head.partition("-->")[0].strip())
            at = end
        elif _NO_FENCE.match(line):
            raise BlockError(f"line {number}: code without a fence is not run: {line.strip()}")
        elif line.strip():
            comments = []
        at += 1


def _end_of(lines: list[str], at: int, closing: re.Pattern[str], number: int) -> int:
    for end in range(at + 1, len(lines)):
        if closing.fullmatch(lines[end]):
            return end
    raise BlockError(f"line {number}: the fence is not closed")


def _fenced(info: str, body: list[str], number: int, comments: tuple[str, ...]) -> Iterator[Block]:
    directive = re.match(r"\{([\w-]+)\}\s*(\S*)", info)
    if directive is None:
        yield Block(info.split()[0] if info else "", number, "\n".join(body), comments)
    elif directive[1] in ("code-block", "code-cell"):
        skipped = next((n for n, line in enumerate(body) if line and not line.startswith(":")), len(body))
        yield Block(directive[2] or "python", number + skipped, "\n".join(body[skipped:]), comments)
    elif directive[1] not in _LITERAL:
        yield from _blocks(body, number)


def commands(block: Block) -> list[tuple[int, list[str]]]:
    """The commands of a console block with their lines: joined, comments gone, braces expanded.

    Example:
        >>> commands(Block("console", 1, "$ elbowroom compare a-{x,y}  # both"))
        [(1, ['elbowroom', 'compare', 'a-x', 'a-y'])]
    """
    found: list[tuple[int, list[str]]] = []
    lines = iter(enumerate(block.code.splitlines(), block.line))
    for number, line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        if not line.startswith("$ "):
            raise BlockError(f"line {number}: what a command prints belongs into a block of text: {line}")
        command = line[2:]
        while command.endswith("\\"):
            command = command[:-1] + next(lines, (0, ""))[1]
        words = [word for part in shlex.split(command, comments=True) for word in _expanded(part)]
        found.append((number, words))
    return found


def _expanded(word: str) -> list[str]:
    braces = re.match(r"(.*?)\{([^{}]*,[^{}]*)\}(.*)", word)
    if braces is None:
        return [word]
    return [full for part in braces[2].split(",") for full in _expanded(braces[1] + part + braces[3])]


# --- running it --------------------------------------------------------------------------------------------------


def run_page(page: Path, *, quick: bool, mnist: bool = False, alone: bool = False) -> None:
    """All blocks of a page, in order, in the working directory.

    Args:
        page: a Markdown file.
        quick: leave out what is slow, and do less of the rest.
        mnist: whether MNIST is there.
        alone: each block in an empty namespace, and in an empty folder below the working directory.
    Raises:
        BlockError: a block does not do what a reader expects; names its line.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    matplotlib.use("Agg")
    numpy_state = np.random.get_state()  # noqa: NPY002  # the legacy generator is the global one
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for block in read_blocks(page.read_text(encoding="utf-8")):
                if (quick and not block.quick) or (block.needs_mnist and not mnist):
                    check(block)
                    continue
                with pytest.MonkeyPatch.context() as local:
                    if alone:
                        namespace = {"__name__": "__main__"}
                        (folder := Path(f"line-{block.line}").absolute()).mkdir()
                        local.chdir(folder)
                    local.setattr(sources, "_download", _refuse)
                    if quick or block.needs_mnist:
                        do_less(local)
                    _run(block, namespace, page)
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        plt.close("all")


def check(block: Block) -> None:
    """What can be said of a block that is not run: the language is one of ours, the code is code."""
    match block.language:
        case "python":
            code = block.code
            if ">>> " in code:
                code = "".join(example.source for example in doctest.DocTestParser().get_examples(code))
            compile(code, "<block>", "exec")
        case "console":
            for number, words in commands(block):
                _check_command(words, number, excused=block.excused)
        case "toml":
            tomllib.loads(block.code)
        case "json":
            json.loads(block.code)
        case other if other != "text":
            raise BlockError(f"line {block.line}: '{other}' is none of python, console, toml, json, text")
    if block.excused and block.language != "console":
        raise BlockError(
            f"line {block.line}: a block of {block.language} is run, no-run is for commands of other programs"
        )


def _run(block: Block, namespace: dict[str, Any], page: Path) -> None:
    check(block)
    if block.language == "console":
        for number, words in commands(block):
            if words[0] == "elbowroom":
                _elbowroom(words[1:], number)
    elif block.language == "python" and ">>> " in block.code:
        _doctest(block, namespace, page)
    elif block.language == "python":
        # as many empty lines before it as in the page, so that a traceback names the page's line
        code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
        try:
            exec(code, namespace)
        except Exception as error:
            raise BlockError(f"the block from line {block.line}: {type(error).__name__}: {error}") from error


def _refuse(url: str, path: Path) -> None:
    raise BlockError(f"{url} would be fetched; <!-- needs: mnist --> is missing above")


def _check_command(words: list[str], number: int, *, excused: bool) -> None:
    program, rest = words[0], words[1:]
    if program == "elbowroom" or "python" in program:
        if excused:
            raise BlockError(f"line {number}: a block with {program} is not excused from running")
        if program != "elbowroom" and not (rest and (ROOT / rest[0]).is_file()):
            raise BlockError(f"line {number}: no script of the repository: {' '.join(words)}")
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        if lacking := [word for word in rest if "=" not in word and word not in targets]:
            raise BlockError(f"line {number}: make has no target {', '.join(lacking)}")
    elif not excused:
        raise BlockError(f"line {number}: {program} is not run, so say why: <!-- no-run: … -->")


def _elbowroom(words: list[str], number: int) -> None:
    target = None
    if ">" in words:
        words, target = words[: words.index(">")], Path(words[words.index(">") + 1])
    said, remarks = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(remarks):
            main(words)
    except SystemExit as done:
        if done.code:
            raise BlockError(f"line {number}: elbowroom {' '.join(words)}\n{remarks.getvalue()}") from done
    if target is not None:
        target.write_text(said.getvalue(), encoding="utf-8")


def _doctest(block: Block, namespace: dict[str, Any], page: Path) -> None:
    test = doctest.DocTestParser().get_doctest(block.code, {}, page.name, str(page), block.line - 1)
    test.globs = namespace  # not a copy: the next block goes on
    said: list[str] = []
    if doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append, clear_globs=False).failed:
        raise BlockError(f"the block from line {block.line}:\n{''.join(said)}")


def do_less(patch: pytest.MonkeyPatch) -> None:
    """The same functions, with fewer updates, starts, points and draws than they are asked for."""
    from elbowroom.adopting import adopt
    from elbowroom.learners import em_classes, em_start, vq_objectives
    from elbowroom.running import compare, impute, mixtures, runs
    from elbowroom.running.config import configure

    def small(settings: Any, steps: int) -> Any:
        length = settings.train
        timed = length.seconds or length.decoder_gradients
        fewer = {"seconds": min(length.seconds, 1)} if length.seconds else {} if timed else {"steps": steps}
        return settings.model_copy(update={"train": length.model_copy(update=fewer)})

    patch.setattr("elbowroom.running.train.configure", lambda *layers, **about: small(configure(*layers, **about), 5))
    patch.setattr("elbowroom.running.changes.configure", lambda *layers, **about: small(configure(*layers, **about), 8))
    patch.setattr(vq_objectives, "_LADDER", vq_objectives._LADDER[::4])
    for module in (em_classes, mixtures):
        at_most(patch, module, "start_classes", starts=1)
    for module in (em_classes, em_start):
        at_most(patch, module, "climb_until_flat", steps=3)
    for module in (runs, adopt):
        at_most(patch, module, "evaluate", points=16, k=50, simulated=16, budget=1.0)
    at_most(patch, runs, "score", k=50)
    at_most(patch, runs.Run, "doctor_input", points=60)
    at_most(patch, adopt, "DoctorInput", points=60)
    at_most(patch, runs, "posterior", draws=10, warmup=4, chains=2)
    at_most(patch, impute, "impute_batch", draws=10, warmup=4, chains=2)
    at_most(patch, elbowroom, "gradient_study", draws=50)
    at_most(patch, compare, "compare", seconds=2.0, visits=2000, decoder_gradients=2000, moments=2, points=20, k=20)


def at_most(patch: pytest.MonkeyPatch, module: Any, name: str, **most: float) -> None:
    """``module.name`` with these keywords cut down; what was not given is given, but no second budget."""
    function: Callable[..., Any] = getattr(module, name)

    def cut(*args: Any, **given: Any) -> Any:
        left = (key for key in most if given.get(key) is not None or key not in _BUDGETS)
        return function(*args, **{**given, **{key: min(given.get(key) or most[key], most[key]) for key in left}})

    patch.setattr(module, name, cut)


# --- the tests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(page, quick=True, alone=page in ALONE)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_blocks_run_as_printed(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if HAS_MNIST:
        monkeypatch.setenv("ELBOWROOM_DATA", str(DATA))
    monkeypatch.chdir(tmp_path)
    run_page(page, quick=False, mnist=HAS_MNIST, alone=page in ALONE)


_PLANTED = {
    "wrong code": "```python\nassert 1 == 2\n```",
    "wrong output": "```python\n>>> 1 + 1\n3\n\n```",
    "a later block without the first": "```python\nprint(x)\n```",
    "a flag that does not exist": "```console\n$ elbowroom recipes list --no-such-flag\n```",
    "a command that fails, continued": "```console\n$ elbowroom recipes \\\n    show mnits  # a comment\n```",
    "no target": "```console\n$ make coffee\n```",
    "another program": "```console\n$ git clone x\n```",
    "an excuse for elbowroom": "<!-- no-run: too long -->\n```console\n$ elbowroom recipes list\n```",
    "an excuse for Python": "<!-- no-run: too long -->\n```python\nx = 1\n```",
    "no reason": "<!-- no-run: -->\n```console\n$ git clone x\n```",
    "output among commands": "```console\n$ elbowroom recipes list\nmnist\n```",
    "no TOML": "```toml\n[model\n```",
    "no JSON": '```json\n{"k": 1,}\n```',
    "no language": "```\nx = 1\n```",
    "no fence": "text\n\n    elbowroom train digits\n",
    "not closed": "```python\nx = 1\n",
    "in a box": "````{tip}\n```python\nassert 1 == 2\n```\n````",
    "slow, and no Python": "<!-- slow -->\n```python\nx = = 1\n```",
}


@pytest.mark.parametrize("planted", _PLANTED.values(), ids=list(_PLANTED))
def test_planted_faults_are_found(planted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{planted}\n", encoding="utf-8")
    with pytest.raises((BlockError, SyntaxError, ValueError)):
        run_page(page, quick=True)


@pytest.mark.parametrize(
    "second",
    ["print(math.pi)", 'from pathlib import Path\n\nPath("made.txt").read_text()'],
    ids=["an import of the first", "a file of the first"],
)
def test_a_block_alone_has_nothing_of_those_before_it(
    second: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    first = 'import math\nfrom pathlib import Path\n\nPath("made.txt").write_text("")'
    page.write_text(f"```python\n{first}\n```\n\n```python\n{second}\n```\n", encoding="utf-8")
    run_page(page, quick=True)
    with pytest.raises(BlockError, match="from line 9"):
        run_page(page, quick=True, alone=True)


def test_what_may_be_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        """
<!-- setup
import math
-->

```python
x = math.floor(2.5)
```

```python
>>> x + 1
3
```

:::{note}
```console
$ make demo
$ elbowroom recipes show {mnist,}  > mine.toml   # a file
```
:::

<!-- no-run: fetches -->
```console
$ git clone x && cd x
```

<!-- slow -->
```python
raise SystemExit
```

```python
from pathlib import Path

assert "mnist" in Path("mine.toml").read_text()
```
""".replace("{mnist,}", "mnist"),
        encoding="utf-8",
    )
    run_page(page, quick=True)
