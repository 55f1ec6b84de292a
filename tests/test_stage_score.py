"""The stage score prints the `results` of a run: what became of every task, ids as they are."""

from dataclasses import replace

import numpy as np
from commands import call
from results import has_empty, score_of, write_results

from augment.task_files import write_challenges, write_solutions
from pipeline.run import Run
from submission.score import OUTCOMES
from submission.writer import Submission, build_submission, write_submission


def test_outcomes_are_what_they_say(tmp_path, arc1):
    run = Run(tmp_path / "a")
    tasks = [task for task in arc1 if not has_empty(task)][:20]
    write_results(run, tasks)
    expected = [OUTCOMES[min(number % 5, 3)] for number in range(20)]
    assert [task["outcome"] for task in score_of(run)["tasks"]] == expected
    votes = [
        task["votes"] / len(t.solutions)
        for task, t in zip(score_of(run)["tasks"], tasks, strict=True)
    ]
    assert votes == [6, 6, 6, 6, 0] * 4


def test_task_ids_are_shown_as_they_are(run_here, capsys, arc1):
    for task_id in ("[/a]", "[red]x", ":smile:"):
        task = replace(arc1[0], task_id=task_id)
        write_challenges(run_here / "c.json", [task])
        write_solutions(run_here / "a.json", [task])
        submission, _ = build_submission([task], {})
        write_submission(run_here / "s.json", submission, [task])
        files = ["--submission", "s.json", "--challenges", "c.json", "--solutions", "a.json"]
        assert call("score", *files, changes=()) == 0
        assert task_id in capsys.readouterr().out


def test_what_fallback_attempts_alone_would_solve_is_said(run_here, capsys, arc1):
    """A submission of solutions, whose tasks' fallback attempts hit one of their three tests."""
    tasks = [task for task in arc1 if len(task.test_inputs) == 1]
    guessed = [task for task in tasks if fallback_hits(task)][:1]
    others = [task for task in tasks if not fallback_hits(task)][:2]
    chosen = [*guessed, *others]
    attempts = {task.task_id: [(task.solutions[0], task.test_inputs[0])] for task in chosen}
    write_challenges(run_here / "c.json", chosen)
    write_solutions(run_here / "a.json", chosen)
    write_submission(run_here / "s.json", Submission(attempts), chosen)
    files = ["--submission", "s.json", "--challenges", "c.json", "--solutions", "a.json"]
    assert call("score", *files, changes=()) == 0
    printed = capsys.readouterr().out
    assert "3 of 3 test outputs solved in two attempts; fallback attempts alone would solve 1" in (
        " ".join(printed.split())
    )


def fallback_hits(task):
    attempts = build_submission([task], {})[0].attempts[task.task_id][0]
    return any(np.array_equal(attempt, task.solutions[0]) for attempt in attempts)


def test_a_submission_alone_says_what_is_missing(run_here, capsys):
    """As `make score SUBMISSION=x` calls it."""
    for files, missing in (
        (["--submission", "x", "--challenges", "", "--solutions", ""], "--challenges, --solutions"),
        (["--submission", "x", "--challenges", "y", "--solutions", ""], "--solutions"),
        ([], "--submission, --challenges, --solutions"),
    ):
        assert call("score", *files, changes=()) == 2
        assert capsys.readouterr().err.endswith(f"; not given: {missing}\n")
    assert call("score", "--run-name", "a", "--submission", "x", changes=()) == 2
    assert capsys.readouterr().err.startswith("error: runs/a/challenges.json: cannot be read")


def test_votes_for_tasks_that_were_not_predicted_are_one_line(run_here, capsys, arc1):
    run, (first, second, *_) = Run.named("a"), arc1
    write_results(run, [first, second])
    write_challenges(run.challenges, [first])
    write_solutions(run.solutions, [first])
    write_submission(run.submission, build_submission([first], {})[0], [first])
    for stage in ("score", "report"):
        assert call(stage, "--run-name", "a", changes=()) == 2
        error = capsys.readouterr().err
        assert f"runs/a/votes: votes for test 0 of task '{second.task_id}'" in error
