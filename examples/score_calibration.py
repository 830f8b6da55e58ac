"""How the standard errors of `score` compare with exact values of log p(x).

Linear-Gaussian data in 2, 8 and 20 dimensions, and a model with a linear decoder f trained on each. Its log p(x) is
that of a normal distribution with mean f(0) and covariance W Wᵀ + diag(σ²), where W holds the change of f along each
latent.
Prints a table of z = (score − exact) / standard error, over 1,000 rows.

    python examples/score_calibration.py
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.distributions import MultivariateNormal

import elbowroom as er


def main() -> None:
    """Trains the models and prints the table."""
    titles = ("dimensions, latents", "`--method`", "rms", "largest error, nats", "not reliable", "rms of the reliable")
    print(f"| {' | '.join(titles)} | seconds |")
    print("|---" * (len(titles) + 1) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for dim, latents in ((2, 1), (8, 3), (20, 5)):
            x = rows(dim, latents)
            run = trained(x, latents, Path(folder) / str(dim))
            exact = evidence(run, x[:1000])
            for method in ("laplace-is", "iwae"):
                print(line(run, x[:1000], exact, method, f"{dim}, {latents}"), flush=True)


def rows(dim: int, latents: int) -> torch.Tensor:
    """x = W z + 0.05 ε, 1,200 of them, float64."""
    generator = torch.Generator().manual_seed(13)
    weight, z, noise = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((dim, latents), (1200, latents), (1200, dim))
    )
    return z @ weight.T + 0.05 * noise


def trained(x: torch.Tensor, latents: int, out: Path) -> Any:
    """A run with a linear decoder and a small encoder."""
    model = {"latent_dim": latents, "decoder": {"hidden": []}, "encoder": {"hidden": [32]}}
    train = {"epochs": 25, "batch_size": 50}
    return er.train(x, out=out, model=model, train=train, optimizer={"lr": 0.01}, observers=[], announce=lambda _: None)


@torch.no_grad()
def evidence(run: Any, x: torch.Tensor) -> torch.Tensor:
    """log p(x) of every row under the trained model, in closed form."""
    latents = run.config.model.latent_dim
    mean, *moved = run.decode(torch.cat([torch.zeros(1, latents), torch.eye(latents)])).double()
    weight = torch.stack(moved, 1) - mean[:, None]
    noise = run.model.likelihood(torch.zeros(1, latents), None).stddev[0].double()
    return MultivariateNormal(mean, weight @ weight.T + noise.square().diag()).log_prob(x.double())


def line(run: Any, x: torch.Tensor, exact: torch.Tensor, method: str, sizes: str) -> str:
    """A line of the table."""
    begin = time.process_time()
    found = run.score(x, method=method)
    seconds = time.process_time() - begin
    error = found.log_evidence - exact
    z = error / found.stderr
    rms = [f"{float(part.square().mean().sqrt()):.2f}" if len(part) else "—" for part in (z, z[found.reliable])]
    flagged = float((~found.reliable).double().mean())
    cells = (sizes, f"`{method}`", rms[0], f"{float(error.abs().max()):.2g}", f"{flagged:.0%}", rms[1])
    return f"| {' | '.join(cells)} | {seconds:.1f} |"


if __name__ == "__main__":
    main()
