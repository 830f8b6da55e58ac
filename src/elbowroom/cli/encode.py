"""``elbowroom encode``: means of q(z | x), codes, or posterior draws by MCMC."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from elbowroom.cli.options import Checkpoint, Device, RunPath, Split, load_run, result_path
from elbowroom.cli.speech import say, wrote
from elbowroom.cli.writing import checked_target, not_taken, write_arrays, write_csv
from elbowroom.errors import ElbowroomError

if TYPE_CHECKING:
    from torch import Tensor

    from elbowroom.running.outputs import Encoded

__all__ = ["encode"]


def encode(
    run: RunPath,
    data: str | None = None,
    *,
    split: Split = None,
    posterior: Literal["nuts", "hmc"] | None = None,
    points: int | None = None,
    draws: int | None = None,
    chains: int | None = None,
    warmup: int | None = None,
    metric: Literal["gauss-newton", "guide", "diagonal", "dense", "identity"] | None = None,
    target_acceptance: float | None = None,
    precision: Literal["full", "bf16"] | None = None,
    jumps: bool = False,
    codes: bool = False,
    seed: int | None = None,
    out: Path | None = None,
    checkpoint: Checkpoint = "best",
    device: Device = None,
) -> None:
    """Write mean and standard deviation of q(z | x) as .npz, with a picture; or sample p(z | x) by MCMC.

    Of a run whose latents are codes, the .npz file holds codes, the number of the most likely code of each slot, and
    probs, the probability of every code of every slot.

    Parameters
    ----------
    data
        Other data: a path or a built-in name (default: a split of the run's own data).
    split
        Split of the run's own data (default: test); DATA has none.
    posterior
        Sample the posterior itself, by the No-U-Turn sampler or by Hamiltonian Monte Carlo, with diagnostics.
    points
        Number of examples of the split whose posteriors are sampled (default: all).
    draws
        Draws that each chain keeps (default: 400).
    chains
        Chains per example (default: 4).
    warmup
        Warm-up transitions of each chain, before the first draw that is kept (default: 200).
    metric
        Metric (mass matrix) of the sampler: from the curvature of the likelihood (gauss-newton, the default), the
        guide's variance, or the draws of the warm-up (diagonal, dense); or none (identity).
    target_acceptance
        Acceptance that the step sizes are adapted to (default: 0.65); nearer to 1, steps are smaller, and diverge less.
    precision
        bf16 computes the gradients inside trajectories in half precision; the draws stay exact.
    jumps
        Let the chains also jump between the modes of a posterior, where it has several.
    codes
        Write the codes alone, whole numbers from 0, as CSV: a column for each slot (code_1, code_2, …) beside row (the
        position in the data), identifiers and label where there are any.
    seed
        Seed of the chains (default: 0).
    out
        The .npz file (default: RUN/encoded.npz, or RUN/posterior.npz with --posterior, whose diagnostics the report
        then shows); with --codes the .csv file (default: RUN/codes.csv).
    """
    from elbowroom.running.chain_record import about_chains
    from elbowroom.showing import code_gallery, gallery, terminal

    chosen: dict[str, Any] = {"points": points, "draws": draws, "chains": chains, "warmup": warmup, "metric": metric,
              "target_acceptance": target_acceptance, "precision": precision, "jumps": jumps or None,
              "seed": seed}  # fmt: skip
    settings = {name: value for name, value in chosen.items() if value is not None}
    if posterior is None and settings:
        raise ElbowroomError(
            f"--{next(iter(settings)).replace('_', '-')} is about sampling the posterior, but --posterior was not "
            "given.",
            "Add --posterior nuts (or hmc), or leave it out.",
        )
    if posterior is not None and codes:
        raise ElbowroomError(
            "--codes writes the guide's codes, and --posterior samples a continuous z.", "Give one of them."
        )
    name = "codes.csv" if codes else "encoded.npz" if posterior is None else "posterior.npz"
    target = checked_target(out or result_path(run, name, checkpoint), folder=run, suffix=Path(name).suffix)
    loaded = load_run(run, device, checkpoint)
    if codes and loaded.model.latent_support == "real":
        raise ElbowroomError(
            f"--codes writes the codes of discrete latents, but those of this run are real vectors "
            f"({loaded.config.model.latents}).",
            "Leave it out: then means and standard deviations of q(z | x) are written.",
        )
    arrays: dict[str, Tensor | Sequence[str]]
    if posterior is None:
        encoded = loaded.encode(data, split=split)
        if codes:
            columns = _code_columns(encoded)
            write_csv(target, list(columns), zip(*columns.values(), strict=True))
            wrote(target)
            return
        arrays = {"mean": encoded.mean, "stddev": encoded.stddev}
        if encoded.codes is not None:
            arrays = {"codes": encoded.codes, "probs": loaded.model.space.split(encoded.mean)}
        if encoded.labels is not None:
            arrays["labels"] = encoded.labels
        if encoded.labels is not None and encoded.classes is not None:
            arrays["classes"] = encoded.classes
        write_arrays(target, **_with_rows(arrays, encoded.rows))
        if encoded.codes is None:
            wrote(gallery.save(loaded, "latents", gallery.latents(encoded)))
        else:
            wrote(gallery.save(loaded, "codes", code_gallery.codes(loaded, encoded)))
        return
    given, _ = loaded.asked(data, split, None, None, missing="mask", command=posterior)
    with terminal.sampling_progress() as announce:
        found = loaded.posterior(
            None if data is None else given, split=split, announce=announce, method=posterior, **settings
        )
    summary, known = found.summary(), found.diagnostics
    say(summary.text())
    arrays = {
        "z": found.z, "mean": found.z.mean((0, 1)), "stddev": found.z.flatten(0, 1).std(0), "rhat": known.rhat,
        "ess_bulk": known.ess_bulk, "ess_tail": known.ess_tail, "divergences": known.divergences,
        "acceptance": known.acceptance, "step_size": found.tuning.step_size,
        "about": [about_chains(loaded.step, str(data or split or "test"), found.settings, summary)],
    }  # fmt: skip
    if known.disagreement is not None:
        arrays["disagreement"] = known.disagreement
    write_arrays(target, **_with_rows(arrays, {} if found.index is None else given.row_columns(found.index)))


def _code_columns(encoded: Encoded) -> dict[str, Sequence[Any]]:
    """The columns of a table of codes: rows, identifiers, labels and a column for each slot."""
    assert encoded.codes is not None
    slots = {f"code_{slot}": numbers for slot, numbers in enumerate(encoded.codes.T.tolist(), start=1)}
    labels = {} if encoded.class_names is None else {"label": encoded.class_names}
    first, *others = encoded.rows.items()
    return {**dict([first]), **not_taken(dict(others), [*labels, *slots]), **labels, **slots}


def _with_rows(arrays: dict[str, Tensor | Sequence[str]], rows: dict[str, list[Any]]) -> dict[str, Any]:
    """The arrays, with positions in the data as ``rows``, and identifiers under their column's name."""
    import torch

    if "row" in rows:
        arrays = {**arrays, "rows": torch.tensor(rows["row"])}
    return {**arrays, **not_taken({name: ids for name, ids in rows.items() if name != "row"}, arrays)}
