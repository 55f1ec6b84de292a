"""Tokens: how a grid is written onto a canvas and read back from one.

Source: the TRM reference's ARC encoding. A canvas is a height x width array of tokens; a grid lies
on it at an offset, with end markers directly below its last row and right of its last column.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from augment.grid import Grid

PAD = 0
END = 1
FIRST_COLOR = 2
NUM_TOKENS = 12

Canvas = NDArray[np.uint8]
"""Height x width tokens."""


@njit(cache=True, nogil=True)
def write_end_markers(canvas: Canvas, top: int, left: int, height: int, width: int) -> None:
    """Mark the row below and the column right of the rectangle, as far as the canvas reaches."""
    if top + height < canvas.shape[0]:
        canvas[top + height, left : left + width] = END
    if left + width < canvas.shape[1]:
        canvas[top : top + height, left + width] = END


@njit(cache=True, nogil=True)
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


def encode_grid(grid: Grid, canvas_side: int, offset: tuple[int, int] = (0, 0)) -> Canvas:
    """Return a square canvas with the grid at ``offset``; it must fit."""
    height, width = grid.shape
    top, left = offset
    if top + height > canvas_side or left + width > canvas_side:
        raise ValueError(f"a {height}x{width} grid at {offset} leaves the {canvas_side} canvas")
    canvas = np.full((canvas_side, canvas_side), PAD, dtype=np.uint8)
    canvas[top : top + height, left : left + width] = grid + FIRST_COLOR
    write_end_markers(canvas, top, left, height, width)
    return canvas


def decode_grid(canvas: Canvas) -> Grid | None:
    """Return the grid that starts at the top left of the canvas, None when there is none."""
    height, width = measure_grid(canvas)
    if height == 0:
        return None
    return np.ascontiguousarray(canvas[:height, :width] - FIRST_COLOR)
