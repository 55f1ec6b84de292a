"""What hostile inputs must read as: an oracle for ``make fuzz`` that shares no code with readers.

An oracle returns the value that is right, or raises :class:`Invalid`. Where the formats leave open
whether something is read or refused, it adds the reason to ``doubts`` and returns the value that a
reader must return if it reads it.
"""

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

Doubts = list[str]

_DEEP = re.compile(r'(?<!\[)\[{100,}\]{100,}|(?<!\{"a":)(?:\{"a":){100,}1\}{100,}')
"""Nesting deeper than parsers must follow, as the mutations write it."""


class Invalid(Exception):  # noqa: N818 - not an error of this program
    """The input must be refused; the message says why."""


def check(holds: object, reason: str) -> None:
    """Raise :class:`Invalid` unless something ``holds``."""
    if not holds:
        raise Invalid(reason)


def read_content(path: Path) -> bytes:
    """Return the content of a regular file, never waiting for another program."""
    try:
        check(stat.S_ISREG(path.stat().st_mode), f"{path.name} is no file")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise Invalid(f"{path.name} cannot be read ({error})") from None


def strict_json(content: bytes, doubts: Doubts) -> Any:
    """Return the JSON value: UTF-8 without a byte order mark, finite numbers, no key repeated."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        check(len(dict(pairs)) == len(pairs), "a key is repeated")
        return dict(pairs)

    def constant(name: str) -> None:
        raise Invalid(f"{name} is no JSON")

    def integer(digits: str) -> float:
        if len(digits) <= 20 and -(2**63) <= int(digits) < 2**64:
            return int(digits)
        doubts.append("a number of many digits")
        return float(digits)

    def real(digits: str) -> float:
        if float(digits) in (float("inf"), -float("inf")):
            doubts.append("a number beyond all floats")
        return float(digits)

    def flatten(deep: re.Match[str]) -> str:
        ends = deep[0].count("[") - deep[0].count("]") or deep[0].count("{") - deep[0].count("}")
        return deep[0] if ends else "[[]]" if deep[0][0] == "[" else '{"a":1}'

    try:
        text = content.decode()
        check(not text.startswith("\ufeff"), "a byte order mark")
        flat = _DEEP.sub(flatten, text)
        value = json.loads(
            flat,
            object_pairs_hook=unique,
            parse_constant=constant,
            parse_int=integer,
            parse_float=real,
        )
    except (ValueError, RecursionError) as error:
        raise Invalid(f"not JSON ({str(error)[:80]})") from None
    if flat != text:
        doubts.append("deep nesting")
    if "\\u" in text and re.search("[\ud800-\udfff]", json.dumps(value, ensure_ascii=False)):
        doubts.append("a lone surrogate")
    return value


def read_json(path: Path, doubts: Doubts) -> Any:
    """Return the JSON value of a file."""
    return strict_json(read_content(path), doubts)


def grid(raw: Any, where: str) -> list[list[int]]:
    """Return a grid: 1..30 rows of the same 1..30 cells, integers 0..9."""
    check(isinstance(raw, list) and 1 <= len(raw) <= 30, f"{where}: no list of 1..30 rows")
    for row in raw:
        check(isinstance(row, list) and 1 <= len(row) <= 30, f"{where}: no row of 1..30 cells")
        check(len(row) == len(raw[0]), f"{where}: rows of different lengths")
        check(
            all(type(cell) is int and 0 <= cell <= 9 for cell in row), f"{where}: no integer 0..9"
        )
    return raw


def task(task_id: str, raw: Any, doubts: Doubts) -> tuple[Any, ...]:
    """Return id, demonstrations, test inputs and solutions, which are None where hidden."""
    check(task_id.isprintable(), "an id that cannot be printed")
    if not task_id:
        doubts.append("an empty id")
    check(isinstance(raw, dict), "a task is no object")
    parts = []
    for part in ("train", "test"):
        pairs = raw.get(part)
        check(isinstance(pairs, list) and pairs, f"{part} is no list with pairs")
        check(all(isinstance(pair, dict) for pair in pairs), f"{part}: a pair is no object")
        parts.append(pairs)
    train, tests = parts
    demonstrations = [
        (grid(pair.get("input"), "input"), grid(pair.get("output"), "output")) for pair in train
    ]
    inputs = [grid(pair.get("input"), "test input") for pair in tests]
    outputs = [pair.get("output") for pair in tests]
    if all(output is None for output in outputs):
        return task_id, demonstrations, inputs, None
    return task_id, demonstrations, inputs, [grid(output, "test output") for output in outputs]


def task_folder(folder: Path, doubts: Doubts) -> list[tuple[Any, ...]]:
    """Return the tasks of all files that end with .json below the folder, ordered by id."""
    check(folder.is_dir(), "no folder")
    files: dict[str, Path] = {}
    for path in folder.rglob("*"):
        if path.suffix.lower() == ".json" or path.name == ".json":
            if path.suffix == ".JSON":
                doubts.append("a name in capitals")
            if os.path.isdir(path):  # noqa: PTH112 - likewise
                doubts.append("a folder named as a task")
                continue
            check(path.stem not in files, "an id comes twice")
            files[path.stem] = path
    tasks = [task(name, read_json(path, doubts), doubts) for name, path in sorted(files.items())]
    check(tasks, "no task")
    return tasks


def kaggle_tasks(challenges: Path, solutions: Path, doubts: Doubts) -> list[tuple[Any, ...]]:
    """Return the tasks of Kaggle's two files, of which the second may be missing."""
    raw = read_json(challenges, doubts)
    check(isinstance(raw, dict) and raw, "no object with tasks")
    tasks = [task(task_id, value, doubts) for task_id, value in raw.items()]
    if not os.path.exists(solutions):  # noqa: PTH110 - False for any other trouble
        check(not solutions.is_symlink(), "a link that leads nowhere")
        return tasks
    solved = read_json(solutions, doubts)
    check(isinstance(solved, dict) and solved.keys() == raw.keys(), "solutions of other tasks")
    joined = []
    for task_id, train, tests, known in tasks:
        grids = solved[task_id]
        check(isinstance(grids, list) and len(grids) == len(tests), "another number of solutions")
        grids = [grid(raw, "solution") for raw in grids]
        check(known in (None, grids), "another solution than in the challenges")
        joined.append((task_id, train, tests, grids))
    return joined


def submission(path: Path, tasks: list[tuple[Any, ...]], doubts: Doubts) -> dict[str, Any]:
    """Return both attempts at every test of every task, and nothing else."""
    raw = read_json(path, doubts)
    check(isinstance(raw, dict) and raw.keys() == {t[0] for t in tasks}, "other tasks")
    attempts = {}
    for task_id, _, tests, _ in tasks:
        pairs = raw[task_id]
        check(isinstance(pairs, list) and len(pairs) == len(tests), "another number of tests")
        for pair in pairs:
            check(isinstance(pair, dict), "attempts are no object")
            check(pair.keys() == {"attempt_1", "attempt_2"}, "other attempts")
        attempts[task_id] = [[grid(pair[f"attempt_{k}"], "") for k in (1, 2)] for pair in pairs]
    return attempts


def score(attempts: dict[str, Any], tasks: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Return the shares solved within one and two attempts, by both metrics."""
    shares: dict[str, Any] = {"per_task": {}, "per_output": {}}
    for k in (1, 2):
        solved = [
            [s in tried[:k] for s, tried in zip(solutions, attempts[task_id], strict=True)]
            for task_id, _, _, solutions in tasks
        ]
        per_task = sum(sum(tests) / len(tests) for tests in solved) / len(solved)
        shares["per_task"][f"pass@{k}"] = round(per_task, 12)
        per_output = sum(map(sum, solved)) / sum(map(len, solved))
        shares["per_output"][f"pass@{k}"] = round(per_output, 12)
    return shares
