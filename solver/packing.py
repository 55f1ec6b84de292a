"""Packing: examples of different lengths laid end to end, so that one pass computes no padding.

Shapes: N positions of a pass, G examples in it, E = G + 2 bounds, P prefix tokens, S cells of the
canvas, F features of a view.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from augment.boxes import Boxes, full_boxes
from augment.examples import Examples, view_features
from augment.tokens import NUM_TOKENS, PAD
from solver.device import to_device
from solver.loss import IGNORED
from solver.settings import ModelSettings

# Positions of a pass are a multiple of this: a CPU's matrix library compiles its products for every
# new number of rows, which takes longer than the products, and GPUs want even tiles.
_POSITIONS_STEP = 64
# Bytes at which each array of an upload begins: compiled kernels read 16 bytes at a time.
_ALIGNMENT = 16


class Packed(NamedTuple):
    """The examples of one pass, end to end; what pads the end is a sequence of its own.

    The first part lies on the host, the second on the device. Nothing is read from the padding,
    but it is computed as any other sequence, so that all its values are finite.
    """

    members: NDArray[np.int64]
    """The numbers (G,) of its examples among all."""
    examples_N: NDArray[np.int64]
    """The number of the example that each position belongs to."""
    offsets_N: NDArray[np.int64]
    """The position within its example."""
    cells_N: NDArray[np.int64]
    """The position's cell on the flat canvas; below 0 at the prefix."""
    num_positions: int
    """The positions before the padding."""
    longest: int
    """The positions of the longest sequence."""

    sources_N: Tensor
    """The embedding that each position takes: of its token, or NUM_TOKENS + g P + p for prefix
    token p of the pass' example g."""
    positions_N: Tensor
    """The position among the prefix and the whole canvas, which the rotary tables count."""
    owners_N: Tensor
    """Which of the pass' examples the position belongs to; G for padding."""
    bounds_E: Tensor
    """cu_seqlens: sequence g is ``bounds_E[g]`` to ``bounds_E[g + 1]``; the last is the padding."""
    views_GF: Tensor
    """The ten features of each view (``augment.examples.view_features``)."""
    labels_N: Tensor
    """The label of each position; IGNORED where nothing is learned."""
    neighbors_9N: Tensor
    """Where each position's neighbors on the canvas lie, row by row, itself the fifth; N for those
    beyond the box. Empty, (0,), for a model without convolution."""


def boxes_for(settings: ModelSettings, boxes: Boxes) -> Boxes:
    """Return the boxes that a model computes: these, or the whole canvas for each."""
    if settings.canvas == "box":
        return boxes
    return full_boxes(len(boxes), settings.canvas_side)


def lengths_of(boxes: Boxes, settings: ModelSettings) -> NDArray[np.int64]:
    """Return the positions that an example takes: the prefix and the cells of its box."""
    lengths: NDArray[np.int64] = settings.prefix_length + boxes[:, 2] * boxes[:, 3]
    return lengths


def plan_passes(lengths: NDArray[np.int64], tokens_per_pass: int) -> list[NDArray[np.int64]]:
    """Return the members of passes of about ``tokens_per_pass`` positions, the longest first.

    A pass is larger by less than one example, and never empty.
    """
    order = np.argsort(-lengths, kind="stable")
    starts = np.cumsum(lengths[order]) - lengths[order]
    num_passes = -(-lengths.sum() // tokens_per_pass)
    numbers = starts * num_passes // lengths.sum()
    return np.split(order, np.flatnonzero(np.diff(numbers)) + 1)


def pack(
    settings: ModelSettings,
    device: torch.device,
    examples: Examples,
    members: NDArray[np.int64],
) -> Packed:
    """Return the ``members`` (G,) of the examples packed, in the boxes that these have."""
    num_prefix, side = settings.prefix_length, settings.canvas_side
    boxes = examples.boxes[members]
    top, left, _, width = boxes.T
    lengths = lengths_of(boxes, settings)
    ends = np.cumsum(lengths)
    starts, num_positions = ends - lengths, int(ends[-1])
    owners_N = np.repeat(np.arange(len(members)), lengths)
    offsets_N = np.arange(num_positions) - starts[owners_N]
    row, column = np.divmod(offsets_N - num_prefix, width[owners_N])
    cells_N = (top[owners_N] + row) * side + left[owners_N] + column
    # The prefix comes before the canvas: cell -1 is its last token.
    cells_N = np.where(offsets_N < num_prefix, offsets_N - num_prefix, cells_N)
    examples_N, padded = members[owners_N], num_positions
    if settings.variant == "attention":  # an MLP has one fixed length, and wants no other sequence
        padded = -(-num_positions // _POSITIONS_STEP) * _POSITIONS_STEP
    padding = (0, padded - num_positions)
    examples_N = np.pad(examples_N, padding, constant_values=members[0])
    offsets_N, cells_N = np.pad(offsets_N, padding), np.pad(cells_N, padding, constant_values=-1)

    on_canvas = cells_N >= 0
    at = (examples_N[on_canvas], cells_N[on_canvas])
    sources_N = np.full(padded, PAD, dtype=np.int32)
    sources_N[:num_positions] = NUM_TOKENS + owners_N * num_prefix + offsets_N[:num_positions]
    sources_N[on_canvas] = examples.inputs[at]
    labels_N = np.full(padded, IGNORED, dtype=np.int32)
    labels = examples.labels[at].astype(np.int32)
    labels_N[on_canvas] = np.where(labels == PAD, IGNORED, labels)
    bounds_E = np.concatenate([starts, [num_positions, padded]])
    owners_N = np.pad(owners_N, padding, constant_values=len(members))
    views_GF = view_features(examples.codes[members])
    positions_N = num_prefix + cells_N
    neighbors_9N = np.empty(0, dtype=np.int64)
    if settings.convolution:
        neighbors_9N = _find_neighbors(boxes, starts + num_prefix, padded)
    arrays = (sources_N, positions_N, owners_N, bounds_E, views_GF, labels_N, neighbors_9N)
    longest = int(max(lengths.max(), padding[1]))
    return Packed(
        members, examples_N, offsets_N, cells_N, num_positions, longest, *upload(arrays, device)
    )


def _find_neighbors(
    boxes: Boxes, first_cells: NDArray[np.int64], num_positions: int
) -> NDArray[np.int64]:
    """Return (9, N) the neighbors of each position; ``first_cells`` (G,) begin the boxes' cells."""
    heights, widths = boxes[:, 2], boxes[:, 3]
    areas = heights * widths
    owners = np.repeat(np.arange(len(boxes)), areas)
    offsets = np.arange(areas.sum()) - np.repeat(np.cumsum(areas) - areas, areas)
    row, column = np.divmod(offsets, widths[owners])
    cells = first_cells[owners] + offsets
    neighbors_9N = np.full((9, num_positions), num_positions)
    neighbors_9N[4] = np.arange(num_positions)
    for k in range(9):
        down, right = k // 3 - 1, k % 3 - 1
        inside = (row + down >= 0) & (row + down < heights[owners])
        inside &= (column + right >= 0) & (column + right < widths[owners])
        neighbors_9N[k, cells[inside]] = (cells + down * widths[owners] + right)[inside]
    return neighbors_9N


def upload(arrays: Sequence[NDArray[np.integer]], device: torch.device) -> list[Tensor]:
    """Return integer arrays as int32 tensors of the same shapes on ``device``, sent in one copy."""
    step = _ALIGNMENT // np.dtype(np.int32).itemsize
    starts = np.cumsum([0, *(-(-array.size // step) * step for array in arrays)])
    together = np.empty(starts[-1], dtype=np.int32)
    for start, array in zip(starts, arrays, strict=False):
        together[start : start + array.size] = array.ravel()
    sent = to_device(together, device)
    return [
        sent[start : start + array.size].view(array.shape)
        for start, array in zip(starts, arrays, strict=False)
    ]
