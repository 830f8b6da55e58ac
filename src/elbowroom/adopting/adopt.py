"""``er.adopt``: wraps networks that were trained elsewhere, so that all evaluation methods work on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from elbowroom.adopting.checks import check_code_decoder, check_conversion, check_finite, explain_loss
from elbowroom.adopting.codes import CodeDecoder, DecoderInput, FittedPrior, code_guide, code_prior
from elbowroom.adopting.data import check_precision, held_out_and_training
from elbowroom.adopting.inspection import first_call, networks_of, precisions, require_same_answer, shape_remedy
from elbowroom.adopting.modules import adopt_decoder, adopt_encoder, adopt_prior, decoder_of, encoder_of
from elbowroom.adopting.output_conventions import EncoderOutput, two_outputs
from elbowroom.data.batch import Batch
from elbowroom.data.dataset import DataSet
from elbowroom.errors import ElbowroomError, check_name
from elbowroom.evaluation.doctor.diagnose import Diagnosis, diagnose
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.evaluation.evaluate import evaluate
from elbowroom.evaluation.results import Result
from elbowroom.inference.posterior.imputation import Imputation, impute
from elbowroom.inference.posterior.sample import Posterior, posterior
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import DiagonalNormal
from elbowroom.model.latent import LatentModel, Sample, evaluation_mode

__all__ = ["Adopted", "adopt", "adopt_pyro", "adopt_pythae"]

_CHECKED_ON = 200  # examples for the checks
_TRIED_ON = 8  # examples for the first calls
_Module = TypeVar("_Module", bound=nn.Module)


class Adopted:
    """A model from elsewhere, with its data, ready for evaluation.

    Attributes:
        model: p(x, z), in evaluation mode.
        guide: q(z | x), in evaluation mode.
        data: with the splits train and test.
        remark: the difference between the user's own loss and −ELBO; None if no loss was given or it does not differ.
    """

    def __init__(self, model: LatentModel, guide: Conditional, data: DataSet, remark: str | None = None) -> None:
        self.model, self.guide, self.data, self.remark = model.eval(), guide.eval(), data, remark

    def evaluate(self, *methods: str, split: str = "test", **settings: Any) -> list[Result]:
        """Evaluates the model, as :func:`elbowroom.evaluation.evaluate.evaluate`."""
        return evaluate(self.model, self.guide, self.data, methods=methods or None, split=split, **settings)

    def doctor(self, *, checks: Sequence[str] | None = None, points: int = 1000, seed: int = 0) -> Diagnosis:
        """Checks the model for faults, as :func:`elbowroom.evaluation.doctor.diagnose.diagnose`, without a history."""
        return diagnose(DoctorInput(self.model, self.guide, self.data, points=points, seed=seed), checks=checks)

    def posterior(self, *, points: int = 64, split: str = "test", seed: int = 0, **settings: Any) -> Posterior:
        """Draws from p(z | x) of some examples, as :func:`elbowroom.inference.posterior.sample.posterior`."""
        with evaluation_mode(self.model, self.guide):
            return posterior(self.model, self.guide, self._some(split, points), generator=_seeded(seed), **settings)

    def impute(self, x: Tensor, *, seed: int = 0, **settings: Any) -> Imputation:
        r"""Imputation: fills in missing elements, NaN in x of shape (n, \*event), by
        :func:`elbowroom.inference.posterior.imputation.impute`.
        """
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
    encoder_output: EncoderOutput | None = None,
    decoder_output: str,
    likelihood: str,
    data: Any,
    train: Any = None,
    prior: Conditional | Distribution | Callable[[], Distribution] | None = None,
    codebook: Tensor | nn.Embedding | None = None,
    decoder_input: DecoderInput = "vectors",
    temperature: float | None = None,
    fit_prior: FittedPrior | None = None,
    fit_steps: int = 2000,
    scale: float | None = None,
    binarization: str = "none",
    input_shape: Sequence[int] | None = None,
    loss: Callable[[Tensor], Tensor] | None = None,
    check: bool = True,
    seed: int = 0,
) -> Adopted:
    r"""Wraps a trained encoder and decoder; on the CPU, in their own precision.

    They are not copied, cast or trained. But they are put into evaluation mode, including networks inside functions
    as far as these can be found (closures, globals, methods): call ``.train()`` to go on training. If an error is
    raised, they stay in the mode that they were in.

    With a ``codebook`` it is a model with codes, such as a VQ-VAE: :mod:`elbowroom.adopting.codes`.

    Args:
        encoder: maps x to the mean and the spread of q(z | x): a pair, a record with names, one tensor with both, or a
            normal distribution; with a codebook, to one vector for each slot, of shape (n, slots, d) or (n, d, H, W).
            The result for an example must not depend on the rest of the batch.
        decoder: maps z of shape (n, latent) to the parameters of p(x | z); with a codebook, what ``decoder_input``
            says.
        encoder_output: what the spread is: "mean-logvar", "mean-variance", "mean-scale" (a standard deviation) or
            "mean-logscale"; names of outputs (mu, logvar) must not contradict it.
        decoder_output: what the parameters are: "logits" or "probabilities"; "mean" with ``scale``, "mean-logvar",
            "mean-variance", "mean-scale", "mean-logscale"; "log-rate" or "rate".
        likelihood: bernoulli, continuous-bernoulli, cross-entropy, gaussian, poisson, or another of the package's.
        data: held-out data for the evaluation, an array of shape (n, \*event) or a map-style ``Dataset``.
        train: the training data, for checks that compare the two.
        prior: a distribution over the latent vector, a function that returns one, or a conditional; by default
            N(0, I). With a codebook, a conditional over its codes.
        codebook: the vectors of the codes, shape (codes, d) for all slots or (slots, codes, d).
        decoder_input: what the decoder takes, the "vectors" of the codes in the form of the encoder's, or their
            numbers, "codes", int64.
        temperature: of the guide over codes; by default that of the highest ELBO.
        fit_prior: the p(z) to fit to codes of the training data, "made" or "unigram", for a codebook without a prior.
        fit_steps: of Adam, on batches of 250 examples, for "made".
        scale: σ of a Gaussian whose decoder returns only a mean.
        binarization: of grey data: none, static, dynamic or threshold.
        input_shape: shape of x that the encoder expects; by default that of the data.
        loss: maps x to the training loss of each example; it is compared with −ELBO.
        check: whether to refuse conventions under which the data are far less probable than under others.
        seed: of the checks and the binarisation.
    Raises:
        ElbowroomError: data that the likelihood does not fit, or whose values the networks' precision does not tell
            apart; networks of two precisions, that fail on the data or are not deterministic; outputs of another shape;
            a convention that the numbers contradict; a codebook of another size, or without a p(z).
    Example:
        >>> from torch import nn
        >>> encoder, decoder = nn.Linear(6, 4), nn.Linear(2, 6)
        >>> x = torch.bernoulli(torch.full((50, 6), 0.5), generator=torch.Generator().manual_seed(0))
        >>> found = adopt(encoder=encoder, decoder=decoder, encoder_output="mean-logvar", decoder_output="logits",
        ...               likelihood="bernoulli", data=x, check=False)
        >>> found.guide(x).mean.shape, found.model.sample(3).x.shape
        (torch.Size([50, 2]), torch.Size([3, 6]))
    """
    _check_kind(encoder_output, codebook, fit_prior, temperature, loss)
    loaded = held_out_and_training(data, train, binarization, seed)
    networks = networks_of(encoder, decoder)
    with evaluation_mode(*networks):
        inner = _input_shape(input_shape, loaded.event_shape)
        loaded = loaded.to(dtype=_precision(encoder, decoder, loaded, inner))
        first = next(iter(loaded.batches("test", _TRIED_ON, points=_TRIED_ON)))
        if codebook is not None:
            return _with_codes(
                encoder, decoder, codebook, loaded, inner, first, likelihood=likelihood, decoder_output=decoder_output,
                decoder_input=decoder_input, scale=scale, prior=prior, fit=fit_prior, temperature=temperature,
                steps=fit_steps, check=check, seed=seed,
            )  # fmt: skip
        assert encoder_output is not None
        found = first_call(encoder, first.x.reshape(-1, *inner), "encoder", shape_remedy(loaded.event_shape))
        mean, _ = two_outputs(found, "encoder", encoder_output)
        latent_dim = mean.reshape(len(mean), -1).shape[1]
        guide = adopt_encoder(encoder, encoder_output, loaded.event_shape, latent_dim, input_shape=inner)
        p_x = _cast(adopt_decoder(decoder, likelihood, decoder_output, loaded.event_shape, scale=scale), loaded.dtype)
        p_z = adopt_prior(prior, latent_dim, first.context)
        model = LatentModel(_cast(p_z, loaded.dtype) if prior is None else p_z, p_x)
        _call_both(model, guide, first)
        loaded = loaded.viewed_as(p_x.support)
        check_precision(loaded)
        some = next(iter(loaded.batches("test", _CHECKED_ON, points=_CHECKED_ON)))
        if check:
            check_conversion(model, guide, some, generator=_seeded(seed))
        remark = None if loss is None else explain_loss(model, guide, some, loss, generator=_seeded(seed))
    return Adopted(model, guide, loaded, remark)


def _check_kind(
    encoder_output: EncoderOutput | None, codebook: Any, fit_prior: Any, temperature: Any, loss: Any
) -> None:
    """Refuses arguments that are about another kind of latents."""
    if codebook is None:
        if encoder_output is None:
            raise ElbowroomError(
                "encoder_output was not given, so what the encoder's second output means is not known.",
                "Give encoder_output='mean-logvar', say; or codebook=, for a model with codes.",
            )
        if fit_prior is not None or temperature is not None:
            raise ElbowroomError(
                "fit_prior and temperature are about codes, but no codebook was given.", "Give codebook=."
            )
        return
    if encoder_output is not None:
        raise ElbowroomError(
            f"encoder_output is '{encoder_output}', but with a codebook the encoder returns vectors, not a mean and a "
            "spread.",
            "Leave encoder_output out, or codebook.",
        )
    if loss is not None:
        raise ElbowroomError(
            "A loss is compared with −ELBO, but that of a model with a codebook leaves out p(z).", "Leave loss out."
        )


def _with_codes(
    encoder: Callable[..., Any],
    decoder: Callable[..., Any],
    codebook: Tensor | nn.Embedding,
    loaded: DataSet,
    inner: Sequence[int],
    first: Batch,
    *,
    likelihood: str,
    decoder_output: str,
    decoder_input: DecoderInput,
    scale: float | None,
    prior: Conditional | Distribution | Callable[[], Distribution] | None,
    check: bool,
    seed: int,
    **settings: Any,
) -> Adopted:
    """Wraps an encoder and a decoder with a codebook; called in evaluation mode."""
    check_name("decoder_input", decoder_input, get_args(DecoderInput))
    if prior is not None and not isinstance(prior, Conditional):
        raise ElbowroomError(
            f"The prior is a {type(prior).__name__}, but one over codes is a conditional of the package.",
            "Give one of elbowroom.model.codes or elbowroom.model.autoregressive.",
        )
    guide, shape = code_guide(encoder, codebook, first.x, loaded.event_shape, inner, shape_remedy(loaded.event_shape))
    inside = CodeDecoder(decoder, guide.codebook, shape, decoder_input)
    p_x = _cast(adopt_decoder(inside, likelihood, decoder_output, loaded.event_shape, scale=scale), loaded.dtype)
    z = guide(first.x).mode
    remedy = (
        f"It is given the {decoder_input} of the codes in the form of the encoder's output; one that takes another "
        "needs a function around it."
    )
    first_call(inside, z, "decoder", remedy)
    p_x(z, first.context)
    require_same_answer(lambda x: (guide.vectors(x),), first.x, "encoder")
    require_same_answer(lambda z: (p_x.network(z),), z, "decoder")
    loaded = loaded.viewed_as(p_x.support)
    check_precision(loaded)
    model = code_prior(p_x, guide, loaded, prior=prior, seed=seed, **settings)
    if check:
        some = next(iter(loaded.batches("test", _CHECKED_ON, points=_CHECKED_ON)))
        check_code_decoder(model, guide, some, generator=_seeded(seed))
    return Adopted(model, guide, loaded)


def _precision(
    encoder: Callable[..., Any], decoder: Callable[..., Any], data: DataSet, inner: Sequence[int]
) -> torch.dtype:
    """The precision of the networks, whether given as modules or found inside functions; else that of the data."""
    given = precisions(*(part for part in (encoder, decoder) if isinstance(part, nn.Module)))
    if len(given) > 1:
        names = " and ".join(str(dtype).removeprefix("torch.") for dtype in given)
        raise ElbowroomError(
            f"The networks have weights of {names}, but a model needs one precision.",
            "Convert them to one: encoder.double() and decoder.double(), or .float(); this changes them in place.",
        )
    if given:
        return given[0]
    likely = [*precisions(*networks_of(encoder, decoder)), data.dtype, torch.get_default_dtype()]
    x = next(iter(data.batches("test", 2, points=2))).x.reshape(-1, *inner)
    for dtype in likely:  # a function may convert its input, so the precision of its output decides
        try:
            mean, _ = two_outputs(encoder(x.to(dtype)), "encoder")
        except Exception:  # if none fits, the next call fails in the same way, with a message
            continue
        if mean.dtype == dtype:
            return dtype
    return likely[0]


def _input_shape(given: Sequence[int] | None, event_shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(event_shape if given is None else given)
    if math.prod(shape) != math.prod(event_shape):
        raise ElbowroomError(
            f"input_shape is {shape}, with {math.prod(shape)} elements, but an example has shape {tuple(event_shape)}.",
            shape_remedy(event_shape),
        )
    return shape


def _cast(ours: _Module, dtype: torch.dtype) -> _Module:
    """Converts the package's own buffers and parameters to another precision, but not those of the wrapped networks."""
    for tensor in [*ours.buffers(recurse=False), *ours.parameters(recurse=False)]:
        tensor.data = tensor.data.to(dtype)
    return ours


def _call_both(model: LatentModel, guide: DiagonalNormal, batch: Batch) -> None:
    """Calls both networks for the first time; errors become messages with a remedy."""
    encoder, decoder = encoder_of(guide), decoder_of(model)
    z = encoder.outputs(batch.x)[0]
    remedy = (
        f"The encoder's z has {z.shape[1]} elements: give the decoder that belongs to it. One that takes z in another "
        "shape needs a function around it: decoder=lambda z: net(z[..., None, None])."
    )
    found = first_call(decoder.module, z, "decoder", remedy)
    if decoder.output.startswith("mean-"):
        two_outputs(found, "decoder", decoder.output)
    model.likelihood(z, batch.context)
    require_same_answer(encoder.outputs, batch.x, "encoder")
    require_same_answer(decoder.outputs, z, "decoder")


def adopt_pythae(vae: nn.Module, data: Any, **settings: Any) -> Adopted:
    """Wraps a pythae ``VAE``: the encoder returns mean and log-variance, and the loss tells what the decoder returns.

    pythae's "bce" takes the decoder's output as probabilities. Its "mse" is ½ Σ (x − mean)², a Gaussian with σ = 1
    without its constant, which is added here.

    A pythae ``VQVAE`` has a quantiser, whose vectors are the codebook; its loss is Σ (x − mean)², of σ² = ½. It needs a
    p(z): fit_prior="made", with train=.

    Args:
        vae: with ``encoder``, ``decoder`` and ``model_config.reconstruction_loss``, or ``quantizer``.
        data: held-out data.
        **settings: other arguments of :func:`adopt`; for grey data under "bce" a binarization or
            likelihood="cross-entropy".
    Raises:
        ElbowroomError: another loss; as for :func:`adopt`.
    """
    quantizer = getattr(vae, "quantizer", None)
    if quantizer is not None:
        known_of_codes = {"likelihood": "gaussian", "decoder_output": "mean", "scale": math.sqrt(0.5), **settings}
        return adopt(
            encoder=lambda x: vae.encoder(x).embedding,  # type: ignore[operator]
            decoder=vae.decoder,  # type: ignore[arg-type]
            codebook=quantizer.embeddings,
            data=data,
            **known_of_codes,
        )
    loss = str(getattr(getattr(vae, "model_config", None), "reconstruction_loss", None))
    known: dict[str, dict[str, Any]] = {
        "bce": {"likelihood": "bernoulli", "decoder_output": "probabilities"},
        "mse": {"likelihood": "gaussian", "decoder_output": "mean", "scale": 1.0},
    }
    if loss not in known:
        raise ElbowroomError(
            f"The VAE's model_config.reconstruction_loss is {loss}, but only 'bce' and 'mse' are supported.",
            "Use er.adopt(encoder=vae.encoder, decoder=vae.decoder, …), with encoder_output and decoder_output.",
        )
    given = {**known[loss], "encoder_output": "mean-logvar", **settings}
    return adopt(encoder=vae.encoder, decoder=vae.decoder, data=data, **given)  # type: ignore[arg-type]


def adopt_pyro(model: Callable[..., Any], guide: Callable[..., Any], data: Any, **settings: Any) -> Adopted:
    """Wraps a Pyro model and guide: functions of x with one observed and one latent site, with normal prior and guide.

    Args:
        model: called as ``model(x)``; x Bernoulli, Normal or Poisson given z.
        guide: called as ``guide(x)``.
        data: held-out data, which are converted to the precision of the programs' networks, if there are any.
        **settings: other arguments of :func:`adopt`: train, binarization, loss, check, seed. Conventions are known
            here, so ``check`` only looks for numbers that are not finite.
    Raises:
        ElbowroomError: Pyro is not installed; other sites or families; as for :func:`adopt`.
    """
    from elbowroom.adopting.pyro import from_pyro  # Pyro comes with it

    check, seed = settings.pop("check", True), settings.get("seed", 0)
    splits = held_out_and_training(data, settings.pop("train", None), settings.pop("binarization", "none"), seed)
    own = precisions(*networks_of(model, guide))
    splits = splits.to(dtype=own[0] if own else splits.dtype)
    found = from_pyro(model, guide, next(iter(splits.batches("test", 2, points=2))).x)
    prior = None if _is_standard(found.prior) else found.prior
    adopted = adopt(
        encoder=found.encoder,
        decoder=found.decoder,
        encoder_output="mean-scale",
        decoder_output=found.decoder_output,
        likelihood=found.likelihood,
        prior=prior,
        data=splits,
        check=False,  # the traces tell the families and parameters, so no convention has to be checked
        **settings,
    )
    if check:
        assert isinstance(adopted.guide, DiagonalNormal)  # no codebook was given
        check_finite(adopted.model, adopted.guide, adopted._some("test", _CHECKED_ON))
    return adopted


def _is_standard(prior: Distribution) -> bool:
    return bool((prior.mean == 0).all() & (prior.stddev == 1).all())
