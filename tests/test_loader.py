"""Batches: how long lanes must explore."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import SHORT_TRAINING, SMALL_MODEL

from augment.examples import ExampleStream
from solver.loader import batches, draw_min_steps
from solver.process_group import ProcessGroup
from solver.settings import TrainSettings


def test_exploration_draws_a_minimum_for_a_tenth_of_the_slots():
    settings = TrainSettings(global_batch=20_000)
    drawn = draw_min_steps(settings, 16, step=3)
    assert (drawn > 0).mean() == pytest.approx(0.1, abs=0.01)
    assert set(drawn[drawn > 0]) == set(range(2, 17))
    assert np.array_equal(drawn, draw_min_steps(settings, 16, step=3))
    assert not np.array_equal(drawn, draw_min_steps(settings, 16, step=4))


def test_batches_are_those_of_the_stream_from_any_step_on(small_dataset):
    stream, settings = ExampleStream(small_dataset, 3), replace(SHORT_TRAINING, num_steps=5)
    for first in (0, 3):
        made = list(batches(stream, settings, SMALL_MODEL, ProcessGroup(), first))
        assert len(made) == 5 - first
        for step, batch in enumerate(made, first):
            start = step * settings.global_batch
            expected = stream.examples(start, start + settings.global_batch)
            assert np.array_equal(batch.examples.inputs, expected.inputs)
            assert np.array_equal(batch.examples.rows, expected.rows)
            minimum = draw_min_steps(settings, SMALL_MODEL.max_supervision_steps, step)
            assert np.array_equal(batch.min_steps_B, minimum)
