"""Likelihoods of categories: numbers that only name them, and levels, which have an order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.distributions as D
from torch import Tensor, nn

from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.model import ordinal
from elbowroom.model.conditional import Likelihood

__all__ = ["MOST_LEVELS", "Categorical", "Ordinal"]

MOST_LEVELS = 1_000  #: of an ordinal likelihood, which learns a number for each
_LOG_GAPS = (-15.0, 15.0)  # of cut points: a smaller gap holds no mass, a larger one all of it


class Categorical(Likelihood):
    r"""Elements that are category numbers 0..C−1.

    .. math:: \log p(x) = \log \mathrm{softmax}(\mathrm{network}(z))_x

    Args:
        network: z -> logits of shape (C, \*event).
        event_shape: shape of one example.
        num_categories: C.
    """

    name = "categorical"
    support = Support.CATEGORIES

    def __init__(self, network: nn.Module, event_shape: Sequence[int], *, num_categories: int) -> None:
        super().__init__(network, event_shape, num_parameters=num_categories)
        self.num_categories = num_categories

    @classmethod
    def parameter_shape(  # type: ignore[override]  # there is no sensible default
        cls, event_shape: Sequence[int], *, num_categories: int
    ) -> tuple[int, ...]:
        """(C, \\*event)."""
        return (num_categories, *event_shape)

    def distribution(self, *parameters: Tensor) -> D.Distribution:
        return D.Categorical(logits=torch.stack(parameters, -1), validate_args=False)

    def fisher_information(self, output: Tensor) -> Tensor:
        axis = -len(self._parameter_shape)
        p = output.softmax(axis).movedim(axis, -1)
        found = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
        return found.movedim((-2, -1), (axis - 1, axis))


class Ordinal(Likelihood):
    r"""Levels 0..K−1 that have an order but no distances, which are learned: the model of proportional odds.

    .. math:: P(x \le k) = \sigma(c_{k+1} - f), \qquad f = \mathrm{network}(z), \quad
        c_{k+1} - c_k = e^{g_k}, \quad |g_k| \le 15

    The cut points do not depend on z, and the logistic noise has a scale of one. They start where the levels are
    equally probable at f = 0.

    Args:
        network: z -> locations f of shape (1, \*event).
        event_shape: shape of one example.
        levels: K, the same for every element; 2 to 1,000.
        cut_points: "per-element", or "shared" by all elements, as for the pixels of a picture; "auto" shares them where
            an example has two axes or more.
    Raises:
        ElbowroomError: another number of levels, or an unknown name.
    Reference:
        McCullagh (1980), Regression models for ordinal data, section 2.
    Example:
        >>> from elbowroom.model.networks import MLP
        >>> likelihood = Ordinal(MLP((2,), Ordinal.parameter_shape((3,), levels=5)), (3,), levels=5)
        >>> likelihood(torch.zeros(4, 2)).log_prob(torch.zeros(4, 3)).shape
        torch.Size([4, 3])
    """

    name = "ordinal"
    support = Support.COUNTS

    def __init__(
        self,
        network: nn.Module,
        event_shape: Sequence[int],
        *,
        levels: int,
        cut_points: Literal["auto", "per-element", "shared"] = "auto",
    ) -> None:
        super().__init__(network, event_shape, num_parameters=self.parameter_shape((), levels=levels)[0])
        if cut_points not in ("auto", "per-element", "shared"):
            raise ElbowroomError(
                f"The cut points are '{cut_points}', but should be 'auto', 'per-element' or 'shared'.",
                "Use one of them.",
            )
        self.levels = levels
        self.highest = levels - 1
        shared = cut_points == "shared" or (cut_points == "auto" and len(self.event_shape) > 1)
        start = torch.logit(torch.arange(1.0, levels) / levels)
        each = () if shared else self.event_shape
        ones = torch.ones(each)
        self.first_cut = nn.Parameter(start[0] * ones)
        gaps = start.diff().log().reshape(-1, *(1 for _ in each)) * ones
        self.log_gaps = nn.Parameter(gaps) if levels > 2 else None

    @classmethod
    def parameter_shape(  # type: ignore[override]  # there is no sensible default
        cls, event_shape: Sequence[int], *, levels: int
    ) -> tuple[int, ...]:
        """(1, \\*event), a location for each element."""
        if not 2 <= levels <= MOST_LEVELS:
            raise ElbowroomError(
                f"An ordinal likelihood was given {levels:,} levels, but takes 2 to {MOST_LEVELS:,}, since it learns a "
                "cut point between any two.",
                "For larger numbers use --model.likelihood negative-binomial, or gaussian for measurements.",
            )
        return (1, *event_shape)

    def distribution(self, *parameters: Tensor) -> D.Distribution:
        (location,) = parameters
        return self._at(location)

    def fisher_information(self, output: Tensor) -> Tensor:
        axis = -len(self._parameter_shape)
        return self._as_matrices(self._at(output.squeeze(axis)).information.unsqueeze(axis))

    def _at(self, location: Tensor) -> ordinal.Ordinal:
        none = self.first_cut.new_zeros(0, *self.first_cut.shape)
        gaps = none if self.log_gaps is None else self.log_gaps.clamp(*_LOG_GAPS).exp()
        return ordinal.Ordinal(location, self.first_cut, gaps)

    @torch.no_grad()
    def _initial_output(self, mean: Tensor) -> Tensor:
        # the mean level increases with f, but its inverse has no closed form: bisect
        top = self.levels - 1
        mean = mean.clamp(1e-3 * top, (1 - 1e-3) * top)
        low, high = torch.full_like(mean, -1e3), torch.full_like(mean, 1e3)
        for _ in range(60):
            middle = (low + high) / 2
            below = self._at(middle).mean < mean
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return middle
