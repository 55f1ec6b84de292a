"""Test-time training: a row that was never trained means nothing, so unseen tasks are learned.

All tasks are trained together on their demonstrations. Rows that the weights have trained for a
task go on from there, all others start at the mean of the trained rows. Answers play no part.
"""

import copy
from collections.abc import Callable, Sequence

import numpy as np

from augment.dataset import Dataset, ExampleStream
from augment.puzzles import PuzzleIndex
from augment.task import Task
from solver.checkpoint import Weights
from solver.engine import Engine
from solver.puzzle_embedding import PuzzleTable
from solver.settings import TrainSettings
from solver.train import Metrics, start_training, train


def adapt(
    weights: Weights,
    tasks: Sequence[Task],
    views_per_task: int,
    views_seed: int,
    settings: TrainSettings,
    engine: Engine,
    *,
    should_stop: Callable[[], bool],
    on_step: Callable[[], None],
    on_metrics: Callable[[Metrics], None],
) -> Weights:
    """Return weights that know ``tasks``; ``weights`` itself stays as it is."""
    architecture = weights.model.settings
    tasks = [task.without_answers() for task in tasks]
    index = PuzzleIndex.of(tasks, views_per_task, views_seed, architecture.rows_per)
    dataset = Dataset(tuple(tasks), index, (False,) * len(tasks), architecture.canvas_side)
    table = PuzzleTable(index.num_rows, weights.table.mean_row)
    for position, task in enumerate(tasks):
        _take_over_rows(weights, task, index, position, table)
    training = start_training(copy.deepcopy(weights.model), table, settings, engine)
    train(
        training,
        ExampleStream(dataset, settings.seed),
        settings,
        engine,
        should_stop=should_stop,
        on_step=on_step,
        on_metrics=on_metrics,
    )
    averaged = training.model.requires_grad_(False)
    averaged.load_state_dict(training.ema.state_of(averaged))
    source = f"{weights.source}, {training.step} steps on the tasks"
    return Weights(averaged, training.table, index, weights.taught, source)


def _take_over_rows(
    weights: Weights, task: Task, index: PuzzleIndex, position: int, table: PuzzleTable
) -> None:
    """Put the rows that ``weights`` have trained for views of the task into ``table``."""
    known = weights.index.find(task)
    if known is None:
        return
    (rows, codes), (old_rows, old_codes) = (
        some.rows(np.full(some.num_views[at], at), np.arange(some.num_views[at]))
        for some, at in ((index, position), (weights.index, known))
    )
    if index.rows_per == "task":
        rows, old_rows = rows[:1], old_rows[:1]
    else:
        _, of_new, of_old = np.intersect1d(codes, old_codes, return_indices=True)
        rows, old_rows = rows[of_new], old_rows[of_old]
    trained = weights.table.is_trained(old_rows)
    table.put(rows[trained], weights.table.look_up(old_rows[trained]))
