r"""Distributions over codes: discrete latents of L slots, each with one of K codes.

A code is a row of L numbers :math:`k_1 \dots k_L \in \{0, \dots, K - 1\}`. As a latent vector it is written one-hot
and flat, slot by slot,

.. math:: z \in \{0, 1\}^{LK}, \qquad z_{lK + k} = [k_l = k],

so that whatever takes a latent vector takes codes. Densities are defined for every real vector of that length, linear
in the logits, because gradients in z are needed: by estimators that pass a gradient through a draw, and by locally
informed samplers. Only at one-hot vectors are they probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Size, Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint

from elbowroom.errors import ElbowroomError
from elbowroom.model import noise
from elbowroom.model.noise import NoiseSource

__all__ = ["AutoregressiveCodes", "CodeGrid", "CodeSpace", "Codes", "gumbel"]


class CodeSpace(NamedTuple):
    """The codes that a latent can be: L slots, each with one of K codes.

    Example:
        >>> space = CodeSpace(slots=2, codes=3)
        >>> space.dim, space.size
        (6, 9)
        >>> space.one_hot(torch.tensor([[0, 2]]))
        tensor([[1., 0., 0., 0., 0., 1.]])
        >>> print(space)
        2 slots × 3 codes
    """

    slots: int  #: L
    codes: int  #: K

    @property
    def dim(self) -> int:
        """L K, the length of z."""
        return self.slots * self.codes

    @property
    def size(self) -> int:
        """K^L, the number of different z."""
        return math.prod([self.codes] * self.slots)

    def split(self, z: Tensor) -> Tensor:
        """(\\*, L K) as (\\*, L, K)."""
        return z.reshape(*z.shape[:-1], self.slots, self.codes)

    def one_hot(self, numbers: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Code numbers of shape (\\*, L), int64, as z of shape (\\*, L K)."""
        return F.one_hot(numbers, self.codes).to(dtype).flatten(-2)

    def numbers(self, z: Tensor) -> Tensor:
        """The code number of each slot, int64, shape (\\*, L); of any vector, the number of the largest entry."""
        return self.split(z).argmax(-1)

    def check(self, least_slots: int = 1) -> CodeSpace:
        """The space itself.

        Args:
            least_slots: that it should have; two where one slot is to be told of another.
        Raises:
            ElbowroomError: too few slots, or fewer than two codes.
        """
        for number, least, name, flag in (
            (self.slots, least_slots, "slots", "--model.slots"),
            (self.codes, 2, "codes", "--model.codes"),
        ):
            if number < least:
                raise ElbowroomError(
                    f"{number} {name[:-1] if number == 1 else name} of discrete latents were asked for, but {least} "
                    f"{'is' if least == 1 else 'are'} the least.",
                    f"Give {flag} {least} or more.",
                )
        return self

    def __str__(self) -> str:
        return f"{self.slots} slot{'s' * (self.slots > 1)} × {self.codes} codes"


class CodeGrid(NamedTuple):
    """Where slots are: n at each place of a grid.

    They are in the order of reading, row by row, those of a place after each other: slot (i W + j) n + t is slot t of
    the place in row i and column j.

    Example:
        >>> grid = CodeGrid(height=7, width=7, each=2)
        >>> grid.places, grid.slots
        (49, 98)
    """

    height: int  #: H
    width: int  #: W
    each: int = 1  #: n

    @property
    def places(self) -> int:
        """H W."""
        return self.height * self.width

    @property
    def slots(self) -> int:
        """L = H W n."""
        return self.places * self.each


def gumbel(shape: Sequence[int], like: Tensor, generator: NoiseSource | None) -> Tensor:
    """Draws from the standard Gumbel distribution, −log(−log u), from uniform noise.

    Example:
        >>> gumbel((2,), torch.zeros(()), torch.Generator().manual_seed(0)).shape
        torch.Size([2])
    """
    tiny = torch.finfo(like.dtype).tiny
    u = noise.uniform(shape, like, generator).clamp(min=tiny)
    # u = 1 cannot happen, but −log u rounds to 0 where u is the largest number below 1 in bfloat16
    return -torch.log((-torch.log(u)).clamp(min=tiny))


class Codes(Distribution):
    r"""Independent slots, each with a categorical distribution.

    .. math:: \log q(z) = \sum_{l, k} z_{lk} \log \pi_{lk}, \qquad \pi_l = \mathrm{softmax}(\ell_l)

    Args:
        logits: :math:`\ell`, shape (\*batch, L, K).
    Attributes:
        logits: normalised: log π, shape (\*batch, L, K).
        space: L and K.
    Example:
        >>> q = Codes(torch.zeros(5, 2, 3))
        >>> q.sample((4,)).shape, q.log_prob(q.mode)[0].exp()
        (torch.Size([4, 5, 6]), tensor(0.1111))
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {"logits": constraints.real_vector}
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits.log_softmax(-1)
        self.space = CodeSpace(logits.shape[-2], logits.shape[-1])
        super().__init__(logits.shape[:-2], Size([self.space.dim]), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Codes:
        """The same distribution with another batch shape."""
        expanded = Codes.__new__(Codes)
        expanded.logits = self.logits.expand(*batch_shape, *self.space)
        expanded.space = self.space
        Distribution.__init__(expanded, Size(batch_shape), self.event_shape, validate_args=False)
        return expanded

    @property
    def probs(self) -> Tensor:
        """π, shape (\\*batch, L, K)."""
        return self.logits.exp()

    def tempered(self, temperature: float) -> Codes:
        """Every slot to the power 1 / τ, normalised."""
        return Codes(self.logits / temperature)

    @property
    def mean(self) -> Tensor:
        """π, flat: shape (\\*batch, L K)."""
        return self.probs.flatten(-2)

    @property
    def mode(self) -> Tensor:
        """The most likely code of each slot, one-hot, shape (\\*batch, L K)."""
        return self.space.one_hot(self.logits.argmax(-1), self.logits.dtype)

    def sample(self, sample_shape: Sequence[int] = (), generator: NoiseSource | None = None) -> Tensor:
        """One-hot draws, shape (\\*sample_shape, \\*batch, L K), by the Gumbel-max trick."""
        shape = (*sample_shape, *self.batch_shape, self.space.dim)
        perturbed = self.logits.detach().flatten(-2) + gumbel(shape, self.logits, generator)
        return self.space.one_hot(self.space.numbers(perturbed), self.logits.dtype)

    def sample_after(
        self, z: Tensor, known: int, sample_shape: Sequence[int] = (), generator: NoiseSource | None = None
    ) -> Tensor:
        """As :meth:`AutoregressiveCodes.sample_after`; here the other slots do not depend on the known ones."""
        further = z.shape[: z.dim() - 1 - len(self.batch_shape)]
        drawn = self.space.split(self.sample((*sample_shape, *further), generator))
        first = torch.arange(self.space.slots, device=z.device).unsqueeze(-1) < known
        return torch.where(first, self.space.split(z).to(drawn), drawn).flatten(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z), nats; differentiable in z, in which it is linear."""
        # a code of probability 0 that is not drawn adds nothing, where 0 · (−∞) would be NaN
        return (value * self.logits.flatten(-2).clamp(min=torch.finfo(self.logits.dtype).min)).sum(-1)

    def log_probs(self, value: Tensor) -> Tensor:
        """The parts of log q(z) that the slots are, shape (\\*, L)."""
        finite = self.logits.clamp(min=torch.finfo(self.logits.dtype).min)
        return (self.space.split(value) * finite).sum(-1)

    def entropy(self) -> Tensor:
        """−E log q(z), nats, shape (\\*batch,)."""
        return -(self.probs * self.logits.clamp(min=torch.finfo(self.logits.dtype).min)).sum((-1, -2))


class AutoregressiveCodes(Distribution):
    r"""Slots one after the other, each given those before it.

    .. math:: \log p(z) = \sum_{l, k} z_{lk} \log \pi_{lk}(z_{<l}), \qquad
        \pi_l = \mathrm{softmax}\big(\ell_l(z_1, \dots, z_{l-1})\big)

    Args:
        space: L and K.
        logits: :math:`\ell`, a function of z of shape (\*, L K) to (\*, L, K), whose slot l may depend on the slots
            before l only. With a batch shape, z has the axes (\*, batch, L K).
        batch_shape: () where the distribution is the same for all examples, (batch,) where it has a context.
        like: a tensor of the dtype and device that draws are to have.
        choose: noise of shape (\*, \*batch_shape, L, K) to codes of shape (\*, \*batch_shape, L K), in each slot the
            largest logit with its noise added, where there is a quicker way than to compute the logits L times.
    Example:
        >>> p = AutoregressiveCodes(
        ...     CodeSpace(2, 3), lambda z: torch.zeros(*z.shape[:-1], 2, 3), like=torch.zeros(())
        ... )
        >>> p.log_prob(p.sample((4,))).exp()[0]
        tensor(0.1111)
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(
        self,
        space: CodeSpace,
        logits: Callable[[Tensor], Tensor],
        batch_shape: Sequence[int] = (),
        *,
        like: Tensor,
        choose: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.space, self._logits, self._like, self._choose = space, logits, like, choose
        super().__init__(Size(batch_shape), Size([space.dim]), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> AutoregressiveCodes:
        """The same distribution with further axes in front of its batch shape."""
        assert Size(batch_shape[len(batch_shape) - len(self.batch_shape) :]) == self.batch_shape
        return AutoregressiveCodes(self.space, self._logits, batch_shape, like=self._like, choose=self._choose)

    def conditionals(self, z: Tensor) -> Tensor:
        """log π(z), shape (\\*, L, K): of every slot, given the slots before it."""
        return self._logits(z).to(z.dtype).log_softmax(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z), nats, shape (\\*,)."""
        return (self.space.split(value) * self.conditionals(value)).sum((-1, -2))

    def log_probs(self, value: Tensor) -> Tensor:
        """log p of every slot given those before it, shape (\\*, L)."""
        return (self.space.split(value) * self.conditionals(value)).sum(-1)

    def sample(self, sample_shape: Sequence[int] = (), generator: NoiseSource | None = None) -> Tensor:
        """One-hot draws, shape (\\*sample_shape, \\*batch_shape, L K), slot after slot."""
        return self._chosen(self._noise(sample_shape, generator))

    def sample_after(
        self, z: Tensor, known: int, sample_shape: Sequence[int] = (), generator: NoiseSource | None = None
    ) -> Tensor:
        """Draws of the slots after the first ``known``, given these; with all slots, shape (\\*sample_shape, \\*, L K).

        Args:
            z: codes of which the first slots are kept, one-hot, shape (\\*, \\*batch_shape, L K).
            known: how many are.
            sample_shape: axes in front.
            generator: the source of randomness.
        """
        shape = (*sample_shape, *z.shape[: z.dim() - 1 - len(self.batch_shape)])
        perturbation = self._noise(shape, generator).clone()
        # with no noise but +∞ at the known code, the largest sum is there, whatever the logits
        kept = self.space.split(z)[..., :known, :] > 0.5
        perturbation[..., :known, :] = torch.where(kept, torch.inf, 0.0)
        return self._chosen(perturbation)

    def _noise(self, sample_shape: Sequence[int], generator: NoiseSource | None) -> Tensor:
        """Gumbel noise for every code, shape (\\*sample_shape, \\*batch_shape, L, K)."""
        shape = (*sample_shape, *self.batch_shape, self.space.dim)
        return self.space.split(gumbel(shape, self._like, generator))

    def _chosen(self, perturbation: Tensor) -> Tensor:
        with torch.no_grad():  # as a decorator, torch.compile would not understand it
            if self._choose is not None:
                return self._choose(perturbation)
            z = torch.zeros_like(perturbation).flatten(-2)
            slots = self.space.split(z)
            for slot in range(self.space.slots):
                perturbed = self.conditionals(z)[..., slot, :] + perturbation[..., slot, :]
                slots[..., slot, :] = F.one_hot(perturbed.argmax(-1), self.space.codes).to(z.dtype)
            return z
