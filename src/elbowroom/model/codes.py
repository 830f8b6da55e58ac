r"""Discrete latents: categorical guide (encoder) and factorised priors over codes.

.. math:: q(z | x) = \prod_l \mathrm{Cat}\big(z_l \,|\, \pi_l(x)\big), \qquad
    p(z) = \prod_l \mathrm{Cat}(z_l \,|\, \pi_l)

A categorical guide is the encoder of a discrete VAE; the guide of a vector-quantised one, which chooses the nearest
vector of a codebook, is in :mod:`elbowroom.model.quantizer`. Priors that let the slots depend on each other are in
:mod:`elbowroom.model.autoregressive`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from elbowroom.model.code_distributions import Codes, CodeSpace
from elbowroom.model.conditional import Conditional, LatentSupport
from elbowroom.model.guides import Guide, InputTransform
from elbowroom.model.priors import checked_context

__all__ = ["CategoricalGuide", "UniformCodes", "UnigramCodes"]


class CategoricalGuide(Guide):
    r"""Independent categorical distributions of the slots: the encoder of a discrete VAE.

    .. math:: q(z | x) = \prod_{l=1}^L \mathrm{Cat}\big(z_l \,|\, \mathrm{softmax}(\mathrm{network}(x)_l)\big)

    Args:
        network: transformed x -> logits, shape (L, K).
        space: L and K.
        transform: of x; None leaves x as it is.
    Raises:
        ElbowroomError: the network returns another shape; fewer than two slots or codes.
    Reference:
        Jang, Gu & Poole (2017), Categorical Reparameterization with Gumbel-Softmax, arXiv:1611.01144.
    Example:
        >>> from elbowroom.model.networks import MLP
        >>> space = CodeSpace(4, 3)
        >>> guide = CategoricalGuide(MLP((784,), space), space)
        >>> guide(torch.zeros(5, 784)).log_prob(torch.zeros(5, 12)).shape
        torch.Size([5])
    """

    latent_support: LatentSupport = "codes"

    def __init__(self, network: nn.Module, space: CodeSpace, transform: InputTransform | None = None) -> None:
        super().__init__(network, space.check().dim, transform, space)
        self.space = space

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        return Codes(self._output(given, context))


class UniformCodes(Conditional):
    r"""All codes alike, :math:`p(z) = K^{-L}`: the prior that a VQ-VAE has before one is fitted.

    Args:
        space: L and K.
    Reference:
        van den Oord, Vinyals & Kavukcuoglu (2017), Neural Discrete Representation Learning, section 3.1,
        arXiv:1711.00937.
    Example:
        >>> UniformCodes(CodeSpace(2, 3))(None).log_prob(CodeSpace(2, 3).one_hot(torch.tensor([0, 1]))).exp()
        tensor(0.1111)
    """

    latent_support: LatentSupport = "codes"
    logits: Tensor

    def __init__(self, space: CodeSpace) -> None:
        super().__init__()
        self.space = space.check()
        self.register_buffer("logits", torch.zeros(*space), persistent=False)

    def forward(self, given: Tensor | None = None, context: Tensor | None = None) -> Distribution:
        return Codes(self.logits)


class UnigramCodes(Conditional):
    r"""Slots that are independent of each other, with learned frequencies of their codes.

    .. math:: p(z | c) = \prod_l \mathrm{Cat}\big(z_l \,|\, \mathrm{softmax}(\ell_l + (W c)_l)\big)

    Args:
        space: L and K.
        context_dim: length of the context c; 0 ignores any context.
    Raises:
        ElbowroomError: a context that is missing or of another length.
    Example:
        >>> UnigramCodes(CodeSpace(2, 3))(None).log_prob(torch.eye(6)[:2]).shape
        torch.Size([2])
    """

    latent_support: LatentSupport = "codes"

    def __init__(self, space: CodeSpace, *, context_dim: int = 0) -> None:
        super().__init__()
        self.space, self.context_dim = space.check(), context_dim
        self.logits = nn.Parameter(torch.zeros(*space))
        self.shift = nn.Linear(context_dim, space.dim, bias=False) if context_dim else None

    def forward(self, given: Tensor | None = None, context: Tensor | None = None) -> Distribution:
        logits: Tensor = self.logits
        if self.shift is not None:
            context = checked_context(context, self.context_dim)
            logits = logits + self.space.split(self.shift(context.to(logits.dtype)).to(logits.dtype))
        return Codes(logits)
