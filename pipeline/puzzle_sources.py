"""Where Sudoku puzzles and mazes come from, by name.

``sudoku:FOLDER``, ``maze:FOLDER``: ``train.csv`` of a folder for training, ``test.csv`` for
evaluation, as Sudoku-Extreme and Maze-Hard are published. ``sudoku/BLANKS``: generated puzzles with
so many blanks, or as many as leave one solution. ``maze/SIDE``: generated mazes whose paths are at
least two sides long. The generated puzzles to evaluate come after those to train on, and no two of
all are the same under a symmetry.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from augment.errors import InputError
from pipeline.settings import Settings

if TYPE_CHECKING:  # these import numba, which some commands do without
    from augment.puzzle_set import Kind, PuzzleSet

Part = Literal["trained", "predicted"]

_FILES: dict[Part, str] = {"trained": "train.csv", "predicted": "test.csv"}
_COUNTS: dict[Part, str] = {"trained": "num_trained", "predicted": "num_evaluated"}
_NAME = re.compile(r"(sudoku|maze)(?::(?P<folder>.+)|/(?P<size>[1-9][0-9]?))", re.DOTALL)
_MOST = {"sudoku": 64, "maze": 30}
"""The most blanks, and the longest side, that are generated."""
_CHOICES = "sudoku:FOLDER, sudoku/BLANKS, maze:FOLDER, maze/SIDE"


def are_puzzles(names: Iterable[str]) -> bool:
    """Return whether sources are of Sudoku puzzles or mazes, rather than of tasks."""
    return any(re.match("(sudoku|maze)[:/]", name) for name in names)


def files_of_puzzles(name: str) -> Iterator[Path]:
    """Yield the files that a source reads; none where it generates."""
    if ":" in name:
        yield from (Path(name.partition(":")[2]) / file for file in _FILES.values())


def load_puzzles(settings: Settings, part: Part) -> "PuzzleSet":
    """Return the puzzles of ``data.trained`` or ``data.predicted``, as many as are asked for."""
    from augment.puzzle_files import read_puzzles

    names, puzzles = getattr(settings.data, part), settings.puzzles
    name = names[0] if len(names) == 1 else ""
    match = _NAME.fullmatch(name)
    if match is None:
        shown = ",".join(names)
        raise InputError(f"data.{part} is {shown!r}; for puzzles it is one of {_CHOICES}")
    kind: Kind = match[1]  # type: ignore[assignment]
    seed, most = settings.data.seed, getattr(puzzles, _COUNTS[part])
    if match["folder"]:
        return read_puzzles(Path(match["folder"]) / _FILES[part], kind, most or None, seed)
    size = int(match["size"])
    if size > _MOST[kind]:
        raise InputError(f"data.{part} is {name!r}: at most {kind}/{_MOST[kind]}")
    first = 0 if part == "trained" else puzzles.num_trained
    return _generate(kind, size, first + most, seed).take(slice(first, None))


def _generate(kind: "Kind", size: int, count: int, seed: int) -> "PuzzleSet":
    from augment.maze import generate_mazes
    from augment.puzzle_set import PuzzleSet
    from augment.sudoku import generate_sudokus

    if kind == "sudoku":
        return PuzzleSet(kind, *generate_sudokus(count, seed, (size, size)))
    return PuzzleSet(kind, *generate_mazes(count, seed, size, 2 * size))
