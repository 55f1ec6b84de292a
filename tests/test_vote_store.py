"""Votes on disk are taken up only where they are of the same tasks, weights and settings."""

from commands import SHORT, call
from results import answered_views

from pipeline.runs import Run
from pipeline.sources import (
    load_source,
    within_side,
)


def test_votes_of_other_tasks_are_not_taken_up(run_here, capsys):
    assert call("pretrain", "--run-name", "a") == 0
    for side in (3, 4):
        changes = [*SHORT, f"data.max_side={side}"]
        assert call("predict", "--run-name", "a", changes=changes) == 0
        tasks = within_side(load_source("arc1/training"), side)
        asked = {(task.task_id, test) for task in tasks for test in range(len(task.test_inputs))}
        assert {(task_id, test) for task_id, test, _ in answered_views(Run.named("a"))} == asked
    assert "rounds by other weights or settings dropped" in capsys.readouterr().out
