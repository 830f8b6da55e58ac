"""Somebody else's Pyro model and guide as plain functions: encoder, decoder and prior, read off their traces.

A model is run with its latent site conditioned on z, and the distribution of its observed site is p(x | z); a guide is
run on x, and the distribution of its latent site is q(z | x). Both are run on as many rows as there are z, so that what
one program says of a plate is what the other says of a batch. Here the networks that the programs call are
in evaluation mode; whoever uses the functions afterwards has to see to that, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from elbowroom.adopting.inspection import first_call, networks_of
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.study import evaluation_mode
from elbowroom.learners.svi import poutine

__all__ = ["FromPyro", "from_pyro"]

#: Pyro's name of a family -> (likelihood, what the decoder then returns, how to read it)
_FAMILIES: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "Bernoulli": ("bernoulli", "logits", lambda d: d.logits),
    "Normal": ("gaussian", "mean-scale", lambda d: (d.loc, d.scale)),
    "Poisson": ("poisson", "rate", lambda d: d.rate),
}


class FromPyro(NamedTuple):
    """What a pair of Pyro's functions says, as functions of tensors.

    Attributes:
        encoder: x to the mean and the standard deviation of z.
        decoder: z to the parameters of x.
        decoder_output: what they are: "logits", "mean-scale" or "rate".
        likelihood: the package's name for the family.
        prior: p(z), event shape (latent,).
    """

    encoder: Callable[[Tensor], tuple[Tensor, Tensor]]
    decoder: Callable[[Tensor], Any]
    decoder_output: str
    likelihood: str
    prior: Distribution


def from_pyro(model: Callable[..., Any], guide: Callable[..., Any], x: Tensor) -> FromPyro:
    """Read a pair of Pyro's functions of x.

    Args:
        model: with one latent site, of normal prior, and one observed site; called as ``model(x)``.
        guide: with a normal distribution at the latent site; called as ``guide(x)``.
        x: some data, shape (n, \\*event), to run both on.
    Raises:
        ElbowroomError: other sites than these, or families that are not known.
    """
    with evaluation_mode(*networks_of(model, guide)):
        return _read(model, guide, x[:1])


def _read(model: Callable[..., Any], guide: Callable[..., Any], row: Tensor) -> FromPyro:
    """From one example, which both are run on."""

    def observed(z: Tensor) -> Any:
        rows = row.expand(len(z), *row.shape[1:])
        with torch.random.fork_rng(devices=()):
            sites = _sites(poutine.condition(model, data={name: z}), rows)
        found = [site["fn"] for site in sites if site["is_observed"] and site["name"] != name]
        if len(found) != 1:
            raise ElbowroomError(
                f"The Pyro model has {len(found)} observed sites, but one is needed, p(x | z).",
                "Observe all of x at one site: pyro.sample('x', …, obs=x).",
            )
        return _base(found[0])

    with torch.no_grad(), torch.random.fork_rng(devices=()):
        latent = [site for site in _sites(guide, row) if not site["is_observed"]]
        if len(latent) != 1:
            raise ElbowroomError(
                f"The Pyro guide has {len(latent)} latent sites, but one is needed, a vector z for each example.",
                "Join them into one vector.",
            )
        name = latent[0]["name"]
        prior_site = next((site for site in _sites(model, row) if site["name"] == name), None)
    if prior_site is None:
        raise ElbowroomError(
            f"The Pyro model has no site '{name}', which the guide has.", "Give the latent the same name in both."
        )
    prior = _normal(_base(prior_site["fn"]), "prior")
    z = prior_site["value"].detach()
    family = type(observed(z.reshape(1, -1))).__name__
    if family not in _FAMILIES:
        raise ElbowroomError(
            f"The Pyro model's x is {family}, of which it is not known what the package calls it.",
            f"Known are {', '.join(_FAMILIES)}; or use er.adopt with the networks themselves.",
        )
    likelihood, output, read = _FAMILIES[family]

    def encoder(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.random.fork_rng(devices=()):
            (site,) = (s for s in _sites(guide, x) if s["name"] == name)
        q = _normal(_base(site["fn"]), "guide")
        return q.loc, q.scale

    loc, scale = (part.detach().reshape(-1) for part in (prior.loc, prior.scale))
    return FromPyro(encoder, lambda z: read(observed(z)), output, likelihood, Independent(Normal(loc, scale), 1))


def _sites(program: Callable[..., Any], x: Tensor) -> list[Any]:
    """Sample sites, without plates."""
    remedy = "Model and guide are called with x alone, of shape (n, *event), in the precision of their networks."
    nodes = first_call(poutine.trace(program).get_trace, x, "Pyro program", remedy).nodes.values()
    return [node for node in nodes if node["type"] == "sample" and type(node["fn"]).__name__ != "_Subsample"]


def _base(distribution: Any) -> Any:
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return distribution


def _normal(distribution: Any, who: str) -> Any:
    if not isinstance(distribution, Normal):
        raise ElbowroomError(
            f"The Pyro {who}'s z is {type(distribution).__name__}, but a normal with independent elements is needed.",
            "Use er.adopt, with prior= for another prior.",
        )
    return distribution
