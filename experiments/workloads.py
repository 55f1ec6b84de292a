"""Real examples and views, and the training steps and predictions that are timed on them."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from timing import take_turns

from augment.dataset import Dataset
from augment.examples import Examples, ExampleStream
from augment.puzzle_index import PuzzleIndex, RowsPer
from augment.task import Task
from augment.view import NUM_VIEWS
from pipeline.sources import load_source
from solver.engine import Engine
from solver.kinds import new_model
from solver.loader import Batch
from solver.packing import boxes_for
from solver.predict import Predictor
from solver.puzzle_table import PuzzleTable
from solver.queries import Plan, Queries
from solver.settings import ModelSettings, TrainSettings
from solver.train import Training, start_training, supervise, train_step
from solver.weights import Weights

TRAIN = TrainSettings(warmup_steps=0)
CANVAS = 30
LENGTH = 916


def data_set(
    trained: Sequence[str], predicted: Sequence[str], rows_per: RowsPer = "view"
) -> Dataset:
    """Return a data set of sources with a few views of each task."""
    with_solutions = [task for name in trained for task in load_source(name)]
    hidden = [task.without_solutions() for name in predicted for task in load_source(name)]
    tasks = (*with_solutions, *hidden)
    index = PuzzleIndex.of(tasks, 8, 0, rows_per)
    flags = (True,) * len(with_solutions) + (False,) * len(hidden)
    return Dataset(tasks, index, flags, CANVAS)


def spread_over_sizes(boxes: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` examples whose box sizes are spread as those of all are."""
    by_size = np.argsort(boxes[:, 2] * boxes[:, 3], kind="stable")
    return by_size[((np.arange(count) + 0.5) / count * len(by_size)).astype(int)]


def boxed(model: ModelSettings) -> ModelSettings:
    return replace(model, canvas="box")


@dataclass
class Trainer:
    """A training run whose lanes hold the same examples in every step that is timed."""

    training: Training
    batch: Batch
    engine: Engine

    @classmethod
    def of(cls, settings: ModelSettings, examples: Examples, engine: Engine) -> "Trainer":
        examples = replace(examples, boxes=boxes_for(settings, examples.boxes))
        train = replace(TRAIN, global_batch=len(examples.rows))
        table = PuzzleTable(int(examples.rows.max()) + 1, torch.zeros(settings.dim))
        training = start_training(new_model(settings), table, train, engine)
        return cls(training, Batch(examples, np.full(len(examples.rows), 16)), engine)

    def step(self) -> None:
        settings = replace(TRAIN, global_batch=len(self.batch.min_steps_B))
        train_step(self.training, self.batch, settings, self.engine)

    def loss(self) -> float:
        """Return the summed loss of one step from the start, before any weight changes."""
        training = self.training
        outcome = supervise(training.model, training.table, training.carry, self.batch, self.engine)
        training.optimizer.zero_grad()
        return outcome.losses.total.item()


def plan_tests(model: ModelSettings, num_steps: int, tasks: Sequence[Task], count: int) -> Plan:
    """Return the plan of ``count`` tests, a view of each, spread over the sizes of their boxes."""
    keys = [(n, test) for n, task in enumerate(tasks) for test in range(len(task.test_inputs))]
    numbers, tests = (np.array(column) for column in zip(*keys, strict=True))
    codes = np.random.default_rng(0).integers(NUM_VIEWS, size=len(keys)).astype(np.uint32)
    zeros = np.zeros(len(keys), dtype=np.int64)  # one row for all, and the first view of each test
    queries = Queries(numbers, tests, zeros, zeros, codes)
    plan = Plan.of(boxed(model), num_steps, tasks, queries)
    chosen = plan.take(spread_over_sizes(plan.boxes, count))
    return replace(chosen, model=model, boxes=boxes_for(model, chosen.boxes))


def prediction_of(plan: Plan, engine: Engine) -> Callable[[], None]:
    """Return what predicts all of the plan, its inputs encoded beforehand.

    A call waits for the last chunk only on a GPU's next synchronisation; its output is decoded by
    the next call, so every call but the first one does all work of one.
    """
    table = PuzzleTable(1, torch.zeros(plan.model.dim))
    trm = new_model(plan.model).requires_grad_(False)
    nothing = np.empty(0, np.uint64)
    weights = Weights(trm, table, PuzzleIndex.empty("view"), nothing, "bench", "")
    predictor = Predictor(weights, plan, engine)

    def run() -> None:
        for chunk in predictor.chunks:
            predictor.submit(chunk)

    return run


def product_rate(engine: Engine, tokens: int, dim: int = 512, inner: int = 1536) -> float:
    """Return the FLOP/s of the four products of a layer at ``tokens`` positions."""
    flop = seconds = 0.0
    for width, out in ((dim, 3 * dim), (dim, dim), (dim, 2 * inner), (inner, dim)):
        x = torch.randn(tokens, width, device=engine.device, dtype=engine.dtype)
        weight = torch.randn(out, width, device=engine.device, dtype=engine.dtype)
        product = partial(torch.nn.functional.linear, x, weight)
        times = take_turns({"product": product}, 7, engine.device)["product"]
        flop, seconds = flop + 2 * tokens * width * out, seconds + statistics.median(times[1:])
    return flop / seconds


def arc1_mix(count: int) -> Examples:
    """Return examples spread like the ARC-1 training set: both sets' pairs, concepts left out."""
    examples = ExampleStream(data_set(["arc1/training"], ["arc1/evaluation"]), 0).examples(0, 8192)
    return examples.take(spread_over_sizes(examples.boxes, count))
