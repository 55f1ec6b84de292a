"""The stage show draws tasks and attempts in the terminal."""

import re

import numpy as np
from commands import SHORT, call

from augment.task_files import read_challenges
from pipeline.run import Run
from submission.writer import read_submission


def rows_of(shown):
    """The digits of every line that holds nothing but digits and marks."""
    return [line.split() for line in shown.splitlines() if re.fullmatch(r"[\d! ]+", line)]


def test_a_task_is_drawn_in_digits(run_here, capsys):
    assert call("show", "--task", "00576224", changes=[]) == 0
    shown = capsys.readouterr().out
    assert rows_of(shown)[0] == ["8", "6", *"868686"]
    assert "solution" in shown


def test_attempts_of_a_run_are_drawn_with_their_wrong_cells(run_here, capsys):
    assert call("pretrain", "--run-name", "a") == 0
    assert call("predict", "--run-name", "a", changes=[*SHORT, "predict.ranking=count"]) == 0
    run = Run.named("a")
    tasks = read_challenges(run.challenges, run.solutions)
    attempts = read_submission(run.submission, tasks).attempts
    capsys.readouterr()
    for task in tasks:
        assert call("show", "--task", task.task_id, "--run-name", "a", changes=[]) == 0
        shown = capsys.readouterr().out
        wrong = [
            (attempt != solution).sum()
            for solution, pair in zip(task.solutions, attempts[task.task_id], strict=True)
            for attempt in pair
            if attempt.shape == solution.shape
        ]
        right = [
            np.array_equal(attempt, solution)
            for solution, pair in zip(task.solutions, attempts[task.task_id], strict=True)
            for attempt in pair
        ]
        assert shown.count("!") == sum(wrong)
        assert shown.count("(right)") == sum(right)
        assert shown.count("(wrong)") == len(right) - sum(right)


def test_grids_stand_below_each_other_where_there_is_no_room(run_here, monkeypatch, capsys):
    monkeypatch.setattr("pipeline.stages.show.sys.stdout.isatty", lambda: True, raising=False)
    widths = []
    for columns in ("300", "60", "20"):
        monkeypatch.setenv("COLUMNS", columns)
        assert call("show", "--task", "007bbfb7", changes=[]) == 0
        lines = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()
        widths.append(max(len(line.rstrip()) for line in lines))
    assert widths[0] == widths[1] > 20 >= widths[2]
    assert sum("demonstration" in line for line in lines) == 5


def test_a_task_that_is_nowhere_is_an_error(run_here, capsys):
    assert call("show", "--task", "nope", changes=[]) == 2
    assert "task 'nope' is in none of arc1/training" in capsys.readouterr().err
