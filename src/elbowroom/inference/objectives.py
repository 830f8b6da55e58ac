r"""Lower bounds on log p(x), and the gradient estimators that maximise them.

All bounds are built from one importance weight. For a draw z ~ q(z | x),

.. math:: \log w = \log p(x | z) + \log p(z) - \log q(z | x), \qquad \mathbb{E}_q[w] = p(x),

so Jensen's inequality gives a bound for every number of draws K:

.. math:: \text{ELBO} = \mathbb{E}[\log w] \;\le\;
    \text{IWAE-}K = \mathbb{E}\Big[\log \tfrac{1}{K} \sum_k w_k\Big] \;\le\; \log p(x).

How the bound is estimated is one question, how its gradient is estimated another. A draw z = z(ε, φ) depends on the
guide's parameters φ, and so does log q; an estimator is a choice of where to let the gradient through:

================== ========== ========== =========================================================================
estimator          through z  through q  and in addition
================== ========== ========== =========================================================================
``pathwise``       yes        yes
``stl``            yes        no
``dreg``           yes        no         the gradient that arrives at z_k is multiplied by the normalised weight
``score-function`` no         yes        (signal − baseline) ∇ log q(z | x) is added
for codes          yes        yes        z jumps; a softmax takes the place of its derivative, which is biased
================== ========== ========== =========================================================================

The last line stands for ``straight-through``, ``gumbel-softmax``, ``st-gumbel`` and ``reinmax``
(:mod:`elbowroom.inference.code_gradients`).

The *value* returned is the same unbiased estimate of the bound under every estimator; a term that only serves the
gradient enters as ``s - s.detach()``, which is zero. Gradients in the model's parameters are the same under all of
them: also with relaxed draws, which serve the gradient in the guide's parameters alone. Parameters that both share, as
a guide from the top down shares the decoder's, are the guide's, too, and their gradient is the sum of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from elbowroom.data.batch import Batch, as_batch
from elbowroom.errors import ElbowroomError, check_name, check_num_samples
from elbowroom.inference.code_gradients import path_gradient
from elbowroom.inference.kl import closed_form_kl, exact_entropy, group_kl, has_analytic_kl, has_group_kl
from elbowroom.inference.weights import (
    ESTIMATORS,
    Estimator,
    draw_latents,
    log_likelihood_of_draws,
    log_weights,
    weigh_draws,
)
from elbowroom.model.code_distributions import Codes
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import guide_distribution
from elbowroom.model.latent import LatentModel
from elbowroom.model.noise import NoiseSource
from elbowroom.model.sequential_normal import ResidualNormal, SequentialNormal
from elbowroom.model.top_down_codes import TopDownCodes
from elbowroom.numerics import effective_sample_size, log_mean_exp

__all__ = [
    "ESTIMATORS",
    "KL",
    "OBJECTIVES",
    "Estimator",
    "FreeBitsOver",
    "Terms",
    "check_elbo",
    "elbo",
    "elbo_terms",
    "has_analytic_kl",
    "iwae",
    "iwae_terms",
    "log_weights",
]

KL = Literal["analytic", "monte-carlo", "auto"]
FreeBitsOver = Literal["example", "batch"]


class Terms(NamedTuple):
    """An objective's value, and its named parts.

    Attributes:
        value: the estimate of the bound, nats, shape (batch,); its gradient is the estimator's.
        parts: named pieces in nats, shape (batch,), off the graph. ELBO: ``reconstruction`` and the unweighted
            ``kl``. IWAE: ``elbo``, from the same draws, and ``ess``, the effective number of them.
    """

    value: Tensor
    parts: dict[str, Tensor]


def elbo_terms(
    model: LatentModel,
    guide: Conditional,
    batch: Batch | Tensor,
    *,
    num_samples: int = 1,
    kl: KL = "analytic",
    beta: float | Tensor = 1.0,
    free_bits: float = 0.0,
    free_bits_over: FreeBitsOver = "example",
    balance: bool = False,
    estimator: Estimator = "pathwise",
    temperature: float | Tensor = 1.0,
    generator: NoiseSource | None = None,
) -> Terms:
    """The evidence lower bound with its parts, ``reconstruction`` and (unweighted) ``kl``; arguments as in
    :func:`elbo`.

    Example:
        >>> from elbowroom.model import oracles
        >>> model, guide, x = oracles.ppca(dim=8, latent_dim=2, seed=0)
        >>> value, parts = elbo_terms(model, guide, x, generator=torch.Generator().manual_seed(0))
        >>> bool(torch.allclose(value, parts["reconstruction"] - parts["kl"]))
        True
    """
    batch = as_batch(batch)
    check_num_samples(num_samples)
    check_elbo(kl=kl, beta=beta, free_bits=free_bits, estimator=estimator)
    q, prior = guide_distribution(guide, batch), model.prior(None, batch.context)
    sampled_kl = kl == "monte-carlo" or (kl == "auto" and estimator == "stl")
    closed = None if sampled_kl else closed_form_kl(q, prior, free_bits)
    by_groups = estimator == "pathwise" or isinstance(q, TopDownCodes)
    grouped = not sampled_kl and kl == "auto" and by_groups and has_group_kl(q, prior)
    if closed is None and not sampled_kl and (kl == "analytic" or (free_bits > 0 and not grouped)):
        raise _no_closed_form(q, prior, free_bits)
    if not grouped and (balance or (free_bits > 0 and free_bits_over == "batch")):
        raise _no_groups(q, prior, "balance" if balance else "free_bits_over='batch'")
    entropy = None if sampled_kl or closed is not None else exact_entropy(q)

    draws = draw_latents(q, num_samples, estimator, temperature=temperature, generator=generator)

    def terms_at(z: Tensor) -> Terms:  # (samples, batch, latent)
        if grouped:
            log_likelihood, of_draws = log_likelihood_of_draws(model, batch, q, z), group_kl(q, prior, z)
            reconstruction, by_group = log_likelihood.mean(0), of_draws.mean(1)  # (batch,), (groups, batch)
            counted, penalty = _with_free_bits(by_group, free_bits, free_bits_over)
            weights = _balance(by_group, q, beta) if balance else torch.ones_like(by_group[:, :1])
            penalty = (weights * penalty).sum(0)
            value = reconstruction - beta * penalty
            if estimator == "score-function":
                signal = log_likelihood - beta * ((weights * counted).unsqueeze(1) * of_draws).sum(0)
                value = value + _without_value((_minus_others_mean(signal.detach()) * q.log_prob(z)).mean(0))
            parts = {f"kl_{number}": part.detach() for number, part in enumerate(by_group, 1)}
            parts = {"reconstruction": reconstruction.detach(), "kl": by_group.detach().sum(0), **parts}
            return Terms(value, parts)
        if closed is not None or entropy is not None:  # log q is not needed, unless as the score
            signal = log_likelihood = model.log_likelihood(batch.x, z, context=batch.context, mask=batch.mask)
            reconstruction = log_likelihood.mean(0)
            if closed is not None:
                divergence, penalty = closed.kl, closed.penalty
            else:
                assert entropy is not None
                log_prior = prior.log_prob(z)  # (samples, batch)
                divergence = penalty = -entropy - log_prior.mean(0)
                signal = log_likelihood + beta * log_prior
            value = reconstruction - beta * penalty
            log_q = q.log_prob(z) if estimator == "score-function" else None
        else:
            weighted = weigh_draws(z, model, batch, q, prior, estimator=estimator)
            log_q = weighted.log_q
            # E_q[∇ log q] = 0: under the score function this direct term would add noise and nothing else
            entropy_side = log_q.detach() if estimator == "score-function" else log_q
            log_ratio = entropy_side - weighted.log_prior  # (samples, batch)
            signal = weighted.log_likelihood - beta * log_ratio
            reconstruction, divergence = weighted.log_likelihood.mean(0), log_ratio.mean(0)
            value = signal.mean(0)
        if estimator == "score-function" and log_q is not None:
            value = value + _without_value((_minus_others_mean(signal.detach()) * log_q).mean(0))
        return Terms(value, {"reconstruction": reconstruction.detach(), "kl": divergence.detach()})

    terms = terms_at(draws.z)
    return terms if draws.relaxed is None else _with_path(terms, terms_at, draws.relaxed)


def elbo(
    model: LatentModel,
    guide: Conditional,
    batch: Batch | Tensor,
    *,
    num_samples: int = 1,
    kl: KL = "analytic",
    beta: float | Tensor = 1.0,
    free_bits: float = 0.0,
    free_bits_over: FreeBitsOver = "example",
    balance: bool = False,
    estimator: Estimator = "pathwise",
    temperature: float | Tensor = 1.0,
    generator: NoiseSource | None = None,
) -> Tensor:
    r"""Evidence lower bound on log p(x), one value per example.

    .. math:: \mathcal{L}(x) = \mathbb{E}_{q(z|x)} [\log p(x|z)] - \mathrm{KL}(q(z|x) \,\|\, p(z)) \;\le\; \log p(x)

    With :math:`\beta \ne 1` the KL is weighted, and with free bits λ > 0 it becomes
    :math:`\sum_j \max(\lambda, \mathrm{KL}_j)`, j over latent dimensions, or over the groups of a hierarchy; the value
    is then what is maximised, and for :math:`\beta < 1` no bound. For a hierarchy the KL of each group may be averaged
    over the batch before the maximum is taken, as Kingma et al. (2016) do; else the maximum is that of each example.

    Args:
        model: p(x, z).
        guide: q(z | x).
        batch: data, ``x`` of shape (batch, \*event).
        num_samples: L, draws of z per example.
        kl: "analytic", in closed form; "monte-carlo", from the draws; "auto", in closed form where there is one and
            the estimator allows it.
        beta: weight of the KL; as a tensor it is an input of a compiled function and not a constant of it.
        free_bits: λ, nats per latent dimension and example, for a hierarchy per group; needs a factorised KL in
            closed form, or a guide from the top down and ``kl="auto"``.
        balance: weigh the KL of a hierarchy's groups by size and KL as long as β < 1; the value is then no bound.
            Needs what free bits of groups need, as does ``free_bits_over="batch"``.
        free_bits_over: what λ is compared with: the KL of each "example", or its mean over the "batch" (of groups).
        estimator: of the gradient: "pathwise", "stl" (needs a sampled KL) or "score-function", which has a
            leave-one-out baseline from 2 draws on; for codes also those of
            :mod:`elbowroom.inference.code_gradients`.
        temperature: of an estimator for codes.
        generator: the source of randomness.
    Returns:
        Nats, shape (batch,); differentiable in the parameters of both.
    Raises:
        ElbowroomError: ``kl="analytic"`` where q and p have no closed form; names ``kl="monte-carlo"``. An estimator
            or option that does not fit the others.
    Reference:
        Kingma & Welling (2014), Auto-Encoding Variational Bayes, eq. 7, arXiv:1312.6114.
        Higgins et al. (2017), beta-VAE, eq. 4. Kingma et al. (2016), IAF, appendix C.8, arXiv:1606.04934.
        Roeder, Wu & Duvenaud (2017), Sticking the Landing, eq. 8, arXiv:1703.09194.
        Kool, van Hoof & Welling (2019), Buy 4 REINFORCE Samples, Get a Baseline for Free!
        Vahdat & Kautz (2020), NVAE, appendix A, arXiv:2007.03898, on ``balance``.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, guide, x = oracles.ppca(dim=8, latent_dim=2, seed=0)
        >>> bound = elbo(model, guide, x, num_samples=100, generator=torch.Generator().manual_seed(0))
        >>> bool((bound <= model.log_evidence(x)).all())
        True
    """
    return elbo_terms(
        model,
        guide,
        batch,
        num_samples=num_samples,
        kl=kl,
        beta=beta,
        free_bits=free_bits,
        free_bits_over=free_bits_over,
        balance=balance,
        estimator=estimator,
        temperature=temperature,
        generator=generator,
    ).value


def iwae_terms(
    model: LatentModel,
    guide: Conditional,
    batch: Batch | Tensor,
    *,
    num_samples: int = 5,
    estimator: Estimator = "pathwise",
    temperature: float | Tensor = 1.0,
    generator: NoiseSource | None = None,
) -> Terms:
    """The importance-weighted bound with ``elbo``, the mean of log w over the same draws; arguments as in :func:`iwae`.

    Example:
        >>> from elbowroom.model import oracles
        >>> model, guide, x = oracles.ppca(dim=8, latent_dim=2, seed=0)
        >>> value, parts = iwae_terms(model, guide, x, generator=torch.Generator().manual_seed(0))
        >>> bool((parts["elbo"] <= value).all())
        True
    """
    batch = as_batch(batch)
    check_num_samples(num_samples)
    check_name("gradient estimator", estimator, ESTIMATORS)
    q, prior = guide_distribution(guide, batch), model.prior(None, batch.context)
    draws = draw_latents(q, num_samples, estimator, temperature=temperature, generator=generator)

    def terms_at(z: Tensor) -> Terms:  # (samples, batch, latent)
        weighted = weigh_draws(z, model, batch, q, prior, estimator=estimator)
        log_w = weighted.log_weights  # (samples, batch)
        value = log_mean_exp(log_w)
        if estimator == "dreg" and z.requires_grad:
            # log-mean-exp sends w̃_k back along the path; a second w̃_k makes Tucker et al.'s Σ w̃_k² ∂log w_k/∂z ∂z/∂φ
            normalized = torch.softmax(log_w.detach(), 0).unsqueeze(-1)
            z.register_hook(lambda gradient: normalized * gradient)  # type: ignore[no-untyped-call]  # torch's
        if estimator == "score-function":
            signal = _minus_others_bound(log_w.detach(), value.detach())
            value = value + _without_value((signal * weighted.log_q).sum(0))
        return Terms(value, {"elbo": log_w.detach().mean(0), "ess": effective_sample_size(log_w.detach())})

    terms = terms_at(draws.z)
    return terms if draws.relaxed is None else _with_path(terms, terms_at, draws.relaxed)


def iwae(
    model: LatentModel,
    guide: Conditional,
    batch: Batch | Tensor,
    *,
    num_samples: int = 5,
    estimator: Estimator = "pathwise",
    temperature: float | Tensor = 1.0,
    generator: NoiseSource | None = None,
) -> Tensor:
    r"""Importance-weighted lower bound on log p(x), one value per example; it tightens as K grows.

    .. math:: \mathcal{L}_K(x) = \mathbb{E}\Big[\log \frac{1}{K} \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k | x)}\Big]
        \;\le\; \log p(x), \qquad z_k \sim q(z | x)

    The guide's pathwise gradient drowns in noise as K grows (Rainforth et al. 2018); "dreg" does not. "stl" is
    unbiased for K = 1 only; for larger K it is biased, as Tucker et al. show, and kept for comparison.

    Args:
        model: p(x, z).
        guide: q(z | x).
        batch: data, ``x`` of shape (batch, \*event).
        num_samples: K, draws of z per example.
        estimator: of the gradient: "pathwise", "dreg", "stl" or "score-function", which has VIMCO's leave-one-out
            baseline from 2 draws on; for codes also those of :mod:`elbowroom.inference.code_gradients`.
        temperature: of an estimator for codes.
        generator: the source of randomness.
    Returns:
        Nats, shape (batch,); differentiable in the parameters of both.
    Raises:
        ElbowroomError: ``num_samples`` below 1; an unknown estimator.
    Reference:
        Burda, Grosse & Salakhutdinov (2016), Importance Weighted Autoencoders, eq. 8, arXiv:1509.00519.
        Tucker et al. (2019), Doubly Reparameterized Gradient Estimators, eq. 8, arXiv:1810.04152.
        Mnih & Rezende (2016), Variational Inference for Monte Carlo Objectives, eq. 8, arXiv:1602.06725.
        Rainforth et al. (2018), Tighter Variational Bounds are Not Necessarily Better, arXiv:1802.04537.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, guide, x = oracles.ppca(dim=8, latent_dim=2, seed=0)
        >>> generator = torch.Generator().manual_seed(0)
        >>> loose, tight = (iwae(model, guide, x, num_samples=k, generator=generator).mean() for k in (1, 50))
        >>> bool(loose < tight)
        True
    """
    return iwae_terms(
        model,
        guide,
        batch,
        num_samples=num_samples,
        estimator=estimator,
        temperature=temperature,
        generator=generator,
    ).value


#: name -> the function that returns its :class:`Terms`
OBJECTIVES: dict[str, Callable[..., Terms]] = {"elbo": elbo_terms, "iwae": iwae_terms}


def check_elbo(*, kl: str, beta: float | Tensor, free_bits: float, estimator: str) -> None:
    """Refuses options of :func:`elbo` that cannot work together, whatever guide and prior are.

    Raises:
        ElbowroomError: an unknown name; a number below 0; an estimator that does not fit the others.
    """
    check_name("gradient estimator", estimator, ESTIMATORS)
    check_name("form of the KL", kl, ("analytic", "monte-carlo", "auto"))
    for name, number in (("beta", beta), ("free_bits", free_bits)):
        if isinstance(number, float | int) and not (math.isfinite(number) and number >= 0):
            raise ElbowroomError(
                f"{name} is {number}, but it must be 0 or a positive number.", f"Give {name}=0 or more."
            )
    if estimator == "dreg":
        raise ElbowroomError(
            "The estimator 'dreg' is for importance-weighted bounds, but the objective is the ELBO.",
            "Use the objective iwae, or estimator='stl', which is what dreg becomes for a single draw.",
        )
    if estimator == "stl" and (kl == "analytic" or free_bits > 0):
        given = "kl='analytic'" if kl == "analytic" else f"free_bits={free_bits}, which needs a KL in closed form"
        raise ElbowroomError(
            f"The estimator 'stl' needs log q at the draws, but was given {given}.",
            "Use kl='monte-carlo' (or 'auto') without free bits, or estimator='pathwise'.",
        )
    if free_bits > 0 and kl == "monte-carlo":
        raise ElbowroomError(
            f"free_bits={free_bits} needs the KL of each latent dimension in closed form, but kl is 'monte-carlo'.",
            "Use kl='analytic', or free_bits=0.",
        )


def _with_free_bits(by_group: Tensor, free_bits: float, over: FreeBitsOver) -> tuple[Tensor, Tensor]:
    """Whether the KL of a group is the larger one, and max(λ, KL), shape (groups, batch); over the batch it is the mean
    that is compared.
    """
    if free_bits == 0:
        return torch.ones_like(by_group, dtype=torch.bool), by_group
    compared = by_group.detach().mean(1, keepdim=True) if over == "batch" else by_group
    counted = (compared > free_bits).expand_as(by_group)
    return counted, torch.where(counted, by_group, free_bits)


def _balance(by_group: Tensor, q: Distribution, beta: float | Tensor) -> Tensor:
    r"""Weights of groups while β < 1, (groups, 1), of mean 1: :math:`\gamma_l \propto D_l \, \overline{\mathrm{KL}}_l`.

    A group that carries little is then asked for little, and does not fall asleep at the start (Vahdat & Kautz 2020,
    NVAE, appendix A, arXiv:2007.03898). D is a group's size.
    """
    assert isinstance(q, SequentialNormal | TopDownCodes)  # see has_group_kl
    sizes = torch.tensor(q.sizes, dtype=by_group.dtype, device=by_group.device)
    share = sizes * by_group.detach().mean(1).clamp(min=0)
    weights = share / share.mean().clamp(min=torch.finfo(share.dtype).tiny)
    return torch.where(torch.as_tensor(beta) < 1, weights, torch.ones_like(weights)).unsqueeze(1)


def _no_groups(q: Distribution, prior: Distribution, option: str) -> ElbowroomError:
    return ElbowroomError(
        f"{option} needs the KL by group, of a guide from the top down, a prior of independent blocks, kl='auto' and "
        f"the estimator 'pathwise', but the guide's distribution is a {type(q).__name__} and the prior's a "
        f"{type(prior).__name__}.",
        "Leave it out, or give these.",
    )


def _no_closed_form(q: Distribution, prior: Distribution, free_bits: float) -> ElbowroomError:
    pair = f"the guide's {type(q).__name__} and the prior's {type(prior).__name__}"
    if free_bits > 0:
        return ElbowroomError(
            f"free_bits={free_bits} needs a KL that factorises over latent dimensions, but {pair} have none.",
            "Use a prior of independent slots (unigram or uniform), or free_bits=0."
            if isinstance(q, Codes)
            else "Use kl='auto' and the estimator 'pathwise', which take the KL by group, or free_bits=0."
            if isinstance(q, SequentialNormal)
            else "Use a guide from the top down (--model.guide top-down), or no free bits (--objective.free-bits 0)."
            if isinstance(q, ResidualNormal)
            else "Use a diagonal guide with a normal prior, or free_bits=0 (and kl='monte-carlo').",
        )
    return ElbowroomError(
        f"kl='analytic' needs a KL in closed form, but there is none between {pair}.",
        "Use kl='monte-carlo', or kl='auto', which takes the closed form where there is one.",
    )


def _with_path(terms: Terms, terms_at: Callable[[Tensor], Terms], relaxed: Tensor) -> Terms:
    """The terms at codes; the relaxed draws add the gradient of the value there, and to the value nothing."""
    path = path_gradient(lambda z: terms_at(z).value, relaxed)
    return terms._replace(value=terms.value + path.sum(0))


def _without_value(surrogate: Tensor) -> Tensor:
    """Zero, with the surrogate's gradient."""
    return surrogate - surrogate.detach()


def _minus_others_mean(signal: Tensor) -> Tensor:
    """f_s less the mean of the other draws' f, (samples, batch): the baseline is independent of z_s, so unbiased."""
    num_samples = signal.shape[0]
    if num_samples == 1:
        return signal
    return (signal - signal.mean(0)) * (num_samples / (num_samples - 1))


def _minus_others_bound(log_w: Tensor, bound: Tensor) -> Tensor:
    """VIMCO's signal: the bound less the bound in which w_k gives way to the geometric mean of the others.

    The sums over the others are built from both ends, since taking w_k out of the total would cancel wherever one
    weight dominates, which is just where the baseline matters.
    """
    num_samples = log_w.shape[0]
    if num_samples == 1:
        return bound.unsqueeze(0)
    nothing = torch.full_like(log_w[:1], -math.inf)
    before = torch.cat([nothing, log_w.logcumsumexp(0)[:-1]])
    after = torch.cat([log_w.flip(0).logcumsumexp(0).flip(0)[1:], nothing])
    others = torch.logaddexp(before, after)  # log Σ_{j≠k} w_j
    stand_in = (log_w.sum(0) - log_w) / (num_samples - 1)  # log of the geometric mean of w_j, j ≠ k
    return bound - (torch.logaddexp(others, stand_in) - math.log(num_samples))
