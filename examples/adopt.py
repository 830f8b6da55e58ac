"""Bring your own VAE: thirty lines of plain PyTorch on the bundled digits, then measured and examined.

python examples/adopt.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import elbowroom as er


class Encoder(nn.Module):
    """x to the mean and the log-variance of q(z | x)."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(64, 128)
        self.mean, self.log_variance = nn.Linear(128, 8), nn.Linear(128, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.trunk(x))
        return self.mean(h), self.log_variance(h)


def train(x: Tensor, steps: int = 1500) -> tuple[Encoder, nn.Sequential]:
    """The loop that everybody writes; the decoder ends in probabilities."""
    encoder, decoder = Encoder(), nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 64), nn.Sigmoid())
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=2e-3)
    for _ in range(steps):
        batch = x[torch.randint(len(x), (128,))]
        mean, log_variance = encoder(batch)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)
        loss = (F.binary_cross_entropy(decoder(z), batch, reduction="none").sum(1) + kl).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return encoder, decoder


def main() -> None:
    """Trains, adopts, measures, examines; and shows what a wrong convention gets."""
    torch.manual_seed(0)
    x = torch.bernoulli(torch.as_tensor(load_digits().data, dtype=torch.float32) / 16)
    held_out, training = x[:400], x[400:]
    encoder, decoder = train(training)
    given = {"encoder": encoder, "decoder": decoder, "likelihood": "bernoulli", "data": held_out, "train": training}
    model = er.adopt(**given, encoder_output="mean-logvar", decoder_output="probabilities")
    for result in model.evaluate("elbo", "iwae", "ais", "bdmc", k=1000, simulated=400):
        print(f"{result.name:<15}{result.value:9.3f} ± {result.stderr or 0:.3f} {result.unit}")
    print()
    print(er.diagnosis_text("adopted", model.doctor(points=400, checks=["sound", "latents_in_use", "amortisation"])))
    try:
        er.adopt(**given, encoder_output="mean-logvar", decoder_output="logits")
    except er.ElbowroomError as refusal:
        print(f"\nwith decoder_output='logits':\n{refusal}")


if __name__ == "__main__":
    main()
