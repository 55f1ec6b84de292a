"""CSV files of Sudoku or maze puzzles, in the form of the published sets.

The first line names the columns; ``question`` and ``answer`` are among them, ``rating`` may be. A
grid is written row by row, with a sign for each cell: of a Sudoku ``1`` to ``9``, and ``.`` or
``0`` for a blank; of a maze a space, ``#`` for a wall, ``S``, ``G``, and in answers ``o`` for the
path.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from functools import partial
from io import BufferedReader, StringIO
from itertools import compress, islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from augment.errors import InputError
from augment.files import open_regular, write_atomic
from augment.grid import MAX_SIDE, shorten
from augment.maze import GOAL, LEAST_SIDE, OPEN, PATH, SIGNS, START, are_shortest_paths, solve_mazes
from augment.puzzle_set import PuzzleKind, PuzzleSet
from augment.sudoku import MOST_GUESSES, SIDE, solve_sudokus

_LONGEST_LINE = 10_000  # bytes; published mazes have 1,802
_LINES_AT_ONCE = 8192
# Part of the seed of this random generator; others, such as solver.train's, have other numbers.
_DRAWING = 7

_WRITTEN = {"sudoku": ".123456789", "maze": SIGNS}
_ANSWER = {
    "sudoku": {str(digit): digit for digit in range(1, 10)},
    "maze": {sign: color for color, sign in enumerate(SIGNS)},
}
_QUESTION = {
    "sudoku": {".": 0, "0": 0, **_ANSWER["sudoku"]},
    "maze": {sign: color for sign, color in _ANSWER["maze"].items() if color != PATH},
}
_NO_SIGN = 255


class _Line(NamedTuple):
    """A puzzle as its file has it."""

    number: int
    question: str
    answer: str
    rating: str | None


class _Problem(NamedTuple):
    """What is wrong with some puzzles of N."""

    is_met: NDArray[np.bool_]
    """(N,), or (N, S, S) for cells."""
    part: str
    reason: str


def read_puzzles(
    path: Path, kind: PuzzleKind, most: int | None = None, seed: int = 0, after: int = 0
) -> PuzzleSet:
    """Return the puzzles of a CSV file, or ``most`` of them, drawn by the seed, in their order.

    Those that are drawn come ``after`` so many others that the same seed draws first.
    The file is regular, in UTF-8 and of any size; its mazes have one side. Raises
    :class:`InputError` with file, line and value for a grid of another length or with another sign,
    a question without exactly one solution, and an answer that does not solve its question, each
    among the lines that are taken.
    """
    lines = _read_lines(path)
    if most is not None:
        num_lines = sum(1 for _ in _read_lines(path))
        rng = np.random.default_rng([seed, _DRAWING])
        is_taken = np.zeros(num_lines, np.bool_)
        is_taken[rng.permutation(num_lines)[after:][:most]] = True
        lines = compress(lines, is_taken.tolist())
    side = SIDE if kind == "sudoku" else 0
    parts = []
    while part := list(islice(lines, _LINES_AT_ONCE)):
        side = side or _find_side(path, part[0])
        parts.append(_parse(path, kind, side, part))
    if not parts:
        raise InputError(f"{path}: no puzzle" + (f" after {after:,} others" if after else ""))
    return PuzzleSet(kind, *(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def write_puzzles(path: Path, puzzles: PuzzleSet) -> None:
    """Replace ``path`` by a CSV file of the puzzles, with the columns question, answer, rating."""
    signs = np.frombuffer(_WRITTEN[puzzles.kind].encode(), dtype=np.uint8)
    questions, answers = (
        (signs[grid].tobytes().decode() for grid in grids)
        for grids in (puzzles.questions, puzzles.answers)
    )
    ratings = (np.format_float_positional(rating, trim="-") for rating in puzzles.ratings)
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("question", "answer", "rating"))
    writer.writerows(zip(questions, answers, ratings, strict=True))
    write_atomic(path, text.getvalue().encode())


def _read_lines(path: Path) -> Iterator[_Line]:
    """Yield the lines of a file without its header."""
    with open_regular(path) as file:
        rows = csv.reader(_decode_lines(path, file), strict=True)
        try:
            header = next(rows, [])
            for name in ("question", "answer"):
                if header.count(name) != 1:
                    raise InputError(
                        f"{path}: line 1: no column {name!r}, or two, in {shorten(header)}"
                    )
            question, answer = header.index("question"), header.index("answer")
            rating = header.index("rating") if "rating" in header else None
            for row in rows:
                if len(row) != len(header):
                    _refuse(path, rows.line_num, f"not {len(header)} columns", row)
                rated = None if rating is None else row[rating]
                yield _Line(rows.line_num, row[question], row[answer], rated)
        except csv.Error as error:
            raise InputError(f"{path}: line {rows.line_num}: no CSV ({error})") from None


def _decode_lines(path: Path, file: BufferedReader) -> Iterator[str]:
    lines = iter(partial(file.readline, _LONGEST_LINE), b"")
    for number, line in enumerate(lines, start=1):
        if len(line) == _LONGEST_LINE:
            _refuse(path, number, f"{_LONGEST_LINE:,} bytes or more", line[:100])
        try:
            yield line.decode()
        except UnicodeDecodeError:
            _refuse(path, number, "not UTF-8", line)


def _refuse(path: Path, number: int, reason: str, value: object) -> NoReturn:
    raise InputError(f"{path}: line {number}: {reason}: {shorten(value)}")


def _find_side(path: Path, line: _Line) -> int:
    """Return the side of the maze in a line."""
    side = math.isqrt(len(line.question))
    if side**2 != len(line.question) or not LEAST_SIDE <= side <= MAX_SIDE:
        _refuse(
            path,
            line.number,
            f"the question has {len(line.question)} signs, not those of a square with a side of "
            f"{LEAST_SIDE}..{MAX_SIDE}",
            line.question,
        )
    return side


def _parse(
    path: Path, kind: PuzzleKind, side: int, lines: Sequence[_Line]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float64]]:
    """Return questions, answers (N, S, S) and ratings (N,) of lines; refuse the first bad one."""
    questions = _parse_grids(path, "question", side, lines, _QUESTION[kind])
    answers = _parse_grids(path, "answer", side, lines, _ANSWER[kind])
    check = _check_sudokus if kind == "sudoku" else _check_mazes
    ratings, problems = check(questions, answers)
    is_bad = np.array([problem.is_met.reshape(len(lines), -1).any(1) for problem in problems])
    if is_bad.any():
        position = int(is_bad.any(axis=0).argmax())
        problem, line = problems[int(is_bad[:, position].argmax())], lines[position]
        where = ""
        if problem.is_met.ndim > 1:
            row, column = np.argwhere(problem.is_met[position])[0].tolist()
            where = f" at cell ({row}, {column})"
        value = getattr(line, problem.part)
        _refuse(path, line.number, f"the {problem.part} {problem.reason}{where}", value)
    if kind == "sudoku" and lines[0].rating is not None:
        ratings = np.array([_parse_rating(path, line) for line in lines])
    return questions, answers, ratings.astype(np.float64)


def _parse_grids(
    path: Path, part: str, side: int, lines: Sequence[_Line], colors: dict[str, int]
) -> NDArray[np.uint8]:
    """Return the grids (N, S, S) that lines have as question or answer."""
    texts: list[str] = [getattr(line, part) for line in lines]
    for line, text in zip(lines, texts, strict=True):
        if len(text) != side**2:
            _refuse(path, line.number, f"the {part} has {len(text)} signs, not {side**2}", text)
    table = bytearray([_NO_SIGN]) * 256
    for sign, color in colors.items():
        table[ord(sign)] = color
    content = "".join(texts).encode("latin-1", "replace").translate(table)  # "?" is no sign either
    cells = np.frombuffer(content, dtype=np.uint8).reshape(-1, side, side)
    if (cells == _NO_SIGN).any():
        n, row, column = np.argwhere(cells == _NO_SIGN)[0].tolist()
        where, signs = f"the {part}'s cell ({row}, {column})", "".join(colors)
        reason = f"{where} is not one of {signs!r}"
        _refuse(path, lines[n].number, reason, texts[n][row * side + column])
    return cells


def _parse_rating(path: Path, line: _Line) -> float:
    try:
        rating = float(line.rating or "")
    except ValueError:
        rating = math.nan
    if not 0 <= rating < math.inf:
        _refuse(path, line.number, "the rating is no number from 0 on", line.rating)
    return rating


def _check_sudokus(
    questions: NDArray[np.uint8], answers: NDArray[np.uint8]
) -> tuple[NDArray[Any], list[_Problem]]:
    """Return our ratings (N,), and what is wrong."""
    grids, counts, ratings = solve_sudokus(questions)
    return ratings, [
        _Problem(counts == 0, "question", "has no solution"),
        _Problem(counts == 2, "question", "has more than one solution"),
        _Problem(counts < 0, "question", f"is not solved in {MOST_GUESSES:,} guesses"),
        _Problem((questions > 0) & (answers != questions), "answer", "changes a given digit"),
        _Problem(answers != grids, "answer", "breaks the rules, and differs from the solution"),
    ]


def _check_mazes(
    questions: NDArray[np.uint8], answers: NDArray[np.uint8]
) -> tuple[NDArray[Any], list[_Problem]]:
    """Return the steps (N,) of shortest paths, and what is wrong."""
    _, steps = solve_mazes(questions)
    starts, goals = ((questions == end).sum(axis=(1, 2)) for end in (START, GOAL))
    is_changed = (answers != questions) & ((answers != PATH) | (questions != OPEN))
    is_shortest = are_shortest_paths(questions, answers)
    return steps, [
        _Problem(starts != 1, "question", "has no 'S', or more than one"),
        _Problem(goals != 1, "question", "has no 'G', or more than one"),
        _Problem(steps < 0, "question", "has no path from 'S' to 'G'"),
        _Problem(is_changed, "answer", "changes its question"),
        _Problem(~is_shortest, "answer", "shows no shortest path"),
    ]
