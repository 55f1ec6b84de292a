"""The page of a run, as data; browsers are another matter."""

import json
import re

import numpy as np
from commands import SHORT, call

from augment.predictions import Prediction
from augment.task import Pair, Task
from submission.report import write_report
from submission.vote import count_votes
from submission.writer import build_submission


def data_of(path):
    page = path.read_text()
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(found), page


def decode(text):
    return [[int(cell) for cell in row] for row in text.split("|")]


def test_every_figure_is_that_of_the_score(run_here, capsys):
    assert call("pretrain", "--run-name", "a") == 0
    assert call("predict", "--run-name", "a", changes=[*SHORT, "predict.ranking=count"]) == 0
    capsys.readouterr()
    assert call("score", "--run-name", "a", "--json", changes=[]) == 0
    score = json.loads(capsys.readouterr().out)
    assert call("report", "--run-name", "a", changes=[]) == 0
    data, page = data_of(run_here / "runs" / "a" / "report" / "index.html")
    for name, value in data["score"].items():
        assert score[name] == value
    assert data["score"]["per_task"].keys() >= {"pass@1", "pass@2", "oracle_pass@1"}
    answers = json.loads((run_here / "runs" / "a" / "submission.json").read_text())
    assert [task["id"] for task in data["tasks"]] == list(answers)
    for task, scored in zip(data["tasks"], score["tasks"], strict=True):
        assert [test["solved_by"] for test in task["tests"]] == scored["attempt"]
        for test, pair in zip(task["tests"], answers[task["id"]], strict=True):
            assert [decode(grid) for grid in test["attempts"]] == list(pair.values())
            assert test["votes"] == 3
    assert not re.search(r"https?:|src=|@import|url\(", page)  # it needs no network


def test_hostile_names_are_text(tmp_path):
    grid = np.array([[1, 2], [3, 4]], np.uint8)
    hostile = "</script><script>alert(1)</script><!--"
    task = Task(hostile, (Pair(grid, grid),), (grid,), None)
    votes = [Prediction(hostile, 0, None, 0.5), Prediction(hostile, 0, grid, 0.5, 1)]
    tally = count_votes(votes)
    submission, _ = build_submission([task], tally.candidates)
    path = tmp_path / "report" / "index.html"
    write_report(path, hostile, [task], submission, tally, votes)
    data, page = data_of(path)
    assert data["name"] == data["tasks"][0]["id"] == hostile
    assert data["score"] is None
    assert data["tasks"][0]["tests"][0]["empty"] == 1
    assert page.count("<script") == 2


def test_400_tasks_with_all_their_candidates_take_less_than_5_mb(tmp_path, arc1):
    tasks = arc1[:400]
    rng = np.random.default_rng(0)
    votes = []
    for task in tasks:
        for test, answer in enumerate(task.answers):
            for view in range(10):
                grid = rng.integers(0, 10, answer.shape, np.uint8)
                votes.append(Prediction(task.task_id, test, grid, 0.5, view))
    tally = count_votes(votes)
    submission, _ = build_submission(tasks, tally.candidates)
    path = tmp_path / "index.html"
    write_report(path, "big", tasks, submission, tally, votes)
    assert path.stat().st_size < 5e6
