"""Tasks: demonstrations, test inputs and, where they are known, the solutions."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from augment.drawing import Labelled, Picture, draw_columns
from augment.errors import InputError
from augment.grid import Grid, grid_key


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """An input grid and the output grid that belongs to it."""

    input: Grid
    output: Grid


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Demonstrations, test inputs and, only where they are known, the solutions of the tests."""

    task_id: str
    train: tuple[Pair, ...]
    test_inputs: tuple[Grid, ...]
    solutions: tuple[Grid, ...] | None

    @property
    def test_pairs(self) -> tuple[Pair, ...]:
        """The test pairs; empty when the solutions are hidden."""
        if self.solutions is None:
            return ()
        return tuple(map(Pair, self.test_inputs, self.solutions))

    @property
    def visible_grids(self) -> tuple[Grid, ...]:
        """Every grid a solver may look at: all but the solutions."""
        return (*(g for pair in self.train for g in (pair.input, pair.output)), *self.test_inputs)

    def longest_side(self, *, with_solutions: bool = False) -> int:
        """Return the longest side among the visible grids, or among all."""
        solutions = (self.solutions or ()) if with_solutions else ()
        return max(int(side) for grid in (*self.visible_grids, *solutions) for side in grid.shape)

    def without_solutions(self) -> "Task":
        """Return the task as a competitor sees it."""
        return replace(self, solutions=None)

    def with_tests(self, pairs: Sequence[Pair]) -> "Task":
        """Return the task with further test pairs; its own solutions must be known."""
        assert self.solutions is not None, self.task_id
        return replace(
            self,
            test_inputs=(*self.test_inputs, *(pair.input for pair in pairs)),
            solutions=(*self.solutions, *(pair.output for pair in pairs)),
        )

    def draw(self, attempts: Sequence[Sequence[Grid]] = ()) -> Picture:
        """Return a picture: the demonstrations, then the tests with the attempts at each.

        Solutions stand beside them where they are known, and wrong cells are marked.
        """
        columns = [
            [Labelled(f"demonstration {number}", pair.input), Labelled("output", pair.output)]
            for number, pair in enumerate(self.train)
        ]
        for test, grid in enumerate(self.test_inputs):
            solution = None if self.solutions is None else self.solutions[test]
            column = [Labelled(f"test {test}", grid)]
            for number, attempt in enumerate(attempts[test] if attempts else (), start=1):
                label = f"attempt {number}"
                if solution is not None:
                    label += ", right" if np.array_equal(attempt, solution) else ", wrong"
                column.append(Labelled(label, attempt, solution))
            if solution is not None:
                column.append(Labelled("solution", solution))
            columns.append(column)
        return draw_columns(self.task_id, columns)

    def _repr_svg_(self) -> str:
        return self.draw().svg

    def demonstrations_digest(self) -> str:
        """Return a hash of the demonstrations in their order."""
        state = hashlib.sha256()
        for pair in self.train:
            state.update(grid_key(pair.input))
            state.update(grid_key(pair.output))
        return state.hexdigest()


def positions_of_tests(
    tasks: Sequence[Task], task_numbers: NDArray[np.int64], test_numbers: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the positions (N,) of tests among all tests of ``tasks``, one task after another."""
    first_of_task = np.cumsum([0, *(len(task.test_inputs) for task in tasks)])
    positions: NDArray[np.int64] = first_of_task[task_numbers] + test_numbers
    return positions


def tasks_by_id(tasks: Iterable[Task]) -> dict[str, Task]:
    """Return the tasks by their id; a repeated id is an :class:`InputError`."""
    by_id: dict[str, Task] = {}
    for task in tasks:
        if task.task_id in by_id:
            raise InputError(f"task {task.task_id!r} comes twice among the tasks")
        by_id[task.task_id] = task
    return by_id
