"""Networks as people hand them over: in training mode, in functions, in two precisions, for other shapes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.utils.data import DataLoader, Dataset, TensorDataset

from elbowroom.adopting.adopt import Adopted, adopt
from elbowroom.errors import ElbowroomError

DIM, LATENT = 64, 2


def bits(num_data: int = 300) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    z, weight = torch.randn(num_data, LATENT, generator=generator), torch.randn(LATENT, DIM, generator=generator)
    return torch.bernoulli(torch.sigmoid(z @ weight), generator=generator)


class Encoder(nn.Module):
    def __init__(self, form: str = "pair") -> None:
        super().__init__()
        self.layer, self.form = nn.Linear(DIM, 2 * LATENT), form

    def forward(self, x: Tensor) -> Any:
        mean, second = self.layer(x).chunk(2, -1)
        match self.form:
            case "triple":
                return mean, mean, second
            case "distribution":
                return Normal(mean, second.exp())
            case "log-sigma":
                return {"mu": mean, "log_sigma": second}
        return mean, second


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.filters, self.layer = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(256, 2 * LATENT)

    def forward(self, x: Tensor) -> Any:
        return self.layer(torch.relu(self.filters(x)).flatten(1))


def normalising() -> nn.Sequential:
    """A decoder with batch normalisation and dropout, in training mode, whose averages are those of training."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(LATENT, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, DIM))
    for _ in range(50):
        net(2 + torch.randn(64, LATENT))
    return net


def wrap(**changes: Any) -> Adopted:
    torch.manual_seed(0)
    given = {"encoder": Encoder(), "decoder": nn.Linear(LATENT, DIM), "encoder_output": "mean-logvar",
             "decoder_output": "logits", "likelihood": "bernoulli", "data": bits(), "check": False}  # fmt: skip
    return adopt(**(given | changes))


# --- training mode ---


@pytest.mark.parametrize("form", ["module", "function", "method"])
def test_evaluation_mode_reaches_the_decoder_wherever_it_is(form: str) -> None:
    net = normalising()
    before, expected = copy.deepcopy(net.state_dict()), copy.deepcopy(net).eval()
    decoder = {"module": net, "function": lambda z: net(z), "method": net.forward}[form]
    found = wrap(decoder=decoder)
    z = torch.randn(5, LATENT, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(found.model.likelihood(z).logits, expected(z))
    found.evaluate("elbo")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net.training


def test_networks_that_are_refused_are_left_in_their_mode() -> None:
    net = normalising()
    with pytest.raises(ElbowroomError):
        wrap(decoder=lambda z: net(z), encoder=Encoder("triple"))
    assert net.training and net[1].training and net[2].training


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_network_that_cannot_be_found_is_found_out(part: str) -> None:
    """Hidden so that nobody sees it: in a list that an object's method builds."""

    class Hidden:
        __slots__ = ("call",)

        def __init__(self, net: nn.Module) -> None:
            self.call = net.forward

        def __call__(self, given: Tensor) -> Any:
            return self.call(given)

    net = normalising() if part == "decoder" else nn.Sequential(Encoder().layer, nn.Dropout(0.5))
    with pytest.raises(ElbowroomError, match=f"The {part} (is not a deterministic function|fails)") as refusal:
        wrap(**{part: Hidden(net)})
    assert "Call .eval() on the network first" in str(refusal.value)
    net.eval()
    wrap(**{part: Hidden(net)})


# --- precision ---


def test_two_precisions_are_refused_and_nothing_is_cast() -> None:
    encoder, decoder = Encoder().double(), nn.Linear(LATENT, DIM)
    with pytest.raises(ElbowroomError, match="weights of float64 and float32") as refusal:
        wrap(encoder=encoder, decoder=decoder)
    assert "encoder.double() and decoder.double()" in str(refusal.value)
    assert (encoder.layer.weight.dtype, decoder.weight.dtype) == (torch.float64, torch.float32)


@pytest.mark.parametrize("functions", [False, True], ids=["modules", "functions"])
@pytest.mark.parametrize("data", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("weights", [torch.float32, torch.float64], ids=str)
def test_the_networks_precision_is_kept(functions: bool, data: torch.dtype, weights: torch.dtype) -> None:
    encoder, decoder = Encoder().to(weights), nn.Linear(LATENT, DIM).to(weights)
    given: dict[str, Any] = {"encoder": encoder, "decoder": decoder}
    if functions:
        given = {"encoder": lambda x: encoder(x), "decoder": lambda z: decoder(z)}
    found = wrap(**given, data=bits().to(data), check=True)
    assert found.sample(3).z.dtype == weights
    assert found.data.dtype == weights
    assert found.evaluate("elbo")[0].value < 0
    assert encoder.layer.weight.dtype == decoder.weight.dtype == weights


# --- first calls ---


@pytest.mark.parametrize(
    ("changes", "problem", "remedy"),
    [
        ({"encoder": Convolutional()}, r"The encoder fails on a tensor of shape \(8, 64\)", "input_shape=(1, 8, 8)"),
        ({"encoder": Convolutional(), "data": bits().view(-1, 8, 8)}, r"shape \(8, 8, 8\)", "input_shape=(1, 8, 8)"),
        ({"data": bits()[:, :60]}, r"shape \(8, 60\)", "data like those that it was trained on"),
        ({"decoder": nn.Linear(3, DIM)}, r"The decoder fails on a tensor of shape \(8, 2\)", "z has 2 elements"),
        ({"input_shape": (1, 8, 4)}, "input_shape is \\(1, 8, 4\\), with 32 elements", "input_shape=(64,)"),
        ({"encoder": Encoder("triple")}, "a tuple of 3", "net(x)[1:3]"),
        ({"encoder": Encoder("distribution")}, "means 'mean-scale'", "encoder_output='mean-scale'"),
        ({"encoder": Encoder("log-sigma")}, "means 'mean-logscale'", "encoder_output='mean-logscale'"),
        (
            {"decoder": lambda z: {"mean": z @ torch.ones(2, DIM), "scale": z.exp() @ torch.ones(2, DIM)},
             "likelihood": "gaussian", "decoder_output": "mean-logvar"},
            "decoder_output is 'mean-logvar', but the decoder returned 'mean' and 'scale'", "'mean-scale'",
        ),
        ({"prior": Independent(Normal(torch.zeros(3), 1.0), 1)}, "the encoder's z has 2 elements", "shape (2,)"),
    ],
    ids=["conv-flat", "conv-rows", "width", "latent", "input-shape", "triple", "normal", "log-sigma", "decoder",
         "prior"],
)  # fmt: skip
def test_networks_for_other_data_are_explained(changes: dict[str, Any], problem: str, remedy: str) -> None:
    with pytest.raises(ElbowroomError, match=problem) as refusal:
        wrap(**changes)
    assert remedy in str(refusal.value)


def test_the_remedies_work() -> None:
    assert wrap(encoder=Convolutional(), input_shape=(1, 8, 8)).data.event_shape == (DIM,)
    triple, logged = Encoder("triple"), Encoder("log-sigma")
    wrap(encoder=lambda x: triple(x)[1:3])
    wrap(encoder=Encoder("distribution"), encoder_output="mean-scale")
    found = wrap(encoder=logged, encoder_output="mean-logscale")
    x = bits(5)
    torch.testing.assert_close(found.guide(x).stddev, logged(x)["log_sigma"].exp())


# --- data ---


class Rows(Dataset[tuple[Tensor, int]]):
    def __len__(self) -> int:
        return 300

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return bits()[row], row


@pytest.mark.parametrize("source", [TensorDataset(bits(), torch.arange(300)), Rows(), bits().numpy(), bits().tolist()])
def test_data_sets_of_torch_are_taken(source: Any) -> None:
    found = wrap(data=source, train=TensorDataset(bits()))
    assert (found.data.size("test"), found.data.size("train")) == (300, 300)
    assert torch.equal(next(found.data.batches("test", 300)).x, bits())


@pytest.mark.parametrize(
    ("changes", "problem", "remedy"),
    [
        ({"data": DataLoader(TensorDataset(bits()))}, "data is a DataLoader", "data=dataset.tensors[0]"),
        ({"train": DataLoader(TensorDataset(bits()))}, "train is a DataLoader", "train=dataset.tensors[0]"),
        ({"data": "digits.npy"}, "data is a str", "an array of shape"),
        ({"train": bits()[:, :60]}, r"\(64,\), but those in train \(60,\)", "the same shape"),
    ],
    ids=["loader", "training-loader", "path", "shapes"],
)
def test_other_data_are_refused(changes: dict[str, Any], problem: str, remedy: str) -> None:
    with pytest.raises(ElbowroomError, match=problem) as refusal:
        wrap(**changes)
    assert remedy in str(refusal.value)


def test_a_data_set_brings_its_own_training_data() -> None:
    own = wrap(train=bits()).data
    assert wrap(data=own).data.size("train") == 300
    with pytest.raises(ElbowroomError, match="has its own split 'train'"):
        wrap(data=own, train=bits())
