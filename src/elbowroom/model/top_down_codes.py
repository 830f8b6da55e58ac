r"""Codes on several levels, from the top down: the slots of a level are independent, given those of all levels above.

.. math:: \log q(z) = \sum_{m=1}^M \sum_l \log \mathrm{Cat}\big(z_{ml} \,|\, \pi_{ml}(z_1, \dots, z_{m-1})\big)

It is the guide of a model with levels of codes, as that of a VQ-VAE-2; z is one flat vector, the top level first. With
one level it is :class:`~elbowroom.model.code_distributions.Codes`.

Reference:
    Razavi, van den Oord & Vinyals (2019), Generating Diverse High-Fidelity Images with VQ-VAE-2, arXiv:1906.00446.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint

from elbowroom.model.code_distributions import Codes, CodeSpace
from elbowroom.model.noise import NoiseSource

__all__ = ["TopDownCodes", "by_level", "levels_of"]

Rows = Tensor | slice


class TopDownCodes(Distribution):
    r"""Levels of codes one after the other, each of independent slots given the levels above it.

    Args:
        levels: L and K of every level, the top level first; K is the same for all.
        logits: of a level, from its number and z of all levels above it, flat: shape (\*, \*batch_shape, L₁K + … ) to
            (\*, \*batch_shape, L, K). Of the top level it is asked for with a z of length 0.
        batch_shape: (batch,).
        like: a tensor of the dtype and device that draws are to have.
        rows: the same distribution of some of the examples.
        widest: elements of the largest tensor that the logits of one z take.
    Attributes:
        space: slots of all levels together, and codes.
        top: the distribution of the top level.
    Example:
        >>> levels = (CodeSpace(1, 2), CodeSpace(2, 2))
        >>> def logits(level, above):  # of the lower slots: the code of the top one, nine times of ten
        ...     shape = (*above.shape[:-1], *levels[level])
        ...     return torch.zeros(shape) if level == 0 else (0.8 * above + 0.1).log().unsqueeze(-2).expand(shape)
        >>> q = TopDownCodes(levels, logits, (5,), like=torch.zeros(()))
        >>> q.sample((4,)).shape, q.log_prob(torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 0.0])).exp()[0]
        (torch.Size([4, 5, 6]), tensor(0.4050))
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(
        self,
        levels: Sequence[CodeSpace],
        logits: Callable[[int, Tensor], Tensor],
        batch_shape: Sequence[int],
        *,
        like: Tensor,
        rows: Callable[[Rows], TopDownCodes] | None = None,
        widest: int = 1,
    ) -> None:
        self.levels = tuple(levels)
        self.space = CodeSpace(sum(level.slots for level in levels), levels[0].codes)
        self._logits, self._like, self._rows, self.widest = logits, like, rows, widest
        super().__init__(Size(batch_shape), Size([self.space.dim]), validate_args=False)
        self.top = Codes(logits(0, like.new_empty(*batch_shape, 0)))

    @property
    def sizes(self) -> tuple[int, ...]:
        """L K of every level."""
        return tuple(level.dim for level in self.levels)

    def given(self, level: int, above: Tensor) -> Codes:
        """The distribution of a level given z of the levels above it, shape (\\*, \\*batch_shape, their length)."""
        return self.top if level == 0 else Codes(self._logits(level, above))

    def conditionals(self, z: Tensor) -> list[Codes]:
        """The distribution of every level, given the levels above it in z, shape (\\*, L K)."""
        starts = accumulate(self.sizes[:-1], initial=0)
        return [self.given(level, z[..., :start]) for level, start in enumerate(starts)]

    def rows(self, index: Rows) -> TopDownCodes:
        """The distributions of some of the examples."""
        assert self._rows is not None, "it was made without them"
        return self._rows(index)

    def tempered(self, temperature: float) -> TopDownCodes:
        """Every slot, given the levels above it, to the power 1 / τ, normalised."""
        return self._changed(lambda logits: logits / temperature, lambda q: q.tempered(temperature))

    def detached(self) -> TopDownCodes:
        """The same with logits off the graph."""
        return self._changed(Tensor.detach, TopDownCodes.detached)

    @property
    def mode(self) -> Tensor:
        """From the top down, the most likely code of each slot given those above, one-hot, shape (\\*batch, L K)."""
        return self._walked(lambda codes: codes.mode)

    @property
    def logits(self) -> Tensor:
        """log π of every code, given the levels above it in :attr:`mode`; shape (\\*batch, L, K)."""
        return torch.cat([codes.logits for codes in self.conditionals(self.mode)], -2)

    @property
    def probs(self) -> Tensor:
        """π of every code, given the levels above it in :attr:`mode`; shape (\\*batch, L, K)."""
        return self.logits.exp()

    def sample(self, sample_shape: Sequence[int] = (), generator: NoiseSource | None = None) -> Tensor:
        """One-hot draws, shape (\\*sample_shape, \\*batch, L K), level after level."""
        top = self.top.sample(sample_shape, generator)
        with torch.no_grad():
            return self._walked(lambda codes: codes.sample((), generator), [top])

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z), nats, shape (\\*,)."""
        first, *lower = by_level(self.levels, value)
        total = self.top.log_prob(first)
        for codes, part in zip(self.conditionals(value)[1:], lower, strict=True):
            total = total + codes.log_prob(part)
        return total

    def entropy_given(self, z: Tensor) -> Tensor:
        """Entropies of the levels, each given the levels above it in z; their mean over draws of z is unbiased."""
        total = self.top.entropy()
        for codes in self.conditionals(z)[1:]:
            total = total + codes.entropy()
        return total

    def _walked(self, choose: Callable[[Codes], Tensor], chosen: Sequence[Tensor] = ()) -> Tensor:
        """z whose levels are chosen one after the other, the first ones beforehand."""
        parts = list(chosen) or [choose(self.top)]
        for level in range(len(parts), len(self.levels)):
            parts.append(choose(self.given(level, torch.cat(parts, -1))))
        return torch.cat(parts, -1)

    def _changed(
        self, change: Callable[[Tensor], Tensor], again: Callable[[TopDownCodes], TopDownCodes]
    ) -> TopDownCodes:
        """The same with logits changed; ``again`` changes the distribution of some rows."""
        return TopDownCodes(
            self.levels,
            lambda level, above: change(self._logits(level, above)),
            self.batch_shape,
            like=self._like,
            rows=None if self._rows is None else lambda index: again(self.rows(index)),
            widest=self.widest,
        )


def levels_of(q: Distribution) -> tuple[CodeSpace, ...]:
    """L and K of every level of a distribution of codes; a single one where it has none.

    Example:
        >>> levels_of(Codes(torch.zeros(2, 3)))
        (CodeSpace(slots=2, codes=3),)
    """
    assert isinstance(q, Codes | TopDownCodes)
    return (q.space,) if isinstance(q, Codes) else q.levels


def by_level(levels: Sequence[CodeSpace], z: Tensor) -> list[Tensor]:
    """z of shape (\\*, L K), cut into its levels.

    Example:
        >>> [part.tolist() for part in by_level((CodeSpace(1, 2), CodeSpace(2, 2)), torch.arange(6))]
        [[0, 1], [2, 3, 4, 5]]
    """
    return list(z.split_with_sizes([level.dim for level in levels], -1))
