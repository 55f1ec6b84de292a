"""Which tasks and which weights a prediction takes, and which weights it refuses."""

import json
import re
from dataclasses import replace

from commands import SHORT, call, write_task_folder
from conftest import rewrite_description

from augment.dataset import Dataset
from pipeline.run import Run
from pipeline.sources import load_source
from solver.checkpoint_files import FORMAT, latest_checkpoint


def test_weights_remember_the_answers_they_were_taught(run_here, capsys):
    """By content: the tasks come back under other names, and from another source."""
    taught = [*SHORT, "data.trained=arc1/training", "data.predicted="]
    assert call("pretrain", "--run-name", "a", changes=taught) == 0
    tasks = [
        task for task in load_source("arc1/training") if task.longest_side(with_solutions=True) <= 4
    ]
    renamed = [replace(task, task_id=f"renamed{number}") for number, task in enumerate(tasks)]
    paths = write_task_folder(run_here / "folder", renamed)
    changes = [*SHORT, "data.predicted=folder:folder"]
    assert call("predict", "--run-name", "a", changes=changes) == 2
    error = capsys.readouterr().err
    assert f"trained on the solutions of {len(tasks)} of the tasks to predict" in error
    assert "renamed0" in error
    for path in paths:
        task = json.loads(path.read_text())
        path.write_text(json.dumps({**task, "test": [{"input": t["input"]} for t in task["test"]]}))
    assert call("predict", "--run-name", "a", changes=changes) == 2  # hidden solutions as well
    assert f"trained on the solutions of {len(tasks)} of the tasks" in capsys.readouterr().err


def test_tasks_never_seen_and_tasks_too_large_are_answered_too(run_here, capsys):
    assert call("pretrain", "--run-name", "a") == 0
    changes = [
        *SHORT, "data.predicted=arc1/training,arc2/evaluation", "data.max_side=9",
        f"weights={Run.named('a').checkpoints / 'step_000000006'}",
    ]  # fmt: skip
    capsys.readouterr()
    assert call("predict", "--run-name", "b", changes=changes) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\d+ tasks do not fit the 4x4 canvas", printed)
    assert re.search(r"model \d+ of \d+, fallback \d+", printed)
    changes = [
        *SHORT, "data.predicted=arc1/evaluation", "data.max_side=4", "data.seed=1",
        f"weights={Run.named('a').checkpoints / 'step_000000006'}",
    ]  # fmt: skip
    assert call("predict", "--run-name", "c", changes=changes) == 0
    assert re.search(r"adapt: \d+ tasks, at most 3 steps", capsys.readouterr().out)
    assert call("predict", "--run-name", "a", changes=SHORT) == 0
    assert "adapt" not in capsys.readouterr().out
    assert call("predict", "--run-name", "a", changes=[*SHORT, "predict.adapt=all"]) == 0
    assert re.search(r"adapt: \d+ tasks, at most 3 steps", capsys.readouterr().out)


def test_unseen_tasks_are_left_to_test_time_training(run_here, arc1, capsys):
    """Pretraining knows nothing of them, and still refuses what would give them away."""
    small = [task for task in arc1 if task.longest_side(with_solutions=True) <= 4]
    write_task_folder(run_here / "tasks", small[:4])
    unseen = [*SHORT, "data.trained=folder:tasks", "data.predicted=arc1/evaluation",
              "data.unseen=true"]  # fmt: skip
    assert call("pretrain", "--run-name", "a", changes=unseen) == 0
    known = Dataset.load(Run.named("a").dataset)
    assert [task.task_id for task in known.tasks] == sorted(task.task_id for task in small[:4])
    capsys.readouterr()
    assert call("predict", "--run-name", "a", changes=unseen) == 0
    printed = capsys.readouterr().out
    predicted = re.search(r"predict: (\d+) tasks with", printed)
    assert f"adapt: {predicted[1]} tasks, at most 3 steps" in printed
    seen = [*unseen, "data.evaluated=arc1/evaluation", "train.eval_every=2"]
    assert call("pretrain", "--run-name", "b", changes=seen) == 2
    assert "in data.predicted too" in capsys.readouterr().err
    leaking = [*unseen, "data.predicted=arc1/training"]
    assert call("pretrain", "--run-name", "b", changes=leaking) == 2
    assert small[0].task_id in capsys.readouterr().err


def test_weights_that_are_named_go_before_those_of_the_run(run_here, capsys):
    assert call("pretrain", "--run-name", "a") == 0
    assert call("predict", "--run-name", "a", changes=[*SHORT, "weights=nowhere"]) == 2
    assert "nowhere: no such checkpoint" in capsys.readouterr().err


def test_weights_of_another_format_are_neither_set_aside_nor_passed_over(run_here, capsys):
    """A newer version of this program must not begin anew, or answer with what ships."""
    assert call("pretrain", "--run-name", "a") == 0
    newest = latest_checkpoint(Run.named("a").checkpoints)
    rewrite_description(newest / "checkpoint.json", format=FORMAT - 1)
    for stage in ("pretrain", "predict"):
        assert call(stage, "--run-name", "a") == 2
        assert "checkpoint.json: not a checkpoint of format" in capsys.readouterr().err
    assert newest.exists()
