"""``elbowroom impute``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from elbowroom.cli.filled_cells import cell_texts, cells_path, is_rounded, write_cells
from elbowroom.cli.options import Checkpoint, Device, Json, RunPath, Split, load_run, result_path
from elbowroom.cli.speech import print_json, say, wrote
from elbowroom.cli.writing import checked_target, not_taken, save_arrays
from elbowroom.errors import ElbowroomError

if TYPE_CHECKING:
    from elbowroom.running.impute import Imputed, Recovery
    from elbowroom.running.runs import Run
    from elbowroom.samplers.summary import Summary

__all__ = ["impute"]


def impute(
    run: RunPath,
    data: str | None = None,
    *,
    mask: Path | None = None,
    hide: str | None = None,
    split: Split = None,
    num: int | None = None,
    method: Literal["nuts", "hmc"] | None = None,
    draws: int = 200,
    chains: int = 4,
    warmup: int = 150,
    interval: float = 0.9,
    target_acceptance: float | None = None,
    jumps: bool = False,
    seed: int = 0,
    out: Path | None = None,
    checkpoint: Checkpoint = "best",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Fill in missing values, each with a credible interval; complete partly hidden pictures.

    Parameters
    ----------
    data
        A path or a built-in name, with NaN or an empty cell where a value is missing (default: a split of the run's
        own data).
    mask
        A .npy file that is 1 where a value was observed, of the shape of all the data or of one example.
    hide
        Hide known values, to see how well they are recovered: top, bottom, left or right (half of a picture), or a
        rate such as 0.3.
    split
        Split of the run's own data (default: test); DATA has none.
    num
        Number of examples (default: all of DATA, or 10 of a split).
    method
        Sampler of the latents' posterior: the No-U-Turn sampler (default: nuts), or Hamiltonian Monte Carlo. Codes are
        drawn without chains, and have no method.
    draws
        Draws that each chain keeps.
    chains
        Chains per example; of codes there are as many draws in all.
    warmup
        Warm-up transitions of each chain, before the first draw that is kept.
    interval
        Probability of the credible intervals.
    target_acceptance
        Acceptance that the step sizes are adapted to (default: 0.65); nearer to 1, steps are smaller, and diverge less.
    jumps
        Let the chains also jump between the modes of a posterior, where it has several.
    seed
        Seed of the chains, and of the values hidden at random.
    out
        The .npz file (default: RUN/imputed.npz). For a table, the completed table is written beside it as .csv; of data
        that are no real numbers, whole numbers stand there, and NAME-cells.csv says how sure each of them is.
    """
    import torch

    from elbowroom.data.csv.reading import is_table
    from elbowroom.running.impute import impute as filled_in
    from elbowroom.showing import gallery, plots, terminal

    if num is not None and num < 1:
        raise ElbowroomError(f"--num is {num}, but at least one example is needed.", "Give --num 1 or more.")
    target = checked_target(out or result_path(run, "imputed.npz", checkpoint), folder=run, suffix=".npz")
    source = None if data is None else Path(data).expanduser()
    # a table is written only if its missing values are real, not hidden for a test
    table = source is not None and hide is None and is_table(source) and source.is_file()
    beside = target.with_suffix(".csv") if table else None
    written = () if beside is None else (beside, cells_path(beside))
    over = next((path for path in written if source is not None and path.exists() and path.samefile(source)), None)
    if over is not None:
        raise ElbowroomError(
            f"The completed table would be written to {over}, over the data themselves.", "Name another --out."
        )
    loaded = load_run(run, device, checkpoint)
    with terminal.sampling_progress() as announce:
        found = filled_in(
            loaded, data, mask=mask, hide=hide, split=split, num=10 if num is None and data is None else num, seed=seed,
            announce=announce, method=method, draws=draws, chains=chains, warmup=warmup, interval=interval,
            target_acceptance=target_acceptance, jumps=jumps,
        )  # fmt: skip
    chains_of = found.diagnostics
    summary = None if chains_of is None else chains_of.summary(generator=torch.Generator().manual_seed(seed))
    paths = [_write_arrays(target, found)]
    if beside is not None and _is_the_table(found, loaded):
        assert source is not None
        paths += _write_table(source, beside, found, loaded)
    if plots.is_image(loaded.facts.event_shape):
        paths.append(gallery.save(loaded, "completions", gallery.completions(loaded, found)))
    if as_json:
        print_json(_report(run, data or split or "test", found, summary) | {"wrote": [str(path) for path in paths]})
        return
    for line in _summary_lines(found, summary):
        say(line)
    wrote(*paths)


def _write_arrays(path: Path, found: Imputed) -> Path:
    optional = {name: getattr(found, name) for name in ("mean", "lower", "upper", "stddev", "probability", "truth")}
    arrays = {name: tensor for name, tensor in optional.items() if tensor is not None}
    arrays |= {"x": found.x, "mask": found.mask, "completed": found.completed, "samples": found.samples}
    arrays |= {"rows": found.rows}
    save_arrays(path, **arrays, **not_taken(found.ids, arrays))
    return path


def _summary_lines(found: Imputed, summary: Summary | None) -> list[str]:
    missing, data = len(found.incomplete), len(found.x)
    lines = [
        f"filled in {found.num_missing:,} of {found.mask.numel():,} values, in {missing:,} of {data:,} examples",
        _of_codes(found) if summary is None else _of_chains(summary),
    ]
    if found.recovery is not None:
        lines += _recovery_lines(
            found.recovery,
            found.interval,
            binary=found.support == "binary",
            discrete=found.support in ("bytes", "counts"),
        )
    warnings = _warnings_of_codes(found) if summary is None else summary.warnings()
    return [*lines, *(f"warning: {text}" for text in warnings)]


def _of_chains(summary: Summary) -> str:
    worst, null = summary.rhat, summary.rhat_null
    return (
        f"{summary.num_replicas} chains of {summary.num_draws:,} draws each: R-hat 99 % quantile {worst.q99:.3f} "
        f"({null.q99:.3f} if the draws were independent); bulk ESS at least {summary.ess_bulk.q99:,.0f} for 99 % of "
        f"the examples; {summary.divergences:,} divergent transitions"
    )


def _of_codes(found: Imputed) -> str:
    draws = f"{found.settings['draws']:,} draws of codes each"
    if found.ess is None:
        return f"{draws}, exact and independent: p(z | x) was summed over all codes"
    return (
        f"{draws}, chosen from {found.settings['weighted']:,} weighted ones, of which {float(found.ess.median()):,.0f} "
        f"are effective (median of the examples; {float(found.ess.min()):,.0f} at least)"
    )


def _warnings_of_codes(found: Imputed) -> list[str]:
    from elbowroom.evaluation.thresholds import LEAST_ESS

    few = 0 if found.ess is None else int((found.ess < LEAST_ESS).sum())
    if not few:
        return []
    them = f"{few:,} of the {len(found.incomplete):,} examples {'has' if few == 1 else 'have'}"
    return [
        f"{them} fewer than {LEAST_ESS:.0f} effective draws, so that the samples repeat a few codes and the intervals "
        "are too narrow: give more --draws."
    ]


def _recovery_lines(recovery: Recovery, interval: float, *, binary: bool, discrete: bool) -> list[str]:
    lines = []
    if recovery.coverage is not None and not binary:  # both ends, 0 and 1, say nothing
        least = " (of whole numbers, that or more is right)" if discrete else ""
        inside = f"{recovery.coverage:.1%} lie in their {100 * interval:g} % intervals{least}"
        lines.append(f"of {recovery.num_values:,} hidden values {inside}")
    if recovery.measure == "accuracy":
        lines.append(
            f"of {recovery.num_values:,} hidden categories {recovery.value:.1%} are right, where the model expects "
            f"{recovery.baseline:.1%}"
        )
    else:
        unit = " nats per hidden value" if recovery.measure == "log-loss" else ""
        lines.append(
            f"{recovery.measure} {recovery.value:.4g}{unit}, and {recovery.baseline:.4g} with the mean filled in"
        )
    if recovery.names is not None:
        lines += _recovery_lines(recovery.names, interval, binary=False, discrete=False)
    return lines


def _report(run: Path, data: str, found: Imputed, summary: Summary | None) -> dict[str, Any]:
    recovery = None if found.recovery is None else found.recovery._asdict()
    if found.recovery is not None:
        names = found.recovery.names
        recovery = {key: value for key, value in found.recovery._asdict().items() if key != "names"}
        recovery |= {} if names is None else {"names": names._asdict()}
    return {
        "run": str(run),
        "data": data,
        "values": found.mask.numel(),
        "missing": found.num_missing,
        "incomplete_data": len(found.incomplete),
        "interval": found.interval,
        "recovery": recovery,
        "settings": found.settings,
        "diagnostics": _diagnostics(found, summary),
    }


def _diagnostics(found: Imputed, summary: Summary | None) -> dict[str, Any]:
    if summary is not None:
        return summary.as_dict()
    if found.ess is None:
        return {"exact": True}
    return {
        "ess": {"median": float(found.ess.median()), "least": float(found.ess.min())},
        "warnings": _warnings_of_codes(found),
    }


def _is_the_table(found: Imputed, run: Run) -> bool:
    """Whether the values are in the units of the table."""
    return found.as_stored and len(run.facts.event_shape) == 1


def _text(cell: Any, *, comma: bool) -> str:
    """A filled cell as it is written: truths in lower case, numbers with the decimal mark of the table."""
    if isinstance(cell, bool):
        return str(cell).lower()
    return str(cell).replace(".", ",") if comma and isinstance(cell, float) else str(cell)


def _write_table(source: Path, target: Path, found: Imputed, run: Run) -> list[Path]:
    """Writes the table with its missing cells filled in and all others unchanged, as many rows as were used."""
    from elbowroom.data.csv.cells import as_numbers
    from elbowroom.data.csv.dialect import SEPARATORS
    from elbowroom.data.csv.reading import notation_of, read_table
    from elbowroom.data.support import Support
    from elbowroom.running.checkpoints import write_text_atomically

    own = run.config.data
    aside = run.naming.beside
    notation = notation_of(own.decimal, own.missing_values)
    identifier = () if own.id is None else (own.id,)
    read = read_table(source, separator=own.separator, notation=notation, as_text=identifier)
    if found.columns is not None:  # every cell as it is written
        notation = notation_of(own.decimal, own.missing_values)
        read = read_table(source, separator=own.separator, notation=notation, as_text=read.frame.columns)
    frame = read.without_index((*aside, *(run.naming.columns or ())))[: len(found.x)]
    columns = run.naming.columns  # in the order of training, which need not be that of the table
    if columns is None or not set(columns).issubset(frame.columns):
        columns = tuple(name for name in frame.columns if name not in aside)
    observed, filled_in = found.mask.numpy(), set[str]()
    typed = None if found.columns is None else found.table
    for place, name in enumerate(columns):
        series, whole = frame[name], bool(observed[:, place].all())
        if typed is not None:
            text = series.cast(str).to_list()
            given = list(zip(text, typed[name].to_list(), observed[:, place], strict=True))
            comma = own.decimal == "comma"
            cells = [old if seen else _text(new, comma=comma) for old, new, seen in given]
            frame = frame.with_columns(type(series)(name, cells))
            continue
        words = whole and not series.cast(str).str.contains("[0-9]").any()  # yes and no, which stay
        if not (series.dtype.is_numeric() or words) and found.support not in (Support.BINARY, Support.CATEGORIES):
            series = type(series)(name, as_numbers(series, name, source.name, read.notation))
            frame = frame.with_columns(series)  # in one notation, be there something to fill in or not
        if not whole:
            text = series.cast(str).to_list()  # observed cells keep their text, unrounded
            filled = cell_texts(found, place, text)
            cells = [old if seen else new for old, new, seen in zip(text, filled, observed[:, place], strict=True)]
            frame = frame.with_columns(type(series)(name, cells))
            if found.support not in (Support.BINARY, Support.CATEGORIES):
                filled_in.add(name)
    separator = SEPARATORS.get(own.separator, ";" if own.decimal == "comma" else ",")
    if own.decimal == "comma":  # the run reads other tables so, and this one
        numeric = [name for name, dtype in frame.schema.items() if dtype.is_float() or name in filled_in]
        commas = [frame[name].cast(str).str.replace(".", ",", literal=True) for name in numeric]
        frame = frame.with_columns(commas)
    write_text_atomically(target, frame.write_csv(include_header=read.has_header, separator=separator))
    if is_rounded(found) or found.columns is not None:
        return [target, write_cells(cells_path(target), found, columns)]
    return [target]
