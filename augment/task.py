"""Tasks, and every JSON form they come in.

Forms: one file per task (``{"train": [...], "test": [...]}``), one file for all
(``{task_id: task}``), and Kaggle's two files (challenges, and solutions ``{task_id: [grid,
...]}``).
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import orjson

from augment.drawing import Labelled, Picture, draw_columns
from augment.errors import InputError
from augment.files import parse_json, parse_unique_json, read_bytes, write_atomic
from augment.grid import Grid, check_grid, grid_key, shorten


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """An input grid and the output grid that belongs to it."""

    input: Grid
    output: Grid


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Demonstrations, test inputs and, only where they are known, the answers to them."""

    task_id: str
    train: tuple[Pair, ...]
    test_inputs: tuple[Grid, ...]
    answers: tuple[Grid, ...] | None

    @property
    def test_pairs(self) -> tuple[Pair, ...]:
        """The test pairs; empty when the answers are hidden."""
        if self.answers is None:
            return ()
        return tuple(map(Pair, self.test_inputs, self.answers))

    @property
    def visible_grids(self) -> tuple[Grid, ...]:
        """Every grid a solver may look at: all but the answers."""
        return (*(g for pair in self.train for g in (pair.input, pair.output)), *self.test_inputs)

    def longest_side(self, *, with_answers: bool = False) -> int:
        """Return the longest side among the visible grids, or among all."""
        answers = (self.answers or ()) if with_answers else ()
        return max(int(side) for grid in (*self.visible_grids, *answers) for side in grid.shape)

    def without_answers(self) -> "Task":
        """Return the task as a competitor sees it."""
        return replace(self, answers=None)

    def draw(self, attempts: Sequence[Sequence[Grid]] = ()) -> Picture:
        """Return a picture: the demonstrations, then the tests with the attempts at each.

        Answers stand beside them where they are known, and mark what is wrong.
        """
        columns = [
            [Labelled(f"demonstration {number}", pair.input), Labelled("output", pair.output)]
            for number, pair in enumerate(self.train)
        ]
        for test, grid in enumerate(self.test_inputs):
            answer = None if self.answers is None else self.answers[test]
            column = [Labelled(f"test {test}", grid)]
            for number, attempt in enumerate(attempts[test] if attempts else (), start=1):
                label = f"attempt {number}"
                if answer is not None:
                    label += ", right" if np.array_equal(attempt, answer) else ", wrong"
                column.append(Labelled(label, attempt, answer))
            if answer is not None:
                column.append(Labelled("answer", answer))
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
        Pair(_grid(pair, "input", place), _grid(pair, "output", place))
        for pair, place in _pairs(raw, "train", where)
    )
    tests = list(_pairs(raw, "test", where))
    test_inputs = tuple(_grid(pair, "input", place) for pair, place in tests)
    answered = [pair.get("output") is not None for pair, _ in tests]
    if any(answered) and not all(answered):
        raise InputError(
            f"{where}, test pair {answered.index(False)}: has no output while others have"
        )
    answers = tuple(_grid(pair, "output", place) for pair, place in tests) if answered[0] else None
    return Task(task_id, train, test_inputs, answers)


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
        place = f"{where}, {part} pair {number}"
        if not isinstance(pair, dict):
            raise InputError(f"{place}: a pair is an object, got {shorten(pair)}")
        yield pair, place


def _grid(pair: dict[str, object], key: str, where: str) -> Grid:
    if key not in pair:
        raise InputError(f"{where}: key {key!r} is missing")
    return check_grid(pair[key], f"{where}, {key}")


def read_task_file(path: Path) -> Task:
    """Read one task from a file of its own; the file's stem is the task id."""
    return parse_task(path.stem, parse_json(read_bytes(path), path), str(path))


def read_task_folder(folder: Path) -> list[Task]:
    """Read every ``*.json`` below ``folder`` as one task each, ordered by task id."""
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.json")):
        if path.stem in found:
            raise InputError(f"{path}: task {path.stem!r} stands also in {found[path.stem]}")
        found[path.stem] = path
    if not found:
        raise InputError(f"{folder}: no .json file below it")
    return [read_task_file(path) for _, path in sorted(found.items())]


def read_challenges(challenges: Path, solutions: Path | None = None) -> list[Task]:
    """Read a file with all tasks, with Kaggle's solutions beside it where there are any."""
    return parse_challenges(_read_object(challenges), challenges, solutions)


def parse_challenges(raw: object, challenges: Path, solutions: Path | None = None) -> list[Task]:
    """Return the tasks of the JSON value ``raw``, read from the file ``challenges``."""
    if not isinstance(raw, dict) or not raw:
        raise InputError(f"{challenges}: expected an object of tasks, got {shorten(raw)}")
    tasks = [parse_task(task_id, task, str(challenges)) for task_id, task in raw.items()]
    return tasks if solutions is None else _join_solutions(tasks, solutions)


def _join_solutions(tasks: Sequence[Task], path: Path) -> list[Task]:
    raw = _read_object(path)
    unknown = sorted(raw.keys() - {task.task_id for task in tasks})
    if unknown:
        raise InputError(f"{path}: task {unknown[0]!r} is not among the challenges")
    joined = []
    for task in tasks:
        where = f"{path}: task {task.task_id!r}"
        grids = raw.get(task.task_id)
        if not isinstance(grids, list):
            raise InputError(f"{where}: no list of solutions, got {shorten(grids)}")
        if len(grids) != len(task.test_inputs):
            raise InputError(
                f"{where}: {len(grids)} solutions for {len(task.test_inputs)} test inputs"
            )
        answers = tuple(
            check_grid(grid, f"{where}, test pair {number}, output")
            for number, grid in enumerate(grids)
        )
        for number, (pair, answer) in enumerate(zip(task.test_pairs, answers, strict=False)):
            if grid_key(pair.output) != grid_key(answer):
                raise InputError(f"{where}, test pair {number}: not the output in the challenges")
        joined.append(replace(task, answers=answers))
    return joined


def _read_object(path: Path) -> dict[str, object]:
    raw = parse_unique_json(read_bytes(path), path)
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected an object of tasks, got {shorten(raw)}")
    return raw


def write_challenges(path: Path, tasks: Iterable[Task]) -> None:
    """Write the tasks in Kaggle's challenges form: no answers, in the order given."""
    challenges = {
        task.task_id: {
            "train": [{"input": p.input.tolist(), "output": p.output.tolist()} for p in task.train],
            "test": [{"input": grid.tolist()} for grid in task.test_inputs],
        }
        for task in tasks
    }
    write_atomic(path, orjson.dumps(challenges))


def write_solutions(path: Path, tasks: Iterable[Task]) -> None:
    """Write the answers in Kaggle's solutions form; every task must have them."""
    solutions = {}
    for task in tasks:
        assert task.answers is not None, task.task_id
        solutions[task.task_id] = [grid.tolist() for grid in task.answers]
    write_atomic(path, orjson.dumps(solutions))
