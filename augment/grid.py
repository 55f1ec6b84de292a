"""Grids: rectangles of colors, the only kind of picture that ARC knows."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from reprlib import Repr

import numpy as np
from numpy.typing import NDArray

from augment.errors import InputError

Grid = NDArray[np.uint8]
"""Height x width colors, sides 1..30, values 0..9, contiguous."""

MAX_SIDE = 30
NUM_COLORS = 10
_COLORS = frozenset(range(NUM_COLORS))
_SHORT = 60  # characters of a value in an error

_REPR = Repr()
_REPR.maxlevel = 3
_REPR.maxlist = _REPR.maxdict = 20  # of one sign each they fill the line
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = 2 * _SHORT


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
            f"{where}: the grid is {len(raw)}x{len(raw[0])}, larger than {MAX_SIDE}x{MAX_SIDE}"
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


def check_stored(
    cells: NDArray[np.uint8], heights: NDArray[np.int64], widths: NDArray[np.int64]
) -> None:
    """Raise :class:`InputError` unless ``cells`` are those of grids of these sizes, end to end."""
    if len(heights) != len(widths):
        raise InputError(f"{len(heights)} heights, but {len(widths)} widths")
    for sides in (heights, widths):
        if ((sides < 1) | (sides > MAX_SIDE)).any():
            raise InputError(f"a grid has a side that is not 1..{MAX_SIDE}")
    if (heights * widths).sum() != len(cells):
        raise InputError(f"{len(cells)} cells are more or fewer than those of the grids")
    if (cells >= NUM_COLORS).any():
        raise InputError(f"a cell is {cells.max()}, not an integer 0..{NUM_COLORS - 1}")


def grid_key(grid: Grid) -> bytes:
    """Return bytes that are equal exactly for equal grids, and that sort in a fixed order."""
    return bytes(grid.shape) + grid.tobytes()


def shorten(value: object) -> str:
    """Return the ``repr`` of a JSON value, cut so that an error stays one readable line.

    Only what is shown of the value is rendered, however large or deep it is.
    """
    text = _REPR.repr(value)
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}..."


@dataclass(frozen=True, slots=True, eq=False)
class GridStore:
    """Many grids in one array: grid g is ``cells[starts[g]:]`` as (heights[g], widths[g])."""

    cells: NDArray[np.uint8]
    starts: NDArray[np.int64]
    heights: NDArray[np.int64]
    widths: NDArray[np.int64]

    @classmethod
    def of(cls, grids: Iterable[Grid]) -> "GridStore":
        """Return the grids stored one after the other."""
        grids = list(grids)
        shapes = np.array([grid.shape for grid in grids], dtype=np.int64).reshape(-1, 2)
        cells = np.concatenate([np.empty(0, np.uint8), *(grid.ravel() for grid in grids)])
        return cls.cut(cells, *shapes.T)

    @classmethod
    def cut(
        cls, cells: NDArray[np.uint8], heights: NDArray[np.int64], widths: NDArray[np.int64]
    ) -> "GridStore":
        """Return the grids of these sizes that stand one after the other in ``cells``."""
        sizes = heights * widths
        return cls(cells, np.cumsum(sizes) - sizes, heights, widths)

    def __iter__(self) -> Iterator[Grid]:
        """Yield the grids; they are parts of ``cells``, not copies."""
        columns = (self.starts, self.heights, self.widths)
        for start, height, width in zip(*(column.tolist() for column in columns), strict=True):
            yield self.cells[start : start + height * width].reshape(height, width)

    def sizes(self, grid_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return heights and widths (N, 2) of the grids."""
        return np.stack([self.heights[grid_ids], self.widths[grid_ids]], axis=1)
