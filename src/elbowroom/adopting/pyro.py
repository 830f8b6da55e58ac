"""A Pyro model and guide as plain functions: encoder, decoder and prior, read from their traces.

The model is run with its latent site conditioned on z: the distribution of its observed site is p(x | z). The guide is
run on x: the distribution of its latent site is q(z | x). Both are run on as many rows as there are z, so that a plate
of a program is a batch. The networks that the programs call are in evaluation mode here; whoever uses the functions
later has to put them into evaluation mode again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from elbowroom.adopting.inspection import first_call, networks_of
from elbowroom.errors import ElbowroomError
from elbowroom.learners.svi import poutine
from elbowroom.model.latent import evaluation_mode

__all__ = ["FromPyro", "from_pyro"]

#: Pyro's name of a family -> (likelihood, convention of the decoder's output, how to read it)
_FAMILIES: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "Bernoulli": ("bernoulli", "logits", lambda d: d.logits),
    "Normal": ("gaussian", "mean-scale", lambda d: (d.loc, d.scale)),
    "Poisson": ("poisson", "rate", lambda d: d.rate),
}


class FromPyro(NamedTuple):
    """A Pyro model and guide, as functions of tensors.

    Attributes:
        encoder: maps x to the mean and the standard deviation of z.
        decoder: maps z to the parameters of x.
        decoder_output: their convention: "logits", "mean-scale" or "rate".
        likelihood: the package's name for the family.
        prior: p(z), event shape (latent,).
    """

    encoder: Callable[[Tensor], tuple[Tensor, Tensor]]
    decoder: Callable[[Tensor], Any]
    decoder_output: str
    likelihood: str
    prior: Distribution


def from_pyro(model: Callable[..., Any], guide: Callable[..., Any], x: Tensor) -> FromPyro:
    """Reads a Pyro model and guide.

    Args:
        model: with one latent site, of normal prior, and one observed site; called as ``model(x)``.
        guide: with a normal distribution at the latent site; called as ``guide(x)``.
        x: some examples, shape (n, \\*event), to run both on.
    Raises:
        ElbowroomError: other sites than these, or unknown families.
    """
    with evaluation_mode(*networks_of(model, guide)):
        return _read(model, guide, x[:1])


def _read(model: Callable[..., Any], guide: Callable[..., Any], row: Tensor) -> FromPyro:
    """Reads both from a run on one example."""

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
                "Join them into one vector at one site.",
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
            f"The Pyro model's x is {family}, for which the package has no likelihood here.",
            f"Supported are {', '.join(_FAMILIES)}; or use er.adopt with the networks themselves.",
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
    """The sample sites of a program, without plates."""
    remedy = (
        "Model and guide are called with x as their only argument, of shape (n, *event), in the precision of their "
        "networks."
    )
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
