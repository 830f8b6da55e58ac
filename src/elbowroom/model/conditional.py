r"""`Conditional`, a conditional distribution: the common base of prior, likelihood and guide.

    prior        p(z | c)       given = None
    likelihood   p(x | z, c)    given = z,  shape (*, latent)
    guide        q(z | x, c)    given = x,  shape (*, *event)

where c is the optional context (covariates, labels) of each example. A guide is an encoder, the approximate posterior.

`Likelihood` is the base of all likelihoods. A network turns z into the parameters of a distribution of
every element of x; given z the elements are independent (all but those of
:mod:`elbowroom.model.pixels.autoregressive`),

.. math:: p(x | z) = \prod_d p(x_d \,|\, \theta_d), \qquad \theta = \mathrm{network}(z),

and a likelihood returns the factors; their product is taken in ``LatentModel.log_likelihood``, where unobserved
elements are left out. The network's output has shape (P, \*event), one slice for each of the P parameters of an
element. It is cast to z's type before it becomes a parameter, so that a lower precision inside the network stays
inside the network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn
from torch.distributions import Distribution

from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.phrasing import with_article

__all__ = ["Conditional", "LatentSupport", "Likelihood"]

LatentSupport = Literal["real", "codes"]
"""Values of z: real vectors, or codes, slots with one of K codes each (:mod:`elbowroom.model.code_distributions`)."""


class Conditional(nn.Module, ABC):
    """An ``nn.Module`` whose ``forward`` returns a distribution.

    A prior or a guide returns one over the latent vector: ``event_shape`` is (latent,), ``batch_shape`` is (batch,),
    or () for a prior that is the same for every example. A likelihood returns *elementwise* densities:
    ``event_shape`` is (), ``batch_shape`` is (\\*, \\*event); the sum over the event, masked or not, is taken in
    :meth:`elbowroom.model.latent.LatentModel.log_likelihood` and nowhere else.

    Attributes:
        latent_support: of a prior or a guide, the values that z can take.
    """

    latent_support: LatentSupport = "real"

    @abstractmethod
    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        """The distribution, given what it depends on and the optional context of shape (batch, context_dim)."""


class Likelihood(Conditional):
    """Likelihood p(x | z): the distribution of every element of x.

    Args:
        network: z -> parameters of shape :meth:`parameter_shape`; called as ``network(z, context)``.
        event_shape: shape of one example.
        num_parameters: P, for each element.
    Attributes:
        name: as in configurations and messages.
        support: the values that an element can take.
        normalized: whether the density sums or integrates to one over the support.
        highest: the largest value of an element, where the likelihood has one of its own; a larger one is impossible.
    Raises:
        ElbowroomError: the network returns another shape.
    """

    name: str
    support: Support
    normalized: bool = True
    highest: int | None = None

    def __init__(self, network: nn.Module, event_shape: Sequence[int], *, num_parameters: int = 1) -> None:
        super().__init__()
        self.network = network
        self.event_shape = tuple(event_shape)
        self._parameter_shape = (num_parameters, *self.event_shape)
        self._check(getattr(network, "out_shape", self._parameter_shape))

    @classmethod
    def parameter_shape(cls, event_shape: Sequence[int]) -> tuple[int, ...]:
        """What the network must return for one z: (P, \\*event), here with one parameter for each element."""
        return (1, *event_shape)

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        """The distribution of every element of x, given z.

        Args:
            given: z, shape (\\*, latent).
            context: covariates, shape (batch, context_dim).
        Returns:
            Batch shape (\\*, \\*event), event shape ().
        """
        return self.distribution(*self._slices(given, context))

    def split(self, output: Tensor) -> tuple[Tensor, ...]:
        """What the network returned, shape (\\*, P, \\*event), as P tensors of shape (\\*, \\*event)."""
        axis = -1 - len(self.event_shape)
        # the gradient of a squeeze is a view, that of an unbind a copy of everything
        return (output.squeeze(axis),) if output.shape[axis] == 1 else output.unbind(axis)

    def distribution(self, *parameters: Tensor) -> Distribution:
        """The distribution of every element of x, given its parameters.

        Args:
            parameters: P slices of the network's output, each of shape (\\*, \\*event).
        Returns:
            Batch shape (\\*, \\*event), event shape ().
        Raises:
            ElbowroomError: the likelihood does not define it.
        """
        raise ElbowroomError(
            f"The distribution of {with_article(self.name)} likelihood was asked for, but {type(self).__name__} does "
            "not define it.",
            f"Implement {type(self).__name__}.distribution: {self.num_parameters} parameters of shape (*, *event) to "
            "the distribution of every element.",
        )

    @property
    def elementwise(self) -> Likelihood:
        """The likelihood that says what the parameters of an element mean: itself, unless it is made of another."""
        return self

    @property
    def sees_other_elements(self) -> bool:
        """Whether the parameters of an element depend on other elements of x, by a network of their own."""
        return self.elementwise is not self

    @property
    def num_parameters(self) -> int:
        """P, for each element."""
        return self._parameter_shape[0]

    def network_given(self, x: Tensor) -> Callable[[Tensor, Tensor | None], Tensor]:
        """z, context -> θ at this x: the network, unless the parameters of an element depend on others of x.

        Args:
            x: data, shape (batch, \\*event).
        """
        network: nn.Module = self.network
        return network

    def fisher_information(self, output: Tensor) -> Tensor:
        r"""Fisher information of an element of x about the network's output.

        .. math:: F(\theta) = \mathbb{E}_{x \sim p(x | \theta)} [s s^\top],
            \qquad s = \nabla_\theta \log p(x | \theta)

        It is minus the expected Hessian of log p(x | θ), and never indefinite, so that it can serve a metric or a
        Newton step.

        Args:
            output: θ, what the network returned, shape (\*, P, \*event).
        Returns:
            One P × P matrix for each element, positive semidefinite, shape (\*, P, P, \*event).
        Raises:
            ElbowroomError: the likelihood does not define it.
        Reference:
            Amari (1998), Natural gradient works efficiently in learning.
        """
        raise ElbowroomError(
            f"The Fisher information of {with_article(self.name)} likelihood was asked for, but {type(self).__name__} "
            "does not define it.",
            "Use what needs none (--methods elbo,iwae,ais, the metric dense, a start from the guide), or implement "
            f"{type(self).__name__}.fisher_information: the network's output of shape (*, P, *event) to matrices of "
            "shape (*, P, P, *event).",
        )

    def information_at(self, output: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """What serves as minus the Hessian of log p(x | θ) at this x: the Fisher information, as a rule.

        Args:
            output: θ, what the network returned, shape (\\*, P, \\*event).
            x: data, shape (\\*, \\*event).
            mask: True where x was observed, shape (\\*, \\*event); None where all were.
        Returns:
            One P × P matrix for each element, positive semidefinite, shape (\\*, P, P, \\*event).
        Raises:
            ElbowroomError: the likelihood has no Fisher information.
        """
        return self.fisher_information(output)

    def check_mask(self, mask: Tensor) -> None:
        """Refuse a mask whose holes cannot be summed out; where elements are independent given z, all can.

        Args:
            mask: True where x was observed, shape (\\*, \\*event).
        Raises:
            ElbowroomError: an element depends on one that is missing.
        """

    def init_output_bias(self, mean: Tensor) -> None:
        """Initialise the network's output bias such that x has about this mean at z = 0.

        Args:
            mean: of the training data, shape (\\*event), in the data's units.
        """
        start = self._initial_output(mean)
        if start is not None and callable(setter := getattr(self.network, "set_output_bias", None)):
            setter(start.expand(self._parameter_shape))

    def _initial_output(self, mean: Tensor) -> Tensor | None:
        """The parameters for data of this mean, of a shape that expands to (P, \\*event); None to keep the bias."""
        return None

    def _output(self, given: Tensor | None, context: Tensor | None) -> Tensor:
        """The network's output, shape (\\*, P, \\*event)."""
        if given is None:
            raise ElbowroomError("A likelihood was called without z, but it is p(x | z).", "Pass z.")
        out: Tensor = self.network(given, context)
        self._check(out.shape[given.dim() - 1 :])
        return out.to(given.dtype)

    def _slices(self, given: Tensor | None, context: Tensor | None) -> tuple[Tensor, ...]:
        """P tensors of shape (\\*, \\*event)."""
        return self.split(self._output(given, context))

    def _as_matrices(self, information: Tensor) -> Tensor:
        """(\\*, 1, \\*event) as (\\*, 1, 1, \\*event), for the elements of one parameter."""
        return information.unsqueeze(-1 - len(self._parameter_shape))

    def _check(self, shape: Sequence[int]) -> None:
        if tuple(shape) != self._parameter_shape:
            raise ElbowroomError(
                f"The network of {with_article(self.name)} likelihood returns shape {tuple(shape)}, but should return "
                f"{self._parameter_shape}: {self._parameter_shape[0]} parameters for each element of "
                f"{self.event_shape}.",
                f"Build it with out_shape={type(self).__name__}.parameter_shape(…).",
            )
