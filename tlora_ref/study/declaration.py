"""A study as data: a grid of runs, read from YAML and checked before anything starts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tlora_ref.checkpoint import check_model_folder, find_model
from tlora_ref.errors import ConfigError, did_you_mean
from tlora_ref.files import read_yaml
from tlora_ref.pipeline import DataSource
from tlora_ref.shipped import shipped_model
from tlora_ref.study.variants import EQUAL, Variant, variant_of
from tlora_ref.training import TrainSettings

SHIPPED = "shipped"
#: The shipped model's tasks, by what a study calls them.
SHIPPED_TASKS = {SHIPPED: "task", "shipped-words": "task-words"}
#: Calibrated on samples of the task that is trained on.
OWN = "own"
#: What others call the keys.
ELSEWHERE = {
    **dict.fromkeys(("lr", "lrs", "learning_rate", "rates"), "learning_rates"),
    **dict.fromkeys(("rank", "r", "r_init"), "ranks"),
    **dict.fromkeys(("seed",), "seeds"),
    **dict.fromkeys(("model",), "models"),
    **dict.fromkeys(("task", "data", "datasets"), "tasks"),
    **dict.fromkeys(("batch", "bs"), "batch_size"),
    **dict.fromkeys(("methods", "variant"), "variants"),
    **dict.fromkeys(("calibrate_on", "calibration", "calibration_task"), "calibrated_on"),
}


@dataclass(frozen=True)
class Rows:
    """Where a task's rows are (a folder of train, valid and test), and how they are read (see `data/README.md`).

    `labels` are the classes for which a bare encoder gets a fresh head, drawn from a run's seed and trained with it.
    """

    data: Path
    template: str = "plain"
    max_length: int | None = None
    fields: tuple[tuple[str, str], ...] = ()
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_length is not None and (_count(self.max_length) or 0) < 2:
            raise ConfigError(f"max_length is {self.max_length!r}: expected a whole number of tokens, 2 or more")
        if not isinstance(self.template, str):
            raise ConfigError(f"template is {self.template!r:.60}: expected the name of one")
        self.source()

    def source(self) -> DataSource:
        """What reads them."""
        return DataSource(self.data, dict(self.fields), self.template, self.max_length)


@dataclass(frozen=True)
class Cell:
    """One run of a study's grid."""

    model: str
    task: str
    variant: str
    equal: str
    rank: int
    samples: int
    lr: float
    seed: int
    calibrated_on: str = OWN

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        grid = f"{self.model}/{self.task} {self.variant}, equal {self.equal}, rank {self.rank}"
        of = "" if self.calibrated_on == OWN else f" of {self.calibrated_on}"
        return f"{grid}, {self.samples} samples{of}, lr {self.lr:g}, seed {self.seed}"


@dataclass(frozen=True)
class Study:
    """A grid of runs, and what they are for.

    Attributes
    ----------
    name, title : the name of its file of results; what it asks
    variants, ranks, samples, learning_rates, seeds, models, tasks, equal : the grid. A seed is that of the choice of
        calibration samples, of the data's order and of a random A. `equal` "rank" gives every variant the same r_init,
        "parameters" the largest one that trains no more than plain LoRA does at that rank
    learning_rates : those that every variant is run with, or {variant: its own}
    calibrated_on : the tasks whose samples the variants are calibrated on; "own" is the task that is trained on
    per_module : keep the sensitivity and the rank of every module with a run
    baseline : the variant that the others are compared with
    steps, batch_size, schedule, dtype : of every run
    paper : the paper's own figures: `table`, `measure`, and `values`, {variant: figure}
    """

    name: str
    variants: dict[str, Variant]
    baseline: str
    title: str = ""
    models: dict[str, Path] = field(default_factory=dict)
    tasks: dict[str, Rows] = field(default_factory=dict)
    equal: tuple[str, ...] = ("rank",)
    ranks: tuple[int, ...] = (8,)
    samples: tuple[int, ...] = (32,)
    calibrated_on: tuple[str, ...] = (OWN,)
    learning_rates: tuple[float, ...] | dict[str, tuple[float, ...]] = (1e-3,)
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    steps: int = 100
    batch_size: int = 16
    schedule: str = "cosine"
    dtype: str = "float32"
    per_module: bool = False
    paper: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", self.name):
            raise ConfigError(f"name is {self.name!r}: expected letters, digits, - and _: it names the file of results")
        if self.baseline not in self.variants:
            hint = did_you_mean(self.baseline, self.variants)
            raise ConfigError(f'baseline "{self.baseline}" is none of the variants {", ".join(self.variants)}{hint}')
        if self.dtype not in ("float32", "float64"):
            raise ConfigError(f"dtype is {self.dtype!r}, expected float32 or float64")
        for task in self.calibrated_on:
            if task not in (OWN, *self.tasks):
                known = ", ".join((OWN, *self.tasks))
                raise ConfigError(f'calibrated_on: "{task}" is no task here: expected some of {known}')
        if isinstance(self.learning_rates, dict) and set(self.learning_rates) != set(self.variants):
            raise ConfigError(
                f"learning_rates are of {', '.join(self.learning_rates)}: expected those of every variant, "
                f"{', '.join(self.variants)}, or one list for all"
            )
        for name in self.variants:
            for lr in self.rates(name):
                self.training(lr, 0)

    def rates(self, variant: str) -> tuple[float, ...]:
        """The learning rates that a variant is run with."""
        return self.learning_rates[variant] if isinstance(self.learning_rates, dict) else self.learning_rates

    def training(self, lr: float, seed: int) -> TrainSettings:
        """The settings of a run's training but what it trains."""
        return TrainSettings(steps=self.steps, batch_size=self.batch_size, lr=lr, schedule=self.schedule, seed=seed)

    def cells(self) -> list[Cell]:
        """Every run, whole seeds one after the other: a study that is stopped has whole comparisons."""
        grid = itertools.product(
            self.seeds, self.models, self.tasks, self.calibrated_on, self.equal, self.ranks, self.samples, self.variants
        )  # fmt: skip
        return [
            Cell(m, t, v, equal, rank, n, lr, seed, on)
            for seed, m, t, on, equal, rank, n, v in grid
            for lr in self.rates(v)
        ]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, without this machine's paths."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        values |= {"variants": {name: variant.to_dict() for name, variant in self.variants.items()}}
        if isinstance(self.learning_rates, dict):
            values["learning_rates"] = {name: list(rates) for name, rates in self.learning_rates.items()}
        return {**values, "models": list(self.models), "tasks": list(self.tasks)}


def load_study(path: str | Path) -> Study:
    """The study that a YAML file declares; its paths are relative to the file's folder.

    Raises
    ------
    ConfigError
        for a file that is no YAML, an unknown key, a value of another kind, an empty axis.
    """
    path = Path(path)
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected the keys of a study, e.g. 'variants: [LoRA, TLoRA]'")
    try:
        return study_of({"name": path.stem, **values}, path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except OSError as error:  # a name that no file can have
        raise ConfigError(f"{path}: {error.filename!s:.60}: {error.strerror}") from error


def study_of(values: Mapping[str, Any], folder: Path = Path()) -> Study:
    """A study from plain values, as YAML gives them; paths are relative to `folder`. ConfigError as `load_study`."""
    known = [f.name for f in fields(Study)]
    for key in values:
        if key not in known:
            hint = did_you_mean(key, known, ELSEWHERE)
            raise ConfigError(f'unknown key "{key}": expected some of {", ".join(known)}{hint}')
    if "variants" not in values:
        raise ConfigError('there are no variants: give some, e.g. "variants: [LoRA, TLoRA]"')
    chosen = dict(values)
    named = _named("variants", values["variants"])
    chosen["variants"] = {name: variant_of(name, _settings(name, given)) for name, given in named.items()}
    chosen.setdefault("baseline", next(iter(named)))
    models = _named("models", values.get("models", {"tiny-math-llama": SHIPPED}))
    chosen["models"] = {name: _model(given or name, folder) for name, given in models.items()}
    tasks = _named("tasks", values.get("tasks", {"calculator": SHIPPED}))
    chosen["tasks"] = {name: _rows(name, given, folder) for name, given in tasks.items()}
    for key, read in AXES.items():
        if key in values:
            chosen[key] = _axis(key, values[key], read)
    if "learning_rates" in values:
        chosen["learning_rates"] = _rates(values["learning_rates"])
    for key in ("steps", "batch_size"):
        if key in values and _count(values[key]) is None:
            raise ConfigError(f"{key} is {values[key]!r}: expected a positive whole number")
    for key, kind in (("name", str), ("title", str), ("schedule", str), ("dtype", str), ("paper", dict)):
        if key in values and not isinstance(values[key], kind):
            raise ConfigError(f"{key} is {values[key]!r:.60}: expected {'a mapping' if kind is dict else 'text'}")
    figures = chosen.get("paper", {}).get("values", {})
    if not isinstance(figures, dict) or not all(_is_figure(x) for x in figures.values()):
        raise ConfigError(f"paper's values are {figures!r:.60}: expected a number a variant")
    if not isinstance(values.get("per_module", False), bool):
        raise ConfigError(f"per_module is {values['per_module']!r:.60}: expected true or false")
    return Study(**chosen)


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _named(key: str, values: Any) -> dict[str, Any]:
    """{name: what it is} from a mapping, or from a list of names, which are then all there is."""
    if isinstance(values, list) and values and all(isinstance(name, str) for name in values):
        if len(set(values)) < len(values):
            raise ConfigError(f"{key} names one twice: {', '.join(values)}")
        return dict.fromkeys(values)
    if isinstance(values, dict) and values and all(isinstance(name, str) for name in values):
        return values
    raise ConfigError(f"{key} is {values!r:.60}: expected names, or names with what they are")


def _settings(name: str, given: Any) -> dict[str, Any] | None:
    if given is not None and not isinstance(given, dict):
        raise ConfigError(f'variant "{name}" is {given!r:.60}: expected settings, e.g. {{init: wc-svd, trained: B}}')
    return given


def _model(given: Any, folder: Path) -> Path:
    """The folder of a model: the shipped one, one beside the file, or one by its name on the Hub."""
    if given == SHIPPED:
        return shipped_model()
    if not isinstance(given, str):
        raise ConfigError(f"a model is {given!r:.60}: expected a folder, NAME/REPO, or {SHIPPED}")
    beside = folder / given
    found = check_model_folder(beside.resolve() if beside.exists() else find_model(Path(given)))
    if not found.is_dir():
        raise ConfigError(f"{beside}: there is no such folder: give a model's, relative to the study's file")
    return found


def _rows(name: str, given: Any, folder: Path) -> Rows:
    """A task's rows: the shipped ones, a folder, or a mapping that says how they are read."""
    values = {"data": given} if isinstance(given, str) else given
    if not isinstance(values, dict) or not isinstance(values.get("data"), str):
        raise ConfigError(
            f'task "{name}" is {given!r:.60}: expected a folder, {", ".join(SHIPPED_TASKS)}, or a mapping with `data`'
        )
    known = [f.name for f in fields(Rows)]
    for key in values:
        if key not in known:
            raise ConfigError(f'task "{name}": unknown key "{key}", expected {", ".join(known)}'
                              f"{did_you_mean(key, known)}")  # fmt: skip
    named = values.get("fields", {})
    if not isinstance(named, dict) or not all(isinstance(text, str) for pair in named.items() for text in pair):
        raise ConfigError(f'task "{name}": fields is {named!r:.60}, expected names, e.g. {{prompt: question}}')
    shipped = SHIPPED_TASKS.get(values["data"])
    data = shipped_model() / shipped if shipped else (folder / values["data"]).resolve()
    labels = values.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ConfigError(f'task "{name}": labels is {labels!r:.60}, expected names, e.g. [negative, positive]')
    return Rows(**{**values, "data": data, "fields": tuple(sorted(named.items())), "labels": tuple(labels)})


def _axis(key: str, values: Any, read: Callable[[Any], Any]) -> tuple[Any, ...]:
    """The values of one axis, each once."""
    found = [read(value) for value in (values if isinstance(values, list) else [values])]
    if not found or None in found:
        raise ConfigError(f"{key} is {values!r:.60}: expected {EXPECTED[key]}")
    if len(set(found)) < len(found):
        raise ConfigError(f"{key} is {values!r:.60}: one stands there twice")
    return tuple(found)


def _rates(values: Any) -> tuple[float, ...] | dict[str, tuple[float, ...]]:
    """The learning rates of all variants, or of each by its name."""
    if isinstance(values, dict):
        return {str(name): _axis("learning_rates", its, _positive) for name, its in values.items()}
    return _axis("learning_rates", values, _positive)


EXPECTED = {
    "learning_rates": "positive numbers, e.g. [3e-3, 1e-2]",
    "equal": f"some of {', '.join(EQUAL)}",
    "seeds": "whole numbers, e.g. [1, 2, 3, 4, 5]",
    "ranks": "positive whole numbers, e.g. [4, 8]",
    "samples": "positive whole numbers, e.g. [16, 32]",
    "calibrated_on": f"names of tasks, or {OWN}",
}


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _count(value: Any) -> int | None:
    return _whole(value) or None


def _positive(value: Any) -> float | None:
    """A number; YAML reads 1e-2, which lacks a dot, as text."""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else 0.0
    except (ValueError, OverflowError):
        return None
    return number if 0 < number < float("inf") else None


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _equal(value: Any) -> str | None:
    return value if value in EQUAL else None


#: The axes of plain values, and what reads one.
AXES: dict[str, Callable[[Any], Any]] = {
    "equal": _equal,
    "seeds": _whole,
    "ranks": _count,
    "samples": _count,
    "calibrated_on": _name,
}
