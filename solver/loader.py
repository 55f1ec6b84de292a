"""The loader: a batch of examples for every step, made while the step before is computed.

Shapes: B lanes of this process.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from augment.examples import Examples, Stream
from solver.packing import boxes_for
from solver.process_group import ProcessGroup
from solver.settings import ModelSettings, TrainSettings

# Part of the seed of this random generator; others, such as augment.examples', have other numbers.
_EXPLORATION = 1


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One example for each lane, which takes it only if it has halted."""

    examples: Examples
    min_steps_B: NDArray[np.int64]
    """Supervision steps that a lane must have taken before its halt logit counts (exploration)."""


def draw_min_steps(
    settings: TrainSettings, max_supervision_steps: int, step: int
) -> NDArray[np.int64]:
    """Return the minimum of supervision steps of each lane of all processes: mostly 0, or 2..max.

    Shape (global_batch,).
    """
    rng = np.random.default_rng([settings.seed, _EXPLORATION, step])
    explores = rng.random(settings.global_batch) < settings.halt_exploration
    minimum = rng.integers(2, max(2, max_supervision_steps), settings.global_batch, endpoint=True)
    return np.where(explores, minimum, 0)


def batches(
    stream: Stream,
    settings: TrainSettings,
    model: ModelSettings,
    group: ProcessGroup,
    first_step: int,
) -> Iterator[Batch]:
    """Yield this process' share of the batch of every step from ``first_step`` on, from 0.

    A thread makes the next batch while the present one is used.
    """
    share = group.share(settings.global_batch)

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
