"""Recipes: functions that return a whole configuration; and how a person changes one setting."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from augment.errors import InputError
from solver.settings import (
    AdaptSettings,
    CheckpointSettings,
    EngineSettings,
    ModelSettings,
    PredictSettings,
    TrainSettings,
    require,
    require_numbers,
)


@dataclass(frozen=True, slots=True)
class DataSettings:
    """Which tasks, and how many views of each."""

    trained: Annotated[
        tuple[str, ...], "sources whose demonstrations and test pairs are trained on"
    ] = ()
    predicted: Annotated[
        tuple[str, ...], "sources to answer; only their demonstrations are trained on"
    ] = ()
    left_out: Annotated[tuple[str, ...], "ids of tasks left out of data.trained"] = ()
    max_side: Annotated[int, "keep tasks whose grids, answers aside, have no longer side"] = 30
    views_per_task: Annotated[int, "views beside the original, at most"] = 1000
    seed: Annotated[int, "seed of the views"] = 0

    def __post_init__(self) -> None:
        require(bool(self.trained or self.predicted), "data.trained and data.predicted are empty")
        require_numbers(self, at_least={"views_per_task": 0, "seed": 0})
        require(1 <= self.max_side <= 30, f"data.max_side must be 1..30, got {self.max_side}")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is said of a run while it goes on, and where its metrics go."""

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
        require_numbers(self, at_least={"every_seconds": 0})


@dataclass(frozen=True, slots=True)
class KaggleSettings:
    """What `package` and the notebook on Kaggle need to know."""

    owner: Annotated[str, "Kaggle user name; empty: whose credentials the client finds"] = ""
    competition: Annotated[str, "slug of the competition"] = "arc-prize-2026-arc-agi-2"
    machine_shape: Annotated[
        str, "machine of the notebook: NvidiaL4 has four GPUs of 24 GB; empty: no GPU"
    ] = "NvidiaL4"
    licence: Annotated[
        str, "licence of the data set, by Kaggle's name; ARC Prize asks for CC0 or MIT-0"
    ] = "CC0-1.0"
    rows: Annotated[
        Literal["mean", "all"], "puzzle rows shipped: their mean, or all that were trained"
    ] = "mean"
    smoke_tasks: Annotated[int, "evaluation tasks that a run outside the scoring answers"] = 8
    smoke_seconds: Annotated[float, "time that these may take, training and all"] = 1200.0

    def __post_init__(self) -> None:
        require_numbers(self, at_least={"smoke_tasks": 1, "smoke_seconds": 1})
        is_slug = re.fullmatch("[a-z0-9-]+", self.competition) is not None
        require(is_slug, f"kaggle.competition is the end of its address, not {self.competition!r}")


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration of a run."""

    data: DataSettings
    model: ModelSettings
    train: TrainSettings
    checkpoint: CheckpointSettings
    adapt: AdaptSettings
    predict: PredictSettings
    engine: EngineSettings
    kaggle: KaggleSettings = KaggleSettings()
    log: LogSettings = LogSettings()
    weights: Annotated[
        str, "checkpoint to predict with: a folder, or a reference file; empty: the run's newest"
    ] = ""
    shipped_weights: Annotated[
        str, "checkpoint to predict with when there is no other; below this repository"
    ] = ""


def demo() -> Settings:
    """ARC-AGI-1 tasks up to 10x10 on a CPU: trained in an hour, predicted in two minutes.

    A small model that never saw a test output; its measured score is in the README, and how its
    settings were chosen in docs/EXPERIMENTS.md.
    """
    return Settings(
        data=DataSettings(
            predicted=("arc1/training", "arc1/evaluation"), max_side=10, views_per_task=63
        ),
        model=ModelSettings(
            canvas="box",
            canvas_side=10,
            dim=128,
            num_heads=4,
            rows_per="task",
            rotary="grid",
            rotary_base=100.0,
            num_cycles=1,
            num_latent_steps=1,
            max_supervision_steps=2,
        ),
        train=TrainSettings(
            num_steps=7400,
            global_batch=64,
            optimizer="normuon",
            lr=1e-3,
            schedule="wsd",
            warmup_steps=100,
        ),
        checkpoint=CheckpointSettings(every=500),
        adapt=AdaptSettings(
            num_steps=500,
            global_batch=64,
            optimizer="normuon",
            lr=1e-3,
            schedule="wsd",
            decay_share=0.5,
            warmup_steps=50,
            ema_rate=0.99,
        ),
        predict=PredictSettings(num_views=16),
        engine=EngineSettings(),
        shipped_weights="solver/weights/demo",
    )


def arc1() -> Settings:
    """The reference's ARC-AGI-1: published 44.6 % (pass@2) after 3 days on 4 H100.

    It differs in two things: boxes are computed instead of the whole canvas (``model.canvas=full``
    is the reference's way), and a task is left out that gives an evaluation answer away.
    """
    data = DataSettings(
        trained=("arc1/training", "concept"),
        predicted=("arc1/evaluation",),
        # The test pair of this training task is also the test pair of evaluation task 070dd51e.
        left_out=("40853293",),
    )
    return Settings(
        data=data,
        model=ModelSettings(canvas="box"),
        train=TrainSettings(),
        checkpoint=CheckpointSettings(),
        adapt=_unseen(),
        predict=PredictSettings(ranking="count"),
        engine=EngineSettings(),
    )


def arc2() -> Settings:
    """The reference's ARC-AGI-2: published 7.8 % (pass@2) after 3 days on 4 H100."""
    data = DataSettings(trained=("arc2/training", "concept"), predicted=("arc2/evaluation",))
    return replace(arc1(), data=data)


def arc1_fast() -> Settings:
    """ARC-AGI-1 on one GPU of 80 GB in two hours as planned (not run); 3.6M parameters.

    Its options were chosen at equal compute in docs/EXPERIMENTS.md. It recurs more than what won
    there, having 10,000 times the compute. ``train.num_steps`` 25,000 is planned for half an hour,
    1,200,000 for a day.
    """
    return replace(
        arc1(),
        model=ModelSettings(
            canvas="box",
            dim=384,
            num_heads=6,
            rows_per="task",
            rotary="grid",
            rotary_base=100.0,
            num_cycles=1,
            num_latent_steps=2,
            max_supervision_steps=4,
        ),
        train=TrainSettings(
            num_steps=100_000,
            optimizer="normuon",
            lr=5e-4,
            schedule="wsd",
            warmup_steps=500,
        ),
        checkpoint=CheckpointSettings(every=5000, keep=1, carry=False),
        adapt=_unseen(),
        predict=PredictSettings(num_views=128),
        engine=EngineSettings(),
    )


def arc2_fast() -> Settings:
    """The same for ARC-AGI-2. Not run."""
    return replace(arc1_fast(), data=arc2().data)


def arc1_eval() -> Settings:
    """All 400 ARC-AGI-1 evaluation tasks with the shipped weights or those of RUN: a score.

    The shipped weights' canvas is that of the demo; larger tasks get a fallback answer.
    """
    shipped = demo()
    data = DataSettings(predicted=("arc1/evaluation",), views_per_task=shipped.data.views_per_task)
    return replace(shipped, data=data)


def arc2_eval() -> Settings:
    """All 120 ARC-AGI-2 evaluation tasks, likewise."""
    return replace(arc1_eval(), data=replace(arc1_eval().data, predicted=("arc2/evaluation",)))


def kaggle() -> Settings:
    """Tasks never seen, under the competition's clock, on its four GPUs: 12 hours less 10 minutes.

    Test-time training of all tasks together as NVARC did it (10.0 on the 2025 leaderboard), with
    rates that reach zero as its time ends, and an average that spans a tenth of its steps. Name
    the trunk with ``weights=``, or start with ``adapt.start=scratch``; ``data.predicted`` here is
    for a rehearsal. Not run at this size.
    """
    recipe = arc2()
    return replace(
        recipe,
        data=DataSettings(predicted=("arc2/evaluation",), views_per_task=127),
        model=replace(recipe.model, num_cycles=4, max_supervision_steps=10),
        adapt=AdaptSettings(
            num_steps=1_000_000,
            global_batch=128,
            warmup_steps=200,
            schedule="wsd",
            ema_share=0.1,
            num_cycles=4,
            num_latent_steps=4,
            max_supervision_steps=10,
        ),
        predict=PredictSettings(
            num_views=128, num_supervision_steps=4, time_limit_seconds=42_600.0
        ),
    )


def _unseen() -> AdaptSettings:
    """Test-time training of tasks never seen, all weights together."""
    return AdaptSettings(num_steps=15_000, global_batch=384, warmup_steps=2000)


RECIPES: Mapping[str, Callable[[], Settings]] = {
    "demo": demo,
    "arc1": arc1,
    "arc2": arc2,
    "arc1-fast": arc1_fast,
    "arc2-fast": arc2_fast,
    "arc1-eval": arc1_eval,
    "arc2-eval": arc2_eval,
    "kaggle": kaggle,
}


def load_recipe(name: str, changes: Iterable[str]) -> Settings:
    """Return the recipe with ``changes`` applied; see :func:`change_settings`."""
    if name not in RECIPES:
        raise InputError(f"recipe {name!r} is not known; choose from {', '.join(RECIPES)}")
    return change_settings(RECIPES[name](), changes)


def change_settings(settings: Settings, changes: Iterable[str]) -> Settings:
    """Return ``settings`` with ``changes`` of the form ``train.lr=3e-4`` applied in order."""
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals:
            raise InputError(f"setting {change!r}: expected name=value, such as train.lr=3e-4")
        settings = _change(settings, path.split("."), text, path)
    return settings


def _change(settings: Any, path: list[str], text: str, whole: str) -> Any:
    """Return ``settings`` with the field at ``path`` read from ``text``."""
    name, *rest = path
    hints = get_type_hints(type(settings), include_extras=True)
    if name not in hints or bool(rest) != is_dataclass(hints[name]):
        place = whole.split(".")[: -len(path)] if len(path) < len(whole.split(".")) else []
        choices = [".".join([*place, choice]) for choice in hints]
        raise InputError(f"setting {whole!r} is not known; choose from {', '.join(choices)}")
    if rest:
        value = _change(getattr(settings, name), rest, text, whole)
    else:
        value = _parse(hints[name], text, whole)
    return replace(settings, **{name: value})


def _parse(hint: Any, text: str, name: str) -> Any:
    from pydantic import TypeAdapter, ValidationError  # only a changed setting needs it

    kind = get_args(hint)[0]
    try:
        if get_origin(kind) is tuple:
            return TypeAdapter(kind).validate_python(tuple(filter(None, text.split(","))))
        return TypeAdapter(kind).validate_strings(text)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise InputError(f"setting {name}={text}: {reason}") from None


def describe_settings(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Yield name, value and meaning of every setting."""
    yield from _describe("", settings)


def _describe(place: str, settings: Any) -> Iterator[tuple[str, str, str]]:
    hints = get_type_hints(type(settings), include_extras=True)
    for field in fields(settings):
        value = getattr(settings, field.name)
        name = f"{place}{field.name}"
        if is_dataclass(value):
            yield from _describe(f"{name}.", value)
        else:
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            yield name, shown, get_args(hints[field.name])[1]
