"""The command line: parses arguments and prints results; the work is done elsewhere.

A command's module is imported when the command is called, so that ``elbowroom --help`` imports neither torch nor
scikit-learn nor pydantic. A user's mistake prints its message and exits with 2, Ctrl-C with 130; a bug shows its
traceback.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter

from elbowroom import __version__
from elbowroom.cli.speech import remark
from elbowroom.errors import ElbowroomError
from elbowroom.phrasing import speaking

__all__ = ["app", "main"]

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS)

app = App(
    name="elbowroom",
    help="Learn a latent-variable model, and know what it is worth.",
    version=__version__,
    default_parameter=Parameter(negative=()),
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # `main` prints a message
)
_data = App(name="data", help="List, show and download built-in data sets; show how elbowroom reads your own.")
_recipes = App(name="recipes", help="List and show the recipes, configurations that come with the package.")
_runs = App(name="runs", help="List and show trained runs.")
for _group in (_data, _recipes, _runs):
    app.command(_group)

# group, command, module:function, first line of the function's docstring (the module is not imported for it)
_COMMANDS: tuple[tuple[App, str, str, str], ...] = (
    (app, "train", "train:train", "Train a model."),
    (
        app,
        "evaluate",
        "evaluate:evaluate",
        "Evaluate a run: bounds on log p(x) in nats per example, with standard errors.",
    ),
    (
        app,
        "compare",
        "compare:compare",
        "Train several recipes with the same budget, and evaluate all of them in the same way.",
    ),
    (
        app,
        "doctor",
        "doctor:doctor",
        "Check a trained model for common faults; each finding has evidence and a remedy.",
    ),
    (
        app,
        "report",
        "report:report",
        "Write a report of a run, or of a comparison, as one HTML file that needs no network.",
    ),
    (app, "score", "score:score", "Write a lower bound on log p(x) of every example, with its standard error, as CSV."),
    (
        app,
        "sample",
        "sample:sample",
        "Draw samples from the model, with means, latent traversals and, for two latent dimensions, the manifold.",
    ),
    (app, "reconstruct", "reconstruct:reconstruct", "Show examples beside their reconstructions."),
    (
        app,
        "encode",
        "encode:encode",
        "Write mean and standard deviation of q(z | x) as .npz, with a picture; or sample p(z | x) by MCMC.",
    ),
    (
        app,
        "impute",
        "impute:impute",
        "Fill in missing values, each with a credible interval; complete partly hidden pictures.",
    ),
    (_data, "list", "data:data_list", "List the built-in data sets, and where each is found or downloaded from."),
    (
        _data,
        "show",
        "data:data_show",
        "Show shape, support and splits of a data set, and a picture of its first examples.",
    ),
    (_data, "fetch", "data:data_fetch", "Download built-in data sets and verify their checksums."),
    (_recipes, "list", "recipes:recipes_list", "List the recipes, with a short description of each."),
    (_recipes, "show", "recipes:recipes_show", "Print a recipe as TOML, ready to be copied and changed."),
    (_runs, "list", "runs:runs_list", "List the runs in a folder."),
    (_runs, "show", "runs:runs_show", "Show settings, progress and results of a run."),
)
for _app, _name, _function, _sentence in _COMMANDS:
    _app.command(f"elbowroom.cli.{_function}", name=_name, help=_sentence)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; exits with 0, 2 (an error that the user can correct) or 130 (Ctrl-C)."""
    with speaking("flags", unless_set=False):
        _run(list(sys.argv[1:] if argv is None else argv))


def _run(tokens: Sequence[str]) -> None:
    try:
        app(list(tokens), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        from elbowroom.cli.faults import explain_flag

        _fail(tokens, explain_flag(error))
    except ElbowroomError as error:
        _fail(tokens, error)
    except KeyboardInterrupt:
        remark(f"{_command(tokens)}: interrupted; what was saved stays{_resume_hint(tokens)}.")
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of a pipe, `head` for example, has closed it
        sys.stderr.close()
        raise SystemExit(0) from None
    except OSError as error:
        if error.errno not in (*_DISK_FULL, *_NO_ACCESS):
            raise
        _fail(tokens, _disk_fault(error, tokens))


def _fail(tokens: Sequence[str], error: ElbowroomError) -> None:
    remark(f"{_command(tokens)}: {error}")
    raise SystemExit(2)


def _command(tokens: Sequence[str]) -> str:
    """The command as the prefix of a message, such as ``elbowroom: data show``."""
    chain, _, _ = app.parse_commands(list(tokens))
    return ": ".join(["elbowroom", " ".join(chain)] if chain else ["elbowroom"])


def _resume_hint(tokens: Sequence[str]) -> str:
    if "compare" in tokens[:1]:
        return ", and the same command, without --overwrite, continues from there"
    return ", and `elbowroom train … --resume` continues from there" if "train" in tokens[:1] else ""


def _disk_fault(error: OSError, tokens: Sequence[str]) -> ElbowroomError:
    where = f" at {error.filename}" if error.filename else ""
    if error.errno in _DISK_FULL:
        return ElbowroomError(
            f"The disk{where} is full, so not everything could be written.",
            f"Make room and try again; what was saved before stays{_resume_hint(tokens)}.",
        )
    return ElbowroomError(
        f"The system refused access{where} ({error.strerror}).", "Check the permissions, or name another place."
    )
