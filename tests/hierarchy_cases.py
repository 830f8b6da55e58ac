"""Hierarchies for tests: an exact one with guides that are exact or a little wrong, and small nonlinear ones."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal

from elbowroom.data.batch import Batch
from elbowroom.data.support import Support
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import InputTransform
from elbowroom.model.hierarchy.grids import GridFeatures, GridLadder
from elbowroom.model.hierarchy.guides import BottomUpGuide, GridRecognition, TopDownGuide, VectorRecognition
from elbowroom.model.hierarchy.ladders import VectorLadder
from elbowroom.model.hierarchy.oracles import LinearHierarchy
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli
from elbowroom.model.networks import MLP
from elbowroom.model.noise import Prepared
from elbowroom.model.priors import MixtureOfGaussians, StandardNormal, TopPrior

GUIDES = ("top-down", "bottom-up")
KINDS = ("top-down", "bottom-up", "grid")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(sizes: tuple[int, ...] = (1, 1), dim: int = 4, num_data: int = 3, seed: int = 0) -> SimpleNamespace:
    """The oracle, data drawn from it, and its exact guides by name."""
    model = LinearHierarchy(sizes, dim, seed)
    x = model.sample(num_data, generator=seeded(seed + 1)).x
    guides = {"top-down": model.top_down_guide(), "bottom-up": model.bottom_up_guide()}
    return SimpleNamespace(model=model, x=x, guides=guides)


@torch.no_grad()
def worsened(guide: Any, by: float = 1.0) -> Any:
    """A copy of an exact guide with the same decoder, wrong in means and in scales, so that no gradient is zero.

    Deviations do not depend on the groups before, so that the closed forms of the oracle hold.
    """
    worse = copy.deepcopy(guide, {id(guide.ladder): guide.ladder})
    for number, weight in enumerate(own_parameters(worse)):
        wrong = 0.8 * weight + 0.1 * torch.randn(weight.shape, generator=seeded(number), dtype=weight.dtype)
        weight.lerp_(wrong, by)
    for head in worse.conditionals if isinstance(worse, BottomUpGuide) else worse.recognition.heads[1:]:
        head.output.weight[len(head.output.weight) // 2 :] = 0.0
    return worse


def own_parameters(guide: Any) -> list[nn.Parameter]:
    """The guide's weights without the decoder's."""
    shared = {id(weight) for weight in guide.ladder.parameters()}
    return [weight for weight in guide.parameters() if id(weight) not in shared]


def as_joint_normal(guide: Conditional, x: Tensor) -> Conditional:
    """A guide with affine maps and constant scales as a full normal over the residuals, with the same gradients."""

    class Joint(Conditional):
        def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
            assert given is not None
            sizes, latent = sizes_drawn(guide, given), guide(given).event_shape[0]

            def at(noise: Tensor) -> Tensor:
                rows = noise.expand(len(given), -1)
                u: Tensor = guide(given).rsample((), Prepared(list(rows.split_with_sizes(sizes, -1))))
                return u

            mean = at(torch.zeros(latent, dtype=x.dtype))
            columns = [at(unit) - mean for unit in torch.eye(latent, dtype=x.dtype)]
            factor = torch.stack(columns, -1)
            return MultivariateNormal(mean, covariance_matrix=factor @ factor.mT, validate_args=False)

    return Joint()


def sizes_drawn(guide: Any, x: Tensor) -> tuple[int, ...]:
    """Latents of each group, in the order in which the guide draws them."""
    q = guide(x)
    sizes: tuple[int, ...] = (q.base if hasattr(q, "base") else q).sizes
    return sizes


def nonlinear(
    kind: str, *, prior: str = "normal", context_dim: int = 0, num_data: int = 6, double: bool = True
) -> SimpleNamespace:
    """A small hierarchy of bits: vectors with a guide from the top down or the bottom up, or 8 × 8 pictures."""
    torch.manual_seed(3)
    if kind == "grid":
        event_shape: tuple[int, ...] = (8, 8)
        grid = GridLadder(3, (1, 2), (1, *event_shape), channels=5, dense=7, context_dim=context_dim)
        features = GridFeatures(event_shape, channels=4, blocks=1)
        transform = InputTransform(Support.BINARY, event_shape)
        recognition = GridRecognition(grid, features.out_shape, dense=6)
        guide: Any = TopDownGuide(features, recognition, grid, transform)
        ladder: Any = grid
    else:
        event_shape, sizes = (9,), (2, 3, 2)
        ladder = VectorLadder(sizes, (1, 9), hidden=(7,), between=(6,), context_dim=context_dim)
        transform = InputTransform(Support.BINARY, event_shape)
        if kind == "top-down":
            network = MLP((9,), (5,), hidden=(6,), context_dim=context_dim)
            guide = TopDownGuide(network, VectorRecognition(5, sizes, hidden=(4,)), ladder, transform)
        else:
            network = MLP((9,), (2, 2), hidden=(6,), context_dim=context_dim)
            guide = BottomUpGuide(network, ladder, hidden=(4,), transform=transform)
    latent = sum(ladder.sizes)
    top = MixtureOfGaussians(ladder.sizes[0], 4, context_dim=context_dim)
    p_z: Conditional = StandardNormal(latent) if prior == "normal" else TopPrior(top, latent - ladder.sizes[0])
    model = LatentModel(p_z, Bernoulli(ladder, event_shape))
    with torch.no_grad():
        for weight in [*model.parameters(), *own_parameters(guide)]:  # torch's are small, and groups alike
            weight.add_(0.2 * torch.randn(weight.shape))
    x = torch.randint(0, 2, (num_data, *event_shape), generator=seeded()).float()
    context = torch.randn(num_data, context_dim, generator=seeded(1)) if context_dim else None
    if double:
        model, guide, x = model.double(), guide.double(), x.double()
        context = None if context is None else context.double()
    return SimpleNamespace(
        model=model, guide=guide, ladder=ladder, x=x, context=context, batch=Batch(x, context=context)
    )
