"""What ``predict.ipynb`` does: predict the competition's tasks, and draw some with attempts."""

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson

from augment.drawing import Picture
from augment.errors import InputError
from augment.files import parse_json, read_bytes, read_object, split_object, write_atomic
from augment.grid import shorten
from augment.leakage import scoring_keys
from augment.task import Task
from augment.task_files import parse_task, read_challenges, write_challenges, write_solutions
from kernels_kaggle.on_kaggle.process import run_stage
from kernels_kaggle.on_kaggle.report import (
    count_predictions,
    has_votes_apart,
    read_predicted_tasks,
    write_report,
)
from kernels_kaggle.on_kaggle.session import Session
from pipeline.console import say
from solver.checkpoint_files import is_checkpoint, read_trained_on
from submission.writer import read_submission

_GRACE_SECONDS = 60.0  # after its deadline, until a program that should have ended is killed
_TEST_FILE = "arc-agi_test_challenges.json"
_TASKS = "tasks"  # the folder with the tasks of this run
_SUBMISSION = "submission.json"


def predict(session: Session, competition: Path) -> None:
    """Predict the hidden tasks in a scored rerun, else a few evaluation tasks, with a score.

    ``competition`` is the folder with the competition's files. In a rerun the submission holds a
    guess for every test already; the best attempts so far replace guesses again and again.

    It is a RuntimeError when the program fails. Outside a rerun it is one, too, when no prediction
    comes from the model, when all of them come from before its training on the tasks, or when none
    comes from a task that trained apart.
    """
    settings, run = session.settings, session.run
    folder = session.working / _TASKS
    if session.is_rerun:
        tasks, submission = _read_valid(competition / _TEST_FILE), session.working / _SUBMISSION
        end = session.end(settings.predict.time_limit_seconds)
        changes = []
    else:
        tasks, submission = _choose_trial_tasks(session, competition), folder / _SUBMISSION
        end = min(session.end(0), time.time() + settings.kaggle.smoke_seconds)
        changes = ["predict.adapt=all"]  # like the hidden tasks, which no puzzle row belongs to
        write_solutions(folder / "arc-agi_test_solutions.json", tasks)
    write_challenges(folder / _TEST_FILE, tasks)
    changes += [
        f"data.predicted=kaggle/test:{_TASKS}",
        "data.max_side=30",
        "predict.time_limit_seconds=0",
        f"predict.deadline={end}",
        "predict.refuse_leaks=false",
    ]
    if is_checkpoint(session.package):
        changes.append(f"weights={session.package}")

    def copy_attempts() -> None:
        """Copy the attempts of the run into the submission, if they are valid."""
        if run.submission.exists():
            read_submission(run.submission, tasks)
            guesses = read_object(submission) if submission.exists() else {}
            write_atomic(submission, orjson.dumps({**guesses, **read_object(run.submission)}))

    try:
        run_stage("predict", session, lambda: changes, end + _GRACE_SECONDS, copy_attempts)
    finally:
        copy_attempts()
        shutil.rmtree(run.adapted, ignore_errors=True)  # large, and of no use afterwards
    report = count_predictions(session)
    write_report(session, report)
    if not session.is_rerun:
        if not report.answered_by_model:
            raise RuntimeError("the model predicted none of the tasks: not worth a submission")
        if settings.adapt.num_steps and not report.steps:
            raise RuntimeError("nothing was learned from the tasks: not worth a submission")
        if settings.adapt.per_task_steps and not has_votes_apart(run):
            raise RuntimeError(
                "no task was trained apart: not worth a submission; kaggle.smoke_seconds gives time"
            )


def draw(session: Session, count: int = 4) -> Iterator[Picture]:
    """Yield pictures of ``count`` tasks, spread over all, with both attempts at each test."""
    tasks = read_predicted_tasks(session.run)
    attempts = read_submission(session.run.submission, tasks).attempts
    for task in _spread(tasks, count):
        yield task.draw(attempts[task.task_id])


def _read_valid(path: Path) -> list[Task]:
    """Return the valid tasks in a file; a line is printed for each of the others.

    A task that is no JSON, or a key that comes twice in it, costs no other.
    """
    tasks = []
    for member in split_object(read_bytes(path)):
        name = member[1:].partition(b":")[0].decode(errors="replace").strip(' \n\r\t"')
        try:
            raw = parse_json(member, f"{path}: task {shorten(name)}")
            assert isinstance(raw, dict), member
            tasks += [parse_task(task_id, task, str(path)) for task_id, task in raw.items()]
        except InputError as error:
            say(f"{error}; it keeps its guess")
    counts = Counter(task.task_id for task in tasks)
    for task_id, count in counts.items():
        if count > 1:
            say(f"{path}: task {task_id!r} comes {count} times; it keeps its guess")
    valid = [task.without_solutions() for task in tasks if counts[task.task_id] == 1]
    if not valid:
        raise InputError(f"{path}: no valid task")
    return valid


def _choose_trial_tasks(session: Session, competition: Path) -> list[Task]:
    """Return the evaluation tasks of a run outside the scoring, small to large.

    Tasks whose solutions the weights were trained on are left out, unless there are no others.
    """
    names = ("arc-agi_evaluation_challenges.json", "arc-agi_evaluation_solutions.json")
    tasks = read_challenges(*(competition / name for name in names))
    trained_on = set(read_trained_on(session.package).tolist())
    fresh = [task for task in tasks if trained_on.isdisjoint(scoring_keys(task))] or tasks
    return _spread(sorted(fresh, key=Task.longest_side), session.settings.kaggle.smoke_tasks)


def _spread(tasks: Sequence[Task], count: int) -> list[Task]:
    """Return ``count`` tasks at equal distances, the first and the last among them."""
    count = min(count, len(tasks))
    return [tasks[round(n * (len(tasks) - 1) / max(1, count - 1))] for n in range(count)]
