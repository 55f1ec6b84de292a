"""Batches of examples, and the slots' carry between supervision steps.

Shapes: B slots, N positions of all slots one after another, D width.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from augment.dataset import Examples, ExampleStream
from solver.model import TRM, State
from solver.packing import Packed, boxes_for, lengths_of, upload
from solver.settings import ModelSettings, TrainSettings
from solver.world import World

_EXPLORATION = 1  # what this generator is for; sampling in augment.dataset has another number


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One entry for each slot; a slot takes its entry only when it has halted."""

    examples: Examples
    min_steps_B: NDArray[np.int64]
    """Supervision steps required in this step before a halt logit counts (exploration)."""


@dataclass(frozen=True, slots=True, eq=False)
class Carry:
    """What the slots hold between steps: example, count of steps, and the state on the device."""

    examples: Examples
    steps_B: NDArray[np.int64]
    halted_B: NDArray[np.bool_]
    state: State
    """y and z (N, D) of all slots' positions, one slot after another."""


def draw_min_steps(
    settings: TrainSettings, max_supervision_steps: int, step: int
) -> NDArray[np.int64]:
    """Return each global slot's minimum of steps (B,) in ``step``: mostly 0, else 2..max."""
    rng = np.random.default_rng([settings.seed, _EXPLORATION, step])
    explores = rng.random(settings.global_batch) < settings.halt_exploration
    minimum = rng.integers(2, max(2, max_supervision_steps), settings.global_batch, endpoint=True)
    return np.where(explores, minimum, 0)


def batches(
    stream: ExampleStream,
    settings: TrainSettings,
    model: ModelSettings,
    world: World,
    first_step: int,
) -> Iterator[Batch]:
    """Yield this process' share of the batch of every step from ``first_step`` on, counted from 0.

    The next batch is made in a thread while the present one is used.
    """
    share = world.share(settings.global_batch)

    def make(step: int) -> Batch:
        start = step * settings.global_batch
        examples = stream.examples(start + share.start, start + share.stop)
        examples.boxes[:] = boxes_for(model, examples.boxes)
        return Batch(examples, draw_min_steps(settings, model.max_supervision_steps, step)[share])

    with ThreadPoolExecutor(max_workers=1) as thread:
        ready = None
        for step in range(first_step, settings.num_steps):
            upcoming = thread.submit(make, step)
            if ready is not None:
                yield ready.result()
            ready = upcoming
        if ready is not None:
            yield ready.result()


def start_carry(model: TRM, num_slots: int, device: torch.device, dtype: torch.dtype) -> Carry:
    """Return the carry of a run's beginning: every slot has halted and waits for an example."""
    tokens = np.zeros((num_slots, model.settings.canvas_side**2), dtype=np.uint8)
    zeros = np.zeros(num_slots, dtype=np.int64)
    nothing = Examples(
        tokens, tokens, zeros, zeros.astype(np.uint32), np.zeros((num_slots, 4), dtype=np.int64)
    )
    shape = (int(lengths_of(nothing.boxes, model.settings).sum()), model.settings.dim)
    y_ND = torch.zeros(shape, dtype=dtype, device=device)
    return Carry(nothing, zeros, np.ones(num_slots, dtype=bool), State(y_ND, y_ND))


def refill(carry: Carry, batch: Batch) -> Examples:
    """Return the examples of the slots after those that halted took their entry of the batch."""
    return Examples(*(
        np.where(carry.halted_B.reshape(-1, *[1] * (new.ndim - 1)), new, old)
        for new, old in zip(
            batch.examples.columns.values(), carry.examples.columns.values(), strict=True
        )
    ))  # fmt: skip


def gather_state(carry: Carry, model: TRM, packed: Packed) -> State:
    """Return y and z (N, D) at the positions of a pass; fresh where a slot has halted."""
    device, dtype = carry.state.y.device, carry.state.y.dtype
    is_fresh_N = carry.halted_B[packed.examples_N]
    starts_B = _starts(lengths_of(carry.examples.boxes, model.settings))
    at = np.where(is_fresh_N, -1, starts_B[packed.examples_N] + packed.offsets_N)
    (at_N,) = upload((at,), device)
    fresh_N1, at_N = (at_N < 0)[:, None], at_N.clamp(min=0)
    fresh = model.start(len(at), dtype)
    return State(*(
        torch.where(fresh_N1, new, old[at_N]) for new, old in zip(fresh, carry.state, strict=True)
    ))  # fmt: skip


class StateWriter:
    """Collects the states of passes in the order of the slots."""

    def __init__(self, lengths_B: NDArray[np.int64], like: State):
        """Make room for slots of these lengths."""
        self._starts_B = _starts(lengths_B)
        self._state = State(*(t.new_empty(int(lengths_B.sum()), t.shape[-1]) for t in like))

    def write(self, packed: Packed, state: State) -> None:
        """Take the states y and z (N, D) of a pass."""
        real = slice(packed.num_positions)
        to = self._starts_B[packed.examples_N[real]] + packed.offsets_N[real]
        (at,) = upload((to,), state.y.device)
        for all_slots, part in zip(self._state, state, strict=True):
            all_slots.index_copy_(0, at.long(), part[real])

    def finish(self) -> State:
        """Return y and z of all slots."""
        return self._state


def _starts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.cumsum(lengths) - lengths
