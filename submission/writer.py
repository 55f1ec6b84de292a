"""submission.json: every task, every test, two attempts; validated, and replaced atomically."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import orjson

from augment.errors import InputError
from augment.files import read_json, write_atomic
from augment.grid import Grid, check_grid, grid_key, shorten
from augment.task import Task
from submission.fallback import plausible_grids
from submission.vote import Candidate, TestKey

ATTEMPTS = ("attempt_1", "attempt_2")


@dataclass(frozen=True, slots=True, eq=False)
class Submission:
    """Two attempts for each test of each task: ``attempts[task_id][test]``."""

    attempts: Mapping[str, Sequence[tuple[Grid, Grid]]]


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many tests have an attempt by the model, and how many only fallback attempts."""

    model: int
    fallback: int

    def __str__(self) -> str:
        total = self.model + self.fallback
        return f"model {self.model} of {total}, fallback {self.fallback}"


def choose_attempts(task: Task, test: int, candidates: Sequence[Candidate]) -> tuple[Grid, Grid]:
    """Return the two best candidates, completed by plausible grids; the two always differ."""
    distinct: dict[bytes, Grid] = {}
    for grid in chain((c.grid for c in candidates), plausible_grids(task, test)):
        distinct.setdefault(grid_key(grid), grid)
        if len(distinct) == len(ATTEMPTS):
            break
    first, second = distinct.values()
    return first, second


def build_submission(
    tasks: Iterable[Task], candidates: Mapping[TestKey, Sequence[Candidate]]
) -> tuple[Submission, Coverage]:
    """Return a submission with two attempts at every test of every task, in order."""
    attempts: dict[str, list[tuple[Grid, Grid]]] = {}
    counts = {True: 0, False: 0}
    for task in tasks:
        attempts[task.task_id] = []
        for test in range(len(task.test_inputs)):
            ranked = candidates.get((task.task_id, test), ())
            counts[bool(ranked)] += 1
            attempts[task.task_id].append(choose_attempts(task, test, ranked))
    return Submission(attempts), Coverage(model=counts[True], fallback=counts[False])


def write_submission(path: Path, submission: Submission, tasks: Iterable[Task]) -> None:
    """Replace ``path`` by the submission; it is validated against ``tasks`` before and after."""
    content = {
        task_id: [
            dict(zip(ATTEMPTS, (grid.tolist() for grid in pair), strict=True)) for pair in tests
        ]
        for task_id, tests in submission.attempts.items()
    }
    tasks = list(tasks)
    parse_submission(content, path, tasks)
    write_atomic(path, orjson.dumps(content))
    read_submission(path, tasks)


def read_submission(path: Path, tasks: Iterable[Task]) -> Submission:
    """Return the submission in ``path``, valid for exactly ``tasks``; else :class:`InputError`."""
    return parse_submission(read_json(path), path, tasks)


def parse_submission(raw: object, path: Path, tasks: Iterable[Task]) -> Submission:
    """Return the submission in the JSON value ``raw``, see :func:`read_submission`."""
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected an object of tasks, got {shorten(raw)}")
    attempts = {}
    for task in tasks:
        where = f"{path}: task {shorten(task.task_id)}"
        tests = raw.get(task.task_id)
        if not isinstance(tests, list):
            raise InputError(f"{where}: expected a list of attempts, got {shorten(tests)}")
        if len(tests) != len(task.test_inputs):
            raise InputError(f"{where}: attempts at {len(tests)} of {len(task.test_inputs)} tests")
        attempts[task.task_id] = [
            _read_attempts(pair, f"{where}, test {number}") for number, pair in enumerate(tests)
        ]
    unknown = sorted(raw.keys() - attempts.keys())
    if unknown:
        raise InputError(f"{path}: task {shorten(unknown[0])} is not among the challenges")
    return Submission(attempts)


def _read_attempts(raw: object, where: str) -> tuple[Grid, Grid]:
    if not isinstance(raw, dict) or set(raw) != set(ATTEMPTS):
        raise InputError(f"{where}: expected {' and '.join(ATTEMPTS)}, got {shorten(raw)}")
    first, second = (check_grid(raw[name], f"{where}, {name}") for name in ATTEMPTS)
    return first, second
