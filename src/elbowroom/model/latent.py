r"""The generative model, p(x, z) = p(z) p(x | z).

An example x is generated in two steps: a latent vector z is drawn from the prior, then x from a distribution whose
parameters a network computes from z. The quantity of interest is the evidence, or marginal likelihood,

.. math:: \log p(x) = \log \int p(z) \, p(x | z) \, dz,

but only the integrand can be computed directly. This file is the only place where it is computed; every training
method, sampler and estimator of the package calls it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli

from elbowroom.errors import ElbowroomError
from elbowroom.model.code_distributions import CodeSpace
from elbowroom.model.conditional import Conditional, LatentSupport
from elbowroom.model.draws import conditionals, draw, mean, observed_log_density
from elbowroom.model.fused import bernoulli_total, is_possible
from elbowroom.model.likelihoods import Likelihood

__all__ = ["LatentModel", "Pair", "Sample", "evaluation_mode"]


class Sample(NamedTuple):
    """Draws from the model: z ~ p(z), x ~ p(x | z), and the mean of p(x | z), which is not a sample of x.

    Where pixels depend on each other, ``mean`` is that of each pixel given those before it in x.
    """

    z: Tensor  #: (n, latent)
    x: Tensor  #: (n, *event)
    mean: Tensor  #: (n, *event)


class LatentModel(nn.Module):
    r"""A prior p(z) and a likelihood p(x | z); with a context c, p(z | c) and p(x | z, c).

    Args:
        prior: p(z | c).
        likelihood: p(x | z, c), elementwise.
    """

    def __init__(self, prior: Conditional, likelihood: Likelihood) -> None:
        super().__init__()
        self.prior = prior
        self.likelihood = likelihood

    @property
    def latent_support(self) -> LatentSupport:
        """Values of z: "real" vectors, or "codes"."""
        return self.prior.latent_support

    @property
    def space(self) -> CodeSpace:
        """Slots and codes of z.

        Raises:
            ElbowroomError: z is continuous.
        """
        if self.latent_support == "real":
            raise ElbowroomError(
                "The slots and codes of a model were asked for, but its z is continuous.",
                "Train a model with codes, for instance with --model.guide categorical --model.prior made.",
            )
        space = self.prior.space
        assert isinstance(space, CodeSpace)
        return space

    def require_real(self, what: str, instead: str) -> None:
        """Refuses a model whose latents are codes.

        Args:
            what: what was to be done, as the beginning of a sentence: "Hamiltonian Monte Carlo".
            instead: what serves for codes, a sentence.
        Raises:
            ElbowroomError: the latents are codes.
        """
        if self.latent_support == "codes":
            raise ElbowroomError(
                f"{what} needs a continuous z, but the latents of this model are codes ({self.space}).", instead
            )

    def log_prior(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(z | c) in nats: z of shape (\\*, batch, latent) gives (\\*, batch)."""
        log_density: Tensor = self.prior(None, context).log_prob(z)
        return log_density

    def log_likelihood(
        self, x: Tensor, z: Tensor, *, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """log p(x | z, c) in nats, summed over the observed elements of the event.

        Args:
            x: data, shape (batch, \\*event).
            z: latents, shape (\\*, batch, latent).
            context: covariates, shape (batch, context_dim).
            mask: True where x was observed, shape (batch, \\*event); unobserved elements are summed out, so they
                add nothing.
        Returns:
            Shape (\\*, batch).
        Raises:
            ElbowroomError: a mask with holes that the likelihood cannot sum out.
        """
        if mask is not None and not torch.compiler.is_compiling():  # a compiled function cannot look at values
            self.likelihood.check_mask(mask)
        p_x = conditionals(self.likelihood(z, context), x)
        lead = z.dim() - 1
        plain = mask is not None or p_x.batch_shape[lead - 1 :] != x.shape
        if type(p_x) is Bernoulli and not plain and is_possible(p_x.logits, x):
            logits = p_x.logits.flatten(lead)
            return bernoulli_total(logits, x.flatten(1), torch.empty_like(logits))
        return observed_log_density(p_x, x, mask, event_dim=x.dim() - 1)

    def log_joint(self, x: Tensor, z: Tensor, *, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """log p(x, z | c) = log p(z | c) + log p(x | z, c) in nats; shapes as in :meth:`log_likelihood`."""
        return self.log_prior(z, context) + self.log_likelihood(x, z, context=context, mask=mask)

    @torch.no_grad()
    def sample(
        self, num_samples: int, *, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Sample:
        """Ancestral draws: z from the prior, then x from the likelihood.

        Args:
            num_samples: n.
            context: covariates, shape (n, context_dim), for a model that has them.
            generator: the source of randomness.
        Raises:
            ElbowroomError: the context has another number of rows than n.
        """
        if context is not None and context.shape[:-1] != (num_samples,):
            raise ElbowroomError(
                f"{num_samples} samples were asked for, but the context has shape {tuple(context.shape)} instead of "
                f"({num_samples}, context_dim).",
                "Give one row of context for each sample, or ask for as many samples as there are rows.",
            )
        prior = self.prior(None, context)
        shape = (num_samples,) if not prior.batch_shape else ()
        z = draw(prior, shape, generator=generator)
        p_x = self.likelihood(z, context)
        x = draw(p_x, (), generator=generator)
        return Sample(z, x, mean(conditionals(p_x, x)))


class Pair(nn.Module):
    """A model p(x, z) and its guide q(z | x): they are trained, evaluated and stored together."""

    def __init__(self, model: LatentModel, guide: Conditional) -> None:
        super().__init__()
        self.model = model
        self.guide = guide


@contextmanager
def evaluation_mode(*modules: nn.Module) -> Iterator[None]:
    """A context in which networks are in evaluation mode and no gradients are recorded."""
    modes = [(module, module.training) for root in modules for module in root.modules()]
    for root in modules:
        root.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
