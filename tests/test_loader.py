"""Batches: how long lanes must explore."""

import numpy as np
import pytest

from solver.batch import draw_min_steps
from solver.settings import TrainSettings


def test_exploration_draws_a_minimum_for_a_tenth_of_the_slots():
    settings = TrainSettings(global_batch=20_000)
    drawn = draw_min_steps(settings, 16, step=3)
    assert (drawn > 0).mean() == pytest.approx(0.1, abs=0.01)
    assert set(drawn[drawn > 0]) == set(range(2, 17))
    assert np.array_equal(drawn, draw_min_steps(settings, 16, step=3))
    assert not np.array_equal(drawn, draw_min_steps(settings, 16, step=4))
