r"""A hierarchy whose evidence and posterior are known exactly, as a reference for tests of everything else.

.. math:: z_1 = u_1, \qquad z_l = A_l z_{l-1} + a_l + s_l \odot u_l, \qquad x | z \sim N(W z_L + b, \sigma^2 I), \qquad
    u \sim N(0, I)

All maps are affine, so that x given all residuals u is linear and Gaussian: multiplied out, the model is
:class:`~elbowroom.model.oracles.LinearGaussian`. Values and data are jointly normal, and the exact posterior is a
sequence of normals from the top down and from the bottom up, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from elbowroom.model.hierarchy.guides import BottomUpGuide, TopDownGuide, VectorRecognition
from elbowroom.model.hierarchy.ladders import VectorLadder
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Gaussian
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import LinearGaussian
from elbowroom.model.priors import StandardNormal

__all__ = ["LinearHierarchy"]


class LinearHierarchy(LatentModel):
    """A chain of normal groups with affine maps between them: evidence and posterior in closed form.

    Args:
        sizes: latents of each group, the top group first.
        dim: elements of x.
        seed: of the weights, which are standard normal; deviations s lie between 0.6 and 1.4.
        scale: σ > 0.
    Reference:
        Roweis & Ghahramani (1999), A Unifying Review of Linear Gaussian Models.
    Example:
        >>> model = LinearHierarchy((1, 1), dim=4, seed=0)
        >>> x = model.sample(3, generator=torch.Generator().manual_seed(0)).x
        >>> guide = model.top_down_guide()
        >>> log_w = model.log_joint(x, u := guide(x).sample()) - guide(x).log_prob(u)
        >>> bool(torch.allclose(log_w, model.log_evidence(x)))
        True
    """

    def __init__(self, sizes: Sequence[int], dim: int, seed: int, scale: float = 0.7) -> None:
        with torch.random.fork_rng(devices=()):  # keep the global generator: the initial weights are not used
            ladder = VectorLadder(sizes, (1, dim), hidden=(), between=())
        super().__init__(StandardNormal(sum(sizes)), Gaussian(ladder, (dim,), scale=scale))
        self.double()
        self.ladder, self.noise_scale = ladder, scale
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in ladder.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
            for conditional, size in zip(ladder.conditionals, sizes[1:], strict=True):
                assert isinstance(conditional, MLP)  # the ladder's are
                log_scale = 0.6 + 0.8 * torch.rand(size, generator=generator, dtype=torch.float64)
                conditional.output.weight[size:] = 0.0
                conditional.output.bias[size:] = log_scale.log()

    def multiplied_out(self) -> LinearGaussian:
        """The same model with the maps of the ladder multiplied out: x as an affine function of all residuals."""
        weight, bias = _affine(self.ladder(_probes(sum(self.ladder.sizes)))[:, 0])
        return LinearGaussian(weight, bias, self.noise_scale)

    def log_evidence(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p(x), exactly, nats, shape (batch,); arguments as for a
        :class:`~elbowroom.model.oracles.LinearGaussian`.
        """
        return self.multiplied_out().log_evidence(x, mask)

    def posterior(self, x: Tensor, mask: Tensor | None = None) -> MultivariateNormal:
        """p(u | x), exactly; batch shape (batch,), event shape (latent,)."""
        return self.multiplied_out().posterior(x, mask)

    def top_down_guide(self) -> TopDownGuide:
        """The exact posterior from the top down, where every group has one latent; else the nearest of its form."""
        joint, sizes = self._joint(), self.ladder.sizes
        dim = joint.x.stop - joint.x.start
        features = MLP((dim,), (dim,), hidden=()).double()
        recognition = VectorRecognition(dim, sizes, hidden=()).double()
        _set(features, torch.eye(dim, dtype=torch.float64), torch.zeros(dim, dtype=torch.float64))
        for group, head in enumerate(recognition.heads):
            above = [] if group == 0 else [joint.values[group - 1]]
            _set_normal(head, joint.given(joint.residuals[group], [*above, joint.x]))
        return TopDownGuide(features, recognition, self.ladder)

    def bottom_up_guide(self) -> BottomUpGuide:
        """The exact posterior from the bottom up, where every group has one latent; else the nearest of its form."""
        joint, sizes = self._joint(), self.ladder.sizes
        network = MLP((joint.x.stop - joint.x.start,), (2, sizes[-1]), hidden=()).double()
        guide = BottomUpGuide(network, self.ladder, hidden=()).double()
        _set_normal(network, joint.given(joint.values[-1], [joint.x]))
        for below, conditional in zip(reversed(range(1, len(sizes))), guide.conditionals, strict=True):
            _set_normal(conditional, joint.given(joint.values[below - 1], [joint.values[below]]))
        return guide

    @torch.no_grad()
    def _joint(self) -> _Joint:
        """Residuals, values and x, all affine in the residuals and the noise of x."""
        sizes = self.ladder.sizes
        latent = sum(sizes)
        u = _probes(latent)
        everything = torch.cat([u, *self.ladder.values(u, None), self.ladder(u)[:, 0]], 1)
        weight, mean = _affine(everything)
        covariance = weight @ weight.T
        x = slice(2 * latent, len(mean))
        covariance[x, x] += self.noise_scale**2 * torch.eye(len(mean) - 2 * latent, dtype=torch.float64)
        return _Joint(mean, covariance, _slices(sizes, 0), _slices(sizes, latent), x)


class _Joint(NamedTuple):
    """A normal distribution of several vectors in a row."""

    mean: Tensor
    covariance: Tensor
    residuals: list[slice]
    values: list[slice]
    x: slice

    def given(self, wanted: slice, known: Sequence[slice]) -> tuple[Tensor, Tensor, Tensor]:
        """Slope, offset and deviations of a part given others; the deviations of the precision's diagonal."""
        places = torch.arange(len(self.mean))
        b = torch.cat([places[part] for part in known])
        a = places[wanted]
        slope = torch.linalg.solve(self.covariance[b][:, b], self.covariance[b][:, a]).T
        left = self.covariance[a][:, a] - slope @ self.covariance[b][:, a]
        return slope, self.mean[a] - slope @ self.mean[b], torch.linalg.inv(left).diagonal().rsqrt()


def _probes(latent: int) -> Tensor:
    """Zero and the unit vectors, at which an affine map shows its offset and its columns."""
    return torch.cat([torch.zeros(1, latent), torch.eye(latent)]).double()


def _affine(at_probes: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and offset of an affine map."""
    return (at_probes[1:] - at_probes[0]).T, at_probes[0]


def _slices(sizes: Sequence[int], start: int) -> list[slice]:
    ends = [*accumulate(sizes, initial=start)]
    return [slice(first, end) for first, end in pairwise(ends)]


@torch.no_grad()
def _set(network: MLP, slope: Tensor, offset: Tensor) -> None:
    network.output.weight.copy_(slope)
    network.output.bias.copy_(offset)


def _set_normal(network: object, conditional: tuple[Tensor, Tensor, Tensor]) -> None:
    """Makes a network return μ and log σ of a normal conditional."""
    assert isinstance(network, MLP)
    slope, offset, deviation = conditional
    _set(network, torch.cat([slope, torch.zeros_like(slope)]), torch.cat([offset, deviation.log()]))
