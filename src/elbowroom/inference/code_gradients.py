r"""Draws of codes, and what takes the place of their derivative.

The draw of a code is a choice: it jumps, and has no derivative in the logits :math:`\ell` it depends on. Yet the
gradient of an average over codes exists, and is a sum over all of them,

.. math:: \nabla_\ell \, \mathbb{E}_{q}[f(z)] = \sum_z f(z) \, \nabla_\ell \, q(z), \qquad
    q(z) = \prod_l \mathrm{Cat}(z_l \,|\, \pi_l), \quad \pi_l = \mathrm{softmax}(\ell_l).

The score function estimates it without bias, from values of f alone. The other estimators use the gradient of f at the
draw, which says much more, and pretend that z moves with the logits as some softmax does. They are biased, each for
the f that its pretence does not fit. Of one slot, with Gumbel noise g and the draw
:math:`D = \text{one-hot}(\arg\max_k (\ell_k + g_k))`, temperature τ:

==================== ================================ ====================================================
estimator            f and its gradient are taken at  the derivative of z is that of
==================== ================================ ====================================================
``straight-through`` D                                softmax(ℓ / τ)
``st-gumbel``        D                                softmax((ℓ + g) / τ)
``gumbel-softmax``   softmax((ℓ + g) / τ)             softmax((ℓ + g) / τ)
``reinmax``          D                                a softmax with the value π₁ = (D + softmax(ℓ / τ)) / 2,
                                                      taken twice, less half of softmax(ℓ)
==================== ================================ ====================================================

At τ = 1 ``straight-through`` is exact for linear f, and ``reinmax`` for quadratic f, as the rules of numerical
integration of first and second order are.

A relaxed draw is no code, and a density of codes at it is no probability. So the *value* of an objective is always
computed at D, which has the law of q for every estimator and every temperature; relaxed draws serve the gradient alone
(:func:`path_gradient`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError, check_name
from elbowroom.model.code_distributions import Codes, gumbel
from elbowroom.model.noise import NoiseSource
from elbowroom.model.top_down_codes import TopDownCodes

__all__ = ["CODE_ESTIMATORS", "Draws", "draw_codes", "is_biased", "path_gradient"]

#: name -> what it does, in a line, of those that differentiate through draws of codes
CODE_ESTIMATORS: dict[str, str] = {
    "straight-through": "biased: codes, differentiated as their probabilities (Bengio, Léonard & Courville 2013)",
    "gumbel-softmax": "biased: differentiated at relaxed draws (Jang et al. 2017; Maddison et al. 2017)",
    "st-gumbel": "biased: codes, differentiated as relaxed draws (Jang, Gu & Poole 2017)",
    "reinmax": "biased, to second order exact: codes, by Heun's method (Liu et al. 2023)",
}


def is_biased(estimator: str) -> bool:
    """Whether the expected gradient of an estimator is another than that of the bound, for a guide over codes.

    Args:
        estimator: "score-function", which is unbiased, or a name in ``CODE_ESTIMATORS``.
    Raises:
        ElbowroomError: an unknown name.
    Example:
        >>> is_biased("score-function"), is_biased("reinmax")
        (False, True)
    """
    check_name("gradient estimator for codes", estimator, ["score-function", *CODE_ESTIMATORS])
    return estimator in CODE_ESTIMATORS


class Draws(NamedTuple):
    """Draws of z.

    Attributes:
        z: shape (samples, batch, latent); codes are one-hot to the bit under every estimator, and differentiable under
            ``straight-through``, ``st-gumbel`` and ``reinmax``.
        relaxed: for ``gumbel-softmax``, the differentiable draws whose largest entries are those of ``z``, of the same
            shape, for :func:`path_gradient`; otherwise, and where no gradients are recorded, None.
    """

    z: Tensor
    relaxed: Tensor | None = None


def draw_codes(
    q: Codes | TopDownCodes,
    num_samples: int,
    estimator: str,
    *,
    temperature: float | Tensor = 1.0,
    generator: NoiseSource | None = None,
) -> Draws:
    r"""Draws z ~ q with the gradient of an estimator.

    .. math:: z = D + s(\ell) - s(\ell)_{\text{fixed}}, \qquad D \sim q,

    whose value is D to the bit and whose derivative is that of s, the third column of the table above. On several
    levels the logits of a level depend on the draws of those above, by which the gradient goes on to their logits; for
    ``gumbel-softmax``, on the codes, with the derivative of the relaxed draws.

    Args:
        q: independent slots, or levels of these, batch shape (\*batch,).
        num_samples: draws of z for each of the batch.
        estimator: a name in ``CODE_ESTIMATORS``.
        temperature: τ of the softmax that is differentiated; the law of the draws does not depend on it. A tensor is an
            input of a compiled function, a number a constant of it.
        generator: the source of randomness.
    Returns:
        The draws, with the values that q gives under every estimator and temperature from the same generator.
    Raises:
        ElbowroomError: an unknown estimator; a temperature that is not positive.
    Reference:
        Bengio, Léonard & Courville (2013), Estimating or Propagating Gradients Through Stochastic Neurons,
        arXiv:1308.3432.
        Jang, Gu & Poole (2017), Categorical Reparameterization with Gumbel-Softmax, arXiv:1611.01144.
        Maddison, Mnih & Teh (2017), The Concrete Distribution, arXiv:1611.00712.
        Liu et al. (2023), Bridging Discrete and Backpropagation: Straight-Through and Beyond, algorithm 2,
        arXiv:2304.08612.
    Example:
        >>> logits = torch.zeros(5, 2, 3, requires_grad=True)
        >>> z, _ = draw_codes(Codes(logits), 4, "reinmax", generator=torch.Generator().manual_seed(0))
        >>> z.shape, z.unique().tolist(), z.requires_grad
        (torch.Size([4, 5, 6]), [0.0, 1.0], True)
    """
    check_name("gradient estimator for codes", estimator, CODE_ESTIMATORS)
    if isinstance(temperature, float | int) and not 0 < temperature < math.inf:
        raise ElbowroomError(
            f"The temperature is {temperature}, but a softmax needs a positive one.", "Give temperature=1.0, say."
        )
    if isinstance(q, TopDownCodes):
        return _down_the_levels(q, num_samples, estimator, temperature, generator)
    shape = (num_samples, *q.batch_shape, q.space.dim)
    perturbed = q.logits + q.space.split(gumbel(shape, q.logits, generator))  # (samples, *batch, L, K)
    one_hot = q.space.one_hot(perturbed.argmax(-1), q.logits.dtype)
    if not torch.is_grad_enabled():
        return Draws(one_hot)
    moving = _MOVING[estimator](q.logits, perturbed, q.space.split(one_hot), temperature).flatten(-2)
    if estimator == "gumbel-softmax":
        return Draws(one_hot, moving)
    return Draws(one_hot + (moving - moving.detach()))


def _down_the_levels(
    q: TopDownCodes, num_samples: int, estimator: str, temperature: float | Tensor, generator: NoiseSource | None
) -> Draws:
    """The draws of one level after the other."""
    drawn = [draw_codes(q.top, num_samples, estimator, temperature=temperature, generator=generator)]
    for level in range(1, len(q.levels)):
        above = torch.cat([z if y is None else z + (y - y.detach()) for z, y in drawn], -1)
        z, relaxed = draw_codes(q.given(level, above), 1, estimator, temperature=temperature, generator=generator)
        drawn.append(Draws(z.squeeze(0), None if relaxed is None else relaxed.squeeze(0)))
    relaxations = [each.relaxed for each in drawn if each.relaxed is not None]
    return Draws(torch.cat([each.z for each in drawn], -1), torch.cat(relaxations, -1) if relaxations else None)


def path_gradient(value: Callable[[Tensor], Tensor], relaxed: Tensor) -> Tensor:
    r"""Zero, with the gradient that an objective has through relaxed draws, and through nothing else.

    .. math:: \sum_j \frac{\partial v}{\partial z_{sj}} (y) \, \big(y_{sj}(\ell) - y_{sj, \text{fixed}}\big)

    What depends on parameters directly, such as the networks' weights, is differentiated at codes; here it is fixed.

    Args:
        value: v, a function of draws of shape (samples, batch, latent); of shape (batch,), each from the draws of its
            own example, or (samples, batch), each from its own draw.
        relaxed: y, differentiable draws.
    Returns:
        One term for each draw s, shape (samples, batch).
    Example:
        >>> logits = torch.tensor([[1.0, 2.0]], requires_grad=True)
        >>> zero = path_gradient(lambda z: z.square().sum((0, -1)), logits[None])
        >>> zero.sum().backward()
        >>> zero.tolist(), logits.grad
        ([[0.0]], tensor([[2., 4.]]))
    """
    z = relaxed.detach().requires_grad_().clone()  # no leaf: what counts operations hooks into what modules are given
    # what v shares with the rest of the objective, such as log q's parameters, is needed once more
    (slope,) = torch.autograd.grad(value(z).sum(), z, retain_graph=True)
    return (slope * (relaxed - relaxed.detach())).sum(-1)


def _softened(logits: Tensor, perturbed: Tensor, one_hot: Tensor, temperature: float | Tensor) -> Tensor:
    return (logits / temperature).softmax(-1)


def _relaxed(logits: Tensor, perturbed: Tensor, one_hot: Tensor, temperature: float | Tensor) -> Tensor:
    return (perturbed / temperature).softmax(-1)


def _second_order(logits: Tensor, perturbed: Tensor, one_hot: Tensor, temperature: float | Tensor) -> Tensor:
    """2 · (a softmax whose value is π₁) − ½ softmax(ℓ), of which only the derivative matters."""
    middle = 0.5 * (one_hot + (logits / temperature).softmax(-1).detach())  # π₁
    finite = logits.clamp(min=torch.finfo(logits.dtype).min)  # 0 · (−∞) would be NaN
    # with π₁ fixed, the derivative of π₁ (ℓ − ⟨π₁, ℓ⟩) is that of a softmax, diag(π₁) − π₁ π₁ᵀ
    of_middle = middle * (finite - (middle * finite).sum(-1, keepdim=True))
    return 2.0 * of_middle - 0.5 * logits.softmax(-1)


#: name -> what is differentiated, from logits, logits with Gumbel noise, codes (all (\*, L, K)) and the temperature
_MOVING: dict[str, Callable[[Tensor, Tensor, Tensor, float | Tensor], Tensor]] = {
    "straight-through": _softened,
    "gumbel-softmax": _relaxed,
    "st-gumbel": _relaxed,
    "reinmax": _second_order,
}
