"""Demonstrations are predicted as if they were tests, to score each view."""

from dataclasses import replace

import numpy as np
import pytest
from answering import paint, plan_of, random_weights
from conftest import make_dataset

from augment.task import Pair
from augment.tokens import FIRST_COLOR
from solver.demonstrations import add_shares_reproduced, plan_demonstrations
from solver.predict import predict


def test_demonstrations_are_predicted_as_if_they_were_tests(small_tasks, small_dataset, engine):
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
    plan = plan_of(weights, tasks, 2)
    checks = plan_demonstrations(plan)
    predictions, of_checks = (predict(weights, p, engine) for p in (plan, checks))
    shares = [p.reproduced for p in add_shares_reproduced(predictions, plan, of_checks, checks)]
    expected = [n / len(task.train) for n, task in enumerate(tasks) for _ in task.test_inputs]
    assert shares == pytest.approx(np.repeat(expected, 2).tolist())
    of_checks[0] = None  # time was over before this demonstration of the first task
    shares = [p.reproduced for p in add_shares_reproduced(predictions, plan, of_checks, checks)]
    assert np.isnan(shares).tolist() == [True] + [False] * (len(shares) - 1)


def test_demonstrations_of_a_round_are_those_of_the_whole_plan(small_tasks, small_dataset):
    plan = plan_of(random_weights(small_dataset), small_tasks, 5)
    of_part = plan_demonstrations(plan.between(2, 4))
    part_of_all = plan_demonstrations(plan).between(2, 4)
    for name in ("tasks", "tests", "views", "rows", "codes"):
        ours, expected = (getattr(p.queries, name) for p in (part_of_all, of_part))
        assert ours.tolist() == expected.tolist()
    assert part_of_all.boxes.tolist() == of_part.boxes.tolist()
