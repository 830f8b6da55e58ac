r"""Normalising flows as priors p(z | c) and guides q(z | x), with exact densities.

All of them are chains of T autoregressive transforms of the library zuko (the extra ``flows``),

.. math:: y_i = \tau\big(x_i; h_i(x_{<i}, c)\big), \qquad
    \log \Big| \det \frac{\partial y}{\partial x} \Big| = \sum_i \log \tau'\big(x_i; h_i(x_{<i}, c)\big)

with a masked network h for all i at once, the order of the dimensions reversed from each transform to the next. They
differ in the scalar function τ, in what a step depends on, and in the direction:

=========== ==================================== ============================ ======================================
name        τ                                    passes for the way back      one pass takes
=========== ==================================== ============================ ======================================
maf         affine                               D for each transform         z to noise: quick densities
nsf, prior  rational-quadratic spline            D for each transform         z to noise: quick densities
coupling    affine                               2: half after half           z to noise; the way back is quick, too
iaf         affine                               D for each transform         noise to z: quick draws
nsf, guide  rational-quadratic spline            2: half after half           noise to z; the way back is quick, too
=========== ==================================== ============================ ======================================

A prior is asked for densities in training, at the guide's draws; a guide is asked for draws, whose own densities it
knows. In front of all stands a learned scale and location, z = m + s ⊙ y: of the encoder, for a guide. The transforms
start near the identity, so that a prior starts near N(0, I), and a guide near the normal one with the same encoder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from elbowroom.errors import ElbowroomError
from elbowroom.model.conditional import Conditional
from elbowroom.model.flow_distributions import Bijection, FlowDistribution
from elbowroom.model.guides import Guide, InputTransform, bounded_log_variance
from elbowroom.model.priors import checked_context

if TYPE_CHECKING:
    from types import ModuleType

__all__ = [
    "FLOW_GUIDES",
    "FLOW_PRIORS",
    "AutoregressiveBijection",
    "CouplingPrior",
    "FlowGuide",
    "FlowPrior",
    "IafGuide",
    "MafPrior",
    "NsfGuide",
    "NsfPrior",
]

Scalar = Literal["affine", "spline"]
"""τ: affine in x, or a monotonic rational-quadratic spline on [−5, 5] and the identity outside."""

_BINS = 8  # of a spline, as in Durkan et al. (2019)
_START = 0.01  # factor of the initial weights of a transform's last layer: near the identity
_FEATURES = 64  # of an encoder, for the transforms of a guide


def _zuko() -> ModuleType:
    """The module ``zuko``, which is loaded where a flow is made: models without one do not need it.

    Raises:
        ElbowroomError: it is not installed.
    """
    try:
        import zuko
    except ModuleNotFoundError as error:
        raise ElbowroomError(
            f"A normalising flow was asked for, but the library zuko is not installed ({error}).",
            'Install it: pip install "elbowroom[flows]".',
        ) from error
    module: ModuleType = zuko
    return module


class AutoregressiveBijection(Bijection):
    r"""A chain of T masked autoregressive transforms.

    .. math:: x^{(0)} = x, \qquad x^{(t)}_i = \tau\big(x^{(t-1)}_i; h^{(t)}_i(x^{(t-1)}_{<i}, c)\big), \qquad
        y = x^{(T)}

    where "before i" is by the order of the dimensions for odd t, and by the reverse order for even t. With coupling,
    each half comes after the other in turn: h_i of the later half reads all of the earlier one, and nothing else.

    Args:
        dim: D.
        scalar: τ, "affine" or "spline".
        coupling: halves instead of single dimensions.
        transforms: T.
        width: of the hidden layers of h; D or more, so that every dimension can depend on all before it.
        layers: number of hidden layers of h, with SiLU, which is smooth: log-densities have two derivatives.
        context_dim: length of the context c; 0 for none.
    Raises:
        ElbowroomError: zuko is not installed; a number below 1; a width below D.
    Reference:
        Papamakarios, Pavlakou & Murray (2017), Masked Autoregressive Flow, arXiv:1705.07057. Durkan et al. (2019),
        Neural Spline Flows, arXiv:1906.04032.
    Example:
        >>> bijection = AutoregressiveBijection(3, "spline", width=16)
        >>> x = torch.randn(5, 3)
        >>> y, log_det = bijection(x)
        >>> bool(torch.allclose(bijection(y, inverse=True)[0], x, atol=1e-4)), log_det.shape
        (True, torch.Size([5]))
    """

    def __init__(
        self,
        dim: int,
        scalar: Scalar,
        *,
        coupling: bool = False,
        transforms: int = 3,
        width: int = 128,
        layers: int = 2,
        context_dim: int = 0,
    ) -> None:
        super().__init__()
        zuko = _zuko()
        for what, number in (("transforms", transforms), ("hidden layers", layers)):
            if number < 1:
                raise ElbowroomError(f"A flow of {number} {what} was asked for, but 1 is the least.", "Give 1 or more.")
        if width < dim:
            raise ElbowroomError(
                f"A flow over {dim} latents was given layers of width {width}, too few for each latent to depend on "
                "all before it.",
                f"Give a width of {dim} or more.",
            )
        shapes = {"affine": [(), ()], "spline": [(_BINS,), (_BINS,), (_BINS - 1,)]}
        univariate = {
            "affine": zuko.transforms.MonotonicAffineTransform,
            "spline": zuko.transforms.MonotonicRQSTransform,
        }
        order = torch.arange(dim)
        half = (dim + 1) // 2
        reverse = (order + half) % (2 * half) if coupling else order.flip(0)
        self.parts = nn.ModuleList(
            zuko.flows.MaskedAutoregressiveTransform(
                dim,
                context_dim,
                passes=2 if coupling else dim,
                order=order if t % 2 == 0 else reverse,
                univariate=univariate[scalar],
                shapes=shapes[scalar],
                hidden_features=[width] * layers,
                activation=nn.SiLU,
            )
            for t in range(transforms)
        )
        parameters = 2 if scalar == "affine" else 3 * (_BINS + 1)  # of a spline, with its bins' corners
        self.widest = max(width, dim + context_dim, dim * parameters)
        for part in self.parts:
            _start_near_identity(part)

    def forward(self, given: Tensor, context: Tensor | None = None, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
        if context is not None:
            lead = torch.broadcast_shapes(given.shape[:-1], context.shape[:-1])  # type: ignore[no-untyped-call]
            given = given.expand(*lead, given.shape[-1])
        out, total = given, torch.zeros_like(given[..., 0])
        for part in reversed(self.parts) if inverse else self.parts:
            transform = part(context)
            if inverse:
                out = transform.inv(out)
                total = total - transform.call_and_ladj(out)[1]
            else:
                out, log_det = transform.call_and_ladj(out)
                total = total + log_det
        return out, total


@torch.no_grad()
def _start_near_identity(part: nn.Module) -> None:
    network = getattr(part, "hyper", None)
    last = part if network is None else network[-1]  # of one latent without a context there is no network
    for parameter in last.parameters():
        parameter.mul_(_START)


class FlowPrior(Conditional):
    r"""A prior that is a flow in the normalizing direction: one pass for log p(z).

    .. math:: \log p(z | c) = \log N\big(f(y, c) \,|\, 0, I\big)
        + \log \Big| \det \frac{\partial f}{\partial y} \Big| - \sum_j \log s_j, \qquad y = (z - m) / s

    Args:
        latent_dim: D.
        transforms: T, of f.
        width: of the hidden layers of each transform.
        layers: number of these hidden layers.
        context_dim: length of the context c; 0 ignores any context.
    Raises:
        ElbowroomError: zuko is not installed; a number out of range; a context that is missing or of another length.
    """

    scalar: ClassVar[Scalar]
    coupling: ClassVar[bool] = False

    def __init__(
        self, latent_dim: int, *, transforms: int = 3, width: int = 128, layers: int = 2, context_dim: int = 0
    ) -> None:
        super().__init__()
        self.context_dim = context_dim
        self.bijection = AutoregressiveBijection(
            latent_dim,
            self.scalar,
            coupling=self.coupling,
            transforms=transforms,
            width=width,
            layers=layers,
            context_dim=context_dim,
        )
        self.loc = nn.Parameter(torch.zeros(latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(latent_dim))

    def forward(self, given: Tensor | None = None, context: Tensor | None = None) -> Distribution:
        context = checked_context(context, self.context_dim).to(self.loc.dtype) if self.context_dim else None
        return FlowDistribution(self.bijection, "normalizing", self.loc, self.log_scale, context)


class MafPrior(FlowPrior):
    r"""Masked autoregressive flow: each latent, given those before it, is affine in noise.

    .. math:: u_i = e^{a_i(y_{<i}, c)} \, y_i + b_i(y_{<i}, c)

    log p(z) takes one pass, a draw D passes for each transform. See :class:`FlowPrior` for the arguments.

    Reference:
        Papamakarios, Pavlakou & Murray (2017), Masked Autoregressive Flow for Density Estimation, arXiv:1705.07057.
    Example:
        >>> MafPrior(2, width=16)(None).log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    scalar = "affine"


class NsfPrior(FlowPrior):
    r"""Neural spline flow: as a masked autoregressive flow, but monotonic rational-quadratic splines for affine maps.

    .. math:: u_i = \mathrm{RQS}\big(y_i; h_i(y_{<i}, c)\big)

    A spline has 8 bins on [−5, 5] and is the identity outside. log p(z) is continuous; its gradient jumps where y_i
    passes from one bin to the next. log p(z) takes one pass, a draw D passes for each transform. See
    :class:`FlowPrior` for the arguments.

    Reference:
        Durkan et al. (2019), Neural Spline Flows, arXiv:1906.04032.
    Example:
        >>> NsfPrior(2, width=16)(None).log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    scalar = "spline"


class CouplingPrior(FlowPrior):
    r"""Coupling flow: half of the latents, given the other half, is affine in noise; then the halves change roles.

    .. math:: u_A = e^{a} \odot y_A + b, \qquad u_B = e^{a(y_A, c)} \odot y_B + b(y_A, c)

    log p(z) takes one pass, a draw two passes for each transform. See :class:`FlowPrior` for the arguments.

    Reference:
        Dinh, Sohl-Dickstein & Bengio (2017), Density estimation using Real NVP, eq. 7 and 8, arXiv:1605.08803.
    Example:
        >>> CouplingPrior(2, width=16)(None).log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    scalar = "affine"
    coupling = True


class FlowGuide(Guide):
    r"""A guide that is a flow in the generative direction: one pass for a draw and its density.

    .. math:: z = \mu(x) + \sigma(x) \odot g\big(\epsilon, h(x)\big), \quad \epsilon \sim N(0, I), \qquad
        \log q(z | x) = \log N(\epsilon \,|\, 0, I)
        - \log \Big| \det \frac{\partial g}{\partial \epsilon} \Big| - \sum_j \log \sigma_j(x)

    With g the identity it is the normal guide ``diagonal``. The estimators ``stl`` and ``dreg``, and whatever asks for
    log q of a z that is not a draw of this guide (wake-sleep, annealing from the guide), take the way back from z to ε.

    Args:
        network: transformed x -> (2 D + H,): mean μ, log-variance log σ², and features h for the transforms.
        latent_dim: D.
        transform: of x.
        transforms: T, of g.
        width: of the hidden layers of each transform.
        layers: number of these hidden layers.
    Raises:
        ElbowroomError: the network returns another shape; zuko is not installed; a number out of range.
    """

    scalar: ClassVar[Scalar]
    coupling: ClassVar[bool] = False

    def __init__(
        self,
        network: nn.Module,
        latent_dim: int,
        transform: InputTransform | None = None,
        *,
        transforms: int = 3,
        width: int = 128,
        layers: int = 2,
    ) -> None:
        super().__init__(network, latent_dim, transform, self.parameter_shape(latent_dim))
        self.bijection = AutoregressiveBijection(
            latent_dim,
            self.scalar,
            coupling=self.coupling,
            transforms=transforms,
            width=width,
            layers=layers,
            context_dim=_FEATURES,
        )

    @classmethod
    def parameter_shape(cls, latent_dim: int) -> tuple[int, ...]:
        """(2 D + H,): mean, log-variance and H = 64 features."""
        return (2 * latent_dim + _FEATURES,)

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        ends = [self.latent_dim, 2 * self.latent_dim]
        mean, log_variance, features = self._output(given, context).tensor_split(ends, -1)
        log_scale = 0.5 * bounded_log_variance(log_variance)
        return FlowDistribution(self.bijection, "generative", mean, log_scale, features)


class IafGuide(FlowGuide):
    r"""Inverse autoregressive flow: each latent is affine in its noise, given the noise of those before it.

    .. math:: y_i = e^{a_i(\epsilon_{<i}, h(x))} \, \epsilon_i + b_i(\epsilon_{<i}, h(x)), \qquad
        z = \mu(x) + \sigma(x) \odot y

    A draw and its density take one pass, log q of any other z takes D passes for each transform. See
    :class:`FlowGuide` for the arguments.

    Reference:
        Kingma et al. (2016), Improving Variational Inference with Inverse Autoregressive Flow, arXiv:1606.04934. There
        the normal distribution of the encoder comes first, and the transforms act on its draws; here it comes last, so
        that they act on numbers of size one.
    Example:
        >>> from elbowroom.model.networks import MLP
        >>> guide = IafGuide(MLP((8,), IafGuide.parameter_shape(2)), 2, width=16)
        >>> guide(torch.zeros(5, 8)).rsample((3,)).shape
        torch.Size([3, 5, 2])
    """

    scalar = "affine"


class NsfGuide(FlowGuide):
    r"""Neural spline flow with coupling: half of y, given the other half, by monotonic rational-quadratic splines.

    .. math:: y_A = \mathrm{RQS}\big(\epsilon_A; h(x)\big), \qquad
        y_B = \mathrm{RQS}\big(\epsilon_B; \epsilon_A, h(x)\big)

    A draw and its density take one pass, log q of any other z takes two passes for each transform. See
    :class:`FlowGuide` for the arguments.

    Reference:
        Durkan et al. (2019), Neural Spline Flows, section 3.2, arXiv:1906.04032.
    Example:
        >>> from elbowroom.model.networks import MLP
        >>> guide = NsfGuide(MLP((8,), NsfGuide.parameter_shape(2)), 2, width=16)
        >>> guide(torch.zeros(5, 8)).rsample((3,)).shape
        torch.Size([3, 5, 2])
    """

    scalar = "spline"
    coupling = True


#: name -> class
FLOW_PRIORS: dict[str, type[FlowPrior]] = {"maf": MafPrior, "nsf": NsfPrior, "coupling": CouplingPrior}

#: name -> class
FLOW_GUIDES: dict[str, type[FlowGuide]] = {"iaf": IafGuide, "nsf": NsfGuide}
