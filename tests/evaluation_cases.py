"""Linear-Gaussian models, their exact figures, and evaluations of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.evaluation.evaluate import evaluate
from elbowroom.evaluation.results import Result
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import DiagonalNormal
from elbowroom.model.latent import LatentModel
from elbowroom.model.oracles import LinearGaussian, ppca

DIM, LATENT = 6, 2


def data_of(x: Tensor, **settings: Any) -> DataSet:
    data = load_data(x, support="reals", validation=0.0, test=0.0, **settings)
    assert isinstance(data, DataSet)
    return data.to(dtype=torch.float64)


def oracle(num_data: int = 300, seed: int = 3) -> tuple[LinearGaussian, DiagonalNormal, Tensor]:
    return ppca(DIM, LATENT, seed=seed, num_data=num_data)


def exact_elbo(model: LinearGaussian, guide: Conditional, x: Tensor) -> Tensor:
    """log p(x) − KL(q || p(z | x)), both in closed form."""
    q = guide(x)
    normal = torch.distributions.MultivariateNormal(q.mean, torch.diag_embed(q.variance))
    return (model.log_evidence(x) - kl_divergence(normal, model.posterior(x))).detach()


def named(results: list[Result]) -> dict[str, Result]:
    return {result.name: result for result in results}


def measure(model: LatentModel, guide: Conditional, data: Any, *methods: str, **settings: Any) -> dict[str, Result]:
    return named(evaluate(model, guide, data, methods=methods, split="train", **settings))
