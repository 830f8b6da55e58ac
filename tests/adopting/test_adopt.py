"""Models from elsewhere: adopted they are the same density, and conventions that are wrong are named."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Independent, Normal

import elbowroom as er
from elbowroom.adopting.adopt import Adopted, adopt, adopt_pythae
from elbowroom.errors import ElbowroomError
from elbowroom.model.oracles import ppca

DIM, LATENT = 12, 2


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bits(num_data: int = 900) -> Tensor:
    generator = seeded(1)
    z = torch.randn(num_data, LATENT, generator=generator)
    return torch.bernoulli(torch.sigmoid(2 * z @ torch.randn(LATENT, DIM, generator=generator)), generator=generator)


class Encoder(nn.Module):
    """What people write: a trunk and two heads."""

    def __init__(self, dim: int = DIM, form: str = "pair") -> None:
        super().__init__()
        self.trunk, self.mean, self.spread = nn.Linear(dim, 32), nn.Linear(32, LATENT), nn.Linear(32, LATENT)
        self.form = form

    def forward(self, x: Tensor) -> Any:
        h = torch.tanh(self.trunk(x.flatten(1)))
        mean, spread = self.mean(h), self.spread(h)
        match self.form:
            case "pair":
                return mean, spread
            case "joined":
                return torch.cat([mean, spread], -1)
            case "names":
                return {"mu": mean, "logvar": spread}
            case "record":
                return SimpleNamespace(embedding=mean, log_covariance=spread)
        return Named(mean, spread)


class Named(NamedTuple):
    mean: Tensor
    log_variance: Tensor


@functools.cache
def _learned() -> tuple[Encoder, nn.Sequential, Tensor]:
    """A plain VAE, by the loop that everybody writes: logits, log-variance."""
    torch.manual_seed(0)
    encoder, x = Encoder(), bits()
    decoder = nn.Sequential(nn.Linear(LATENT, 32), nn.Tanh(), nn.Linear(32, DIM))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-2)
    for _ in range(300):
        mean, log_variance = encoder(x)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)
        loss = (F.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(1) + kl).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return encoder, decoder, x


def trained(form: str = "pair") -> tuple[Encoder, nn.Sequential, Tensor]:
    encoder, decoder, x = copy.deepcopy(_learned())
    encoder.form = form
    return encoder, decoder, x


def wrap(**changes: Any) -> Adopted:
    encoder, decoder, x = trained()
    given = {"encoder": encoder, "decoder": decoder, "encoder_output": "mean-logvar", "decoder_output": "logits",
             "likelihood": "bernoulli", "data": x[:300], "train": x[300:]}  # fmt: skip
    return adopt(**(given | changes))


# --- the same density --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["pair", "joined", "names", "record", "named"])
def test_density_and_guide_are_the_users_own(form: str) -> None:
    encoder, decoder, x = trained(form)
    found = wrap(encoder=encoder, decoder=decoder)
    z = torch.randn(3, 300, LATENT, generator=seeded())
    expected = -F.binary_cross_entropy_with_logits(decoder(z), x[:300].expand(3, -1, -1), reduction="none").sum(-1)
    torch.testing.assert_close(found.model.log_likelihood(x[:300], z), expected)
    encoder.form = "pair"
    mean, log_variance = encoder(x)
    torch.testing.assert_close(found.guide(x).mean, mean)
    torch.testing.assert_close(found.guide(x).stddev, torch.exp(0.5 * log_variance))


@pytest.mark.parametrize(
    ("output", "spread"),
    [("mean-logvar", lambda v: v), ("mean-variance", torch.exp), ("mean-scale", lambda v: torch.exp(0.5 * v))],
)
def test_every_reading_of_the_spread(output: str, spread: Callable[[Tensor], Tensor]) -> None:
    encoder, _, x = trained()

    def other(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = encoder(x)
        return mean, spread(log_variance)

    found = wrap(encoder=other, encoder_output=output)
    torch.testing.assert_close(found.guide(x).stddev, torch.exp(0.5 * encoder(x)[1]))


def test_probabilities_are_the_same_as_their_logits() -> None:
    encoder, decoder, x = trained()
    found = wrap(encoder=encoder, decoder=nn.Sequential(decoder, nn.Sigmoid()), decoder_output="probabilities")
    z = torch.randn(300, LATENT, generator=seeded())
    expected = -F.binary_cross_entropy_with_logits(decoder(z), x[:300], reduction="none").sum(-1)
    torch.testing.assert_close(found.model.log_likelihood(x[:300], z), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("output", ["mean-logvar", "mean-variance", "mean-scale"])
def test_a_gaussian_decoder_with_its_own_scale(output: str) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(LATENT, 2 * DIM)
    scale = {"mean-logvar": lambda r: torch.exp(0.5 * r), "mean-variance": lambda r: F.softplus(r).sqrt(),
             "mean-scale": F.softplus}[output]  # fmt: skip

    def decoder(z: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = layer(z).chunk(2, -1)
        return mean, raw if output == "mean-logvar" else F.softplus(raw)

    found = wrap(decoder=decoder, decoder_output=output, likelihood="gaussian", data=torch.randn(300, DIM), check=False)
    z = torch.randn(300, LATENT, generator=seeded())
    mean, raw = layer(z).chunk(2, -1)
    x = torch.randn(300, DIM, generator=seeded(2))
    torch.testing.assert_close(found.model.log_likelihood(x, z), Normal(mean, scale(raw)).log_prob(x).sum(-1))


def test_an_oracle_comes_back_with_its_exact_evidence() -> None:
    model, _, x = ppca(8, 2, seed=0, num_data=300)
    exact = model.exact_guide()
    spread = model.posterior(x).covariance_matrix.detach().diagonal(dim1=-2, dim2=-1).float()
    found = adopt(
        encoder=lambda x: (exact(x.double()).mean.float(), spread[: len(x)]),
        decoder=lambda z: (z.double() @ model.weight.T + model.bias).float(),
        encoder_output="mean-variance",
        decoder_output="mean",
        likelihood="gaussian",
        scale=model.noise_scale,
        data=x.float(),
    )
    (bound,) = found.evaluate("laplace-is", k=200)
    assert bound.value == pytest.approx(model.log_evidence(x).mean().item(), abs=0.01)


def test_another_prior_and_another_shape() -> None:
    encoder, decoder, x = trained()
    prior = Independent(Normal(torch.ones(LATENT), 2 * torch.ones(LATENT)), 1)
    found = wrap(prior=prior, data=x[:300].view(300, 3, 4), train=None, input_shape=(DIM,), check=False,
                 encoder=encoder, decoder=decoder)  # fmt: skip
    z = torch.randn(5, LATENT)
    torch.testing.assert_close(found.model.log_prior(z), prior.log_prob(z))
    assert found.sample(4).x.shape == (4, 3, 4)
    assert wrap(prior=lambda: prior, check=False).model.log_prior(z).shape == (5,)


# --- everything works on it --------------------------------------------------------------------------------------


def test_it_is_measured_examined_drawn_from_and_filled_in() -> None:
    found = wrap()
    settings = {"k": 200, "temperatures": 1, "num_samples": 100}
    values = {result.name: result.value for result in found.evaluate("elbo", "iwae", "ais", **settings)}
    assert values["elbo"] < values["iwae"] < values["ais"] + 0.3
    diagnosis = found.doctor(points=100, checks=["sound", "latents_in_use", "generalises"])
    assert diagnosis.findings and not diagnosis.not_examined
    assert found.posterior(points=4, draws=8, warmup=8, chains=2).z.shape == (8, 2, 4, LATENT)
    gaps = trained()[2][:3].clone()
    gaps[:, :4] = math.nan
    filled = found.impute(gaps, draws=8, warmup=8, chains=2, interval=0.5)
    assert filled.mean.isfinite().all()


# --- wrong conventions are named ---------------------------------------------------------------------------------


def test_logits_taken_for_probabilities() -> None:
    with pytest.raises(ElbowroomError, match="looks like logits"):
        wrap(decoder_output="probabilities")


def test_probabilities_taken_for_logits() -> None:
    encoder, decoder, _ = trained()
    with pytest.raises(ElbowroomError, match="read as 'probabilities' the same numbers raise the bound by"):
        wrap(encoder=encoder, decoder=nn.Sequential(decoder, nn.Sigmoid()), decoder_output="logits")


@pytest.mark.parametrize("said", ["mean-scale", "mean-variance"])
def test_a_log_variance_taken_for_a_scale(said: str) -> None:
    with pytest.raises(ElbowroomError, match="negative or zero") as refusal:
        wrap(encoder_output=said)
    assert "encoder_output='mean-logvar'" in str(refusal.value)


@pytest.mark.parametrize(("truth", "said"), [("mean-variance", "mean-scale"), ("mean-scale", "mean-logvar")])
def test_a_spread_taken_for_another(truth: str, said: str) -> None:
    """A narrow posterior, so that the readings differ by nats."""
    model, _, x = ppca(40, 4, seed=0, num_data=300)
    covariance = model.posterior(x).covariance_matrix.detach().diagonal(dim1=-2, dim2=-1)
    spread = covariance if truth == "mean-variance" else covariance.sqrt()
    mean = model.exact_guide()
    given = {"decoder": lambda z: z @ model.weight.T + model.bias, "decoder_output": "mean", "likelihood": "gaussian",
             "scale": model.noise_scale, "data": x}  # fmt: skip
    with torch.random.fork_rng(devices=()):
        torch.set_default_dtype(torch.float64)
        try:
            with pytest.raises(ElbowroomError, match=f"read as '{truth}'"):
                adopt(encoder=lambda x: (mean(x).mean, spread[: len(x)]), encoder_output=said, **given)
        finally:
            torch.set_default_dtype(torch.float32)


def _loss(found: Adopted, constant: float, factor: float) -> Callable[[Tensor], Tensor]:
    def loss(x: Tensor) -> Tensor:
        with torch.no_grad():
            return (
                -er.objectives.elbo(found.model, found.guide, x, num_samples=64, generator=seeded(3)) - constant
            ) / factor

    return loss


def test_a_loss_without_its_constant_is_explained() -> None:
    x = torch.randn(300, DIM, generator=seeded())
    encoder, decoder, _ = trained()
    given = {"encoder": encoder, "decoder": decoder, "likelihood": "gaussian", "decoder_output": "mean", "scale": 2.0,
             "data": x, "train": None, "check": False}  # fmt: skip
    plain = wrap(**given)
    assert wrap(**given, loss=_loss(plain, 0.0, 1.0)).remark is None
    constant = 0.5 * DIM * math.log(2 * math.pi * 4)
    remark = wrap(**given, loss=_loss(plain, constant, 1.0)).remark
    assert remark is not None and f"{constant:.2f} nats" in remark and "log 2πσ²" in remark
    remark = wrap(**given, loss=_loss(plain, 0.0, DIM)).remark
    assert remark is not None and f"divided by {DIM}" in remark


def test_check_can_be_switched_off() -> None:
    encoder, decoder, _ = trained()
    wrap(encoder=encoder, decoder=nn.Sequential(decoder, nn.Sigmoid()), decoder_output="logits", check=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"likelihood": "bernouli"}, "no likelihood 'bernouli'"),
        ({"decoder_output": "logit"}, "cannot return 'logit'"),
        ({"encoder_output": "mean-std"}, "no encoder_output 'mean-std'"),
        ({"likelihood": "gaussian", "decoder_output": "mean", "data": torch.randn(60, DIM), "train": None}, "scale=σ"),
        ({"encoder": lambda x: x[:, :3]}, "two outputs are needed"),
        ({"decoder": lambda z: z}, "returned shape"),
        ({"data": torch.rand(60, DIM), "train": None}, "0 or 1|binari"),
        ({"prior": Normal(0.0, 1.0)}, "one latent vector"),
    ],
    ids=["likelihood", "decoder", "encoder", "no-sigma", "one-output", "shape", "grey", "prior"],
)
def test_mistakes_are_explained(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ElbowroomError, match=message):
        wrap(**changes)


# --- pythae and Pyro ---------------------------------------------------------------------------------------------


class LikePythae(nn.Module):
    """The interface of pythae's VAE."""

    def __init__(self, loss: str) -> None:
        super().__init__()
        encoder, decoder, _ = trained("record")
        last: nn.Module = nn.Sigmoid() if loss == "bce" else nn.Identity()
        self.encoder, self._decoder, self._last = encoder, decoder, last
        self.model_config = SimpleNamespace(reconstruction_loss=loss)

    def decoder(self, z: Tensor) -> dict[str, Tensor]:
        return {"reconstruction": self._last(self._decoder(z))}


def test_pythae_s_squared_error_gets_its_constant_back() -> None:
    vae, x = LikePythae("mse"), torch.randn(300, DIM, generator=seeded())
    found = adopt_pythae(vae, x, check=False)
    z = torch.randn(300, LATENT, generator=seeded())
    theirs = -0.5 * (x - vae.decoder(z)["reconstruction"]).square().sum(-1)
    torch.testing.assert_close(found.model.log_likelihood(x, z), theirs - 0.5 * DIM * math.log(2 * math.pi))


def test_pythae_s_cross_entropy_is_of_probabilities() -> None:
    vae, x = LikePythae("bce"), bits()[:300]
    found = adopt_pythae(vae, x)
    z = torch.randn(300, LATENT, generator=seeded())
    theirs = -F.binary_cross_entropy(vae.decoder(z)["reconstruction"], x, reduction="none").sum(-1)
    torch.testing.assert_close(found.model.log_likelihood(x, z), theirs, rtol=1e-4, atol=1e-3)
    with pytest.raises(ElbowroomError, match="'bce' and 'mse'"):
        adopt_pythae(nn.Linear(2, 2), x)


@pytest.mark.parametrize("family", ["bernoulli", "normal", "poisson"])
def test_a_pyro_pair_is_the_same_density(family: str) -> None:
    pyro = pytest.importorskip("pyro")
    dist = pyro.distributions
    encoder, decoder, x = trained()
    if family == "poisson":
        x = torch.poisson(torch.full((300, DIM), 2.0), generator=seeded())
    elif family == "normal":
        x = torch.randn(300, DIM, generator=seeded())
    make = {"bernoulli": lambda out: dist.Bernoulli(logits=out), "normal": lambda out: dist.Normal(out, 0.5),
            "poisson": lambda out: dist.Poisson(F.softplus(out))}[family]  # fmt: skip

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("latent", dist.Normal(torch.zeros(len(x), LATENT), 1.5).to_event(1))
            pyro.sample("obs", make(decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        mean, log_variance = encoder(x)
        with pyro.plate("data", len(x)):
            pyro.sample("latent", dist.Normal(mean, torch.exp(0.5 * log_variance)).to_event(1))

    found = er.adopt_pyro(model, guide, x[:300], check=False)
    z = torch.randn(300, LATENT, generator=seeded())
    expected = make(decoder(z)).log_prob(x[:300]).sum(-1) + Normal(0.0, 1.5).log_prob(z).sum(-1)
    torch.testing.assert_close(found.model.log_joint(x[:300], z), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found.guide(x[:5]).stddev, torch.exp(0.5 * encoder(x[:5])[1]))
    before = torch.random.get_rng_state()
    found.guide(x[:5])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_pyro_s_other_programs_are_refused() -> None:
    pyro = pytest.importorskip("pyro")
    dist = pyro.distributions

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Laplace(z.sum(-1, keepdim=True).expand(-1, 3), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))

    def two(x: Tensor) -> None:
        guide(x)
        pyro.sample("more", dist.Normal(0.0, 1.0))

    x = torch.randn(50, 3, generator=seeded())
    with pytest.raises(ElbowroomError, match="Laplace"):
        er.adopt_pyro(model, guide, x)
    with pytest.raises(ElbowroomError, match="2 latent sites"):
        er.adopt_pyro(model, two, x)
