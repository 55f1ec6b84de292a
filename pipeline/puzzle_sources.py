"""Where Sudoku puzzles and mazes come from, by name.

``sudoku:FOLDER``, ``maze:FOLDER``: ``train.csv`` of a folder for training, ``test.csv`` for
prediction, as Sudoku-Extreme and Maze-Hard are published. ``sudoku/BLANKS``: generated puzzles with
so many blanks, or as many as leave one solution. ``maze/SIDE``: generated mazes whose paths are at
least two sides long. The generated puzzles to predict come after those to train on, and no two of
all are the same under a symmetry. Those that pretraining is evaluated on come far behind both.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from augment.errors import InputError
from pipeline.settings import Settings

if TYPE_CHECKING:  # these import numba, which some commands do without
    from augment.puzzle_set import PuzzleKind, PuzzleSet

Part = Literal["trained", "predicted", "evaluated"]

_FILES: dict[Part, str] = {
    "trained": "train.csv", "predicted": "test.csv", "evaluated": "train.csv"
}  # fmt: skip
_NAME = re.compile(r"(sudoku|maze)(?::(?P<folder>.+)|/(?P<size>[1-9][0-9]?))", re.DOTALL)
_MOST = {"sudoku": 64, "maze": 30}
"""The most blanks, and the longest side, that are generated."""
_FIRST_EVALUATED = 2**32
"""The number of the first generated puzzle that pretraining is evaluated on."""
_CHOICES = "sudoku:FOLDER, sudoku/BLANKS, maze:FOLDER, maze/SIDE"


def are_puzzles(names: Iterable[str]) -> bool:
    """Return whether sources are of Sudoku puzzles or mazes, rather than of tasks."""
    return any(re.match("(sudoku|maze)[:/]", name) for name in names)


def files_of_puzzles(name: str) -> Iterator[Path]:
    """Yield the files that a source reads; none where it generates."""
    if ":" in name:
        yield from (Path(name.partition(":")[2]) / file for file in dict.fromkeys(_FILES.values()))


def load_puzzles(settings: Settings, part: Part) -> "PuzzleSet":
    """Return the puzzles of a part of the data, as many as are asked for.

    Pretraining is evaluated on puzzles of the source it trains on, others than it trains on.
    """
    from augment.puzzle_files import read_puzzles

    if part == "evaluated":
        _require_others(settings)
    names, puzzles = getattr(settings.data, part), settings.puzzles
    name = names[0] if len(names) == 1 else ""
    match = _NAME.fullmatch(name)
    if match is None:
        shown = ",".join(names)
        raise InputError(f"data.{part} is {shown!r}; for puzzles it is one of {_CHOICES}")
    kind: PuzzleKind = match[1]  # type: ignore[assignment]
    seed, num_trained = settings.data.seed, puzzles.num_trained
    count = {
        "trained": num_trained,
        "predicted": puzzles.num_predicted,
        "evaluated": settings.data.num_evaluated,
    }[part]
    if match["folder"]:
        path = Path(match["folder"]) / _FILES[part]
        after = num_trained if part == "evaluated" else 0
        return read_puzzles(path, kind, count or None, seed, after)
    size = int(match["size"])
    if size > _MOST[kind]:
        raise InputError(f"data.{part} is {name!r}: at most {kind}/{_MOST[kind]}")
    if part == "evaluated":
        return _generate(kind, size, count, seed, _FIRST_EVALUATED)
    first = num_trained if part == "predicted" else 0
    return _generate(kind, size, first + count, seed).take(slice(first, None))


def _require_others(settings: Settings) -> None:
    """Raise :class:`InputError` where ``data.evaluated`` is no source with puzzles left."""
    data = settings.data
    if data.evaluated != data.trained:
        shown = ",".join(data.evaluated)
        raise InputError(
            f"data.evaluated is {shown!r}; for puzzles it is data.trained, whose other puzzles it "
            "takes"
        )
    if settings.puzzles.num_trained == 0:
        raise InputError("data.evaluated: puzzles.num_trained=0 leaves no puzzle to evaluate")


def _generate(kind: "PuzzleKind", size: int, count: int, seed: int, first: int = 0) -> "PuzzleSet":
    from augment.maze import generate_mazes
    from augment.puzzle_set import PuzzleSet
    from augment.sudoku import generate_sudokus

    if kind == "sudoku":
        return PuzzleSet(kind, *generate_sudokus(count, seed, (size, size), first=first))
    return PuzzleSet(kind, *generate_mazes(count, seed, size, 2 * size, first=first))
