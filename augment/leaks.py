"""Which answers training gives away: by content, whatever the tasks are called.

A task teaches its pairs, and with them its demonstrations as a whole. A task is given away when
its demonstrations were taught as a whole (then its tests were too, or easily could be), or a test
of it was: the same input with the same output or, where the answer is hidden, with any output.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from augment.grid import grid_key
from augment.task import Pair, Task


def taught_by(task: Task) -> list[int]:
    """Return 64-bit digests of all that training on the task, answers included, teaches."""
    pairs = (*task.train, *task.test_pairs)
    return [_of_demonstrations(task), *map(_of_pair, pairs), *map(_of_input, pairs)]


def give_away(task: Task) -> list[int]:
    """Return the digests of which none may have been taught where the task is scored."""
    if task.answers is not None:
        return [_of_demonstrations(task), *map(_of_pair, task.test_pairs)]
    return [_of_demonstrations(task), *(_digest(b"input", grid_key(g)) for g in task.test_inputs)]


def collect_taught(tasks: Iterable[Task]) -> NDArray[np.uint64]:
    """Return the digests of all that the tasks teach, sorted, for a checkpoint to remember."""
    digests = (digest for task in tasks for digest in taught_by(task))
    return np.unique(np.fromiter(digests, dtype=np.uint64))


def _of_demonstrations(task: Task) -> int:
    pairs = {grid_key(pair.input) + grid_key(pair.output) for pair in task.train}
    return _digest(b"demonstrations", *sorted(pairs))  # their order plays no part


def _of_pair(pair: Pair) -> int:
    return _digest(b"pair", grid_key(pair.input), grid_key(pair.output))


def _of_input(pair: Pair) -> int:
    return _digest(b"input", grid_key(pair.input))


def _digest(*parts: bytes) -> int:
    return int.from_bytes(hashlib.sha256(b"".join(parts)).digest()[:8], "little")
