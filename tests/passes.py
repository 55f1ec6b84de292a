"""Short trainings and single passes of a small model."""

import numpy as np
import torch
from conftest import SMALL_MODEL, make_table, seeded

from augment.boxes import full_boxes
from augment.examples import Examples, ExampleStream
from solver.kinds import new_model
from solver.model import Model
from solver.packing import pack
from solver.progress import TrainingProgress
from solver.train import start_training, take_metrics, train


def fit(dataset, settings, engine, model_settings=SMALL_MODEL):
    """Train a new model on ``dataset`` and return the run and the metrics it reported."""
    model = new_model(model_settings, settings.seed)
    table = make_table(dataset, model_settings.dim)
    training = start_training(model, table, settings, engine)
    reported = []
    stream = ExampleStream(dataset, settings.seed)
    progress = TrainingProgress(settings.num_steps, engine.group)
    for step in train(training, stream, settings, engine, progress):
        if step % settings.log_every == 0:
            reported.append(take_metrics(training, settings, engine.group))
    return training, reported


def pack_canvases(model, tokens):
    """All these full canvases packed, under the view 0."""
    count = len(tokens)
    rows, codes = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.uint32)
    boxes = full_boxes(count, model.settings.canvas_side)
    examples = Examples.without_labels(tokens, rows, codes, boxes)
    return pack(model.settings, torch.device("cpu"), examples, np.arange(count))


def packed_examples(model: Model, dataset, examples=None, table=None):
    """Three examples packed, their question and the start of the state."""
    examples = examples or ExampleStream(dataset, 0).examples(0, 3)
    packed = pack(model.settings, torch.device("cpu"), examples, np.arange(3))
    rows_GD = torch.randn(3, model.settings.dim, generator=seeded())
    if table is not None:
        rows_GD = table.look_up(examples.rows)
    x_ND = model.embed(packed, rows_GD)
    return packed, x_ND, model.start(len(x_ND), torch.float32)


def examples_of(dataset, count=9, start=40):
    return ExampleStream(dataset, 0).examples(start, start + count)


def box_cells(box, side):
    top, left, height, width = box
    grid = np.arange(side * side).reshape(side, side)
    return grid[top : top + height, left : left + width].ravel()
