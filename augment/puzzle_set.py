"""Sets of Sudoku or maze puzzles: kept on disk, and as a stream of training examples.

A puzzle is a pair of grids of colors, so its tokens, packing and loss are those of an ARC pair. The
puzzles of a set share one puzzle row. Their grids fill the canvas, so no end marker is needed.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from augment.arrays import read_arrays
from augment.boxes import full_boxes
from augment.errors import InputError
from augment.examples import Examples
from augment.files import hash_file, read_description, replace_folder, write_description
from augment.grid import MAX_SIDE, shorten
from augment.maze import LEAST_SIDE, PATH, maze_keys
from augment.puzzle_index import PuzzleIndex
from augment.sudoku import NUM_UNIFORMS, SIDE, Symmetries, sudoku_keys
from augment.tokens import FIRST_COLOR
from augment.view import IDENTITY_CODE, NUM_DIHEDRALS, transform

PuzzleKind = Literal["sudoku", "maze"]

_FORMAT = 2
"""The version of the files; to be increased when the same puzzles would be saved, or their
symmetries drawn, differently."""
_DESCRIPTION = "puzzle_set.json"
_PUZZLES = "puzzles.npz"
_COLUMNS = {"questions": (np.uint8, 3), "answers": (np.uint8, 3), "ratings": (np.float64, 1)}
_HIGHEST = {"sudoku": SIDE, "maze": PATH}  # color of a kind
# Orders of epochs that a stream keeps; a batch can reach over several small ones.
_EPOCHS_KEPT = 4
# Parts of the seeds of these random generators; others, such as solver.train's, have other numbers.
_ORDER, _SYMMETRIES = 5, 6


@dataclass(frozen=True, eq=False)
class PuzzleSet:
    """N puzzles of one kind and size, with their answers."""

    kind: PuzzleKind
    questions: NDArray[np.uint8]
    """(N, S, S) colors: of a Sudoku 0..9, of a maze see :mod:`augment.maze`."""
    answers: NDArray[np.uint8]
    """(N, S, S)"""
    ratings: NDArray[np.float64]
    """(N,) how hard they are: of a Sudoku its file's rating or the guesses of our solver, of a maze
    the steps of its shortest path."""

    def __post_init__(self) -> None:
        shape = self.questions.shape
        if not len(self.questions):
            raise InputError("the set has no puzzle")
        sides = range(SIDE, SIDE + 1) if self.kind == "sudoku" else range(LEAST_SIDE, MAX_SIDE + 1)
        if len(shape) != 3 or shape[1] != shape[2] or shape[1] not in sides:
            raise InputError(f"questions are {shape}, not square with a side of a {self.kind}")
        if self.answers.shape != shape or self.ratings.shape != shape[:1]:
            raise InputError(
                f"{shape} questions, but {self.answers.shape} answers and {self.ratings.shape} "
                "ratings"
            )
        highest = _HIGHEST[self.kind]
        if max(self.questions.max(), self.answers.max()) > highest:
            raise InputError(f"a cell of a {self.kind} is not 0..{highest}")
        if ((self.answers != self.questions) & (self.questions != 0)).any():
            raise InputError("an answer changes what its question gives")
        if not (np.isfinite(self.ratings) & (self.ratings >= 0)).all():
            raise InputError("a rating is no number from 0 on")

    def take(self, chosen: slice | NDArray[np.int64]) -> "PuzzleSet":
        """Return the ``chosen`` puzzles."""
        return PuzzleSet(
            self.kind, self.questions[chosen], self.answers[chosen], self.ratings[chosen]
        )

    @property
    def digest(self) -> str:
        """A hash of the puzzles."""
        state = hashlib.sha256(self.kind.encode())
        for array in (self.questions, self.answers, self.ratings):
            state.update(np.ascontiguousarray(array).data)
        return state.hexdigest()

    @property
    def canvas_side(self) -> int:
        """The side of all grids, which fill the canvas."""
        return int(self.questions.shape[1])

    @cached_property
    def index(self) -> PuzzleIndex:
        """The index of one task whose id is the kind, with the identity as its only view.

        It is the same for all sets of a kind: what is learned of one is asked of another.
        """
        starts, codes = np.array([0, 1]), np.array([IDENTITY_CODE], dtype=np.uint32)
        return PuzzleIndex((self.kind,), (self.kind,), starts, codes, "view")

    @cached_property
    def keys(self) -> NDArray[np.uint64]:
        """(N,) the leak keys of the puzzles; those that a symmetry makes equal have one key."""
        return (sudoku_keys if self.kind == "sudoku" else maze_keys)(self.questions)

    @property
    def trained_on(self) -> NDArray[np.uint64]:
        """The leak keys, sorted, each once."""
        return np.unique(self.keys)

    def save(self, folder: Path, fingerprint: str = "") -> None:
        """Write the set as ``folder``, which is replaced only when the new one is complete.

        ``fingerprint`` is a digest of all that it was built from, for :meth:`load` to compare.
        """
        with replace_folder(folder) as temporary:
            path = temporary / _PUZZLES
            columns = {name: getattr(self, name) for name in _COLUMNS}
            np.savez(path, allow_pickle=False, **columns)
            description = {
                "format": _FORMAT,
                "fingerprint": fingerprint,
                "puzzles": self.kind,
                "files": {_PUZZLES: hash_file(path)},
            }
            write_description(temporary / _DESCRIPTION, description)

    @classmethod
    def load(cls, folder: Path, fingerprint: str | None = None) -> "PuzzleSet":
        """Read what :meth:`save` wrote.

        Raises :class:`InputError` where a file is damaged or cannot have been written by it, or
        where the set has another fingerprint than the one given.
        """
        path = folder / _DESCRIPTION
        description = read_description(
            path, "puzzle set", _FORMAT, (_PUZZLES,), fingerprint=str, puzzles=str
        )
        if fingerprint not in (None, description["fingerprint"]):
            raise InputError(f"{folder}: built from other puzzles or settings")
        kind = description["puzzles"]
        if kind not in get_args(PuzzleKind):
            raise InputError(f"{path}: puzzles is {shorten(kind)}, not {' or '.join(_HIGHEST)}")
        columns = read_arrays(folder / _PUZZLES, _COLUMNS)
        try:
            return cls(kind, **columns)
        except InputError as error:
            raise InputError(f"{folder / _PUZZLES}: {error}") from None


class PuzzleStream:
    """The endless stream of training examples of a puzzle set, the same for a seed anywhere.

    An epoch visits each puzzle once, in random order. With symmetries each example is shown under
    a random one of its own: any of a Sudoku, one of the eight dihedrals of a maze. Example i of the
    stream is a function of the seed and i alone, so a run can go on anywhere, and processes can
    share a batch by taking slices of it.
    """

    def __init__(self, puzzles: PuzzleSet, seed: int, with_symmetries: bool) -> None:
        """Open the stream of ``puzzles`` for ``seed``."""
        self._puzzles = puzzles
        self._seed = seed
        self._with_symmetries = with_symmetries
        self._order_epoch = lru_cache(maxsize=_EPOCHS_KEPT)(self._draw_order)

    def examples(self, start: int, stop: int) -> Examples:
        """Return the examples ``start`` to ``stop`` (excluded) of the stream."""
        epochs, places = np.divmod(np.arange(start, stop), len(self._puzzles.questions))
        chosen = np.empty(len(places), np.int64)
        for epoch in np.unique(epochs).tolist():
            chosen[epochs == epoch] = self._order_epoch(epoch)[places[epochs == epoch]]
        questions, answers = self._puzzles.questions[chosen], self._puzzles.answers[chosen]
        if self._with_symmetries:
            if self._puzzles.kind == "sudoku":
                symmetries = Symmetries.draw(self._uniforms(start, len(chosen), NUM_UNIFORMS))
                questions, answers = symmetries.apply(questions), symmetries.apply(answers)
            else:
                uniforms = self._uniforms(start, len(chosen), 4)[:, 0]
                dihedrals = (uniforms * NUM_DIHEDRALS).astype(np.int64)
                questions, answers = _turn(questions, dihedrals), _turn(answers, dihedrals)
        return _encode(questions, answers)

    def _draw_order(self, epoch: int) -> NDArray[np.int64]:
        rng = np.random.default_rng([self._seed, _ORDER, epoch])
        return rng.permutation(len(self._puzzles.questions))

    def _uniforms(self, start: int, count: int, each: int) -> NDArray[np.float64]:
        """Return random numbers (count, each) of examples from ``start`` on.

        Philox can be wound to any place, and makes four numbers at a time: each is 4, 8, 12...
        """
        philox = np.random.Philox(np.random.SeedSequence([self._seed, _SYMMETRIES]))
        philox.advance(start * each // 4)
        return np.random.Generator(philox).random((count, each))


def encode_questions(puzzles: PuzzleSet) -> Examples:
    """Return an example of each puzzle as it is, without labels: nothing is to be learned."""
    examples = encode_puzzles(puzzles)
    return Examples.without_labels(examples.inputs, examples.rows, examples.codes, examples.boxes)


def encode_puzzles(puzzles: PuzzleSet) -> Examples:
    """Return an example of each puzzle as it is, with its answer."""
    return _encode(puzzles.questions, puzzles.answers)


def _turn(grids: NDArray[np.uint8], dihedrals: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return grids (N, S, S), each under its dihedral."""
    cells = np.arange(grids[0].size).reshape(grids.shape[1:])
    sources = np.array([transform(cells, dihedral).ravel() for dihedral in range(NUM_DIHEDRALS)])
    flat = grids.reshape(len(grids), -1)
    return np.take_along_axis(flat, sources[dihedrals], axis=1).reshape(grids.shape)


def _encode(questions: NDArray[np.uint8], answers: NDArray[np.uint8]) -> Examples:
    """Return examples in the one row, under the identity, on the whole canvas."""
    count, side, _ = questions.shape
    return Examples(
        questions.reshape(count, -1) + np.uint8(FIRST_COLOR),
        answers.reshape(count, -1) + np.uint8(FIRST_COLOR),
        np.ones(count, np.int64),
        np.full(count, IDENTITY_CODE, np.uint32),
        full_boxes(count, side),
    )
