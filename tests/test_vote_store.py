"""Votes on disk are taken up only where they are of the same tasks, weights and settings."""

import numpy as np
from commands import SHORT, call
from results import predicted_views

from augment.prediction import Prediction
from pipeline.run import Run
from pipeline.settings import PredictSettings
from pipeline.sources import load_source, within_side
from pipeline.vote_store import VoteStore
from submission.rounds import Round
from submission.writer import read_submission


def test_votes_of_other_tasks_are_not_taken_up(run_here, capsys):
    assert call("pretrain", "--run-name", "a") == 0
    for side in (3, 4):
        changes = [*SHORT, f"data.max_side={side}"]
        assert call("predict", "--run-name", "a", changes=changes) == 0
        tasks = within_side(load_source("arc1/training"), side)
        expected = {(task.task_id, test) for task in tasks for test in range(len(task.test_inputs))}
        assert {(task_id, test) for task_id, test, _ in predicted_views(Run.named("a"))} == expected
    assert "rounds by other weights or settings dropped" in capsys.readouterr().out


def make_round(task, number, fingerprint="ours", *, complete=True):
    votes = [Prediction(task.task_id, 0, task.solutions[0], 0.5, number)]
    return Round(fingerprint, 0, (task.task_id,), number, number + 1, complete, votes)


def test_whole_rounds_are_taken_up_and_all_others_are_not(arc1, run_here, capsys):
    """Damaged ones are set aside, those by others go, and one cut short votes but is not done."""
    task, run = arc1[0], Run.named("a")
    settings = PredictSettings(ranking="count")
    first = VoteStore([task], run, settings)
    assert (
        task.solutions[0] != read_submission(run.submission, [task]).attempts[task.task_id][0][0]
    ).any()
    for number in range(3):
        first.add(make_round(task, number))
    first.add(make_round(task, 3, complete=False))
    first.add(make_round(task, 3, "others"))
    (run.votes / "round_0003" / "round.json").write_text("{")
    again = VoteStore([task], run, settings)
    again.resume({"ours"})
    assert again.num_views_done("ours", 0) == 2
    assert again.num_views_done("others", 0) == 0
    assert again.steps_done("ours") == {0}
    assert sorted(path.name for path in run.votes.iterdir()) == [
        "round_0001", "round_0002", "round_0003.broken", "round_0004"
    ]  # fmt: skip
    printed = capsys.readouterr().out
    assert "set aside as round_0003.broken" in printed
    assert "1 rounds by other weights or settings dropped" in printed
    assert predicted_views(run) == {(task.task_id, 0, view) for view in (0, 1, 3)}
    attempts = read_submission(run.submission, [task]).attempts[task.task_id]
    assert np.array_equal(attempts[0][0], task.solutions[0])


def test_votes_of_our_own_for_another_test_are_set_aside(arc1, run_here, capsys):
    task, run = arc1[0], Run.named("a")
    store = VoteStore([task], run, PredictSettings(ranking="count"))
    store.add(make_round(arc1[1], 0))
    store.add(make_round(task, 0))
    (run.votes / ".round_0003.12345678.tmp").mkdir()  # of a process that was killed
    VoteStore([task], run, PredictSettings(ranking="count")).resume({"ours"})
    printed = " ".join(capsys.readouterr().out.split())
    assert f"votes for test 0 of task '{arc1[1].task_id}'" in printed
    assert sorted(path.name for path in run.votes.iterdir()) == ["round_0001.broken", "round_0002"]


def test_a_file_that_cannot_be_written_is_named_and_the_others_are_written(arc1, run_here, capsys):
    task, run = arc1[0], Run.named("a")
    run.challenges.mkdir(parents=True)
    VoteStore([task], run, PredictSettings(ranking="count"))
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{run.challenges}: stays as it was, all predictions are kept in memory" in printed
    assert f"{run.submission}: stays" not in printed
    assert read_submission(run.submission, [task]).attempts.keys() == {task.task_id}
    assert run.solutions.exists()
