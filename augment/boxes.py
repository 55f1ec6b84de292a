"""Boxes: which cells of the canvas are computed.

A box is the smallest rectangle of the canvas that holds both grids of a pair, which start at its
top left corner, and their end markers. Grids fill a fifth of an ARC canvas on average; nothing
outside their box says anything. Of a test only the input is known, so its box comes from the
output size that the demonstrations give away, and is the whole canvas where they give none.

Boxes are (N, 4) int64: top, left, height, width.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from augment.sizes import infer_output_size
from augment.task import Task, positions_of_tests
from augment.tokens import measure_grids, turn_sizes
from augment.view import ViewCodes

Boxes = NDArray[np.int64]


def full_boxes(count: int, canvas_side: int) -> Boxes:
    """Return ``count`` boxes that are the whole canvas."""
    return np.tile(np.array([0, 0, canvas_side, canvas_side]), (count, 1))


def boxes_around(sizes: NDArray[np.int64], offsets: NDArray[np.int64], canvas_side: int) -> Boxes:
    """Return the boxes of grids of ``sizes`` (N, 2) at ``offsets`` (N, 2), end markers included."""
    return np.hstack([offsets, np.minimum(sizes + 1, canvas_side - offsets)])


def infer_test_boxes(
    tasks: Sequence[Task],
    task_numbers: NDArray[np.int64],
    test_numbers: NDArray[np.int64],
    codes: ViewCodes,
    canvas_side: int,
) -> Boxes:
    """Return the boxes (N, 4) of tests under their views, from what a solver may see."""
    sizes = []
    for task in tasks:
        for test, grid in enumerate(task.test_inputs):
            output = infer_output_size(task, test) or (canvas_side, canvas_side)
            sizes.append(np.maximum(grid.shape, output))
    chosen = np.array(sizes, dtype=np.int64)[positions_of_tests(tasks, task_numbers, test_numbers)]
    offsets = np.zeros((len(codes), 2), dtype=np.int64)
    turned = np.minimum(turn_sizes(chosen, codes), canvas_side)
    return boxes_around(turned, offsets, canvas_side)


def reaches_border(canvases: NDArray[np.uint8], boxes: Boxes) -> NDArray[np.bool_]:
    """Return whether the grid at the top left of each canvas (N, H, W) reaches its box' border.

    There the end markers should be, so the grid may go on beyond; a canvas' own border does not
    count.
    """
    sizes = measure_grids(canvases)
    ends = boxes[:, :2] + boxes[:, 2:]
    reached = (sizes >= ends) & (ends < canvases.shape[1:])
    return np.asarray(reached.any(axis=1))
