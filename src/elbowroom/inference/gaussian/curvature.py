r"""Curvature of log p(x, z) in z: a positive definite Gauss–Newton matrix for each example.

A Newton step and a sampler's metric need minus the Hessian of log p(x, z). Unless the prior is normal and the network
affine, that matrix can be indefinite. The Gauss–Newton matrix leaves out the terms that can make it so:

.. math:: H(z) = \Lambda(z) + J^\top F J, \qquad J = \frac{\partial \theta}{\partial z}, \qquad
    F = \mathbb{E}_{x \sim p(x | \theta)} \Big[
    \frac{\partial \log p}{\partial \theta} \frac{\partial \log p}{\partial \theta}^\top \Big]

where θ is what the likelihood's network returns, F its Fisher information, a small block for every element, and Λ the
part of the prior (:func:`prior_precision`). Where the parameters of a pixel depend on other pixels, they do so at the
observed x. With an affine network and a normal prior, H is minus the Hessian exactly.

Almost all the work is J. The tangents of all D directions of z go through the network together: through an
:class:`~elbowroom.model.networks.MLP` as one matrix product for each layer, over D rows for every example; through any
other network by forward-mode differentiation.

Reference:
    Schraudolph (2002), Fast curvature matrix-vector products for second-order gradient descent, on the generalised
    Gauss-Newton matrix; Martens (2020), New insights and perspectives on the natural gradient method,
    arXiv:1412.1193, section 8, on its being a Fisher information.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import singledispatch
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MixtureSameFamily, MultivariateNormal, Normal
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from elbowroom.data.batch import Batch, as_batch
from elbowroom.errors import ElbowroomError, NotFiniteError
from elbowroom.model.latent import LatentModel
from elbowroom.model.networks import MLP, NetworkPart
from elbowroom.model.sequential_normal import BlockDistribution
from elbowroom.numerics import chunks

__all__ = ["covariance_factor", "gauss_newton", "network_jacobian", "prior_precision", "regularized_cholesky"]


@torch.no_grad()
def gauss_newton(model: LatentModel, batch: Batch | Tensor, z: Tensor, *, chunk_elements: int = 2**24) -> Tensor:
    r"""Gauss–Newton precision of the posterior at z: minus the Hessian of log p(x, z), kept from being indefinite.

    .. math:: H = \Lambda(z) + \sum_{d \text{ observed}} J_d^\top F_d J_d

    For a normal prior it is positive definite, and it is the exact posterior precision of a linear-Gaussian model. x
    itself matters only through which of its elements were observed, unless pixels depend on those before them. For a
    network of one hidden layer, of width h, onto E parameters it costs D h E + D² E multiplications for each example,
    against 2 h (D + E) of a gradient.

    Args:
        model: p(x, z), in evaluation mode if its networks have batch normalisation or dropout.
        batch: data, ``x`` of shape (batch, \*event); elements that ``mask`` leaves out add nothing.
        z: where, shape (batch, latent).
        chunk_elements: examples are evaluated in chunks, such that no tensor of a chunk has more elements than this
            (a chunk has at least one example).
    Returns:
        H, shape (batch, latent, latent), symmetric; no gradient is recorded.
    Raises:
        ElbowroomError: z of another shape; ``chunk_elements`` below 1; batch normalisation or dropout in training
            mode; a likelihood without Fisher information; a mask with holes that the likelihood cannot sum out.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, _, x = oracles.ppca(dim=8, latent_dim=2, seed=0)
        >>> precision = gauss_newton(model, x, torch.zeros(64, 2).double())
        >>> torch.allclose(precision, model.posterior(x).precision_matrix)
        True
    """
    batch = as_batch(batch)
    _check(model, batch, z, chunk_elements)
    precision = prior_precision(model.prior(None, batch.context), z)
    for rows in chunks(len(batch), max(1, chunk_elements // _elements_per_example(model, z.shape[-1]))):
        context = None if batch.context is None else batch.context[rows]
        output, jacobian = network_jacobian(model.likelihood.network_given(batch.x[rows]), z[rows], context)
        mask = None if batch.mask is None else batch.mask[rows]
        information = model.likelihood.information_at(output, batch.x[rows], mask)  # (n, P, P, *event)
        if mask is not None:
            information = torch.where(mask[:, None, None], information, 0.0)
        precision[rows] += _contract(jacobian.flatten(3), information.flatten(3))
    return precision


@torch.no_grad()
def network_jacobian(
    network: Callable[[Tensor, Tensor | None], Tensor], z: Tensor, context: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""What a network returns at z, and its derivative by every element of z.

    .. math:: \theta = \mathrm{network}(z), \qquad J_{j \cdot} = \frac{\partial \theta}{\partial z_j}

    Args:
        network: called as ``network(z, context)``; it treats examples independently, so batch normalisation must
            be in evaluation mode.
        z: shape (batch, latent).
        context: covariates, shape (batch, context_dim).
    Returns:
        θ, shape (batch, \*out), and its derivatives, shape (batch, latent, \*out); without a graph behind them.
    Example:
        >>> network = MLP((2,), (1, 3), hidden=())
        >>> _, jacobian = network_jacobian(network, torch.zeros(5, 2))
        >>> torch.equal(jacobian[0, :, 0], network.output.weight.T)
        True
    """
    if type(network) is MLP and _is_wanted(network, z, context):
        return _mlp_jacobian(network, z, context)

    def function(z: Tensor) -> Tensor:
        return network(z, context).to(z.dtype)

    def along(direction: Tensor) -> tuple[Tensor, Tensor]:
        value, tangent = torch.func.jvp(function, (z,), (direction.expand_as(z),))[:2]
        return value, tangent

    directions = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    with warnings.catch_warnings():  # about a module of torch's own, which its forward mode loads
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        values, tangents = torch.func.vmap(along)(directions)
    return values[0], tangents.movedim(0, 1)


def _is_wanted(network: MLP, z: Tensor, context: Tensor | None) -> bool:
    """Whether the inputs have the right shapes; the network itself refuses those that have not."""
    if network.context_dim and (context is None or context.shape != (len(z), network.context_dim)):
        return False
    return network.in_shape == z.shape[1:]


def _mlp_jacobian(network: MLP, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """Layer by layer: value h of shape (batch, width), tangents ∂h/∂z of shape (batch or 1, latent, width)."""
    h = torch.cat([z, cast(Tensor, context).to(z.dtype)], 1) if network.context_dim else z
    tangents = torch.eye(z.shape[1], h.shape[1], dtype=z.dtype, device=z.device).unsqueeze(0)
    for layer in [*network.hidden_layers, network.output]:
        if isinstance(layer, nn.Linear):
            h, tangents = layer(h), tangents @ layer.weight.T
        else:  # elementwise: an activation, or batch normalisation, which is one in evaluation mode
            h, slope = _value_and_slope(layer, h)
            tangents = tangents * slope.unsqueeze(1)
    tangents = tangents.expand(len(z), -1, -1)
    return h.reshape(len(z), *network.out_shape), tangents.reshape(*z.shape, *network.out_shape)


def _value_and_slope(elementwise: nn.Module, h: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = h.detach().requires_grad_()
        value: Tensor = elementwise(leaf)
        (slope,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), slope


def _contract(jacobian: Tensor, information: Tensor) -> Tensor:
    """Jᵀ F J: shapes (batch, latent, P, E) and (batch, P, P, E) give (batch, latent, latent)."""
    batch, latent, num_parameters, _ = jacobian.shape
    product = jacobian.new_zeros(batch, latent, latent)
    # one parameter after another: F couples those of an element, and all elements meet in one matrix product
    for p in range(num_parameters):
        weighted = jacobian * information[:, p].unsqueeze(1)
        # a sum over an axis of length 1 is a copy
        weighted = weighted.squeeze(2) if num_parameters == 1 else weighted.sum(2)
        product.baddbmm_(weighted, jacobian[:, :, p].mT)
    return (product + product.mT) / 2


@singledispatch
def prior_precision(distribution: Distribution, z: Tensor, *, floor: float = 1e-2) -> Tensor:
    r"""The prior's part of the curvature: positive definite, and minus the Hessian of log p(z) where that is.

    - Normal distributions: the precision, Σ⁻¹.
    - Mixtures of normals: with :math:`r_k = p(k | z)` and :math:`g_k = \nabla \log N_k(z)`,

      .. math:: -\nabla^2 \log \sum_k \pi_k N_k(z)
          = \underbrace{\textstyle \sum_k r_k \Sigma_k^{-1}}_{\text{kept}}
          - \underbrace{\textstyle \sum_k r_k g_k g_k^\top
          - \big(\sum_k r_k g_k\big) \big(\sum_k r_k g_k\big)^\top}_{\text{dropped}}

      The second part is a covariance of the g_k under r. It is what can make the whole indefinite, between two
      components say; where one component is responsible for z, it is zero. What is kept is the expected curvature
      given the component, as in an M step.
    - Independent blocks: the matrix of their blocks.
    - All others: minus the Hessian, by autograd, with every eigenvalue λ replaced by max(\|λ\|, ``floor``).

    Args:
        distribution: p(z), batch shape () or (batch,), event shape (latent,).
        z: where, shape (batch, latent).
        floor: the least eigenvalue of what comes from a Hessian, in units of z⁻².
    Returns:
        Λ, shape (batch, latent, latent).
    Raises:
        NotFiniteError: a Hessian that is not finite.
    Reference:
        Betancourt (2013), A General Metric for Riemannian Manifold Hamiltonian Monte Carlo, arXiv:1212.4693, for the
        absolute values of eigenvalues.
    Example:
        >>> prior_precision(Independent(Normal(torch.zeros(2), torch.tensor([1.0, 0.5])), 1), torch.zeros(1, 2))
        tensor([[[1., 0.],
                 [0., 4.]]])
    """
    with torch.enable_grad():
        leaf = z.detach().clone().requires_grad_()
        # examples are independent in log p(z), so that row j of every example's Hessian comes from one sum
        (gradient,) = torch.autograd.grad(distribution.log_prob(leaf).sum(), leaf, create_graph=True)
        rows = [
            torch.autograd.grad(part, leaf, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
            for part in (gradient.sum(0) if gradient.requires_grad else ())
        ]
    hessian = torch.stack(rows, 1) if rows else z.new_zeros(*z.shape, z.shape[-1])
    bad = ~hessian.isfinite().flatten(1).all(1)
    if bool(bad.any()):
        raise NotFiniteError(
            f"The prior has no finite second derivative at z for {int(bad.sum())} of {len(z)} examples.",
            "Start inside the prior's support, or use a prior that is smooth there.",
        )
    eigenvalues, vectors = torch.linalg.eigh(-(hessian + hessian.mT) / 2)
    precision: Tensor = (vectors * eigenvalues.abs().clamp(min=floor).unsqueeze(-2)) @ vectors.mT
    return precision


_by_autograd = prior_precision.dispatch(Distribution)


@prior_precision.register(Independent)
def _of_independent(distribution: Distribution, z: Tensor, *, floor: float = 1e-2) -> Tensor:
    variance = _normal_variance(distribution)
    if variance is None:
        return _by_autograd(distribution, z, floor=floor)
    return torch.diag_embed(variance.reciprocal()).expand(*z.shape, -1).clone()


@prior_precision.register
def _of_normal(distribution: MultivariateNormal, z: Tensor, *, floor: float = 1e-2) -> Tensor:
    return distribution.precision_matrix.expand(*z.shape, -1).clone()


@prior_precision.register
def _of_mixture(distribution: MixtureSameFamily, z: Tensor, *, floor: float = 1e-2) -> Tensor:
    components = distribution.component_distribution
    log_densities = distribution.mixture_distribution.logits + components.log_prob(z.unsqueeze(-2))
    responsibilities = log_densities.softmax(-1).unsqueeze(-2)  # (batch, 1, K)
    if isinstance(components, MultivariateNormal):
        return (responsibilities @ components.precision_matrix.flatten(-2)).reshape(*z.shape, -1)
    variance = _normal_variance(components)
    if variance is None:
        return _by_autograd(distribution, z, floor=floor)
    return torch.diag_embed((responsibilities @ variance.reciprocal()).squeeze(-2))


@prior_precision.register
def _of_blocks(distribution: BlockDistribution, z: Tensor, *, floor: float = 1e-2) -> Tensor:
    parts = zip(distribution.blocks, z.split_with_sizes(distribution.sizes, -1), strict=True)
    found = z.new_zeros(*z.shape, z.shape[-1])
    end = 0
    for block in (prior_precision(block, part, floor=floor) for block, part in parts):
        own = slice(end, end := end + block.shape[-1])
        found[..., own, own] = block
    return found


def _normal_variance(distribution: Distribution) -> Tensor | None:
    """Of a normal distribution with independent elements, shape (\\*, latent); None for any other distribution."""
    if not (isinstance(distribution, Independent) and isinstance(distribution.base_dist, Normal)):
        return None
    return distribution.variance if distribution.reinterpreted_batch_ndims == 1 else None


def regularized_cholesky(precision: Tensor) -> tuple[Tensor, Tensor]:
    r"""Cholesky factors, of matrices that rounding may have made indefinite.

    A matrix H that has a factor is left as it is. Any other becomes :math:`H + \tau \operatorname{diag}(H)`, with the
    first τ of 4 D ε, 40 D ε, 400 D ε, … that suffices (ε the type's precision, D the number of rows). The diagonal sets
    the scale, so that the result does not depend on the units of z. Factors are computed in float64, in which float32's
    rounding of an indefinite matrix to one that has a factor does not happen, and are returned in H's type.

    Args:
        precision: H, shape (batch, latent, latent), positive semidefinite up to rounding.
    Returns:
        The matrices that were factored, and their lower triangular factors, each of H's shape.
    Raises:
        NotFiniteError: a matrix that is not finite, or far from positive definite.
    """
    double, failed = torch.linalg.cholesky_ex(precision.double())
    factor = double.to(precision)
    bad = (failed != 0) | ~factor.isfinite().flatten(1).all(1)
    tau = 4 * precision.shape[-1] * torch.finfo(precision.dtype).eps
    if not bool(bad.any()):
        return precision, factor
    precision, diagonal = precision.clone(), torch.diag_embed(precision.diagonal(dim1=-2, dim2=-1))
    while bool(bad.any()) and tau < 1:
        trial = precision[bad] + tau * diagonal[bad]
        triangle, failed = torch.linalg.cholesky_ex(trial.double())
        found = bad.nonzero().squeeze(1)[failed == 0]
        precision[found], factor[found], bad[found] = trial[failed == 0], triangle[failed == 0].to(factor), False
        tau *= 10
    if bool(bad.any()):
        raise NotFiniteError(
            f"The curvature of {int(bad.sum())} of {len(bad)} examples is not finite or not positive definite.",
            "Look for infinite weights or data, or use float64.",
        )
    return precision, factor


def covariance_factor(precision: Tensor) -> Tensor:
    """L, lower triangular with L Lᵀ = H⁻¹, in float64: float32 cannot factor a condition number beyond 1e7.

    Args:
        precision: H, shape (\\*, latent, latent), positive semidefinite up to rounding.
    Raises:
        ElbowroomError: a matrix that is not finite, or far from positive definite.
    """
    flat = precision.double().reshape(-1, *precision.shape[-2:])
    # of H turned upside down, so that the inverse of its factor, turned back, is lower triangular again
    _, factor = regularized_cholesky(flat.flip(-2, -1))
    root = factor.flip(-2, -1).mT  # rootᵀ root = H
    identity = torch.eye(flat.shape[-1], dtype=flat.dtype, device=flat.device).expand_as(flat)
    inverse: Tensor = torch.linalg.solve_triangular(root, identity, upper=False)
    return inverse.reshape(precision.shape)


def _elements_per_example(model: LatentModel, latent_dim: int) -> int:
    """Elements of the largest tensor for one example: tangents in the network or at its end, or Fisher information."""
    likelihood = model.likelihood
    parameters = likelihood.num_parameters * math.prod(likelihood.event_shape)
    widest = max((part.widest for part in likelihood.modules() if isinstance(part, NetworkPart)), default=0)
    return max(latent_dim * max(widest, parameters), likelihood.num_parameters * parameters)


def _check(model: LatentModel, batch: Batch, z: Tensor, chunk_elements: int) -> None:
    (latent_dim,) = model.prior(None, batch.context).event_shape
    if z.shape != (len(batch), latent_dim):
        raise ElbowroomError(
            f"z has shape {tuple(z.shape)}, but the curvature of {len(batch)} examples with {latent_dim} latents is "
            f"taken at one z for each, of shape {(len(batch), latent_dim)}.",
            "Give one row for each example, the guide's mean say.",
        )
    if batch.mask is not None:
        model.likelihood.check_mask(batch.mask)
    if chunk_elements < 1:
        raise ElbowroomError(
            f"chunk_elements is {chunk_elements}, but a chunk holds at least one number.",
            "Give chunk_elements=1 or more; the default suits most machines.",
        )
    coupling = next((m for m in model.modules() if m.training and isinstance(m, (_BatchNorm, _DropoutNd))), None)
    if coupling is not None:
        raise ElbowroomError(
            f"The curvature of a model was asked for while its {type(coupling).__name__.lstrip('_')} is in training "
            "mode, where an example's density depends on the other examples or on chance.",
            "Call model.eval() first.",
        )
