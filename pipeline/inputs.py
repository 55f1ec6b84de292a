"""Which tasks a run trains on, evaluates and predicts, and with which weights."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from augment.errors import InputError
from augment.leakage import (
    find_given_away_tests,
    join_some,
    refuse_leaks,
    scored_parts,
    without_twins,
)
from augment.task import Pair, Task, tasks_by_id
from pipeline.console import is_rank0, say, warn
from pipeline.run import Run
from pipeline.settings import DataSettings, Settings
from pipeline.sources import load_source, load_sources, within_side
from pipeline.version import ROOT
from solver.checkpoint_files import load_newest

if TYPE_CHECKING:  # these import torch, which some commands do without
    from solver.engine import Engine
    from solver.process_group import ProcessGroup
    from solver.weights import Weights


def choose_trained_tasks(
    data: DataSettings,
) -> tuple[tuple[Task, ...], tuple[bool, ...], tuple[tuple[Pair, ...], ...]]:
    """Return the tasks to train on, whether the solutions of each are too, and its fresh pairs.

    Raises :class:`InputError` where training would give a predicted solution away.
    """
    evaluated = choose_evaluated_tasks(data)
    evaluated_ids = {task.task_id for task in evaluated}
    trained = [t for t in load_trained(data) if t.task_id not in evaluated_ids]
    predicted = load_sources(data.predicted)
    fitting = [t for t in trained if t.longest_side(with_solutions=True) <= data.max_side]
    fresh = choose_fresh_pairs(data, fitting)
    extended = [task.with_tests(p) for task, p in zip(fitting, fresh, strict=True) if p]
    refuse_leaks([*trained, *extended], [*predicted, *evaluated])
    predicted = within_side(predicted, data.max_side)
    say_given_away_tests(predicted)
    predicted_ids = {task.task_id for task in predicted}
    if data.unseen and (both := evaluated_ids & predicted_ids):
        raise InputError(
            f"data.evaluated: {join_some(sorted(both))} in data.predicted too, of which with "
            "data.unseen pretraining sees nothing"
        )
    hidden = [] if data.unseen else [task.without_solutions() for task in predicted]
    hidden += [t.without_solutions() for t in evaluated if t.task_id not in predicted_ids]
    tasks = tuple(tasks_by_id([*fitting, *hidden]).values())
    with_solutions = (True,) * len(fitting) + (False,) * len(hidden)
    return tasks, with_solutions, (*fresh, *((),) * len(hidden))


def choose_fresh_pairs(data: DataSettings, trained: Sequence[Task]) -> list[tuple[Pair, ...]]:
    """Return the pairs of each of the ``trained`` tasks in ``data.fresh`` that fit data.max_side.

    Tasks of ``data.fresh`` that are not trained on with their solutions are left out.
    """
    pairs: dict[str, list[Pair]] = {t.task_id: [] for t in trained if t.solutions is not None}
    entries = [task for name in data.fresh for task in load_source(name)]
    for task in entries:
        for pair in (*task.train, *task.test_pairs):
            fits = max(*pair.input.shape, *pair.output.shape) <= data.max_side
            if fits and task.task_id in pairs:
                pairs[task.task_id].append(pair)
    if data.fresh:
        left_out = {task.task_id for task in entries} - pairs.keys()
        say(
            f"data.fresh: {sum(map(len, pairs.values())):,} fresh pairs of "
            f"{sum(map(bool, pairs.values())):,} tasks; {len(left_out):,} tasks are left out, "
            "as they are not trained on with their solutions"
        )
    return [tuple(pairs.get(task.task_id, ())) for task in trained]


def load_trained(data: DataSettings) -> list[Task]:
    """Return the tasks of ``data.trained`` without those of ``data.left_out``."""
    tasks = load_sources(data.trained)
    unknown = set(data.left_out) - {task.task_id for task in tasks}
    if unknown:
        raise InputError(f"data.left_out: {', '.join(sorted(unknown))} not in data.trained")
    return [task for task in tasks if task.task_id not in data.left_out]


def choose_evaluated_tasks(data: DataSettings) -> list[Task]:
    """Return the tasks, drawn from ``data.evaluated``, whose tests pretraining is evaluated on.

    Only tasks that no other task gives away are drawn. Their solutions are never trained on.
    """
    if not data.evaluated:
        return []
    candidates = [t for t in load_sources(data.evaluated) if t.task_id not in data.left_out]
    candidate_ids = {task.task_id for task in candidates}
    others = [t for t in load_trained(data) if t.task_id not in candidate_ids]
    alone = {task.task_id for task in without_twins([*candidates, *others])}
    drawn = [
        task
        for task in candidates
        if task.task_id in alone
        and task.solutions is not None
        and task.longest_side(with_solutions=True) <= data.max_side
    ]
    if not drawn:
        raise InputError(
            "data.evaluated: no task to evaluate on: each is larger than data.max_side, has hidden "
            "solutions, or is given away by another task"
        )
    order = np.random.default_rng(data.seed).permutation(len(drawn))[: data.num_evaluated]
    return [drawn[number] for number in sorted(order.tolist())]


def choose_predicted_tasks(settings: Settings) -> list[Task]:
    """Return the tasks to predict."""
    tasks = within_side(load_sources(settings.data.predicted), settings.data.max_side)
    if not tasks:
        raise InputError("no task to predict: data.predicted is empty or data.max_side too small")
    return tasks


def split_tasks(
    tasks: Sequence[Task], weights: "Weights", settings: Settings
) -> tuple[list[Task], list[Task]]:
    """Return the tasks that are ready to be predicted, and those to train on first.

    Ready are those that the weights have rows of; none with ``predict.adapt=all``. Tasks that do
    not fit the weights' canvas are in neither list. Solutions are hidden.
    """
    side = weights.model.settings.canvas_side
    fitting = within_side([task.without_solutions() for task in tasks], side)
    if len(fitting) < len(tasks):
        warn(
            f"predict: {len(tasks) - len(fitting)} tasks do not fit the {side}x{side} canvas of "
            "these weights and get fallback attempts"
        )
    if settings.predict.adapt == "all":
        return [], fitting
    ready = [task for task in fitting if weights.index.find(task) is not None]
    return ready, [task for task in fitting if weights.index.find(task) is None]


def choose_weights(
    settings: Settings, run: Run, tasks: Iterable[Task], engine: "Engine"
) -> "Weights":
    """Return the weights to predict ``tasks`` with.

    Those that were trained on solutions of ``tasks`` are refused, or lead to a warning with
    ``predict.refuse_leaks=false``.
    """
    from solver.weights import new_weights

    if settings.adapt.start == "scratch":
        return new_weights(settings.model, settings.adapt.seed)
    _, weights = find_weights(settings, run, engine.group)
    leak = describe_leak(tasks, weights)
    if leak and settings.predict.refuse_leaks:
        raise InputError(f"{leak}; predict.refuse_leaks=false predicts them all the same")
    if leak:
        warn(leak)
    return weights


def find_weights(
    settings: Settings, run: Run, group: "ProcessGroup | None" = None
) -> tuple[Path, "Weights"]:
    """Return the weights that ``settings`` name, else the run's newest, else what ships."""
    from solver.weights import load_weights

    if settings.weights:
        return Path(settings.weights), load_weights(Path(settings.weights))
    if group is not None and not group.is_rank0:
        group.barrier()  # until damaged ones are set aside
    newest = load_newest(run.checkpoints, load_weights, warn)
    if group is not None and group.is_rank0:
        group.barrier()
    if newest is not None:
        return newest
    if settings.shipped_weights:
        path = Path(settings.shipped_weights)
        path = path if path.exists() else ROOT / path
        return path, load_weights(path)
    raise InputError(
        f'{run.checkpoints}: no checkpoint; pretrain first, or name one: SET="weights=FOLDER"'
    )


def describe_leak(tasks: Iterable[Task], weights: "Weights") -> str:
    """Return a line naming the tasks whose solutions the weights were trained on; or nothing."""
    trained_on = set(weights.trained_on.tolist())
    parts = (part for task in tasks for part in scored_parts(task) if part.key in trained_on)
    leaked = {part.task_id: str(part) for part in parts}
    if not leaked:
        return ""
    return (
        f"{weights.source}: trained on the solutions of {len(leaked)} of the tasks to predict, "
        "in this view or another, so their score would mean nothing: "
        f"{join_some([*leaked.values()])}"
    )


def say_given_away_tests(tasks: Sequence[Task]) -> None:
    """Say which tests the demonstrations of other tasks give away, as they may on Kaggle too."""
    if is_rank0() and (leaks := find_given_away_tests(tasks)):
        say(
            f"{len(leaks)} of the tests to predict stand among the demonstrations of other "
            f"tasks: {join_some([*map(str, leaks)])}"
        )
