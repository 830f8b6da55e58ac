"""The command line: what the user types, and what is printed back. The work is done elsewhere.

Every import that is slow stands inside a command, so that ``elbowroom --help`` imports neither torch nor scikit-learn.
A user's mistake prints its message and exits with 2, Ctrl-C with 130; a bug shows its traceback.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter
from pydantic import ValidationError

from elbowroom import __version__
from elbowroom.errors import ElbowroomError
from elbowroom.running.config import Config, DataConfig, explain, recipe_names, recipe_text

if TYPE_CHECKING:
    from elbowroom.running.runs import Run

__all__ = ["app", "main"]

app = App(
    name="elbowroom",
    help="Learn a latent-variable model, and know what it is worth.",
    version=__version__,
    default_parameter=Parameter(negative=()),
    result_action="return_value",
)
_data = App(name="data", help="Built-in data sets, and what elbowroom sees in your own.")
_recipes = App(name="recipes", help="Configurations that come with the package.")
_runs = App(name="runs", help="Trained runs.")
for _sub in (_data, _recipes, _runs):
    app.command(_sub)

Split = Literal["train", "validation", "test"]
RunPath = Annotated[Path, Parameter(help="The run folder.")]
Json = Annotated[bool, Parameter(name="--json", help="Print one JSON object and nothing else on standard output.")]
Device = Annotated[str | None, Parameter(help="Where to compute; the run's own device unless given.")]
Names = Annotated[list[str] | None, Parameter(consume_multiple=True)]


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; exits with 0, 2 (something the user can put right) or 130 (Ctrl-C)."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    command = f"elbowroom: {tokens[0]}: " if tokens and not tokens[0].startswith("-") else "elbowroom: "
    try:
        app(tokens, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        _fail(f"{command}{_flag_fault(error)}", 2)
    except ElbowroomError as error:
        _fail(f"{command}{error}", 2)
    except KeyboardInterrupt:
        _fail(f"{command}interrupted; what was saved stays, and `--resume` goes on from there.", 130)
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        sys.stderr.close()
        raise SystemExit(0) from None


def _flag_fault(error: CycloptsError) -> ElbowroomError:
    """A misspelt or ill-valued flag in elbowroom's own words."""
    if isinstance(error.__cause__, ValidationError):
        return explain(error.__cause__, "flags")
    text = " ".join(line.strip() for line in str(error).splitlines())
    return ElbowroomError(text, "`elbowroom --help` lists the commands, `elbowroom COMMAND --help` the options.")


def _fail(message: str, code: int) -> None:
    print(message, file=sys.stderr)  # noqa: T201
    raise SystemExit(code)


def _say(text: str = "") -> None:
    print(text)  # noqa: T201


def _remark(text: str) -> None:
    """A remark that is no result: to standard error, so that --json stays clean."""
    print(text, file=sys.stderr)  # noqa: T201


def _print_json(content: Mapping[str, Any]) -> None:
    _say(json.dumps(content, indent=2, default=str))


def _wrote(*paths: Path) -> None:
    for path in paths:
        _say(f"wrote {path}")


def _load(run: Path, device: str | None = None) -> Run:
    from elbowroom.running.runs import load

    return load(run, device=device, announce=_remark)


# --- learning ----------------------------------------------------------------------------------------------------


@app.command
def train(
    source: str | None = None,
    *,
    config: Path | None = None,
    out: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    overrides: Annotated[Config, Parameter(name="*")] = Config(),  # noqa: B008
) -> None:
    """Train a model.

    Parameters
    ----------
    source
        A recipe (`elbowroom recipes list`), a recipe file (.toml), a built-in data set (`elbowroom data list`), or a
        path of your own: .npy, .npz, .csv, .parquet, a folder of images.
    config
        A recipe file whose keys are laid over.
    out
        The run folder; runs/NAME unless given.
    resume
        Go on with the run from its latest checkpoint.
    overwrite
        Replace a run that exists.
    quiet
        Say nothing until the end.
    """
    from elbowroom.running import train as training
    from elbowroom.running.observers import Silent

    keys = overrides.model_dump(exclude_unset=True)
    if source is None and config is None:
        raise ElbowroomError("Nothing was named to train on.", "`elbowroom train digits` is a start; or give a path of data.")
    named = source if source is not None else str(config)
    run = training.train(
        named,
        config=config if source is not None else None,
        out=out,
        resume=resume,
        overwrite=overwrite,
        observers=[Silent()] if quiet else None,
        announce=_remark,
        **keys,
    )
    from elbowroom.showing import gallery

    _say(f"trained {run.folder.path}: step {run.step:,}, {run.config.model.latent_dim} latents")
    _wrote(gallery.curves(run))
    _say(f"next: elbowroom evaluate {run.folder.path}")


# --- measuring ---------------------------------------------------------------------------------------------------


@app.command
def evaluate(
    run: RunPath,
    *,
    methods: Names = None,
    split: Split = "test",
    points: int | None = None,
    k: int = 5000,
    num_samples: int = 1,
    seed: int = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure a run, in nats per datum with standard errors.

    Parameters
    ----------
    methods
        elbo, iwae, active-units; all that apply unless given. Several: with commas or spaces between.
    split
        The data to measure on.
    points
        How many data; all of them unless given, but 1,000 for iwae.
    k
        Draws per datum of the importance-weighted bound.
    num_samples
        Draws per datum of the ELBO.
    seed
        Seed of the draws.
    """
    from elbowroom.showing import plots, terminal

    loaded = _load(run, device)
    names = [name for given in methods or [] for name in given.split(",") if name]
    with terminal.progress() as announce:
        results = loaded.evaluate(
            *names, split=split, points=points, k=k, num_samples=num_samples, seed=seed, announce=announce
        )
    rows = [result.model_dump(exclude={"split", "protocol"}) for result in results]
    if as_json:
        _print_json({"run": str(run), "split": split, "protocol": results[0].protocol, "results": rows})
        return
    terminal.print_results(results)
    if any(row["bound"] for row in rows):
        figure = loaded.folder.figures / "evaluation.png"
        plots.evaluation_figure(rows, normalized=loaded.normalized, title=loaded.folder.path.name, path=figure)
        _wrote(loaded.folder.path / "evaluation.json", figure)
    else:
        _wrote(loaded.folder.path / "evaluation.json")


@app.command
def score(
    run: RunPath,
    data: str | None = None,
    *,
    split: Split = "test",
    k: int = 1000,
    seed: int = 0,
    out: Path | None = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Write log p(x) of every datum with its standard error, as CSV.

    Parameters
    ----------
    data
        A path or a built-in name; a split of the run's own data unless given.
    split
        Which split, where no data are named.
    k
        Draws per datum.
    seed
        Seed of the draws.
    out
        The CSV file; RUN/scores.csv unless given.
    """
    from elbowroom.numerics import mean_and_stderr

    loaded = _load(run, device)
    scores = loaded.score(data, split=split, k=k, seed=seed)
    rows = list(zip(scores.log_evidence.tolist(), scores.stderr.tolist(), strict=True))
    mean, stderr = mean_and_stderr(scores.log_evidence)
    if as_json:
        values = [{"row": i, "log_p": value, "stderr": error} for i, (value, error) in enumerate(rows)]
        _print_json({"run": str(run), "data": data or split, "unit": "nats", "bound": "lower", "k": k, "scores": values})
        return
    path = out or loaded.folder.path / "scores.csv"
    _write_csv(path, ["row", "log_p", "stderr"], ((i, *row) for i, row in enumerate(rows)))
    _say(f"mean log p(x) ≥ {mean:.3f} ± {stderr:.3f} nats over {len(rows):,} data (importance-weighted bound, k = {k:,})")
    _wrote(path)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    import csv
    import io

    from elbowroom.running.checkpoints import write_text_atomically

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text_atomically(path, text.getvalue())


# --- looking -----------------------------------------------------------------------------------------------------


@app.command
def sample(run: RunPath, *, num: int = 25, seed: int = 0, arrays: Path | None = None, device: Device = None) -> None:
    """Draw from the model: samples and means, traversals, and the manifold of two latents.

    Parameters
    ----------
    num
        How many samples.
    seed
        Seed of the draws.
    arrays
        Also write z, x and mean to this .npz file.
    """
    from elbowroom.showing import gallery, plots

    loaded = _load(run, device)
    _wrote(gallery.samples(loaded, num, seed=seed))
    if plots.is_image(loaded.facts.event_shape):
        _wrote(gallery.traversals(loaded))
        if loaded.config.model.latent_dim == 2:
            _wrote(gallery.manifold(loaded))
    if arrays is not None:
        drawn = loaded.sample(num, seed=seed)
        _write_arrays(arrays, z=drawn.z, x=drawn.x, mean=drawn.mean)


@app.command
def reconstruct(
    run: RunPath,
    *,
    num: int = 10,
    split: Split = "test",
    seed: int = 0,
    arrays: Path | None = None,
    device: Device = None,
) -> None:
    """Show data beside what the model makes of them.

    Parameters
    ----------
    num
        How many data.
    split
        Which data.
    seed
        Seed of the draws.
    arrays
        Also write x, mean and sample to this .npz file.
    """
    from elbowroom.showing import gallery

    loaded = _load(run, device)
    _wrote(gallery.reconstructions(loaded, num, split=split, seed=seed))
    if arrays is not None:
        found = loaded.reconstruct(num, split=split, seed=seed)
        _write_arrays(arrays, x=found.x, mean=found.mean, sample=found.sample)


@app.command
def encode(
    run: RunPath, data: str | None = None, *, split: Split = "test", out: Path | None = None, device: Device = None
) -> None:
    """Write mean and standard deviation of q(z | x) for every datum, as .npz, and draw the means.

    Parameters
    ----------
    data
        A path or a built-in name; a split of the run's own data unless given.
    split
        Which split, where no data are named.
    out
        The .npz file; RUN/encoded.npz unless given.
    """
    from elbowroom.showing import gallery

    loaded = _load(run, device)
    encoded = loaded.encode(data, split=split)
    labels = {} if encoded.labels is None else {"labels": encoded.labels}
    _write_arrays(out or loaded.folder.path / "encoded.npz", mean=encoded.mean, stddev=encoded.stddev, **labels)
    _wrote(gallery.latents(loaded, encoded))


def _write_arrays(path: Path, **tensors: Any) -> None:
    import numpy as np

    if path.suffix != ".npz":
        raise ElbowroomError(f"Arrays are written as .npz, and {path} is not named so.", f"Name it {path}.npz.")
    temporary = path.with_name(f".{path.stem}.writing.npz")
    np.savez(temporary, **{name: tensor.numpy() for name, tensor in tensors.items()})
    temporary.replace(path)
    _wrote(path)


# --- data, recipes, runs -----------------------------------------------------------------------------------------


@_data.command(name="list")
def data_list(*, as_json: Json = False) -> None:
    """The built-in data sets, and where each would be taken from."""
    from elbowroom.data.sources import available
    from elbowroom.showing import terminal

    rows = [{"name": one.name, "description": one.description, "where": one.where} for one in available()]
    if as_json:
        _print_json({"data": rows})
    else:
        terminal.print_table(rows)


@_data.command(name="show")
def data_show(
    data: str,
    *,
    out: Path | None = None,
    overrides: Annotated[DataConfig, Parameter(name="*")] = DataConfig(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Shape, support and splits of a data set, and a picture of its first data.

    Parameters
    ----------
    data
        A built-in name or a path.
    out
        The picture; NAME.png in this folder unless given.
    """
    from elbowroom.running.build import load_configured
    from elbowroom.showing import data as showing
    from elbowroom.showing import terminal

    loaded = load_configured(overrides.model_copy(update={"name": data}))
    described = showing.describe(loaded)
    path = showing.picture(loaded, out or Path(f"{Path(data).stem}.png"))
    if as_json:
        _print_json(described | {"picture": str(path)})
    else:
        terminal.print_facts(described)
        _wrote(path)


@_data.command(name="fetch")
def data_fetch(*names: str) -> None:
    """Fetch built-in data sets and check their digests.

    Parameters
    ----------
    names
        Their names.
    """
    from elbowroom.data.sources import fetch

    if not names:
        raise ElbowroomError("No data set was named.", "`elbowroom data list` names them.")
    for name in names:
        paths = fetch(name, announce=_remark)
        _say(f"{name}: {'built in' if not paths else paths[0].parent}, digests right")


@_recipes.command(name="list")
def recipes_list(*, as_json: Json = False) -> None:
    """The recipes, with the first sentence of each."""
    from elbowroom.showing import terminal

    rows = []
    for name in recipe_names():
        comment = [line.removeprefix("#").strip() for line in recipe_text(name).splitlines() if line.startswith("#")]
        rows.append({"name": name, "description": " ".join(comment).split(". ")[0].rstrip(".")})
    if as_json:
        _print_json({"recipes": rows})
    else:
        terminal.print_table(rows)


@_recipes.command(name="show")
def recipes_show(name: str) -> None:
    """A recipe's TOML, ready to be copied and changed.

    Parameters
    ----------
    name
        The recipe.
    """
    _say(recipe_text(name).rstrip())


@_runs.command(name="list")
def runs_list(folder: Path = Path("runs"), *, as_json: Json = False) -> None:
    """The runs in a folder.

    Parameters
    ----------
    folder
        Where to look.
    """
    from elbowroom.running.folder import runs_in
    from elbowroom.showing import terminal

    rows = [run.summary() for run in runs_in(folder)]
    if as_json:
        _print_json({"runs": rows})
    elif rows:
        terminal.print_table(rows)
    else:
        _say(f"no runs in {folder}")


@_runs.command(name="show")
def runs_show(run: RunPath, *, as_json: Json = False) -> None:
    """A run's configuration, progress and results."""
    from elbowroom.running.folder import RunFolder
    from elbowroom.showing import terminal

    folder = RunFolder.open(run)
    content = {**folder.summary(), "evaluation": folder.evaluations(), **folder.read_config()}
    if as_json:
        _print_json(content)
    else:
        terminal.print_run(content)


if __name__ == "__main__":
    main()
