"""Settings of a whole run: what they mean, how one is changed, and how all are shown.

The text beside a type says what the setting means and its unit; ``--help`` prints it.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from augment.errors import InputError
from augment.grid import MAX_SIDE, shorten
from augment.puzzle_index import ColorMaps
from augment.view import NUM_VIEWS
from solver.settings import (
    MAX_DEPTH,
    AdaptSettings,
    EngineSettings,
    ModelSettings,
    Section,
    TrainSettings,
    require,
)

_MAX_PUZZLES = 10_000_000  # over twice the largest published set
_LONGEST_TEXT = 4096  # characters of a value, or of one of several; no path is longer


@dataclass(frozen=True, slots=True)
class DataSettings(Section):
    """Which tasks, and how many views of each."""

    SECTION = "data"

    trained: Annotated[
        tuple[str, ...], "sources whose demonstrations and test pairs are trained on"
    ] = ()
    predicted: Annotated[
        tuple[str, ...], "sources to predict; only their demonstrations are trained on"
    ] = ()
    unseen: Annotated[
        bool, "pretraining sees nothing of data.predicted, which is left to test-time training"
    ] = False
    fresh: Annotated[
        tuple[str, ...],
        "sources whose pairs are trained on with those of the trained task of the same id",
    ] = ()
    left_out: Annotated[tuple[str, ...], "ids of tasks left out of data.trained"] = ()
    max_side: Annotated[int, "keep tasks whose grids, solutions aside, have no longer side"] = 30
    views_per_task: Annotated[int, "views beside the original, at most"] = 1000
    color_maps: Annotated[
        ColorMaps,
        "colors that views permute: all but 0 (reference), of these not the ones in outputs alone "
        "(inputs) nor the ones in every input (varying), or none",
    ] = "all"
    seed: Annotated[int, "seed of the views, and of which tasks are evaluated"] = 0
    evaluated: Annotated[
        tuple[str, ...],
        "sources from which tasks are drawn whose tests are never trained on: train.eval_every;"
        " of puzzles as data.trained, of which others are taken",
    ] = ()
    num_evaluated: Annotated[int, "tasks or puzzles drawn from data.evaluated"] = 40

    def __post_init__(self) -> None:
        require(
            bool(self.trained or self.predicted or self.evaluated),
            "data.trained, data.predicted and data.evaluated are empty",
        )
        require(
            not self.unseen or bool(self.trained),
            "data.unseen needs data.trained: nothing is left to train on",
        )
        self.require_numbers(
            at_least={"views_per_task": 0, "seed": 0, "num_evaluated": 1, "max_side": 1},
            at_most={"views_per_task": NUM_VIEWS - 1, "max_side": MAX_SIDE},
        )


@dataclass(frozen=True, slots=True)
class PuzzleSettings(Section):
    """Sudoku puzzles or mazes: how many, and when a model's answers are looked at."""

    SECTION = "puzzles"

    num_trained: Annotated[
        int, "puzzles of data.trained that are drawn from its file, or generated; 0 = all"
    ] = 1000
    num_predicted: Annotated[
        int, "puzzles of data.predicted that evaluate answers, drawn likewise; 0 = all"
    ] = 1000
    symmetries: Annotated[
        bool, "train on each puzzle under a symmetry drawn anew, not as it stands"
    ] = True
    steps: Annotated[
        tuple[int, ...], "numbers of supervision steps after which evaluate looks at the answers"
    ] = (1, 2, 4, 8, 16)

    def __post_init__(self) -> None:
        self.require_numbers(
            at_least={"num_trained": 0, "num_predicted": 0},
            at_most={"num_trained": _MAX_PUZZLES, "num_predicted": _MAX_PUZZLES},
        )
        ascend = list(self.steps) == sorted({*self.steps} - {0}) != []
        good = ascend and 0 < self.steps[0] <= self.steps[-1] <= MAX_DEPTH
        self._require(good, "steps", f"ascending numbers of 1 to {MAX_DEPTH}", self.steps)


@dataclass(frozen=True, slots=True)
class PretrainSettings(TrainSettings):
    """Pretraining: a training run that is evaluated on tests or puzzles of ``data.evaluated``."""

    ends_in_seconds: Annotated[
        float,
        "end this long after the start, with as many steps, up to num_steps, as that allows;"
        " the rates fall in time; 0 = num_steps",
    ] = 0.0
    start_from: Annotated[
        str, "checkpoint whose trunk and puzzle rows training starts from; empty: new ones"
    ] = ""
    eval_every: Annotated[int, "steps between evaluations on data.evaluated; 0 = never"] = 0
    eval_views: Annotated[int, "views of each held-out test that an evaluation predicts"] = 4

    def __post_init__(self) -> None:
        TrainSettings.__post_init__(self)  # super() does not work in a class with slots
        self.require_numbers(
            at_least={"ends_in_seconds": 0, "eval_every": 0, "eval_views": 1},
            at_most={"eval_views": NUM_VIEWS},
        )


@dataclass(frozen=True, slots=True)
class CheckpointSettings(Section):
    """What a training run keeps, and how often."""

    SECTION = "checkpoint"

    every: Annotated[int, "steps between checkpoints"] = 5000
    every_seconds: Annotated[float, "seconds between checkpoints, whatever the steps"] = 600.0
    keep: Annotated[int, "newest checkpoints kept"] = 2
    carry: Annotated[bool, "keep the lanes' states too: exact resumption, large files"] = True
    keep_best: Annotated[
        bool, "keep the weights of the best evaluation too, in best/ (train.eval_every)"
    ] = False

    def __post_init__(self) -> None:
        self.require_numbers(at_least={"every": 1, "every_seconds": 0.1, "keep": 1})


@dataclass(frozen=True, slots=True)
class PredictSettings(Section):
    """How views become predictions."""

    SECTION = "predict"

    num_views: Annotated[int, "views predicted per test, the identity first"] = 1000
    num_supervision_steps: Annotated[int, "supervision steps; 0 = as many as in training"] = 0
    stop_when_halted: Annotated[bool, "a view that halts takes no further supervision steps"] = (
        False
    )
    adapt: Annotated[
        Literal["unseen", "all"],
        "train before predicting: on the tasks that the weights do not know, or on all",
    ] = "unseen"
    early_views: Annotated[int, "views of every test predicted when training is half done"] = 8
    ranking: Annotated[
        Literal["count", "q", "demonstrations"],
        "what orders the candidates: votes, votes weighted by q, or by the share of demonstrations "
        "reproduced under their view, which takes several times the time",
    ] = "demonstrations"
    pool: Annotated[
        Literal["newest", "all"],
        "votes that count for a test: of the newest weights (older ones come after), or all alike",
    ] = "newest"
    refuse_leaks: Annotated[
        bool, "refuse tasks whose solutions the weights were trained on: their score means nothing"
    ] = True
    time_limit_seconds: Annotated[
        float, "from the start of the process to its end, training and all; 0 = no limit"
    ] = 0.0
    deadline: Annotated[
        float, "Unix time at which the process must have ended, in seconds; 0 = none"
    ] = 0.0
    training_share: Annotated[
        float, "share of the time that training gets at least, however long all views take"
    ] = 0.5

    def __post_init__(self) -> None:
        self.require_numbers(at_least={
            "num_views": 1, "num_supervision_steps": 0, "early_views": 0, "time_limit_seconds": 0,
            "deadline": 0, "training_share": 0,
        }, at_most={
            "num_views": NUM_VIEWS, "early_views": NUM_VIEWS, "num_supervision_steps": MAX_DEPTH,
        })  # fmt: skip
        self._require(self.training_share < 1, "training_share", "below 1", self.training_share)

    @property
    def checks_demonstrations(self) -> bool:
        """Whether the demonstrations are predicted too, under every view."""
        return self.ranking == "demonstrations"

    def num_supervision_steps_of(self, model: ModelSettings) -> int:
        """Return how many supervision steps a prediction takes."""
        return self.num_supervision_steps or model.max_supervision_steps


@dataclass(frozen=True, slots=True)
class LogSettings(Section):
    """What is said of a run while it goes on, and where its metrics go."""

    SECTION = "log"

    form: Annotated[
        Literal["text", "json", "quiet"],
        "lines for people, a JSON object a line, or nothing but warnings and errors",
    ] = "text"
    every_seconds: Annotated[float, "between lines of progress where no terminal shows a bar"] = (
        60.0
    )
    tensorboard: Annotated[bool, "write event files for TensorBoard, below the run's folder"] = (
        False
    )
    wandb: Annotated[str, "project at Weights & Biases to log to; empty: none"] = ""

    def __post_init__(self) -> None:
        self.require_numbers(at_least={"every_seconds": 0})


Licence = Literal[
    "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0",
    "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-NC-ND-4.0", "PDDL", "ODC-BY-1.0", "ODbL-1.0",
    "DbCL-1.0", "CDLA-Permissive-1.0", "CDLA-Sharing-1.0", "MIT", "apache-2.0", "GPL-2.0",
    "GPL-3.0", "LGPL-3.0", "AGPL-3.0", "FDL-1.3", "copyright-authors", "other", "unknown",
]  # fmt: skip
"""Kaggle's names of licences."""


@dataclass(frozen=True, slots=True)
class KaggleSettings(Section):
    """What `package` and the notebook on Kaggle need to know."""

    SECTION = "kaggle"

    owner: Annotated[str, "Kaggle user name; empty: whose credentials the client finds"] = ""
    competition: Annotated[str, "slug of the competition"] = "arc-prize-2026-arc-agi-2"
    machine_shape: Annotated[
        Literal["NvidiaL4", "NvidiaTeslaT4", "NvidiaTeslaT4Highmem", ""],
        "machine of the notebook: NvidiaL4 has four GPUs of 24 GB; empty: no GPU",
    ] = "NvidiaL4"
    licence: Annotated[
        Licence, "licence of the data set, by Kaggle's name; ARC Prize asks for CC0 or MIT-0"
    ] = "CC0-1.0"
    rows: Annotated[
        Literal["mean", "all"], "puzzle rows shipped: their mean, or all that were trained"
    ] = "mean"
    smoke_tasks: Annotated[int, "evaluation tasks that a run outside the scoring predicts"] = 8
    smoke_seconds: Annotated[float, "time that these may take, training and all"] = 1200.0

    def __post_init__(self) -> None:
        self.require_numbers(at_least={"smoke_tasks": 1, "smoke_seconds": 1})
        is_slug = re.fullmatch("[a-z0-9][a-z0-9-]{0,49}", self.competition) is not None
        shown = shorten(self.competition)
        require(
            is_slug, f"kaggle.competition is the end of its address, of 1 to 50 signs, not {shown}"
        )
        is_user = re.fullmatch("([A-Za-z0-9_][A-Za-z0-9_-]{0,49})?", self.owner) is not None
        self._require(is_user, "owner", "a Kaggle user name", self.owner)


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration of a run."""

    data: DataSettings
    model: ModelSettings
    train: PretrainSettings
    checkpoint: CheckpointSettings
    adapt: AdaptSettings
    predict: PredictSettings
    engine: EngineSettings
    puzzles: PuzzleSettings = PuzzleSettings()
    kaggle: KaggleSettings = KaggleSettings()
    log: LogSettings = LogSettings()
    weights: Annotated[
        str, "checkpoint to predict with: a folder, or a reference file; empty: the run's newest"
    ] = ""
    shipped_weights: Annotated[
        str, "checkpoint to predict with when there is no other; below this repository"
    ] = ""

    def __post_init__(self) -> None:
        require(
            self.train.eval_every == 0 or bool(self.data.evaluated),
            "train.eval_every needs data.evaluated: sources to evaluate on",
        )
        require(
            not self.checkpoint.keep_best or self.train.eval_every > 0,
            "checkpoint.keep_best needs train.eval_every",
        )
        cycles = self.adapt.num_cycles or self.model.num_cycles
        require(
            self.model.gradient_cycles <= cycles,
            f"model.gradient_cycles must be at most adapt.num_cycles {cycles}",
        )
        self.adapt.adapted_model(self.model)  # refuses what its kind does not have


def change_settings(settings: Settings, changes: Iterable[str]) -> Settings:
    """Return ``settings`` with ``changes`` of the form ``train.lr=3e-4`` applied.

    They are checked together, so their order does not matter; of two changes of one setting the
    later counts. Raises :class:`InputError` for a change that is not known or not allowed.
    """
    values: dict[str, Any] = {}
    for change in changes:
        if any("\ud800" <= sign <= "\udfff" for sign in change):  # bytes that Python could not read
            raise InputError(f"setting {change!r}: not UTF-8")
        name, equals, text = change.partition("=")
        shown = f"setting {shorten(change)}"
        require(bool(equals), f"{shown}: expected name=value, such as train.lr=3e-4")
        require(change.isprintable(), f"{shown}: holds a character that cannot be printed")
        longest = max(map(len, text.split(",")))
        require(longest <= _LONGEST_TEXT, f"{shown}: longer than {_LONGEST_TEXT} characters")
        _collect(values, settings, name.split("."), text, name)
    return _apply(settings, values)  # type: ignore[no-any-return]


def _collect(values: dict[str, Any], settings: Any, path: list[str], text: str, whole: str) -> None:
    """Add the value in ``text`` to the nested ``values``, at the ``path`` of a setting."""
    name, *rest = path
    hints = get_type_hints(type(settings), include_extras=True)
    if name not in hints or bool(rest) != is_dataclass(hints[name]):
        section = whole.split(".")[: -len(path)] if len(path) < len(whole.split(".")) else []
        choices = [".".join([*section, choice]) for choice in hints]
        raise InputError(f"setting {shorten(whole)} is not known; choose from {', '.join(choices)}")
    if rest:
        _collect(values.setdefault(name, {}), getattr(settings, name), rest, text, whole)
    else:
        values[name] = _parse(hints[name], text, whole)


def _apply(settings: Any, values: dict[str, Any]) -> Any:
    """Return ``settings`` with the nested ``values``, checked once all of a section are there."""
    changes = {
        name: _apply(getattr(settings, name), value) if isinstance(value, dict) else value
        for name, value in values.items()
    }
    return replace(settings, **changes)


def _parse(hint: Any, text: str, name: str) -> Any:
    from pydantic import TypeAdapter, ValidationError  # only a changed setting needs it

    kind = get_args(hint)[0]
    shown = f"setting {shorten(f'{name}={text}')}"
    is_number = kind in (int, float) or float in get_args(kind)
    require(not (is_number and "_" in text), f"{shown}: a number has no '_'")
    try:
        if get_origin(kind) is tuple:
            return TypeAdapter(kind).validate_python(tuple(filter(None, text.split(","))))
        return TypeAdapter(kind).validate_strings(text)
    except ValidationError as error:
        raise InputError(f"{shown}: {error.errors()[0]['msg']}") from None


def describe_settings(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Yield name, value and meaning of every setting."""
    yield from _describe("", settings)


def _describe(section: str, settings: Any) -> Iterator[tuple[str, str, str]]:
    hints = get_type_hints(type(settings), include_extras=True)
    for field in fields(settings):
        value = getattr(settings, field.name)
        name = f"{section}{field.name}"
        if is_dataclass(value):
            yield from _describe(f"{name}.", value)
        else:
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            yield name, shown, get_args(hints[field.name])[1]
