r"""Guides q(z | x), also called encoders or approximate posteriors: a network turns x into a normal distribution over
z.

A guide reads the data through an :class:`InputTransform`, because networks train badly on raw bytes, counts or category
numbers. The transform does not change the model: only q depends on it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import (
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
)

from elbowroom.data.batch import Batch
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.model.conditional import Conditional
from elbowroom.model.priors import MixtureOfGaussians, StandardNormal
from elbowroom.numerics import bounded

__all__ = [
    "GUIDES",
    "LARGEST_LOG_VARIANCE",
    "DiagonalNormal",
    "FullNormal",
    "Guide",
    "InputTransform",
    "NormalGuide",
    "PriorGuide",
    "bounded_log_variance",
    "check_guide",
    "guide_distribution",
]


class InputTransform(nn.Module):
    """The transform of x before the encoder.

    Binary and unit-interval data are unchanged, bytes divided by 255, counts as log(1 + x), categories one-hot, real
    numbers standardised by ``shift`` and ``scale``.

    Args:
        support: of the data.
        event_shape: shape of one example.
        num_categories: C, for categories.
        shift: subtracted from real data, shape (\\*event) or a scalar; 0 unless given.
        scale: divides real data after the shift, shape (\\*event) or a scalar; 1 unless given.
    Attributes:
        out_shape: shape of one transformed example: (C, \\*event) for categories, otherwise (\\*event).
    Raises:
        ElbowroomError: categories without their number; a scale that is not positive.
    Example:
        >>> InputTransform(Support.BYTES, (2,))(torch.tensor([[0, 255]]))
        tensor([[0., 1.]])
    """

    reads_missing: bool = False  #: whether it reads which elements are missing, which are NaN
    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        support: Support,
        event_shape: Sequence[int],
        *,
        num_categories: int | None = None,
        shift: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.support = support
        self.num_categories = num_categories
        self.out_shape = tuple(event_shape)
        if support == Support.CATEGORIES:
            if num_categories is None:
                raise ElbowroomError("Categories were declared without their number.", "Give num_categories.")
            self.out_shape = (num_categories, *self.out_shape)
        # buffers exist for every support: they also say which dtype the network expects
        self.register_buffer("shift", torch.zeros(()) if shift is None else shift.detach().clone())
        self.register_buffer("scale", torch.ones(()) if scale is None else scale.detach().clone())
        if not bool((self.scale > 0).all()):
            raise ElbowroomError(
                "The encoder's input scale is not positive everywhere, but it is a standard deviation.",
                "Use 1 for elements that are constant in the data.",
            )

    def forward(self, x: Tensor) -> Tensor:
        """x of shape (\\*, \\*event) as (\\*, \\*out_shape), in the guide's floating-point type."""
        if self.support == Support.CATEGORIES:
            assert self.num_categories is not None
            hot = F.one_hot(x.long(), self.num_categories).to(self.shift.dtype)
            return hot.movedim(-1, -len(self.out_shape))
        x = x.to(self.shift.dtype)
        match self.support:
            case Support.COUNTS:
                return torch.log1p(x)
            case Support.BYTES:
                return x / 255
            case Support.REALS:
                return (x - self.shift) / self.scale
            case _:
                return x


class Guide(Conditional):
    """q(z | x, c): a transform of x, a network, and a distribution over z whose parameters the network returns.

    Args:
        network: transformed x -> parameters of shape ``out_shape``.
        latent_dim: D, dimensions of z.
        transform: of x; None leaves x as it is.
        out_shape: what the network has to return for one x.
    Raises:
        ElbowroomError: the network returns another shape.
    """

    def __init__(
        self, network: nn.Module, latent_dim: int, transform: InputTransform | None, out_shape: Sequence[int]
    ) -> None:
        super().__init__()
        self.network = network
        self.latent_dim = latent_dim
        self.transform = transform
        given, wanted = getattr(network, "out_shape", out_shape), tuple(out_shape)
        if tuple(given) != wanted:
            raise ElbowroomError(
                f"The network of a {type(self).__name__} guide returns shape {tuple(given)}, but should return "
                f"{wanted} for {latent_dim} latent dimensions.",
                f"Build it with out_shape={wanted}.",
            )

    def _output(self, given: Tensor | None, context: Tensor | None) -> Tensor:
        if given is None:
            raise ElbowroomError("A guide was called without x, but it is q(z | x).", "Pass x.")
        seen = given if self.transform is None else self.transform(given)
        out: Tensor = self.network(seen, context)
        return out.to(seen.dtype)


class NormalGuide(Guide):
    """A guide whose q(z | x) is a normal distribution.

    Args:
        network: transformed x -> parameters of shape ``parameter_shape(latent_dim)``.
        latent_dim: D, dimensions of z.
        transform: of x; None leaves x as it is.
    Raises:
        ElbowroomError: the network returns another shape.
    """

    def __init__(self, network: nn.Module, latent_dim: int, transform: InputTransform | None = None) -> None:
        super().__init__(network, latent_dim, transform, self.parameter_shape(latent_dim))

    @classmethod
    @abstractmethod
    def parameter_shape(cls, latent_dim: int) -> tuple[int, ...]:
        """What the network returns for one x."""


LARGEST_LOG_VARIANCE = (
    80.0  #: of a guide, in absolute value: in float32 σ² and squares of draws neither vanish nor overflow, by far
)


def bounded_log_variance(log_variance: Tensor) -> Tensor:
    """log σ² within ±80, with the gradient as if it were not bounded.

    For an input far from the training data, a network's log σ² leaves what a floating-point number can hold: σ would
    be 0 or infinite, and log q(z | x) not a number.

    Args:
        log_variance: log σ², any shape.
    Example:
        >>> bounded_log_variance(torch.tensor([-1000.0, 0.5]))
        tensor([-80.0000,   0.5000])
    """
    return bounded(log_variance, -LARGEST_LOG_VARIANCE, LARGEST_LOG_VARIANCE)


class DiagonalNormal(NormalGuide):
    r"""Normal with a diagonal covariance.

    .. math:: q(z | x) = \prod_j N(z_j \,|\, \mu_j(x), \sigma_j^2(x)), \qquad
        (\mu, \log \sigma^2) = \mathrm{network}(x)

    The log-variance is kept within ±80, far beyond any posterior's.

    Args:
        network: transformed x -> (2, D): mean and log-variance.
        latent_dim: D.
        transform: of x.
    Example:
        >>> from elbowroom.model.networks import MLP
        >>> guide = DiagonalNormal(MLP((784,), DiagonalNormal.parameter_shape(20)), 20)
        >>> guide(torch.zeros(5, 784))
        Independent(Normal(loc: torch.Size([5, 20]), scale: torch.Size([5, 20])), 1)
    """

    @classmethod
    def parameter_shape(cls, latent_dim: int) -> tuple[int, ...]:
        """(2, D): mean and log-variance."""
        return (2, latent_dim)

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        mean, log_variance = self._output(given, context).unbind(-2)
        scale = torch.exp(0.5 * bounded_log_variance(log_variance))  # σ = exp(½ log σ²)
        return Independent(Normal(mean, scale, validate_args=False), 1, validate_args=False)


class FullNormal(NormalGuide):
    r"""Normal with a full covariance, by its Cholesky factor.

    .. math:: q(z | x) = N(z \,|\, \mu(x), L(x) L(x)^\top), \qquad L_{jj} = \exp(\tfrac12 v_j)

    The log-variances v are kept within ±80, far beyond any posterior's.

    Args:
        network: transformed x -> (D + D (D + 1) / 2,): mean, then the lower triangle row by row, the diagonal as
            a log-variance v.
        latent_dim: D.
        transform: of x.
    Example:
        >>> from elbowroom.model.networks import MLP
        >>> guide = FullNormal(MLP((784,), FullNormal.parameter_shape(3)), 3)
        >>> guide(torch.zeros(5, 784)).covariance_matrix.shape
        torch.Size([5, 3, 3])
    """

    @classmethod
    def parameter_shape(cls, latent_dim: int) -> tuple[int, ...]:
        """(D + D (D + 1) / 2,): mean and lower triangle."""
        return (latent_dim + latent_dim * (latent_dim + 1) // 2,)

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        mean, triangle = self._output(given, context).tensor_split([self.latent_dim], -1)
        rows, columns = torch.tril_indices(self.latent_dim, self.latent_dim, device=mean.device)
        entries = torch.where(rows == columns, torch.exp(0.5 * bounded_log_variance(triangle)), triangle)
        scale_tril = mean.new_zeros(*mean.shape, self.latent_dim)
        scale_tril[..., rows, columns] = entries
        return MultivariateNormal(mean, scale_tril=scale_tril, validate_args=False)


class PriorGuide(Conditional):
    """The prior in the place of a guide: q(z | x) = p(z), which does not depend on x and has no weights of its own.

    It is used where a model is trained without a guide, so that every function that takes a guide works. Bounds from it
    are valid, but loose.

    Args:
        prior: p(z | c), shared with the model.
    """

    def __init__(self, prior: Conditional) -> None:
        super().__init__()
        self.prior = prior
        self.latent_support = prior.latent_support

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        prior: Distribution = self.prior(None, context)
        return prior if given is None or prior.batch_shape else prior.expand((len(given),))


#: name -> class, of the guides over real vectors that have weights; those over codes are in `model.codes`
GUIDES: dict[str, type[NormalGuide]] = {"diagonal": DiagonalNormal, "full": FullNormal}

#: Their scale is one or an exponential. A subclass may change that, so only these exact classes are listed.
_POSITIVE_BY_CONSTRUCTION = (DiagonalNormal, FullNormal, StandardNormal, MixtureOfGaussians)


def guide_distribution(guide: Conditional, batch: Batch) -> Distribution:
    """q(z | x) of a batch, checked by :func:`check_guide`."""
    q: Distribution = guide(batch.x if batch.seen is None else batch.seen, batch.context)
    check_guide(q, guide)
    return q


def check_guide(q: Distribution, guide: Conditional) -> None:
    r"""Refuse a q(z | x) whose scale is not positive everywhere.

    .. math:: \sigma > 0; \qquad \text{for a full covariance, } L_{jj} > 0 \text{ on the Cholesky factor's diagonal}

    A network's output is any real number; a standard deviation is positive. Where the output is passed for the
    deviation, as in z = μ + s ε with s = log σ² in place of σ, there may be no error: draws and gradients stay finite,
    since ∂ log |s| / ∂s = 1 / s for either sign. Only the density, log q(z) with a term −log s, is NaN or, where s
    happens to be positive everywhere, finite and wrong. A run with argument checks switched off goes on to the end.

    The guides of this module, and priors in a guide's place, are positive by construction and cost
    nothing here; any other costs a comparison. A distribution that has no scale passes, and so does one whose scale is
    NaN: that is another mistake, which the check of the objective names.

    Args:
        q: what the guide returned, q(z | x).
        guide: the guide, for the message.
    Raises:
        ElbowroomError: a scale below or at zero; says how many elements, and how a log-variance becomes a scale.
    Example:
        >>> from torch.distributions import Normal
        >>> class Mistaken(Conditional):
        ...     def forward(self, given, context=None):
        ...         return Independent(Normal(given, given.log(), validate_args=False), 1)
        >>> guide = Mistaken()
        >>> check_guide(guide(torch.tensor([[0.5, 2.0]])), guide)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        elbowroom.errors.ElbowroomError: The scale of the guide Mistaken is negative for 50% of its elements ...
    """
    asked = guide.prior if type(guide) is PriorGuide else guide
    if type(asked) in _POSITIVE_BY_CONSTRUCTION:
        return
    scale = _scale(q)
    if scale is None:
        return
    wrong = scale <= 0  # not `~(scale > 0)`, which would blame NaN on the sign
    if not bool(wrong.any()):
        return
    lowest = float(scale.nan_to_num(nan=torch.inf).min())
    share = _percent(float(wrong.double().mean()))
    name = type(guide).__name__
    if lowest < 0:
        raise ElbowroomError(
            f"The scale of the guide {name} is negative for {share} of its elements (down to {lowest:.3g}), but a "
            "standard deviation is positive.",
            "If the network returns a log-variance v, the scale is torch.exp(0.5 * v); if it returns any real number, "
            "torch.nn.functional.softplus makes it positive.",
        )
    raise ElbowroomError(
        f"The scale of the guide {name} is zero for {share} of its elements, so that q(z | x) has no density there.",
        "Keep it above zero: clamp the log-variance before the exponential, or lower the learning rate.",
    )


def _scale(q: Distribution) -> Tensor | None:
    """The scale of a distribution, such as its standard deviations; None where it has none."""
    match q:
        case Independent() | TransformedDistribution():
            return _scale(q.base_dist)
        case MixtureSameFamily():
            return _scale(q.component_distribution)
        case MultivariateNormal():
            return q.scale_tril.detach().diagonal(dim1=-2, dim2=-1)
        case _:
            scale = getattr(q, "scale", None)
            return scale.detach() if isinstance(scale, Tensor) else None


def _percent(share: float) -> str:
    """A share in percent, where a small share is not rounded to 0%."""
    return "less than 1%" if share < 0.01 else f"{share:.0%}"
