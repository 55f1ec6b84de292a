"""The carry: what the lanes of a batch keep from one supervision step to the next.

A lane works on one example until it halts, and then takes the next one.

Shapes: B lanes, A positions of all lanes end to end, N positions of a packed batch, D width.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from augment.examples import Examples
from solver.loader import Batch
from solver.model import Model, State
from solver.packing import Packed, lengths_of, upload


@dataclass(frozen=True, slots=True, eq=False)
class Carry:
    """What the lanes hold between steps: example, number of steps, and the state on the device."""

    examples: Examples
    steps_B: NDArray[np.int64]
    halted_B: NDArray[np.bool_]
    state: State
    """The tensors (A, D) of all lanes, end to end."""


def start_carry(model: Model, num_lanes: int, device: torch.device, dtype: torch.dtype) -> Carry:
    """Return the carry before a run's first step: every lane has halted and has no example."""
    tokens = np.zeros((num_lanes, model.settings.canvas_side**2), dtype=np.uint8)
    zeros = np.zeros(num_lanes, dtype=np.int64)
    blank = Examples(
        tokens, tokens, zeros, zeros.astype(np.uint32), np.zeros((num_lanes, 4), dtype=np.int64)
    )
    shape = (int(lengths_of(blank.boxes, model.settings).sum()), model.settings.dim)
    blank_AD = torch.zeros(shape, dtype=dtype, device=device)
    state = (blank_AD,) * len(model.STATES)
    return Carry(blank, zeros, np.ones(num_lanes, dtype=bool), state)


def refill(carry: Carry, batch: Batch) -> Examples:
    """Return the examples of the lanes after halted ones took theirs from the batch."""
    return Examples(*(
        np.where(carry.halted_B.reshape(-1, *[1] * (new.ndim - 1)), new, old)
        for new, old in zip(
            batch.examples.columns.values(), carry.examples.columns.values(), strict=True
        )
    ))  # fmt: skip


def gather_state(carry: Carry, model: Model, packed: Packed) -> State:
    """Return the state (N, D) for a packed batch of lanes; the start where a lane has halted."""
    device, dtype = carry.state[0].device, carry.state[0].dtype
    if carry.halted_B.all():
        return model.start(len(packed.examples_N), dtype)
    is_fresh_N = carry.halted_B[packed.examples_N]
    starts_B = _starts(lengths_of(carry.examples.boxes, model.settings))
    sources_N = np.where(is_fresh_N, -1, starts_B[packed.examples_N] + packed.offsets_N)
    (at_N,) = upload((sources_N,), device)
    fresh_N1, at_N = (at_N < 0)[:, None], at_N.clamp(min=0)
    fresh = model.start(len(at_N), dtype)
    return tuple(
        torch.where(fresh_N1, new, old[at_N]) for new, old in zip(fresh, carry.state, strict=True)
    )


class StateWriter:
    """Collects the states of packed batches in the order of the lanes."""

    def __init__(self, lengths_B: NDArray[np.int64], like: State):
        """Allocate the states of lanes with these lengths, in the dtype and place of ``like``."""
        self._starts_B = _starts(lengths_B)
        self.state = tuple(t.new_empty(int(lengths_B.sum()), t.shape[-1]) for t in like)
        """The state (A, D) of all lanes, once all are written."""

    def write(self, packed: Packed, state: State) -> None:
        """Write the state (N, D) of a packed batch."""
        real = slice(packed.num_positions)
        targets = self._starts_B[packed.examples_N[real]] + packed.offsets_N[real]
        (at,) = upload((targets,), state[0].device)
        for all_AD, part_ND in zip(self.state, state, strict=True):
            all_AD.index_copy_(0, at.long(), part_ND[real])


def _starts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.cumsum(lengths) - lengths
