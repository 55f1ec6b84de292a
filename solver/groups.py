"""Groups: examples of similar length that are computed together, filled up to the longest.

Shapes: N examples, B examples of a group, P prefix slots, C cells of its largest box, L = P + C
positions, S cells of the canvas, F features of a view.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from augment.boxes import Boxes, cells_of, full_boxes
from augment.dataset import view_features
from augment.tokens import PAD
from augment.view import ViewCodes
from solver.device import to_device
from solver.layers import Places
from solver.loss import IGNORED
from solver.model import TRM
from solver.settings import ModelSettings

# Lengths are multiples of this many positions, for matrix units and masked attention on GPUs.
_LENGTH_STEP = 8
# Groups end where examples get shorter than this share of the longest, once they fill that share
# of a pass: 7 % of the positions fill up groups of a batch of 64 ARC-1 pairs, instead of 23 %.
_SIMILAR = 0.9
_SMALLEST_SHARE = 1 / 16


class Group(NamedTuple):
    """What is computed together: which examples and cells on the host, the rest on the device."""

    members: NDArray[np.int64]
    """The numbers of its examples among all."""
    cells_BC: NDArray[np.int64]
    """The cells' numbers on the flat canvas; 0 at what fills an example up."""
    real_BC: NDArray[np.bool_]
    tokens_BC: Tensor
    views_BF: Tensor
    places: Places | None


def boxes_for(settings: ModelSettings, boxes: Boxes) -> Boxes:
    """Return the boxes that a model computes: these, or the whole canvas for each."""
    if settings.canvas == "box":
        return boxes
    return full_boxes(len(boxes), settings.canvas_side)


def plan_groups(lengths: NDArray[np.int64], tokens_per_pass: int) -> Iterator[NDArray[np.int64]]:
    """Yield the members of groups of at most ``tokens_per_pass`` positions, the longest first.

    A group ends early where the next example is much shorter, so that few positions are filled
    up. No group is a lone example that could have company, because compiled code treats one
    apart; a group may be one example larger for that.
    """
    order = np.argsort(-lengths, kind="stable")
    starts = [0]
    for number in range(1, len(order)):
        size = number - starts[-1]
        longest = _round_up(lengths[order[starts[-1]]])
        is_full = (size + 1) * longest > tokens_per_pass
        is_enough = size > 1 and size * longest >= _SMALLEST_SHARE * tokens_per_pass
        if is_full or (is_enough and lengths[order[number]] < _SIMILAR * longest):
            starts.append(number)
    starts.append(len(order))
    if len(starts) > 2 and starts[-1] - starts[-2] == 1 < starts[-2] - starts[-3]:
        starts.pop(-2)
    for start, stop in pairwise(starts):
        yield order[start:stop]


def make_group(
    model: TRM,
    device: torch.device,
    members: NDArray[np.int64],
    tokens: NDArray[np.uint8],
    codes: ViewCodes,
    boxes: Boxes,
) -> Group:
    """Return the group of ``members`` of N examples: tokens (N, S), view codes and boxes."""
    settings = model.settings
    cells, real = cells_of(boxes[members], settings.canvas_side)
    if settings.canvas == "box":
        length = settings.prefix_length + cells.shape[1]
        fill = ((0, 0), (0, _round_up(length) - length))
        cells, real = np.pad(cells, fill), np.pad(real, fill)
    tokens_BC = to_device(np.take_along_axis(tokens[members], cells, axis=1), device).long()
    views_BF = to_device(view_features(codes[members]), device)
    places = model.places(to_device(cells, device), to_device(real, device))
    return Group(members, cells, real, tokens_BC, views_BF, places)


def group_labels(group: Group, labels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return the labels (B, C) of the group's cells; :data:`IGNORED` where nothing is learned."""
    chosen = np.take_along_axis(labels[group.members], group.cells_BC, axis=1)
    labels_BC = to_device(np.where(group.real_BC, chosen, PAD), device).long()
    return labels_BC.masked_fill(labels_BC == PAD, IGNORED)


def _round_up(length: int) -> int:
    return -(-length // _LENGTH_STEP) * _LENGTH_STEP
