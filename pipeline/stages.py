"""The stages: each goes from files to files, can be run again alone, and resumes.

Torch is imported only by the stages that compute with it, and what draws tables and progress bars
only where one is drawn, so that a command answers at once.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from augment.errors import InputError
from augment.puzzles import tasks_by_id
from augment.task import Task
from pipeline.console import Progress, say, say_table, warn
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

if TYPE_CHECKING:
    from augment.dataset import Dataset


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
    from augment.dataset import Dataset
    from pipeline.pretraining import pretrain_model
    from solver.checkpoint import set_broken_aside
    from solver.engine import open_engine
    from solver.world import leave_world

    engine = open_engine(settings.engine, say)
    world = engine.world
    world.share(settings.train.global_batch)  # an impossible share is found before any work
    built = None
    if world.leads:
        built = build(settings, run)
        set_broken_aside(run.checkpoints, warn)
    world.wait()
    pretrain_model(settings, run, engine, built or Dataset.load(run.dataset))
    leave_world()


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
