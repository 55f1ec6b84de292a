"""Demonstrations as queries: what share of them the model reproduces under each view."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from augment.prediction import Prediction
from augment.task import Task
from solver.queries import Plan, Queries


def with_demonstrations_as_tests(task: Task) -> Task:
    """Return the task whose tests are the inputs of its demonstrations."""
    return replace(task, test_inputs=tuple(pair.input for pair in task.train), solutions=None)


def plan_demonstrations(plan: Plan) -> Plan:
    """Return the plan that predicts each demonstration under each view of its task in ``plan``."""
    queries = plan.queries
    (tasks, _), firsts = np.unique([queries.tasks, queries.views], axis=1, return_index=True)
    counts = np.array([len(plan.tasks[task].train) for task in tasks])
    at = np.repeat(firsts, counts)
    tests = np.concatenate([np.arange(count) for count in counts])
    demonstrations = Queries(
        queries.tasks[at], tests, queries.views[at], queries.rows[at], queries.codes[at]
    )
    tasks_as_tests = [with_demonstrations_as_tests(task) for task in plan.tasks]
    return Plan.of(plan.model, plan.num_steps, tasks_as_tests, demonstrations)


def add_shares_reproduced(
    predictions: Sequence[Prediction | None],
    plan: Plan,
    demonstrations: Sequence[Prediction | None],
    plan_of_demonstrations: Plan,
) -> list[Prediction | None]:
    """Return the ``predictions`` of ``plan``, each with the share that its view reproduces.

    It is NaN where a demonstration of the task was not predicted under the view.
    """
    queries = plan_of_demonstrations.queries
    columns = (queries.tasks.tolist(), queries.tests.tolist(), queries.views.tolist())
    hits = defaultdict[tuple[int, int], list[float]](list)
    for prediction, task, number, view in zip(demonstrations, *columns, strict=True):
        hit = np.nan
        if prediction is not None:
            expected, grid = plan.tasks[task].train[number].output, prediction.grid
            hit = float(grid is not None and np.array_equal(grid, expected))
        hits[task, view].append(hit)
    shares = {key: sum(values) / len(values) for key, values in hits.items()}
    keys = zip(plan.queries.tasks.tolist(), plan.queries.views.tolist(), strict=True)
    return [
        prediction and replace(prediction, reproduced=shares[key])
        for prediction, key in zip(predictions, keys, strict=True)
    ]
