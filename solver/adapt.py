"""Test-time training: a row that was never trained means nothing, so unseen tasks are learned.

All unseen tasks are trained together on their demonstrations, every row starting at the mean of
the trained rows. Answers play no part.
"""

import copy
from collections.abc import Callable, Sequence

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
    training = start_training(
        copy.deepcopy(weights.model),
        PuzzleTable(index.num_rows, weights.table.mean_row),
        settings,
        engine,
    )
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
    averaged.load_state_dict({**averaged.state_dict(), **training.ema.average})
    source = f"{weights.source}, {training.step} steps on the tasks"
    return Weights(averaged, training.table, index, weights.taught, source)
