"""Demonstrations are answered as if they were tests, to score each view."""

from dataclasses import replace

import numpy as np
import pytest
from answering import paint, random_weights
from conftest import make_dataset

from augment.task import Pair
from augment.tokens import FIRST_COLOR
from pipeline.settings import PredictSettings
from solver.demonstrations import reproduce_demonstrations
from solver.queries import list_queries


def test_demonstrations_are_answered_as_if_they_were_tests(small_tasks, small_dataset, engine):
    """A model that paints one color reproduces those demonstrations that are this color alone."""
    weights = paint(random_weights(small_dataset), FIRST_COLOR)
    black = np.zeros((10, 10), dtype=np.uint8)
    tasks = []
    for number, task in enumerate(small_tasks[:3]):
        pairs = tuple(
            Pair(p.input, black if n < number else p.output) for n, p in enumerate(task.train)
        )
        tasks.append(replace(task, train=pairs))
    weights = replace(weights, index=make_dataset(tasks).index)
    work = list_queries(weights, tasks, 2)
    settings = PredictSettings(num_views=2)
    given = (weights, tasks, work, settings, engine, lambda *_: None)
    shares = reproduce_demonstrations(*given)
    expected = [n / len(task.train) for n, task in enumerate(tasks) for _ in task.test_inputs]
    assert shares.tolist() == pytest.approx(np.repeat(expected, 2).tolist())
    assert np.isnan(reproduce_demonstrations(*given, lambda flop: False)).all()
