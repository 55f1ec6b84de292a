"""Sudoku: a solver, the symmetries of puzzles, a number that they leave the same, a generator.

A puzzle is a 9x9 grid of colors: 0 is a blank, 1..9 are the digits. Many are (N, 9, 9) uint8. All
compiled loops stand in this file, as in :mod:`augment.tokens`.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from augment.compiled import compiled
from augment.errors import InputError

SIDE = 9
MOST_GUESSES = 1_000_000
"""Where the solver gives up, after about two seconds; hard puzzles take hundreds."""
NUM_UNIFORMS = 36
"""Random numbers that a symmetry is made of; 34 are used, and Philox draws four at a time."""

_CELLS = SIDE**2
_LEAST_GIVENS = 17  # McGuire, Tugemann and Civario 2012: none with 16 has one solution
_PIECE = 256  # puzzles that a thread solves at a time
_MOST_TRIES = 10_000  # puzzles drawn for one that is wanted
# Part of the seed of this random generator; others, such as solver.train's, have other numbers.
_GENERATING = 3

_ROWS, _COLUMNS = np.divmod(np.arange(_CELLS), SIDE)
_BOXES = _ROWS // 3 * 3 + _COLUMNS // 3
_UNITS = np.array(
    [np.flatnonzero(part == n) for part in (_ROWS, _COLUMNS, _BOXES) for n in range(SIDE)],
    dtype=np.uint8,
)
_PEERS = np.array(
    [np.setdiff1d(_UNITS[(cell == _UNITS).any(1)], cell) for cell in np.arange(_CELLS)],
    dtype=np.uint8,
)
_ALL = 0b111_111_111
_SIZES = np.array([mask.bit_count() for mask in range(_ALL + 1)])
_RISING = np.tile(np.arange(SIDE), (_CELLS, 1))  # each cell tries its digits in this order


class SudokuSolutions(NamedTuple):
    """What the solver finds of N puzzles."""

    grids: NDArray[np.uint8]
    """(N, 9, 9) the first solution of each; zeros where there is none."""
    counts: NDArray[np.int64]
    """(N,) solutions: 0, 1, 2 for more than one, -1 where ``MOST_GUESSES`` do not tell."""
    ratings: NDArray[np.int64]
    """(N,) digits that the solver tries out until it knows the count; 0 where singles do.

    These are the guesses of this solver, not the backtracks of tdoku that published sets give. The
    symmetries of a puzzle can change them a little.
    """


def solve_sudokus(questions: NDArray[np.uint8]) -> SudokuSolutions:
    """Return the solutions of puzzles (N, 9, 9).

    Cells with one digit left and digits with one cell left in a row, column or box are filled in.
    Where there are none, a cell with the fewest digits left tries one of them. A digit that fails
    is ruled out, and its cell decides with those that are left. All cores work.
    """
    cells = questions.reshape(-1, _CELLS)
    grids = np.zeros_like(cells)
    counts, ratings = (np.empty(len(cells), np.int64) for _ in range(2))
    num_pieces = 1 + len(cells) // _PIECE
    columns = (np.array_split(column, num_pieces) for column in (cells, grids, counts, ratings))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(_solve, *columns))
    return SudokuSolutions(grids.reshape(questions.shape), counts, ratings)


def are_solved(grids: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return whether each row, column and box of grids (N, 9, 9) has all nine digits, (N,)."""
    bits = (1 << grids.astype(np.int64)).reshape(-1, _CELLS)
    found = np.bitwise_or.reduce(bits[:, _UNITS], axis=2)
    return np.asarray((found == _ALL << 1).all(axis=1))


class Symmetries(NamedTuple):
    """N symmetries, each of which makes a puzzle of a puzzle and its solution of its solution."""

    digits: NDArray[np.uint8]
    """(N, 10) the new color of each color; a blank stays."""
    cells: NDArray[np.int64]
    """(N, 81) the cell that each new cell comes from."""

    @classmethod
    def draw(cls, uniforms: NDArray[np.float64]) -> "Symmetries":
        """Return the symmetries that random numbers in [0, 1) of (N, ``NUM_UNIFORMS``) choose.

        Each is an equally likely one of all 9! * 6^8 * 2: of digits, bands, rows in bands, stacks,
        columns in stacks, and the transpose.
        """
        count = len(uniforms)
        digits = np.zeros((count, SIDE + 1), np.uint8)
        digits[:, 1:] = uniforms[:, :9].argsort(axis=1) + 1
        rows, columns = _permute_lines(uniforms[:, 9:21]), _permute_lines(uniforms[:, 21:33])
        cells = SIDE * rows[:, :, None] + columns[:, None, :]
        is_transposed = uniforms[:, 33] < 0.5
        cells[is_transposed] = cells[is_transposed].swapaxes(1, 2)
        return cls(digits, cells.reshape(count, _CELLS))

    def apply(self, grids: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return grids (N, 9, 9), each under its symmetry."""
        moved = np.take_along_axis(grids.reshape(-1, _CELLS), self.cells, axis=1)
        return np.take_along_axis(self.digits, moved, axis=1).reshape(-1, SIDE, SIDE)


def _permute_lines(uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return permutations (N, 9) of lines in bands and of bands, from numbers (N, 12)."""
    bands = uniforms[:, :3].argsort(axis=1)
    lines = uniforms[:, 3:].reshape(-1, 3, 3).argsort(axis=2)
    return (3 * bands[:, :, None] + lines).reshape(-1, SIDE)


def sudoku_keys(questions: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return a number for each puzzle (N, 9, 9) that all symmetries leave the same, (N,).

    It is a hash by color refinement: a cell is told from others by the cells of its row, column and
    box, and by those that hold its digit, whatever the digit's name. Different puzzles can share
    a number where that does not tell their cells apart; those with one solution rarely do.
    """
    keys = np.empty(len(questions), np.uint64)
    _refine(questions.reshape(-1, _CELLS), keys)
    return keys


def generate_sudokus(
    count: int,
    seed: int,
    blanks: tuple[int, int] = (30, 55),
    ratings: tuple[int, int] | None = None,
    first: int = 0,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float64]]:
    """Return questions and answers (N, 9, 9) with one solution each, and ratings (N,).

    Each begins with a random full grid, which loses digits in random order as long as its solution
    stays the only one, until it has a random number of ``blanks`` of that range, both ends
    included, or as many as that order allows. Only puzzles with ``ratings`` of that range are
    taken. No two are the same under symmetry: one that would be is drawn again, else puzzle i,
    counted from ``first``, is a function of the seed and i alone.
    """
    fewest, most = blanks
    if not 1 <= fewest <= most <= _CELLS - _LEAST_GIVENS:
        raise InputError(f"blanks {fewest}..{most}: not a range in 1..{_CELLS - _LEAST_GIVENS}")
    lowest, highest = (0, MOST_GUESSES) if ratings is None else ratings
    if not 0 <= lowest <= highest:
        raise InputError(f"ratings {lowest}..{highest}: not a range of numbers from 0 on")
    questions, answers = (np.empty((count, SIDE, SIDE), np.uint8) for _ in range(2))
    rated, seen = np.empty(count), set[int]()
    for number in range(count):
        rng = np.random.default_rng([seed, _GENERATING, first + number])
        question, answer = (grids[number].reshape(_CELLS) for grids in (questions, answers))
        for _ in range(_MOST_TRIES):
            num_blanks = rng.integers(fewest, most + 1)
            digit_orders = rng.permuted(_RISING, axis=1)
            rated[number] = _generate(
                digit_orders, rng.permutation(_CELLS), num_blanks, question, answer
            )
            key = int(sudoku_keys(question[None])[0])
            if lowest <= rated[number] <= highest and key not in seen:
                break
        else:
            raise InputError(
                f"none of {_MOST_TRIES:,} random puzzles with {fewest}..{most} blanks is a new one "
                f"rated {lowest}..{highest}"
            )
        seen.add(key)
    return questions, answers, rated


@compiled
def _fill_singles(candidates: Any, queue: Any, waiting: int) -> bool:
    """Fill in what singles decide; return whether every digit still has a place.

    ``candidates`` (81,) are masks of digits. The first ``waiting`` cells of the queue have one that
    their peers do not know of yet.
    """
    while True:
        while waiting:
            waiting -= 1
            cell = queue[waiting]
            bit = candidates[cell]
            for peer in _PEERS[cell]:
                if candidates[peer] & bit:
                    left = candidates[peer] ^ bit
                    if left == 0:
                        return False
                    candidates[peer] = left
                    if left & (left - 1) == 0:
                        queue[waiting] = peer
                        waiting += 1
        for unit in range(len(_UNITS)):
            once = 0
            twice = 0
            decided = 0
            for cell in _UNITS[unit]:
                mask = candidates[cell]
                twice |= once & mask
                once |= mask
                if mask & (mask - 1) == 0:
                    decided |= mask
            if once != _ALL:
                return False
            hidden = once & ~twice & ~decided
            if hidden:
                for cell in _UNITS[unit]:
                    mask = candidates[cell] & hidden
                    if mask:
                        if mask & (mask - 1):
                            return False
                        candidates[cell] = mask
                        queue[waiting] = cell
                        waiting += 1
        if waiting == 0:
            return True


@compiled
def _search(question: Any, digit_orders: Any, most: int, solution: Any) -> tuple[int, int]:
    """Return the number of solutions, up to ``most``, and of guesses; write the first solution.

    A guess in cell n tries digits in the order ``digit_orders[n]`` (81, 9). The number is -1 where
    ``MOST_GUESSES`` do not tell.
    """
    stack = np.empty((_CELLS + 1, _CELLS), np.int16)
    guessed = np.empty(_CELLS + 1, np.uint8)
    queue = np.empty(_CELLS + 1, np.uint8)
    waiting = 0
    for cell in range(_CELLS):
        if question[cell]:
            stack[0, cell] = 1 << (question[cell] - 1)
            queue[waiting] = cell
            waiting += 1
        else:
            stack[0, cell] = _ALL
    depth = 0
    num_solutions = 0
    num_guesses = 0
    is_possible = _fill_singles(stack[0], queue, waiting)
    while True:
        candidates = stack[depth]
        chosen = -1
        if is_possible:
            fewest = SIDE + 1
            for cell in range(_CELLS):
                size = _SIZES[candidates[cell]]
                if 1 < size < fewest:
                    fewest = size
                    chosen = cell
                    if size == 2:
                        break
            if chosen < 0:
                num_solutions += 1
                if num_solutions == 1:
                    for cell in range(_CELLS):
                        solution[cell] = _SIZES[candidates[cell] - 1] + 1
                if num_solutions == most:
                    return num_solutions, num_guesses
        if chosen >= 0:
            if num_guesses == MOST_GUESSES:
                return -1, num_guesses
            num_guesses += 1
            for digit in digit_orders[chosen]:
                bit = 1 << digit
                if candidates[chosen] & bit:
                    break
            guessed[depth] = chosen
            depth += 1
            stack[depth] = candidates
            stack[depth, chosen] = bit
            candidates[chosen] ^= bit
            queue[0] = chosen
            is_possible = _fill_singles(stack[depth], queue, 1)
        elif depth:
            depth -= 1
            queue[0] = guessed[depth]
            waiting = 1 if _SIZES[stack[depth, guessed[depth]]] == 1 else 0
            is_possible = _fill_singles(stack[depth], queue, waiting)
        else:
            return num_solutions, num_guesses


@compiled
def _solve(questions, grids, counts, ratings):  # type: ignore[no-untyped-def]
    for n in range(len(questions)):
        counts[n], ratings[n] = _search(questions[n], _RISING, 2, grids[n])


@compiled
def _generate(digit_orders, cell_order, num_blanks, question, answer):  # type: ignore[no-untyped-def]
    """Fill the answer, blank cells of the question in order, and return its rating."""
    question[:] = 0
    _search(question, digit_orders, 1, answer)
    question[:] = answer
    found = np.empty(_CELLS, np.uint8)
    rating = 0
    for cell in cell_order:
        if num_blanks == 0:
            break
        question[cell] = 0
        count, num_guesses = _search(question, _RISING, 2, found)
        if count == 1:
            rating = num_guesses
            num_blanks -= 1
        else:
            question[cell] = answer[cell]
    return rating


_ROUNDS = 6  # of refinement; two let every cell know of every other
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@compiled
def _mix(number):  # type: ignore[no-untyped-def]
    """Return 64 well mixed bits. Source: the finalizer of SplitMix64 (Steele and others 2014)."""
    number = number + _GOLDEN
    number = (number ^ (number >> _SHIFTS[0])) * _MULTIPLIERS[0]
    number = (number ^ (number >> _SHIFTS[1])) * _MULTIPLIERS[1]
    return number ^ (number >> _SHIFTS[2])


@compiled
def _refine(questions, keys):  # type: ignore[no-untyped-def]
    colors = np.empty(_CELLS, np.uint64)
    sums = np.empty((4, SIDE + 1), np.uint64)  # of rows, columns, boxes, cells with a digit
    for n in range(len(questions)):
        for cell in range(_CELLS):
            colors[cell] = min(questions[n, cell], 1)
        for _ in range(_ROUNDS):
            sums[:] = 0
            for cell in range(_CELLS):
                mixed = _mix(colors[cell])
                sums[0, _ROWS[cell]] += mixed
                sums[1, _COLUMNS[cell]] += mixed
                sums[2, _BOXES[cell]] += mixed
                sums[3, questions[n, cell]] += mixed
            for cell in range(_CELLS):
                # A sum, because the transpose exchanges rows and columns.
                lines = _mix(sums[0, _ROWS[cell]]) + _mix(sums[1, _COLUMNS[cell]])
                color = _mix(colors[cell] + lines)
                color = _mix(color + sums[2, _BOXES[cell]])
                colors[cell] = _mix(color + sums[3, questions[n, cell]])
        total = np.uint64(0)
        for cell in range(_CELLS):
            total += _mix(colors[cell])
        keys[n] = _mix(total)
