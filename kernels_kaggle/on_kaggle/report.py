"""What a notebook leaves for the person who fetches its output: counts and hashes."""

from dataclasses import replace

from augment.files import hash_file
from augment.task import Task
from augment.task_files import read_challenges
from kernels_kaggle.exchange import Report, read_digest
from kernels_kaggle.on_kaggle.session import Session
from pipeline.console import say
from pipeline.run import Run
from submission.rounds import read_round, read_votes, round_folders
from submission.score import score_submission
from submission.vote import pool_votes
from submission.writer import build_submission, read_submission


def read_predicted_tasks(run: Run) -> list[Task]:
    """Return the tasks that a run predicted, with their solutions where there are any."""
    return read_challenges(run.challenges, run.solutions if run.solutions.exists() else None)


def count_predictions(session: Session) -> Report:
    """Return how many tests the model predicted, and the score where the solutions are there."""
    run = session.run
    tasks = read_predicted_tasks(run)
    votes = read_votes(run.votes) if run.has_votes else {}
    _, coverage = build_submission(tasks, pool_votes(votes).candidates)
    steps = max(votes, default=0)
    say(f"coverage: {coverage}, after {steps} steps on the tasks")
    digest = read_digest(session.package)
    report = Report(digest, coverage.model, coverage.fallback, steps)
    if any(task.solutions is None for task in tasks):
        return report
    score = score_submission(read_submission(run.submission, tasks), tasks)
    return replace(report, solved_outputs=score.num_solved, outputs=score.num_outputs)


def has_votes_apart(run: Run) -> bool:
    """Return whether a run that trained on all its tasks has votes of tasks trained apart too.

    These have a fingerprint of their own.
    """
    return len({read_round(folder).fingerprint for folder in round_folders(run.votes)}) > 1


def write_report(session: Session, report: Report) -> None:
    """Write the report, with the hash of every file that the run leaves."""
    working = session.working
    paths = [path for path in session.run.folder.rglob("*") if path.is_file()]
    files = {
        str(path.relative_to(working)): hash_file(path)
        for path in sorted(paths)
        if not path.name.startswith(".")
    }
    report.write(working, files)
