"""Packing: examples of different lengths laid end to end, so that one pass computes no padding.

Shapes: N positions of a pass, G examples in it, E = G + 2 bounds, P prefix tokens, S cells of the
canvas, F features of a view, C cells of a position, M = N C cells of a pass, V tokens.
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
    cells_NC: NDArray[np.int64]
    """The position's cells on the flat canvas; -1 at the prefix."""
    num_positions: int
    """The positions before the padding."""
    longest: int
    """The positions of the longest sequence."""

    sources_NC: Tensor
    """The embeddings that each position is the sum of: of its cells' tokens, V c + token for cell
    c; or V C + g P + p for prefix token p of the pass' example g, and V C + G P for nothing."""
    positions_N: Tensor
    """The position among the prefix and the whole canvas, which the rotary tables count."""
    owners_N: Tensor
    """Which of the pass' examples the position belongs to; G for padding."""
    bounds_E: Tensor
    """cu_seqlens: sequence g is ``bounds_E[g]`` to ``bounds_E[g + 1]``; the last is the padding."""
    views_GF: Tensor
    """The ten features of each view (``augment.examples.view_features``)."""
    labels_M: Tensor
    """The labels of the cells of all positions, end to end; IGNORED where nothing is learned."""
    neighbors_9N: Tensor
    """Where each position's neighbors on the canvas lie, row by row, itself the fifth; N for those
    beyond the box. Empty, (0,), for a model without convolution."""


def boxes_for(settings: ModelSettings, boxes: Boxes) -> Boxes:
    """Return the boxes that a model computes: these, or the whole canvas for each.

    They are made larger where they would cut a position's square of cells.
    """
    if settings.canvas == "full":
        return full_boxes(len(boxes), settings.canvas_side)
    side, starts, ends = settings.patch, boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    starts, ends = starts // side * side, -(-ends // side) * side
    return np.hstack([starts, ends - starts])


def lengths_of(boxes: Boxes, settings: ModelSettings) -> NDArray[np.int64]:
    """Return the positions of examples: those of the prefix, and the cells of their boxes."""
    areas = boxes[:, 2] * boxes[:, 3] // settings.cells_per_position
    lengths: NDArray[np.int64] = settings.prefix_length + areas
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
    num_prefix, side = settings.prefix_length, settings.patches_per_side
    num_cells = settings.cells_per_position
    boxes = examples.boxes[members]
    patch_boxes = boxes // settings.patch
    top, left, _, width = patch_boxes.T
    lengths = lengths_of(boxes, settings)
    ends = np.cumsum(lengths)
    starts, num_positions = ends - lengths, int(ends[-1])
    owners_N = np.repeat(np.arange(len(members)), lengths)
    offsets_N = np.arange(num_positions) - starts[owners_N]
    row, column = np.divmod(offsets_N - num_prefix, width[owners_N])
    places_N = (top[owners_N] + row) * side + left[owners_N] + column
    # The prefix comes before the canvas: place -1 is its last token.
    places_N = np.where(offsets_N < num_prefix, offsets_N - num_prefix, places_N)
    examples_N, padded = members[owners_N], num_positions
    if settings.variant == "attention":  # an MLP has one fixed length, and wants no other sequence
        padded = -(-num_positions // _POSITIONS_STEP) * _POSITIONS_STEP
    padding = (0, padded - num_positions)
    examples_N = np.pad(examples_N, padding, constant_values=members[0])
    offsets_N, places_N = np.pad(offsets_N, padding), np.pad(places_N, padding, constant_values=-1)

    on_canvas = places_N >= 0
    cells_NC = np.full((padded, num_cells), -1)
    cells_NC[on_canvas] = _cells_of_patches(places_N[on_canvas], settings)
    at = (examples_N[on_canvas, None], cells_NC[on_canvas])
    # A cell's token is embedded by its place in the square.
    first_C = NUM_TOKENS * np.arange(num_cells)
    prefix_N = NUM_TOKENS * num_cells + owners_N * num_prefix + offsets_N[:num_positions]
    nothing = NUM_TOKENS * num_cells + len(members) * num_prefix
    sources_NC = np.broadcast_to(PAD + first_C, (padded, num_cells)).astype(np.int32)
    sources_NC[:num_positions, 1:] = nothing
    sources_NC[:num_positions, 0] = prefix_N
    sources_NC[on_canvas] = examples.inputs[at] + first_C
    labels_NC = np.full((padded, num_cells), IGNORED, dtype=np.int32)
    labels = examples.labels[at].astype(np.int32)
    labels_NC[on_canvas] = np.where(labels == PAD, IGNORED, labels)
    bounds_E = np.concatenate([starts, [num_positions, padded]])
    owners_N = np.pad(owners_N, padding, constant_values=len(members))
    views_GF = view_features(examples.codes[members])
    positions_N = num_prefix + places_N
    neighbors_9N = np.empty(0, dtype=np.int64)
    if settings.convolution:
        neighbors_9N = _find_neighbors(patch_boxes, starts + num_prefix, padded)
    arrays = (
        sources_NC, positions_N, owners_N, bounds_E, views_GF, labels_NC.ravel(), neighbors_9N,
    )  # fmt: skip
    longest = int(max(lengths.max(), padding[1]))
    return Packed(
        members, examples_N, offsets_N, cells_NC, num_positions, longest, *upload(arrays, device)
    )


def _cells_of_patches(places_N: NDArray[np.int64], settings: ModelSettings) -> NDArray[np.int64]:
    """Return the cells (N, C), on the flat canvas, of the squares at these places, row by row."""
    within = np.arange(settings.patch)
    row, column = np.divmod(places_N, settings.patches_per_side)
    rows = settings.patch * row[:, None, None] + within[:, None]
    columns = settings.patch * column[:, None, None] + within
    return (rows * settings.canvas_side + columns).reshape(len(places_N), -1)


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
