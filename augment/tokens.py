"""Tokens: how grids are written onto canvases under their views, and read back from them.

Source: the TRM reference's ARC encoding. A canvas is a height x width array of tokens; a grid lies
on it at an offset, with end markers directly below its last row and right of its last column.

Whole batches are done by compiled loops outside Python's lock, so a thread can fill the next batch
while the model works. All of them stand in this file, because a change elsewhere would not make
numba compile its stored results again.
"""

import numpy as np
from numpy.typing import NDArray

from augment.compiled import compiled
from augment.grid import NUM_COLORS, Grid, GridStore
from augment.view import INVERSE_DIHEDRAL, NUM_COLOR_MAPS, ViewCodes, color_maps

PAD = 0
END = 1
FIRST_COLOR = 2
NUM_TOKENS = 12

Canvas = NDArray[np.uint8]
"""Height x width tokens."""

_INVERSE_DIHEDRAL = np.array(INVERSE_DIHEDRAL)


def encode_grids(
    store: GridStore,
    grid_ids: NDArray[np.int64],
    codes: ViewCodes,
    offsets: NDArray[np.int64],
    canvas_side: int,
) -> NDArray[np.uint8]:
    """Return (N, canvas_side ** 2) tokens of grids under their views, each at its offset (N, 2).

    All must fit there: the compiled loop checks no bounds.
    """
    ends = offsets + turn_sizes(store.sizes(grid_ids), codes)
    assert ends.max(initial=0) <= canvas_side, "a grid reaches beyond its canvas"
    canvases = np.zeros((len(grid_ids), canvas_side, canvas_side), dtype=np.uint8)
    _encode(
        store.cells, store.starts, store.heights, store.widths,
        grid_ids, codes, offsets, color_maps(), canvases,
    )  # fmt: skip
    return canvases.reshape(len(grid_ids), canvas_side**2)


def turn_sizes(sizes: NDArray[np.int64], codes: ViewCodes) -> NDArray[np.int64]:
    """Return ``sizes`` (N, 2), heights and widths, as the views show them."""
    turned = np.isin(codes // NUM_COLOR_MAPS, (1, 3, 6, 7))
    return np.where(turned[:, None], sizes[:, ::-1], sizes)


def decode_grids(canvases: NDArray[np.uint8], codes: ViewCodes) -> list[Grid | None]:
    """Return what the canvases (N, H, W) show, with the views undone; None where nothing stands."""
    cells = np.empty_like(canvases).reshape(len(canvases), -1)
    sizes = np.empty((len(canvases), 2), dtype=np.int64)
    _decode(canvases, codes, color_maps(), _INVERSE_DIHEDRAL, cells, sizes)
    return [
        cells[n, : height * width].reshape(height, width).copy() if height else None
        for n, (height, width) in enumerate(sizes.tolist())
    ]


def measure_grids(canvases: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return height and width (N, 2) of the grid on each canvas (N, H, W), see measure_grid."""
    sizes = np.empty((len(canvases), 2), dtype=np.int64)
    _measure(canvases, sizes)
    return sizes


@compiled
def write_end_markers(canvas: Canvas, top: int, left: int, height: int, width: int) -> None:
    """Mark the row below and the column right of the rectangle, as far as the canvas reaches."""
    if top + height < canvas.shape[0]:
        canvas[top + height, left : left + width] = END
    if left + width < canvas.shape[1]:
        canvas[top : top + height, left + width] = END


@compiled
def measure_grid(canvas: Canvas) -> tuple[int, int]:
    """Return height and width of the largest rectangle of colors that starts at the top left.

    Of equal areas the one with fewer rows; (0, 0) when the first token is no color.
    """
    best_height = 0
    best_width = 0
    width = canvas.shape[1]
    for row in range(canvas.shape[0]):
        for column in range(width):
            token = canvas[row, column]
            if token < FIRST_COLOR or token >= NUM_TOKENS:
                width = column
                break
        if (row + 1) * width > best_height * best_width:
            best_height = row + 1
            best_width = width
    return best_height, best_width


@compiled
def _measure(canvases, sizes):  # type: ignore[no-untyped-def]
    for n in range(len(canvases)):
        sizes[n] = measure_grid(canvases[n])


@compiled
def _source_cell(dihedral: int, row: int, column: int, height: int, width: int) -> tuple[int, int]:
    """Return where cell (row, column) of the transformed height x width grid comes from."""
    if dihedral == 0:
        return row, column
    if dihedral == 1:
        return column, width - 1 - row
    if dihedral == 2:
        return height - 1 - row, width - 1 - column
    if dihedral == 3:
        return height - 1 - column, row
    if dihedral == 4:
        return row, width - 1 - column
    if dihedral == 5:
        return height - 1 - row, column
    if dihedral == 6:
        return column, row
    return height - 1 - column, width - 1 - row


@compiled
def _turned_size(dihedral: int, height: int, width: int) -> tuple[int, int]:
    if dihedral == 1 or dihedral == 3 or dihedral >= 6:
        return width, height
    return height, width


@compiled
def _encode(  # type: ignore[no-untyped-def]
    cells, starts, heights, widths, grid_ids, codes, offsets, color_maps, canvases
):
    for n in range(len(grid_ids)):
        grid = grid_ids[n]
        height, width = heights[grid], widths[grid]
        dihedral = codes[n] // NUM_COLOR_MAPS
        colors = color_maps[codes[n] % NUM_COLOR_MAPS]
        top, left = offsets[n]
        new_height, new_width = _turned_size(dihedral, height, width)
        for row in range(new_height):
            for column in range(new_width):
                r, c = _source_cell(dihedral, row, column, height, width)
                color = colors[cells[starts[grid] + r * width + c]]
                canvases[n, top + row, left + column] = color + FIRST_COLOR
        write_end_markers(canvases[n], top, left, new_height, new_width)


@compiled
def _decode(  # type: ignore[no-untyped-def]
    canvases, codes, color_maps, inverse_dihedral, cells, sizes
):
    old_colors = np.empty(NUM_COLORS, dtype=np.uint8)
    for n in range(len(canvases)):
        height, width = measure_grid(canvases[n])
        dihedral = inverse_dihedral[codes[n] // NUM_COLOR_MAPS]
        colors = color_maps[codes[n] % NUM_COLOR_MAPS]
        for color in range(NUM_COLORS):
            old_colors[colors[color]] = color
        old_height, old_width = _turned_size(dihedral, height, width)
        sizes[n, 0] = old_height
        sizes[n, 1] = old_width
        for row in range(old_height):
            for column in range(old_width):
                r, c = _source_cell(dihedral, row, column, height, width)
                cells[n, row * old_width + column] = old_colors[canvases[n, r, c] - FIRST_COLOR]
