"""The data in the page of a run, made from tasks and votes; test_page.py opens it in a browser."""

import numpy as np
import pytest
from results import data_of, write_metrics

from augment.prediction import Prediction
from augment.task import Pair, Task
from pipeline.run import Run
from submission.report import describe_predictions, describe_training, write_report
from submission.vote import count_votes
from submission.writer import build_submission


def test_curves_of_training_keep_their_ends_and_their_means(tmp_path):
    lines = write_metrics(tmp_path / "metrics.jsonl", 4000)
    curves = describe_training("a", "pretrain", lines)
    assert curves["step"][-1] == lines[-1]["step"]
    assert curves["flop"][-1] == pytest.approx(4000e9)
    assert {len(values) for values in curves.values() if isinstance(values, list)} == {400}
    assert np.mean(curves["loss"]) == pytest.approx(np.mean([line["loss"] for line in lines]), 1e-5)
    assert curves["last"]["loss"] == lines[-1]["loss"] != curves["loss"][-1]
    few = describe_training("a", "pretrain", lines[:8])
    assert few["loss"] == pytest.approx([line["loss"] for line in lines[:8]], rel=1e-5)
    assert few["exact_accuracy"][0] is None


def test_hostile_names_are_text(tmp_path):
    grid = np.array([[1, 2], [3, 4]], np.uint8)
    hostile = "</script><script>alert(1)</script><!--"
    task = Task(hostile, (Pair(grid, grid),), (grid,), None)
    votes = [Prediction(hostile, 0, None, 0.5, 7), Prediction(hostile, 0, grid, 0.5, 1)]
    tally = count_votes(votes)
    submission, _ = build_submission([task], tally.candidates)
    run = Run(tmp_path)
    described = describe_predictions([task], submission, tally.candidates, votes, None, None)
    write_report(run.report, hostile, {hostile: hostile}, described, [])
    data, page = data_of(run)
    assert data["name"] == data["predictions"]["tasks"][0]["id"] == hostile
    assert data["predictions"]["tasks"][0]["tests"][0]["dropped"] == [7]
    assert page.count("<script") == 2


def test_400_tasks_with_all_their_candidates_take_less_than_5_mb(tmp_path, arc1):
    rng = np.random.default_rng(0)
    votes = [
        Prediction(task.task_id, test, rng.integers(0, 10, answer.shape, np.uint8), 0.5, view)
        for task in arc1
        for test, answer in enumerate(task.solutions)
        for view in range(10)
    ]
    tally = count_votes(votes)
    submission, _ = build_submission(arc1, tally.candidates)
    path = tmp_path / "index.html"
    described = describe_predictions(arc1, submission, tally.candidates, votes, 30, None)
    training = describe_training("a", "pretrain", write_metrics(tmp_path / "m", 4000))
    write_report(path, "big", {}, described, [training] * 4)
    assert len(arc1) == 400
    assert path.stat().st_size < 5e6
