r"""What a learned prior would gain: a mixture of normals in place of p(z), fitted after training.

Averaged over data, the KL term of the ELBO has a part that no encoder can reduce (Hoffman & Johnson 2016):

.. math:: \mathbb{E}_n \mathrm{KL}(q(z|x_n) \,\|\, p(z)) = I_q(x; z) + \mathrm{KL}(q(z) \,\|\, p(z)), \qquad
    q(z) = \mathbb{E}_n \, q(z|x_n).

A density r(z) that is closer to the aggregate posterior q(z) than p(z) is gives most of that part back: with r as the
prior, and encoder and decoder unchanged, the ELBO of an example rises by exactly

.. math:: \mathbb{E}_{q(z|x)} [\log r(z) - \log p(z)].

Here r is fitted to draws of q(z) from training data, and the gain is measured on held-out data. Three candidates show
where the gain comes from: a normal with its own variance in each dimension (scale), a normal with full covariance
(correlation), and a mixture of such normals (clusters, and the holes between them). Each is

.. math:: r(z) = w \, p(z) + (1 - w) \sum_k \pi_k \, N(z \,|\, \mu_k, \Sigma_k),

so that the fit leaves p(z) as it is where it is right. The covariances are shrunk towards their common average,
:math:`\Sigma_k = (N_k S_k + \nu \bar S) / (N_k + \nu)`, because K free covariances would overfit. The number of
components and w are chosen on draws of training data that the components were not fitted to.

Reference:
    Hoffman & Johnson (2016), ELBO surgery. Tomczak & Welling (2018), VAE with a VampPrior, arXiv:1705.07120.
    Friedman (1989), Regularized discriminant analysis, JASA 84.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, MultivariateNormal, Normal

from elbowroom.evaluation.thresholds import ACTIVE_VARIANCE
from elbowroom.model.draws import draw
from elbowroom.model.latent import LatentModel
from elbowroom.model.noise import uniform
from elbowroom.numerics import chunks

__all__ = ["CANDIDATES", "LearnedPrior", "learn_priors"]

CANDIDATES = ("rescaled", "correlated", "mixture")
"""From the simplest to the richest."""

_COMPONENTS = (5, 10, 20, 40)
_LEAST_PER_COMPONENT = 20  # draws; with fewer, a component memorises single examples
_SHRINK = 5  # ν / D
_LEAST_KEPT = 1e-3  # least w: log r(z) is below log p(z) by 7 nats at most
_LEAST_VARIANCE = 1e-6  # of the average over latents
_ITERATIONS = 50
_TOLERANCE = 2e-3  # nats per draw, of a step of EM
_CHOOSE = 5  # every fifth example is kept for choosing K and w
_AT_ONCE = 2**14  # differences z − μ_k computed together: of more points, a component alone is as fast


@dataclass(frozen=True, slots=True)
class LearnedPrior:
    r"""r(z), a mixture of the model's prior and normals.

    Attributes:
        normals: over the latents in ``dims``, float64.
        kept: w, the share of the model's prior.
        dims: the latents that differ from the prior, int64, shape (d,); the others keep their prior.
    """

    normals: MixtureSameFamily
    kept: float
    dims: Tensor

    @property
    def components(self) -> int:
        """K."""
        return len(self.normals.mixture_distribution.probs)

    def scatter(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean of the mixture of normals over ``dims``, covariance within components, and covariance of their means."""
        parts, weights = self.normals.component_distribution, self.normals.mixture_distribution.probs
        assert isinstance(parts, MultivariateNormal)  # built so below
        center = weights @ parts.loc
        away = parts.loc - center
        return center, torch.einsum("k,kij->ij", weights, parts.covariance_matrix), (away.T * weights) @ away

    @torch.no_grad()
    def log_ratio(self, model: LatentModel, z: Tensor, context: Tensor | None = None) -> Tensor:
        """log r(z) − log p(z) in nats, float64: z of shape (\\*, batch, latent) gives (\\*, batch)."""
        return _blended(self._log_normals(model, z, context), self.kept)

    @torch.no_grad()
    def sample(self, model: LatentModel, prior_draws: Tensor, generator: Generator) -> Tensor:
        """Draws of r, shape (n, latent), made from as many draws of the prior, of which a share w is kept."""
        z = prior_draws.clone()
        replaced = uniform((len(z),), z, generator) >= self.kept
        z[:, self.dims] = torch.where(
            replaced.unsqueeze(1), draw(self.normals, (len(z),), generator=generator).to(z), z[:, self.dims]
        )
        return z

    def _log_normals(self, model: LatentModel, z: Tensor, context: Tensor | None) -> Tensor:
        """log Σ π N(z) − log p(z), over the latents in ``dims``."""
        return _log_density(self.normals, z[..., self.dims]) - _log_prior(model.prior(None, context), z, self.dims)


@torch.no_grad()
def learn_priors(
    model: LatentModel, z: Tensor, spread: Tensor, *, context: Tensor | None = None, generator: Generator
) -> dict[str, LearnedPrior]:
    """Fits each candidate to draws of the aggregate posterior.

    Args:
        model: p(x, z), for its prior.
        z: draws of q(z | x) of training data, shape (draws, examples, latent).
        spread: variance over examples of the posterior mean, shape (latent,), in units of the prior's variance.
            Inactive latents already follow the prior, and keep it where the prior factorises.
        context: of the examples, shape (examples, context_dim).
        generator: the source of randomness, for the initial components.
    Returns:
        By name, in the order of ``CANDIDATES``.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, _, _ = oracles.ppca(dim=4, latent_dim=2, seed=0)
        >>> generator = torch.Generator().manual_seed(0)
        >>> z = 0.5 * torch.randn(1, 2000, 2, generator=generator, dtype=torch.float64)  # KL(q ‖ p) = 0.64
        >>> found = learn_priors(model, z, torch.ones(2), generator=generator)
        >>> bool(abs(found["rescaled"].log_ratio(model, z).mean() - 0.636) < 0.1)
        True
    """
    prior = model.prior(None, context)
    dims = torch.arange(z.shape[-1], device=z.device)
    if _factorises(prior) and bool((spread > ACTIVE_VARIANCE).any()):
        dims = dims[spread.to(z.device) > ACTIVE_VARIANCE]
    choosing = torch.arange(z.shape[1], device=z.device) % _CHOOSE == 0
    points = z[:, ~choosing][..., dims].flatten(0, 1).double()
    log_prior = _log_prior(prior, z, dims)
    others, log_prior = z[:, choosing][..., dims].double(), log_prior[:, choosing]
    found: dict[str, LearnedPrior] = {}
    for name in CANDIDATES:
        best: tuple[float, LearnedPrior] | None = None
        for normals in _fits(name, points, generator):
            log_ratio = _log_density(normals, others) - log_prior
            kept = _best_share(log_ratio)
            score = float(_blended(log_ratio, kept).mean())
            if best is not None and score < best[0]:
                break  # more components only overfit more
            best = (score, LearnedPrior(normals, kept, dims))
        assert best is not None  # every candidate has a fit of one component at least
        found[name] = best[1]
    return found


def _factorises(prior: Distribution) -> bool:
    return isinstance(prior, Independent) and isinstance(prior.base_dist, Normal)


def _log_prior(prior: Distribution, z: Tensor, dims: Tensor) -> Tensor:
    """log p of the latents in ``dims``, float64; all of them where the prior does not factorise."""
    if _factorises(prior):
        assert isinstance(prior, Independent)
        per_dimension: Tensor = prior.base_dist.log_prob(z)
        return per_dimension[..., dims].double().sum(-1)
    log_density: Tensor = prior.log_prob(z)
    return log_density.double()


def _blended(log_ratio: Tensor, kept: float) -> Tensor:
    """log (w + (1 − w) exp(log ratio))."""
    if kept >= 1:
        return torch.zeros_like(log_ratio)
    return torch.logaddexp(torch.full_like(log_ratio, math.log(kept)), math.log1p(-kept) + log_ratio)


def _best_share(log_ratio: Tensor) -> float:
    """The w with the largest mean log density, by EM."""
    log_ratio, kept = log_ratio.flatten(), 0.5
    for _ in range(100):
        own = torch.sigmoid(
            math.log(kept) - math.log1p(-kept) - log_ratio
        )  # probability that each draw belongs to the prior
        kept = min(max(float(own.mean()), _LEAST_KEPT), 1 - _LEAST_KEPT)
    return kept


def _fits(name: str, points: Tensor, generator: Generator) -> Iterator[MixtureSameFamily]:
    """Fits of one candidate, with more and more components."""
    if name == "mixture":
        fitting = [k for k in _COMPONENTS if k * _LEAST_PER_COMPONENT <= len(points)]
        yield from (_mixture(*_em(points, k, generator)) for k in (1, *fitting))
        return
    center, covariance = points.mean(0, keepdim=True), _covariance(points)
    if name == "rescaled":
        covariance = torch.diag(covariance.diagonal())
    yield _mixture(points.new_ones(1), center, torch.linalg.cholesky(covariance).unsqueeze(0))


def _covariance(points: Tensor) -> Tensor:
    """Shrunk towards its diagonal, and away from zero."""
    away = points - points.mean(0)
    covariance = away.T @ away
    strength = _SHRINK * points.shape[1]
    covariance = (covariance + strength * torch.diag(covariance.diagonal()) / len(points)) / (len(points) + strength)
    return _regular(covariance)


def _regular(covariance: Tensor) -> Tensor:
    """Made positive definite, even if z varies in fewer directions than it has."""
    least = _LEAST_VARIANCE * covariance.diagonal().mean() + torch.finfo(covariance.dtype).tiny
    return covariance + least * torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)


def _em(points: Tensor, components: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (K,), means (K, d) and the covariances' factors (K, d, d) by EM, started from clusters of k-means."""
    from sklearn.cluster import KMeans

    seed = int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))
    labels = KMeans(components, n_init=1, random_state=seed).fit_predict(points.cpu().numpy())
    share = torch.nn.functional.one_hot(torch.as_tensor(labels, device=points.device).long(), components).double()
    last = -math.inf
    for _ in range(_ITERATIONS):
        weights, means, tril = _maximised(points, share)
        log_parts = _log_parts(points, weights, means, tril)
        log_density = log_parts.logsumexp(1)
        share = (log_parts - log_density.unsqueeze(1)).exp()
        value = float(log_density.mean())
        if value - last < _TOLERANCE:
            break
        last = value
    return weights, means, tril


def _maximised(points: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and factors of the shrunk covariances, given each component's share of each draw, (n, K)."""
    count = share.sum(0) + 1e-9
    means = (share.T @ points) / count.unsqueeze(1)
    parts = [(points - m).T @ ((points - m) * s.unsqueeze(1)) for m, s in zip(means, share.T, strict=True)]
    scatter = torch.stack(parts)
    pooled = _regular(scatter.sum(0) / len(points))
    strength = _SHRINK * points.shape[1]
    covariance = (scatter + strength * pooled) / (count + strength)[:, None, None]
    return (count + 1) / (count + 1).sum(), means, torch.linalg.cholesky(covariance)


def _log_parts(points: Tensor, weights: Tensor, means: Tensor, tril: Tensor) -> Tensor:
    """log π_k N(z | μ_k, C_k C_kᵀ), shape (n, K), for a few components at once: for all it would be K d n numbers."""
    parts: list[Tensor] = []
    for some in chunks(len(means), max(1, _AT_ONCE // points.numel())):
        normals: Distribution = MultivariateNormal(means[some], scale_tril=tril[some], validate_args=False)
        log_density: Tensor = normals.log_prob(points.unsqueeze(1))
        parts.append(log_density)
    return torch.cat(parts, 1) + weights.log()


def _log_density(normals: MixtureSameFamily, z: Tensor) -> Tensor:
    """log Σ π N(z), float64: z of shape (\\*, d) gives (\\*)."""
    parts, points = normals.component_distribution, z.double().reshape(-1, z.shape[-1])
    assert isinstance(parts, MultivariateNormal)  # built so below
    log_parts = _log_parts(points, normals.mixture_distribution.probs, parts.loc, parts.scale_tril)
    return log_parts.logsumexp(1).reshape(z.shape[:-1])


def _mixture(weights: Tensor, means: Tensor, tril: Tensor) -> MixtureSameFamily:
    normals = MultivariateNormal(means, scale_tril=tril, validate_args=False)
    return MixtureSameFamily(Categorical(probs=weights, validate_args=False), normals, validate_args=False)
