"""Training that starts from weights: test-time training, and pretraining that goes on from others.

A puzzle row that was never trained means nothing, so all such tasks are trained together on their
demonstrations. Rows that the weights have trained for a task go on from there, all others start at
the mean of the trained rows. Solutions play no part.
"""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from augment.dataset import Dataset
from augment.errors import InputError
from augment.puzzle_index import ColorMaps, PuzzleIndex
from augment.task import Task
from augment.view import ViewCodes
from solver.engine import Engine
from solver.kinds import new_model
from solver.puzzle_table import PuzzleTable
from solver.settings import RECURSION, AdaptSettings, ModelSettings, TrainSettings
from solver.train import Training, start_training
from solver.weights import Weights

# What may differ between weights and a training that starts from them.
_MAY_DIFFER = (*RECURSION, "gradient_cycles", "dropout")


def make_adaptation_dataset(
    tasks: Sequence[Task],
    views_per_task: int,
    views_seed: int,
    model: ModelSettings,
    color_maps: ColorMaps = "all",
) -> Dataset:
    """Return the data set of test-time training: demonstrations of ``tasks`` under their views."""
    tasks = tuple(task.without_solutions() for task in tasks)
    index = PuzzleIndex.of(tasks, views_per_task, views_seed, model.rows_per, color_maps)
    return Dataset(tasks, index, (False,) * len(tasks), model.canvas_side)


def start_adaptation(
    weights: Weights, dataset: Dataset, settings: AdaptSettings, engine: Engine
) -> Training:
    """Return the beginning of training ``weights`` on ``dataset``, which are not changed.

    The recursion is the one that ``settings`` name, where they name one.
    """
    model = settings.adapted_model(weights.model.settings)
    return start_from_weights(weights, dataset.index, model, settings, engine)


def start_from_weights(
    weights: Weights,
    index: PuzzleIndex,
    model: ModelSettings,
    settings: TrainSettings,
    engine: Engine,
) -> Training:
    """Return the beginning of training a copy of ``weights`` as ``model`` says, on ``index``.

    The recursion may be another one, and boxes on a grid may lie on a larger canvas. Raises
    :class:`InputError` where anything else of the architecture differs.
    """
    old = weights.model.settings
    may_grow = model.rotary == "grid" and model.canvas == "box"
    free = (*_MAY_DIFFER, "canvas_side") if may_grow else _MAY_DIFFER
    for field in fields(model):
        theirs, ours = getattr(old, field.name), getattr(model, field.name)
        if theirs != ours and field.name not in free:
            raise InputError(
                f"{weights.source}: model.{field.name} is {theirs}, here it is {ours}: training "
                "cannot go on from these weights"
            )
    if model.canvas_side < old.canvas_side:
        raise InputError(
            f"{weights.source}: model.canvas_side is {old.canvas_side}, which may grow but not "
            f"shrink to {model.canvas_side}: set model.canvas_side={old.canvas_side}"
        )
    copy = new_model(model)
    copy.load_state_dict(weights.model.state_dict())
    table = PuzzleTable(index.num_rows, weights.table.mean_row)
    for position in range(len(index.task_ids)):
        _copy_trained_rows(weights, index, position, table)
    return start_training(copy, table, settings, engine)


def _copy_trained_rows(
    weights: Weights, index: PuzzleIndex, position: int, table: PuzzleTable
) -> None:
    """Copy the rows that ``weights`` have trained for views of a task into ``table``."""
    old_position = weights.index.position_of(*index.key(position))
    if old_position is None:
        return
    rows, codes = _rows_of_task(index, position)
    old_rows, old_codes = _rows_of_task(weights.index, old_position)
    if index.rows_per == "task":
        rows, old_rows = rows[:1], old_rows[:1]
    else:
        _, new, old = np.intersect1d(codes, old_codes, return_indices=True)
        rows, old_rows = rows[new], old_rows[old]
    is_trained = weights.table.is_trained(old_rows)
    table.put(rows[is_trained], weights.table.look_up(old_rows[is_trained]))


def _rows_of_task(index: PuzzleIndex, position: int) -> tuple[NDArray[np.int64], ViewCodes]:
    """Return row and code of each view of a task."""
    num_views = index.num_views[position]
    return index.rows(np.full(num_views, position), np.arange(num_views))
