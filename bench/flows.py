"""What flows cost: seconds for draws, their densities, and densities of other z.

python -m bench.flows [--draws 64] [--latents 40] [--repeats 5]

The flows have their default sizes and random weights. The least of several repeats counts, which is that of a machine
with nothing else to do.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch.distributions import Distribution

from elbowroom.model.draws import draw
from elbowroom.model.flows import FLOW_GUIDES, FLOW_PRIORS
from elbowroom.model.guides import DiagonalNormal
from elbowroom.model.networks import MLP
from elbowroom.model.priors import StandardNormal


def distributions(latents: int) -> dict[str, Distribution]:
    """One of each flow, and the normal distributions beside them, for a single example."""
    x = torch.zeros(1, 784)
    found: dict[str, Distribution] = {"prior normal": StandardNormal(latents)(None)}
    found |= {f"prior {name}": kind(latents)(None) for name, kind in FLOW_PRIORS.items()}
    found["guide diagonal"] = DiagonalNormal(MLP((784,), DiagonalNormal.parameter_shape(latents)), latents)(x)
    for name, kind in FLOW_GUIDES.items():
        found[f"guide {name}"] = kind(MLP((784,), kind.parameter_shape(latents)), latents)(x)
    return found


@torch.no_grad()
def seconds(compute: Callable[[], object], repeats: int) -> float:
    """The least wall time of several calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        compute()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=64)
    parser.add_argument("--latents", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    print(f"seconds for {options.draws} z of {options.latents} latents, threads: {torch.get_num_threads()}")
    print(f"{'':16}{'draws':>10}{'and density':>14}{'density of others':>20}")
    for name, law in distributions(options.latents).items():
        generator = torch.Generator().manual_seed(0)
        others = torch.randn(options.draws, *law.batch_shape, options.latents, generator=generator)

        def drawn(law: Distribution = law, generator: torch.Generator = generator) -> torch.Tensor:
            return draw(law, (options.draws,), generator=generator)

        def with_density(law: Distribution = law, drawn: Callable[[], torch.Tensor] = drawn) -> object:
            return law.log_prob(drawn())

        def elsewhere(law: Distribution = law, others: torch.Tensor = others) -> object:
            return law.log_prob(others)

        found = [seconds(compute, options.repeats) for compute in (drawn, with_density, elsewhere)]
        print(f"{name:16}{found[0]:10.4f}{found[1]:14.4f}{found[2]:20.4f}")


if __name__ == "__main__":
    main()
