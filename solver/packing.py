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
from augment.compiled import compiled
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
    """The example of each position, counted among all; at padding that of the first member."""
    offsets_N: NDArray[np.int64]
    """The position within its example; 0 at padding."""
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


def plan_passes(lengths: NDArray[np.int64], positions_per_pass: int) -> list[NDArray[np.int64]]:
    """Return the members of passes of about ``positions_per_pass`` positions, the longest first.

    A pass is larger by less than one example, and never empty.
    """
    order = np.argsort(-lengths, kind="stable")
    starts = np.cumsum(lengths[order]) - lengths[order]
    num_passes = -(-lengths.sum() // positions_per_pass)
    numbers = starts * num_passes // lengths.sum()
    return np.split(order, np.flatnonzero(np.diff(numbers)) + 1)


def pack(
    settings: ModelSettings,
    device: torch.device,
    examples: Examples,
    members: NDArray[np.int64],
) -> Packed:
    """Return the ``members`` (G,) of the examples packed, in the boxes that these have."""
    num_cells = settings.cells_per_position
    boxes = examples.boxes[members]
    lengths = lengths_of(boxes, settings)
    ends = np.cumsum(lengths)
    starts, num_positions = ends - lengths, int(ends[-1])
    padded = num_positions
    if settings.variant == "attention":  # an MLP has one fixed length, and wants no other sequence
        padded = -(-num_positions // _POSITIONS_STEP) * _POSITIONS_STEP
    examples_N = np.full(padded, members[0])
    offsets_N = np.zeros(padded, dtype=np.int64)
    cells_NC = np.full((padded, num_cells), -1)
    # Where no example writes there is padding: a blank position that nobody owns.
    blank = PAD + NUM_TOKENS * np.arange(num_cells, dtype=np.int32)
    sources_NC = np.broadcast_to(blank, (padded, num_cells)).copy()
    positions_N = np.full(padded, max(0, settings.prefix_length - 1), dtype=np.int32)
    owners_N = np.full(padded, len(members), dtype=np.int32)
    labels_NC = np.full((padded, num_cells), IGNORED, dtype=np.int32)
    shape = (9, padded) if settings.convolution else (0, padded)
    neighbors_9N = np.full(shape, padded, dtype=np.int32)
    neighbors_9N[4:5] = np.arange(padded)
    _lay_end_to_end(
        NUM_TOKENS, PAD, settings.prefix_length, settings.patch, settings.patches_per_side,
        members, boxes, starts, examples.inputs, examples.labels, examples_N, offsets_N, cells_NC,
        sources_NC, positions_N, owners_N, labels_NC, neighbors_9N,
    )  # fmt: skip
    bounds_E = np.concatenate([starts, [num_positions, padded]])
    views_GF = view_features(examples.codes[members])
    neighbors = neighbors_9N if settings.convolution else neighbors_9N.ravel()
    arrays = (
        sources_NC, positions_N, owners_N, bounds_E, views_GF, labels_NC.ravel(), neighbors,
    )  # fmt: skip
    longest = int(max(lengths.max(), padded - num_positions))
    return Packed(
        members, examples_N, offsets_N, cells_NC, num_positions, longest, *upload(arrays, device)
    )


@compiled
def _lay_end_to_end(  # type: ignore[no-untyped-def]
    num_tokens, pad, num_prefix, patch, side, members, boxes, starts, inputs, labels, examples_N,
    offsets_N, cells_NC, sources_NC, positions_N, owners_N, labels_NC, neighbors_9N,
):  # fmt: skip
    """Fill the last eight arrays where positions belong to an example; see :class:`Packed`.

    Tokens are given too: numba's stored results would not notice a change elsewhere.
    """
    num_cells = sources_NC.shape[1]
    first_prefix = num_tokens * num_cells
    nothing = first_prefix + len(members) * num_prefix
    for g in range(len(members)):
        example, first = members[g], starts[g]
        top, left = boxes[g, 0] // patch, boxes[g, 1] // patch
        height, width = boxes[g, 2] // patch, boxes[g, 3] // patch
        for n in range(first, first + num_prefix + height * width):
            examples_N[n], offsets_N[n], owners_N[n] = example, n - first, g
        for p in range(num_prefix):
            positions_N[first + p] = p
            sources_NC[first + p, :] = nothing
            sources_NC[first + p, 0] = first_prefix + g * num_prefix + p
        for row in range(height):
            for column in range(width):
                n = first + num_prefix + row * width + column
                positions_N[n] = num_prefix + (top + row) * side + left + column
                for c in range(num_cells):
                    cell = ((top + row) * patch + c // patch) * side * patch
                    cell += (left + column) * patch + c % patch
                    cells_NC[n, c] = cell
                    sources_NC[n, c] = inputs[example, cell] + num_tokens * c
                    if labels[example, cell] != pad:
                        labels_NC[n, c] = labels[example, cell]
                for k in range(len(neighbors_9N)):
                    other_row, other_column = row + k // 3 - 1, column + k % 3 - 1
                    if 0 <= other_row < height and 0 <= other_column < width:
                        neighbors_9N[k, n] = n + (k // 3 - 1) * width + k % 3 - 1


def write_cells(packed: Packed, values_M: NDArray[np.uint8], canvases: NDArray[np.uint8]) -> None:
    """Write what the cells of a pass hold onto the canvases (examples, S) of all examples."""
    on_canvas = packed.cells_NC >= 0
    examples_NC = np.broadcast_to(packed.examples_N[:, None], on_canvas.shape)
    at = (examples_NC[on_canvas], packed.cells_NC[on_canvas])
    canvases[at] = values_M.reshape(on_canvas.shape)[on_canvas]


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
