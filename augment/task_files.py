"""Every JSON form that tasks come in, read and written.

Forms: one file per task (``{"train": [...], "test": [...]}``), one file for all
(``{task_id: task}``), and Kaggle's two files (challenges, and solutions ``{task_id: [grid,
...]}``).
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import orjson

from augment.errors import InputError
from augment.files import read_json, write_atomic
from augment.grid import Grid, check_grid, grid_key, shorten
from augment.task import Pair, Task


def parse_task(task_id: str, raw: object, where: str) -> Task:
    """Return the task in the JSON value ``raw``; errors open with ``where`` and the task."""
    where = f"{where}: task {shorten(task_id)}"
    if not task_id.isprintable():
        raise InputError(f"{where}: a task id is made of printable characters")
    if not isinstance(raw, dict):
        raise InputError(
            f"{where}: a task is an object with 'train' and 'test', got {shorten(raw)}"
        )
    train = tuple(
        Pair(_grid(pair, "input", location), _grid(pair, "output", location))
        for pair, location in _pairs(raw, "train", where)
    )
    tests = list(_pairs(raw, "test", where))
    test_inputs = tuple(_grid(pair, "input", location) for pair, location in tests)
    is_solved = [pair.get("output") is not None for pair, _ in tests]
    if any(is_solved) and not all(is_solved):
        raise InputError(
            f"{where}, test pair {is_solved.index(False)}: has no output while others have"
        )
    solutions = (
        tuple(_grid(pair, "output", location) for pair, location in tests) if is_solved[0] else None
    )
    return Task(task_id, train, test_inputs, solutions)


def _pairs(
    task: dict[str, object], part: str, where: str
) -> Iterable[tuple[dict[str, object], str]]:
    pairs = task.get(part)
    if not isinstance(pairs, list):
        raise InputError(f"{where}: key {part!r} is missing or not a list")
    if not pairs:
        kind = "demonstrations" if part == "train" else "test inputs"
        raise InputError(f"{where}: no {kind} ({part!r} is empty)")
    for number, pair in enumerate(pairs):
        location = f"{where}, {part} pair {number}"
        if not isinstance(pair, dict):
            raise InputError(f"{location}: a pair is an object, got {shorten(pair)}")
        yield pair, location


def _grid(pair: dict[str, object], key: str, where: str) -> Grid:
    if key not in pair:
        raise InputError(f"{where}: key {key!r} is missing")
    return check_grid(pair[key], f"{where}, {key}")


def read_task_file(path: Path) -> Task:
    """Read one task from a file of its own; the file's stem is the task id."""
    return parse_task(path.stem, read_json(path), str(path))


def write_task_file(path: Path, task: Task) -> None:
    """Write one task as :func:`read_task_file` reads it, with its solutions where it has them."""
    tests = (
        [_pair_json(pair) for pair in task.test_pairs]
        if task.solutions is not None
        else [{"input": grid.tolist()} for grid in task.test_inputs]
    )
    write_atomic(path, orjson.dumps({"train": [*map(_pair_json, task.train)], "test": tests}))


def _pair_json(pair: Pair) -> dict[str, list[list[int]]]:
    return {"input": pair.input.tolist(), "output": pair.output.tolist()}


def read_task_folder(folder: Path) -> list[Task]:
    """Read every file of :func:`list_task_files` as one task each, ordered by task id."""
    paths: dict[str, Path] = {}
    for path in list_task_files(folder):
        if path.stem in paths:
            raise InputError(f"{path}: task {shorten(path.stem)} is also in {paths[path.stem]}")
        paths[path.stem] = path
    if not paths:
        raise InputError(f"{folder}: no .json file below it")
    return [read_task_file(path) for _, path in sorted(paths.items())]


def list_task_files(folder: Path) -> list[Path]:
    """Return every path below ``folder`` that ends in ``.json``, in any case, in order.

    Links to folders are followed, and no folder is entered twice. Raises :class:`InputError` where
    a folder cannot be read, as its tasks would be missing.
    """

    def refuse(error: OSError) -> NoReturn:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from None

    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder")
    paths, entered = [], set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        state = Path(parent).stat()
        if (state.st_dev, state.st_ino) in entered:
            folders.clear()
            continue
        entered.add((state.st_dev, state.st_ino))
        folders.sort()
        paths += [Path(parent, name) for name in files if name.lower().endswith(".json")]
    return sorted(paths)


def read_challenges(challenges: Path, solutions: Path | None = None) -> list[Task]:
    """Read a file with all tasks, with Kaggle's solutions beside it where there are any."""
    return parse_challenges(read_json(challenges), challenges, solutions)


def parse_challenges(raw: object, challenges: Path, solutions: Path | None = None) -> list[Task]:
    """Return the tasks of the JSON value ``raw``, read from the file ``challenges``."""
    if not isinstance(raw, dict) or not raw:
        raise InputError(f"{challenges}: expected an object of tasks, got {shorten(raw)}")
    tasks = [parse_task(task_id, task, str(challenges)) for task_id, task in raw.items()]
    return tasks if solutions is None else _join_solutions(tasks, solutions)


def _join_solutions(tasks: Sequence[Task], path: Path) -> list[Task]:
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected an object of tasks, got {shorten(raw)}")
    unknown = sorted(raw.keys() - {task.task_id for task in tasks})
    if unknown:
        raise InputError(f"{path}: task {shorten(unknown[0])} is not among the challenges")
    joined = []
    for task in tasks:
        where = f"{path}: task {shorten(task.task_id)}"
        grids = raw.get(task.task_id)
        if not isinstance(grids, list):
            raise InputError(f"{where}: no list of solutions, got {shorten(grids)}")
        if len(grids) != len(task.test_inputs):
            raise InputError(
                f"{where}: {len(grids)} solutions for {len(task.test_inputs)} test inputs"
            )
        solutions = tuple(
            check_grid(grid, f"{where}, test pair {number}, output")
            for number, grid in enumerate(grids)
        )
        for number, (pair, solution) in enumerate(zip(task.test_pairs, solutions, strict=False)):
            if grid_key(pair.output) != grid_key(solution):
                raise InputError(f"{where}, test pair {number}: not the output in the challenges")
        joined.append(replace(task, solutions=solutions))
    return joined


def write_challenges(path: Path, tasks: Iterable[Task]) -> None:
    """Write the tasks in Kaggle's challenges form: no solutions, in the order given."""
    challenges = {
        task.task_id: {
            "train": [*map(_pair_json, task.train)],
            "test": [{"input": grid.tolist()} for grid in task.test_inputs],
        }
        for task in tasks
    }
    write_atomic(path, orjson.dumps(challenges))


def write_solutions(path: Path, tasks: Iterable[Task]) -> None:
    """Write the solutions in Kaggle's solutions form; every task must have them."""
    solutions = {}
    for task in tasks:
        assert task.solutions is not None, task.task_id
        solutions[task.task_id] = [grid.tolist() for grid in task.solutions]
    write_atomic(path, orjson.dumps(solutions))
