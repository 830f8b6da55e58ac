"""Bring your own model: ``er.adopt`` wraps trained networks, so that everything that measures works on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from elbowroom.data.batch import Batch
from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.conversion import check_conversion, explain_loss
from elbowroom.evaluation.doctor import Diagnosis, diagnose
from elbowroom.evaluation.evaluate import evaluate
from elbowroom.evaluation.findings import Patient
from elbowroom.evaluation.results import Result
from elbowroom.evaluation.study import evaluation_mode
from elbowroom.inference.imputation import Imputation, impute
from elbowroom.inference.posterior import Posterior, posterior
from elbowroom.model.adoption import EncoderOutput, adopt_decoder, adopt_encoder, adopt_prior, two_outputs
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import DiagonalNormal
from elbowroom.model.latent import LatentModel, Sample

__all__ = ["Adopted", "adopt", "adopt_pyro", "adopt_pythae"]

_CHECKED_ON = 200  # data


class Adopted:
    """A model from elsewhere, as measured here.

    Attributes:
        model: p(x, z), in evaluation mode.
        guide: q(z | x), in evaluation mode.
        data: with the splits train and test.
        remark: what the user's own loss differs from −ELBO by; None where it was not given or does not differ.
    """

    def __init__(self, model: LatentModel, guide: DiagonalNormal, data: DataSet, remark: str | None = None) -> None:
        self.model, self.guide, self.data, self.remark = model.eval(), guide.eval(), data, remark

    def evaluate(self, *methods: str, split: str = "test", **settings: Any) -> list[Result]:
        """As :func:`elbowroom.evaluation.evaluate.evaluate`."""
        every = ("elbo", "iwae", "active-units") if self.model.likelihood.normalized else ("elbo", "active-units")
        return evaluate(self.model, self.guide, self.data, methods=methods or every, split=split, **settings)

    def doctor(self, *, checks: Sequence[str] | None = None, points: int = 1000, seed: int = 0) -> Diagnosis:
        """As :func:`elbowroom.evaluation.doctor.diagnose`; there is no history to look at."""
        return diagnose(Patient(self.model, self.guide, self.data, points=points, seed=seed), checks=checks)

    def posterior(self, *, points: int = 64, split: str = "test", seed: int = 0, **settings: Any) -> Posterior:
        """Draws from p(z | x) of some data, as :func:`elbowroom.inference.posterior.posterior`."""
        with evaluation_mode(self.model, self.guide):
            return posterior(self.model, self.guide, self._some(split, points), generator=_seeded(seed), **settings)

    def impute(self, x: Tensor, *, seed: int = 0, **settings: Any) -> Imputation:
        """Missing elements, NaN in x of shape (n, \\*event), as :func:`elbowroom.inference.imputation.impute`."""
        x = x.to(self.data.dtype)
        mask = ~x.isnan()
        with evaluation_mode(self.model, self.guide):
            batch = Batch(torch.where(mask, x, 0.0), mask=mask)
            return impute(self.model, self.guide, batch, generator=_seeded(seed), **settings)

    def sample(self, num_samples: int = 25, *, seed: int = 0) -> Sample:
        """Draws of z and x, and the mean of p(x | z)."""
        with evaluation_mode(self.model):
            return self.model.sample(num_samples, generator=_seeded(seed))

    def _some(self, split: str, points: int) -> Batch:
        return next(iter(self.data.batches(split, points, points=points)))


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def adopt(
    *,
    encoder: Callable[..., Any],
    decoder: Callable[..., Any],
    encoder_output: EncoderOutput,
    decoder_output: str,
    likelihood: str,
    data: Any,
    train: Any = None,
    prior: Conditional | Distribution | Callable[[], Distribution] | None = None,
    scale: float | None = None,
    binarization: str = "none",
    input_shape: Sequence[int] | None = None,
    loss: Callable[[Tensor], Tensor] | None = None,
    check: bool = True,
    seed: int = 0,
) -> Adopted:
    r"""Wrap a trained encoder and decoder; on the CPU, in their own precision.

    Args:
        encoder: x to the mean of q(z | x) and its spread: a pair, a record with names, or one tensor that holds both.
        decoder: z of shape (n, latent) to the parameters of p(x | z).
        encoder_output: what the spread is: "mean-logvar", "mean-variance" or "mean-scale" (a standard deviation).
        decoder_output: what the parameters are: "logits" or "probabilities"; "mean" with ``scale``, "mean-logvar",
            "mean-variance", "mean-scale"; "log-rate" or "rate".
        likelihood: bernoulli, continuous-bernoulli, cross-entropy, gaussian, poisson, or another of the package's.
        data: held-out data, an array of shape (n, \*event), on which all is measured.
        train: the data that it was trained on, for what compares the two.
        prior: N(0, I) unless given: a distribution over the latent vector, a function that returns one, a conditional.
        scale: σ of a Gaussian whose decoder returns a mean alone.
        binarization: of grey data: none, static, dynamic or threshold.
        input_shape: that the encoder takes x in; the data's unless given.
        loss: x to the loss of each datum that the model was trained with; compared with −ELBO.
        check: whether conventions under which the data are far less probable than under others are refused.
        seed: of the checks and the binarisation.
    Raises:
        ElbowroomError: data that the likelihood does not fit; outputs of another shape; a convention that the numbers
            contradict.
    Example:
        >>> from torch import nn
        >>> encoder, decoder = nn.Linear(6, 4), nn.Linear(2, 6)
        >>> x = torch.bernoulli(torch.full((50, 6), 0.5), generator=torch.Generator().manual_seed(0))
        >>> found = adopt(encoder=encoder, decoder=decoder, encoder_output="mean-logvar", decoder_output="logits",
        ...               likelihood="bernoulli", data=x, check=False)
        >>> found.guide(x).mean.shape, found.model.sample(3).x.shape
        (torch.Size([50, 2]), torch.Size([3, 6]))
    """
    loaded = _data(data, train, binarization, seed)
    dtype = next(
        (w.dtype for part in (encoder, decoder) if isinstance(part, nn.Module) for w in part.parameters()), None
    )
    loaded = loaded.to(dtype=dtype or torch.get_default_dtype())
    first = next(iter(loaded.batches("test", 2, points=2)))
    for part in (encoder, decoder):
        if isinstance(part, nn.Module):
            part.eval()
    with torch.no_grad():
        inner = tuple(input_shape or loaded.event_shape)
        mean, _ = two_outputs(encoder(first.x.to(loaded.dtype).reshape(-1, *inner)), "encoder")
    latent_dim = mean.reshape(len(first), -1).shape[1]
    p_x = adopt_decoder(decoder, likelihood, decoder_output, loaded.event_shape, scale=scale)
    model = LatentModel(adopt_prior(prior, latent_dim), p_x).to(loaded.dtype)
    guide = adopt_encoder(encoder, encoder_output, loaded.event_shape, latent_dim, input_shape=input_shape)
    loaded = loaded.viewed_as(p_x.support)
    some = next(iter(loaded.batches("test", _CHECKED_ON, points=_CHECKED_ON)))
    with torch.no_grad():
        model.likelihood(guide(some.x).mean)  # shapes first: their faults have words of their own
    if check:
        check_conversion(model, guide, some, generator=_seeded(seed))
    remark = None if loss is None else explain_loss(model, guide, some, loss, generator=_seeded(seed))
    return Adopted(model, guide, loaded, remark)


def _data(data: Any, train: Any, binarization: str, seed: int) -> DataSet:
    """One data set, with the splits train and test."""
    if isinstance(data, DataSet):
        return data
    test = torch.as_tensor(data)
    rows = test if train is None else torch.cat([torch.as_tensor(train), test])
    loaded = load_data(rows, binarization=binarization, test=0.0, validation=0.0, seed=seed)
    assert isinstance(loaded, DataSet)  # a tensor has a length
    before = len(rows) - len(test)
    splits = {"train": torch.arange(before), "validation": torch.arange(0), "test": torch.arange(before, len(rows))}
    return replace(loaded, splits=splits)


def adopt_pythae(vae: nn.Module, data: Any, **settings: Any) -> Adopted:
    """Wrap a pythae ``VAE``: an encoder of mean and log-variance, and a decoder whose loss says what it returns.

    pythae's "bce" takes the decoder's output for probabilities; its "mse" is ½ Σ (x − mean)², a Gaussian of σ = 1
    without its constant, which is put back here.

    Args:
        vae: with ``encoder``, ``decoder`` and ``model_config.reconstruction_loss``.
        data: held-out data.
        **settings: others of :func:`adopt`; a binarization for grey data under "bce", or likelihood="cross-entropy".
    Raises:
        ElbowroomError: another loss; as for :func:`adopt`.
    """
    loss = str(getattr(getattr(vae, "model_config", None), "reconstruction_loss", None))
    known: dict[str, dict[str, Any]] = {
        "bce": {"likelihood": "bernoulli", "decoder_output": "probabilities"},
        "mse": {"likelihood": "gaussian", "decoder_output": "mean", "scale": 1.0},
    }
    if loss not in known:
        raise ElbowroomError(
            f"The VAE's model_config.reconstruction_loss is {loss}, but 'bce' and 'mse' are what is known of pythae.",
            "Use er.adopt(encoder=vae.encoder, decoder=vae.decoder, …), and say what they return.",
        )
    given = {**known[loss], "encoder_output": "mean-logvar", **settings}
    return adopt(encoder=vae.encoder, decoder=vae.decoder, data=data, **given)  # type: ignore[arg-type]


def adopt_pyro(model: Callable[..., Any], guide: Callable[..., Any], data: Any, **settings: Any) -> Adopted:
    """Wrap a Pyro model and guide: functions of x with one latent site, of normal prior and guide, and one observed.

    Args:
        model: called as ``model(x)``; x Bernoulli, Normal or Poisson given z.
        guide: called as ``guide(x)``.
        data: held-out data.
        **settings: others of :func:`adopt`: train, binarization, loss, check, seed.
    Raises:
        ElbowroomError: Pyro is not installed; other sites or families; as for :func:`adopt`.
    """
    from elbowroom.learners.from_pyro import from_pyro  # Pyro comes with it

    splits = _data(data, settings.pop("train", None), settings.pop("binarization", "none"), settings.get("seed", 0))
    splits = splits.to(dtype=torch.get_default_dtype())
    found = from_pyro(model, guide, next(iter(splits.batches("test", 2, points=2))).x)
    prior = None if _is_standard(found.prior) else found.prior
    return adopt(
        encoder=found.encoder,
        decoder=found.decoder,
        encoder_output="mean-scale",
        decoder_output=found.decoder_output,
        likelihood=found.likelihood,
        prior=prior,
        data=splits,
        **settings,
    )


def _is_standard(prior: Distribution) -> bool:
    return bool((prior.mean == 0).all() & (prior.stddev == 1).all())
