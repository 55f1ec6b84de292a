"""Which solutions training gives away: compared by content, whatever the tasks are called.

Training on a task, solutions included, teaches its pairs, and its demonstrations as a whole. A
scored task is given away when its demonstrations were trained on as a whole (then its tests were
too, or easily could be), or when one of its tests was: the same input with the same output or,
where the solution is hidden, with any output. Both sides are compared as 64-bit *leak keys*.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from augment.errors import InputError
from augment.grid import Grid, grid_key
from augment.task import Pair, Task


def training_keys(task: Task) -> list[int]:
    """Return the leak keys of all that training on the task teaches, solutions included."""
    inputs = (pair.input for pair in (*task.train, *task.test_pairs))
    return [*content_keys(task), *map(_key_of_input, inputs)]


def content_keys(task: Task) -> list[int]:
    """Return the leak keys of the demonstrations as a whole, and of every pair."""
    return [_key_of_demonstrations(task), *map(_key_of_pair, (*task.train, *task.test_pairs))]


def scoring_keys(task: Task) -> list[int]:
    """Return the leak keys of which none may have been trained on where the task is scored."""
    if task.solutions is not None:
        return [_key_of_demonstrations(task), *map(_key_of_pair, task.test_pairs)]
    return [_key_of_demonstrations(task), *map(_key_of_input, task.test_inputs)]


def pair_keys(pair: Pair) -> tuple[int, int]:
    """Return the leak keys of a pair, and of its input with any output."""
    return _key_of_pair(pair), _key_of_input(pair.input)


def collect_training_keys(tasks: Iterable[Task]) -> NDArray[np.uint64]:
    """Return the sorted leak keys of training on the tasks, for a checkpoint to remember."""
    keys = (key for task in tasks for key in training_keys(task))
    return np.unique(np.fromiter(keys, dtype=np.uint64))


def refuse_leaks(trained_with_solutions: Iterable[Task], predicted: Iterable[Task]) -> None:
    """Raise :class:`InputError` when training gives away solutions that are to be predicted."""
    keys_by_task = [(task.task_id, scoring_keys(task)) for task in predicted]
    scored = {key for _, keys in keys_by_task for key in keys}
    trained_task: dict[int, str] = {}
    for task in trained_with_solutions:
        for key in scored.intersection(training_keys(task)):
            trained_task.setdefault(key, task.task_id)
    leaks = []
    for task_id, keys in keys_by_task:
        sources = [trained_task[key] for key in keys if key in trained_task]
        if sources:
            leaks.append(f"{task_id} ({sources[0]})")
    if leaks:
        raise InputError(
            f"training would see solutions of {len(leaks)} tasks it is to be scored on, here "
            f"with the task that gives them away: {', '.join(leaks)}"
        )


def without_twins(tasks: Sequence[Task]) -> list[Task]:
    """Return the tasks that training on all the others would not give away."""
    counts = Counter(key for task in tasks for key in set(training_keys(task)))
    return [task for task in tasks if all(counts[key] == 1 for key in scoring_keys(task))]


def _key_of_demonstrations(task: Task) -> int:
    pairs = {grid_key(pair.input) + grid_key(pair.output) for pair in task.train}
    return _key(b"demonstrations", *sorted(pairs))  # in any order they teach the same


def _key_of_pair(pair: Pair) -> int:
    return _key(b"pair", grid_key(pair.input), grid_key(pair.output))


def _key_of_input(grid: Grid) -> int:
    return _key(b"input", grid_key(grid))


def _key(*parts: bytes) -> int:
    return int.from_bytes(hashlib.sha256(b"".join(parts)).digest()[:8], "little")
