r"""Expectation maximisation (EM) of a mixture: each class of rows has a product of simple distributions.

The model is one with a single slot of K codes, the classes, and a linear decoder, which has a column of parameters
for each of them:

.. math:: p(x) = \sum_{k=1}^K \pi_k \prod_d p(x_d \,|\, \theta_{kd})

the latent class model of a table, and the mixture of Gaussians, of Bernoullis, … of other data. log p(x) is a sum over
K terms, so that nothing is left to a bound. With the responsibilities of the classes, from that sum,

.. math:: \text{E step:} \quad r_{ik} = p(k \,|\, x_i), \qquad
    \text{M step:} \quad \theta \leftarrow \arg\max_\theta \sum_{i, k} r_{ik} \log \pi_k p(x_i | \theta_k)
    + \log p(\theta)

a step never lowers :math:`\sum_i \log p(x_i) + \log p(\theta)`, with the prior of
:mod:`elbowroom.model.class_prior`, up to rounding. The M step has a closed form for levels, for numbers with and
without tails or cells, and for atoms. Elsewhere (counts, proportions, ordinal columns; all likelihoods but ``table``)
it takes some steps uphill instead, which is generalised EM: as safe, and slower.

The output bias of the decoder is the centre: the parameters of one class for all rows, which the prior draws the
classes to. EM leaves it as it is.

Reference:
    Dempster, Laird & Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm.
    Lazarsfeld & Henry (1968), Latent Structure Analysis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.enumeration import enumerated
from elbowroom.learners.learner import StepInfo, TrainingState, check_finite
from elbowroom.model.class_prior import ClassPrior, climb, pull
from elbowroom.model.codes import UnigramCodes
from elbowroom.model.latent import LatentModel, Pair
from elbowroom.model.networks import MLP
from elbowroom.model.table.likelihood import Table
from elbowroom.numerics import chunks

__all__ = [
    "Em",
    "Expectation",
    "centre",
    "check_mixture",
    "class_outputs",
    "e_step",
    "log_prior",
    "m_step",
    "maximised",
    "set_centre",
    "set_class_outputs",
]

_CHUNK_ELEMENTS = 2**22  # classes × rows × elements at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Em:
    """EM of a mixture, with all examples of the batch that it is given: a batch should be all training examples.

    Args:
        prior: what keeps classes from going their own way.
    """

    name: ClassVar[str] = "log p(x)"
    prior: ClassPrior

    def init(self, pair: Pair) -> TrainingState:
        """The state before the first step; the optimiser has nothing to do.

        Raises:
            ElbowroomError: the model is no mixture of products.
        """
        check_mixture(pair.model)
        return TrainingState(0, pair, torch.optim.SGD(pair.model.parameters(), lr=1.0))

    def step(self, state: TrainingState, batch: Batch, *, generator: torch.Generator) -> tuple[TrainingState, StepInfo]:
        """One E step and one M step. The reported values are those before it.

        Raises:
            ElbowroomError: log p(x) is not finite; the weights are left as they were.
        """
        model = state.pair.model
        found = e_step(model, batch, self.prior)
        terms = {self.name: found.log_evidence, "with_prior": found.objective}
        check_finite(state.step + 1, terms, 1.0, batch=batch)
        m_step(model, batch, found.weights, self.prior)
        state.step += 1
        return state, StepInfo(terms, lr=1.0, decoder_gradients=len(batch) * model.space.codes)

    def measure(self, pair: Pair, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """log p(x) of each example, exactly."""
        return {self.name: enumerated(pair.model, batch).log_evidence}


def check_mixture(model: LatentModel) -> None:
    """Refuses what EM has no M step for.

    Raises:
        ElbowroomError: other latents than one slot with learned shares, a decoder with hidden layers or a context, or
            elements that depend on each other.
    """
    prior, network = model.prior, _network(model)
    what = None
    if not isinstance(prior, UnigramCodes) or prior.space.slots != 1:
        what = "a single slot of codes with learned shares"
    elif network is None:
        what = "a decoder without hidden layers"
    elif network.context_dim or prior.context_dim:
        what = "no context"
    elif model.likelihood.sees_other_elements:
        what = "elements that are independent given the class"
    if what is not None:
        raise ElbowroomError(
            f"The learner em fits mixtures of products, which have {what}, and this model has not.",
            'Use the settings of a latent class model, --config latent-class, which are prior = "unigram", slots = 1 '
            "and a decoder with hidden = [].",
        )


def centre(model: LatentModel) -> Tensor:
    """The parameters that the prior draws the classes to, shape (P, \\*event)."""
    network = _network(model)
    assert network is not None  # see check_mixture
    return network.output.bias.detach().reshape(network.out_shape)


def set_centre(model: LatentModel, values: Tensor) -> None:
    """Sets the parameters that the prior draws the classes to, shape (P, \\*event)."""
    network = _network(model)
    assert network is not None
    network.set_output_bias(values)


def class_outputs(model: LatentModel) -> Tensor:
    """The decoder's output for each class, shape (K, P, \\*event)."""
    network = _network(model)
    assert network is not None
    return (network.output.bias + network.output.weight.T).detach().reshape(-1, *network.out_shape)


@torch.no_grad()
def set_class_outputs(model: LatentModel, output: Tensor) -> None:
    """Sets the decoder's output for each class, shape (K, P, \\*event), and leaves the centre."""
    network = _network(model)
    assert network is not None
    network.output.weight.copy_((output.flatten(1) - network.output.bias).T)


class Expectation(NamedTuple):
    """What an E step finds."""

    weights: Tensor  #: responsibilities of the classes, float64, shape (K, batch)
    log_evidence: float  #: mean of log p(x), nats
    objective: float  #: the same with its share of log p(θ), which EM never lowers


@torch.no_grad()
def e_step(model: LatentModel, batch: Batch, prior: ClassPrior) -> Expectation:
    """Responsibilities of the classes, and the objective."""
    found = enumerated(model, batch)
    log_evidence = float(found.log_evidence.mean())
    objective = log_evidence + float(log_prior(model, prior)) / len(batch)
    return Expectation(found.log_posterior.exp(), log_evidence, objective)


@torch.no_grad()
def m_step(model: LatentModel, batch: Batch, weights: Tensor, prior: ClassPrior) -> None:
    """Sets the model's parameters to more probable ones.

    Args:
        model: the mixture.
        batch: all examples.
        weights: responsibilities of the classes, shape (K, batch).
        prior: of the parameters.
    """
    output = class_outputs(model)
    weights = weights.to(output)
    set_class_outputs(model, maximised(model, output, batch, weights, prior, centre(model)))
    assert isinstance(model.prior, UnigramCodes)
    shares = weights.double().sum(1) + prior.of_shares
    model.prior.logits.copy_((shares / shares.sum()).log())


def maximised(
    model: LatentModel, output: Tensor, batch: Batch, weights: Tensor, prior: ClassPrior, middle: Tensor | None
) -> Tensor:
    """The M step of the likelihood: better parameters of each class; what is learned beside them is set in place.

    Args:
        model: the mixture.
        output: of each class, shape (K, P, \\*event).
        batch: all examples.
        weights: responsibilities, shape (K, batch).
        prior: of the parameters.
        middle: the centre, shape (P, \\*event); None for no prior.
    """
    likelihood = model.likelihood
    if isinstance(likelihood, Table):
        x = batch.x if batch.mask is None else torch.where(batch.mask, batch.x, torch.nan)
        return likelihood.maximise(output, x, weights, prior, middle)
    leaf = output.detach().clone(memory_format=torch.contiguous_format)

    def objective() -> Tensor:
        total = pull([leaf], prior, None if middle is None else [middle])
        for part in chunks(len(batch), max(1, _CHUNK_ELEMENTS // leaf.numel())):
            some = batch.rows(part)
            log_p = likelihood.distribution(*likelihood.split(leaf.unsqueeze(1))).log_prob(some.x)
            if some.mask is not None:
                log_p = torch.where(some.mask, log_p, 0.0)
            total = total + (weights[:, part] * log_p.flatten(2).sum(-1)).sum()
        return total

    climb(objective, [leaf, *_beside_network(likelihood)], unit=float(len(batch)))
    return leaf


@torch.no_grad()
def log_prior(model: LatentModel, prior: ClassPrior) -> Tensor:
    """log p(θ) of the mixture's parameters up to a constant, nats, a scalar."""
    assert isinstance(model.prior, UnigramCodes)
    of_shares = prior.of_shares * model.prior.logits.log_softmax(-1).sum()
    output, middle = class_outputs(model), centre(model)
    if isinstance(model.likelihood, Table):
        return of_shares + model.likelihood.log_class_prior(output, prior, middle)
    return of_shares + pull([output], prior, [middle])


def _network(model: LatentModel) -> MLP | None:
    network = model.likelihood.network
    return network if isinstance(network, MLP) and len(network.layers) == 1 else None


def _beside_network(likelihood: nn.Module) -> Sequence[Tensor]:
    return [weight for name, weight in likelihood.named_parameters() if not name.startswith("network.")]
