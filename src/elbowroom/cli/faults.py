"""Error messages for flags: what was given, what was expected, the remedy."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import cyclopts
from cyclopts import CycloptsError
from pydantic import ValidationError

from elbowroom.errors import ElbowroomError, did_you_mean
from elbowroom.sections import explain

__all__ = ["explain_flag"]


def explain_flag(error: CycloptsError) -> ElbowroomError:
    """An error of the parser, cyclopts, as problem and remedy."""
    command = " ".join(error.command_chain or ())
    see = f"`{' '.join(filter(None, ['elbowroom', command]))} --help` shows what can be given."
    given = (error.unused_tokens or [""])[0]
    match error:
        case cyclopts.ValidationError() if isinstance(error.__cause__, ValidationError) and error.argument is not None:
            section = error.argument.name.removeprefix("--").strip("*")  # "*": its flags have no prefix
            return explain(error.__cause__, error.argument.hint, command=command, section=section)
        case cyclopts.UnknownCommandError():
            return _unknown_command(error, given, see)
        case cyclopts.UnknownOptionError():
            flag = (error.token.keyword or error.token.value).split("=")[0]
            flags = [name for argument in error.argument_collection if argument.parse for name in argument.names]
            return ElbowroomError(f"There is no flag {flag}.", _nearest(flag, flags, see))
        case cyclopts.UnusedCliTokensError():
            return ElbowroomError(f"'{given}' is one argument too many.", see)
        case cyclopts.MissingArgumentError() if error.argument is not None:
            name = error.argument.name
            if error.argument.field_info.is_positional and not error.keyword:
                return ElbowroomError(f"{name.lstrip('-').upper()} is missing.", see)
            return ElbowroomError(f"{name} lacks its value.", see)
        case cyclopts.CoercionError() if error.token is not None:
            return _invalid_value(error, see)
    error.verbose = False
    return ElbowroomError(" ".join(str(error).split()), see)


def _nearest(given: str, options: list[str], otherwise: str) -> str:
    suggestion = did_you_mean(given, options)
    return suggestion if suggestion.startswith("Did") else otherwise


def _unknown_command(error: CycloptsError, given: str, see: str) -> ElbowroomError:
    if given.startswith("-"):
        return ElbowroomError(f"There is no flag {given}.", see)
    names = [name for name in error.app or () if not name.startswith("-")]
    within = f" of `elbowroom {' '.join(error.command_chain)}`" if error.command_chain else ""
    return ElbowroomError(f"There is no command '{given}'{within}.", did_you_mean(given, names))


def _invalid_value(error: Any, see: str) -> ElbowroomError:
    token, target = error.token, error.target_type
    name = token.keyword or (error.argument.name.lstrip("-").upper() if error.argument else "the value")
    options = [str(option) for option in get_args(target)] if get_origin(target) is Literal else []
    if options:
        expected = f"one of {', '.join(options)}"
        return ElbowroomError(
            f"{name} is '{token.value}', but should be {expected}.", _nearest(token.value, options, see)
        )
    kinds = {int: "a whole number", float: "a number", bool: "yes or no"}
    return ElbowroomError(f"{name} is '{token.value}', but should be {kinds.get(target, 'something else')}.", see)
