"""Grids: the only kind of picture ARC knows."""

from itertools import chain

import numpy as np
from numpy.typing import NDArray

from augment.errors import InputError

Grid = NDArray[np.uint8]
"""Height x width colors, sides 1..30, values 0..9, contiguous."""

MAX_SIDE = 30
NUM_COLORS = 10
_COLORS = frozenset(range(NUM_COLORS))


def check_grid(raw: object, where: str) -> Grid:
    """Return the JSON value ``raw`` as a grid.

    Raises :class:`InputError`, opening with ``where``, when ``raw`` is not a list of equally long
    rows of integers 0..9 with sides of 1..30.
    """
    if not isinstance(raw, list) or not all(isinstance(row, list) for row in raw):
        raise InputError(f"{where}: a grid is a list of rows, got {shorten(raw)}")
    if not raw or not raw[0]:
        raise InputError(f"{where}: the grid is empty")
    for number, row in enumerate(raw):
        if len(row) != len(raw[0]):
            raise InputError(f"{where}: row {number} has {len(row)} cells, row 0 has {len(raw[0])}")
    if len(raw) > MAX_SIDE or len(raw[0]) > MAX_SIDE:
        raise InputError(
            f"{where}: the grid is {len(raw)}x{len(raw[0])}, at most {MAX_SIDE}x{MAX_SIDE} goes"
        )
    # bool is an int to isinstance, so the types themselves are compared.
    cells = list(chain.from_iterable(raw))
    if set(map(type, cells)) != {int} or not _COLORS.issuperset(cells):
        for position, cell in enumerate(cells):
            if type(cell) is not int or cell not in _COLORS:
                row, column = divmod(position, len(raw[0]))
                raise InputError(
                    f"{where}: cell ({row}, {column}) is {shorten(cell)}, not an integer 0..9"
                )
    # A copy, because numpy keeps a view of bytes with four times what a small grid itself needs.
    return np.frombuffer(bytes(cells), dtype=np.uint8).reshape(len(raw), -1).copy()


def grid_key(grid: Grid) -> bytes:
    """Return bytes that are equal exactly for equal grids, and that sort in a fixed order."""
    return bytes(grid.shape) + grid.tobytes()


def shorten(value: object, limit: int = 60) -> str:
    """Return ``repr(value)``, cut so that an error stays one readable line."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
