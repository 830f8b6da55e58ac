r"""Autoregressive priors over codes: each slot given the slots before it.

.. math:: p(z | c) = \prod_{l=1}^L \mathrm{Cat}\big(z_l \,|\, \mathrm{softmax}(\ell_l(z_1, \dots, z_{l-1}, c))\big)

Any distribution over codes has this form, so only the network limits what such a prior can be. Densities take one pass
of the network, and so does a draw, slot by slot. The logits start near zero: training starts at the uniform prior.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.model.causal_networks import AttentionNetwork, CausalNetwork, MaskedMLP
from elbowroom.model.code_distributions import AutoregressiveCodes, CodeGrid, CodeSpace
from elbowroom.model.code_sampling import SamplingRule
from elbowroom.model.codes import UniformCodes, UnigramCodes
from elbowroom.model.conditional import Conditional, LatentSupport
from elbowroom.model.priors import checked_context
from elbowroom.numerics import chunks

__all__ = ["PRIORS_OVER_CODES", "AutoregressivePrior", "CausalTransformer", "Made"]

_ROWS = 1024  #: of z drawn at a time, so that the memory for what earlier slots have led to stays bounded


class AutoregressivePrior(Conditional):
    """p(z | c) by a network that gives the logits of each slot from the slots before it.

    Args:
        network: z -> logits.
    Raises:
        ElbowroomError: a context that is missing or of another length.
    """

    latent_support: LatentSupport = "codes"

    def __init__(self, network: CausalNetwork) -> None:
        super().__init__()
        self.space, self.context_dim = network.space, network.context_dim
        self.network = network
        self._rule = SamplingRule()

    @contextmanager
    def drawing_by(self, rule: SamplingRule) -> Iterator[None]:
        """A context in which draws follow a rule; densities stay those of the prior.

        Raises:
            ElbowroomError: guidance of a prior without a context.
        """
        if rule.guidance != 1 and not self.context_dim:
            raise ElbowroomError(
                f"--guidance {rule.guidance:g} was given, but the prior is not conditional on anything.",
                "Leave it out, or train a model that is: --data.context labels.",
            )
        before, self._rule = self._rule, rule
        try:
            yield
        finally:
            self._rule = before

    def forward(self, given: Tensor | None = None, context: Tensor | None = None) -> AutoregressiveCodes:
        context = checked_context(context, self.context_dim) if self.context_dim else None
        like = next(self.network.parameters())
        batch_shape = () if context is None else context.shape[:-1]

        def choose(noise: Tensor) -> Tensor:
            lead = noise.shape[:-2]
            bias = noise.reshape(-1, *self.space)
            rows = None if context is None else context.expand(*lead, -1).reshape(-1, self.context_dim)
            parts = [
                self._decoded(bias[part], None if rows is None else rows[part])
                for part in chunks(math.prod(lead), _ROWS)
            ]
            return torch.cat([bias[:0], *parts]).reshape(*lead, self.space.dim)

        return AutoregressiveCodes(
            self.space, lambda z: self.network(z, context), batch_shape, like=like, choose=choose
        )

    def _decoded(self, bias: Tensor, context: Tensor | None) -> Tensor:
        """The codes with the largest logits by the rule, noise added; shapes as in :meth:`CausalNetwork.decode`."""
        if self._rule.changes_nothing:
            return self.network.decode(bias, context)
        with self.network.choosing_by(self._rule):
            if self._rule.guidance == 1 or context is None:
                return self.network.decode(bias, context)
            both = torch.cat([context, torch.zeros_like(context)])  # with the same noise, both choose the same codes
            return self.network.decode(bias.repeat(2, 1, 1), both)[: len(bias)]


class Made(AutoregressivePrior):
    r"""The prior of a MADE, a masked MLP (:class:`~elbowroom.model.causal_networks.MaskedMLP`).

    Args:
        space: L and K.
        width: of the hidden layers.
        layers: hidden layers.
        context_dim: length of the context c; 0 ignores any context.
    Raises:
        ElbowroomError: fewer hidden units than slots; fewer than two slots or codes; a context that is missing or of
            another length.
    Reference:
        Germain, Gregor, Murray & Larochelle (2015), MADE: Masked Autoencoder for Distribution Estimation,
        arXiv:1502.03509.
    Example:
        >>> p = Made(CodeSpace(4, 3), width=16)(None)
        >>> p.log_prob(p.sample((5,))).shape
        torch.Size([5])
    """

    def __init__(self, space: CodeSpace, *, width: int = 512, layers: int = 2, context_dim: int = 0) -> None:
        super().__init__(MaskedMLP(space.check(2), width=width, layers=layers, context_dim=context_dim))


class CausalTransformer(AutoregressivePrior):
    r"""The prior of a small causal transformer (:class:`~elbowroom.model.causal_networks.AttentionNetwork`).

    Args:
        space: L and K.
        width: of the tokens.
        layers: blocks of attention and MLP.
        heads: of the attention.
        grid: where the slots are, whose places then share embeddings and have positions in rows and columns; of several
            levels, the top level first; None for slots without places.
        context_dim: length of the context c; 0 ignores any context.
        words: the widths of the words that the context consists of, which are read as tokens before the codes.
    Raises:
        ElbowroomError: a width that the heads do not divide; fewer than two slots or codes; a context that is missing
            or of another length.
    Reference:
        Vaswani et al. (2017), Attention Is All You Need, arXiv:1706.03762.
    Example:
        >>> p = CausalTransformer(CodeSpace(4, 3), width=16)(None)
        >>> p.log_prob(p.sample((5,))).shape
        torch.Size([5])
    """

    def __init__(
        self,
        space: CodeSpace,
        *,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        grid: CodeGrid | Sequence[CodeGrid] | None = None,
        context_dim: int = 0,
        words: Sequence[int] = (),
    ) -> None:
        shape = {"width": width, "layers": layers, "heads": heads, "context_dim": context_dim}
        super().__init__(AttentionNetwork(space.check(2), grid=grid, words=words, **shape))


#: name -> class, of the priors over codes
PRIORS_OVER_CODES: dict[str, type[Conditional]] = {
    "uniform": UniformCodes,
    "unigram": UnigramCodes,
    "made": Made,
    "transformer": CausalTransformer,
}
