"""Runs as they lie on disk, with every outcome there is, made without training anything."""

import json
import math
import re
from collections import defaultdict
from contextlib import redirect_stdout
from io import StringIO

import numpy as np

from augment.prediction import Prediction
from pipeline.settings import PredictSettings
from pipeline.stages.score import ResultFiles, score
from pipeline.vote_store import VoteStore
from submission.rounds import Round, read_votes

NUM_VIEWS = 6


def write_results(run, tasks, ranking="demonstrations"):
    """Leave in ``run`` what predicting ``tasks`` would; what becomes of them goes round and round.

    The solution comes first, second, third, and not at all; every fifth task has no votes.
    """
    votes = VoteStore(tasks, run, PredictSettings(ranking=ranking))
    predictions = []
    for number, task in enumerate(tasks):
        if number % 5 == 4:
            continue
        for test, grid in enumerate(task.test_inputs):
            solution = grid if task.solutions is None else task.solutions[test]
            predictions += _vote(task, test, solution, number % 5)
    ids = tuple(task.task_id for task in tasks)
    votes.add(Round("somebody", 0, ids, 0, NUM_VIEWS, True, predictions))
    votes.finish()


def has_empty(task):
    """Whether one view of each of its tests gives no grid: every other task."""
    return sum(map(ord, task.task_id)) % 2 == 1


def _vote(task, test, solution, rank):
    """Six views for three grids, the solution in place ``rank``, or the last one with no grid."""
    wrong = [(solution + shift) % 10 for shift in (1, 2, 3)]
    ranked = [*wrong[:rank], solution, *wrong[rank:]][:3]
    grids = [ranked[0]] * 3 + [ranked[1]] * 2
    grids += [None] if has_empty(task) else [ranked[2]]
    return [
        Prediction(task.task_id, test, grid, 0.9 - 0.1 * view, view, 1.0 - 0.05 * view)
        for view, grid in enumerate(grids)
    ]


def write_metrics(path, count, start=2.0):
    """Write ``count`` lines of metrics; where nothing halted there is no accuracy."""
    lines = [
        {
            "step": 10 * (n + 1),
            "loss": start / (n + 1),
            "exact_accuracy": None if n % 7 == 0 else n / count,
            "supervision_steps": 2.0,
            "lr": 1e-3 * math.cos(n / count),
            "examples_per_second": 100.0,
            "flop": 1e9,
        }
        for n in range(count)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lines


def votes_of(run):
    """All votes on the run's disk: for each test, its views with the grid and q of each."""
    votes = defaultdict(list)
    for predictions in read_votes(run.votes).values():
        for p in predictions:
            grid = None if p.grid is None else p.grid.tolist()
            votes[p.task_id, p.test].append((p.view, grid, p.q))
    return {test: sorted(of_test) for test, of_test in sorted(votes.items())}


def predicted_views(run):
    """Task id, test and view of every prediction on the run's disk."""
    return {(*test, view) for test, votes in votes_of(run).items() for view, _, _ in votes}


def data_of(run):
    """Return the data in the page of a run, and the page."""
    page = run.report.read_text()
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(data), page


def score_of(run):
    """Return what ``make score JSON=1`` prints."""
    with redirect_stdout(StringIO()) as printed:
        score(ResultFiles.of_run(run, run.recorded()), as_json=True)
    return json.loads(printed.getvalue())


def wrong_cells(task, submission):
    """The cells in which attempts differ from solutions of the same size, by test and attempt."""
    return [
        [int(np.sum(grid != solution)) if grid.shape == solution.shape else 0 for grid in pair]
        for solution, pair in zip(task.solutions, submission.attempts[task.task_id], strict=True)
    ]
