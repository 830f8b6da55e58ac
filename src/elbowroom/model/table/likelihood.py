r"""p(x | z) of a table: a product of the columns' own distributions, each in its column's own units.

.. math:: \log p(x | z) = \sum_{d \text{ observed}} \log p_d(x_d \,|\, \theta_d), \qquad \theta = \mathrm{network}(z)

==================== ============================================== ==================================
kind                 distribution                                   parameters of the network
==================== ============================================== ==================================
real, date           normal, σ learned, with wide tails             mean, standardised
positive             the same of the logarithm                      mean, standardised
any with ``cells``   the probability of a cell under these          mean, standardised
any of these three   σ per element: see ``scale``                   one more: what is added to the number behind σ
proportion           beta, precision learned                        logit of the mean
count                negative binomial, dispersion learned          log mean
binary               Bernoulli                                      logit
ordinal              cumulative logit, cut points learned           location
category             softmax                                        a logit for each level
with an ``atom``     in addition, a probability of this value       one more: its logit
==================== ============================================== ==================================

The network returns (P, D), with P the largest number of parameters that a column needs; the others are ignored.

log p of a row adds up densities, in nats per unit of their columns, and probabilities. Of these only the sum of the
probabilities can be compared between tables; in other units the densities' sum is another. :meth:`Table.totals`
gives both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint

from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.model.class_prior import ClassPrior
from elbowroom.model.conditional import Likelihood
from elbowroom.model.draws import draw
from elbowroom.model.noise import NoiseSource
from elbowroom.model.table.atoms import AtomColumns
from elbowroom.model.table.cells import CellColumns
from elbowroom.model.table.continuous import BetaColumns, NormalColumns
from elbowroom.model.table.counts import CountColumns, InflatedCountColumns
from elbowroom.model.table.family import Family
from elbowroom.model.table.levels import BinaryColumns, CategoryColumns, LevelColumns, OrdinalColumns

__all__ = ["TABLE_LIKELIHOODS", "Scale", "Table", "TableDistribution", "Tails", "Totals"]

Tails = Literal["wide", "none"]
"""Of real, positive and cell columns: a learned share of the noise is three times as wide, or normal noise alone."""
Scale = Literal["learned", "per-element"]
"""Of the same columns: σ is learned, one for each column, or depends on z, so that classes can differ in it."""

_CONTINUOUS = (ColumnKind.REAL, ColumnKind.DATE, ColumnKind.POSITIVE)


class Totals(NamedTuple):
    """log p of rows in two parts, each of shape (\\*)."""

    densities: Tensor  #: nats per unit of the columns: another number if a unit is changed
    probabilities: Tensor  #: nats, at most 0


class Part(NamedTuple):
    """Some columns, and their family."""

    places: Tensor  #: of the columns in the table, int64, shape (n,)
    family: Family


class TableDistribution(Distribution):
    """The distribution of every element of a row, batch shape (\\*, D).

    Args:
        parts: families, which together have all columns.
        order: of each column, its place in the parts' sequence, shape (D,).
        parameters: of the elements, P tensors of shape (\\*, D).
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    support = constraints.real

    def __init__(self, parts: Sequence[Part], order: Tensor, parameters: Sequence[Tensor]) -> None:
        self._parts, self._order, self._parameters = parts, order, parameters
        super().__init__(parameters[0].shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p of every element, nats in its column's unit; 0 where it is NaN, −∞ where it is impossible."""
        missing = value.isnan()
        value = torch.where(missing, 0.0, value.to(self._parameters[0].dtype))
        found = self._gathered(lambda part, rows: part.family.log_prob(rows, value.index_select(-1, part.places)))
        return torch.where(missing, 0.0, found)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = (), generator: NoiseSource | None = None) -> Tensor:
        """Draws of every element."""
        lead = (*sample_shape, *self.batch_shape[:-1])
        return self._gathered(
            lambda part, rows: part.family.sample(rows, (*lead, len(part.places)), generator),
        )

    @property
    def mean(self) -> Tensor:
        """E[x] of every element; of levels, the expected number of the level, as of a categorical distribution."""
        return self._gathered(lambda part, rows: part.family.mean(rows))

    @property
    def level_probabilities(self) -> Tensor:
        """P of every level, shape (\\*, D, L) with L the largest number of levels; 0 in columns of numbers."""
        parts = [part for part in self._parts if isinstance(part.family, LevelColumns)]
        most = max((part.family.most for part in parts if isinstance(part.family, LevelColumns)), default=0)
        found = self._parameters[0].new_zeros(*self.batch_shape, most)
        for part in parts:
            assert isinstance(part.family, LevelColumns)
            found[..., part.places, : part.family.most] = part.family.log_levels(self._rows(part)).exp()
        return found

    @property
    def typical(self) -> Tensor:
        """What to show for an element: the mean of a number, the most probable level of the others."""

        def of(part: Part, rows: Sequence[Tensor]) -> Tensor:
            if isinstance(part.family, LevelColumns):
                return part.family.log_levels(rows).argmax(-1).to(rows[0])
            return part.family.mean(rows)

        return self._gathered(of)

    def _rows(self, part: Part) -> list[Tensor]:
        return [row.index_select(-1, part.places) for row in self._parameters[: part.family.num_rows]]

    def _gathered(self, of: Callable[[Part, Sequence[Tensor]], Tensor]) -> Tensor:
        """What every part gives for its columns, in the order of the table."""
        found = [of(part, self._rows(part)) for part in self._parts]
        return torch.cat(found, -1).index_select(-1, self._order)


@draw.register
def _(
    distribution: TableDistribution, sample_shape: Sequence[int] = (), *, generator: NoiseSource | None = None
) -> Tensor:
    return distribution.sample(sample_shape, generator)


class Table(Likelihood):
    """Rows of a table whose columns are of different kinds.

    A missing element is NaN: it costs nothing, whether or not a mask says so too. All columns of a family are computed
    together.

    Args:
        network: z -> parameters of shape :meth:`parameter_shape`.
        columns: what is known about each of the D columns.
        tails: of the noise of real, positive and cell columns.
        min_scale: the smallest σ of such columns, in units of the column.
        components: K, as the base of a :class:`~elbowroom.model.mixtures.Mixture` whose components have scales,
            precisions and dispersions of their own; None outside of one. Cut points and the share of the tails are
            shared.
        scale: whether each such column has one σ, or one that depends on z.
    Raises:
        ElbowroomError: no columns; one that is set aside, or that has too few levels or cells, or no positive unit.
    Example:
        >>> from elbowroom.model.networks import MLP
        >>> columns = [
        ...     Column("height", ColumnKind.REAL, shift=170.0, unit=10.0),
        ...     Column("smoker", ColumnKind.BINARY, levels=("no", "yes")),
        ... ]
        >>> likelihood = Table(MLP((2,), Table.parameter_shape((2,), columns=columns)), columns)
        >>> row = torch.tensor([[181.0, torch.nan]])
        >>> (likelihood(torch.zeros(1, 2)).log_prob(row) == 0).tolist()
        [[False, True]]
    """

    name = "table"
    support = Support.TABLE
    order: Tensor

    def __init__(
        self,
        network: nn.Module,
        columns: Sequence[Column],
        *,
        tails: Tails = "wide",
        min_scale: float = 1e-3,
        components: int | None = None,
        scale: Scale = "learned",
    ) -> None:
        shape = (len(columns),)
        super().__init__(network, shape, num_parameters=self.parameter_shape(shape, columns=columns, scale=scale)[0])
        if tails not in ("wide", "none"):
            raise ElbowroomError(f"The tails are '{tails}', but should be 'wide' or 'none'.", "Use one of them.")
        if not min_scale > 0:
            raise ElbowroomError(
                f"A table was given min_scale {min_scale}, but it should be positive.", "Leave it out, or give 1e-3."
            )
        self.columns = tuple(columns)
        self.families = nn.ModuleList()
        places = []
        noise = {"wide_tails": tails == "wide", "min_scale": min_scale, "own_scale": scale == "per-element"}
        for family, own in _by_family(self.columns, noise):
            if components is not None:
                family.repeat_scales(components)
            self.families.append(family)
            places.append(torch.tensor(own))
        for number, own_places in enumerate(places):
            self.register_buffer(f"places_{number}", own_places, persistent=False)
        self.register_buffer("order", torch.cat(places).argsort(), persistent=False)

    @classmethod
    def parameter_shape(  # type: ignore[override]  # there is no sensible default
        cls, event_shape: Sequence[int], *, columns: Sequence[Column], scale: Scale = "learned"
    ) -> tuple[int, ...]:
        """(P, D): the largest number of parameters that a column needs."""
        if not columns:
            raise ElbowroomError("A table was given without columns, but it needs one.", "Give its columns.")
        for column in columns:
            _check(column)
        own_scale = scale == "per-element"
        return (max(_num_parameters(column, own_scale=own_scale) for column in columns), *event_shape)

    def parts(self) -> list[Part]:
        """The families, with the places of their columns."""
        found = []
        for number, family in enumerate(self.families):
            assert isinstance(family, Family)
            found.append(Part(self.get_buffer(f"places_{number}"), family))
        return found

    def distribution(self, *parameters: Tensor) -> TableDistribution:
        return TableDistribution(self.parts(), self.order, parameters)

    @torch.no_grad()
    def fisher_information(self, output: Tensor) -> Tensor:
        count, columns = self._parameter_shape
        found = output.new_zeros(*output.shape[:-2], count, count, columns)
        for places, family in self.parts():
            rows = output[..., : family.num_rows, places].unbind(-2)
            found[..., : family.num_rows, : family.num_rows, places] = family.information(rows)
        return found

    @torch.no_grad()
    def init_from_rows(self, x: Tensor) -> None:
        """Starts at the training rows: the network's output bias, scales, dispersions and cut points.

        At z = 0, with the last layer's weights out of the way, every column then has about the mean, the spread, the
        level frequencies and the share of its atom that it has in these rows.

        Args:
            x: some training rows, shape (N, D), NaN where missing.
        """
        output = self.started_at(x)
        if callable(setter := getattr(self.network, "set_output_bias", None)):
            setter(output)

    @torch.no_grad()
    def started_at(self, x: Tensor) -> Tensor:
        """Starts what is learned beside the network at rows as in :meth:`init_from_rows`.

        Returns:
            Where the network's output should start, shape (P, D).
        """
        output = x.new_zeros(self._parameter_shape)
        for places, family in self.parts():
            output[: family.num_rows, places] = family.start(x[:, places]).to(output)
        return output

    @torch.no_grad()
    def maximise(self, output: Tensor, x: Tensor, weights: Tensor, prior: ClassPrior, centre: Tensor | None) -> Tensor:
        """The M step of a mixture, column by column: :meth:`~elbowroom.model.table.family.Family.maximise`.

        Args:
            output: of each class, shape (K, P, D).
            x: rows, shape (N, D), NaN where missing.
            weights: responsibilities, shape (K, N).
            prior: how strongly classes are drawn to the centre.
            centre: parameters for all rows, shape (P, D); None for no prior.
        Returns:
            Parameters of each class, shape (K, P, D); what is learned beside the network is set in place.
        """
        found = output.clone()
        for (places, family), rows, middle in self._class_rows(output, centre):
            found[:, : family.num_rows, places] = torch.stack(
                family.maximise(rows, x[:, places].to(output), weights, prior, middle), 1
            )
        return found

    def log_class_prior(self, output: Tensor, prior: ClassPrior, centre: Tensor | None) -> Tensor:
        """log p of the classes' parameters up to a constant, a scalar; arguments as in :meth:`maximise`."""
        each = [
            part.family.log_class_prior(rows, prior, middle) for part, rows, middle in self._class_rows(output, centre)
        ]
        return torch.stack(each).sum()

    def _class_rows(
        self, output: Tensor, centre: Tensor | None
    ) -> Iterator[tuple[Part, Sequence[Tensor], Sequence[Tensor] | None]]:
        """The parts, each with its parameters of each class and at the centre."""
        for part in self.parts():
            some, places = slice(part.family.num_rows), part.places
            middle = None if centre is None else centre[some, places].unbind(-2)
            yield part, output[:, some, places].unbind(-2), middle

    def totals(self, log_prob: Tensor, x: Tensor) -> Totals:
        """Sums over a row's columns of log p, apart for densities and for probabilities.

        A column's atom counts as a probability, its other values as densities.

        Args:
            log_prob: of every element, shape (\\*, D).
            x: the rows, of a shape that broadcasts.
        """
        fixed = torch.tensor([column.is_probability for column in self.columns], device=x.device)
        atoms = torch.zeros_like(x, dtype=torch.bool)
        for places, family in self.parts():
            if isinstance(family, AtomColumns):
                atoms[..., places] = family.is_atom(x[..., places])
        is_probability = fixed | atoms
        return Totals(
            torch.where(is_probability, 0.0, log_prob).sum(-1), torch.where(is_probability, log_prob, 0.0).sum(-1)
        )


def _family_name(column: Column) -> str:
    """Columns of the same name are computed together."""
    if column.cells:
        name = "cells"
    elif column.kind in _CONTINUOUS:
        name = "normal"
    else:
        name = str(column.kind)
    return name if column.atom is None else f"{name}, atom"


def _by_family(columns: Sequence[Column], noise: Mapping[str, Any]) -> Iterator[tuple[Family, list[int]]]:
    together: dict[str, list[int]] = {}
    for place, column in enumerate(columns):
        together.setdefault(_family_name(column), []).append(place)
    for name, places in together.items():
        own = [columns[place] for place in places]
        base, _, atom = name.partition(", ")
        if base == ColumnKind.COUNT:
            yield InflatedCountColumns(own) if atom else CountColumns(own), places
            continue
        family: Family
        match base:
            case "cells":
                family = CellColumns(own, **noise)
            case "normal":
                family = NormalColumns(own, **noise)
            case ColumnKind.PROPORTION:
                family = BetaColumns(own)
            case ColumnKind.BINARY:
                family = BinaryColumns(own)
            case ColumnKind.ORDINAL:
                family = OrdinalColumns(own)
            case _:
                family = CategoryColumns(own)
        yield AtomColumns(own, family) if atom else family, places


def _num_parameters(column: Column, *, own_scale: bool) -> int:
    is_noisy = bool(column.cells) or column.kind in _CONTINUOUS
    own = len(column.levels) if column.kind is ColumnKind.CATEGORY else 1 + (own_scale and is_noisy)
    return own + (column.atom is not None)


def _check(column: Column) -> None:
    if not column.kind.is_modelled:
        raise ElbowroomError(
            f"The column '{column.name}' is of the kind '{column.kind}', which has no distribution.",
            "Leave it out of the table.",
        )
    if column.kind.has_levels and len(column.levels) < 2:
        raise ElbowroomError(
            f"The column '{column.name}' has {len(column.levels)} levels, but 2 are the least.", "Leave it out."
        )
    if column.kind is ColumnKind.BINARY and len(column.levels) > 2:
        raise ElbowroomError(
            f"The column '{column.name}' has {len(column.levels)} levels, but a binary one has 2.",
            "Declare it a category.",
        )
    if column.kind.has_levels and (column.cells or column.atom is not None):
        raise ElbowroomError(
            f"The column '{column.name}' has levels, so that it can have neither cells nor an atom.",
            "Leave these out.",
        )
    if column.cells and not set(column.cells) - {column.atom}:
        raise ElbowroomError(f"The only cell of column '{column.name}' is its atom.", "Leave the atom out.")
    if not column.unit > 0:
        raise ElbowroomError(
            f"The unit of column '{column.name}' is {column.unit}, but it is a standard deviation.",
            "Leave out a column that is constant.",
        )


#: name -> class
TABLE_LIKELIHOODS: dict[str, type[Likelihood]] = {Table.name: Table}
