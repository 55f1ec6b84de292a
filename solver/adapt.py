"""Test-time training: a row that was never trained means nothing, so unseen tasks are learned.

All tasks are trained together on their demonstrations, each visited once an epoch whatever the
number of its views. Rows that the weights have trained for a task go on from there, all others
start at the mean of the trained rows. Answers play no part.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from augment.dataset import Dataset, ExampleStream
from augment.puzzles import PuzzleIndex
from augment.task import Task
from solver.checkpoint import Weights
from solver.engine import Engine
from solver.model import TRM
from solver.puzzle_embedding import PuzzleTable
from solver.settings import AdaptSettings, ModelSettings
from solver.train import Training, start_training


@dataclass(frozen=True, slots=True, eq=False)
class Adaptation:
    """A test-time training run: what it started from, what it learns, and how far it has come."""

    start: Weights
    dataset: Dataset
    stream: ExampleStream
    training: Training

    def weights(self) -> Weights:
        """Return weights as they are now: the averaged model with the present rows.

        The model is a copy; the rows are not, so training must not go on while these are used.
        """
        training = self.training
        averaged = copy.deepcopy(training.model).requires_grad_(False)
        averaged.load_state_dict(training.ema.state_of(averaged))
        start, step = self.start, training.step
        source, digest = f"{start.source}, {step} steps on the tasks", f"{start.digest}+{step}"
        return Weights(averaged, training.table, self.dataset.index, start.taught, source, digest)


def start_adaptation(
    weights: Weights,
    tasks: Sequence[Task],
    views_per_task: int,
    views_seed: int,
    settings: AdaptSettings,
    engine: Engine,
) -> Adaptation:
    """Return the beginning of training ``weights`` on ``tasks``; ``weights`` stays as it is."""
    model = copy.deepcopy(weights.model)
    model.settings = architecture = _recursion(model.settings, settings)
    tasks = [task.without_answers() for task in tasks]
    index = PuzzleIndex.of(tasks, views_per_task, views_seed, architecture.rows_per)
    dataset = Dataset(tuple(tasks), index, (False,) * len(tasks), architecture.canvas_side)
    table = PuzzleTable(index.num_rows, weights.table.mean_row)
    for position, task in enumerate(tasks):
        _take_over_rows(weights, task, index, position, table)
    training = start_training(model, table, settings, engine)
    return Adaptation(weights, dataset, ExampleStream(dataset, settings.seed), training)


def new_weights(model: ModelSettings, seed: int) -> Weights:
    """Return what test-time training from scratch starts with: a model that knows nothing."""
    index = PuzzleIndex.of([], 0, 0, model.rows_per)
    table = PuzzleTable(index.num_rows, torch.zeros(model.dim))
    taught = np.empty(0, np.uint64)
    trm = TRM(model, seed).requires_grad_(False)
    return Weights(trm, table, index, taught, "a new model", f"{model} {seed}")


def _recursion(model: ModelSettings, settings: AdaptSettings) -> ModelSettings:
    """Return the architecture with the recursion that ``settings`` ask for."""
    names = ("num_cycles", "num_latent_steps", "max_supervision_steps")
    return replace(model, **{n: getattr(settings, n) or getattr(model, n) for n in names})


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
