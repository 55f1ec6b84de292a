"""The stage show: draw a task in the terminal, as digits in ARC's colors."""

import math
import sys
from collections.abc import Sequence
from contextlib import suppress
from shutil import get_terminal_size
from typing import TYPE_CHECKING

import numpy as np

from augment.drawing import COLORS, WITH_LIGHT_INK
from augment.errors import InputError
from augment.grid import Grid
from augment.task import Task
from augment.task_files import read_challenges
from pipeline.console import draw
from pipeline.run import Run
from pipeline.sources import BUNDLED, load_source
from submission.writer import ATTEMPTS, read_submission

if TYPE_CHECKING:
    from rich.text import Text

_GAP = 3


def show(task_id: str, run: Run | None) -> None:
    """Print a task; of a run also the two attempts at each test, wrong cells marked by ``!``."""
    from rich.table import Table

    task, attempts = _find(task_id, run)
    rows = []
    for number, pair in enumerate(task.train):
        rows.append([_draw(f"demonstration {number}", pair.input), _draw("output", pair.output)])
    for test, grid in enumerate(task.test_inputs):
        solution = None if task.solutions is None else task.solutions[test]
        row = [_draw(f"test {test}", grid)]
        if attempts:
            named = zip(ATTEMPTS, attempts[test], strict=True)
            row += [_draw(name.replace("_", " "), attempt, solution) for name, attempt in named]
        if solution is not None:
            row.append(_draw("solution", solution))
        rows.append(row)
    table = Table.grid(padding=(1, _GAP))
    width = get_terminal_size().columns if sys.stdout.isatty() else math.inf
    for row in rows:
        # Side by side where there is room, else one below the other.
        if sum(max(map(len, cell.plain.splitlines())) + _GAP for cell in row) <= width:
            table.add_row(*row)
        else:
            for cell in row:
                table.add_row(cell)
    draw(table)


def _find(task_id: str, run: Run | None) -> tuple[Task, Sequence[tuple[Grid, Grid]]]:
    """Return the task, from a run with its attempts, else from the first source that has it."""
    if run is not None:
        solutions = run.solutions if run.solutions.exists() else None
        tasks = read_challenges(run.challenges, solutions)
        for task in tasks:
            if task.task_id == task_id:
                return task, read_submission(run.submission, tasks).attempts[task_id]
        raise InputError(f"{run.challenges}: no task {task_id!r}")
    searched = []
    for name in BUNDLED:
        with suppress(InputError):  # a source that is not here, and cannot be fetched
            for task in load_source(name):
                if task.task_id == task_id:
                    return task, ()
            searched.append(name)
    raise InputError(f"task {task_id!r} is in none of {', '.join(searched)}")


def _draw(title: str, grid: Grid, solution: Grid | None = None) -> "Text":
    """Return a grid of digits in their colors; cells that differ from the solution get a ``!``."""
    from rich.text import Text

    wrong = np.zeros(grid.shape, dtype=bool)
    if solution is not None:
        solved = np.array_equal(grid, solution)
        title += " (right)" if solved else " (wrong)"
        if grid.shape == solution.shape:
            wrong = grid != solution
    text = Text(title)
    for colors, marks in zip(grid.tolist(), wrong.tolist(), strict=True):
        text.append("\n")
        for color, is_wrong in zip(colors, marks, strict=True):
            ink = "#FFFFFF" if color in WITH_LIGHT_INK else "#000000"
            text.append(f"{color}{'!' if is_wrong else ' '}", style=f"{ink} on {COLORS[color]}")
    return text
