"""What a guide sees of a table's rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.data.support import Support
from elbowroom.model.guides import InputTransform
from elbowroom.model.table.atoms import equals

__all__ = ["TableTransform"]

_FARTHEST = 5.0  # standard deviations


class TableTransform(InputTransform):
    """Columns of all kinds, and which of their elements were observed, as the input of an encoder.

    ================ =============================================================================
    a column         becomes
    ================ =============================================================================
    levels           one input for each level, 1 for the own one
    real, date       standardised
    positive         its logarithm, standardised
    count            log(1 + x), standardised
    proportion       standardised
    with an atom     one more: 1 at the atom, where the standardised value is 0
    any              one more: 1 where it was observed; where it was not, all its inputs are 0
    ================ =============================================================================

    Standardised values are kept within ±5. Means and deviations are those of the columns, until :meth:`init_from_rows`
    sets them.

    Args:
        columns: of the table, D of them.
    Attributes:
        out_shape: (W,), the number of inputs.
    Example:
        >>> columns = [Column("a", ColumnKind.REAL, shift=1.0, unit=2.0), Column("b", ColumnKind.BINARY, ("n", "y"))]
        >>> TableTransform(columns)(torch.tensor([[5.0, 1.0], [torch.nan, 0.0]]))
        tensor([[2., 0., 1., 1., 1.],
                [0., 1., 0., 0., 1.]])
    """

    reads_missing = True
    numbers: Tensor  #: places of the columns of numbers, shape (n,)
    atoms: Tensor  #: their atoms, NaN where there is none
    is_log: Tensor
    is_count: Tensor
    named: Tensor  #: places of the columns with levels, shape (m,)
    own_level: Tensor  #: of every input for a level: its column among those, and its level
    own_column: Tensor
    with_atom: Tensor  #: which columns of numbers have one

    def __init__(self, columns: Sequence[Column]) -> None:
        numbers = [place for place, column in enumerate(columns) if not column.kind.has_levels]
        named = [place for place, column in enumerate(columns) if column.kind.has_levels]
        own = [columns[place] for place in numbers]
        standardized = [column.kind is not ColumnKind.COUNT for column in own]
        shift = [column.shift * standard for column, standard in zip(own, standardized, strict=True)]
        scale = [column.unit if standard else 1.0 for column, standard in zip(own, standardized, strict=True)]
        super().__init__(Support.TABLE, (len(columns),), shift=torch.tensor(shift), scale=torch.tensor(scale))
        levels = [(i, level) for i, place in enumerate(named) for level in range(len(columns[place].levels))]
        with_atom = [i for i, column in enumerate(own) if column.atom is not None]
        for name, values, kind in (
            ("numbers", numbers, torch.int64),
            ("atoms", [torch.nan if column.atom is None else column.atom for column in own], torch.float32),
            ("is_log", [column.kind is ColumnKind.POSITIVE for column in own], torch.bool),
            ("is_count", [column.kind is ColumnKind.COUNT for column in own], torch.bool),
            ("named", named, torch.int64),
            ("own_column", [column for column, _ in levels], torch.int64),
            ("own_level", [level for _, level in levels], torch.int64),
            ("with_atom", with_atom, torch.int64),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=kind), persistent=False)
        self.out_shape = (len(numbers) + len(with_atom) + len(levels) + len(columns),)

    def forward(self, x: Tensor) -> Tensor:
        """x of shape (\\*, D), NaN where missing, as (\\*, W), in the guide's floating-point type."""
        observed = ~x.isnan()
        values, is_atom = self._on_axis(x[..., self.numbers])
        values = ((values - self.shift) / self.scale).clamp(-_FARTHEST, _FARTHEST)
        values = torch.where(observed[..., self.numbers] & ~is_atom, values, 0.0)
        hot = x[..., self.named][..., self.own_column] == self.own_level
        parts = [values, is_atom[..., self.with_atom], hot, observed]
        return torch.cat([part.to(self.shift.dtype) for part in parts], -1)

    @torch.no_grad()
    def init_from_rows(self, x: Tensor) -> None:
        """Takes mean and deviation of every column of numbers, on its axis and without its atom.

        Args:
            x: some training rows, shape (N, D), NaN where missing.
        """
        values, is_atom = self._on_axis(x[..., self.numbers].double())
        values = torch.where(is_atom | x[..., self.numbers].isnan(), torch.nan, values)
        mean = values.nanmean(0).nan_to_num(nan=0.0)
        scale = (values - mean).square().nanmean(0).sqrt()
        self.shift.copy_(mean)
        self.scale.copy_(torch.where(scale > 0, scale, 1.0))

    def _on_axis(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values on their axes, and which are atoms, whose place on the axis means nothing."""
        is_atom = equals(x, self.atoms)
        x = x.to(torch.promote_types(x.dtype, self.shift.dtype))
        log = torch.where(self.is_log & ~is_atom, x, 1.0).clamp(min=torch.finfo(x.dtype).tiny).log()
        count = torch.where(self.is_count, x, 0.0).log1p()
        return torch.where(self.is_log, log, torch.where(self.is_count, count, x)), is_atom
