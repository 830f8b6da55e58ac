r"""The ELBO of a perceptron pair with its gradient written out: little more than its matrix products.

For perceptrons on both sides, :math:`(\mu, \log \sigma^2) = \mathrm{encoder}(x)`, logits
:math:`\ell = \mathrm{decoder}(z)`, :math:`z = \mu + \sigma \epsilon`, Bernoulli elements and the prior N(0, I),

.. math:: \mathcal{L} = \sum_j x_j \ell_j - \log(1 + e^{\ell_j})
    - \frac{\beta}{2} \sum_d (\mu_d^2 + \sigma_d^2 - 1 - \log \sigma_d^2)

and with :math:`\nabla_z`, the backward pass of :math:`x - \sigma(\ell)` through the decoder,

.. math:: \nabla_\mu \mathcal{L} = \nabla_z - \beta \mu, \qquad
    \nabla_{\log \sigma^2} \mathcal{L} = \tfrac12 \sigma \epsilon \nabla_z - \tfrac{\beta}{2} (\sigma^2 - 1).

It is the function of :func:`elbowroom.inference.objectives.elbo_terms` and its gradient, which tests hold it to, with
the same draws of z from the same generator. There is no graph, and the products ask for no memory after the first step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from elbowroom.data.batch import Batch
from elbowroom.data.support import Support
from elbowroom.inference.objectives import Terms
from elbowroom.model import noise
from elbowroom.model.conditional import Conditional
from elbowroom.model.fused import BACKWARD, Workspace, activate, bernoulli_total
from elbowroom.model.guides import DiagonalNormal
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli, CrossEntropy
from elbowroom.model.networks import MLP, has_hooks
from elbowroom.model.priors import StandardNormal

__all__ = ["PerceptronElbo"]

_SEEN_AS_THEY_ARE = (Support.BINARY, Support.UNIT_INTERVAL)  # by the encoder


class PerceptronElbo:
    """The ELBO of a batch, and the gradient of its mean in the weights of model and guide.

    Args:
        model: p(x, z), one of a pair that :meth:`fits`.
        guide: q(z | x).
    """

    def __init__(self, model: LatentModel, guide: Conditional) -> None:
        encoder, decoder = guide.network, model.likelihood.network
        assert isinstance(encoder, MLP)
        assert isinstance(decoder, MLP)  # see fits()
        self._workspace = Workspace()
        self._encoder = _Perceptron("encoder", encoder, self._workspace)
        self._decoder = _Perceptron("decoder", decoder, self._workspace)

    @staticmethod
    def fits(model: LatentModel, guide: Conditional) -> bool:
        """Whether the pair is of this file's kind, on the CPU, its weights all to be learned and in one place each.

        Hooks, on modules or weights, want to see what passes through a graph, and there is none here.
        """
        likelihood = model.likelihood
        if type(guide) is not DiagonalNormal or type(likelihood) not in (Bernoulli, CrossEntropy):
            return False
        networks = (guide.network, likelihood.network)
        modules = [*model.modules(), *guide.modules()]
        perceptrons = [network for network in networks if isinstance(network, MLP)]
        weights = [w for n in perceptrons for layer in n.layers for w in (layer.weight, layer.bias)]
        return (
            type(model) is LatentModel
            and type(model.prior) is StandardNormal
            and (guide.transform is None or guide.transform.support in _SEEN_AS_THEY_ARE)
            and [type(network) for network in networks] == [MLP, MLP]
            and all(n.fuse and n.fusible and not n.context_dim for n in perceptrons)
            and not any(has_hooks(module) for module in modules)
            and all(w.requires_grad and w.device.type == "cpu" and not _is_watched(w) for w in weights)
            and len({id(weight) for weight in weights}) == len(weights)
            and len({weight.dtype for weight in weights}) == 1
        )

    @torch.no_grad()
    def ascend(self, batch: Batch, *, num_samples: int, generator: torch.Generator, beta: float = 1.0) -> Terms:
        r"""The bound; the gradient of minus its mean over the batch is left in the weights' ``.grad``.

        Args:
            batch: data, x of shape (batch, \*event), without mask and context.
            num_samples: draws of z per datum.
            generator: the source of randomness.
            beta: weight of the KL.
        Returns:
            The value, with β, and its parts, without; each of shape (batch,).
        """
        x = batch.x.flatten(1).to(self._encoder.dtype)
        mean, log_variance = self._encoder.forward(x).tensor_split(2, -1)
        scale = torch.exp(0.5 * log_variance)
        epsilon = noise.normal((num_samples, *mean.shape), mean, generator)
        z = torch.addcmul(mean, scale, epsilon).flatten(0, 1)  # (samples · batch, latent)
        variance = scale.square()
        divergence = 0.5 * (mean.square() + variance - 1 - log_variance).sum(-1)

        logits = self._decoder.forward(z).view(num_samples, len(x), -1)
        place = self._workspace.take("log p", len(z), x.shape[1], logits).view_as(logits)
        reconstruction = bernoulli_total(logits, x, place).mean(0)
        # from here on gradients of minus the mean
        share = 1 / len(x)
        torch.sub(logits.sigmoid_(), x, out=logits).mul_(share / num_samples)
        to_z = self._decoder.backward(logits.flatten(0, 1), into_input=True).view_as(epsilon)
        to_mean = torch.add(to_z.sum(0), mean, alpha=beta * share)
        to_log_variance = 0.5 * ((to_z * epsilon).sum(0) * scale + (beta * share) * (variance - 1))
        self._encoder.backward(torch.cat([to_mean, to_log_variance], -1))
        return Terms(reconstruction - beta * divergence, {"reconstruction": reconstruction, "kl": divergence})


def _is_watched(weight: Tensor) -> bool:
    """Whether a hook waits for the weight's gradient."""
    return bool(weight._backward_hooks or getattr(weight, "_post_accumulate_grad_hooks", None))


class _Perceptron:
    """One network: forward, then backward, which fills the weights' gradients; all in memory of its own."""

    def __init__(self, name: str, network: MLP, workspace: Workspace) -> None:
        self._network, self._name, self._workspace = network, name, workspace
        self._layers: Sequence[nn.Linear] = network.layers
        self._activations: Sequence[nn.Module] = network.activations
        self._gradients = [[torch.empty_like(p) for p in (layer.weight, layer.bias)] for layer in self._layers]
        self._steps: list[tuple[Tensor, Tensor]] = []  # pre-activation and activation of each layer; first the input
        self._weights: list[Tensor] = []
        self.dtype = network.output.weight.dtype

    def forward(self, given: Tensor) -> Tensor:
        """The output for (n, in), in the input's precision; it stays valid until the next call."""
        dtype = self._network.autocast or given.dtype
        self._weights = [self._in(dtype, f"weight {i}", layer.weight) for i, layer in enumerate(self._layers)]
        h = self._in(dtype, "input", given)
        self._steps = [(h, h)]
        for depth, (weight, layer) in enumerate(zip(self._weights, self._layers, strict=True)):
            place = self._take(f"{depth}", len(h), len(weight), weight)
            pre = torch.addmm(layer.bias.to(dtype), h, weight.t(), out=place)
            if depth == len(self._activations):
                return self._in(given.dtype, "output", pre)
            h = activate(self._activations[depth], pre)
            self._steps.append((pre, h))
        raise AssertionError  # the last layer has no activation

    def backward(self, gradient: Tensor, *, into_input: bool = False) -> Tensor:
        """Fills the weights' gradients from that of the output; returns the input's, where it is wanted."""
        precision, g = gradient.dtype, self._in(self._weights[0].dtype, "gradient", gradient)
        for depth in range(len(self._layers) - 1, -1, -1):
            pre, h = self._steps[depth]
            layer, weight, (to_weight, to_bias) = self._layers[depth], self._weights[depth], self._gradients[depth]
            if weight.dtype == to_weight.dtype:
                torch.mm(g.t(), h, out=to_weight)
            else:
                to_weight.copy_(
                    torch.mm(g.t(), h, out=self._take(f"to weight {depth}", weight.shape[0], weight.shape[1], weight))
                )
            torch.sum(g, 0, dtype=to_bias.dtype, out=to_bias)
            layer.weight.grad, layer.bias.grad = to_weight, to_bias
            if depth:
                place = self._take(f"back {depth}", len(g), weight.shape[1], weight)
                g = torch.mm(g, weight, out=place)
                activation = self._activations[depth - 1]
                g = BACKWARD[type(activation)](activation, g, pre, h)
        return torch.mm(g, self._weights[0]).to(precision) if into_input else g

    def _in(self, dtype: torch.dtype, name: str, tensor: Tensor) -> Tensor:
        """The tensor in that precision: itself, or a copy in memory that is used again."""
        if tensor.dtype == dtype:
            return tensor.detach()
        like = tensor.new_empty(0, dtype=dtype)
        return self._take(name, tensor.shape[0], tensor.shape[1], like).copy_(tensor)

    def _take(self, name: str, rows: int, width: int, like: Tensor) -> Tensor:
        return self._workspace.take(f"{self._name} {name}", rows, width, like)
