"""Views: a task seen turned, mirrored and recolored.

A view recolors a grid and then applies one of the eight symmetries of the square. Views of one
task are distinct when they give different grids; sampling finds that out from the task's own
symmetries, without drawing a single augmented grid.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from augment.grid import NUM_COLORS, Grid

NUM_DIHEDRALS = 8
NUM_COLOR_MAPS = math.factorial(NUM_COLORS - 1)
NUM_VIEWS = NUM_DIHEDRALS * NUM_COLOR_MAPS
IDENTITY_CODE = 0

INVERSE_DIHEDRAL = (0, 3, 2, 1, 4, 5, 6, 7)

_SHIFTS = 4 * np.arange(NUM_COLORS, dtype=np.int64)

ViewCodes = NDArray[np.uint32]
"""Views as numbers below ``NUM_VIEWS``: dihedral * 9! + rank of the color map."""


def transform(grid: Grid, dihedral: int) -> Grid:
    """Return the grid under one of the eight dihedral transforms, numbered as in the reference.

    0 identity, 1 quarter turn counter-clockwise, 2 half turn, 3 quarter turn clockwise,
    4 left-right mirror, 5 up-down mirror, 6 transpose, 7 anti-transpose.
    """
    match dihedral:
        case 0:
            turned = grid
        case 1:
            turned = grid.T[::-1]
        case 2:
            turned = grid[::-1, ::-1]
        case 3:
            turned = grid.T[:, ::-1]
        case 4:
            turned = grid[:, ::-1]
        case 5:
            turned = grid[::-1]
        case 6:
            turned = grid.T
        case _:
            turned = grid.T[::-1, ::-1]
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


@cache
def _packed_color_maps() -> NDArray[np.int64]:
    """Return all color maps, (9!,): the four bits from 4 * i on say what became of color i."""
    packed: NDArray[np.int64] = color_maps() @ (1 << _SHIFTS)
    return packed


def sample_views(
    grids: Sequence[Grid],
    task_id: str,
    count: int,
    seed: int,
    kept: Sequence[int] = (),
) -> ViewCodes:
    """Return the identity and up to ``count`` further views, pairwise distinct on ``grids``.

    The other dihedrals with the colors as they are come next, then random views, none of which
    changes the colors ``kept``. Fewer only when fewer exist. Depends on the grids, the task id, the
    seed and ``kept`` alone, never on the other tasks of a set.
    """
    used = 1 + np.flatnonzero(np.bincount(np.concatenate([g.ravel() for g in grids]))[1:])
    # What equals a view after a symmetry that changes kept colors is not among the views.
    seen = np.intersect1d(used, np.asarray(kept, dtype=np.int64))
    symmetries = [s for s in _symmetries(grids) if np.array_equal(s[1][seen], seen)]
    free = np.setdiff1d(np.arange(1, NUM_COLORS), np.asarray(kept, dtype=np.int64))
    num_color_maps = math.perm(len(free), len(used) - len(seen))
    num_existing = NUM_DIHEDRALS // len(symmetries) * num_color_maps
    wanted = min(count + 1, num_existing)
    rng = np.random.default_rng([seed, *hashlib.sha256(task_id.encode()).digest()])
    codes = IDENTITY_CODE + NUM_COLOR_MAPS * np.arange(NUM_DIHEDRALS, dtype=np.int64)
    codes = codes[_first_of_equals(_canonical_keys(codes, symmetries, used))]
    while len(codes) < wanted:
        drawn = rng.integers(NUM_VIEWS, size=2 * wanted)
        if len(kept):
            drawn = _permute_only(free, drawn)
        drawn = np.concatenate([codes, drawn])
        codes = drawn[_first_of_equals(_canonical_keys(drawn, symmetries, used))]
    return codes[:wanted].astype(np.uint32)


def _permute_only(free: NDArray[np.int64], codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return views (N,) that permute the colors ``free``, in the order of those of ``codes``."""
    dihedrals, ranks = np.divmod(codes, NUM_COLOR_MAPS)
    maps = np.tile(np.arange(NUM_COLORS), (len(codes), 1))
    maps[:, free] = free[color_maps()[ranks][:, free].argsort(1).argsort(1)]
    return dihedrals * NUM_COLOR_MAPS + _rank_color_maps(maps)


def _rank_color_maps(maps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place (N,) of each of the color maps (N, 10) in :func:`color_maps`."""
    ranks = np.zeros(len(maps), dtype=np.int64)
    for color in range(1, NUM_COLORS):
        smaller_ones_follow = (maps[:, color + 1 :] < maps[:, color, None]).sum(1)
        ranks += smaller_ones_follow * math.factorial(NUM_COLORS - 1 - color)
    return ranks


def _symmetries(grids: Iterable[Grid]) -> list[tuple[int, NDArray[np.int64]]]:
    """Return every (dihedral, color map) that leaves all the grids as they are."""
    symmetries = [(0, np.arange(NUM_COLORS))]
    for dihedral in range(1, NUM_DIHEDRALS):
        links = np.zeros((NUM_COLORS, NUM_COLORS), dtype=np.bool_)  # [color turned, color before]
        for grid in grids:
            turned = transform(grid, dihedral)
            if turned.shape != grid.shape:
                break
            links[turned, grid] = True
            # A turned grid has the colors it had: where each has one partner, the map is one to
            # one. Most grids without a symmetry show it here, before the others are looked at.
            if links.sum(1).max() > 1 or links[0, 1:].any():
                break
        else:
            symmetries.append((dihedral, links.argmax(1)))
    return symmetries


def _canonical_keys(
    codes: NDArray[np.int64],
    symmetries: Iterable[tuple[int, NDArray[np.int64]]],
    used: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return keys that are equal exactly for views that show the same grids.

    A view V and V after a symmetry of the grids show the same; the key is the smallest number
    among all of these, written in the colors that the grids use.
    """
    dihedrals, ranks = np.divmod(codes, NUM_COLOR_MAPS)
    packed = _packed_color_maps()[ranks]
    keys = []
    for dihedral, color_map in symmetries:
        key = COMPOSED_DIHEDRAL[dihedrals, dihedral] << 4 * NUM_COLORS
        stays = color_map[used] == used
        key |= packed & (15 << _SHIFTS[used[stays]]).sum()
        for color in used[~stays]:
            key |= (packed >> _SHIFTS[color_map[color]] & 15) << _SHIFTS[color]
        keys.append(key)
    smallest: NDArray[np.int64] = np.min(keys, axis=0)
    return smallest


def _first_of_equals(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each key stands for the first time, in rising order."""
    order = np.argsort(keys)
    opens = np.flatnonzero(np.diff(keys[order], prepend=-1))
    return np.sort(np.minimum.reduceat(order, opens))
