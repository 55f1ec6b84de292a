"""The stage predict: from tasks to a score, and a valid file however it ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, SHORT, call

from augment.task_files import read_challenges
from pipeline.run import Run
from pipeline.sources import load_source, within_side
from submission.writer import read_submission


def test_from_tasks_to_a_score(run_here, capsys):
    assert call("build", "--run-name", "a") == 0
    assert call("pretrain", "--run-name", "a") == 0
    assert call("predict", "--run-name", "a") == 0
    folder = run_here / "runs" / "a"
    tasks = read_challenges(folder / "challenges.json", folder / "solutions.json")
    expected = [task for task in load_source("arc1/training") if task.longest_side() <= 4]
    assert [task.task_id for task in tasks] == [task.task_id for task in expected]
    hidden = json.loads((folder / "challenges.json").read_text())
    assert all(set(pair) == {"input"} for task in hidden.values() for pair in task["test"])
    submission = json.loads((folder / "submission.json").read_text())
    assert list(submission) == [task.task_id for task in tasks]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert set(json.loads((folder / "config.json").read_text())) == {
        "build", "pretrain", "predict"
    }  # fmt: skip

    capsys.readouterr()
    assert call("score", "--run-name", "a", changes=()) == 0
    assert "oracle pass@1000" in capsys.readouterr().out
    assert call("score", "--run-name", "a", "--json", changes=()) == 0
    by_run = json.loads(capsys.readouterr().out)
    files = [
        part
        for name in ("submission", "challenges", "solutions")
        for part in (f"--{name}", str(folder / f"{name}.json"))
    ]
    assert call("score", *files, "--json", changes=()) == 0
    by_files = json.loads(capsys.readouterr().out)
    assert by_files["per_task"]["pass@2"] == by_run["per_task"]["pass@2"]
    assert "oracle_pass@1" in by_run["per_task"]
    assert "oracle_pass@1" not in by_files["per_task"]
    assert by_run["num_outputs"] == sum(len(task.test_inputs) for task in tasks)


@pytest.mark.parametrize("limit", [0, 2.5])
def test_a_stage_that_cannot_print_ends_well_too(run_here, limit):
    changes = [*SHORT, f"weights={ROOT / 'solver/pretrained/demo'}"]
    command = [sys.executable, "-m", "pipeline", "predict"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*command, "--set", " ".join([*changes, f"predict.time_limit_seconds={limit}"])],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    read_submission(Run.named("demo").submission, within_side(load_source("arc1/training"), 4))


def test_time_that_is_up_at_once_leaves_a_valid_file(run_here):
    """Also where it is up before torch is loaded; the same command then goes on."""
    command = [sys.executable, "-m", "pipeline", "predict", "--run-name", "a"]
    changes = " ".join([*SHORT, f"weights={ROOT / 'solver/pretrained/demo'}"])
    tasks = within_side(load_source("arc1/training"), 4)
    for limit in ("0.001", "2.5"):
        limited = f"{changes} predict.time_limit_seconds={limit}"
        done = subprocess.run(
            [*command, "--set", limited],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "time is up" in done.stdout
        read_submission(Run.named("a").submission, tasks)
    assert call("predict", "--run-name", "a", changes=changes.split()) == 0


READING_HANGS = """
import time
from pipeline.__main__ import main
from pipeline.stages import predict

predict.choose_predicted_tasks = lambda settings: time.sleep(1000)
predict._LEAST_SECONDS_TO_READ = 0.1
main()
"""


def test_reading_that_hangs_ends_with_the_time_but_not_with_success(run_here):
    limited = " ".join([*SHORT, "predict.time_limit_seconds=1"])
    done = subprocess.run(
        [sys.executable, "-c", READING_HANGS, "predict", "--run-name", "a", "--set", limited],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: time is up before the tasks are read")
    assert not Run.named("a").submission.exists()


def test_a_pipe_among_the_tasks_is_refused(run_here):
    (run_here / "tasks").mkdir()
    os.mkfifo(run_here / "tasks" / "pipe.json")
    for stage in ("build", "predict"):
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", stage, "--set", "data.predicted=folder:tasks"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert (done.returncode, done.stderr) == (2, "error: tasks/pipe.json: not a regular file\n")
