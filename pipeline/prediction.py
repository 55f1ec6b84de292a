"""The stage from weights to answers, and what it shares with the sweep."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from augment.errors import InputError
from augment.leaks import give_away
from augment.task import Task
from pipeline.answers import Answers
from pipeline.clock import Stopwatch, Watchdog, seconds_to_work
from pipeline.console import describe_engine, say, warn
from pipeline.recipes import Settings
from pipeline.results import report
from pipeline.runs import Run, leads
from pipeline.sources import load_sources, within_side
from pipeline.version import ROOT

if TYPE_CHECKING:
    from solver.checkpoint import Weights
    from solver.engine import Engine
    from solver.world import World

_SECONDS_FOR_PAGE = 5.0  # more than 400 tasks of 128 views take; else the watchdog ends it
_LEAST_SECONDS_FOR_PAGE = 2.0
_SHARE_FOR_PAGE = 0.05  # of the time there is, at most


def predict(settings: Settings, run: Run) -> None:
    """Answer the tasks of ``settings``: train on those never seen, predict views, vote, write.

    Goes on from what an earlier, interrupted call with the same settings left in the run.
    """
    limits = settings.predict.time_limit_seconds, settings.predict.deadline
    tasks = choose_tasks(settings)
    with ExitStack() as stack:
        stack.enter_context(run.lock())
        # Before torch is imported, which takes seconds.
        answers = None
        if leads():
            answers = Answers(tasks, run, settings.predict)
            with suppress(OSError):
                run.report.unlink()  # of what was answered before
        stopwatch = stack.enter_context(Stopwatch(seconds_to_work(*limits)))
        stack.enter_context(Watchdog(stopwatch))

        from pipeline.job import Job
        from solver.engine import open_engine
        from solver.world import leave_world

        engine = open_engine(settings.engine, say)
        stopwatch.end_within(engine.world.lowest(stopwatch.seconds_left, engine.device))
        weights = choose_weights(settings, run, tasks, engine.world)
        if answers is not None:
            # The architecture travels in the checkpoint, whatever the recipe says.
            run.record("predict", asdict(replace(settings, model=weights.model.settings)))
            say(f"predict: {len(tasks)} tasks with {weights.source}, {describe_engine(engine)}")
        known, unseen = split_tasks(tasks, weights, settings, engine)
        has_page = all(task.answers is not None for task in tasks)
        has_time = stopwatch.seconds_left * _SHARE_FOR_PAGE > _SECONDS_FOR_PAGE
        reserved = _SECONDS_FOR_PAGE if has_page and has_time else 0.0
        Job(settings, run, engine, stopwatch, answers, reserved).answer(known, unseen, weights)
        if answers is not None:
            answers.finish()
        engine.world.wait()
        leave_world()
        if answers is not None and not stopwatch.was_asked and run.solutions.exists():
            _write_page(run, stopwatch)
    if stopwatch.was_asked:
        if answers is not None:
            warn("predict: stopped; the same command goes on from here")
        raise KeyboardInterrupt


def _write_page(run: Run, stopwatch: Stopwatch) -> None:
    """Write the page of the run, whose answers lie there already, whatever becomes of it."""
    if stopwatch.seconds_left < _LEAST_SECONDS_FOR_PAGE:
        say(f"no page, as the time is over: make report RUN={run.folder.name}")
        return
    try:
        report(run)
    except Exception as error:
        warn(f"no page: {error!r}")


def choose_tasks(settings: Settings) -> list[Task]:
    """Return the tasks to predict."""
    tasks = within_side(load_sources(settings.data.predicted), settings.data.max_side)
    if not tasks:
        raise InputError("no task to predict: data.predicted is empty or data.max_side too small")
    return tasks


def choose_weights(
    settings: Settings, run: Run, tasks: Iterable[Task], world: "World"
) -> "Weights":
    """Return the weights to predict ``tasks`` with, which never saw their answers."""
    from solver.adapt import new_weights
    from solver.checkpoint import load_weights

    if settings.adapt.start == "scratch":
        return new_weights(settings.model, settings.adapt.seed)
    weights = load_weights(find_weights(settings, run, world))
    taught = describe_taught(tasks, weights)
    if taught and settings.predict.refuse_taught:
        raise InputError(taught)
    if taught and world.leads:
        warn(taught)
    return weights


def find_weights(settings: Settings, run: Run, world: "World") -> Path:
    """Return the checkpoint that ``settings`` name, else the run's newest, else what ships."""
    from solver.checkpoint import latest_checkpoint, set_broken_aside

    if settings.weights:
        return Path(settings.weights)
    if world.leads:
        set_broken_aside(run.checkpoints, warn)
    world.wait()
    latest = latest_checkpoint(run.checkpoints)
    if latest is not None:
        return latest
    if settings.shipped_weights:
        path = Path(settings.shipped_weights)
        return path if path.exists() else ROOT / path
    raise InputError(
        f'{run.checkpoints}: no checkpoint; pretrain first, or name one: SET="weights=FOLDER"'
    )


def describe_taught(tasks: Iterable[Task], weights: "Weights") -> str:
    """Return a line naming the tasks whose answers the weights were taught; empty for none."""
    taught = set(weights.taught.tolist())
    known = [task.task_id for task in tasks if not taught.isdisjoint(give_away(task))]
    if not known:
        return ""
    return (
        f"{weights.source}: trained on the answers of {len(known)} of the tasks to predict, "
        f"so their score would mean nothing: {', '.join(known)}"
    )


def split_tasks(
    tasks: Sequence[Task], weights: "Weights", settings: Settings, engine: "Engine"
) -> tuple[list[Task], list[Task]]:
    """Return the tasks to answer as they are known, and those to train on; answers hidden.

    Those that do not fit the weights' canvas are in neither.
    """
    side = weights.model.settings.canvas_side
    visible = [task.without_answers() for task in tasks]
    fitting = within_side(visible, side)
    if len(fitting) < len(tasks) and engine.world.leads:
        warn(
            f"predict: {len(tasks) - len(fitting)} tasks do not fit the {side}x{side} canvas of "
            "these weights and get a fallback answer"
        )
    if settings.predict.adapt == "all":
        return [], fitting
    known = [task for task in fitting if weights.index.find(task) is not None]
    return known, [task for task in fitting if weights.index.find(task) is None]
