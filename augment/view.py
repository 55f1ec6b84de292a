"""Views: a task seen turned, mirrored and recolored.

A view recolors a grid and then applies one of the eight symmetries of the square. Views of one
task are distinct when they give different grids; sampling finds that out from the task's own
symmetries, without drawing a single augmented grid.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from augment.grid import NUM_COLORS, Grid

NUM_DIHEDRALS = 8
NUM_COLOR_MAPS = math.factorial(NUM_COLORS - 1)
NUM_VIEWS = NUM_DIHEDRALS * NUM_COLOR_MAPS
IDENTITY_CODE = 0

INVERSE_DIHEDRAL = (0, 3, 2, 1, 4, 5, 6, 7)

ViewCodes = NDArray[np.uint32]
"""Views as numbers below ``NUM_VIEWS``: dihedral * 9! + rank of the color map."""


def transform(grid: Grid, dihedral: int) -> Grid:
    """Return the grid under one of the eight dihedral transforms, numbered as in the reference.

    0 identity, 1 quarter turn counter-clockwise, 2 half turn, 3 quarter turn clockwise,
    4 left-right mirror, 5 up-down mirror, 6 transpose, 7 anti-transpose.
    """
    if dihedral < 4:
        turned = np.rot90(grid, dihedral)
    elif dihedral == 4:
        turned = np.fliplr(grid)
    elif dihedral == 5:
        turned = np.flipud(grid)
    elif dihedral == 6:
        turned = grid.T
    else:
        turned = np.fliplr(np.rot90(grid))
    return np.ascontiguousarray(turned)


def _compose_dihedrals() -> NDArray[np.int64]:
    """Return the table ``[after, before]`` of the transform that equals one after the other."""
    probe = np.arange(6, dtype=np.uint8).reshape(2, 3)
    numbers = {_probe_key(transform(probe, d)): d for d in range(NUM_DIHEDRALS)}
    table = np.empty((NUM_DIHEDRALS, NUM_DIHEDRALS), dtype=np.int64)
    for after in range(NUM_DIHEDRALS):
        for before in range(NUM_DIHEDRALS):
            table[after, before] = numbers[_probe_key(transform(transform(probe, before), after))]
    return table


def _probe_key(grid: Grid) -> tuple[tuple[int, ...], bytes]:
    return grid.shape, grid.tobytes()


COMPOSED_DIHEDRAL = _compose_dihedrals()


@dataclass(frozen=True, slots=True)
class View:
    """A dihedral transform after a color map; entry i of ``colors`` is the new color of i.

    Black (0) keeps its color.
    """

    dihedral: int
    colors: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.dihedral < NUM_DIHEDRALS:
            raise ValueError(f"dihedral must be 0..{NUM_DIHEDRALS - 1}, got {self.dihedral}")
        if self.colors[0] != 0 or sorted(self.colors) != list(range(NUM_COLORS)):
            raise ValueError(f"colors must permute 1..9 and keep 0, got {self.colors}")

    def apply(self, grid: Grid) -> Grid:
        """Return the grid as this view shows it."""
        return transform(np.array(self.colors, dtype=np.uint8)[grid], self.dihedral)

    def invert(self) -> "View":
        """Return the view that undoes this one."""
        return View(
            INVERSE_DIHEDRAL[self.dihedral],
            tuple(self.colors.index(color) for color in range(NUM_COLORS)),
        )

    def compose(self, before: "View") -> "View":
        """Return the view that equals ``before`` followed by this one."""
        return View(
            int(COMPOSED_DIHEDRAL[self.dihedral, before.dihedral]),
            tuple(self.colors[color] for color in before.colors),
        )

    @property
    def code(self) -> int:
        """The number of this view, see :data:`ViewCodes`."""
        rank = 0
        rest = list(range(1, NUM_COLORS))
        for color in self.colors[1:]:
            position = rest.index(color)
            rank = rank * len(rest) + position
            rest.pop(position)
        return self.dihedral * NUM_COLOR_MAPS + rank

    @classmethod
    def from_code(cls, code: int) -> "View":
        """Return the view with this number."""
        dihedral, rank = divmod(int(code), NUM_COLOR_MAPS)
        return cls(dihedral, tuple(int(color) for color in color_maps()[rank]))


@cache
def color_maps() -> NDArray[np.uint8]:
    """Return all color maps, (9!, 10), in lexicographic order; row r maps color i to [r, i]."""
    permutations = np.zeros((1, 0), dtype=np.uint8)
    for size in range(1, NUM_COLORS):
        # Each first element, followed by the shorter permutations of the elements that are left.
        first = np.repeat(np.arange(size, dtype=np.uint8), len(permutations))[:, None]
        rest = np.tile(permutations, (size, 1))
        permutations = np.hstack([first, rest + (rest >= first)])
    return np.hstack([np.zeros((len(permutations), 1), dtype=np.uint8), permutations + 1])


def sample_views(grids: Sequence[Grid], task_id: str, count: int, seed: int) -> ViewCodes:
    """Return the identity and up to ``count`` further views, pairwise distinct on ``grids``.

    Fewer only when fewer exist. Depends on the grids, the task id and the seed alone, never on
    the other tasks of a set.
    """
    symmetries = _symmetries(grids)
    used = np.unique(np.concatenate([grid.ravel() for grid in grids]))
    used = used[used > 0]
    num_existing = NUM_DIHEDRALS // len(symmetries) * math.perm(NUM_COLORS - 1, len(used))
    wanted = min(count + 1, num_existing)
    rng = np.random.default_rng([seed, *hashlib.sha256(task_id.encode()).digest()])
    codes = np.array([IDENTITY_CODE], dtype=np.int64)
    while len(codes) < wanted:
        drawn = np.concatenate([codes, rng.integers(NUM_VIEWS, size=2 * wanted)])
        _, first = np.unique(_canonical_keys(drawn, symmetries, used), return_index=True)
        codes = drawn[np.sort(first)]
    return codes[:wanted].astype(np.uint32)


def _symmetries(grids: Iterable[Grid]) -> list[tuple[int, NDArray[np.uint8]]]:
    """Return every (dihedral, color map) that leaves all the grids as they are."""
    grids = list(grids)
    before = np.concatenate([grid.ravel() for grid in grids]).astype(np.int64)
    found = []
    for dihedral in range(NUM_DIHEDRALS):
        turned = [transform(grid, dihedral) for grid in grids]
        if any(a.shape != b.shape for a, b in zip(turned, grids, strict=True)):
            continue
        after = np.concatenate([grid.ravel() for grid in turned])
        counts = np.bincount(after * NUM_COLORS + before, minlength=NUM_COLORS**2)
        links = counts.reshape(NUM_COLORS, NUM_COLORS) > 0
        one_to_one = links.sum(0).max() == 1 and links.sum(1).max() == 1
        if one_to_one and not links[0, 1:].any() and not links[1:, 0].any():
            found.append((dihedral, links.argmax(1).astype(np.uint8)))
    return found


def _canonical_keys(
    codes: NDArray[np.int64],
    symmetries: Iterable[tuple[int, NDArray[np.uint8]]],
    used: NDArray[np.uint8],
) -> NDArray[np.int64]:
    """Return keys that are equal exactly for views that show the same grids.

    A view V and V after a symmetry of the grids show the same; the key is the smallest number
    among all of these, written in the colors that the grids use.
    """
    dihedrals, ranks = np.divmod(codes, NUM_COLOR_MAPS)
    colors = color_maps()[ranks]
    weights = 10 ** np.arange(len(used), dtype=np.int64)
    keys = [
        COMPOSED_DIHEDRAL[dihedrals, dihedral] * 10 ** len(used)
        + colors[:, color_map[used]].astype(np.int64) @ weights
        for dihedral, color_map in symmetries
    ]
    smallest: NDArray[np.int64] = np.min(keys, axis=0)
    return smallest
