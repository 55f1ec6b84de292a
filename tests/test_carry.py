"""Lanes carry their example and state from step to step until they halt."""

from dataclasses import replace

import numpy as np
from conftest import SHORT_TRAINING, SMALL_MODEL, make_table

from augment.examples import ExampleStream
from solver.kinds import new_model
from solver.loader import batches
from solver.train import start_training, train_step


def test_slots_keep_their_example_until_they_halt(small_dataset, engine):
    settings = replace(SHORT_TRAINING, halt_exploration=0.0)
    model = new_model(SMALL_MODEL)
    training = start_training(model, make_table(small_dataset), settings, engine)
    stream = ExampleStream(small_dataset, 0)
    held = []
    for batch in batches(stream, settings, SMALL_MODEL, engine.group, 0):
        train_step(training, batch, settings, engine)
        held.append((training.carry.examples.inputs, training.carry.steps_B.tolist()))
    # The halt bias of -5 makes every slot run all three steps at first.
    assert [steps for _, steps in held[:4]] == [[1] * 8, [2] * 8, [3] * 8, [1] * 8]
    assert np.array_equal(held[0][0], held[2][0])
    assert not np.array_equal(held[2][0], held[3][0])
