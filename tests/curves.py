"""`make curves`: does the canvas `box` learn as well as `full`?

One small model, trained on the demonstrations of 100 real tasks on either canvas, from the same
weights, on the same examples in the same order, with three seeds. Along the way loss and exact
accuracy are measured on the tasks' test pairs, which training never sees, under views that it does
see. One line of JSON for each measurement.
"""

import argparse
import copy
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from augment.boxes import boxes_around
from augment.dataset import Dataset, Examples, ExampleStream
from augment.puzzles import PuzzleIndex
from augment.task import Task
from augment.tokens import GridStore, encode_grids, turn_sizes
from pipeline.sources import load_source
from solver.batch import Batch, start_carry
from solver.engine import Engine, open_engine
from solver.groups import boxes_for
from solver.model import TRM
from solver.puzzle_embedding import PuzzleTable
from solver.settings import EngineSettings, ModelSettings, TrainSettings
from solver.train import Training, start_training, supervise, train

SIDE, NUM_TASKS, VIEWS, SCORED_VIEWS = 10, 100, 63, 8
MODEL = ModelSettings(
    canvas_side=SIDE,
    dim=128,
    num_heads=4,
    rows_per="task",
    num_cycles=1,
    num_latent_steps=2,
    max_supervision_steps=4,
)
TRAIN = TrainSettings(num_steps=1000, global_batch=64, lr=5e-4, warmup_steps=50, ema_rate=0.99)
EVERY = 200


def held_out(tasks: list[Task], index: PuzzleIndex) -> Examples:
    """Return the test pairs of all tasks under their first views, never translated."""
    pairs = [(n, pair) for n, task in enumerate(tasks) for pair in task.test_pairs]
    numbers = np.repeat([n for n, _ in pairs], SCORED_VIEWS)
    rows, codes = index.rows(numbers, np.tile(np.arange(SCORED_VIEWS), len(pairs)))
    offsets = np.zeros((len(codes), 2), dtype=np.int64)
    grid_ids = np.repeat(np.arange(len(pairs)), SCORED_VIEWS)
    stores = [GridStore.of(getattr(p, side) for _, p in pairs) for side in ("input", "output")]
    sizes = turn_sizes(np.maximum(*(store.sizes(grid_ids) for store in stores)), codes)
    tokens = [encode_grids(store, grid_ids, codes, offsets, SIDE) for store in stores]
    return Examples(*tokens, rows, codes, boxes_around(sizes, offsets, SIDE))


def measure(training: Training, examples: Examples, engine: Engine) -> dict[str, float]:
    """Return loss and exact accuracy on the examples after all supervision steps, averaged EMA."""
    model = copy.deepcopy(training.model)
    model.load_state_dict({**model.state_dict(), **training.ema.average})
    examples = replace(examples, boxes=boxes_for(model.settings, examples.boxes))
    carry = start_carry(model, len(examples.rows), engine.device, engine.dtype)
    batch = Batch(examples, np.full(len(examples.rows), 99))
    for _ in range(model.settings.max_supervision_steps):
        outcome = supervise(model, training.table, carry, batch, engine)
        carry = outcome.carry
    losses = outcome.losses
    return {"loss": losses.tokens.mean().item(), "exact": losses.exact.double().mean().item()}


def run(canvas: str, seed: int, num_steps: int, engine: Engine, path: Path) -> None:
    """Train one model and append its measurements to ``path``."""
    tasks = [t for t in load_source("arc1/training") if t.longest_side(with_answers=True) <= SIDE]
    tasks = tasks[:NUM_TASKS]
    hidden = tuple(task.without_answers() for task in tasks)
    index = PuzzleIndex.of(hidden, VIEWS, 0, MODEL.rows_per)
    dataset = Dataset(hidden, index, (False,) * len(hidden), SIDE)
    scored = held_out(tasks, index)
    settings = replace(TRAIN, seed=seed, num_steps=num_steps)
    table = PuzzleTable(index.num_rows, torch.zeros(MODEL.dim))
    training = start_training(TRM(replace(MODEL, canvas=canvas), seed), table, settings, engine)
    start = time.monotonic()

    def on_step() -> None:
        if training.step % EVERY == 0:
            line = {"canvas": canvas, "seed": seed, "step": training.step}
            line |= measure(training, scored, engine)
            line["seconds"] = round(time.monotonic() - start, 1)
            print(json.dumps(line), flush=True)
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")

    train(
        training,
        ExampleStream(dataset, seed),
        settings,
        engine,
        should_stop=lambda: False,
        on_step=on_step,
        on_metrics=lambda metrics: None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--canvas", choices=["full", "box"], nargs="+", default=["full", "box"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=TRAIN.num_steps)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    engine = open_engine(EngineSettings(compile=options.compile), print)
    path = Path("runs/bench/curves.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for canvas in options.canvas:
            run(canvas, seed, options.steps, engine, path)


if __name__ == "__main__":
    main()
