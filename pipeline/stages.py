"""The stages: each goes from files to files, can be run again alone, and resumes.

Torch is imported only by the stages that compute with it, and what draws tables and progress bars
only where one is drawn, so that a command answers at once.
"""

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from augment.errors import InputError
from augment.puzzles import tasks_by_id
from augment.task import Task
from pipeline.clock import Stopwatch
from pipeline.console import Progress, describe_engine, say, say_table, warn
from pipeline.recipes import DataSettings, Settings
from pipeline.runs import Run
from pipeline.sources import (
    BUNDLED,
    fingerprint_sources,
    load_source,
    load_sources,
    refuse_leaks,
    within_side,
)
from pipeline.version import code_version

if TYPE_CHECKING:
    from augment.dataset import Dataset
    from solver.engine import Engine

_UNTOUCHED_BY_TRAINING = (
    "checkpoint",
    "adapt",
    "predict",
    "weights",
    "shipped_weights",
    "engine",
    "kaggle",
    "log",
)

_FREE_TO_CHANGE = ("num_steps", "time_limit_seconds", "log_every")


def data(names: Sequence[str] = BUNDLED) -> None:
    """Print what each source of tasks holds; fetch what is not here yet."""
    rows = []
    failures = []
    for name in names:
        try:
            tasks = load_source(name)
        except InputError as error:
            failures.append(str(error))
            continue
        rows.append((
            name,
            len(tasks),
            sum(len(task.train) for task in tasks),
            sum(len(task.test_inputs) for task in tasks),
            "known" if all(task.answers is not None for task in tasks) else "hidden",
            max(task.longest_side() for task in tasks),
        ))  # fmt: skip
    columns = ("source", "tasks", "demonstrations", "test outputs", "answers", "largest side")
    say_table("data", dict.fromkeys(columns, ""), rows)
    if failures:
        raise InputError("; ".join(failures))


def build(settings: Settings, run: Run) -> "Dataset":
    """Return the data set of ``settings``, which lies in the run afterwards.

    One that lies there already, whole and built from the same, is kept.
    """
    from augment.dataset import Dataset
    from augment.puzzles import PuzzleIndex

    start = time.monotonic()
    built_from = _digest_of_source(settings)
    if run.dataset.exists():
        try:
            dataset = Dataset.load(run.dataset, built_from)
            say(f"build: {run.dataset} is whole and built from the same: kept")
            return dataset
        except InputError as error:
            warn(f"build: {error}; building it anew")
    tasks, with_answers = _choose_tasks(settings.data)
    with Progress("build", "task", len(tasks), settings.log) as progress:
        index = PuzzleIndex.of(
            tasks,
            settings.data.views_per_task,
            settings.data.seed,
            settings.model.rows_per,
            progress.update,
        )
    dataset = Dataset(tasks, index, with_answers, settings.model.canvas_side)
    dataset.save(run.dataset, built_from)
    run.record("build", asdict(settings))
    num_bytes = sum(path.stat().st_size for path in run.dataset.iterdir())
    columns = {"tasks": ",", "pairs": ",", "views": ",", "rows": ",", "fewest views": ",",
               "MB": ".1f", "seconds": ".1f"}  # fmt: skip
    say_table("build", columns, [(
        len(tasks),
        dataset.num_pairs,
        len(index.codes),
        index.num_rows,
        int(index.num_views.min()),
        num_bytes / 1e6,
        time.monotonic() - start,
    )])  # fmt: skip
    return dataset


def _digest_of_source(settings: Settings) -> str:
    """Return a digest of all that decides which data set ``settings`` give."""
    data = settings.data
    files = fingerprint_sources((*data.trained, *data.predicted))
    deciding = [asdict(data), settings.model.rows_per, settings.model.canvas_side, files]
    return hashlib.sha256(orjson.dumps(deciding)).hexdigest()


def _choose_tasks(data: DataSettings) -> tuple[tuple[Task, ...], tuple[bool, ...]]:
    """Return the tasks to train on, and of each whether its answers are trained on too."""
    trained = _leave_out(load_sources(data.trained), data.left_out)
    predicted = load_sources(data.predicted)
    refuse_leaks(trained, predicted)
    trained = [t for t in trained if t.longest_side(with_answers=True) <= data.max_side]
    hidden = [task.without_answers() for task in within_side(predicted, data.max_side)]
    tasks = tuple(tasks_by_id([*trained, *hidden]).values())
    return tasks, (True,) * len(trained) + (False,) * len(hidden)


def pretrain(settings: Settings, run: Run) -> None:
    """Train the model of ``settings`` until its steps are done or its time is up; resumes."""
    with run.lock():
        _pretrain(settings, run)


def _pretrain(settings: Settings, run: Run) -> None:
    import torch

    from augment.dataset import Dataset, ExampleStream
    from pipeline.metrics import TrainingLog
    from solver.checkpoint import (
        checkpoint_step,
        latest_checkpoint,
        restore_training,
        save_checkpoint,
        set_broken_aside,
    )
    from solver.engine import open_engine
    from solver.model import TRM
    from solver.pace import Pace
    from solver.puzzle_embedding import PuzzleTable
    from solver.train import start_training, train
    from solver.world import leave_world

    engine = open_engine(settings.engine, say)
    world = engine.world
    world.share(settings.train.global_batch)  # an impossible share is found before any work
    built = None
    if world.leads:
        built = build(settings, run)
        set_broken_aside(run.checkpoints, warn)
    world.wait()
    dataset = built or Dataset.load(run.dataset)
    model = TRM(settings.model, settings.train.seed)
    table = PuzzleTable(dataset.index.num_rows, torch.zeros(settings.model.dim))
    training = start_training(model, table, settings.train, engine)
    latest = latest_checkpoint(run.checkpoints)
    if latest is not None:
        deciding = _what_decides_training(settings, engine, checkpoint_step(latest))
        restore_training(latest, training, dataset.index, deciding, world)
    if world.leads:
        run.record("pretrain", asdict(settings))
        say(
            f"pretrain: {sum(p.numel() for p in model.parameters()):,} parameters, "
            f"{describe_engine(engine)}, "
            + (f"going on from {latest}" if latest else "from the start")
        )

    def checkpoint() -> None:
        save_checkpoint(
            run.checkpoints,
            training,
            dataset.index,
            dataset.taught,
            _what_decides_training(settings, engine, training.step),
            code_version(),
            world,
            keep=settings.checkpoint.keep,
            save_carry=settings.checkpoint.carry,
        )

    with (
        Stopwatch(settings.train.time_limit_seconds or math.inf) as clock,
        TrainingLog(
            "pretrain",
            settings.train,
            settings.log,
            run,
            training.step,
            world,
            lambda: clock.seconds_left,
            lambda: clock.seconds_left,
        ) as log,
    ):
        train(
            training,
            ExampleStream(dataset, settings.train.seed),
            settings.train,
            engine,
            Pace(
                settings.train.num_steps,
                engine,
                should_stop=clock.should_stop,
                checkpoint_seconds=settings.checkpoint.every_seconds,
            ),
            on_step=log.on_step,
            on_metrics=log.on_metrics,
            checkpoint_every=settings.checkpoint.every,
            on_checkpoint=checkpoint,
        )
    if world.leads:
        done = training.step >= settings.train.num_steps
        say(
            f"pretrain: step {training.step} of {settings.train.num_steps}, "
            f"{latest_checkpoint(run.checkpoints)}"
            + ("" if done else "; the same command goes on from here")
        )
    leave_world()


def _what_decides_training(settings: Settings, engine: "Engine", step: int) -> dict[str, Any]:
    """Return the settings that must be the same for a run to go on as if never stopped.

    The number of steps may change as long as the learning rates of the next step stay the same.
    """
    from solver.optimizer import rate_factor

    values = {k: v for k, v in asdict(settings).items() if k not in _UNTOUCHED_BY_TRAINING}
    del values["model"]  # compared as the architecture
    for name in _FREE_TO_CHANGE:
        del values["train"][name]
    values["train"]["rate_of_next_step"] = rate_factor(
        step + 1, step / max(1, settings.train.num_steps), settings.train
    )
    return {**values, "dtype": str(engine.dtype)}


def export(run: Run, destination: Path) -> None:
    """Write the run's newest weights, without what only training needs, into ``destination``."""
    from solver.checkpoint import export_weights, latest_checkpoint

    latest = latest_checkpoint(run.checkpoints)
    if latest is None:
        raise InputError(f"{run.checkpoints}: no checkpoint to export")
    export_weights(latest, destination)
    num_bytes = sum(path.stat().st_size for path in destination.iterdir())
    say(f"export: {latest} to {destination}, {num_bytes / 1e6:.1f} MB")


def _leave_out(tasks: Sequence[Task], task_ids: Sequence[str]) -> list[Task]:
    unknown = set(task_ids) - {task.task_id for task in tasks}
    if unknown:
        raise InputError(f"data.left_out: {', '.join(sorted(unknown))} not in data.trained")
    return [task for task in tasks if task.task_id not in task_ids]
