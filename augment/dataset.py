"""A data set: tasks and the plan of their views, kept on disk as a few arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from augment.arrays import read_arrays
from augment.errors import InputError
from augment.files import hash_file, read_description, replace_folder, write_description
from augment.grid import MAX_SIDE, GridStore, check_stored
from augment.leakage import collect_training_keys
from augment.puzzle_index import PUZZLES, VIEWS, PuzzleIndex
from augment.task import Pair, Task

_FORMAT = 4
"""The version of the files; to be increased when the same tasks and settings would be saved, or
their views drawn, differently."""
_DESCRIPTION = "dataset.json"
_TASKS = "tasks.npz"
_COUNTS = ("num_demonstrations", "num_tests", "num_solutions")
_COLUMNS = {
    **dict.fromkeys(("cells", "heights", "widths"), (np.uint8, 1)),
    **dict.fromkeys((*_COUNTS, "visit_sizes"), (np.int64, 1)),
    "with_solutions": (np.bool_, 1),
}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Tasks, the views of each, and which of them give their test pairs to training too.

    A visit of a task draws ``visit_sizes`` of its trained pairs; None: all that it has.
    """

    tasks: tuple[Task, ...]
    index: PuzzleIndex
    with_solutions: tuple[bool, ...]
    canvas_side: int
    visit_sizes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.tasks:
            raise InputError("the data set has no task to train on")
        for pairs, size in zip(self.trained_pairs, self.pairs_per_visit.tolist(), strict=True):
            assert 0 <= size <= len(pairs), (size, len(pairs))
        if any(self.index.find(task) != n for n, task in enumerate(self.tasks)):
            raise InputError("the data set's puzzle index belongs to other tasks")
        for task, pairs in zip(self.tasks, self.trained_pairs, strict=True):
            for number, pair in enumerate(pairs):
                if max(*pair.input.shape, *pair.output.shape) > self.canvas_side:
                    raise InputError(
                        f"task {task.task_id!r}, trained pair {number}: a grid of "
                        f"{pair.input.shape} -> {pair.output.shape} does not fit the "
                        f"{self.canvas_side}x{self.canvas_side} canvas"
                    )

    @cached_property
    def trained_pairs(self) -> tuple[tuple[Pair, ...], ...]:
        """The pairs each task is trained on: demonstrations, and test pairs where allowed."""
        return tuple(
            task.train + (task.test_pairs if with_solutions else ())
            for task, with_solutions in zip(self.tasks, self.with_solutions, strict=True)
        )

    @cached_property
    def trained_on(self) -> NDArray[np.uint64]:
        """The leak keys of the tasks whose solutions are trained on, see ``augment.leakage``."""
        pairs = zip(self.tasks, self.with_solutions, strict=True)
        return collect_training_keys(task for task, with_solutions in pairs if with_solutions)

    @cached_property
    def pairs_per_visit(self) -> NDArray[np.int64]:
        """The number of pairs that a visit of each task draws, (tasks,)."""
        sizes = map(len, self.trained_pairs) if self.visit_sizes is None else self.visit_sizes
        return np.fromiter(sizes, dtype=np.int64)

    @cached_property
    def num_pairs(self) -> int:
        """The number of pairs that an epoch draws, which is the number of its examples."""
        return int(self.pairs_per_visit.sum())

    @cached_property
    def grid_store(self) -> GridStore:
        """Grids 2p and 2p + 1 are input and output of trained pair p."""
        return GridStore.of(
            grid
            for pairs in self.trained_pairs
            for pair in pairs
            for grid in (pair.input, pair.output)
        )

    @cached_property
    def task_of_pair(self) -> NDArray[np.int64]:
        """The position of each trained pair's task, (trained pairs,)."""
        counts = [len(pairs) for pairs in self.trained_pairs]
        return np.repeat(np.arange(len(counts)), counts)

    def with_fresh_pairs(self, fresh: Sequence[Sequence[Pair]]) -> "Dataset":
        """Return the data set with further trained pairs of each task, (tasks,).

        They become test pairs of the task. A visit draws as many pairs as before, from all alike,
        so a task with many fresh pairs counts no more than another. Views and puzzle rows stay.
        Only tasks that are trained on with their solutions may have any.
        """
        tasks = zip(self.tasks, fresh, strict=True)
        return replace(
            self,
            tasks=tuple(task.with_tests(pairs) if pairs else task for task, pairs in tasks),
            visit_sizes=tuple(self.pairs_per_visit.tolist()),
        )

    def save(self, folder: Path, fingerprint: str = "") -> None:
        """Write the data set as ``folder``, which is replaced only when the new one is complete.

        ``fingerprint`` is a digest of all that it was built from, for :meth:`load` to compare.
        """
        with replace_folder(folder) as temporary:
            columns = {
                **pack_tasks(self.tasks),
                "with_solutions": np.array(self.with_solutions),
                "visit_sizes": self.pairs_per_visit,
            }
            np.savez(temporary / _TASKS, allow_pickle=False, **columns)
            self.index.save(temporary)
            description = {
                "format": _FORMAT,
                "fingerprint": fingerprint,
                "canvas_side": self.canvas_side,
                "files": {path.name: hash_file(path) for path in sorted(temporary.iterdir())},
            }
            write_description(temporary / _DESCRIPTION, description)

    @classmethod
    def load(cls, folder: Path, fingerprint: str | None = None) -> "Dataset":
        """Read what :meth:`save` wrote.

        Raises :class:`InputError` where a file is damaged or cannot have been written by it, or
        where the data set has another fingerprint than the one given.
        """
        path = folder / _DESCRIPTION
        description = read_description(
            path, "data set", _FORMAT, (_TASKS, PUZZLES, VIEWS), fingerprint=str, canvas_side=int
        )
        if fingerprint not in (None, description["fingerprint"]):
            raise InputError(f"{folder}: built from other tasks or settings")
        canvas_side = description["canvas_side"]
        if not 1 <= canvas_side <= MAX_SIDE:
            raise InputError(f"{path}: canvas_side is {canvas_side}, not 1..{MAX_SIDE}")
        index = PuzzleIndex.load(folder)
        columns = read_arrays(folder / _TASKS, _COLUMNS)
        try:
            tasks = unpack_tasks(index.task_ids, columns)
            visits, with_solutions = columns["visit_sizes"], columns["with_solutions"]
            if not len(visits) == len(with_solutions) == len(tasks):
                raise InputError(f"not {len(tasks)} visit_sizes and with_solutions")
            most = columns["num_demonstrations"] + with_solutions * columns["num_solutions"]
            if (visits < 0).any() or (visits > most).any() or not visits.any():
                raise InputError("visit_sizes are not numbers of trained pairs")
            sizes = tuple(visits.tolist())
            return cls(tasks, index, tuple(with_solutions.tolist()), canvas_side, sizes)
        except InputError as error:
            raise InputError(f"{folder / _TASKS}: {error}") from None


def pack_tasks(tasks: Sequence[Task]) -> dict[str, NDArray[Any]]:
    """Return the tasks, without their ids, as arrays.

    ``cells``, ``heights`` and ``widths`` are those of all grids, task by task: demonstrations,
    test inputs, solutions. ``num_demonstrations``, ``num_tests`` and ``num_solutions`` (0
    where they are hidden) count them.
    """
    store = GridStore.of(
        grid for task in tasks for grid in (*task.visible_grids, *(task.solutions or ()))
    )
    return {
        "cells": store.cells,
        "heights": store.heights.astype(np.uint8),
        "widths": store.widths.astype(np.uint8),
        "num_demonstrations": np.array([len(task.train) for task in tasks]),
        "num_tests": np.array([len(task.test_inputs) for task in tasks]),
        "num_solutions": np.array([len(task.solutions or ()) for task in tasks]),
    }


def unpack_tasks(task_ids: Sequence[str], columns: Mapping[str, NDArray[Any]]) -> tuple[Task, ...]:
    """Return what :func:`pack_tasks` packed; the grids are parts of ``columns["cells"]``.

    Raises :class:`InputError` where they are not the grids of so many tasks.
    """
    heights, widths = (columns[side].astype(np.int64) for side in ("heights", "widths"))
    check_stored(columns["cells"], heights, widths)
    counts = [columns[name] for name in _COUNTS]
    if any(len(column) != len(task_ids) or (column > len(heights)).any() for column in counts):
        raise InputError(f"not the numbers of grids of {len(task_ids)} tasks")
    num_demonstrations, num_tests, num_solutions = counts
    is_whole = (num_solutions == 0) | (num_solutions == num_tests)
    if (np.minimum(num_demonstrations, num_tests) < 1).any() or not is_whole.all():
        raise InputError("a task without a demonstration or a test, or without some solutions")
    if (2 * num_demonstrations + num_tests + num_solutions).sum() != len(heights):
        raise InputError(f"{len(heights)} grids are more or fewer than those of the tasks")
    grids = iter(GridStore.cut(columns["cells"], heights, widths))
    return tuple(
        Task(
            task_id,
            tuple(Pair(next(grids), next(grids)) for _ in range(demonstrations)),
            tuple(islice(grids, tests)),
            tuple(islice(grids, solutions)) or None,
        )
        for task_id, demonstrations, tests, solutions in zip(
            task_ids, *(column.tolist() for column in counts), strict=True
        )
    )
