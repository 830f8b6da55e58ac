"""The configuration: each setting is defined once, as API keyword, command-line flag and recipe key.

`Config` contains everything that is needed to repeat a run. A recipe is a TOML file with the same keys,

    [model]
    latent_dim = 20

which on the command line is ``--model.latent-dim 20`` and in Python ``er.train(…, model={"latent_dim": 20})`` or
``model__latent_dim=20``. Later settings override earlier ones: defaults < recipe < flags. Nothing heavier than pydantic
is imported here, so that ``elbowroom --help`` is quick.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from elbowroom.errors import ElbowroomError, did_you_mean
from elbowroom.names import (
    EstimatorName,
    LearnerName,
    ObjectiveName,
)
from elbowroom.running.learner_config import EmConfig, McemConfig, SviConfig, VqConfig
from elbowroom.running.model_config import ModelConfig, split_commas
from elbowroom.sections import Section, explain

__all__ = [
    "Config",
    "DataConfig",
    "EmConfig",
    "McemConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "RuntimeConfig",
    "SviConfig",
    "TrainConfig",
    "VqConfig",
    "configure",
    "merge",
    "nested",
    "read_recipe",
    "recipe_names",
    "recipe_text",
]


def _as_marks(value: Any) -> Any:
    """Numbers and text that mark missing values, as text: ``--data.missing-values=-999,unknown``."""
    several = value if isinstance(value, list | tuple) else [value]
    return split_commas([str(one) for one in several])


def _as_kinds(value: Any) -> Any:
    """Kinds of columns as NAME:KIND: ``--data.columns age:count,notes:drop``, or a mapping from names to kinds."""
    if isinstance(value, Mapping):
        return [f"{column}:{kind}" for column, kind in value.items()]
    return [value] if isinstance(value, str) else value


def _switch(value: Any) -> Any:
    """true and false of TOML and of version 0.1.0, as "on" and "off"."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def _pixels(value: Any) -> Any:
    """A number of pixels, or width and height, as text: 64 and [64, 48] as "64" and "64x48"."""
    if isinstance(value, list | tuple) and len(value) == 2:
        return f"{value[0]}x{value[1]}"
    return str(value) if isinstance(value, int) else value


_MOST_PIXELS = 8192  # a side of pictures that are scaled


def _sides(value: str) -> str:
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)?", value):
        raise ValueError("a number of pixels, such as 64, or width x height, such as 64x48")
    if max(map(int, value.split("x"))) > _MOST_PIXELS:
        raise ValueError(f"a number of pixels, of at most {_MOST_PIXELS:,} a side")
    return value


def _share(value: float) -> float:
    if value >= 1 and value != int(value):
        raise ValueError("a share below 1 or a whole number of examples")
    return value


Share = Annotated[float, Field(ge=0), AfterValidator(_share)]
Names = Annotated[tuple[str, ...], BeforeValidator(split_commas)]
Marks = Annotated[tuple[str, ...], BeforeValidator(_as_marks)]
Kinds = Annotated[tuple[str, ...], BeforeValidator(_as_kinds)]
ImageSize = Annotated[str, BeforeValidator(_pixels), AfterValidator(_sides)]


class DataConfig(Section):
    """The data, and how they are prepared for the model."""

    name: str = "digits"
    """A built-in data set or a path: .npy, .npz, .csv, .tsv, .txt, .parquet, a folder of images."""
    binarization: Literal["none", "static", "dynamic", "threshold"] = "none"
    """How grey pixels become 0 or 1: drawn once (static), drawn again whenever an example is used (dynamic), or cut at
    one half (threshold)."""
    support: Literal["auto", "binary", "unit-interval", "bytes", "counts", "categories", "reals", "table"] = "auto"
    """Which values an element can have; 'auto' finds it from the data. A table with columns of several kinds is one of
    'table'."""
    columns: Kinds | None = None
    """Kinds of a table's columns: 'age:count,grade:ordinal(low<mid<high),when:date(%d.%m.%y),notes:drop', of real,
    positive, proportion, count, binary, ordinal, category, date, identifier, text, drop; those of the others are found,
    'auto' finds all. A table of numbers alone is one array of numbers unless this is given."""
    drop: Names = ()
    """Columns of a table that are left out."""
    num_categories: Annotated[int, Field(ge=2)] | None = None
    """How many categories, for support = categories."""
    validation: Share = 0.1
    """Share (below 1) or number of the training examples kept for validation."""
    test: Share = 0.1
    """Share (below 1) or number of examples kept for the test set, where the data have none of their own."""
    train: Annotated[int, Field(gt=0)] | None = None
    """Number of examples to train on, chosen by seed; by default all that are left."""
    context: Literal["labels", "captions"] | Names | None = None
    """Covariates: 'labels' for class labels, 'captions' for class, width and slant of the strokes of grey pictures, or
    the names of a table's columns."""
    context_drop: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the training examples whose context is left out, and of its words that are left out of the others, drawn
    anew whenever an example is used; a word that is not said is then summed over, and guidance is possible."""
    labels: str | None = None
    """Column of a table with class labels, for colours in figures and for 'context = labels'."""
    id: str | None = None
    """Column of a table that identifies its rows, by number or text. It is not part of x, and is carried into the files
    that score, encode and impute write."""
    missing: Literal["error", "mask"] = "error"
    """What NaN means: a mistake (error), or a missing value that is marginalised out (mask)."""
    missing_values: Marks = ()
    """What stands for a missing value in the data, such as -999, and becomes NaN: numbers, or text in the cells of a
    table."""
    separator: Literal["auto", "comma", "semicolon", "tab", "bar", "space"] = "auto"
    """What separates the cells of a table of text; 'auto' finds it."""
    decimal: Literal["auto", "point", "comma"] = "auto"
    """The decimal mark of a table of text; 'auto' finds it."""
    image_size: ImageSize | None = None
    """Size to which a folder of images is cropped and scaled: 64, or 64x48 (width x height); of patches, 32 or 16."""
    image_mode: Literal["grey", "rgb"] | None = None
    """Colours of a folder of images: all grey, or all in colour."""
    seed: int = 0
    """Seed of the splits and of the binarisation, separate from the seed of the training."""


class ObjectiveConfig(Section):
    """The objective that is maximised, and its gradient estimator."""

    name: ObjectiveName = "elbo"
    """Evidence lower bound, or importance-weighted bound (of the learner vq in the last part, see last_share)."""
    num_samples: Annotated[int, Field(gt=0)] = 1
    """Draws of z per example (k of the importance-weighted bound; for the learner naive, draws of the prior, at least
    2)."""
    last_name: Literal["iwae"] | None = None
    """Objective in the last part of training (see last_share), if it should be the importance-weighted bound there."""
    last_samples: Annotated[int, Field(gt=0)] | None = None
    """Draws of z per example in the last part of training, if it should have more."""
    last_share: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Share of the training, at its end, that uses last_name, last_samples and last_estimator."""
    estimator: EstimatorName = "pathwise"
    """Gradient estimator."""
    last_estimator: EstimatorName | None = None
    """Gradient estimator in the last part of training (see last_share), if it should be another: with codes, say,
    reinmax first and score-function once the guide is sure."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature of the softmax whose gradient an estimator for codes uses."""
    last_temperature: Annotated[float, Field(gt=0)] | None = None
    """What that temperature falls to by the end of the training, along half a cosine; by default it stays."""
    kl: Literal["auto", "analytic", "monte-carlo"] = "auto"
    """KL(q || p) in closed form or by Monte Carlo; 'auto': closed form where there is one."""
    beta: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the KL term (1 = the evidence lower bound)."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs over which the weight of the KL term grows from 0 to beta."""
    free_bits: Annotated[float, Field(ge=0)] = 0.0
    """Nats per latent dimension, of a hierarchy per group, below which the KL term is not reduced further."""
    free_bits_over: Literal["example", "batch"] = "example"
    """What free bits are compared with: the KL of each example, or of a hierarchy's group its mean over the batch."""
    holes: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Mean share of the elements of a table (likelihood table) that are hidden from the guide in training; they are
    scored all the same."""
    balance: bool = False
    """Weight the KL of a hierarchy's groups in proportion to their KL and size, as long as its weight is below 1."""


class OptimizerConfig(Section):
    """How weights are updated."""

    name: Literal["adam", "adamw", "adamax", "adagrad", "rmsprop", "sgd"] = "adam"
    """Algorithm of torch.optim."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate (the peak, with a schedule)."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay rates β₁ and β₂ of Adam."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Adam's ε."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """L2 penalty (decoupled in adamw)."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Momentum (sgd, rmsprop)."""
    schedule: Literal["constant", "one-cycle", "cosine", "warmup-cosine", "iwae-stages"] = "constant"
    """Learning rate over the run; iwae-stages: lr·10^(−i/7) for 3^i epochs, i = 0…7, rescaled to the run's length."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Gradient clipping: gradients with a larger norm are scaled down to it."""
    skip_norm: Annotated[float, Field(gt=0)] | None = None
    """Gradients with a larger norm are left out: the step changes nothing."""


class TrainConfig(Section):
    """Length of the training, batches, reports and checkpoints."""

    learner: LearnerName = "aevb"
    """Training method: auto-encoding variational Bayes, Monte Carlo from the prior, Monte Carlo EM, wake-sleep, Pyro's
    SVI, vector quantisation in stages (vq), expectation maximisation of a mixture (em)."""
    epochs: Annotated[float, Field(gt=0)] = 20
    """Passes over the training data."""
    steps: Annotated[int, Field(gt=0)] | None = None
    """Number of batches to train on; if given, it replaces epochs (a stream has no epochs)."""
    seconds: Annotated[float, Field(gt=0)] | None = None
    """Wall time to train for, without validation and checkpoints; if given, it replaces epochs."""
    decoder_gradients: Annotated[int, Field(gt=0)] | None = None
    """Number of decoder evaluations with their gradient, over examples and draws, to train for; if given, it replaces
    epochs."""
    batch_size: Annotated[int, Field(gt=0)] = 128
    """Examples per update."""
    seed: int = 0
    """Seed of the initial weights, of the order of the data and of all draws in training."""
    report_every: Annotated[int, Field(gt=0)] | None = None
    """Steps between reports; by default one report an epoch."""
    patience: Annotated[int, Field(gt=0)] | None = None
    """Early stopping: number of reports without a better validation value after which training stops."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the exponential moving average of the weights, which is then evaluated and saved; 0: none."""
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 30.0
    """Least seconds between two checkpoints (0: one at every report); one is always written at the end."""
    tensorboard: bool = False
    """Write TensorBoard event files beside metrics.jsonl (needs the extra tensorboard)."""


class RuntimeConfig(Section):
    """Device, precision and compilation."""

    device: str = "auto"
    """cpu, cuda, cuda:0, mps; 'auto' takes a GPU where there is one."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of weights and densities."""
    autocast: Literal["none", "bfloat16"] = "none"
    """Lower precision inside the networks; densities stay in dtype."""
    compile: Annotated[Literal["auto", "on", "off"], BeforeValidator(_switch)] = "auto"
    """torch.compile the objective; 'auto' does so if the run is long enough and a C++ compiler is found."""
    threads: Annotated[int, Field(gt=0)] | None = None
    """CPU threads; by default torch's choice."""


class Config(Section):
    """Everything that is needed to repeat a run."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    mcem: McemConfig = McemConfig()
    svi: SviConfig = SviConfig()
    vq: VqConfig = VqConfig()
    em: EmConfig = EmConfig()
    runtime: RuntimeConfig = RuntimeConfig()


# --- recipes -----------------------------------------------------------------------------------------------------


def recipe_names() -> list[str]:
    """The recipes that come with the package, in alphabetical order."""
    return list(_packaged_names())


@functools.cache
def _packaged_names() -> tuple[str, ...]:
    """A report asks for them once for each recipe, and to look into the folder takes as long as to read one."""
    folder = resources.files("elbowroom.running") / "recipes"
    return tuple(sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".toml")))


def recipe_text(name: str) -> str:
    """A packaged recipe's TOML, comments included.

    Raises:
        ElbowroomError: there is no recipe of that name.
    """
    if name not in recipe_names():
        see = "`elbowroom recipes list` names all."
        raise ElbowroomError(f"There is no recipe '{name}'.", did_you_mean(name, recipe_names(), see=see))
    return (resources.files("elbowroom.running") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")


def read_recipe(name_or_path: str | Path) -> dict[str, Any]:
    """A recipe as nested keys: a packaged one by its name, the user's own by a path that ends in .toml.

    A key ``extends`` names another recipe, whose keys this one overrides; a path is relative to the folder of the
    recipe that names it.

    Raises:
        ElbowroomError: no such recipe or file, a file that is not TOML, or recipes that extend each other in a circle.
    """
    layers: list[dict[str, Any]] = []
    seen: list[str | Path] = []
    place: str | Path | None = name_or_path
    while place is not None:
        here = Path(place).resolve() if _is_path(place) else place
        if here in seen:
            raise ElbowroomError(
                f"The recipes {' and '.join(map(str, seen))} extend each other in a circle.",
                "Remove 'extends' from one of them.",
            )
        seen.append(here)
        keys = _keys_of(place)
        base = keys.pop("extends", None)
        if base is not None and not isinstance(base, str):
            raise ElbowroomError(
                f"{place}: extends is {base!r}, but should be the name or the path of a recipe.",
                'Write for instance extends = "mnist".',
            )
        layers.append(keys)
        place = Path(place).parent / base if base is not None and _is_path(base) else base
    return functools.reduce(merge, reversed(layers), {})


def _is_path(place: str | Path) -> bool:
    return Path(place).suffix == ".toml"


def _keys_of(name_or_path: str | Path) -> dict[str, Any]:
    """A recipe's own keys."""
    path = Path(name_or_path)
    if path.suffix != ".toml":
        return tomllib.loads(recipe_text(str(name_or_path)))
    if not path.is_file():
        raise ElbowroomError(f"There is no recipe file {path}.", "Check the path; `elbowroom recipes list` shows ours.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ElbowroomError(
            f"{path} is not a TOML file: {error}.", "See `elbowroom recipes show mnist` for one that is."
        ) from error


# --- putting it together -----------------------------------------------------------------------------------------


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords with double underscores or dots as nested keys.

    Example:
        >>> nested({"model__latent_dim": 2, "train": {"epochs": 1}})
        {'model': {'latent_dim': 2}, 'train': {'epochs': 1}}
    """
    out: dict[str, Any] = {}
    for key, value in flat.items():
        head, *tail = key.replace("__", ".").split(".")
        inner = nested({".".join(tail): value}) if tail else nested(value) if isinstance(value, Mapping) else value
        out = merge(out, {head: inner})
    return out


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with its keys overridden by those of ``over``, section by section.

    Example:
        >>> merge({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}})
        {'a': {'x': 1, 'y': 3}}
    """
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        out[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


def configure(*layers: Mapping[str, Any], source: str = "configuration") -> Config:
    """A validated configuration from layers of nested keys, of which later ones override earlier ones.

    Args:
        layers: nested keys, e.g. a recipe's and then the flags'.
        source: their name in messages.
    Raises:
        ElbowroomError: a key that does not exist (with the nearest that does), or a value that is not allowed; all
            faults in one message.
    """
    keys: dict[str, Any] = {}
    for layer in layers:
        keys = merge(keys, layer)
    try:
        return Config.model_validate(keys)
    except ValidationError as error:
        raise explain(error, Config, command="train", source=source) from error
