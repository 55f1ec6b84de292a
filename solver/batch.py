"""A batch of examples on its device, and the slots' carry between supervision steps.

Shapes: B slots, S canvas cells, F features of a view.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from augment.dataset import NUM_VIEW_FEATURES, Examples, ExampleStream, view_features
from augment.tokens import PAD
from solver.engine import Engine
from solver.loss import IGNORED
from solver.model import TRM, State
from solver.settings import TrainSettings

_EXPLORATION = 1  # what this generator is for; sampling in augment.dataset has another number


class Batch(NamedTuple):
    """One entry for each slot; a slot takes its entry only when it has halted."""

    tokens_BS: Tensor
    labels_BS: Tensor
    rows_B: Tensor
    views_BF: Tensor
    min_steps_B: Tensor
    """Supervision steps required in this step before a halt logit counts (exploration)."""


class Carry(NamedTuple):
    """What the slots hold between steps: their example, state and count of steps."""

    state: State
    steps_B: Tensor
    halted_B: Tensor
    tokens_BS: Tensor
    labels_BS: Tensor
    rows_B: Tensor
    views_BF: Tensor


def make_batch(examples: Examples, min_steps: np.ndarray, device: torch.device) -> Batch:
    """Return the examples as tensors on ``device``; PAD labels become :data:`IGNORED`."""

    def move(array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(device, non_blocking=True)

    labels = move(examples.labels).long()
    return Batch(
        move(examples.inputs).long(),
        labels.masked_fill(labels == PAD, IGNORED),
        move(examples.rows),
        move(view_features(examples.codes)),
        move(min_steps),
    )


def draw_min_steps(settings: TrainSettings, max_supervision_steps: int, step: int) -> np.ndarray:
    """Return each global slot's minimum of steps (B,) in ``step``: mostly 0, else 2..max."""
    rng = np.random.default_rng([settings.seed, _EXPLORATION, step])
    explores = rng.random(settings.global_batch) < settings.halt_exploration
    minimum = rng.integers(2, max(2, max_supervision_steps), settings.global_batch, endpoint=True)
    return np.where(explores, minimum, 0)


def batches(
    stream: ExampleStream,
    settings: TrainSettings,
    max_supervision_steps: int,
    engine: Engine,
    first_step: int,
) -> Iterator[Batch]:
    """Yield this process' share of the batch of every step from ``first_step`` on, counted from 0.

    The next batch is made in a thread while the present one is used.
    """
    share = engine.world.share(settings.global_batch)

    def make(step: int) -> Batch:
        start = step * settings.global_batch
        examples = stream.examples(start + share.start, start + share.stop)
        return make_batch(
            examples, draw_min_steps(settings, max_supervision_steps, step)[share], engine.device
        )

    with ThreadPoolExecutor(max_workers=1) as thread:
        upcoming = thread.submit(make, first_step)
        for step in range(first_step + 1, settings.num_steps + 1):
            batch = upcoming.result()
            upcoming = thread.submit(make, step)
            yield batch


def start_carry(model: TRM, batch: int, engine: Engine) -> Carry:
    """Return the carry of a run's beginning: every slot has halted and waits for an example."""
    cells = model.settings.canvas_side**2
    zeros = partial(torch.zeros, dtype=torch.long, device=engine.device)
    return Carry(
        model.start(batch, engine.dtype),
        steps_B=zeros(batch),
        halted_B=torch.ones(batch, dtype=torch.bool, device=engine.device),
        tokens_BS=zeros(batch, cells),
        labels_BS=zeros(batch, cells),
        rows_B=zeros(batch),
        views_BF=zeros(batch, NUM_VIEW_FEATURES),
    )


def refill(carry: Carry, batch: Batch, model: TRM) -> Carry:
    """Return the carry in which halted slots took their entry of the batch and a fresh state."""
    halted = carry.halted_B
    fresh = model.start(len(halted), carry.state.y.dtype)
    return Carry(
        State(*(
            torch.where(halted[:, None, None], new, old)
            for new, old in zip(fresh, carry.state, strict=True)
        )),
        steps_B=carry.steps_B.masked_fill(halted, 0),
        halted_B=halted,
        tokens_BS=torch.where(halted[:, None], batch.tokens_BS, carry.tokens_BS),
        labels_BS=torch.where(halted[:, None], batch.labels_BS, carry.labels_BS),
        rows_B=torch.where(halted, batch.rows_B, carry.rows_B),
        views_BF=torch.where(halted[:, None], batch.views_BF, carry.views_BF),
    )  # fmt: skip
