"""Rows of a table given some of its columns: what the user says about them, and draws of the others.

The draws are those of :mod:`elbowroom.inference.posterior.given`, p(the other columns | the given ones).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.data.columns.given import GivenCell, given_cell
from elbowroom.data.csv.cells import TRUTHS
from elbowroom.data.naming import Naming, described
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError, NotFiniteError, check_count, did_you_mean
from elbowroom.evaluation.thresholds import TAIL_LIMITS
from elbowroom.inference.posterior.given import sample_given
from elbowroom.model.draws import draw
from elbowroom.model.latent import LatentModel, evaluation_mode
from elbowroom.running.contexts import how_to_give, sample_context
from elbowroom.running.reading import TrainedOn, read_like_training
from elbowroom.running.runtime import make_generator
from elbowroom.running.trained_model import TrainedModel
from elbowroom.running.units import restored

__all__ = ["GivenSample", "given_samples", "parse_given"]

_TOO_FEW = 100.0  # effective draws
_TRIED = 1000  # draws of z that tell which value is impossible


@dataclass(frozen=True, slots=True)
class GivenSample:
    """Rows of a table, given some of its columns.

    Attributes:
        z: draws of p(z | the given columns), shape (n, latent).
        x: rows in the units of the data, shape (n, columns).
        mean: E[x | z, the given columns], the same shape.
        given: the given values by column, as a table holds them.
        columns: names of the columns of x.
        kinds: what is known about them, in a table with columns of several kinds.
        ess: effective number of the weighted draws that z was chosen from; None where all draws are exact.
        draws: how many weighted draws these were; 0 where none was needed.
        pareto_k: k̂ of their weights' tail; None where there are none, or where z is codes.
        log_evidence: log p(the given columns), nats, a density where a column has one; None for codes that are too many
            to sum over.
        stderr: its standard error; 0 where it is exact.
    """

    z: Tensor
    x: Tensor
    mean: Tensor
    given: dict[str, Any]
    columns: tuple[str, ...]
    kinds: tuple[Column, ...] | None
    ess: float | None
    draws: int
    pareto_k: float | None
    log_evidence: float | None
    stderr: float | None

    @property
    def table(self) -> Any:
        """The rows as a polars data frame in the kinds of the training data; the given columns hold what was given."""
        import polars as pl

        from elbowroom.data.columns.coding import decode

        kinds = self.kinds or [Column(name, ColumnKind.REAL) for name in self.columns]
        frame = decode(self.x.double().numpy(), kinds)
        return frame.with_columns(pl.Series(name, [cell] * len(self.x)) for name, cell in self.given.items())

    def warnings(self) -> list[str]:
        """What speaks against the draws, each a sentence with a remedy; empty where nothing does."""
        return [*self._beyond_cells(), *self._poor_weights()]

    def _beyond_cells(self) -> list[str]:
        found = []
        for column in self.kinds or ():
            value = self.given.get(column.name)
            if column.kind is not ColumnKind.DATE and column.cells and value is not None:
                least, most = min(column.cells), max(column.cells)
                if not least <= value <= most:
                    found.append(
                        f"{column.name} = {value:g} lies beyond the training values, {least:g} to {most:g}, and counts "
                        f"as {least if value < least else most:g}, the nearest of them: give a value between these"
                    )
        return found

    def _poor_weights(self) -> list[str]:
        # weights are bounded, as those of Laplace proposals are, by the prior's share in the proposal
        few = self.ess is not None and self.ess < max(_TOO_FEW, float(len(self.x)))
        if not few and (self.pareto_k is None or self.pareto_k < TAIL_LIMITS["laplace-is"]):
            return []
        if few:
            found = f"only {self.ess:,.0f} of {self.draws:,} weighted draws of z are effective"
        else:
            found = f"the weights of z have a heavy tail (Pareto k̂ {self.pareto_k:.2f})"
        return [
            f"{found}, so that the rows repeat some z and miss others: ask for more --draws or fewer rows, or compare "
            "with `elbowroom impute`, which draws by Markov chains"
        ]


# --- what is given -----------------------------------------------------------------------------------------------


def parse_given(pairs: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
    """The columns that a command line gives, as NAME=VALUE, several of them between commas.

    Args:
        pairs: such as ``city=Oslo`` or ``city=Oslo,age=30``; a comma belongs to the value unless NAME= follows it.
        columns: that there are, whose names may hold commas and equals signs.
    Raises:
        ElbowroomError: no NAME=VALUE, or a column that is given twice.
    Example:
        >>> parse_given(["city=Oslo,age=30", "price=1,5"], ["age", "city", "price"])
        {'city': 'Oslo', 'age': '30', 'price': '1,5'}
    """
    known = "".join(f"{re.escape(name)}|" for name in sorted(columns, key=len, reverse=True))
    begins = re.compile(rf"(?:^|,)\s*({known}[^,=]+?)\s*=")
    found: dict[str, str] = {}
    for text in pairs:
        starts = list(begins.finditer(text))
        if not starts or starts[0].start() > 0:
            raise ElbowroomError(f"--given '{text}' is not of the form NAME=VALUE.", "Write for instance city=Oslo.")
        for start, end in zip(starts, [*(after.start() for after in starts[1:]), len(text)], strict=True):
            if start[1] in found:
                raise ElbowroomError(f"--given says more than once what column '{start[1]}' is.", "Say it once.")
            found[start[1]] = text[start.end() : end].strip()
    return found


def _cells(run: TrainedModel, given: Mapping[str, Any]) -> dict[str, GivenCell]:
    """The given values by column.

    Raises:
        ElbowroomError: no table with names, nothing given or everything, a column that is none of x, or a value that
            its column cannot have.
    """
    naming = run.naming
    if naming.columns is None or len(run.facts.event_shape) != 1:
        raise ElbowroomError(
            "Columns were given, but the run was not trained on a table with named columns.",
            "Train on a table with a header; of other data `elbowroom impute` fills in what is missing.",
        )
    if not isinstance(given, Mapping):
        raise ElbowroomError(
            f"What is given has a value for each of some columns, but a {type(given).__name__} was given.",
            "Give a dictionary, such as {'city': 'Oslo', 'age': 30}.",
        )
    for name in given:
        if name not in naming.columns:
            raise _no_column(str(name), naming)
    if not given or len(given) == len(naming.columns):
        what = "No column was given" if not given else "All columns were given, so that none is left to draw"
        raise ElbowroomError(f"{what}.", f"Give some of {', '.join(naming.columns)}.")
    kinds = dict(zip(naming.columns, naming.kinds, strict=True)) if naming.kinds is not None else {}
    comma = run.config.data.decimal == "comma"
    cells = {}
    for name, value in given.items():
        if name in kinds:
            cells[name] = given_cell(value, kinds[name], comma=comma)
        else:
            cells[name] = _plain(value, name, run, comma=comma)
    return cells


def _no_column(name: str, naming: Naming) -> ElbowroomError:
    """Why a name cannot be given, and what to do instead."""
    covariate = next((one for one in naming.covariates if name in one.names), None)
    if covariate is not None:
        return ElbowroomError(
            f"Column '{name}' was given, but it is no part of x: the model is conditional on it.",
            "Say what it is by --context or --labels.",
        )
    aside = {column.name: f"was set aside as {column.kind}" for column in naming.aside}
    aside |= dict.fromkeys(naming.dropped, "was left out of training")
    aside |= {one: f"was {what}" for one, what in ((naming.labels, "set aside as labels"), (naming.id, "set aside as "
              "identifier")) if one is not None}  # fmt: skip
    assert naming.columns is not None
    if name in aside:
        return ElbowroomError(
            f"Column '{name}' was given, but it {aside[name]}, so that the model knows nothing of it.",
            f"Leave it out: there are {', '.join(naming.columns)}.",
        )
    return ElbowroomError(
        f"Column '{name}' was given, but the run was not trained on one of that name.",
        did_you_mean(name, naming.columns),
    )


def _plain(value: Any, name: str, run: TrainedModel, *, comma: bool) -> GivenCell:
    """A value of a table of numbers alone."""
    support = run.model.likelihood.support
    if isinstance(value, str) and support is Support.BINARY:  # yes and no, as such tables are read
        word = value.strip().lower()
        value = next((words[word] for words in TRUTHS if word in words), value)
    kind = ColumnKind.COUNT if support is Support.COUNTS else ColumnKind.REAL
    found = given_cell(value, Column(name, kind), comma=comma)
    most = {Support.BINARY: 1, Support.UNIT_INTERVAL: 1, Support.BYTES: 255,
            Support.CATEGORIES: (run.facts.num_categories or 1) - 1}.get(support)  # fmt: skip
    fractions = support is Support.UNIT_INTERVAL
    if most is not None and not (0 <= found.number <= most and (fractions or found.number.is_integer())):
        raise ElbowroomError(
            f"{value} was given for column '{name}', but the values of this model are "
            f"{'numbers' if fractions else 'whole numbers'} from 0 to {most}.",
            "Give such a number.",
        )
    return found


# --- draws -------------------------------------------------------------------------------------------------------


def given_samples(
    run: TrainedModel,
    given: Mapping[str, Any],
    num: int,
    *,
    context: Any = None,
    labels: Any = None,
    draws: int | None = None,
    seed: int = 0,
) -> GivenSample:
    """Rows of a run's table, given some columns; as `Run.sample_given`."""
    check_count("num_samples", num, "Give the number of rows.")
    if draws is not None:
        check_count("draws", draws, "Leave it out, or give the number of weighted draws.")
    cells = _cells(run, given)
    covariates = _one_context(run, num, context, labels)
    batch = _batch(run, cells, covariates)
    with evaluation_mode(run.pair):
        generator = make_generator(run.device, seed)
        try:
            found = sample_given(run.model, run.guide, batch, num, draws=draws, generator=generator)
        except NotFiniteError:
            raise _impossible(run.model, batch, cells, run.naming) from None
    columns = run.naming.columns
    assert columns is not None, "names were given"
    x, mean = (restored(part.squeeze(1).cpu(), run.facts) for part in (found.x, found.mean))
    numbers = {name: float(x[0, columns.index(name)]) for name in cells}
    return GivenSample(
        z=found.z.squeeze(1).cpu(),
        x=x,
        mean=mean,
        # in other units than those of the data, where a table of bytes was seen as grey values, what x holds
        given={name: cell.cell if run.naming.kinds or np.isclose(cell.number, numbers[name], rtol=1e-5) else
               numbers[name] for name, cell in cells.items()},
        columns=columns,
        kinds=run.naming.kinds,
        ess=_only(found.ess),
        draws=found.weighted,
        pareto_k=_only(found.pareto_k),
        log_evidence=_only(found.log_evidence),
        stderr=_only(found.stderr),
    )  # fmt: skip


def _only(values: Tensor | None) -> float | None:
    return None if values is None else float(values.squeeze(0))


def _one_context(run: TrainedModel, num: int, context: Any, labels: Any) -> Tensor | None:
    """The one context of all rows, shape (1, context_dim); None for a model without one."""
    naming = run.naming
    if naming.covariates and context is None and labels is None:
        raise ElbowroomError(
            f"Columns were given, but nothing of {described(naming.covariates)}, on which the model is conditional.",
            how_to_give(naming),
        )
    _, rows = sample_context(run.config, run.facts, naming, num, context, labels)
    if rows is not None and bool((rows != rows[:1]).any()):
        raise ElbowroomError(
            "Columns were given together with several contexts, but the draws are for one of each.",
            "Draw for one context after the other.",
        )
    return None if rows is None else rows[:1]


def _batch(run: TrainedModel, cells: Mapping[str, GivenCell], context: Tensor | None) -> Batch:
    """One row as the model gets it, with a mask of what is given."""
    columns = run.naming.columns
    assert columns is not None
    kinds = run.naming.kinds or tuple(Column(name, ColumnKind.REAL) for name in columns)
    fields = [_field(cells.get(column.name), column) for column in kinds]
    row = np.array([tuple(value for value, _ in fields)], dtype=[(column.name, kind) for column, (_, kind) in
                   zip(kinds, fields, strict=True)])  # fmt: skip
    trained = TrainedOn(run.config, run.facts, run.naming, run.model.likelihood, run.filler, run.device, _hush)
    try:
        data = read_like_training(trained, row, context=context, missing="mask")
    except ElbowroomError as error:  # whose remedies are for rows of a file
        raise ElbowroomError(error.problem, "Give values like those of the training data.") from None
    batch = next(iter(replace(data, splits={"all": torch.arange(1)}).batches("all", 1)))
    assert batch.mask is not None, "some columns are not given"
    for name, cell in cells.items():
        if not batch.mask[0, columns.index(name)]:
            raise ElbowroomError(
                f"{cell.cell} was given for column '{name}', but in the data of this run it marks a missing value.",
                "Leave the column out.",
            )
    return batch


def _hush(remark: str) -> None:
    """What is remarked of a table is true of a row that nobody wrote, too, and says nothing."""


def _field(cell: GivenCell | None, column: Column) -> tuple[Any, str]:
    """A value of a structured array, and its type."""
    if column.kind.has_levels:
        return ("" if cell is None else column.levels[int(cell.number)]), f"U{max(map(len, column.levels))}"
    if column.kind is ColumnKind.DATE:
        return np.datetime64("NaT" if cell is None else round(cell.number * 8.64e10), "us"), "M8[us]"
    return (np.nan if cell is None else cell.number), "f8"


def _impossible(model: LatentModel, batch: Batch, cells: Mapping[str, GivenCell], naming: Naming) -> ElbowroomError:
    """Which of the given values the model holds impossible for every z, or that they are so together."""
    assert batch.mask is not None and naming.columns is not None
    prior = model.prior(None, batch.context)
    lead = (_TRIED,) if prior.batch_shape else (_TRIED, 1)
    z = draw(prior, lead, generator=torch.Generator(batch.x.device).manual_seed(0))
    said = [f"{name} = {cell.cell}" for name, cell in cells.items()]
    for text, name in zip(said, cells, strict=True):
        alone = torch.zeros_like(batch.mask)
        alone[0, naming.columns.index(name)] = True
        density = model.log_likelihood(batch.x, z, context=batch.context, mask=alone)
        if not bool((density > -torch.inf).any()):
            said = [text]
            break
    return ElbowroomError(
        f"The model holds {' with '.join(said)} impossible: no z gives it a probability.",
        "Give values like those of the training data, or fewer of them.",
    )
