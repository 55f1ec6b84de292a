"""Groups: examples that are computed together, one after another.

Shapes: N positions of all examples, B examples, L positions of the longest, P prefix slots, S cells
of the canvas, F features of a view.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from augment.boxes import Boxes, full_boxes
from augment.dataset import view_features
from augment.tokens import PAD
from augment.view import ViewCodes
from solver.attention import Sequences
from solver.device import to_device
from solver.layers import Places
from solver.loss import IGNORED
from solver.model import TRM
from solver.settings import ModelSettings

# Masked attention on GPUs wants lengths that are multiples of this.
_LENGTH_STEP = 8
# Groups of mixed lengths end with idle positions up to a multiple of this: a CPU's matrix library
# compiles its products for every new number of rows, which takes longer than the products.
_POSITIONS_STEP = 64


class Group(NamedTuple):
    """What is computed together: which examples and cells on the host, the rest on the device.

    Idle positions may follow those of the examples; nothing is read from them.
    """

    members: NDArray[np.int64]
    """The numbers of its examples among all."""
    examples_N: NDArray[np.int64]
    """The example that each position belongs to."""
    offsets_N: NDArray[np.int64]
    """The position within its example."""
    cells_N: NDArray[np.int64]
    """The position's cell on the flat canvas; below 0 at the prefix."""
    tokens_N: Tensor
    prefix_BP: Tensor
    views_BF: Tensor
    sequences: Sequences
    places: Places | None

    @property
    def num_positions(self) -> int:
        """The positions that are not idle."""
        return int(self.sequences.starts_E[-1])

    def read(self, canvases: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return what the canvases (., S) of all examples hold at the positions, PAD before."""
        return _read(canvases, self.examples_N, self.cells_N)


def boxes_for(settings: ModelSettings, boxes: Boxes) -> Boxes:
    """Return the boxes that a model computes: these, or the whole canvas for each."""
    if settings.canvas == "box":
        return boxes
    return full_boxes(len(boxes), settings.canvas_side)


def lengths_of(boxes: Boxes, settings: ModelSettings) -> NDArray[np.int64]:
    """Return the positions that an example takes: the prefix and the cells of its box."""
    lengths: NDArray[np.int64] = settings.prefix_length + boxes[:, 2] * boxes[:, 3]
    return lengths


def plan_groups(lengths: NDArray[np.int64], tokens_per_pass: int) -> list[NDArray[np.int64]]:
    """Return the members of groups of about ``tokens_per_pass`` positions, the longest first.

    A group is larger by less than one example, and never empty.
    """
    order = np.argsort(-lengths, kind="stable")
    starts = np.cumsum(lengths[order]) - lengths[order]
    num_groups = -(-lengths.sum() // tokens_per_pass)
    numbers = starts * num_groups // lengths.sum()
    return np.split(order, np.flatnonzero(np.diff(numbers)) + 1)


def make_group(
    model: TRM,
    device: torch.device,
    members: NDArray[np.int64],
    tokens: NDArray[np.uint8],
    codes: ViewCodes,
    boxes: Boxes,
) -> Group:
    """Return the group of ``members`` of all examples: tokens (., S), view codes and boxes."""
    num_prefix, side = model.settings.prefix_length, model.settings.canvas_side
    top, left, _, width = boxes[members].T
    lengths = lengths_of(boxes[members], model.settings)
    ends = np.cumsum(lengths)
    starts, num_positions = ends - lengths, int(ends[-1])
    owners_N = np.repeat(np.arange(len(members)), lengths)
    offsets_N = np.arange(num_positions) - starts[owners_N]
    row, column = np.divmod(offsets_N - num_prefix, width[owners_N])
    cells_N = (top[owners_N] + row) * side + left[owners_N] + column
    # The prefix comes before the canvas: cell -1 is its last slot.
    cells_N = np.where(offsets_N < num_prefix, offsets_N - num_prefix, cells_N)

    longest, real_BL = int(lengths.max()), None
    if (lengths < longest).any():
        longest = _round_up(longest, _LENGTH_STEP)
        real_BL = to_device(np.arange(longest) < lengths[:, None], device)
        idle = (0, _round_up(num_positions, _POSITIONS_STEP) - num_positions)
        owners_N, offsets_N = np.pad(owners_N, idle), np.pad(offsets_N, idle)
        cells_N = np.pad(cells_N, idle, constant_values=-1)
    place = np.arange(longest)
    pad_BL = np.where(place < lengths[:, None], starts[:, None] + place, 0)
    examples_N = members[owners_N]
    sequences = Sequences(
        torch.from_numpy(np.append(starts, num_positions)),
        to_device(pad_BL, device),
        real_BL,
        to_device(owners_N * longest + offsets_N, device),
    )
    return Group(
        members,
        examples_N,
        offsets_N,
        cells_N,
        to_device(_read(tokens, examples_N, cells_N), device).long(),
        to_device(starts[:, None] + np.arange(num_prefix), device),
        to_device(view_features(codes[members]), device),
        sequences,
        model.places(
            to_device(num_prefix + cells_N, device), to_device(offsets_N, device), sequences
        ),
    )


def group_labels(group: Group, labels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return the labels (B, L) of the positions; :data:`IGNORED` where nothing is learned."""
    labels_N = to_device(group.read(labels), device).long()
    return labels_N.masked_fill(labels_N == PAD, IGNORED)[group.sequences.pad_BL]


def _read(
    canvases: NDArray[np.uint8], examples_N: NDArray[np.int64], cells_N: NDArray[np.int64]
) -> NDArray[np.uint8]:
    return np.where(cells_N < 0, np.uint8(PAD), canvases[examples_N, np.maximum(cells_N, 0)])


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step
