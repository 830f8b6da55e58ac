r"""Stochastic variational inference (SVI) by Pyro, with the same model and guide.

In Pyro a model is a program that draws: inside a plate over the batch, z from the prior and the observed x from the
likelihood. The guide is a second program that draws z. From the traces of the two, Pyro computes for a batch of B
examples

==================== ======================= ===================================================================
name                 Pyro's class            minus the loss
==================== ======================= ===================================================================
``trace``            ``Trace_ELBO``          :math:`\sum_b \log p(x_b, z_b) - \log q(z_b | x_b)`
``trace-mean-field`` ``TraceMeanField_ELBO`` the same, with the KL in closed form where there is one
``renyi``            ``RenyiELBO(alpha=0)``  :math:`\sum_b \log \frac1K \sum_k p(x_b, z_{bk}) / q(z_{bk} | x_b)`
==================== ======================= ===================================================================

which are the ELBO and the importance-weighted bound of :mod:`elbowroom.inference.objectives`, with one difference:
Pyro's loss is the *sum* over the batch, and elbowroom's is the mean. So the gradient is divided by B after Pyro has
computed it. A ``poutine.scale`` of 1/B inside would do the same for the ELBO, but not for the importance-weighted
bound, whose weights it would raise to the power 1/B.

This is the only module that imports Pyro, and it is imported when first used.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Size, Tensor, nn
from torch.distributions import (
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    register_kl,
)

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError, check_name, check_num_samples
from elbowroom.inference.kl import closed_form_kl
from elbowroom.inference.objectives import Terms, elbo_terms, iwae_terms
from elbowroom.learners.learner import StepInfo, TrainingState
from elbowroom.learners.update import Update, UpdateInfo
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import draw
from elbowroom.model.guides import guide_distribution
from elbowroom.model.latent import LatentModel, Pair
from elbowroom.model.noise import global_generator_seeded_from

try:
    import pyro
    import pyro.distributions as dist
    from pyro import poutine
    from pyro.distributions.torch_distribution import TorchDistributionMixin
    from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
    from pyro.optim import PyroOptim
except ModuleNotFoundError as error:
    raise ElbowroomError(
        f"Pyro was asked for, but it is not installed ({error}).", "Install it: pip install 'elbowroom[pyro]'."
    ) from error

__all__ = ["ELBOS", "PyroPair", "Svi", "poutine", "to_pyro"]

#: name -> Pyro's estimator, a function of num_particles and how they are computed
ELBOS: dict[str, Callable[..., Any]] = {
    "trace": Trace_ELBO,
    "trace-mean-field": TraceMeanField_ELBO,
    "renyi": functools.partial(RenyiELBO, alpha=0),
}


class PyroPair(NamedTuple):
    """Pyro's view of a model and its guide: two callables of (x, context=None, mask=None).

    Either accepts a :class:`~elbowroom.data.batch.Batch` as x. The latent site is "z", the observed one "x", the plate
    "data".
    """

    model: Callable[..., Tensor]
    guide: Callable[..., Tensor]


def to_pyro(model: LatentModel, guide: Conditional, *, name: str = "elbowroom") -> PyroPair:
    r"""Model and guide as Pyro programs, for use with any of Pyro's tools.

    The weights are shared, not copied: what Pyro trains is trained here.

    .. math:: z_b \sim p(z | c_b), \quad x_b \sim p(x | z_b, c_b); \qquad z_b \sim q(z | x_b, c_b), \qquad b = 1 \dots B

    Args:
        model: p(x, z).
        guide: q(z | x).
        name: prefix of the weights in Pyro's parameter store, as ``NAME.model$$$…`` and ``NAME.guide$$$…``.
    Returns:
        Two callables. Both take the examples, shape (batch, \*event), or a ``Batch``; a context of shape (batch,
        context_dim); and a mask of shape (batch, \*event), True where x was observed. To draw x instead of observing
        it, wrap the model in ``pyro.poutine.uncondition``.
    Raises:
        ElbowroomError: when called: the store has another model's weights under this name; a weight that Pyro would
            copy; a guide whose scale is not positive.
    Reference:
        Bingham et al. (2019), Pyro: Deep Universal Probabilistic Programming, arXiv:1810.09538.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, guide, x = oracles.ppca(dim=8, latent_dim=2, seed=0)
        >>> pair = to_pyro(model, guide, name="example")
        >>> pyro.set_rng_seed(0)
        >>> svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        >>> losses = [svi.step(x) for _ in range(50)]
        >>> sum(losses[-10:]) < sum(losses[:10])
        True
    """
    if "$$$" in name:
        raise ElbowroomError(f"The name '{name}' contains $$$, which Pyro keeps for itself.", "Choose another name.")
    return PyroPair(_Model(model, f"{name}.model"), _Guide(guide, f"{name}.guide"))


@dataclass(frozen=True, slots=True)
class _Model:
    """z ~ p(z | c), x ~ p(x | z, c)."""

    model: LatentModel
    name: str

    def __call__(self, x: Batch | Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        batch = _joined(x, context, mask)
        _register(self.name, self.model)
        with pyro.plate("data", len(batch), dim=-1):
            z = pyro.sample("z", _as_pyro(self.model.prior(None, batch.context)))
            observed: Tensor = pyro.sample("x", _Likelihood(self.model, z, batch.context, batch.mask), obs=batch.x)
        return observed


@dataclass(frozen=True, slots=True)
class _Guide:
    """z ~ q(z | x, c)."""

    guide: Conditional
    name: str
    needs_gradient: str | None = None  #: what differentiates through the draws, if anything does

    def __call__(self, x: Batch | Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        batch = _joined(x, context, mask)
        _register(self.name, self.guide)
        with pyro.plate("data", len(batch), dim=-1):
            q = guide_distribution(self.guide, batch)
            if self.needs_gradient is not None and not q.has_rsample:
                raise ElbowroomError(
                    f"Pyro's ELBO '{self.needs_gradient}' differentiates through draws of the guide, but those of a "
                    f"{type(q).__name__} are not reparameterised.",
                    "Use the ELBO 'trace', which then takes the score function, or another guide.",
                )
            z: Tensor = pyro.sample("z", _as_pyro(q))
        return z


def _joined(x: Batch | Tensor, context: Tensor | None, mask: Tensor | None) -> Batch:
    """One batch from the arguments; context and mask replace those of the batch."""
    if not isinstance(x, Batch):
        return Batch(x, None, context, mask)
    return Batch(x.x, x.index, x.context if context is None else context, x.mask if mask is None else mask)


def _register(name: str, module: nn.Module) -> None:
    """Enters the weights into Pyro's parameter store, and checks that Pyro trains these tensors and no others."""
    held = dict(pyro.get_param_store().named_parameters())
    frozen = False
    for key, weight in module.named_parameters():
        if not weight.requires_grad:
            frozen = True
            continue
        if held.get(f"{name}$$${key}", weight) is not weight:
            raise ElbowroomError(
                f"Pyro's parameter store already holds '{name}' with the weights of another model ('{key}' differs), "
                "so that Pyro would train those instead.",
                "Call pyro.clear_param_store() first, or give to_pyro another name.",
            )
        if not weight.is_contiguous():
            raise ElbowroomError(
                f"The weight '{key}' of '{name}' is not contiguous in memory, so that Pyro would train a copy of it.",
                "Make it contiguous: weight.data = weight.data.contiguous().",
            )
    with warnings.catch_warnings() if frozen else nullcontext():
        if frozen:  # a weight can be fixed on purpose
            warnings.filterwarnings("ignore", message=".* was not registered in the param store")
        pyro.module(name, module)


# --- distributions -----------------------------------------------------------------------------------------------


class _Likelihood(dist.TorchDistribution):
    """p(x | z) as a Pyro distribution over a whole example; its density is `LatentModel.log_likelihood`."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(self, model: LatentModel, z: Tensor, context: Tensor | None, mask: Tensor | None) -> None:
        self.model, self.z, self.context, self.mask_of_x = model, z, context, mask
        super().__init__(z.shape[:-1], Size(model.likelihood.event_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.model.log_likelihood(value, self.z, context=self.context, mask=self.mask_of_x)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return draw(self.model.likelihood(self.z, self.context), sample_shape)


class _Foreign(dist.TorchDistribution):
    """A distribution over z that Pyro does not have, with its own draws and density."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, distribution: Distribution) -> None:
        self.distribution = distribution
        super().__init__(distribution.batch_shape, distribution.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]  # torch has an attribute, Pyro too has properties
        return self.distribution.has_rsample

    @property
    def support(self) -> Any:
        return self.distribution.support

    def log_prob(self, value: Tensor) -> Tensor:
        log_density: Tensor = self.distribution.log_prob(value)
        return log_density

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return draw(self.distribution, sample_shape)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return draw(self.distribution, sample_shape)


class _FullNormal(dist.MultivariateNormal):
    """Pyro's MultivariateNormal as a type of its own, for which a KL to a factorised prior is registered below."""


@register_kl(_FullNormal, Independent)  # type: ignore[no-untyped-call,untyped-decorator]  # torch's
def _kl_full_factorised(q: _FullNormal, p: Independent[Distribution]) -> Tensor:
    closed = closed_form_kl(q, p)
    if closed is None:
        raise NotImplementedError  # tells Pyro to use draws
    return closed.kl


def _as_pyro(distribution: Distribution) -> Any:
    """The same distribution as one of Pyro's; whether arguments are checked stays as it is."""
    checked = distribution._validate_args
    match distribution:
        case TorchDistributionMixin():
            return distribution
        case Independent():
            return _as_pyro(distribution.base_dist).to_event(distribution.reinterpreted_batch_ndims)
        case Normal():
            return dist.Normal(distribution.loc, distribution.scale, validate_args=checked)
        case MultivariateNormal():
            return _FullNormal(distribution.loc, scale_tril=distribution.scale_tril, validate_args=checked)
        case MixtureSameFamily():
            weights = dist.Categorical(logits=distribution.mixture_distribution.logits, validate_args=checked)
            components = _as_pyro(distribution.component_distribution)
            return dist.MixtureSameFamily(weights, components, validate_args=checked)
        case _:
            return _Foreign(distribution)


# --- the learner -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Svi:
    """Pyro's ``SVI`` with one of Pyro's ELBOs; optimiser, schedule and checks are elbowroom's.

    Every step has its own parameter store, so that the user's parameter store and other learners are not affected.
    Pyro draws from torch's global generator, which is seeded for the step and restored afterwards.

    Args:
        elbo: "trace", "trace-mean-field" or "renyi"; the table in :mod:`elbowroom.learners.svi`.
        update: optimiser, schedule, clipping, moving average.
        num_particles: number of draws of z per example, in parallel.
    Raises:
        ElbowroomError: an unknown ELBO, or fewer than one draw.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, guide, x = oracles.ppca(dim=8, latent_dim=2, seed=0)
        >>> adam = functools.partial(torch.optim.Adam, lr=1e-2)
        >>> learner = Svi(elbo="trace", update=Update(optimizer=adam, total_steps=10))
        >>> state = learner.init(Pair(model, guide))
        >>> state, info = learner.step(state, Batch(x), generator=torch.Generator().manual_seed(0))
        >>> list(info.terms), info.decoder_gradients
        (['elbo'], 64)
    """

    elbo: Literal["trace", "trace-mean-field", "renyi"] = "trace"
    update: Update
    num_particles: int = 1

    def __post_init__(self) -> None:
        check_name("ELBO of Pyro's", self.elbo, ELBOS)
        check_num_samples(self.num_particles)

    @property
    def name(self) -> str:
        """The bound that is estimated: "iwae" for "renyi", else "elbo"."""
        return "iwae" if self.elbo == "renyi" else "elbo"

    def init(self, pair: Pair) -> TrainingState:
        """The state before the first step."""
        return TrainingState(0, pair, *self.update.optimizer_and_average(pair))

    def step(self, state: TrainingState, batch: Batch, *, generator: torch.Generator) -> tuple[TrainingState, StepInfo]:
        """One step of Pyro's ``SVI``.

        Raises:
            ElbowroomError: the loss or its gradient is not finite; names the step and the likely cause, and leaves the
                weights as they were. A guide that the estimator cannot use.
        """
        estimator = ELBOS[self.elbo](
            num_particles=self.num_particles, vectorize_particles=self.num_particles > 1, max_plate_nesting=1
        )
        optimizer = _UpdateOptimizer(self.update, self.name, state, batch)

        def loss_and_grads(model: Callable[..., Tensor], guide: Callable[..., Tensor], given: Batch) -> float:
            state.optimizer.zero_grad(set_to_none=True)
            optimizer.loss = float(estimator.loss_and_grads(model, guide, given))
            return optimizer.loss

        model = _Model(state.pair.model, "elbowroom.model")
        guide = _Guide(state.pair.guide, "elbowroom.guide", None if self.elbo == "trace" else self.elbo)
        with pyro.get_param_store().scope(), global_generator_seeded_from(generator), warnings.catch_warnings():
            # the check below raises an error with cause and remedy instead
            warnings.filterwarnings("ignore", message="Encountered (NaN|[+-]?inf)", category=UserWarning)
            svi = SVI(model, guide, optimizer, estimator.loss, loss_and_grads)  # type: ignore[no-untyped-call]
            svi.step(batch)  # type: ignore[no-untyped-call]
        updated = optimizer.seen
        state.step += 1
        return state, StepInfo(updated.terms, updated.lr, self.num_particles * len(batch), grad_norm=updated.grad_norm)

    def measure(self, pair: Pair, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """The bound of each example by elbowroom's objectives, so that validation is the same as for other learners."""
        terms: Terms
        if self.elbo == "renyi":
            terms = iwae_terms(pair.model, pair.guide, batch, num_samples=self.num_particles, generator=generator)
        else:
            terms = elbo_terms(
                pair.model, pair.guide, batch, num_samples=self.num_particles, kl="auto", generator=generator
            )
        return {self.name: terms.value, **terms.parts}


class _UpdateOptimizer(PyroOptim):
    """An optimiser for ``SVI`` that updates all weights together, by an `Update`.

    Pyro's own has a separate optimiser for each weight. So it can neither clip their joint gradient nor be saved like
    those of the other learners.
    """

    seen: UpdateInfo

    def __init__(self, update: Update, name: str, state: TrainingState, batch: Batch) -> None:
        super().__init__(torch.optim.Optimizer, {})
        self.update, self.name, self.state, self.batch = update, name, state, batch
        self.loss = torch.nan

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        size = len(self.batch)
        for weight in self.state.pair.parameters():
            if weight.grad is not None:
                weight.grad.div_(size)  # from Pyro's sum to the mean
        value = next(self.state.pair.parameters()).new_tensor(-self.loss / size)
        self.seen = self.update.apply_gradient(self.state, self.name, value, {}, self.batch)
