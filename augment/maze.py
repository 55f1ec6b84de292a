"""Mazes: shortest paths by breadth-first search, what is right of a prediction, a generator.

A maze is a square grid of colors, the signs of published mazes by their place in ``SIGNS``; its
answer is the same grid with a shortest path from the start to the goal. Many are (N, S, S) uint8.
A step goes up, left, right or down. All compiled loops stand in this file, as in
:mod:`augment.tokens`.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from augment.compiled import compiled
from augment.errors import InputError
from augment.grid import MAX_SIDE
from augment.view import NUM_DIHEDRALS, transform

SIGNS = " #SGo"
OPEN, WALL, START, GOAL, PATH = range(len(SIGNS))
LEAST_SIDE = 2

_STEPS = np.array([(-1, 0), (0, -1), (0, 1), (1, 0)])  # up, left, right, down
_MOST_TRIES = 2**16  # mazes drawn for one; of 30x30 one in 3,000 has a path of 111 steps
_DRAWN_AT_ONCE = 64
# Part of the seed of this random generator; others, such as solver.train's, have other numbers.
_GENERATING = 4


def solve_mazes(questions: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the answers (N, S, S) of mazes and the steps (N,) of their shortest paths.

    Of the many shortest paths it is the one that goes, from the start on, always to the first
    neighbor in the order up, left, right, down that is a step nearer to the goal. Steps are -1, and
    the answer is the question, without exactly one start and one goal or a path between them.
    """
    answers, steps = questions.copy(), np.full(len(questions), -1)
    _solve(answers, (questions == WALL), steps)
    return answers, steps


def are_shortest_paths(questions: NDArray[np.uint8], grids: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return whether each grid (N, S, S) shows a shortest path of its question, any of them, (N,).

    All other cells have to be as in the question.
    """
    steps = solve_mazes(questions)[1]
    is_path = grids == PATH
    is_kept = np.where(is_path, questions == OPEN, grids == questions).all(axis=(1, 2))
    # Only a shortest path has so many cells, and leads through them alone in so many steps.
    elsewhere = np.where(grids == OPEN, np.uint8(WALL), grids)
    shown_steps = solve_mazes(np.where(is_path, np.uint8(OPEN), elsewhere))[1]
    is_whole = (shown_steps == steps) & (is_path.sum(axis=(1, 2)) == steps - 1)
    return np.asarray(is_kept & is_whole & (steps > 0))


def maze_keys(questions: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return a number for each maze (N, S, S) that is the same under all eight dihedrals, (N,)."""
    return np.fromiter(map(_key, questions), np.uint64, len(questions))


def _key(question: NDArray[np.uint8]) -> int:
    smallest = min(transform(question, dihedral).tobytes() for dihedral in range(NUM_DIHEDRALS))
    return int.from_bytes(hashlib.sha256(b"maze" + smallest).digest()[:8], "little")


def generate_mazes(
    count: int,
    seed: int,
    side: int = MAX_SIDE,
    least_steps: int = 111,
    walls: tuple[float, float] = (0.3, 0.45),
    first: int = 0,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float64]]:
    """Return questions and answers (N, side, side) and the steps (N,) of the shortest paths.

    Each cell is a wall with a probability that is drawn from the range ``walls`` for each maze; the
    start is a random open cell, the goal a random one that is ``least_steps`` or more away. Mazes
    without such a cell are drawn again. So is one that would be another under a dihedral, else
    maze i, counted from ``first``, is a function of the seed and i alone.
    """
    if not LEAST_SIDE <= side <= MAX_SIDE:
        raise InputError(f"a maze of side {side}: not {LEAST_SIDE}..{MAX_SIDE}")
    if not 1 <= least_steps < side**2:
        raise InputError(f"a path of {least_steps} steps: not 1..{side**2 - 1} in {side}x{side}")
    if not 0.0 <= walls[0] <= walls[1] < 1.0:
        raise InputError(f"a share of walls of {walls[0]}..{walls[1]}: not a range in [0, 1)")
    questions, seen = np.empty((count, side, side), np.uint8), set[int]()
    for number in range(count):
        rng = np.random.default_rng([seed, _GENERATING, first + number])
        for _ in range(_MOST_TRIES // _DRAWN_AT_ONCE):
            found = _draw_maze(rng, side, least_steps, walls)
            if found is not None and _key(found) not in seen:
                break
        else:
            raise InputError(
                f"none of {_MOST_TRIES:,} random mazes of {side}x{side} is a new one with "
                f"{least_steps} steps or more"
            )
        questions[number] = found
        seen.add(_key(found))
    answers, steps = solve_mazes(questions)
    return questions, answers, steps.astype(np.float64)


def _draw_maze(
    rng: np.random.Generator, side: int, least_steps: int, walls: tuple[float, float]
) -> NDArray[np.uint8] | None:
    """Return the first of some random mazes that has a long enough path; None where none has."""
    shares = rng.uniform(*walls, size=(_DRAWN_AT_ONCE, 1, 1))
    is_wall = rng.random((_DRAWN_AT_ONCE, side, side)) < shares
    ends = rng.random((_DRAWN_AT_ONCE, 2))
    maze = np.empty((side, side), np.uint8)
    return maze if _place_ends(is_wall, ends, least_steps, maze) else None


@compiled
def _measure_distances(is_wall, goal, distances, queue):  # type: ignore[no-untyped-def]
    """Write the steps from each cell (S, S) to the goal, -1 where there is no path."""
    side = len(is_wall)
    distances[:] = -1
    distances[goal // side, goal % side] = 0
    queue[0] = goal
    begin, end = 0, 1
    while begin < end:
        row, column = divmod(queue[begin], side)
        begin += 1
        for n in range(len(_STEPS)):
            r = row + _STEPS[n, 0]
            c = column + _STEPS[n, 1]
            if 0 <= r < side and 0 <= c < side and not is_wall[r, c] and distances[r, c] < 0:
                distances[r, c] = distances[row, column] + 1
                queue[end] = r * side + c
                end += 1


@compiled
def _solve(answers, is_wall, steps):  # type: ignore[no-untyped-def]
    """Write the path into each maze that has one, and its steps."""
    side = answers.shape[1]
    distances = np.empty((side, side), np.int64)
    queue = np.empty(side * side, np.int64)
    for n in range(len(answers)):
        maze = answers[n]
        starts = np.flatnonzero(maze == START)
        goals = np.flatnonzero(maze == GOAL)
        if len(starts) != 1 or len(goals) != 1:
            continue
        _measure_distances(is_wall[n], goals[0], distances, queue)
        row, column = divmod(starts[0], side)
        steps[n] = distances[row, column]
        for left in range(steps[n] - 1, 0, -1):
            for step in range(len(_STEPS)):
                r = row + _STEPS[step, 0]
                c = column + _STEPS[step, 1]
                if 0 <= r < side and 0 <= c < side and distances[r, c] == left:
                    break
            row, column = r, c
            maze[row, column] = PATH


@compiled
def _place_ends(is_wall: Any, ends: Any, least_steps: int, maze: Any) -> bool:
    """Write the first maze whose start is so far from a cell, one of which becomes the goal.

    ``ends`` (N, 2) are random numbers in [0, 1) that choose start and goal.
    """
    side = len(maze)
    distances = np.empty((side, side), np.int64)
    queue = np.empty(side * side, np.int64)
    for n in range(len(is_wall)):
        open_cells = np.flatnonzero(~is_wall[n])
        if len(open_cells) == 0:
            continue
        start = open_cells[int(ends[n, 0] * len(open_cells))]
        _measure_distances(is_wall[n], start, distances, queue)
        far = np.flatnonzero(distances >= least_steps)
        if len(far):
            goal = far[int(ends[n, 1] * len(far))]
            maze[:] = is_wall[n]
            maze[start // side, start % side] = START
            maze[goal // side, goal % side] = GOAL
            return True
    return False
