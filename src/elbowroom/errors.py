"""The one exception that a user can cause, and the checks of arguments that many functions share.

A message has two parts: what was given against what was expected, and the remedy. The command line prints both
and exits with code 2; a traceback means a bug in elbowroom.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from elbowroom.phrasing import phrased

__all__ = ["ElbowroomError", "NotFiniteError", "check_count", "check_name", "check_num_samples", "did_you_mean"]


class ElbowroomError(Exception):
    """An error that the user can correct.

    Args:
        problem: one sentence, what was given and what was expected. Settings are named by their flags, here and in the
            remedy; a caller in Python reads keywords (:mod:`elbowroom.phrasing`).
        remedy: one sentence, what to do about it.
    Example:
        >>> raise ElbowroomError("k is 0, but an average needs a draw.", "Give k = 1 or more.")
        Traceback (most recent call last):
            ...
        elbowroom.errors.ElbowroomError: k is 0, but an average needs a draw.
          Give k = 1 or more.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        problem, remedy = phrased(problem), phrased(remedy)
        super().__init__(f"{problem}\n  {remedy}")
        self.problem = problem
        self.remedy = remedy


class NotFiniteError(ElbowroomError):
    """A number that was to be computed is infinite or NaN for some examples.

    Args:
        problem: as in :class:`ElbowroomError`.
        remedy: as in :class:`ElbowroomError`.
        places: which examples of the batch, where that is known.
    """

    def __init__(self, problem: str, remedy: str, places: Iterable[int] = ()) -> None:
        super().__init__(problem, remedy)
        self.places = tuple(places)


def did_you_mean(given: str, options: Iterable[str], *, see: str | None = None) -> str:
    """The remedy for a misspelt name: the nearest option, or else all of them.

    Args:
        given: the misspelt name.
        options: the names that exist.
        see: for many options, a sentence that says how to list them; then only the three nearest are named.
    Example:
        >>> did_you_mean("mnits", ["mnist", "digits"])
        "Did you mean 'mnist'?"
        >>> did_you_mean("x", ["mnist", "digits"])
        'Choose one of: digits, mnist.'
        >>> did_you_mean("x", ["mnist", "mnist-5min", "xray", "digits"], see="`data list` names all.")
        'The nearest are xray, mnist-5min, mnist. `data list` names all.'
    """
    options = sorted(options)
    if see is not None and not get_close_matches(given, options, cutoff=0.6):
        return f"The nearest are {', '.join(get_close_matches(given, options, n=3, cutoff=0.0))}. {see}"
    near = get_close_matches(given, options, n=1, cutoff=0.6)
    return f"Did you mean '{near[0]}'?" if near else f"Choose one of: {', '.join(options)}."


def check_name(what: str, given: str, options: Iterable[str]) -> None:
    """Refuse a name that is none of the options, with the nearest one as the remedy.

    Args:
        what: the thing that is named, for the message.
        given: the name.
        options: all names that exist.
    Raises:
        ElbowroomError: the name is not among the options.
    Example:
        >>> check_name("data set", "mnits", ["mnist", "digits"])
        Traceback (most recent call last):
            ...
        elbowroom.errors.ElbowroomError: The data set 'mnits' is not known; there are mnist, digits.
          Did you mean 'mnist'?
    """
    options = list(options)
    if given not in options:
        raise ElbowroomError(
            f"The {what} {given!r} is not known; there are {', '.join(options)}.", did_you_mean(given, options)
        )


def check_count(keyword: str, given: object, remedy: str) -> None:
    """Refuse what is no whole number, such as an array, where a number is expected.

    Args:
        keyword: of the argument.
        given: its value.
        remedy: what to give instead.
    Raises:
        ElbowroomError: ``given`` is no whole number.
    """
    if isinstance(given, bool) or not hasattr(given, "__index__") or bool(getattr(given, "shape", None)):
        raise ElbowroomError(f"{keyword} is a whole number, but a {type(given).__name__} was given.", remedy)


def check_num_samples(num_samples: int) -> None:
    """Refuse an average over no draws.

    Raises:
        ElbowroomError: ``num_samples`` is below 1.
    """
    if num_samples < 1:
        raise ElbowroomError(
            f"The number of draws per example is {num_samples}, but an average needs at least 1.",
            "Give num_samples=1 or more.",
        )
