"""Dates: the format that all cells of a column share, and days since 1970-01-01 and back.

Formats are those of `datetime.strptime`. Times of day alone are fractions of a day.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

__all__ = ["Dates", "days_since_1970", "find_dates", "looks_like_a_date", "printed", "read_date"]

_EPOCH = datetime(1970, 1, 1)
_FIRST, _LAST = -719_162, 2_932_895  # days of the years 1 and 9999
_DAY, _SECOND = 86_400, 1 / 86_400

_ALIKE = re.compile(
    r"""(?x)
      \d{4}[-/.]\d{1,2}[-/.]\d{1,2}.*        # 2021-03-04, with a time or not
    | \d{4}-\d{2}                            # 2021-03
    | \d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d{2})(?:[ T,].*)?
    | \d{1,2}[ -.]+[A-Za-z]{3,9}[ -.]+\d{2,4}(?:[ T,].*)?
    | [A-Za-z]{3,9}\.?[ ]\d{1,2},?[ ]\d{4}(?:[ T,].*)?
    | \d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?
    """
)
_TIME = re.compile(r"(?:(?P<gap>[T ]|, )?)(?P<time>\d{1,2}:\d{2}(?P<seconds>:\d{2}(?P<parts>\.\d+)?)?)"
                   r"(?P<zone>\s*(?:Z|[+-]\d{2}:?\d{2}))?$")  # fmt: skip
_DAYS = (
    "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y-%m", "%d.%m.%Y", "%d.%m.%y", "%d/%m/%Y", "%m/%d/%Y", "%d/%m/%y",
    "%m/%d/%y", "%d-%m-%Y", "%m-%d-%Y", "%d-%m-%y", "%m-%d-%y", "%d %b %Y", "%d %B %Y", "%d-%b-%Y", "%d-%b-%y",
    "%d %b %y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%B %d %Y", "%d. %B %Y", "%d. %b %Y", "%Y%m%d",
)  # fmt: skip
_SWAPPED = {first: second for one, other in (("%d/%m/%Y", "%m/%d/%Y"), ("%d/%m/%y", "%m/%d/%y"),
            ("%d-%m-%Y", "%m-%d-%Y"), ("%d-%m-%y", "%m-%d-%y"))
            for first, second in ((one, other), (other, one))}  # fmt: skip


class Dates:
    """What the cells of a column say about its format.

    Attributes:
        format: that all cells share; None where they share none.
        other: another one that all cells fit as well: 03/04/2021 is in March or in April.
        odd: the first two cells that no format fits both of.
    """

    def __init__(self, format: str | None, other: str | None = None, odd: tuple[str, str] | None = None) -> None:  # noqa: A002
        self.format, self.other, self.odd = format, other, odd


def looks_like_a_date(cell: str) -> bool:
    """Whether a cell may be a date or a time in some format.

    Example:
        >>> [looks_like_a_date(cell) for cell in ("2021-03-04", "4.3.21", "4 Mar 2021", "10:30", "1.5", "x-1")]
        [True, True, True, True, False, False]
    """
    return _ALIKE.fullmatch(cell) is not None


def find_dates(cells: Sequence[str]) -> Dates:
    """The format of different cells that look like dates.

    Where day and month can be exchanged in all of them, the order in which the cells increase decides; otherwise the
    month comes first between slashes and the day elsewhere.

    Example:
        >>> find_dates(["04.03.2021", "28.02.2021"]).format
        '%d.%m.%Y'
        >>> find_dates(["04/03/2021", "05/03/2021"]).other
        '%d/%m/%Y'
    """
    formats = [given for given in _candidates(cells[0]) if read_date(cells[0], given) is not None]
    fit = [given for given in formats if all(read_date(cell, given) is not None for cell in cells)]
    if not fit:
        most = max(formats, default="%Y-%m-%d", key=lambda given: sum(read_date(c, given) is not None for c in cells))
        fitting = next((cell for cell in cells if read_date(cell, most) is not None), cells[0])
        odd = next((cell for cell in cells if read_date(cell, most) is None), cells[-1])
        return Dates(None, odd=(fitting, odd))
    chosen = fit[0]
    other = next((given for given in fit[1:] if _swapped(given) == chosen), None)
    if other is not None:
        sorted_so = [given for given in (chosen, other) if _increases(cells, given)]
        if len(sorted_so) == 1:
            return Dates(sorted_so[0])
        if "/" in chosen and not chosen.startswith("%m"):
            chosen, other = other, chosen
    return Dates(chosen, other)


def _candidates(cell: str) -> list[str]:
    """Formats for cells that are written as this one."""
    found = _TIME.search(cell)
    if found is None:
        return list(_DAYS)
    time = "%H:%M" + (":%S" if found["seconds"] else "") + (".%f" if found["parts"] else "")
    if found["zone"]:
        time += (" " if found["zone"].startswith(" ") else "") + "%z"
    if not cell[: found.start()]:
        return [time]
    return [f"{day}{found['gap'] or ''}{time}" for day in _DAYS]


def _swapped(given: str) -> str | None:
    return next((given.replace(day, other) for day, other in _SWAPPED.items() if given.startswith(day)), None)


def _increases(cells: Sequence[str], given: str) -> bool:
    days = [days_since_1970(cell, given) for cell in cells]
    return len(days) > 2 and all(after >= before for before, after in pairwise(days))


def read_date(cell: str, given: str | None) -> datetime | None:
    """A cell in a format, without a time zone (UTC where it has one); None where it is not written so.

    Example:
        >>> read_date("04.03.2021", "%d.%m.%Y"), read_date("2021-03-04", "%d.%m.%Y")
        (datetime.datetime(2021, 3, 4, 0, 0), None)
    """
    try:
        found = datetime.fromisoformat(cell) if given in (None, "%Y-%m-%d") else datetime.strptime(cell, str(given))
    except ValueError:
        return None
    if given == "%Y-%m-%d" and (len(cell) != 10 or cell[4] != "-"):
        return None
    return found if found.tzinfo is None else found.astimezone(UTC).replace(tzinfo=None)


def days_since_1970(cell: str, given: str | None) -> float:
    """Days since 1970-01-01 of a cell; the fraction of a day where the format has no date; NaN where it does not fit.

    Example:
        >>> days_since_1970("1970-01-02", None), days_since_1970("06:00", "%H:%M"), days_since_1970("x", None)
        (1.0, 0.25, nan)
    """
    found = read_date(cell, given)
    if found is None:
        return float("nan")
    origin = datetime(1900, 1, 1) if given is not None and not _has_day(given) else _EPOCH
    return (found - origin) / timedelta(days=1)


def printed(days: float, given: str | None, step: float) -> str:
    """Days since 1970-01-01 as text in a format, rounded to whole days or seconds.

    Args:
        days: of the date.
        given: the format; None: ISO 8601.
        step: 1 where there are no times of day.
    Example:
        >>> printed(18690.2, None, 1.0), printed(18690.25, None, 0.0), printed(18690.0, "%d.%m.%Y", 1.0)
        ('2021-03-04', '2021-03-04T06:00:00', '04.03.2021')
    """
    if given is not None and not _has_day(given):
        days = days % 1.0
    days = min(max(days, _FIRST), _LAST + 1 - _SECOND)
    if step >= 1:
        moment = _EPOCH + timedelta(days=round(days))
    elif given is not None and "%f" in given:
        moment = _EPOCH + timedelta(days=days)
    elif given is not None and "%S" not in given:
        moment = _EPOCH + timedelta(minutes=round(days * 1_440))
    else:
        moment = _EPOCH + timedelta(seconds=round(days * _DAY))
    if given is None:
        return moment.date().isoformat() if step >= 1 else moment.isoformat()
    return moment.replace(tzinfo=UTC).strftime(given)


def _has_day(given: str) -> bool:
    return "%Y" in given or "%y" in given
