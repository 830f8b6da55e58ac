"""VQ-VAEs from elsewhere: adopted they are the same density, with the prior that was missing."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import elbowroom as er
from elbowroom.adopting.adopt import Adopted, adopt, adopt_pythae
from elbowroom.errors import ElbowroomError
from elbowroom.model.code_distributions import Codes, CodeSpace
from elbowroom.model.codes import UniformCodes
from elbowroom.model.priors import StandardNormal
from elbowroom.numerics import mean_and_stderr

DIM, SLOTS, CODES, WIDTH = 12, 4, 5, 3
EXACT: dict[str, Any] = {"decoder_output": "logits", "likelihood": "bernoulli", "check": False}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bits(rows: int = 600, seed: int = 1) -> Tensor:
    """Each half of the elements repeats the other: the codes of slots that read them depend on each other."""
    half = torch.bernoulli(torch.full((rows, DIM // 2), 0.5), generator=seeded(seed))
    return torch.cat([half, half], 1)


class Encoder(nn.Module):
    """x -> (n, slots, d); as a picture, (n, d, 2, slots / 2)."""

    def __init__(self, picture: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.linear, self.picture = nn.Linear(DIM, SLOTS * WIDTH), picture

    def forward(self, x: Tensor) -> Tensor:
        vectors = self.linear(x).reshape(len(x), SLOTS, WIDTH)
        return vectors.mT.reshape(len(x), WIDTH, 2, SLOTS // 2) if self.picture else vectors


class Decoder(nn.Module):
    """Vectors in the form of the encoder's -> logits."""

    def __init__(self, picture: bool = False) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.linear, self.picture = nn.Linear(SLOTS * WIDTH, DIM), picture

    def forward(self, vectors: Tensor) -> Tensor:
        slots = vectors.flatten(2).mT if self.picture else vectors
        logits: Tensor = self.linear(slots.flatten(1))
        return logits


TABLE = torch.randn(CODES, WIDTH, generator=seeded(5))
X, TRAIN = bits(), bits(800, seed=2)


def wrap(**changes: Any) -> Adopted:
    given = {
        "encoder": Encoder(), "decoder": Decoder(), "codebook": TABLE, "data": X, "train": TRAIN, "temperature": 0.7,
        "prior": UniformCodes(CodeSpace(SLOTS, CODES)), **EXACT, **changes,
    }  # fmt: skip
    return adopt(**given)


def q_of(found: Adopted, x: Tensor = X) -> Codes:
    q = found.guide(x)
    assert isinstance(q, Codes)
    return q


def test_guide_and_likelihood_are_the_user_s() -> None:
    encoder, decoder = Encoder().eval(), Decoder().eval()
    found = wrap()
    distances = (encoder(X).unsqueeze(2) - TABLE).square().sum(-1)  # (n, slots, codes)
    torch.testing.assert_close(q_of(found).logits, (-distances / 0.7).log_softmax(-1))
    numbers = torch.randint(CODES, (len(X), SLOTS), generator=seeded())
    z = found.model.space.one_hot(numbers)
    logits = decoder(TABLE[numbers])
    theirs = -nn.functional.binary_cross_entropy_with_logits(logits, X, reduction="none").sum(-1)
    torch.testing.assert_close(found.model.log_likelihood(X, z), theirs)
    assert found.model.space == (SLOTS, CODES)


def test_a_picture_of_vectors_is_the_same_model() -> None:
    flat, picture = wrap(), wrap(encoder=Encoder(picture=True), decoder=Decoder(picture=True))
    z = flat.model.sample(50, generator=seeded()).z
    torch.testing.assert_close(q_of(picture).logits, q_of(flat).logits)
    x = X[:50]
    torch.testing.assert_close(picture.model.log_likelihood(x, z), flat.model.log_likelihood(x, z))


def test_a_decoder_of_numbers_is_the_same_model() -> None:
    decoder = Decoder()
    flat, numbers = wrap(), wrap(decoder=lambda codes: decoder(TABLE[codes]), decoder_input="codes")
    z = flat.model.sample(50, generator=seeded()).z
    torch.testing.assert_close(numbers.model.log_likelihood(X[:50], z), flat.model.log_likelihood(X[:50], z))


@pytest.mark.parametrize("codebook", [TABLE.expand(SLOTS, CODES, WIDTH), nn.Embedding.from_pretrained(TABLE)])
def test_forms_of_a_codebook(codebook: Any) -> None:
    torch.testing.assert_close(q_of(wrap(codebook=codebook)).logits, q_of(wrap()).logits)


def test_the_user_s_networks_and_codebook_are_left_as_they_are() -> None:
    encoder, decoder, table = Encoder(), Decoder(), TABLE.clone()
    before = [weight.clone() for weight in (*encoder.parameters(), *decoder.parameters())]
    wrap(
        encoder=encoder, decoder=decoder, codebook=table, prior=None, fit_prior="unigram", fit_steps=5, temperature=None
    )
    after = [*encoder.parameters(), *decoder.parameters()]
    assert all(torch.equal(old, new) and new.grad is None for old, new in zip(before, after, strict=True))
    assert torch.equal(table, TABLE)


CORNERS = torch.tensor([[1.0, 1, 1], [-1, 1, 1], [1, -1, -1], [-1, -1, 1], [-1, -1, -1]])


def corners(slope: float, **changes: Any) -> Adopted:
    """Slots of three elements; codes are corners of a cube, and a decoder shows them through noise.

    log p(x | z) is ½ · slope · (2x − 1) · c but for a constant: with a uniform p(z) the posterior is that of a guide
    of temperature 4 / slope.
    """

    def encoder(x: Tensor) -> Tensor:
        return (2 * x - 1).reshape(-1, SLOTS, WIDTH)

    def decoder(vectors: Tensor) -> Tensor:
        return slope * vectors.flatten(1)

    return wrap(**{"encoder": encoder, "decoder": decoder, "codebook": CORNERS, "temperature": None, **changes})


def test_the_temperature_is_that_of_the_highest_elbo() -> None:
    distances = ((2 * TRAIN[:500] - 1).reshape(-1, SLOTS, 1, WIDTH) - CORNERS).square().sum(-1).amin(-1).mean(0)
    found = corners(4 / (0.8 * float(distances.mean())))
    guide: Any = found.guide
    torch.testing.assert_close(
        guide.log_temperature.exp().squeeze(1), 0.8 * distances, rtol=0.3, atol=0
    )  # the ladder's steps are of 2
    best, elbo = guide.log_temperature.detach().clone(), found.evaluate("elbo", split="train", num_samples=8)[0].value
    for factor in (0.25, 4.0):
        guide.log_temperature.data = best + math.log(factor)
        assert found.evaluate("elbo", split="train", num_samples=8)[0].value < elbo


def test_a_decoder_that_returns_something_else_is_found() -> None:
    def probabilities(vectors: Tensor) -> Tensor:
        return torch.sigmoid(4 * vectors.flatten(1))

    numbers = torch.randint(CODES, (200, SLOTS), generator=seeded())
    given: dict[str, Any] = {"data": (CORNERS[numbers].flatten(1) + 1) / 2, "temperature": 1.0, "check": True}
    with pytest.raises(ElbowroomError, match="decoder_output is 'logits', but read as 'probabilities'"):
        corners(4.0, decoder=probabilities, **given)
    assert corners(4.0, **given).remark is None
    with pytest.raises(ElbowroomError, match="decoder returns NaN"):
        corners(4.0, decoder=lambda vectors: torch.nan * vectors.flatten(1), **given)


def test_without_a_prior_there_is_no_p_of_z_yet() -> None:
    with pytest.raises(ElbowroomError, match=r"This model has no p\(z\) yet") as caught:
        wrap(prior=None)
    assert "fit_prior='made'" in caught.value.remedy


def test_a_prior_is_fitted_to_drawn_codes_and_not_to_the_most_likely_ones() -> None:
    found = wrap(prior=None, fit_prior="unigram", temperature=3.0)
    q = q_of(found, TRAIN)
    fitted: Any = found.model.prior(None)
    probs, drawn = fitted.probs.detach(), q.probs.mean(0).detach()
    likely = found.model.space.split(q.mode).mean(0)
    torch.testing.assert_close(probs, drawn, atol=1e-3, rtol=0)  # the maximiser in closed form
    assert float((probs - likely).abs().max()) > 0.1


def test_a_masked_mlp_knows_what_single_codes_do_not() -> None:
    """One half of the elements repeats the other, and so do the codes of its slots."""
    scores = {}
    for fit in ("unigram", "made"):
        found = corners(4.0, prior=None, fit_prior=fit, fit_steps=150, temperature=0.5)
        z = q_of(found).sample(generator=seeded())
        scores[fit] = found.model.log_prior(z).double().detach()
    gain, stderr = mean_and_stderr(scores["made"] - scores["unigram"])
    assert gain > 4 * stderr
    assert gain > 0.2


def test_an_adopted_model_is_evaluated_and_examined() -> None:
    found = wrap(prior=None, fit_prior="unigram", fit_steps=50)
    results = {result.name: result.value for result in found.evaluate(k=50, points=100)}
    assert results["deterministic bound"] <= results["distinct bound"]
    assert found.sample(4).x.shape == (4, DIM)
    diagnosis = found.doctor(points=200, checks=["sound", "codes_in_use", "code_prior", "sharpness"])
    assert not diagnosis.not_examined
    with pytest.raises(ElbowroomError, match="HMC or NUTS needs a continuous z"):
        found.posterior(points=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebook": torch.zeros(CODES, 4)}, r"vectors of 4 numbers .* returns vectors of 3 for each of 4 slots"),
        ({"codebook": torch.zeros(SLOTS + 1, CODES, WIDTH)}, "vectors for 5 slots, but the encoder returns 4"),
        ({"codebook": torch.zeros(WIDTH)}, r"codebook has shape \(3,\)"),
        ({"codebook": torch.zeros(1, WIDTH)}, "1 code of"),
        ({"encoder": nn.Linear(DIM, 6)}, "one vector is needed for each slot"),
        ({"decoder": nn.Linear(5, DIM)}, "decoder fails on a tensor"),
        ({"decoder_input": "numbers"}, "decoder_input"),
        ({"encoder_output": "mean-logvar"}, "with a codebook the encoder returns vectors"),
        ({"loss": lambda x: x}, "leaves out p"),
        ({"prior": StandardNormal(20)}, "over vectors of shape"),
        ({"prior": UniformCodes(CodeSpace(SLOTS, 4))}, "these codes are 4 slots × 5 codes"),
        ({"fit_prior": "made"}, "A prior was given"),
        ({"prior": None, "fit_prior": "maid"}, "'maid'"),
        ({"prior": None, "fit_prior": "made", "train": None}, "only held-out data were given"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"codebook": None, "encoder_output": "mean-logvar"}, "no codebook was given"),
        ({"codebook": None, "temperature": None}, "encoder_output was not given"),
    ],
)  # fmt: skip
def test_mistakes_are_explained(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ElbowroomError, match=message) as caught:
        wrap(**changes)
    assert len(caught.value.remedy) > 8


class LikePythae(nn.Module):
    """The interface of pythae's VQVAE: an encoder of pictures, a quantiser of vectors, a decoder of records."""

    def __init__(self, ema: bool) -> None:
        super().__init__()
        self._encoder, self._decoder, self.quantizer = Encoder(picture=True), Decoder(picture=True), nn.Module()
        if ema:
            self.quantizer.register_buffer("embeddings", TABLE)
        else:
            self.quantizer.embeddings = nn.Embedding.from_pretrained(TABLE)

    def encoder(self, x: Tensor) -> Any:
        return SimpleNamespace(embedding=self._encoder(x))

    def decoder(self, vectors: Tensor) -> Any:
        return SimpleNamespace(reconstruction=self._decoder(vectors))


@pytest.mark.parametrize("ema", [False, True])
def test_pythae_s_quantiser_is_a_codebook(ema: bool) -> None:
    x = torch.randn(300, DIM, generator=seeded())
    found = adopt_pythae(LikePythae(ema), x, train=x, fit_prior="unigram", fit_steps=5, temperature=0.7, check=False)
    z = found.model.sample(300, generator=seeded()).z
    error = (x - Decoder()(TABLE[found.model.space.numbers(z)])).square()
    theirs = -error.sum(-1) - 0.5 * DIM * math.log(math.pi)  # N(mean, ½)
    torch.testing.assert_close(found.model.log_likelihood(x, z), theirs)
    torch.testing.assert_close(q_of(found, x).logits, q_of(wrap(), x).logits)


def test_pythae_itself() -> None:
    models = pytest.importorskip("pythae.models")
    vae = models.VQVAE(models.VQVAEConfig(input_dim=(1, 8, 8), latent_dim=8, num_embeddings=6))
    x = torch.rand(40, 1, 8, 8, generator=seeded())
    with pytest.raises(ElbowroomError, match="one vector is needed for each slot"):
        er.adopt_pythae(vae, x, train=x, fit_prior="unigram")  # its MLP has one vector for all of x
