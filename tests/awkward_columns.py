"""Awkward columns that were made up: each with its values, and the kind that does it justice."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import polars as pl

from elbowroom.data.columns.column import ColumnKind as K


class Awkward(NamedTuple):
    """A column: what it is called, 200 values, its kind, and its levels where these are of interest."""

    name: str
    values: Any
    kind: K
    levels: tuple[str, ...] | None = None


N = 200
_rng = np.random.default_rng(20)
_words = [
    "the",
    "parcel",
    "came",
    "late",
    "and",
    "its",
    "box",
    "was",
    "torn",
    "but",
    "all",
    "of",
    "the",
    "cups",
    "were",
    "whole",
    "thank",
    "you",
]


def _cycle(*values: Any) -> list[Any]:
    return [values[at % len(values)] for at in range(N)]


def _some(make: Callable[[int], Any]) -> list[Any]:
    return [make(at) for at in range(N)]


def _choice(*values: Any, p: list[float] | None = None) -> list[Any]:
    return [values[at] for at in _rng.choice(len(values), N, p=p)]


_day = datetime.date(2021, 3, 1)
_days = _some(lambda at: _day + datetime.timedelta(days=at * 7 % 365))
_uuids = [str(UUID(int=int(_rng.integers(2**60)) * 2**60)) for _ in range(N)]

COLUMNS = [
    # identifiers
    Awkward("row", _some(lambda at: at + 1), K.IDENTIFIER),
    Awkward("shuffled", _rng.permutation(N) + 5000, K.IDENTIFIER),
    Awkward("customer_id", _rng.choice(10**6, N, replace=False) + 10**6, K.IDENTIFIER),
    Awkward("customerId", _rng.choice(10**6, N, replace=False), K.IDENTIFIER),
    Awkward("uuid", _uuids, K.IDENTIFIER),
    Awkward("session", _cycle(*_uuids[:50]), K.IDENTIFIER),
    Awkward("name", _some(lambda at: f"{_words[at % 17]} {_words[at // 17]}"), K.IDENTIFIER),
    Awkward("email", _some(lambda at: f"user{at}@example.org"), K.IDENTIFIER),
    Awkward("large", _some(lambda at: 2**60 + 17 * at), K.IDENTIFIER),
    Awkward("isbn", _some(lambda at: f"{at * 7919 % 10**9:010d}"), K.IDENTIFIER),
    # dates and times
    Awkward("iso", [day.isoformat() for day in _days], K.DATE),
    Awkward("german", [day.strftime("%d.%m.%Y") for day in _days], K.DATE),
    Awkward("american", [day.strftime("%m/%d/%Y") for day in _days], K.DATE),
    Awkward("compact", [int(day.strftime("%Y%m%d")) for day in _days], K.DATE),
    Awkward("stamp", [f"{day}T{at % 24:02d}:30:00" for at, day in enumerate(_days)], K.DATE),
    Awkward("spoken", [day.strftime("%d %b %Y") for day in _days], K.DATE),
    Awkward("clock", _some(lambda at: f"{at % 24:02d}:{at * 7 % 60:02d}"), K.DATE),
    Awkward("month", _some(lambda at: f"20{at % 20:02d}-{at % 12 + 1:02d}"), K.DATE),
    Awkward("day", pl.Series(_days, dtype=pl.Date), K.DATE),
    # numbers
    Awkward("price", _some(lambda at: f"${1000 + at * 37.5:,.2f}"), K.POSITIVE),
    Awkward("euros", _some(lambda at: f"{100 + at * 3},{at % 100:02d} €"), K.POSITIVE),
    Awkward("share", _some(lambda at: f"{at / 3 + 1:.1f}%"), K.POSITIVE),
    Awkward("measured", _rng.uniform(0.05, 0.95, N).round(4), K.POSITIVE),
    Awkward("gaps", _some(lambda at: "n/a" if at % 9 == 0 else f"{at * 0.37 - 20:.2f}"), K.REAL),
    Awkward("rainfall", np.where(_rng.random(N) < 0.6, 0.0, _rng.lognormal(1, 1, N).round(1)), K.POSITIVE),
    Awkward("bill", _rng.normal(44, 5, N).round(1), K.POSITIVE),
    Awkward("temperature", _rng.normal(3, 8, N).round(1), K.REAL),
    Awkward("mass", _rng.choice(np.arange(2700, 6300, 25), N), K.REAL),
    Awkward("year", _rng.integers(1990, 2021, N), K.REAL),
    Awkward("one_year_each", np.arange(1900, 1900 + N), K.REAL),
    Awkward("income", (np.exp(_rng.normal(10, 0.9, N)) // 500 * 500 + 500), K.POSITIVE),
    Awkward("change", _rng.integers(-40, 40, N), K.REAL),
    # counts and codes
    Awkward("children", _rng.poisson(1.2, N), K.COUNT),
    Awkward("visits", _rng.negative_binomial(1, 0.1, N), K.COUNT),
    Awkward("age", _rng.integers(18, 70, N), K.REAL),
    Awkward("student_age", 18 + _rng.binomial(10, 0.3, N), K.REAL),
    Awkward("household", 1 + _rng.poisson(2, N).clip(0, 9), K.COUNT),
    Awkward("capital_gain", np.where(_rng.random(N) < 0.8, 0, _rng.lognormal(8, 1, N).astype(int)), K.POSITIVE),
    Awkward("bracket", _rng.integers(1, 25, N), K.REAL),
    Awkward("shuffled_codes", _rng.integers(0, 7, N), K.CATEGORY, tuple("0123456")),
    Awkward("likert", _rng.choice([1, 2, 3, 4, 5], N), K.CATEGORY, tuple("12345")),
    Awkward("likert_either_side", _rng.choice([-2, -1, 0, 1, 2], N), K.CATEGORY, ("-2", "-1", "0", "1", "2")),
    Awkward("zip", _rng.choice([10115, 20095, 50667, 80331], N), K.CATEGORY),
    Awkward("zip_code", _cycle("02134", "10001", "94110"), K.CATEGORY),
    Awkward("store_id", _rng.integers(1, 30, N), K.CATEGORY),
    # yes and no
    Awkward("smokes", _choice("Yes", "yes", "YES ", "no", p=[0.4, 0.2, 0.1, 0.3]), K.BINARY, ("no", "Yes")),
    Awkward("flag", _rng.integers(0, 2, N), K.BINARY, ("0", "1")),
    Awkward("flag_with_gaps", _choice(0.0, 1.0, None), K.BINARY, ("0", "1")),
    Awkward("truth", _rng.random(N) < 0.5, K.BINARY, ("false", "true")),
    # names and text
    Awkward("city", _choice("Oslo", "Bergen", "?", "Tromsø", None), K.CATEGORY, ("Bergen", "Oslo", "Tromsø")),
    Awkward("agrees", _choice("agree", "neutral", "disagree"), K.CATEGORY, ("disagree", "neutral", "agree")),
    Awkward("review", [" ".join(_rng.permutation(_words)) for _ in range(N)], K.TEXT),
    Awkward("enumerated", pl.Series(_cycle("b", "a", "c"), dtype=pl.Enum(["c", "b", "a", "z"])), K.CATEGORY,
            ("c", "b", "a")),
    # nothing
    Awkward("constant", _cycle(7), K.CONSTANT, ("7",)),
    Awkward("country", _cycle("no", None), K.CONSTANT, ("no",)),
    Awkward("empty", pl.Series([None] * N), K.CONSTANT, ()),
]  # fmt: skip
