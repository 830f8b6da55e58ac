"""Why one does not estimate log p(x) with draws from the prior: the exp(-d) law, measured and drawn.

    python examples/prior_sampling.py                       # two minutes; writes prior_sampling.png
    python examples/prior_sampling.py --dims 1 2 5 10 20    # seconds

Linear-Gaussian models of d latent dimensions have an exact log p(x). For each, the number of evaluations of the decoder
that bring the mean error of an estimate down to one nat: with draws of the prior, with draws of a guide that is as
imperfect as a trained one, and with annealed importance sampling from the prior.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

import elbowroom as er

_DIMS = (1, 2, 3, 5, 7, 10, 12, 15, 20, 30, 40, 50)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints a table and draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, nargs="+", default=_DIMS, help="numbers of latent dimensions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="prior_sampling.png", help="the picture")
    options = parser.parse_args(argv)
    study = er.prior_sampling_study(options.dims, generator=torch.Generator().manual_seed(options.seed))
    for information in sorted({cost.information for cost in study.costs}):
        print(f"\n{information:g} nat per dimension: decoder evaluations per example for an error of one nat")
        print("   d" + "".join(f"{method:>16}" for method in ("prior", "guide", "ais")))
        for dim in options.dims:
            costs = {c.method: c for c in study.costs if (c.information, c.latent_dim) == (information, dim)}
            shown = (f"{'' if c.reached else '> '}{c.evaluations:,.1f}" for c in (costs[m] for m in costs))
            print(f"{dim:4d}" + "".join(f"{text:>16}" for text in shown))
        for rate in study.rates:
            if rate.information == information:
                law = "exp({} d)" if rate.law == "exponential" else "d ^ {}"
                theory = "" if rate.theory is None else f" (theory {rate.theory:.3f})"
                print(f"{rate.method:>8}: " + law.format(f"({rate.rate:.3f} ± {rate.stderr:.3f})") + theory)
    rows = ([row._asdict() for row in table] for table in (study.costs, study.ess, study.rates))
    er.plots.prior_sampling_figure(*rows, path=options.out)
    print(f"\nwrote {options.out}")


if __name__ == "__main__":
    main()
